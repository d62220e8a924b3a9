"""Hidden suite of the module debugging.

The code that a stub shows must pass no test. So where a mistake does no harm in some case, such as 0 steps, the same probe has
another case in which it does.
"""

import gc
import itertools
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64


# Helpers for probes


def with_values(model):
    """The model itself. Raises: RuntimeError if it is lazy, and has parameters that are nothing yet."""
    for name, p in model.named_parameters():
        if nn.parameter.is_lazy(p):
            raise RuntimeError(f"the parameter {name} has no values yet")
    return model


def filled(model, seed):
    """The model in float64, with parameters that the seed decides, in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, p in sorted(with_values(model).double().named_parameters()):
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64) / (p.shape[-1] + 1) ** 0.5)
    return model


def mlp(seed, *sizes, last=()):
    """Linear layers of these sizes with tanh between them, and then the layers `last`."""
    layers = []
    for inside, outside in itertools.pairwise(sizes):
        layers += [nn.Linear(inside, outside), nn.Tanh()]
    return filled(nn.Sequential(*layers[:-1], *last), seed)


def with_norm(seed, *sizes):
    """Linear, batch norm, dropout, linear: a network that tells training from evaluation."""
    d, h, c = sizes
    model = nn.Sequential(nn.Linear(d, h), nn.BatchNorm1d(h), nn.Dropout(0.5), nn.Linear(h, c))
    model = filled(model, seed)
    model[1].running_mean.add_(0.5)
    return model


def in_both_modes(seed, *sizes, last=()):
    """A network with batch norm in training mode, and the same in eval mode."""
    d, h, c = sizes
    return [filled(nn.Sequential(nn.Linear(d, h), nn.BatchNorm1d(h), nn.Linear(h, c), *last), seed).train(mode) for mode in (True, False)]


def values_of(model):
    """Copies of the parameters alone: how often batch norm saw something is of no interest."""
    return [value.detach().clone() for _, value in sorted(model.named_parameters())]


def state_of(model):
    """The model's parameters and buffers as a plain dict of copies."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def old_gradients(model):
    """The model, with gradients left over from something else."""
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    return model


def train(model, x, y, steps=2):
    """Some steps of descent with the model; the outputs on the way."""
    outputs = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        out = model(x)
        outputs.append(out.detach().clone())
        optimizer.zero_grad()
        (out - y).square().mean().backward()
        optimizer.step()
    return outputs


@task("import_then_train")
class TestImportThenTrain:
    @pytest.mark.parametrize("layout", ["contiguous", *LAYOUTS])
    def test_losses_and_weights(self, agree, draw, layout):
        """Each epoch's loss is right, and so are the weights in the end, however the data lie in memory."""
        x, y, seed = draw.normal(7, 3, dtype=F64, layout=layout), draw.normal(7, 2, dtype=F64, layout=layout), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 5, 2)
            return m.import_then_train(model, x, y, epochs=4, lr=0.2), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_usual_settings(self, agree, draw):
        """Without settings, there are 5 epochs with learning rate 0.01."""
        x, y, seed = draw.normal(5, 3, dtype=F64), draw.normal(5, 1, dtype=F64), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4, 1)
            return m.import_then_train(model, x, y), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_settings_of_zero(self, agree, draw):
        """With 0 epochs nothing happens; with a learning rate of 0 the loss stays."""
        x, y, seed = draw.normal(5, 3, dtype=F64), draw.normal(5, 2, dtype=F64), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4, 2)
            return [m.import_then_train(model, x, y, epochs=epochs, lr=lr) for epochs, lr in ((0, 0.1), (3, 0.0), (1, 0.1), (2, 0))]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_old_gradients(self, agree, draw):
        """Gradients from before the call have no influence."""
        x, y, seed = draw.normal(5, 3, dtype=F64), draw.normal(5, 2, dtype=F64), draw.seed()

        def probe(m):
            model = old_gradients(mlp(seed, 3, 4, 2))
            return m.import_then_train(model, x, y, epochs=2, lr=0.1), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_other_shapes(self, agree, draw):
        """The model may give any shape, such as (N,) or (N, 3, 2), and be in eval mode."""
        x, seed = draw.normal(5, 3, dtype=F64), draw.seed()
        flat, deep = draw.normal(5, dtype=F64), draw.normal(5, 3, 2, dtype=F64)

        def probe(m):
            one, many = mlp(seed, 3, 1, last=[nn.Flatten(0)]), mlp(seed, 3, 6, last=[nn.Dropout(), nn.Unflatten(1, (3, 2))]).eval()
            losses = m.import_then_train(one, x, flat, epochs=2, lr=0.1), m.import_then_train(many, x, deep, epochs=2, lr=0.1)
            return losses, state_of(one), state_of(many)

        agree(probe, rtol=1e-9, atol=1e-9)


