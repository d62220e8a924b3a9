"""The watch over bans: what it sees at the dispatcher, and that nothing is left of it."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode

from grader.course.manifest import Course
from grader.protocol.ban_names import leaf
from grader.protocol.watch import BannedCall, Watch, operators

ROOT = Path(__file__).parents[3]
BANS = (
    "torch.softmax",
    "torch.conv2d",
    "torch.nn.functional.linear",
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.nn.functional.max_pool2d",
)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """A watch over operators; their kernels are put back in the end."""
    watch = Watch(())
    yield watch
    with watch.over(()):
        pass


def quietly(call: Callable[[], object]) -> None:
    """Call with torch's modes and functions switched off."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        call()


def elsewhere(call: Callable[[], object]) -> None:
    """Call in a thread, and raise what it raised."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def image(*shape: int) -> torch.Tensor:
    """Some numbers."""
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)


X, W = image(4, 4), image(2, 1, 3, 3)
HITS: dict[str, Callable[[], object]] = {
    "a function": lambda: torch.softmax(X, -1),
    "a method": lambda: X.softmax(-1),
    "an operator": lambda: torch.ops.aten._softmax(X, -1, False),
    "with an output": lambda: torch.ops.aten._softmax.out(X, -1, False, out=torch.empty(4, 4)),
    "with gradients": lambda: X.clone().requires_grad_().softmax(-1).sum().backward(),
    "without gradients": lambda: torch.inference_mode()(lambda: F.conv2d(image(1, 1, 5, 5), W))(),
    "on meta": lambda: X.to("meta").softmax(-1),
    "a convolution on meta": lambda: F.conv2d(image(1, 1, 5, 5).to("meta"), W.to("meta")),
    "modes switched off": lambda: quietly(lambda: torch.softmax(X, -1)),
    "another thread": lambda: elsewhere(lambda: torch.softmax(X, -1)),
    "vmap": lambda: torch.func.vmap(lambda row: row.softmax(-1))(X),
    "vmap of a convolution": lambda: torch.func.vmap(lambda one: F.conv2d(one[None], W))(image(2, 1, 5, 5)),
    "grad": lambda: torch.func.grad(lambda one: F.conv2d(one[None], W).sum())(image(1, 5, 5)),
    "a trace": lambda: torch.jit.trace(lambda x: x.softmax(-1), (X,))(X),
    "a module": lambda: torch.nn.Conv2d(1, 1, 1)(image(1, 1, 4, 4)),
    "inside another operator": lambda: torch.nn.MultiheadAttention(8, 2, batch_first=True)(*3 * [image(1, 3, 8)], need_weights=False),
    "functionalize": lambda: torch.func.functionalize(F.linear)(X, X),
    "mkldnn": lambda: X.to_mkldnn().softmax(-1).to_dense(),
    "mkldnn without gradients": lambda: torch.inference_mode()(lambda: X.to_mkldnn().softmax(-1))(),
    "nested": lambda: torch.nested.nested_tensor([X, X[:2]]).softmax(-1),
    "nested without gradients": lambda: torch.inference_mode()(lambda: torch.nested.nested_tensor([X, X[:2]]).softmax(-1))(),
    "pooling": lambda: F.max_pool2d(image(1, 1, 4, 4), 2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", HITS)
def test_it_sees(watch: Watch, what: str) -> None:
    """Whichever road leads to a forbidden operator, the call is noted and stopped."""
    with watch.over(BANS), pytest.raises(BannedCall, match="is not allowed in this task"):
        HITS[what]()
    assert watch.hits
    assert set(watch.hits) <= {*BANS, "torch.Tensor.to_mkldnn"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.cross_entropy(X, torch.arange(4)),
        lambda: X.log_softmax(-1),
        lambda: F.conv1d(image(1, 1, 4), image(1, 1, 2)),
        lambda: F.avg_pool2d(image(1, 1, 4, 4), 2),
        lambda: X @ X,
    ],
)
def test_it_lets_others_pass(watch: Watch, call: Callable[[], object]) -> None:
    """An operator that is not forbidden runs, also where its name or its result is much alike."""
    with watch.over(BANS):
        call()
    assert watch.hits == []


COLUMN = torch.arange(4)
HONEST: dict[str, Callable[[], object]] = {
    "repeat": lambda: X.clone().requires_grad_().repeat(2, 3).sum().backward(),
    "tile": lambda: X.to("meta").tile(2, 2),
    "shapes": lambda: torch.cat([torch.stack([X, X]), X[None]]).movedim(0, 1).flip(0).roll(1).permute(2, 0, 1).flatten().reshape(4, -1),
    "products": lambda: (torch.einsum("ij,kj->ik", X, X), X @ X.mT, torch.bmm(X[None], X[None]), torch.kron(X, X), torch.outer(X[0], X[0])),
    "statistics": lambda: (X.var(0), X.std(), X.mean(1), X.median(), X.amax(0), X.cumsum(0), X.prod(), X.cov()),
    "choices": lambda: (X.sort(), X.topk(2), X.argmax(), X.unique(), X.where(X > 0, 0), X.masked_fill(X > 0, 1), X.gather(0, COLUMN[None])),
    "updates": lambda: (X.scatter_add(0, COLUMN[None], X), X.index_add(0, COLUMN, X), X.index_put((COLUMN, COLUMN), X[0])),
    "windows": lambda: (X.as_strided((2, 2), (4, 1)), X.narrow(0, 0, 2), X.chunk(2), X.diag(), X.tril(), F.pad(X, (1, 1)), X.split(2)),
    "losses": lambda: (F.mse_loss(X, X), F.smooth_l1_loss(X, X), F.kl_div(X, X.exp()), F.hinge_embedding_loss(X, X)),
    "images": lambda: (F.interpolate(image(1, 1, 4, 4), scale_factor=2), F.pixel_shuffle(image(1, 4, 2, 2), 2), F.avg_pool1d(X, 2)),
    "activations": lambda: (F.gelu(X), F.silu(X), X.sigmoid(), X.tanh(), F.elu(X), X.erf(), X.sign(), X.clamp(0, 1), X.round()),
    "numbers": lambda: (X.to(torch.int8), X.half(), X.view(torch.int32), X.double(), torch.frexp(X), X.nan_to_num(), X.log1p(), X.expm1()),
    "vmap": lambda: torch.func.vmap(torch.func.grad(lambda row: (row * row).sum()))(X),
}  # fmt: skip
TASKS = [task for module in Course.read(ROOT).modules for task in module.tasks if task.bans]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", HONEST)
def test_honest_operators_pass(watch: Watch, what: str) -> None:
    """What a task forbids is not called inside an operator that everybody uses, other than `repeat`, which calls `unfold`."""
    if what == "losses":
        tasks = [task for task in TASKS if "torch.broadcast_tensors" not in task.bans]  # the losses broadcast by it
    for task in tasks if what == "losses" else TASKS:
        with watch.over(task.bans):
            HONEST[what]()
        assert watch.hits == [], task.name


@pytest.mark.parametrize("then", ["between probes", "for another task"])
def test_nothing_is_left_of_it(watch: Watch, then: str) -> None:
    """Between probes, and under another task, forbidden operators give what they always gave, gradients included."""

    def values() -> list[object]:
        x, w = image(2, 1, 5, 5).requires_grad_(), W.clone().requires_grad_()
        y = F.max_pool2d(F.conv2d(x, w), 2).flatten(1).softmax(-1)
        (y * y).sum().backward()
        return [y.tolist(), x.grad.tolist(), w.grad.tolist(), F.conv2d(x.detach().to("meta"), W.to("meta")).shape]

    expected = values()
    with watch.over(BANS), pytest.raises(BannedCall):
        torch.softmax(X, -1)
    if then == "for another task":
        with watch.over(("torch.cdist",)):
            pass
    assert values() == expected


def test_whoever_gets_hold_of_a_check_changes_no_other(watch: Watch) -> None:
    """The functions that a student can reach hold views, and checks of their own."""
    wrapper = torch._ops.OpOverload.decompose
    for cell in wrapper.__closure__ or ():
        for inner in getattr(cell.cell_contents, "__closure__", None) or ():
            if isinstance(inner.cell_contents, Mapping):
                assert not hasattr(inner.cell_contents, "clear")
                inner.cell_contents = {}
    with watch.over(BANS), pytest.raises(BannedCall):
        torch.softmax(X, -1)


def test_operators_that_are_allowed_can_be_taken_apart(watch: Watch) -> None:
    """Torch's own modes do so: one counts operations, one computes shapes only."""
    with watch.over(BANS):
        with FlopCounterMode(display=False), FakeTensorMode():
            torch.matmul(torch.ones(2, 3), torch.ones(3, 4))
        with pytest.raises(BannedCall):
            torch.ops.aten.linear.default.decompose(X, X)


