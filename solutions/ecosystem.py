"""Ecosystem: the tools around torch: own operators, the compiler, the launcher, TensorBoard, and Lightning.

Every task stands alone. Two of them need a package that torch does not bring: log_run needs tensorboard, and lit_classifier needs lightning
(`pip install tensorboard lightning`). Where such a package is missing, the tests of its task are skipped and do not count.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.library import CustomOpDef


def twice_op(name: str) -> CustomOpDef:
    """Make a new operator of torch and register it under this name.

    It takes a tensor x and a number scale, and returns x twice, one behind the other along the first axis, the second time
    multiplied by scale. In an imaginary library this is done by NumPy, which neither autograd nor the compiler can look into. So they
    have to be told. The operator needs three parts:

    - The work, on CPU tensors, with the schema (Tensor x, float scale) -> Tensor. It gives the dtype of x, and memory of its own.
    - The fake: shape, dtype and device of the result, without looking at a number. With it the operator runs on the device
      "meta", and torch.compile takes it as one node of a graph, also with fullgraph=True.
    - The gradient with respect to x, made of tensor operations, so that a gradient of the gradient works as well. There is none
      with respect to scale.

    Example: with op = twice_op("lab::twice"), both op(x, 0.5) and torch.ops.lab.twice(x, 0.5) take [1, 2] to [1, 2, 0.5, 1].

    Args:
        name: such as "lab::twice": a namespace and a name. It may have been registered before; then the new operator replaces the old
            one.

    Returns: the operator, as torch.library.custom_op returns it. It is called with
        x: (N, …), at least 1-D, float32 or float64. N may be 0.
        scale: a Python float.
        and returns (2N, …), the dtype and device of x.
    Source: the tutorial "Custom Python Operators" of PyTorch, at docs.pytorch.org/tutorials
    """

    @torch.library.custom_op(name, mutates_args=())
    def twice(x: Tensor, scale: float) -> Tensor:
        return torch.cat([x, x * scale])

    @twice.register_fake
    def fake(x: Tensor, scale: float) -> Tensor:
        return x.new_empty(2 * x.shape[0], *x.shape[1:])

    def remember(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.scale = inputs[1]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        first, second = grad.tensor_split(2)
        return first + ctx.scale * second, None

    twice.register_autograd(backward, setup_context=remember)
    return twice


def break_free(x: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and clip a batch, so that torch.compile(break_free, fullgraph=True) takes it whole.

    1. A row that has a NaN or an infinity becomes a row of zeros.
    2. total is the Euclidean norm of all that is left: the root of the sum of all squares.
    3. All is multiplied by factor = limit / total where total > limit, and by factor = 1 otherwise.

    The code below says this, and works by itself. But it asks for numbers while it runs, and a graph that is made before there are
    numbers can't: torch.compile would break its graph at each such place. Mend it, so that one graph takes all of it:

    - It runs under torch.compile(fullgraph=True), with gradients, and on the device "meta", where there are no numbers.
    - One graph, compiled with dynamic=True, serves every number of rows from 2 on. A loop over rows would be unrolled.
    - It prints nothing.

    Gradients flow to x, also through factor, and none of them is NaN: a bad row has gradient 0, where total ≤ limit the factor is a
    constant, and a batch of zeros is such a case, even if limit is 0. Where both branches of a torch.where are computed, the
    one that was not chosen can still bring a NaN: 0 · inf.

    What happens now: torch._dynamo.exc.Unsupported: … Tensor.item() …

    Args:
        x: (N, D), float32 or float64, of numbers whose squares can be summed up. It is left as it is.
        limit: 0 or more, a Python float.

    Returns: (rows, factor, bad)
        rows: (N, D), dtype of x.
        factor: 0-d, dtype of x.
        bad: 0-d, int64: how many rows became zeros.
    Not allowed: torch.compiler.allow_in_graph, torch._dynamo.allow_in_graph and torch._dynamo.nonstrict_trace, which hide code.
    """
    good = x.isfinite().all(1)
    rows = torch.where(good[:, None], x, 0)
    squares = rows.square().sum()
    clipped = squares.sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~good).sum()


