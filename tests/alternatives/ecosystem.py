"""Other correct answers to the tasks of ecosystem: the hidden suite must accept every one."""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from grader.testing import alternative

# twice_op


@alternative("twice_op")
def by_numpy(name):
    def work(x: Tensor, scale: float) -> Tensor:
        array = x.numpy(force=True)
        return torch.from_numpy(np.concatenate([array, array * array.dtype.type(scale)]))

    def remember(ctx, inputs, output):
        _, ctx.scale = inputs
        ctx.n = len(output) // 2

    def backward(ctx, grad):
        return grad[: ctx.n] + grad[ctx.n :] * ctx.scale, None

    op = torch.library.custom_op(name, work, mutates_args=(), device_types="cpu")
    op.register_fake(lambda x, scale: torch.empty(len(x) * 2, *x.shape[1:], dtype=x.dtype, device=x.device))
    op.register_autograd(backward, setup_context=remember)
    return op


@alternative("twice_op")
def with_a_schema(name):
    def twice(x, scale):
        out = torch.empty((2, *x.shape), dtype=x.dtype)
        out[0] = x
        torch.mul(x, scale, out=out[1])
        return out.flatten(0, 1)

    op = torch.library.custom_op(name, twice, mutates_args=(), schema="(Tensor x, float scale) -> Tensor")

    @op.register_fake
    def _(x, scale):
        return torch.cat([x, x])

    def keep(ctx, inputs, keyword_only_inputs=None, output=None):
        ctx.save_for_backward(torch.tensor([1.0, inputs[1]], dtype=torch.float64))

    def backward(ctx, grad):
        (factors,) = ctx.saved_tensors
        halves = grad.unflatten(0, (2, grad.shape[0] // 2))
        return torch.einsum("k,k...->...", factors.to(grad.dtype), halves), None

    op.register_autograd(backward, setup_context=lambda ctx, inputs, output: keep(ctx, inputs))
    return op


# break_free


@alternative("break_free")
def maximum_of_norms(x, limit):
    bad = x.isnan().any(-1) | x.isinf().any(-1)
    rows = x.masked_fill(bad.unsqueeze(-1), 0)
    total = torch.linalg.vector_norm(rows)
    too_large = total > limit
    safe = torch.where(too_large, total, torch.ones_like(total))
    factor = torch.where(too_large, limit / safe, torch.ones_like(total))
    return factor * rows, factor, bad.count_nonzero()


@alternative("break_free")
def blended(x, limit):
    good = torch.isfinite(x * 0).all(dim=1, keepdim=True)
    rows = torch.where(good, x, torch.zeros((), dtype=x.dtype, device=x.device))
    squares = torch.einsum("nd,nd->", rows, rows)
    large = (squares.detach().sqrt() > limit).to(x.dtype)
    factor = large * limit * (squares * large + (1 - large)).pow(-0.5) + (1 - large) if limit < float("inf") else torch.ones_like(squares)
    return rows * factor, factor, good.logical_not().sum().to(torch.int64)


# CountingBackend


@alternative("CountingBackend")
class WithSets:
    def __init__(self, inner=None):
        self._inner = inner if inner is not None else lambda graph, inputs: graph
        self.graphs = []

    @property
    def recompiles(self):
        return len(self.graphs) - len({tuple(record["operations"]) for record in self.graphs})

    def __call__(self, graph, inputs):
        index = len(self.graphs)
        names = []
        for node in graph.graph.nodes:
            match node.op:
                case "call_function":
                    names.append(node.target.__name__)
                case "call_method":
                    names.append(node.target)
                case "call_module":
                    names.append(dict(graph.named_modules())[node.target].__class__.__name__)
        shapes = []
        for value in inputs:
            if torch.is_tensor(value):
                shapes.append(tuple(int(n) for n in value.size()))
        self.graphs.append(
            {"operations": names, "shapes": shapes, "calls": 0, "open": [type(value) for value in inputs].count(torch.SymInt)}
        )
        work = self._inner(graph, inputs)

        def run(*args, **kwargs):
            self.graphs[index]["calls"] += 1
            return work(*args, **kwargs)

        return run

    def ran(self):
        names = {name for record in self.graphs for name in record["operations"] if record["calls"] > 0}
        return {name: sum(record["operations"].count(name) * record["calls"] for record in self.graphs) for name in sorted(names)}


@alternative("CountingBackend")
class WithAClassForRuns:
    class Run:
        def __init__(self, record):
            self.record, self.work = record, None

        def __call__(self, *args):
            self.record.update(calls=self.record["calls"] + 1)
            return self.work(*args)

    def __init__(self, inner=None):
        self.inner = inner
        self.graphs = []
        self.seen = set()
        self.recompiles = 0

    def __call__(self, graph, inputs):
        operations = []
        for node in graph.graph.nodes:
            if node.op in ("placeholder", "get_attr", "output"):
                continue
            target = graph.get_submodule(node.target).__class__ if node.op == "call_module" else node.target
            operations.append(target if isinstance(target, str) else target.__name__)
        if tuple(operations) in self.seen:
            self.recompiles += 1
        self.seen.add(tuple(operations))
        shapes = [(*x.shape,) for x in inputs if isinstance(x, Tensor)]
        run = self.Run(
            {"calls": 0, "open": len([1 for x in inputs if type(x) is torch.SymInt]), "shapes": shapes, "operations": operations}
        )
        self.graphs.append(run.record)
        run.work = graph if self.inner is None else self.inner(graph, inputs)
        return run

    def ran(self):
        times = {}
        for record in self.graphs:
            if record["calls"]:
                for name in record["operations"]:
                    times[name] = times.get(name, 0) + record["calls"]
        return times


# launch_spec


@alternative("launch_spec")
def by_accumulation(processes, node, *, master="localhost", port=29500, env=None):
    def whole(n, low, high):
        if isinstance(n, bool) or not isinstance(n, int) or not low <= n <= high:
            raise ValueError(n)
        return n

    counts = [whole(n, 1, 10**9) for n in processes]
    if len(counts) == 0:
        raise ValueError("no node")
    node, port = whole(node, 0, len(counts) - 1), whole(port, 1, 2**16 - 1)
    if master.split() != [master]:
        raise ValueError(master)
    ends = list(accumulate(counts))
    specs = []
    for local, rank in enumerate(range(ends[node] - counts[node], ends[node])):
        spec = dict(env) if env else {}
        contract = {
            "RANK": rank,
            "LOCAL_RANK": local,
            "WORLD_SIZE": ends[-1],
            "LOCAL_WORLD_SIZE": counts[node],
            "GROUP_RANK": node,
            "GROUP_WORLD_SIZE": len(counts),
            "MASTER_ADDR": master,
            "MASTER_PORT": port,
        }
        for key, value in contract.items():
            if key in spec:
                raise ValueError(f"{key} is set by env")
            spec[key] = f"{value}"
        if counts[node] > 1:
            spec.setdefault("OMP_NUM_THREADS", "1")
        specs.append(spec)
    return specs


@alternative("launch_spec")
def by_table(processes, node, *, master="localhost", port=29500, env=None):
    numbers = [*processes, node, port]
    if any(type(n) is not int for n in numbers) or not processes or min(processes) < 1:
        raise ValueError("ints are due")
    if node not in range(len(processes)) or port not in range(1, 65536) or not master or master != "".join(master.split()):
        raise ValueError("out of range")
    ranks = [(n, local) for n, count in enumerate(processes) for local in range(count)]
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
    if set(names) & set(env or ()):
        raise ValueError("env")
    found = []
    for rank, (n, local) in enumerate(ranks):
        if n == node:
            values = [rank, local, len(ranks), processes[n], n, len(processes), master, port]
            spec = {**(env or {}), **dict(zip(names, map(str, values), strict=True))}
            if processes[n] != 1 and "OMP_NUM_THREADS" not in spec:
                spec["OMP_NUM_THREADS"] = "1"
            found.append(spec)
    return found


# log_run


@alternative("log_run")
def epochs_behind(folder, epochs, accuracies, *, every=1, first_step=0):
    if every <= 0 or len(epochs) - len(accuracies):
        raise ValueError("these do not fit")
    import torch.utils.tensorboard as tb

    numbers = [[loss.detach().double().item() if torch.is_tensor(loss) else loss for loss in losses] for losses in epochs]
    ends = list(accumulate(map(len, numbers), initial=first_step))
    writer = tb.SummaryWriter(log_dir=str(folder))
    try:
        for step, loss in enumerate([loss for losses in numbers for loss in losses], first_step):
            if not step % every:
                writer.add_scalar("loss/batch", loss, global_step=step)
        for losses, accuracy, end in zip(numbers, accuracies, ends[1:], strict=True):
            if losses:
                writer.add_scalar("loss/epoch", np.mean(np.asarray(losses, np.float64)), global_step=end - 1)
                writer.add_scalar("accuracy", accuracy, global_step=end - 1)
    finally:
        writer.close()
    return ends[-1]


@alternative("log_run")
def as_tensors(folder, epochs, accuracies, *, every=1, first_step=0):
    from torch.utils.tensorboard import SummaryWriter

    if len(epochs) != len(accuracies):
        raise ValueError("accuracies")
    if every < 1:
        raise ValueError("every")
    writer = SummaryWriter(folder, max_queue=1)
    step = first_step - 1
    for losses, accuracy in zip(epochs, accuracies, strict=True):
        total = 0.0
        for loss in losses:
            step += 1
            total += float(loss.detach() if isinstance(loss, Tensor) else loss)
            if step // every * every == step:
                writer.add_scalar("loss/batch", torch.as_tensor(loss).detach().float(), step, new_style=True)
        if len(losses) > 0:
            writer.add_scalar("accuracy", torch.tensor(accuracy), step)
            writer.add_scalar("loss/epoch", total / len(losses), step, new_style=True)
    writer.flush()
    writer.close()
    return step + 1


# lit_classifier


@alternative("lit_classifier")
def with_negative_log_likelihood(model, lr=0.1, warmup=4):
    from lightning.pytorch import LightningModule

    class Classifier(LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"lr": lr, "warmup": warmup})
            self.model = model
            self.log_all = {"on_step": False, "on_epoch": True}

        def forward(self, inputs):
            return self.model(inputs)

        def _losses(self, batch):
            inputs, labels = batch
            logits = self.model(inputs)
            picked = logits.log_softmax(dim=-1).gather(1, labels[:, None])
            return -picked.mean(), logits.max(dim=1).indices.eq(labels)

        def training_step(self, batch, batch_idx):
            loss, right = self._losses(batch)
            self.log("train_loss", loss.detach(), batch_size=right.numel(), **self.log_all)
            return {"loss": loss}["loss"]

        def validation_step(self, batch, batch_idx):
            loss, right = self._losses(batch)
            self.log("val_loss", loss, batch_size=right.numel(), **self.log_all)
            self.log("val_acc", right.double().mean().float(), batch_size=right.numel(), **self.log_all)
            return loss

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            if isinstance(batch, tuple | list):
                batch, *_ = batch
            return torch.argmax(self.model(batch), dim=-1)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr)
            ramp = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1) if warmup > 1 else None
            ramp = ramp or torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ramp, "interval": "step", "frequency": 1}}

    return Classifier()