def test_only_forbidden_operators_have_other_kernels(watch: Watch) -> None:
    """The others' are not touched, so they cost what they always cost. A layout in which no kernel can be replaced is always forbidden."""
    with watch.over(("torch.softmax",)):
        replaced = [name for names in operators().values() for name in names if "watch.py" in torch._C._dispatch_dump(name)]
    assert {leaf(name.partition(".")[0]) for name in replaced} == {"softmax", "to_mkldnn"}
    with watch.over(()):
        assert not [name for name in replaced if "watch.py" in torch._C._dispatch_dump(name)]


def in_a_process(program: str, folder: Path) -> str:
    """What a program prints in a process of its own, because a watch that replaces names does so for good."""
    (folder / "program.py").write_text(f"import torch\n{program}")
    done = subprocess.run([sys.executable, folder / "program.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_factories_are_as_before_in_other_tasks(tmp_path: Path) -> None:
    """A task that may use a factory can script it, and change its device by torch's context."""
    program = """
from grader.protocol.watch import Watch
watch = Watch(["torch.zeros", "torch.tensor"])
def f(n: int):
    return torch.zeros(n) + torch.tensor([1.0])
with watch.over(("torch.cdist",)):
    with torch.device("meta"):
        print(torch.zeros(2).device, torch.tensor([1]).device, end=" ")
    print(torch.jit.script(f)(2).tolist())
"""
    assert in_a_process(program, tmp_path) == "meta meta [1.0, 1.0]"


def test_the_old_names_of_initializers_are_forbidden_too(tmp_path: Path) -> None:
    """`kaiming_normal` holds `kaiming_normal_` from the time before the watch."""
    program = """
from grader.protocol.watch import BannedCall, Watch
with Watch(["torch.nn.init.kaiming_normal_"]).over(["torch.nn.init.kaiming_normal_"]):
    for name in ("kaiming_normal", "kaiming_normal_"):
        try:
            getattr(torch.nn.init, name)(torch.zeros(2, 2))
        except BannedCall:
            print("stopped")
"""
    assert in_a_process(program, tmp_path) == "stopped\nstopped"


def test_factories_are_no_operators() -> None:
    """Other operators call their kernels, so these are watched by name only."""
    assert not {"empty", "zeros", "ones", "full"} & {name for name, found in operators().items() if any("." not in one for one in found)}
