"""Several ranks in one process, for probes about distributed code: threads that talk through memory. No sockets, processes or clocks.

Only one rank runs at a time. It runs until it has to wait for another one or ends, and then the next rank that can go on is chosen, in
order. So the same code gives the same transcript, the same order of sums and the same error every time, on both sides, and a deadlock is
a plain fact: nobody has ended everything, and nobody can go on. `ranks_group` builds on this module a process group of torch.distributed.
This module itself imports neither that nor anything else that is slow.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["Comm", "Deadlock", "Message", "Mismatch", "Post", "Room", "Transcript", "on_group", "on_ranks", "plain_copy"]

T = TypeVar("T")

Transcript = list[list[list[Any]]]
"""For each rank its operations in order, each [operation, peer, tensors]: a probe can return it, and `agree` can compare it."""

_PATIENCE = 10_000
"""How often ranks may ask in vain whether something is done, with no operation in between, until that counts as waiting for ever."""


class Deadlock(Exception):
    """Every rank that has not ended waits, and nobody can serve one of them. The text says who waits for whom."""


class Mismatch(Exception):
    """Ranks joined in a collective of different kinds, roots, shapes or dtypes, or a message does not fit the tensor that receives it."""


class _Stopped(BaseException):
    """Ends a rank after another one raised. No Exception, so that `except Exception` in a loop does not swallow it."""


def on_ranks(size: int, work: "Callable[[Comm], T]") -> tuple[list[T], Transcript]:
    """Run `work(comm)` on `size` ranks that can send each other tensors.

    Ranks share the process, and so torch's default generator: `torch.manual_seed` in one rank seeds all of them. Hand weights over
    in the probe instead. Ranks are threads: what holds for one thread only, such as the default device, is not taken over from the
    caller, except whether gradients are recorded.

    Args:
        size: how many ranks, at least 1. A worker may have 64 threads.
        work: called once for each rank. It has to use `comm` in the thread in which it is called.

    Returns: the results in the order of the ranks, and the transcript. An entry of a rank is `["send", to, tensor]` or
        `["receive", source, tensor]`, with a copy of the tensor. A reply holds at most 4,000 tensors.
    Raises: Deadlock, which every waiting rank gets too. Otherwise what the first rank to fail raised, its text preceded by "rank 1: ".
    """
    room = Room(size)
    return room.run(lambda rank: work(Comm(room, rank))), room.transcript


def on_group(size: int, work: Callable[[int], T]) -> tuple[list[T], Transcript]:
    """Run `work(rank)` on `size` ranks that are in a default process group of torch.distributed, on the CPU.

    Collectives, isend and irecv, new_group, DistributedDataParallel, DeviceMesh, DTensor and fully_shard can be used. What a collective
    takes is copied when it is called, and what it gives is written in `wait()`, and not before: who reads or changes a tensor before
    waiting gets a wrong number every time. Sums are taken in the order of the ranks. A send never waits, as in `on_ranks`, whose remarks
    on threads and the shared default generator hold here too. A DTensor does not travel: return `full_tensor()` or `to_local()`,
    and `wait_tensor(…)` of what a functional collective or a parallel module gives.

    Returns: the results in the order of the ranks, and the transcript. An entry is `[operation, peer, tensors]`: the operation such as
        "all_reduce sum", with the ranks of the group where it is not the default one ("all_reduce sum among 0, 2"); the rank of the
        other end or of the root, or -1; and a list of copies of what this rank gives or receives.
    Raises: Deadlock; Mismatch, where ranks join in different collectives, which all ranks get; otherwise as `on_ranks`.
    """
    from grader.protocol.ranks_group import group_of  # it imports parts of torch.distributed

    room = Room(size)
    return group_of(room, work), room.transcript


class Comm:
    """What one rank has of the others: its `rank`, how many there are (`size`), and a way to send and receive."""

    def __init__(self, room: "Room", rank: int) -> None:
        self._room = room
        self.rank = rank
        self.size = room.size

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a copy of a tensor to a rank. Never waits."""
        self._check(to)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"send takes a tensor, not {type(tensor).__name__}")
        self._room.send("", self.rank, to, 0, tensor)
        self._room.note(self.rank, "send", to, plain_copy(tensor))

    def recv(self, source: int) -> Tensor:
        """Wait for the next tensor that this rank sends, and return it."""
        self._check(source)
        message = self._room.receive("", self.rank, source, 0)
        self._room.wait(self.rank, lambda: message.tensor is not None, lambda: f"for a message from {self._room.named(source)}")
        assert message.tensor is not None
        self._room.note(self.rank, "receive", source, plain_copy(message.tensor))
        return message.tensor

    def _check(self, rank: int) -> None:
        if type(rank) is not int or not 0 <= rank < self.size:
            raise ValueError(f"there is no rank {rank!r}: the ranks are 0 to {self.size - 1}")