@task("feed_linear")
class TestFeedLinear:
    @pytest.mark.parametrize(("n", "d", "c"), with_ones(7, 3, 4))
    def test_mean_loss_and_weights(self, agree, draw, n, d, c):
        """The mean loss and the weights after one update for each sample, also for one sample, one feature or one class."""
        x, y, seed = draw.normal(n, d, dtype=F64), draw.integers(0, c, n), draw.seed()

        def probe(m):
            model = mlp(seed, d, 5, c, last=[nn.LogSoftmax(dim=1)])
            return m.feed_linear(model, x, y, lr=0.3), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples may lie in memory in any way."""
        x, y, seed = draw.normal(5, 3, dtype=F64, layout=layout), draw.integers(0, 4, 5), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4, last=[nn.LogSoftmax(dim=1)])
            return m.feed_linear(model, x, y, lr=0.3), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_usual_rate_and_none(self, agree, draw):
        """The learning rate is 0.1 if none is given; with 0, nothing is learned."""
        x, y, seed = draw.normal(5, 3, dtype=F64), draw.integers(0, 4, 5), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4, last=[nn.LogSoftmax(dim=1)])
            return m.feed_linear(model, x, y, lr=0), state_of(model), m.feed_linear(model, x, y), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_old_gradients(self, agree, draw):
        """Gradients from before the call have no influence."""
        x, y, seed = draw.normal(4, 3, dtype=F64), draw.integers(0, 4, 4), draw.seed()

        def probe(m):
            model = old_gradients(mlp(seed, 3, 4, last=[nn.LogSoftmax(dim=1)]))
            return m.feed_linear(model, x, y), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_modes(self, agree, draw):
        """The model is trained in the mode in which it is."""
        x, y, seed = draw.normal(4, 3, dtype=F64), draw.integers(0, 4, 4), draw.seed()

        def probe(m):
            model = in_both_modes(seed, 3, 5, 4, last=[nn.LogSoftmax(dim=1)])[1]
            return m.feed_linear(model, x, y), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)


@task("flatten_after_pooling")
class TestFlattenAfterPooling:
    def test_digits(self, agree, draw):
        """For images of 28 × 28, outputs before and after an update are right."""
        x, y, seed = draw.normal(2, 1, 28, 28, dtype=F64), draw.normal(2, 10, dtype=F64), draw.seed()
        agree(lambda m: train(filled(m.flatten_after_pooling((28, 28)), seed), x, y), rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("size", [(29, 41), (10, 10), (17, 12), (11, 13)])
    def test_other_sizes(self, agree, draw, size):
        """Other sizes work as well: odd, narrow, and the smallest; with other channels and classes."""
        channels, classes = draw.integer(2, 5), draw.integer(2, 8)
        x, y, seed = draw.normal(3, channels, *size, dtype=F64), draw.normal(3, classes, dtype=F64), draw.seed()

        def probe(m):
            return train(filled(m.flatten_after_pooling(size, channels=channels, classes=classes), seed), x, y)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_layers(self, agree, draw):
        """The layers are at their places, with the shapes that the statement gives; channels and classes may be 1."""
        size, channels, classes = (15, 12), draw.integer(2, 100), draw.integer(2, 1000)

        def probe(m):
            models = m.flatten_after_pooling(size, classes=1), m.flatten_after_pooling(size[::-1], channels=channels, classes=classes)
            shapes = [{name: tuple(p.shape) for name, p in with_values(model).named_parameters()} for model in models]
            return shapes, [type(layer).__name__ for layer in models[0]]

        agree(probe, rtol=0, atol=0)

    def test_initial_values(self, agree, draw):
        """The layers have torch's initial values: up to 1/√n, for n inputs, and all different."""
        x, seed = draw.normal(2, 1, 13, 10, dtype=F64), draw.seed()

        def probe(m):
            model = m.flatten_after_pooling((13, 10))
            values = [p.detach() for p in with_values(model).parameters()]
            largest = [round((w.abs().max() * w[0].numel() ** 0.5).item(), 1) for w in values if w.dim() > 1]
            return largest, [len(value.unique()) > value.numel() / 2 for value in values], filled(model, seed)(x).detach()

        agree(probe, rtol=1e-7, atol=1e-7)


@task("lstm_batch_first")
class TestLstmBatchFirst:
    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize(("b", "t", "d", "h", "c"), with_ones(4, 6, 3, 5, 2))
    def test_outputs_and_training(self, agree, draw, layers, b, t, d, h, c):
        """Scores before and after an update are right, for every size, also with several layers."""
        x, y, seed = draw.normal(b, t, d, dtype=F64), draw.normal(b, c, dtype=F64), draw.seed()

        def probe(m):
            model = filled(m.lstm_batch_first(d, h, c, num_layers=layers), seed)
            return train(model, x, y), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Sequences may lie in memory in any way."""
        x, seed = draw.normal(4, 6, 3, dtype=F64, layout=layout), draw.seed()
        agree(lambda m: filled(m.lstm_batch_first(3, 5, 2), seed)(x).detach(), rtol=1e-7, atol=1e-7)

    def test_sequences_are_on_their_own(self, agree, draw):
        """A sequence has the same scores in a batch, alone, and in the next batch."""
        x, seed = draw.normal(4, 6, 3, dtype=F64), draw.seed()

        def probe(m):
            model = filled(m.lstm_batch_first(3, 5, 2), seed)
            return [out.detach() for out in (model(x), model(x[2:3]), model(x), model(x[1:]))]

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_initial_values(self, agree, draw):
        """The layers have torch's initial values: up to 1/√hidden_size, and all different."""
        x, seed = draw.normal(2, 3, 5, dtype=F64), draw.seed()

        def probe(m):
            model = m.lstm_batch_first(5, 16, 9)
            values = torch.cat([p.detach().flatten() for _, p in sorted(model.named_parameters())])
            return round(values.abs().max().item() * 4, 1), len(values.unique()) > len(values) / 2, filled(model, seed)(x).detach()

        agree(probe, rtol=1e-7, atol=1e-7)


def rnn_weights(draw, d, h, c):
    """The state_dict() of an nn.RNN `rnn` and an nn.Linear `fc`."""
    shapes = {"weight_ih_l0": (h, d), "weight_hh_l0": (h, h), "bias_ih_l0": (h,), "bias_hh_l0": (h,)}
    weights = {f"rnn.{name}": draw.normal(*shape) / 2 for name, shape in shapes.items()}
    return weights | {"fc.weight": draw.normal(c, h), "fc.bias": draw.normal(c)}