@alternative("lit_classifier")
def with_sums_of_its_own(model, lr=0.1, warmup=4):
    import lightning as L

    class Own(L.LightningModule):
        def __init__(self, net, lr, warmup):
            super().__init__()
            self.save_hyperparameters("lr", "warmup")
            self.model = net
            self.loss = nn.CrossEntropyLoss(reduction="none")

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, batch_idx):
            losses = self.loss(self(batch[0]), batch[1])
            self.log_dict({"train_loss": losses.mean()}, False, None, False, True, batch_size=losses.shape[0])
            return losses.mean()

        def validation_step(self, batch, batch_idx):
            x, y = batch[0], batch[1]
            with torch.no_grad():
                logits = self(x)
                values = {"val_loss": self.loss(logits, y).sum() / len(y), "val_acc": (logits.argmax(-1) == y).sum() / len(y)}
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
            return values

        def predict_step(self, batch, batch_idx):
            x = batch if torch.is_tensor(batch) else batch[0]
            return self(x).topk(1, dim=1).indices[:, 0]

        def configure_optimizers(self):
            trained = [p for p in self.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(trained, lr=self.hparams.lr, momentum=0, weight_decay=0)
            rule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, [lambda n: (n + 1) / self.hparams.warmup if n + 1 < self.hparams.warmup else 1]
            )
            return {"optimizer": optimizer, "lr_scheduler": {"interval": "step", "scheduler": rule, "name": "warm-up"}}

    return Own(model, lr, warmup)