@dataclass(eq=False)
class Message:
    """A tensor on its way, or what a rank waits for: then `tensor` is None at first."""

    source: int | None
    """None takes a message from any rank."""
    tag: int
    tensor: Tensor | None = None


@dataclass(frozen=True)
class Post:
    """What one rank brings to a collective."""

    kind: str
    root: int
    given: list[Tensor]
    """Copies of what the rank gives."""
    due: list[Tensor]
    """What is written at the end."""
    forms: list[str]
    """What has to be the same on all ranks: shapes and dtypes, in words."""


@dataclass
class Meeting:
    """One collective of one group: who has joined, and what each gets once all have."""

    posts: dict[int, Post] = field(default_factory=dict)
    results: dict[int, list[Tensor]] | None = None


class Room:
    """The ranks of one call: whose turn it is, who waits for what, what was sent, and why it ended early.

    Everything here is read and written by the one rank that runs, so nothing needs a lock but the turn itself.
    """

    def __init__(self, size: int) -> None:
        if type(size) is not int or size < 1:
            raise ValueError(f"size has to be a whole number of at least 1, not {size!r}")
        self.size = size
        self.transcript: Transcript = [[] for _ in range(size)]
        self.meetings: dict[tuple[str, int], Meeting] = {}
        self._sent: dict[tuple[str, int], list[Message]] = {}
        """Messages that nobody has asked for yet, by group and receiver."""
        self._wanted: dict[tuple[str, int], list[Message]] = {}
        """Receives that have no message yet, by group and receiver."""
        self._turns = [threading.Lock() for _ in range(size)]
        """Each is held, except for the moment in which its rank is given the turn."""
        self._threads: list[threading.Thread] = []
        self._waits: dict[int, tuple[Callable[[], bool], Callable[[], str]]] = {}
        self._ended: set[int] = set()
        self._asked_in_vain = 0
        self._error: BaseException | None = None
        """What the caller gets."""
        self._results: dict[int, Any] = {}

    # ---- threads and turns

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Run `work(rank)` on every rank and return what they return. No thread is left, unless the caller is interrupted."""
        for turn in self._turns:
            turn.acquire()
        gradients = torch.is_grad_enabled()
        self._threads = [
            threading.Thread(target=self._rank, args=(rank, work, gradients), name=f"rank {rank}", daemon=True) for rank in range(self.size)
        ]
        started = 0
        try:
            for thread in self._threads:
                thread.start()
                started += 1
        except BaseException as error:  # no more threads, or an interruption
            self._error = error
            self._ended.update(range(started, self.size))
        try:
            if started:
                self._turns[0].release()
            for thread in self._threads[:started]:
                thread.join()  # without limit: who waits for ever is found, and who computes for ever is not this module's to judge
        except BaseException as error:  # a limit on time, or Ctrl-C: each rank ends at its next operation
            self._error = error
            raise
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # or else the error holds this frame, and the frame the error
        return [self._results[rank] for rank in range(self.size)]

    def _rank(self, rank: int, work: Callable[[int], Any], gradients: bool) -> None:
        self._turns[rank].acquire()
        try:
            if self._error is None or isinstance(self._error, Mismatch):  # which all ranks get, at their first operation
                with torch.set_grad_enabled(gradients), torch.autograd.set_multithreading_enabled(False):
                    self._results[rank] = work(rank)
        except BaseException as error:
            if self._error is None:
                self._error = error
                with contextlib.suppress(Exception):  # an error of the student's own class
                    _name(error, rank)
        finally:
            self._ended.add(rank)
            if len(self._ended) < self.size:
                self._turns[self._next(rank)].release()

    def _next(self, rank: int) -> int:
        """The next rank that can go on. Where there is none, this is a deadlock, and the first that has not ended gets to know."""
        order = [(rank + step) % self.size for step in range(1, self.size + 1)]
        live = [other for other in order if other not in self._ended]
        if self._error is None:
            for other in live:
                if other not in self._waits or self._waits[other][0]():
                    return other
            waiting = "; ".join(f"rank {other} waits {self._waits[other][1]()}" for other in sorted(live))
            self._error = Deadlock(f"no rank can go on: {waiting}")
        return live[0]

    def wait(self, rank: int, ready: Callable[[], bool], what: Callable[[], str]) -> None:
        """Let the others run until `ready`. `what` completes the sentence "rank 0 waits …". Raises: Deadlock, or why the others ended."""
        self.check(rank)
        while not ready():
            self._yield(rank, ready, what)

    def ask(self, rank: int, ready: Callable[[], bool], what: Callable[[], str]) -> bool:
        """Whether it is `ready` after the others had a turn. Asking again and again in vain ends as waiting does."""
        self.check(rank)
        if not ready():
            self._asked_in_vain += 1
            in_vain = self._asked_in_vain > _PATIENCE
            self._yield(rank, ready if in_vain else lambda: True, what)
        return ready()

    def _yield(self, rank: int, ready: Callable[[], bool], what: Callable[[], str]) -> None:
        self._waits[rank] = ready, what
        following = self._next(rank)
        if following != rank:
            self._turns[following].release()
            self._turns[rank].acquire()
        del self._waits[rank]
        self.check(rank)

    def check(self, rank: int) -> None:
        """Raise what ends this rank, if something does."""
        if not self._threads or threading.current_thread() is not self._threads[rank]:
            raise RuntimeError(f"rank {rank} can be used only in its own thread, while the ranks run")
        if isinstance(self._error, Deadlock | Mismatch):
            raise type(self._error)(*self._error.args)
        if self._error is not None:
            raise _Stopped

    def fail(self, error: Exception) -> None:
        """Give all ranks and the caller this error. Raises: the error."""
        if self._error is None:
            self._error = error
        raise type(error)(*error.args)

    def progress(self) -> None:
        """Something was sent or joined, so that asking may help again."""
        self._asked_in_vain = 0

    def named(self, *ranks: int) -> str:
        """The ranks in words, with which of them have ended."""
        return " and ".join(f"rank {rank}" + (", which has ended" if rank in self._ended else "") for rank in ranks)

    # ---- messages

    def send(self, group: str, rank: int, to: int, tag: int, tensor: Tensor) -> None:
        """Put a copy of the tensor where `to` looks. Ranks are those of the whole room."""
        self.check(rank)
        self.progress()
        sent = plain_copy(tensor)
        wanted = self._wanted.setdefault((group, to), [])
        for message in wanted:
            if message.tag == tag and message.source in (rank, None):
                wanted.remove(message)
                message.source, message.tensor = rank, sent
                return
        self._sent.setdefault((group, to), []).append(Message(rank, tag, sent))

    def receive(self, group: str, rank: int, source: int | None, tag: int) -> Message:
        """The first message that fits and has not been asked for. Its tensor is None until it is sent."""
        self.check(rank)
        sent = self._sent.setdefault((group, rank), [])
        for message in sent:
            if message.tag == tag and source in (message.source, None):
                sent.remove(message)
                return message
        message = Message(source, tag)
        self._wanted.setdefault((group, rank), []).append(message)
        return message

    def note(self, rank: int, operation: str, peer: int, tensors: Any) -> None:
        """Write an operation down."""
        self.transcript[rank].append([operation, peer, tensors])


def plain_copy(tensor: Tensor) -> Tensor:
    """A copy that shares nothing, without gradient and of no class of its own."""
    with torch.no_grad():
        return tensor.detach().as_subclass(Tensor).clone(memory_format=torch.contiguous_format)


def _name(error: BaseException, rank: int) -> None:
    """Say in a note which rank raised, and in the text too where that is plain."""
    error.add_note(f"raised in rank {rank}")
    if len(error.args) <= 1 and all(type(argument) is str for argument in error.args) and not isinstance(error, KeyError):
        error.args = (f"rank {rank}: {error.args[0]}" if error.args else f"in rank {rank}",)