def on_both(m, x, y, weights, **settings):
    """What comes of the training on the CPU, and of the same on `meta`, where tensors have no values."""
    try:
        return [dict(m.same_device(x, y, weights, device, **settings)) for device in ("cpu", torch.device("meta"))]
    except NotImplementedError as error:  # torch's own, where something is copied from `meta`
        if "meta" not in str(error):
            raise
        return f"stopped by torch: {error}"


@task("same_device")
class TestSameDevice:
    @pytest.mark.parametrize(("b", "t", "d", "h", "c"), with_ones(4, 2, 3, 6, 5))
    def test_weights_after_training(self, agree, draw, b, t, d, h, c):
        """The weights after training are right, and are on the device that was asked for, for every size."""
        x, y, weights = draw.normal(b, t, d), draw.integers(0, c, b), rnn_weights(draw, d, h, c)
        agree(lambda m: on_both(m, x, y, weights, lr=0.2, steps=2), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Sequences may lie in memory in any way."""
        x, y, weights = draw.normal(4, 2, 3, layout=layout), draw.integers(0, 2, 4), rnn_weights(draw, 3, 6, 2)
        agree(lambda m: on_both(m, x, y, weights), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("settings", [{"steps": 0}, {"lr": 0, "steps": 1}])
    def test_settings(self, agree, draw, settings):
        """Usual settings are those of the signature; 0 steps, or a learning rate of 0, leave the weights as they are."""
        x, y, weights = draw.normal(4, 2, 3), draw.integers(0, 2, 4), rnn_weights(draw, 3, 6, 2)
        agree(lambda m: [on_both(m, x, y, weights), on_both(m, x, y, weights, **settings)], rtol=1e-4, atol=1e-5)

    def test_large_batch(self, agree, draw):
        """A hundred thousand billion sequences, a view of a single one, are too many for the CPU, and none too many for `meta`."""
        x, y, weights = draw.normal(3, 2, 3), draw.integers(0, 4, 3), rnn_weights(draw, 3, 6, 4)

        def probe(m):
            small = on_both(m, x, y, weights)
            try:
                return small, dict(m.same_device(x[:1].expand(10**14, -1, -1), y[:1].expand(10**14), weights, "meta"))
            except RuntimeError:  # more bytes than there are addresses: it fails on every machine, and at once
                return "this was tried on the CPU"

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.gpu
    def test_on_a_gpu(self, agree, draw):
        """On a GPU, the weights are there, and the same as on the CPU."""
        x, y, weights = draw.normal(4, 2, 3), draw.integers(0, 2, 4), rnn_weights(draw, 3, 6, 2)

        def probe(m):
            state = m.same_device(x, y, weights, "cuda", steps=2)
            return [(name, value, value.device.type) for name, value in sorted(state.items())]

        agree(probe, rtol=1e-2, atol=1e-3)


def gated(seed, d, h, k):
    """The three layers of a network with a gate."""
    return list(filled(nn.ModuleList([nn.Linear(d, h), nn.Linear(h, h), nn.Linear(h, k)]), seed))


@task("inplace_backward")
class TestInplaceBackward:
    @pytest.mark.parametrize(("n", "d", "h", "k"), with_ones(7, 3, 6, 2))
    def test_losses_and_weights(self, agree, draw, n, d, h, k):
        """Losses and weights of all three layers are right, for every size."""
        x, y, seed = draw.normal(n, d, dtype=F64), draw.normal(n, k, dtype=F64), draw.seed()

        def probe(m):
            layers = gated(seed, d, h, k)
            return m.inplace_backward(*layers, x, y, lr=0.3, steps=4), [state_of(layer) for layer in layers]

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples may lie in memory in any way."""
        x, y, seed = draw.normal(7, 3, dtype=F64, layout=layout), draw.normal(7, 2, dtype=F64, layout=layout), draw.seed()

        def probe(m):
            layers = gated(seed, 3, 5, 2)
            return m.inplace_backward(*layers, x, y), [state_of(layer) for layer in layers]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_settings_of_zero_and_usual_ones(self, agree, draw):
        """0 steps and a learning rate of 0 change nothing; usual are 3 steps with 0.1."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.normal(7, 2, dtype=F64), draw.seed()

        def probe(m):
            layers = gated(seed, 3, 5, 2)
            losses = [m.inplace_backward(*layers, x, y, **settings) for settings in ({"steps": 0}, {"lr": 0}, {"steps": 1, "lr": 0.0}, {})]
            return losses, [state_of(layer) for layer in layers]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_old_gradients(self, agree, draw):
        """Gradients from before the call have no influence."""
        x, y, seed = draw.normal(5, 3, dtype=F64), draw.normal(5, 2, dtype=F64), draw.seed()

        def probe(m):
            layers = [old_gradients(layer) for layer in gated(seed, 3, 4, 2)]
            return m.inplace_backward(*layers, x, y), [state_of(layer) for layer in layers]

        agree(probe, rtol=1e-9, atol=1e-9)


def with_head(seed, d, h, c):
    """A network of a body and the head `fc`."""

    class WithHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(d, h)
            self.fc = nn.Linear(h, c)

        def forward(self, x):
            return self.fc(torch.tanh(self.body(x)))

    return filled(WithHead(), seed)


@task("optimizer_first")
class TestOptimizerFirst:
    @pytest.mark.parametrize(("n", "d", "h"), with_ones(7, 3, 5))
    def test_losses_and_weights(self, agree, draw, n, d, h):
        """Losses are right, and so are the weights of the body and of the head that was given, for every size."""
        x, y, seed = draw.normal(n, d, dtype=F64), draw.integers(0, 4, n), draw.seed()

        def probe(m):
            model, head = with_head(seed, d, h, 9), filled(nn.Linear(h, 4), seed)
            losses = m.optimizer_first(model, head, x, y, lr=0.2, momentum=0.8, steps=4)
            states = state_of(model), state_of(head)
            head.bias = nn.Parameter(head.bias.detach() + 1)  # which the model sees, if its head is this one
            return losses, states, model(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_usual_settings(self, agree, draw):
        """Usual are 5 steps with learning rate 0.01 and momentum 0.9."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.integers(0, 4, 7), draw.seed()

        def probe(m):
            model = with_head(seed, 3, 5, 2)
            return m.optimizer_first(model, filled(nn.Linear(5, 4), seed), x, y), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("settings", [{"momentum": 0}, {"lr": 0}, {"steps": 0}])
    def test_settings_of_zero(self, agree, draw, settings):
        """A momentum, a learning rate or a number of steps of 0 is taken as it is; the head is replaced in any case."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.integers(0, 4, 7), draw.seed()

        def probe(m):
            models = [with_head(seed, 3, 5, 2) for _ in range(2)]
            losses = [
                m.optimizer_first(model, filled(nn.Linear(5, 4), seed), x, y, **chosen)
                for model, chosen in zip(models, (settings, {"lr": 0.1}), strict=True)
            ]
            return losses, [state_of(model) for model in models]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_old_gradients(self, agree, draw):
        """Gradients of the body and of the head from before the call have no influence."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.integers(0, 4, 7), draw.seed()

        def probe(m):
            model, head = old_gradients(with_head(seed, 3, 5, 2)), old_gradients(filled(nn.Linear(5, 4), seed))
            return m.optimizer_first(model, head, x, y, lr=0.1), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_mode(self, agree, draw):
        """The model is trained in the mode in which it is."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.integers(0, 4, 7), draw.seed()

        def probe(m):
            model = filled(nn.Sequential(OrderedDict(body=with_norm(seed, 3, 5, 5), fc=nn.Linear(5, 2))), seed).eval()
            return m.optimizer_first(model, filled(nn.Linear(5, 4), seed), x, y, lr=0.1), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)


def batches_of(draw, sizes, d, c):
    """Batches of these sizes, d features and c classes."""
    return [(draw.normal(n, d, dtype=F64), draw.integers(0, c, n)) for n in sizes]


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.3),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda params: torch.optim.AdamW(params, lr=0.05),
}


@task("training_step_order")
class TestTrainingStepOrder:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_losses_and_weights(self, agree, draw, name):
        """The losses and the weights are right with every optimizer of torch; batches may differ in size."""
        batches, seed, make = batches_of(draw, (4, 4, 1, 6), 3, 4), draw.seed(), OPTIMIZERS[name]

        def probe(m):
            model = mlp(seed, 3, 4)
            return m.training_step_order(model, batches, nn.functional.cross_entropy, make(model.parameters())), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_generator_and_empty(self, agree, draw):
        """Batches may come from a generator; without batches nothing happens."""
        batches, seed = batches_of(draw, (4, 3, 5), 3, 4), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
            runs = [[], (batch for batch in batches), (batch for batch in ())]
            return [m.training_step_order(model, run, nn.functional.cross_entropy, optimizer) for run in runs], state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_old_gradients(self, agree, draw):
        """Gradients from before the call have no influence."""
        batches, seed = batches_of(draw, (4, 3), 3, 4), draw.seed()

        def probe(m):
            model = old_gradients(mlp(seed, 3, 4))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
            return m.training_step_order(model, batches, nn.functional.cross_entropy, optimizer), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_criterion_mode_and_settings(self, agree, draw):
        """The given criterion is minimised, in the mode in which the model is, and the optimizer keeps its settings."""
        seed, lr = draw.seed(), draw.uniform(1, low=0.1, high=0.5).item()
        batches = [(draw.normal(n, 3, dtype=F64), draw.normal(n, 2, dtype=F64)) for n in (4, 5, 3)]

        def probe(m):
            model = filled(nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Dropout(), nn.Linear(3, 2)), seed).eval()
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5)
            losses = m.training_step_order(model, batches, lambda out, y: (out - y).abs().pow(3).mean(), optimizer)
            return losses, state_of(model), [optimizer.param_groups[0][name] for name in ("lr", "momentum")]

        agree(probe, rtol=1e-7, atol=1e-7)


@task("double_softmax")
class TestDoubleSoftmax:
    @pytest.mark.parametrize(("n", "m_new", "d"), with_ones(7, 5, 3))
    def test_losses_weights_and_probabilities(self, agree, draw, n, m_new, d):
        """Losses, weights and probabilities are right, for every size."""
        x, y, new, seed = draw.normal(n, d, dtype=F64), draw.integers(0, 4, n), draw.normal(m_new, d, dtype=F64), draw.seed()

        def probe(m):
            model = mlp(seed, d, 5, 4)
            return m.double_softmax(model, x, y, new, lr=0.3, steps=3), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples may lie in memory in any way."""
        x, new = draw.normal(7, 3, dtype=F64, layout=layout), draw.normal(5, 3, dtype=F64, layout=layout)
        y, seed = draw.integers(0, 4, 7), draw.seed()
        agree(lambda m: m.double_softmax(mlp(seed, 3, 4), x, y, new, steps=2), rtol=1e-7, atol=1e-7)

    def test_ten_classes(self, agree, draw):
        """Usual are 20 steps with learning rate 0.5; the loss of ten classes gets far below 1.46."""
        x, y, new, seed = draw.normal(11, 30, dtype=F64), draw.integers(0, 10, 11), draw.normal(3, 30, dtype=F64), draw.seed()
        agree(lambda m: m.double_softmax(mlp(seed, 30, 10), x, y, new), rtol=1e-6, atol=1e-7)

    def test_large_scores(self, agree, draw):
        """With scores of about ±1,000 the losses are finite, and so are weights and probabilities."""
        x, y, new, seed = draw.normal(7, 3, dtype=F64) * 500, draw.integers(0, 4, 7), draw.normal(5, 3, dtype=F64), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4)
            return m.double_softmax(model, x, y, new, lr=1e-4, steps=2), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("settings", [{"steps": 0}, {"lr": 0}, {"lr": 0.0, "steps": 1}])
    def test_settings_of_zero(self, agree, draw, settings):
        """0 steps, or a learning rate of 0, leave the model as it is; there may be no new samples."""
        x, y, new, seed = draw.normal(7, 3, dtype=F64), draw.integers(0, 4, 7), draw.normal(5, 3, dtype=F64), draw.seed()

        def probe(m):
            runs = [({"steps": 2}, new), (settings, new), ({"steps": 1}, new[:0])]
            return [m.double_softmax(mlp(seed, 3, 4), x, y, samples, **chosen) for chosen, samples in runs]

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_old_gradients(self, agree, draw):
        """Gradients from before the call have no influence."""
        x, y, new, seed = draw.normal(7, 3, dtype=F64), draw.integers(0, 4, 7), draw.normal(5, 3, dtype=F64), draw.seed()
        agree(lambda m: m.double_softmax(old_gradients(mlp(seed, 3, 4)), x, y, new, steps=2), rtol=1e-7, atol=1e-7)

    def test_modes(self, agree, draw):
        """The model is trained and used in the mode in which it is."""
        x, y, new, seed = draw.normal(7, 3, dtype=F64), draw.integers(0, 4, 7), draw.normal(5, 3, dtype=F64), draw.seed()

        def probe(m):
            training, fixed = in_both_modes(seed, 3, 5, 4)
            results = [m.double_softmax(model, x, y, new, steps=2) for model in (training, fixed)]
            return results, values_of(training), state_of(fixed)

        agree(probe, rtol=1e-7, atol=1e-7)


