"""The process group of `ranks.on_group`: a backend of torch.distributed whose ranks are threads that meet in a `Room`.

torch has such a group for its own tests (torch/testing/_internal/distributed/multi_threaded_pg.py). This one takes from there the state of
torch.distributed that is kept for each thread. The collectives are its own: torch's lets an all_reduce meet a broadcast, knows no
messages, waits on conditions that nobody counts, and has written its results before `wait` is called.

`parts_missing` names the private parts of torch that this needs. Look at it first when the pin of torch changes.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
import torch.distributed.nn.functional  # its functions keep the default group of the time of their import as their default
from torch import Tensor
from torch.futures import Future

from grader.protocol.ranks import Meeting, Message, Mismatch, Post, Room, plain_copy

__all__ = ["BACKEND", "group_of", "parts_missing"]

T = TypeVar("T")

BACKEND = "ranks"

_HERE = threading.local()
"""The room and the rank of this thread."""
_Solve = Callable[[list[Post]], list[list[Tensor]]]
"""From what each rank of a group brings to what each gets."""
_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "avg": torch.add,
    "product": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "band": torch.bitwise_and,
    "bor": torch.bitwise_or,
    "bxor": torch.bitwise_xor,
}


def parts_missing() -> str | None:
    """The first private part of torch that this module needs and that this torch lacks, in a sentence; None where all are there."""
    try:
        from torch.testing._internal.distributed import multi_threaded_pg
    except ImportError as error:
        return f"on_group doesn't fit torch {torch.__version__}: {error}"
    needed: list[tuple[object, str, str]] = [
        (multi_threaded_pg, "ThreadLocalWorld", "keeps the groups of each thread apart"),
        (c10d, "_world", "is replaced while ranks run"),
        (torch._C._distributed_c10d, "_set_thread_isolation_mode", "keeps the names of groups of each thread apart"),
        (torch.autograd, "set_multithreading_enabled", "keeps a backward pass in the thread of its rank"),
        (dist.Backend, "register_backend", "makes the backend known"),
        (dist.Work, "get_future", "is what DistributedDataParallel waits for"),
        *((dist.ProcessGroup, name, "is replaced by the backend") for name in _REPLACED),
    ]
    for owner, name, purpose in needed:
        if not hasattr(owner, name):
            place = getattr(owner, "__qualname__", getattr(owner, "__name__", "torch"))
            return f"on_group doesn't fit torch {torch.__version__}: {place}.{name}, which {purpose}, is missing"
    lost = {field for field in vars(type(c10d._world)) if not field.startswith("__")} - set(dir(multi_threaded_pg.ThreadLocalWorld))
    if lost - {"pg_config_info"}:  # for people to read only
        return f"on_group doesn't fit torch {torch.__version__}: ThreadLocalWorld lacks {', '.join(sorted(lost))}"
    return None


def group_of(room: Room, work: Callable[[int], T]) -> list[T]:
    """Run `work(rank)` on every rank of the room, each in a default process group of all of them."""
    if (problem := parts_missing()) is not None:
        raise RuntimeError(problem)
    if not hasattr(dist.Backend, BACKEND.upper()):
        dist.Backend.register_backend(BACKEND, _make, extended_api=True, devices=["cpu"])
    store = dist.HashStore()  # type: ignore[attr-defined]
    with _apart():
        return room.run(lambda rank: _in_group(room, rank, store, work))


def _in_group(room: Room, rank: int, store: Any, work: Callable[[int], T]) -> T:
    _HERE.room, _HERE.rank = room, rank
    dist.init_process_group(BACKEND, rank=rank, world_size=room.size, store=store)
    try:
        return work(rank)
    finally:
        if dist.is_initialized():  # the work may have destroyed it, as programs do at their end
            dist.destroy_process_group()


@contextmanager
def _apart() -> Iterator[None]:
    """Give each thread groups of its own, and put back what torch.distributed keeps for the process."""
    from torch.testing._internal.distributed.multi_threaded_pg import ThreadLocalWorld

    if isinstance(c10d._world, ThreadLocalWorld):  # inside a rank already
        yield
        return
    world, hook = c10d._world, sys.excepthook
    random = sys.modules.get("torch.distributed.tensor._random")
    tracker = getattr(random, "_rng_tracker", None)
    isolate = torch._C._distributed_c10d._set_thread_isolation_mode  # type: ignore[attr-defined]
    isolate(True)
    c10d._world = ThreadLocalWorld()  # type: ignore[assignment]
    try:
        yield
    finally:
        c10d._world = world
        isolate(False)
        sys.excepthook = hook  # init_process_group puts a rank before what it prints
        if random := sys.modules.get("torch.distributed.tensor._random"):
            random._rng_tracker = tracker  # type: ignore[attr-defined]


def _make(options: Any, _: object) -> "_Group":
    """A group for this thread, as the registered backend."""
    if not hasattr(_HERE, "room"):
        raise RuntimeError(f"the backend {BACKEND} is for on_group only")
    return _Group(_HERE.room, options.group_rank, list(options.global_ranks_in_group or range(options.group_size)), options.group_id)


class _Work(dist.Work):
    """What a call returns. Nothing is written before it has been waited for, or was found to be completed."""

    def __init__(
        self, room: Room, rank: int, ready: Callable[[], bool], what: Callable[[], str], finish: Callable[[], list[Tensor]]
    ) -> None:
        super().__init__()
        self._room, self._rank, self._ready, self._what, self._finish = room, rank, ready, what, finish
        self._tensors: list[Tensor] | None = None

    def wait(self, timeout: object = None) -> bool:
        if self._tensors is None:
            self._room.wait(self._rank, self._ready, self._what)
            self._tensors = self._finish()
        return True

    def synchronize(self) -> None:
        self.wait()

    def block_current_stream(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        if self._tensors is not None:
            return True
        return self._room.ask(self._rank, self._ready, self._what) and self.wait()

    def is_success(self) -> bool:
        return self.is_completed()

    def exception(self) -> None:
        return None

    def result(self) -> list[Tensor]:
        self.wait()
        return self._tensors or []

    def get_future(self) -> Any:
        """A future that is done: C++ code waits for one where nobody counts."""
        future: Future[list[Tensor]] = Future()
        future.set_result(self.result())
        return future


class _Receive(_Work):
    """A message that is due."""

    source: Callable[[], int]

    def source_rank(self) -> int:
        self.wait()
        return self.source()

    def _source_rank(self) -> int:
        return self.source_rank()


_ProcessGroup: Any = dist.ProcessGroup  # its stubs give each method the signatures of several callers


class _Group(_ProcessGroup):  # type: ignore[misc]
    """One rank's end of a group. The n-th collective that a rank joins is the n-th of all of its ranks."""

    def __init__(self, room: Room, rank: int, ranks: list[int], name: str) -> None:
        super().__init__(rank, len(ranks))
        self._room, self._index, self._ranks = room, rank, ranks
        self._me = ranks[rank]
        self._among = "" if len(ranks) == room.size else f" among {', '.join(map(str, ranks))}"
        self._key = f"{name}: {ranks}"
        self._named = name
        self._joined = 0

    def size(self) -> int:
        return len(self._ranks)

    def getBackendName(self) -> str:
        return BACKEND

    @property
    def pg_name(self) -> str:
        return self._named

    @property
    def group_name(self) -> str:
        return self._named

    def __repr__(self) -> str:
        return f"<rank {self._me} of {self._ranks}>"

    # ---- messages

    def send(self, tensors: list[Tensor], to: int, tag: int = 0) -> dist.Work:
        (tensor,) = tensors
        peer = self._ranks[to]
        self._room.send(self._key, self._me, peer, tag, tensor)
        self._room.note(self._me, f"send{self._among}", peer, [plain_copy(tensor)])
        return _Work(self._room, self._me, lambda: True, str, lambda: tensors)

    def recv(self, tensors: list[Tensor], source: int, tag: int = 0) -> dist.Work:
        return self._receive(tensors, self._ranks[source], tag)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> dist.Work:
        return self._receive(tensors, None, tag)

    def _receive(self, tensors: list[Tensor], source: int | None, tag: int) -> dist.Work:
        (tensor,) = tensors
        message = self._room.receive(self._key, self._me, source, tag)
        tagged = f" with tag {tag}" if tag else ""
        of = f"for a message{tagged} from "
        work = _Receive(
            self._room,
            self._me,
            lambda: message.tensor is not None,
            lambda: of + ("any rank" if source is None else self._room.named(source)),
            lambda: self._take(message, tensor),
        )
        work.source = lambda: self._ranks.index(message.source or 0)
        return work

    def _take(self, message: Message, tensor: Tensor) -> list[Tensor]:
        assert message.tensor is not None
        assert message.source is not None
        if _form(message.tensor) != _form(tensor):
            sent = f"rank {message.source} sends {_form(message.tensor)}"
            self._room.fail(Mismatch(f"{sent}, but rank {self._me} receives it into {_form(tensor)}"))
        _write(tensor, message.tensor)
        self._room.note(self._me, f"receive{self._among}", message.source, [plain_copy(message.tensor)])
        return [tensor]

    # ---- collectives

    def _join(
        self, kind: str, given: Sequence[Tensor], due: Sequence[Tensor], solve: _Solve, root: int = -1, same: Sequence[Tensor] = ()
    ) -> dist.Work:
        """Join the group's next collective. The tensors in `same` need the same shapes and dtypes on all ranks."""
        room, key = self._room, (self._key, self._joined)
        room.check(self._me)
        room.progress()
        self._joined += 1
        post = Post(kind, root, [plain_copy(tensor) for tensor in given], list(due), [_form(tensor) for tensor in same])
        room.note(self._me, f"{kind}{self._among}", self._ranks[root] if root >= 0 else -1, [plain_copy(tensor) for tensor in given])
        meeting = room.meetings.setdefault(key, Meeting())
        for other, theirs in meeting.posts.items():
            first, second = self._said(theirs), self._said(post)
            if first != second:
                room.fail(Mismatch(f"rank {self._ranks[other]} joins in {first}, but rank {self._me} in {second}"))
        meeting.posts[self._index] = post
        if len(meeting.posts) == len(self._ranks):
            del room.meetings[key]
            self._solve(meeting, solve)
        return _Work(
            room,
            self._me,
            lambda: meeting.results is not None,
            lambda: f"in {kind}{self._among} for {room.named(*(r for i, r in enumerate(self._ranks) if i not in meeting.posts))}",
            lambda: self._finish(meeting, post),
        )

    def _said(self, post: Post) -> str:
        """A collective in words: the same for two ranks if they fit."""
        of = f" of {', '.join(post.forms)}" if post.forms else ""
        return post.kind + of + (f" with root {self._ranks[post.root]}" if post.root >= 0 else "")

    def _solve(self, meeting: Meeting, solve: _Solve) -> None:
        posts = [meeting.posts[index] for index in range(len(self._ranks))]
        kind = posts[0].kind
        try:
            with torch.no_grad():
                results = solve(posts)
        except (RuntimeError, IndexError) as error:
            self._room.fail(Mismatch(f"what the ranks give to {kind} does not fit together: {error}"))
        for index, (post, result) in enumerate(zip(posts, results, strict=True)):
            due, got = [_form(tensor) for tensor in post.due], [_form(tensor) for tensor in result]
            if due != got:
                expected = f"rank {self._ranks[index]} has room for {', '.join(due) or 'nothing'}"
                self._room.fail(Mismatch(f"{expected} in {kind}, but gets {', '.join(got) or 'nothing'}"))
        meeting.results = dict(enumerate(results))

    def _finish(self, meeting: Meeting, post: Post) -> list[Tensor]:
        assert meeting.results is not None
        for tensor, result in zip(post.due, meeting.results.pop(self._index), strict=True):
            _write(tensor, result)
        return post.due

    def barrier(self, opts: object = None) -> dist.Work:
        return self._join("barrier", [], [], lambda posts: [[] for _ in posts])

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        root = opts.rootRank if opts is not None else 0
        at_root = self._index == root
        return self._join(
            "broadcast",
            tensors if at_root else [],
            [] if at_root else tensors,
            lambda posts: [[] if index == root else posts[root].given for index in range(len(posts))],
            root,
            same=tensors,
        )

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        name, reduce = _reduction(opts)

        def solve(posts: list[Post]) -> list[list[Tensor]]:
            sums = [reduce(list(each)) for each in zip(*(post.given for post in posts), strict=True)]
            return [sums for _ in posts]

        return self._join(f"all_reduce {name}", tensors, tensors, solve, same=tensors)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        name, reduce = _reduction(opts)
        root = opts.rootRank if opts is not None else 0

        def solve(posts: list[Post]) -> list[list[Tensor]]:
            sums = [reduce(list(each)) for each in zip(*(post.given for post in posts), strict=True)]
            return [sums if index == root else [] for index in range(len(posts))]

        return self._join(f"reduce {name}", tensors, tensors if self._index == root else [], solve, root, same=tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: object = None) -> dist.Work:
        (due,), (given,) = outputs, inputs
        return self._join("all_gather", [given], due, lambda posts: [[post.given[0] for post in posts] for _ in posts])

    def all_gather_single(self, output: Tensor, given: Tensor, opts: object = None) -> dist.Work:
        return self._gather_single([output], [given])

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: object = None) -> dist.Work:
        return self._gather_single(outputs, inputs)

    def _gather_single(self, outputs: list[Tensor], inputs: list[Tensor]) -> dist.Work:
        def solve(posts: list[Post]) -> list[list[Tensor]]:
            flat = [torch.cat([tensor.reshape(-1) for tensor in each]) for each in zip(*(post.given for post in posts), strict=True)]
            return [[whole.reshape(tensor.shape) for whole, tensor in zip(flat, post.due, strict=True)] for post in posts]

        return self._join("all_gather_single", inputs, outputs, solve, same=inputs)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        root = opts.rootRank if opts is not None else 0
        at_root = self._index == root
        return self._join(
            "gather",
            inputs,
            outputs[0] if at_root else [],
            lambda posts: [[post.given[0] for post in posts] if index == root else [] for index in range(len(posts))],
            root,
        )

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> dist.Work:
        root = opts.rootRank if opts is not None else 0
        return self._join(
            "scatter",
            inputs[0] if self._index == root else [],
            outputs,
            lambda posts: [[posts[root].given[index]] for index in range(len(posts))],
            root,
        )

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> dist.Work:
        name, reduce = _reduction(opts)
        return self._join(
            f"reduce_scatter {name}",
            inputs[0],
            outputs,
            lambda posts: [[reduce([post.given[index] for post in posts])] for index in range(len(posts))],
            same=inputs[0],
        )

    def reduce_scatter_single(self, output: Tensor, given: Tensor, opts: Any = None) -> dist.Work:
        return self.reduce_scatter_single_coalesced([output], [given], opts)

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> dist.Work:
        name, reduce = _reduction(opts)

        def solve(posts: list[Post]) -> list[list[Tensor]]:
            sums = [reduce(list(each)).reshape(len(posts), -1) for each in zip(*(post.given for post in posts), strict=True)]
            return [
                [whole[index].reshape(tensor.shape) for whole, tensor in zip(sums, post.due, strict=True)]
                for index, post in enumerate(posts)
            ]

        return self._join(f"reduce_scatter_single {name}", inputs, outputs, solve, same=inputs)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: object = None) -> dist.Work:
        return self._exchange("all_to_all", outputs, inputs)

    def all_to_all_single(
        self,
        output: Tensor,
        given: Tensor,
        output_sizes: list[int] | None = None,
        input_sizes: list[int] | None = None,
        opts: object = None,
    ) -> dist.Work:
        pieces = [
            list(tensor.detach().split(list(sizes) if sizes else [len(tensor) // self.size()] * self.size()))  # type: ignore[no-untyped-call]
            for tensor, sizes in ((output, output_sizes), (given, input_sizes))
        ]
        return self._exchange("all_to_all_single", *pieces)

    def _exchange(self, kind: str, outputs: list[Tensor], inputs: list[Tensor]) -> dist.Work:
        return self._join(kind, inputs, outputs, lambda posts: [[post.given[index] for post in posts] for index in range(len(posts))])

    # earlier names of the same
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single


_REPLACED = (
    *("send", "recv", "recv_anysource", "barrier", "broadcast", "allreduce", "allreduce_coalesced", "reduce", "allgather"),
    *("all_gather_single", "all_gather_single_coalesced", "gather", "scatter", "reduce_scatter", "reduce_scatter_single"),
    *("reduce_scatter_single_coalesced", "alltoall", "all_to_all_single"),
)
"""The methods by which torch calls a group."""


def _form(tensor: Tensor) -> str:
    """Shape and dtype in words."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _write(tensor: Tensor, result: Tensor) -> None:
    """Write as another machine would: autograd sees nothing of it."""
    tensor.data.copy_(result)


def _reduction(opts: Any) -> tuple[str, Callable[[list[Tensor]], Tensor]]:
    """The name of a reduction, and the reduction, which goes in the order of the ranks."""
    operation = opts.reduceOp if opts is not None else dist.ReduceOp.SUM
    name = str(getattr(operation, "op", operation)).rpartition(".")[2].lower()
    if name not in _REDUCTIONS:
        raise ValueError(f"on_group has no reduction {name}: it has {', '.join(_REDUCTIONS)}")
    combine = _REDUCTIONS[name]

    def reduce(tensors: list[Tensor]) -> Tensor:
        total = tensors[0]
        for tensor in tensors[1:]:
            total = combine(total, tensor)
        if name == "avg":
            return total / len(tensors) if total.is_floating_point() else total // len(tensors)
        return total

    return name, reduce
