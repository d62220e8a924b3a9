"""The watch over bans: what it sees at the dispatcher, and that nothing is left of it."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from grader.protocol.watch import BannedCall, Watch, leaf, operators

BANS = ("torch.softmax", "torch.conv2d", "torch.nn.functional.scaled_dot_product_attention", "torch.nn.functional.max_pool2d")


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
    "pooling": lambda: F.max_pool2d(image(1, 1, 4, 4), 2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", HITS)
def test_it_sees(watch: Watch, what: str) -> None:
    """Whichever road leads to a forbidden operator, the call is noted and stopped."""
    with watch.over(BANS), pytest.raises(BannedCall, match="is not allowed in this task"):
        HITS[what]()
    assert watch.hits
    assert set(watch.hits) <= set(BANS)


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


def test_only_forbidden_operators_have_other_kernels(watch: Watch) -> None:
    """The others' are not touched, so they cost what they always cost."""
    with watch.over(("torch.softmax",)):
        replaced = [name for names in operators().values() for name in names if "watch.py" in torch._C._dispatch_dump(name)]
    assert {leaf(name.partition(".")[0]) for name in replaced} == {"softmax"}
    with watch.over(()):
        assert not [name for name in replaced if "watch.py" in torch._C._dispatch_dump(name)]


def test_factories_are_no_operators() -> None:
    """Other operators call their kernels, so these are watched by name only."""
    assert not {"empty", "zeros", "ones", "full"} & {name for name, found in operators().items() if any("." not in one for one in found)}