def recorder(inner):
    """A network that passes its input through `inner`, and writes down in which state torch is."""

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner
            self.modes, self.recording = [], []

        def forward(self, x):
            self.modes.append([module.training for module in self.inner.modules()])
            self.recording.append(torch.is_grad_enabled())
            return self.inner(x)

    return Recorder()


@task("validate")
class TestValidate:
    def test_means_over_samples(self, agree, draw):
        """Loss and accuracy are means over all samples, not over batches, in eval mode; batches may come from a generator."""
        batches, seed = batches_of(draw, (2, 13, 4), 3, 4), draw.seed()

        def probe(m):
            return m.validate(with_norm(seed, 3, 5, 4), (batch for batch in batches), nn.functional.cross_entropy)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_one_batch(self, agree, draw):
        """One batch will do, also one of one sample; the criterion may be any."""
        batches, seed = batches_of(draw, (1, 6), 3, 4), draw.seed()

        def probe(m):
            return [m.validate(with_norm(seed, 3, 5, 4), [batch], nn.functional.multi_margin_loss) for batch in batches]

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_model_is_not_changed(self, agree, draw):
        """Parameters, buffers and gradients keep their values, and a second call gives the same."""
        batches, seed = batches_of(draw, (5, 3), 3, 4), draw.seed()

        def probe(m):
            model = with_norm(seed, 3, 5, 4).train()
            nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
            results = [m.validate(model, batches, nn.functional.cross_entropy) for _ in range(2)]
            return results, state_of(model), [p.grad for p in model.parameters()]

        agree(probe, rtol=1e-7, atol=1e-7)

    @measured("flags, calls")
    def test_eval_mode_without_a_graph(self, agree, draw):
        """Meanwhile all submodules are in eval mode, and no graph is recorded; then recording is as it was."""
        batches, seed = batches_of(draw, (5, 3), 3, 4), draw.seed()

        def probe(m):
            model = recorder(with_norm(seed, 3, 5, 4)).train()
            result = m.validate(model, batches, nn.functional.cross_entropy)
            with torch.no_grad():
                again = m.validate(model, batches, nn.functional.cross_entropy)
                after = torch.is_grad_enabled()
            return result, again, model.modes, model.recording, after, torch.is_grad_enabled()

        agree(probe, rtol=1e-7, atol=1e-7)

    @measured("flags")
    @pytest.mark.parametrize("training", [True, False])
    def test_modes_afterwards(self, agree, draw, training):
        """Afterwards each submodule is in the mode in which it was, even if that is another than the model's."""
        batches, seed = batches_of(draw, (5, 3), 3, 4), draw.seed()

        def probe(m):
            model = with_norm(seed, 3, 5, 4).train(training)
            model[2 if training else 1].train(not training)
            model.training = training
            result = m.validate(model, batches, nn.functional.cross_entropy)
            return result, [module.training for module in model.modules()]

        agree(probe, rtol=1e-7, atol=1e-7)

    @measured("flags")
    @pytest.mark.parametrize("place", ["criterion", "model", "batches"])
    def test_after_an_error(self, agree, draw, place):
        """An error of the criterion, the model or the batches is passed on, and the modes are as they were."""
        batches, seed = batches_of(draw, (5, 3), 3, 4), draw.seed()

        def probe(m):
            class Failing(nn.Sequential):
                def forward(self, x):
                    raise KeyError("model")

            def criterion(out, y):
                raise KeyError("criterion")

            def some():
                yield batches[0]
                raise KeyError("batches")

            model = with_norm(seed, 3, 5, 4).train()
            model[2].eval()
            broken = Failing(*model)
            call = {
                "criterion": lambda: m.validate(model, batches, criterion),
                "model": lambda: m.validate(broken, batches, nn.functional.cross_entropy),
                "batches": lambda: m.validate(model, some(), nn.functional.cross_entropy),
            }[place]
            good = m.validate(model, batches, nn.functional.cross_entropy)
            ending = raised(KeyError, call)
            return good, ending, broken.training, [module.training for module in model.modules()], torch.is_grad_enabled()

        agree(probe, rtol=1e-3, atol=1e-4)


