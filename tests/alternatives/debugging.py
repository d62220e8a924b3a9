"""Other correct answers to the tasks of debugging: the hidden suite must accept every one."""

import collections
import math

import torch
import torch.nn.functional as F
from torch import nn

from grader.testing import alternative

# import_then_train


@alternative("import_then_train")
def import_within(model, inputs, targets, *, epochs=5, lr=0.01):
    import torch.optim as optim

    criterion = nn.MSELoss()
    optimizer = optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        outputs = model(inputs)
        loss = criterion(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@alternative("import_then_train")
def updates_by_hand(model, inputs, targets, *, epochs=5, lr=0.01):
    losses = []
    for _ in range(epochs):
        loss = (model(inputs) - targets).square().mean()
        gradients = torch.autograd.grad(loss, [*model.parameters()])
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p -= lr * g
        losses.append(float(loss))
    return losses


@alternative("import_then_train")
def with_a_closure(model, inputs, targets, *, epochs=5, lr=0.01):
    optimizer = torch.optim.SGD(model.parameters(), lr)

    def closure():
        optimizer.zero_grad(set_to_none=False)
        loss = F.mse_loss(model(inputs), targets)
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(epochs)]


# feed_linear


@alternative("feed_linear")
def unsqueezes_both(model, inputs, labels, *, lr=0.1):
    criterion = nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    total_loss = 0.0
    for x, y in zip(inputs, labels, strict=True):
        optimizer.zero_grad()
        loss = criterion(model(x.unsqueeze(0)), y.unsqueeze(0))
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
    return total_loss / len(inputs)


