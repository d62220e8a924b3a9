"""All tasks of ecosystem, solved in a way of its own."""

import operator
from functools import reduce
from itertools import chain, count

import torch
from torch.nn import functional as F


def twice_op(name):
    op = torch.library.custom_op(
        name,
        lambda x, scale: torch.stack([x, x.mul(scale)]).reshape(-1, *x.shape[1:]) if x.numel() else x.new_zeros(2 * len(x), *x.shape[1:]),
        mutates_args=(),
        schema="(Tensor x, float scale) -> Tensor",
    )
    op.register_fake(lambda x, scale: x.new_zeros((x.size(0) + x.size(0), *x.size()[1:])))

    def setup(ctx, inputs, output):
        x, ctx.factor = inputs
        ctx.rows = x.size(0)

    def backward(ctx, grad):
        return torch.add(grad.narrow(0, 0, ctx.rows), grad.narrow(0, ctx.rows, ctx.rows), alpha=ctx.factor), None

    op.register_autograd(backward, setup_context=setup)
    return op


def break_free(x, limit):
    spoilt = torch.logical_not(torch.isfinite(x)).any(dim=1)
    zero, one = x.new_zeros(()), x.new_ones(())
    rows = torch.where(spoilt.reshape(-1, 1), zero, x)
    energy = (rows * rows).sum()
    above = torch.sqrt(energy.detach()) > limit
    total = torch.where(above, energy, one).sqrt()
    factor = torch.where(above, limit / total, one)
    return rows.mul(factor), factor, spoilt.sum(dtype=torch.int64)


class CountingBackend:
    def __init__(self, inner=None):
        self.inner = inner
        self.graphs = []
        self.recompiles = 0

    @staticmethod
    def name_of(node, modules):
        if callable(node.target):
            return node.target.__name__
        return modules[node.target].__class__.__name__ if node.op == "call_module" else node.target

    def __call__(self, graph, inputs):
        modules = dict(graph.named_modules())
        kinds = ("call_function", "call_method", "call_module")
        entry = {
            "operations": [self.name_of(node, modules) for node in graph.graph.nodes if node.op in kinds],
            "shapes": [tuple(value.size()) for value in inputs if torch.is_tensor(value)],
            "open": len([value for value in inputs if isinstance(value, torch.SymInt)]),
            "calls": 0,
        }
        if entry["operations"] in [other["operations"] for other in self.graphs]:
            self.recompiles = self.recompiles + 1
        self.graphs += [entry]
        if self.inner is None:
            work = graph
        else:
            work = self.inner(graph, inputs)
        ticks = count(1)

        def run(*values):
            entry["calls"] = next(ticks)
            return work(*values)

        return run

    def ran(self):
        everything = chain.from_iterable(entry["operations"] * entry["calls"] for entry in self.graphs)
        times = {}
        for name in everything:
            times[name] = 1 + times.get(name, 0)
        return times


def launch_spec(processes, node, *, master="localhost", port=29500, env=None):
    def check(right, what):
        if not right:
            raise ValueError(f"this is no {what}")

    check(len(processes) > 0, "list of nodes")
    for n in processes:
        check(type(n) == int and n > 0, "number of processes")
    check(type(node) == int and node >= 0 and node < len(processes), "node")
    check(type(port) == int and 0 < port < 2**16, "port")
    check(master != "" and not set(master) & set(" \t\n\r\f\v"), "address")
    extra = {} if env is None else env
    mine = processes[node]
    first = reduce(operator.add, processes[:node], 0)
    specs = []
    for rank in range(first, first + mine):
        spec = {
            "RANK": rank,
            "LOCAL_RANK": rank - first,
            "WORLD_SIZE": first + sum(processes[node:]),
            "LOCAL_WORLD_SIZE": mine,
            "GROUP_RANK": node,
            "GROUP_WORLD_SIZE": len(processes),
            "MASTER_ADDR": master,
            "MASTER_PORT": port,
        }
        check(not [name for name in extra if name in spec], "variable that is yours to set")
        spec = {name: str(value) for name, value in spec.items()}
        spec.update(extra)
        if mine >= 2 and "OMP_NUM_THREADS" not in extra:
            spec["OMP_NUM_THREADS"] = "1"
        specs.append(spec)
    return specs


def log_run(folder, epochs, accuracies, *, every=1, first_step=0):
    if len(epochs) != len(accuracies) or not every >= 1:
        raise ValueError("there is an accuracy for each epoch, and `every` is 1 or more")
    from torch.utils.tensorboard.writer import SummaryWriter

    writer = SummaryWriter(folder)
    steps = count(first_step)
    following = first_step
    for number in range(len(epochs)):
        so_far = []
        for loss in epochs[number]:
            step = next(steps)
            following = step + 1
            so_far.append(loss.item() if torch.is_tensor(loss) else loss)
            if step % every == 0:
                writer.add_scalar("loss/batch", so_far[-1], step)
        if so_far:
            mean = torch.tensor(so_far, dtype=torch.float64).mean().item()
            writer.add_scalar("loss/epoch", mean, step)
            writer.add_scalar("accuracy", accuracies[number], step)
    writer.close()
    return following


def lit_classifier(model, lr=0.1, warmup=4):
    import lightning.pytorch as pl

    class Net(pl.LightningModule):
        def __init__(self, model, lr, warmup):
            super().__init__()
            self.save_hyperparameters(ignore="model")
            self.model = model

        def forward(self, *inputs):
            return self.model(*inputs)

        def shared(self, batch, prefix):
            x, y = batch
            scores = self.model(x)
            loss = F.nll_loss(F.log_softmax(scores, dim=1), y)
            self.log(f"{prefix}_loss", loss, on_step=False, on_epoch=True, batch_size=y.shape[0])
            return loss, torch.eq(scores.argmax(dim=1), y).to(torch.float32).mean(), y.shape[0]

        def training_step(self, batch, batch_idx):
            return self.shared(batch, "train")[0]

        def validation_step(self, batch, batch_idx):
            _, share, size = self.shared(batch, "val")
            self.log("val_acc", share, on_step=False, on_epoch=True, batch_size=size)

        def predict_step(self, batch, batch_idx):
            x = batch[0] if type(batch) in (list, tuple) else batch
            return self(x).max(dim=1)[1]

        def configure_optimizers(self):
            steps = self.hparams["warmup"]
            sgd = torch.optim.SGD((p for p in self.model.parameters() if p.requires_grad), lr=self.hparams["lr"])
            ramp = torch.optim.lr_scheduler.LambdaLR(sgd, lambda n: 1.0 if n + 1 >= steps else (n + 1) / steps)
            return dict(optimizer=sgd, lr_scheduler=dict(scheduler=ramp, interval="step", frequency=1))

    return Net(model, lr, warmup)