@task("broadcast_loss")
class TestBroadcastLoss:
    @pytest.mark.parametrize(("n", "d"), [(7, 3), (6, 1), (2, 4)])
    def test_predictions_and_weights(self, agree, draw, n, d):
        """Predictions and weights are right, for many samples and for one."""
        x, y, seed = draw.normal(n, d, dtype=F64), draw.normal(n, dtype=F64), draw.seed()

        def probe(m):
            models = [mlp(seed, d, 5, 1), mlp(seed, d, 1)]
            results = m.broadcast_loss(models[0], x, y, lr=0.2, epochs=4), m.broadcast_loss(models[1], x[:1], y[:1], lr=0.2, epochs=2)
            return results, [state_of(model) for model in models]

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples and numbers may lie in memory in any way."""
        x, y, seed = draw.normal(7, 3, dtype=F64, layout=layout), draw.normal(7, dtype=F64, layout="sliced"), draw.seed()
        other = draw.normal(7, 3, dtype=F64)
        agree(lambda m: [m.broadcast_loss(mlp(seed, 3, 4, 1), samples, y, epochs=3) for samples in (x, other)], rtol=1e-9, atol=1e-9)

    def test_usual_settings(self, agree, draw):
        """Usual are 50 epochs with learning rate 0.1, which are enough for a line."""
        x, seed = draw.normal(9, 1, dtype=F64), draw.seed()
        y = 3 * x[:, 0] - 1
        agree(lambda m: m.broadcast_loss(mlp(seed, 1, 1), x, y), rtol=1e-7, atol=1e-7)

    def test_settings_of_zero(self, agree, draw):
        """0 epochs, or a learning rate of 0, leave the model as it is."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.normal(7, dtype=F64), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4, 1)
            return [
                m.broadcast_loss(model, x, y, **settings)
                for settings in ({"epochs": 0}, {"lr": 0}, {"epochs": 1, "lr": 0.0}, {"epochs": 1})
            ]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_old_gradients(self, agree, draw):
        """Gradients from before the call have no influence."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.normal(7, dtype=F64), draw.seed()
        agree(lambda m: m.broadcast_loss(old_gradients(mlp(seed, 3, 4, 1)), x, y, epochs=2), rtol=1e-9, atol=1e-9)

    def test_modes(self, agree, draw):
        """The model is trained and used in the mode in which it is."""
        x, y, seed = draw.normal(7, 3, dtype=F64), draw.normal(7, dtype=F64), draw.seed()

        def probe(m):
            training, fixed = in_both_modes(seed, 3, 5, 1)
            results = [m.broadcast_loss(model, x, y, lr=0.05, epochs=2) for model in (training, fixed)]
            return results, values_of(training), state_of(fixed)

        agree(probe, rtol=1e-7, atol=1e-7)


def seeded(seed):
    """A generator with this seed, from which something has been drawn already."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(3, generator=generator)
    return generator