@alternative("feed_linear")
def squeezes_the_scores(model, inputs, labels, *, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        loss = F.nll_loss(model(x.view(1, -1) if x.is_contiguous() else x.reshape(1, -1)).squeeze(0), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


@alternative("feed_linear")
def with_a_data_loader(model, inputs, labels, *, lr=0.1):
    data = torch.utils.data.TensorDataset(inputs, labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    total = 0.0
    for batch in torch.utils.data.BatchSampler(range(len(data)), batch_size=1, drop_last=False):
        x, y = data[batch]
        optimizer.zero_grad()
        loss = -model(x)[0, y.item()]
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(data)


# flatten_after_pooling


@alternative("flatten_after_pooling")
def runs_an_image_through(size, *, channels=1, classes=10):
    features = nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Conv2d(32, 64, kernel_size=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=2, stride=2),
        nn.Flatten(start_dim=1),
    )
    with torch.no_grad():
        n = features(torch.zeros(1, channels, *size)).shape[1]
    return nn.Sequential(*features, nn.Linear(n, 128), nn.ReLU(), nn.Linear(128, classes))


@alternative("flatten_after_pooling")
def lazy_then_run(size, *, channels=1, classes=10):
    model = nn.Sequential()
    for inside, outside in ((channels, 32), (32, 64)):
        model.extend([nn.Conv2d(inside, outside, (3, 3)), nn.ReLU(), nn.MaxPool2d((2, 2))])
    model.extend([nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, classes)])
    model(torch.zeros(1, channels, *size))
    return model


@alternative("flatten_after_pooling")
def by_the_formula(size, *, channels=1, classes=10):
    def after(side):
        for kernel, stride in ((3, 1), (2, 2), (3, 1), (2, 2)):
            side = math.floor((side - kernel) / stride + 1)
        return side

    h, w = size
    layers = collections.OrderedDict()
    layers["0"] = nn.Conv2d(channels, 32, 3, stride=1, padding="valid")
    layers["1"] = nn.ReLU()
    layers["2"] = nn.MaxPool2d(2)
    layers["3"] = nn.Conv2d(32, 64, 3, stride=1, padding=0)
    layers["4"] = nn.ReLU()
    layers["5"] = nn.MaxPool2d(2)
    layers["6"] = nn.Flatten()
    layers["7"] = nn.Linear(64 * after(h) * after(w), 128)
    layers["8"] = nn.ReLU()
    layers["9"] = nn.Linear(128, classes)
    return nn.Sequential(layers)


# lstm_batch_first


@alternative("lstm_batch_first")
def permutes(input_size, hidden_size, num_classes, *, num_layers=1):
    class LSTMClassifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(input_size, hidden_size, num_layers)
            self.fc = nn.Linear(hidden_size, num_classes)

        def forward(self, x):
            out, (_h_n, _c_n) = self.lstm(x.permute(1, 0, 2))
            return self.fc(out[-1])

    return LSTMClassifier()


@alternative("lstm_batch_first")
def last_hidden_state(input_size, hidden_size, num_classes, *, num_layers=1):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(hidden_size, num_classes)
            self.lstm = nn.LSTM(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, batch_first=True)

        def forward(self, x):
            h0 = torch.zeros(num_layers, x.size(0), hidden_size, dtype=x.dtype, device=x.device)
            _, (h_n, _) = self.lstm(x, (h0, torch.zeros_like(h0)))
            return self.fc(h_n[-1])

    return Classifier()


@alternative("lstm_batch_first")
def one_step_after_the_other(input_size, hidden_size, num_classes, *, num_layers=1):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(input_size, hidden_size, num_layers)
            self.fc = nn.Linear(hidden_size, num_classes)

        def forward(self, x):
            state = None
            for step in x.unbind(1):
                out, state = self.lstm(step.unsqueeze(0), state)
            return self.fc(out.squeeze(0))

    return Classifier()


# same_device


@alternative("same_device")
def within_a_device_context(inputs, labels, weights, device, *, lr=0.1, steps=3):
    class RNN(nn.Module):
        def __init__(self, input_size, hidden_size, num_classes):
            super().__init__()
            self.hidden_size = hidden_size
            self.rnn = nn.RNN(input_size, hidden_size, batch_first=True)
            self.fc = nn.Linear(hidden_size, num_classes)

        def forward(self, x):
            h0 = torch.zeros(1, x.size(0), self.hidden_size)
            out, _ = self.rnn(x, h0)
            return self.fc(out[:, -1, :])

    num_classes, hidden_size = weights["fc.weight"].shape
    x, y = inputs.to(device), labels.to(device)
    with torch.device(device):
        model = RNN(inputs.size(2), hidden_size, num_classes)
        model.load_state_dict({name: value.to(device).clone() for name, value in weights.items()}, assign=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for _ in range(steps):
            loss = nn.CrossEntropyLoss()(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


@alternative("same_device")
def without_an_initial_state(inputs, labels, weights, device, *, lr=0.1, steps=3):
    rnn = nn.RNN(inputs.shape[-1], weights["fc.weight"].shape[1], batch_first=True)
    model = nn.ModuleDict({"rnn": rnn, "fc": nn.Linear(rnn.hidden_size, weights["fc.weight"].shape[0])})
    model.load_state_dict(weights)
    model = model.to(device)
    inputs = inputs.to(device, non_blocking=True)
    labels = labels.to(device, non_blocking=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model["fc"](model["rnn"](inputs)[1][0]), labels).backward()
        optimizer.step()
    return model.state_dict()


@alternative("same_device")
def state_like_the_input(inputs, labels, weights, device, *, lr=0.1, steps=3):
    p = {name: value.to(device).clone().requires_grad_() for name, value in weights.items()}
    x, y = inputs.to(device), labels.to(device)
    for _ in range(steps):
        h = x.new_zeros(len(x), p["fc.weight"].shape[1])
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] @ p["rnn.weight_ih_l0"].T + p["rnn.bias_ih_l0"] + h @ p["rnn.weight_hh_l0"].T + p["rnn.bias_hh_l0"])
        loss = F.cross_entropy(h @ p["fc.weight"].T + p["fc.bias"], y)
        gradients = torch.autograd.grad(loss, list(p.values()))
        with torch.no_grad():
            for value, gradient in zip(p.values(), gradients, strict=True):
                value.sub_(gradient, alpha=lr)
    return {name: value.detach() for name, value in p.items()}


# inplace_backward


@alternative("inplace_backward")
def inplace_on_a_clone(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    criterion = nn.MSELoss()
    params = [*fc1.parameters(), *gate.parameters(), *fc2.parameters()]
    optimizer = torch.optim.SGD(params, lr=lr)
    losses = []
    for _ in range(steps):
        h = fc1(x)
        g = torch.sigmoid(gate(h.clone()))
        h = F.relu(h, inplace=True)
        loss = criterion(fc2(g * h), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@alternative("inplace_backward")
def as_one_module(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([fc1, gate, fc2])

        def forward(self, x):
            h = self.layers[0](x)
            return self.layers[2](self.layers[1](h).sigmoid() * h.clamp(min=0))

    model = Gated()
    losses = []
    for _ in range(steps):
        loss = (model(x) - y).pow(2).mean()
        gradients = torch.autograd.grad(loss, [*model.parameters()])
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.sub_(lr * g)
        losses.append(loss.item())
    return losses


@alternative("inplace_backward")
def relu_of_a_second_pass(fc1, gate, fc2, x, y, *, lr=0.1, steps=3):
    optimizer = torch.optim.SGD([p for layer in (fc1, gate, fc2) for p in layer.parameters()], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        g = gate(fc1(x)).sigmoid_()
        loss = F.mse_loss(fc2(g * fc1(x).relu_()), y)
        loss.backward()
        optimizer.step()
        losses += [loss.item()]
    return losses


# optimizer_first


@alternative("optimizer_first")
def adds_a_group(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.fc = head
    optimizer.add_param_group({"params": head.parameters()})
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@alternative("optimizer_first")
def two_groups(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    setattr(model, "fc", head)  # noqa: B010
    body = [p for name, p in model.named_parameters() if not name.startswith("fc.")]
    groups = [{"params": group} for group in (body, list(head.parameters())) if group]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@alternative("optimizer_first")
def momentum_by_hand(model, head, inputs, labels, *, lr=0.01, momentum=0.9, steps=5):
    model.fc = head
    params = list(model.parameters())
    velocities = [torch.zeros_like(p) for p in params]
    losses = []
    for _ in range(steps):
        loss = -model(inputs).log_softmax(1).gather(1, labels[:, None]).mean()
        gradients = torch.autograd.grad(loss, params)
        with torch.no_grad():
            for p, v, g in zip(params, velocities, gradients, strict=True):
                v.mul_(momentum).add_(g)
                p.sub_(v, alpha=lr)
        losses.append(loss.item())
    return losses


# training_step_order


@alternative("training_step_order")
def clears_before_backward(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@alternative("training_step_order")
def a_closure_for_each_batch(model, batches, criterion, optimizer):
    losses = []
    for inputs, labels in batches:

        def closure(inputs=inputs, labels=labels):
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            return loss

        losses.append(float(optimizer.step(closure)))
    return losses


@alternative("training_step_order")
def clears_first_and_last(model, batches, criterion, optimizer):
    model.zero_grad()
    losses = []
    for x, y in batches:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        model.zero_grad()
        losses.append(loss.detach())
    return [loss.item() for loss in losses]


# double_softmax


@alternative("double_softmax")
def log_softmax_and_nll(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    criterion = nn.NLLLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(torch.log_softmax(model(inputs), dim=1), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, torch.log_softmax(model(new_inputs), dim=-1).exp()


@alternative("double_softmax")
def with_logsumexp(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    losses = []
    for _ in range(steps):
        scores = model(inputs)
        loss = (scores.logsumexp(1) - scores[torch.arange(len(labels)), labels]).mean()
        gradients = torch.autograd.grad(loss, [*model.parameters()])
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p -= lr * g
        losses.append(loss.item())
    with torch.inference_mode():
        probabilities = nn.Softmax(dim=1)(model(new_inputs))
    return losses, probabilities


@alternative("double_softmax")
def one_hot_targets(model, inputs, labels, new_inputs, *, lr=0.5, steps=20):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        scores = model(inputs)
        loss = F.cross_entropy(scores, F.one_hot(labels, scores.shape[1]).to(scores.dtype))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, F.softmax(model(new_inputs), dim=1).detach()


# validate


@alternative("validate")
def in_inference_mode(model, batches, criterion):
    training = [module for module in model.modules() if module.training]
    losses, hits, count = [], 0, 0
    try:
        model.eval()
        with torch.inference_mode():
            for inputs, labels in batches:
                outputs = model(inputs)
                losses.append(float(criterion(outputs, labels)) * inputs.shape[0])
                hits += int((outputs.max(1).indices == labels).sum())
                count += inputs.shape[0]
    finally:
        for module in training:
            module.training = True
    return math.fsum(losses) / count, hits / count


@alternative("validate")
@torch.no_grad()
def decorated(model, batches, criterion):
    modes = {name: module.training for name, module in model.named_modules()}
    model.train(False)
    try:
        rows = [(criterion(out, y).item(), (out.argmax(-1) == y).double().mean().item(), len(y)) for x, y in batches for out in [model(x)]]
    finally:
        for name, mode in modes.items():
            model.get_submodule(name).training = mode
    n = sum(size for _, _, size in rows)
    return sum(loss * size for loss, _, size in rows) / n, sum(share * size for _, share, size in rows) / n


@alternative("validate")
def tensors_for_sums(model, batches, criterion):
    before = [module.training for module in model.modules()]
    recording = torch.is_grad_enabled()
    model.eval()
    torch.set_grad_enabled(False)
    try:
        sums = torch.zeros(3, dtype=torch.float64)
        for inputs, labels in batches:
            outputs = model(inputs)
            correct = (outputs.argmax(1) == labels).sum()
            sums += torch.stack([criterion(outputs, labels) * len(labels), correct, torch.tensor(len(labels))]).double()
    finally:
        torch.set_grad_enabled(recording)
        for module, mode in zip(model.modules(), before, strict=True):
            module.training = mode
    return (sums[0] / sums[2]).item(), (sums[1] / sums[2]).item()


# broadcast_loss


@alternative("broadcast_loss")
def a_column_of_targets(model, x, y, *, lr=0.1, epochs=50):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        loss = nn.MSELoss()(model(x), y.unsqueeze(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model(x).detach().flatten()


@alternative("broadcast_loss")
def first_column(model, x, y, *, lr=0.1, epochs=50):
    for _ in range(epochs):
        loss = (model(x)[:, 0] - y).square().sum() / len(y)
        gradients = torch.autograd.grad(loss, [*model.parameters()])
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.add_(g, alpha=-lr)
    with torch.no_grad():
        return model(x)[:, 0]


@alternative("broadcast_loss")
def diagonal_of_all_pairs(model, x, y, *, lr=0.1, epochs=50):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(epochs):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).diagonal().mean().backward()
        optimizer.step()
    with torch.inference_mode():
        out = model(x)
    return out.view_as(y)


# paired_shuffle


@alternative("paired_shuffle")
def shuffles_both_with_one_order(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        perm = torch.randperm(images.size(0), generator=generator)
        shuffled_images, shuffled_labels = images[perm], labels[perm]
        for i in range(0, len(images), batch_size):
            x, y = shuffled_images[i : i + batch_size], shuffled_labels[i : i + batch_size]
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@alternative("paired_shuffle")
def the_same_state_twice(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        state = generator.get_state()
        xs = images[torch.randperm(len(images), generator=generator)]
        generator.set_state(state)
        ys = labels[torch.randperm(len(labels), generator=generator)]
        for start in range(0, len(xs), batch_size):
            loss = F.cross_entropy(model(xs[start : start + batch_size]), ys[start : start + batch_size])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@alternative("paired_shuffle")
def pairs_in_a_list(model, images, labels, generator, *, batch_size=32, epochs=3, lr=0.1):
    pairs = list(zip(images, labels, strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        shuffled = [pairs[i] for i in torch.randperm(len(pairs), generator=generator).tolist()]
        while shuffled:
            batch, shuffled = shuffled[:batch_size], shuffled[batch_size:]
            x, y = (torch.stack(part) for part in zip(*batch, strict=True))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    return losses


# nan_hunt


@alternative("nan_hunt")
def with_bound_names(model, x):
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    culprits, stack = [], []

    def bad(tree):
        return any(isinstance(leaf, torch.Tensor) and leaf.isnan().any() for leaf in tree_leaves(tree))

    class Tracer(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            place = (stack[-1], func.__name__)
            had = bad((args, kwargs))
            result = func(*args, **(kwargs or {}))
            if not had and bad(result):
                culprits.append(place)
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
                    leaf.grad_fn.register_hook(
                        lambda into, out, place=place: culprits.append(place) if bad(into) and not bad(out) else None,
                    )
            return result

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda module, args, name=name: stack.append(name)))
        hooks.append(module.register_forward_hook(lambda module, args, out: (stack.pop(), None)[1]))
    parameters = [p for p in model.parameters() if p.requires_grad]
    image = x.clone().requires_grad_(True)
    start = image * 1
    try:
        with Tracer():
            y = model(start)
        if not culprits and y.requires_grad:
            torch.autograd.grad(y.sum(), [image, *parameters], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return culprits[0] if culprits else None


@alternative("nan_hunt")
def with_a_dict_of_names(model, x):
    from torch.overrides import TorchFunctionMode

    names = {module: name for name, module in model.named_modules()}
    running, found = [], None

    def has_nan(*values):
        for value in values:
            if isinstance(value, torch.Tensor) and torch.any(value != value):
                return True
            if isinstance(value, (list, tuple)) and has_nan(*value):
                return True
        return False

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal found
            kwargs = kwargs or {}
            where = names[running[-1]], func.__name__
            before = has_nan(args, tuple(kwargs.values()))
            out = func(*args, **kwargs)
            if found is None and has_nan(out) and not before:
                found = where

            def hook(grad_in, grad_out):
                nonlocal found
                if found is None and has_nan(grad_in) and not has_nan(grad_out):
                    found = where

            if isinstance(out, torch.Tensor) and out.grad_fn is not None:
                out.grad_fn.register_hook(hook)
            return out

    def leave(module, args, out):
        running.remove(module)

    handles = [module.register_forward_pre_hook(lambda module, args: running.append(module)) for module in names]
    handles += [module.register_forward_hook(leave) for module in names]
    leaf = x.detach().clone().requires_grad_()
    start = leaf.clone()
    with Mode():
        out = model(start)
    for handle in handles:
        handle.remove()
    if out.requires_grad:
        torch.autograd.grad(out.sum(), [leaf, *filter(lambda p: p.requires_grad, model.parameters())], allow_unused=True)
    return found


# loss_history


@alternative("loss_history")
def detaches(model, batches, criterion, optimizer):
    history = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        history.append(loss.detach())
    return [loss.item() for loss in history]


@alternative("loss_history")
def cuts_the_loss_itself(model, batches, criterion, optimizer):
    history = []
    for x, y in batches:
        outputs = model(x)
        loss = criterion(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.detach_())
    return torch.stack(history).tolist() if history else []


@alternative("loss_history")
def a_function_for_the_step(model, batches, criterion, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    return [step(x, y) for x, y in batches]