class CountingBackend:
    """A backend for torch.compile that keeps a record of the graphs and leaves the work to others.

        backend = CountingBackend()
        compiled = torch.compile(f, backend=backend)

    For each graph that torch.compile finds, it calls backend(graph, inputs) once, and then runs what that returned in the place of
    the graph, each time that the compiled code runs.

    Attributes:
        graphs: a list with one dict for each graph, in the order in which they came:
            "operations": the names of the graph's operations, a list, in the order of graph.graph.nodes. Operations are the nodes
                whose op is "call_function" (its name: target.__name__), "call_method" (target, a str) or "call_module" (the
                name of the class of graph.get_submodule(target)). No other nodes count, nor do graphs within a node.
            "shapes": a list with the sizes of each tensor among the inputs, a tuple of ints. Other inputs are left out.
            "open": how many of the inputs are a torch.SymInt, which is how torch.compile hands in a size that it leaves open.
            "calls": how often this graph was run.
        recompiles: how many of the graphs have the same operations, in the same order, as some earlier graph: an int.
    """

    def __init__(self, inner: Callable[[GraphModule, list[Any]], Callable[..., Any]] | None = None) -> None:
        """Begin with no graph.

        Args:
            inner: the backend that does the work, called as inner(graph, inputs). None: the graph runs as it is (graph.forward).
        """
        self.inner = inner
        self.graphs: list[dict[str, Any]] = []
        self.recompiles = 0

    def __call__(self, graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Record a graph, and hand it on.

        The record is made before inner is called: it shows the graph as it came, whatever inner makes of it, and stays where
        inner raises. The error is passed on.

        Args:
            graph: from torch.compile, or from anywhere else.
            inputs: what the graph will be called with, or stand-ins: tensors, numbers, sizes.

        Returns: a function that adds 1 to the graph's "calls" and then returns what inner's function, or the graph, returns for the
            same arguments. A call that ends in an error counts.
        """
        operations = [_operation(node, graph) for node in graph.graph.nodes if node.op.startswith("call_")]
        shapes = [x.shape for x in inputs if isinstance(x, Tensor)]
        left_open = sum(isinstance(x, torch.SymInt) for x in inputs)
        self.recompiles += any(operations == other["operations"] for other in self.graphs)
        record = {"operations": operations, "shapes": shapes, "open": left_open, "calls": 0}
        self.graphs.append(record)
        run = self.inner(graph, inputs) if self.inner else graph.forward

        def counted(*args: Any) -> Any:
            record["calls"] += 1
            return run(*args)

        return counted

    def ran(self) -> dict[str, int]:
        """How often each operation ran, over all graphs and calls, by name. Those that never ran are left out."""
        total = Counter[str]()
        for record in self.graphs:
            for name in record["operations"]:
                total[name] += record["calls"]
        return dict(+total)


def _operation(node: Any, graph: GraphModule) -> str:
    if node.op == "call_function":
        return node.target.__name__
    return node.target if node.op == "call_method" else type(graph.get_submodule(node.target)).__name__


def launch_spec(
    processes: Sequence[int],
    node: int,
    *,
    master: str = "localhost",
    port: int = 29500,
    env: Mapping[str, str] | None = None,
) -> list[dict[str, str]]:
    """Plan what a launcher such as torchrun tells each process that it starts on one machine (node).

    A process of distributed training learns who it is from its environment variables. These are set for each, as strings:

        RANK                 its number among all processes; node 0 has the first ones, node 1 the next ones, and so on
        LOCAL_RANK           its number among those of its node
        WORLD_SIZE           how many processes there are in all
        LOCAL_WORLD_SIZE     how many there are on its node
        GROUP_RANK           the number of its node
        GROUP_WORLD_SIZE     how many nodes there are
        MASTER_ADDR          master
        MASTER_PORT          port
        OMP_NUM_THREADS      "1", but only where the node has more than one process and env does not set it

    All that env has is there as well.

    Args:
        processes: how many processes each node starts, at least 1 each. Nodes may differ. There is at least one node.
        node: the number of the node that is meant, from 0.
        master: the name or address of the machine where all meet; not empty, and without whitespace.
        port: 1 to 65535.
        env: more variables, for each process. It may set OMP_NUM_THREADS, and none of the eight others.

    Returns: a dict for each process of this node, in the order of LOCAL_RANK. Each is a dict of its own.
    Raises: ValueError for all that the above rules out. A count, number or port has to be an int, and True is none: processes
        that are [True], 2.0 or "2", and a node or a port of True, raise ValueError as well.
    Source: the documentation of torchrun, docs.pytorch.org/docs/stable/elastic/run.html
    """
    if not processes or not all(type(n) is int and n >= 1 for n in processes):
        raise ValueError("processes needs an int of at least 1 for each node, and at least one node")
    if type(node) is not int or not 0 <= node < len(processes):
        raise ValueError(f"there is no node {node!r}")
    if type(port) is not int or not 1 <= port <= 65535:
        raise ValueError(f"{port!r} is no port")
    if not master or any(letter.isspace() for letter in master):
        raise ValueError(f"{master!r} is no address")
    here, before = processes[node], sum(processes[:node])
    shared = {
        "WORLD_SIZE": str(sum(processes)),
        "LOCAL_WORLD_SIZE": str(here),
        "GROUP_RANK": str(node),
        "GROUP_WORLD_SIZE": str(len(processes)),
        "MASTER_ADDR": master,
        "MASTER_PORT": str(port),
    }
    given = env or {}
    if given.keys() & {*shared, "RANK", "LOCAL_RANK"}:
        raise ValueError("env sets what the launcher sets")
    threads = {"OMP_NUM_THREADS": "1"} if here > 1 else {}
    return [{**threads, **given, **shared, "RANK": str(before + local), "LOCAL_RANK": str(local)} for local in range(here)]


def log_run(
    folder: str,
    epochs: Sequence[Sequence[Tensor | float]],
    accuracies: Sequence[float],
    *,
    every: int = 1,
    first_step: int = 0,
) -> int:
    """Write a finished training's scalars into a folder, for TensorBoard.

    Batches are numbered through, over the end of an epoch: the first one is step first_step, the next one first_step + 1, and so on.
    With torch.utils.tensorboard.SummaryWriter's add_scalar, three curves are written:

        tag             value                               global_step
        loss/batch      the loss of a batch                 its step, where the step is a multiple of every
        loss/epoch      the mean loss of an epoch's         that of the epoch's last batch
                        batches, all of them
        accuracy        the epoch's accuracy                that of the epoch's last batch

    An epoch without batches writes nothing. The mean is taken of Python floats: float16 can't hold the sum of many losses. NaN and
    infinities are written like other numbers.

    Import SummaryWriter inside the function: then your other tasks work where tensorboard is missing.

    Args:
        folder: where the event file goes: exactly one new file, complete when the function returns. The folder need not exist, and
            what an earlier run has written there stays.
        epochs: for each epoch the losses of its batches: floats, or 0-d tensors of any floating dtype, with or without a graph.
        accuracies: one for each epoch.
        every: at least 1. (It concerns loss/batch only.)
        first_step: 0 or more; not 0 where an earlier run is continued.

    Returns: the step that comes next: first_step plus the number of batches. An int.
    Raises: ValueError if there are not as many accuracies as epochs, or if every is less than 1; then nothing is written, and no folder
        made.
    """
    if len(accuracies) != len(epochs) or every < 1:
        raise ValueError("give an accuracy for each epoch, and an `every` of at least 1")
    from torch.utils.tensorboard import SummaryWriter

    step = first_step
    with SummaryWriter(folder) as writer:
        for losses, accuracy in zip(epochs, accuracies, strict=True):
            values = [loss.item() if isinstance(loss, Tensor) else loss for loss in losses]
            for value in values:
                if step % every == 0:
                    writer.add_scalar("loss/batch", value, step)
                step += 1
            if values:
                writer.add_scalar("loss/epoch", sum(values) / len(values), step - 1)
                writer.add_scalar("accuracy", accuracy, step - 1)
    return step


def lit_classifier(model: nn.Module, lr: float = 0.1, warmup: int = 4) -> nn.Module:
    """Wrap a classifier so that Lightning's Trainer can train, validate and predict with it.

    Write a subclass of lightning.LightningModule inside this function, and return one object of it. Import lightning here as
    well (it loads torchvision, which takes a while): then your other tasks start fast, and work where it is missing.

    trainer.fit(lit, loader, val_loader) brings the loop: it moves batches, switches modes and gradients, calls zero_grad, backward
    and step, and leaves modes as they were. So nothing of that is done here, and nothing is drawn at random. You write what is
    particular to this training:

    - lit.model is the model, and lit(x) its logits.
    - lit.hparams has lr and warmup, and nothing else: so checkpoints hold them. (save_hyperparameters has an `ignore`.)
    - training_step(batch, batch_idx) returns the cross entropy, averaged over the batch: 0-d, with its graph. It logs
      "train_loss": the mean over all of the epoch's samples.
    - validation_step(batch, batch_idx) logs "val_loss", the cross entropy, and "val_acc", the share of the samples whose largest
      logit is that of their class: both as means over all samples. What it returns does not matter.
    - predict_step(batch, batch_idx) returns the class with the largest logit for each sample: (B,) int64.
    - configure_optimizers() returns a dict with "optimizer" and "lr_scheduler", the second a dict too, in the form that Lightning
      documents. The optimizer is plain SGD (no momentum, no weight decay) on the model's parameters that have requires_grad. Step n
      of the training (n = 0, 1, …, counted on from epoch to epoch) has the learning rate lr · min(1, (n + 1) / warmup). Lightning
      steps a scheduler once an epoch, unless that dict says otherwise.

    All is logged by self.log or self.log_dict once an epoch: on_step=False, on_epoch=True, batch_size=B. Lightning then weighs each
    batch by its size, so that a short last batch counts less.

    A batch is a pair (x, y), which may be a list: x whatever the model takes, for B samples, and y the classes, (B,) int64. For
    predict_step it may be x alone, a tensor.

    Args:
        model: maps x to logits, (B, C). Its parameters stay what they are until the trainer steps.
        lr: the learning rate after the warm-up.
        warmup: how many steps the warm-up takes, at least 1.

    Returns: a LightningModule.
    Source: the documentation of LightningModule at lightning.ai/docs
    """
    from lightning import LightningModule

    class LitClassifier(LightningModule):
        def __init__(self, model: nn.Module, lr: float, warmup: int) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=["model"])
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            loss = nn.functional.cross_entropy(self(x), y)
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            logits = self(x)
            found = {"val_loss": nn.functional.cross_entropy(logits, y), "val_acc": (logits.argmax(1) == y).float().mean()}
            self.log_dict(found, on_step=False, on_epoch=True, batch_size=len(y))

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch if isinstance(batch, Tensor) else batch[0]).argmax(1)

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=self.hparams["lr"])
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / self.hparams["warmup"]))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return LitClassifier(model, lr, warmup)