@task("paired_shuffle")
class TestPairedShuffle:
    @pytest.mark.parametrize(("n", "batch_size"), [(11, 4), (12, 4), (9, 1), (7, 50)])
    def test_losses_and_weights(self, agree, draw, n, batch_size):
        """Losses and weights are right, whether or not the batches are equal, for batches of one and for one large batch."""
        x, y, seed = draw.normal(n, 3, dtype=F64), draw.integers(0, 4, n), draw.seed()

        def probe(m):
            model, generator = mlp(seed, 3, 5, 4), seeded(seed)
            losses = m.paired_shuffle(model, x, y, generator, batch_size=batch_size, epochs=2, lr=0.3)
            return losses, state_of(model), torch.rand(2, generator=generator)

        agree(probe, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_images(self, agree, draw, layout):
        """Images of any shape, however they lie in memory, and labels stay in the order in which they are given."""
        x, y, seed = draw.normal(9, 2, 3, 2, dtype=F64, layout=layout), draw.integers(0, 4, 9, layout="sliced"), draw.seed()

        def probe(m):
            model = nn.Sequential(nn.Flatten(), *mlp(seed, 12, 4))
            return m.paired_shuffle(model, x, y, seeded(seed), batch_size=4), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_usual_settings(self, agree, draw):
        """Usual are batches of 32, 3 epochs and learning rate 0.1."""
        x, y, seed = draw.normal(70, 3, dtype=F64), draw.integers(0, 4, 70), draw.seed()

        def probe(m):
            model = mlp(seed, 3, 4)
            return m.paired_shuffle(model, x, y, seeded(seed)), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_nothing_to_do(self, agree, draw):
        """No epochs, no samples and a learning rate of 0 change nothing; the generator goes on from one call to the next."""
        x, y, seed = draw.normal(9, 3, dtype=F64), draw.integers(0, 4, 9), draw.seed()

        def probe(m):
            model, generator = mlp(seed, 3, 4), seeded(seed)
            return [
                m.paired_shuffle(model, x, y, generator, batch_size=2, epochs=2),
                m.paired_shuffle(model, x, y, generator, epochs=0),
                m.paired_shuffle(model, x[:0], y[:0], generator),
                m.paired_shuffle(model, x, y, generator, batch_size=4, epochs=1, lr=0),
                m.paired_shuffle(model, x[:1], y[:1], generator, epochs=1),
                torch.rand(2, generator=generator),
            ]

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_old_gradients(self, agree, draw):
        """Gradients from before the call have no influence."""
        x, y, seed = draw.normal(9, 3, dtype=F64), draw.integers(0, 4, 9), draw.seed()

        def probe(m):
            model = old_gradients(mlp(seed, 3, 4))
            return m.paired_shuffle(model, x, y, seeded(seed), batch_size=4, epochs=1), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_modes(self, agree, draw):
        """The model is trained in the mode in which it is."""
        x, y, seed = draw.normal(9, 3, dtype=F64), draw.integers(0, 4, 9), draw.seed()

        def probe(m):
            models = in_both_modes(seed, 3, 5, 4)
            return [m.paired_shuffle(model, x, y, seeded(seed), batch_size=3, epochs=1) for model in models], [*map(state_of, models)]

        agree(probe, rtol=1e-7, atol=1e-7)


def scale():
    """A module that weighs its three columns by the square roots of a parameter, which is 0 in one place."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.0, 1.0, 4.0], dtype=F64))

        def forward(self, x):
            return torch.where(self.weight > 0, x * torch.sqrt(self.weight), 0.0)

    return Scale()


def chain(names, *functions):
    """A network of named modules, which call these functions one after the other. The last one takes the absolute value."""

    class Doing(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    steps = [function if isinstance(function, nn.Module) else Doing(function) for function in (*functions, torch.abs)]
    return nn.Sequential(OrderedDict(zip(names, steps, strict=True)))


def names_of(draw, n):
    """Names for the modules of a network, different in every run."""
    return [f"{kind}{draw.integer(0, 10**6)}" for kind in "abcdefgh"[:n]]


FORWARD = {
    "root of a negative number": lambda x: torch.sqrt(x - 10),
    "logarithm of a negative number": lambda x: torch.log(x - 10),
    "inf - inf": lambda x: torch.exp(x + 1000) - torch.exp(x + 2000),
    "0 times the logarithm of 0": lambda x: (x - x) * torch.log(x - x),
    "0 / 0": lambda x: (x - x) / (x - x),
    "in a list": lambda x: torch.cat([torch.log(x * 0) - torch.log(x * 0), x]),
    "by keyword": lambda x: torch.sub(x, other=torch.log(input=-x.abs() - 1)),
}
BACKWARD = {
    "root at 0": lambda x: torch.where(x - x > 0, torch.sqrt(x - x), x),
    "logarithm at 0": lambda x: torch.where(x - x > 0, torch.log(x - x), x * 2),
    "norm at 0": lambda x: torch.sqrt(torch.mul(x - x, x - x)) + x,
}


@task("nan_hunt")
class TestNanHunt:
    @pytest.mark.parametrize("case", FORWARD)
    def test_forward(self, agree, draw, case):
        """The module and the operation that makes NaN in the forward pass; infinities by themselves are innocent."""
        x, names, function = draw.normal(4, 3, dtype=F64), names_of(draw, 4), FORWARD[case]

        def probe(m):
            return m.nan_hunt(chain(names, torch.sin, function, lambda x: x + 1), x)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("case", BACKWARD)
    def test_backward(self, agree, draw, case):
        """The module and the operation that makes NaN in the backward pass, where the forward pass has none."""
        x, names, function = draw.normal(4, 3, dtype=F64), names_of(draw, 4), BACKWARD[case]
        agree(lambda m: m.nan_hunt(chain(names, torch.sin, function, torch.cos), x), rtol=0, atol=0)

    def test_first_of_several(self, agree, draw):
        """Of several places, the first one; those in the backward pass come from its end to its beginning."""
        x, names = draw.normal(4, 3, dtype=F64), names_of(draw, 4)

        def probe(m):
            bad = FORWARD["0 / 0"], BACKWARD["root at 0"], BACKWARD["logarithm at 0"], FORWARD["inf - inf"]
            orders = [(0, 3, 1), (3, 0, 2), (1, 2, 0), (1, 3, 2)]
            found = [m.nan_hunt(chain(names, *(bad[i] for i in order)), x) for order in orders]
            return found, m.nan_hunt(chain(names, bad[1], torch.sin, bad[2]), x), m.nan_hunt(chain(names, bad[2], torch.sin, bad[1]), x)

        agree(probe, rtol=0, atol=0)

    def test_nested_modules(self, agree, draw):
        """The innermost module is named, with its whole path; what a container does itself is the container's."""
        x, names, inner = draw.normal(4, 3, dtype=F64), names_of(draw, 4), names_of(draw, 3)

        def probe(m):
            class Around(nn.Sequential):
                def forward(self, x):
                    return torch.log(super().forward(x) - 10)

            nested = chain(inner, torch.sin, FORWARD["0 / 0"])
            around = Around(chain(inner, torch.sin, torch.cos))
            return [
                m.nan_hunt(chain(names, torch.sin, nested, torch.sin), x),
                m.nan_hunt(chain(names, torch.sin, around, torch.sin), x),
                m.nan_hunt(Around(torch.nn.Tanh(), chain(names, torch.sin, torch.cos, torch.sin)), x),
            ]

        agree(probe, rtol=0, atol=0)

    def test_gradients_of_parameters(self, agree, draw):
        """NaN in the gradient of a parameter counts, whether or not one for x is wanted; a frozen one has none."""
        x, names = draw.normal(4, 3, dtype=F64), names_of(draw, 4)

        def probe(m):
            frozen = scale().requires_grad_(False)
            return [
                m.nan_hunt(chain(names, torch.sin, scale(), torch.sin), x),
                m.nan_hunt(chain(names, lambda x: x.detach(), scale(), torch.sin), x),
                m.nan_hunt(chain(names, torch.sin, frozen, torch.sin), x),
            ]

        agree(probe, rtol=0, atol=0)

    def test_none(self, agree, draw):
        """Where none is made, there is nothing to report: real layers, infinities, no graph, or NaN that the network brings along."""
        x, names, seed = draw.normal(4, 3, dtype=F64), names_of(draw, 4), draw.seed()
        nan = torch.full((3,), torch.nan, dtype=F64)

        def probe(m):
            return [
                m.nan_hunt(mlp(seed, 3, 5, 2), x),
                m.nan_hunt(chain(names, torch.sin, lambda x: torch.log(x * 0), torch.exp), x),
                m.nan_hunt(chain(names, torch.sin, torch.cos, lambda x: x.detach()), x),
                m.nan_hunt(chain(names, torch.sin, lambda x: torch.add(x, nan), lambda x: torch.add(x, other=nan)), x),
                m.nan_hunt(chain(names, torch.sin, lambda x: torch.add(x, other=nan), torch.cos), x),
                m.nan_hunt(chain(names, FORWARD["0 / 0"], torch.sin, torch.sin), x),
            ]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_network_is_left_alone(self, agree, draw, layout):
        """Gradients, parameters, hooks and x stay as they are, whatever the network does; x may lie in memory in any way."""
        x, names, seed = draw.normal(4, 3, dtype=F64, layout=layout), names_of(draw, 4), draw.seed()
        infinite = mlp(seed, 3, 3)
        infinite[0].weight.data[:2, :2] = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) * torch.inf  # one of them is inf - inf
        layers = [(mlp(seed, 3, 3), infinite, nn.Tanh()), (nn.ReLU(inplace=True), mlp(seed, 3, 4)), (nn.Tanh(), mlp(seed, 3, 4))]
        models = [nn.Sequential(OrderedDict(zip(names, some, strict=False))) for some in layers]  # the probe holds them

        def probe(m):
            found = [m.nan_hunt(old_gradients(model), x) for model in models]
            return found, [p.grad for model in models for p in model.parameters()]

        agree(probe, rtol=0, atol=0)


def counting(inner):
    """A network that counts at each call how many graphs of earlier calls are alive, and passes its input through `inner`."""

    class Token:
        """A hook that does nothing. It lives as long as the graph that it hangs on."""

        def __call__(self, grad):
            pass

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner
            self.tokens, self.alive = [], []

        def forward(self, x):
            alive = self.count()
            if alive > 1:
                gc.collect()  # cycles would keep them
                alive = self.count()
            self.alive.append(alive)
            out = self.inner(x)
            if out.requires_grad:
                token = Token()
                out.register_hook(token)
                self.tokens.append(weakref.ref(token))
            return out

        def count(self):
            return sum(token() is not None for token in self.tokens)

    return Counting()


@task("loss_history")
class TestLossHistory:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_losses_and_weights(self, agree, draw, name):
        """The losses are numbers, and they and the weights are right, with every optimizer of torch."""
        batches, seed, make = batches_of(draw, (4, 4, 1, 6), 3, 4), draw.seed(), OPTIMIZERS[name]

        def probe(m):
            model = mlp(seed, 3, 4)
            return m.loss_history(model, batches, nn.functional.cross_entropy, make(model.parameters())), state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_generator_and_empty(self, agree, draw):
        """Batches may come from a generator; without batches there is no history; old gradients have no influence."""
        batches, seed = batches_of(draw, (4, 3, 5), 3, 4), draw.seed()

        def probe(m):
            model = old_gradients(mlp(seed, 3, 4))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
            runs = [[], (batch for batch in batches), (batch for batch in ())]
            return [m.loss_history(model, run, nn.functional.cross_entropy, optimizer) for run in runs], state_of(model)

        agree(probe, rtol=1e-7, atol=1e-7)

    @measured("memory")
    def test_no_old_graph_is_alive(self, agree, draw):
        """When the model gets a batch, no graph is alive but, perhaps, that of the last batch."""
        batches, seed = batches_of(draw, (4, 3, 5, 2, 4, 3), 3, 4), draw.seed()

        def probe(m):
            model = counting(mlp(seed, 3, 4))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
            losses = m.loss_history(model, batches, nn.functional.cross_entropy, optimizer)
            return losses if max(model.alive) <= 1 else f"{max(model.alive)} graphs of earlier batches are alive", len(model.alive)

        agree(probe, rtol=1e-7, atol=1e-7)

    def test_modes(self, agree, draw):
        """The model is trained in the mode in which it is."""
        batches, seed = batches_of(draw, (4, 3, 5), 3, 4), draw.seed()

        def probe(m):
            models = in_both_modes(seed, 3, 5, 4)
            optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
            pairs = zip(models, optimizers, strict=True)
            losses = [m.loss_history(model, batches, nn.functional.cross_entropy, optimizer) for model, optimizer in pairs]
            return losses, [*map(state_of, models)]

        agree(probe, rtol=1e-7, atol=1e-7)
