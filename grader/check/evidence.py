"""What a verdict rests on: values that had to be computed for this seed, or the word of the student's own process.

Points come from values that depend on the seed. What the process measures about itself can void such a value; it is forged by whoever
changes the process, so the gate lists it with its points, and finds tests that measure and don't say so.
"""

import ast
from collections.abc import Iterator

from msgspec import Struct

__all__ = ["REPLAY_LIMIT", "ModuleEvidence", "TestEvidence", "replay_problems", "unmarked_measurements"]

REPLAY_LIMIT = 0.005
"""The share of a module's points that replayed answers may earn."""

_ATTRIBUTES = {
    "memory": "data_ptr untyped_storage storage memory_allocated max_memory_allocated _version _cdata getrefcount",
    "views": "stride is_contiguous storage_offset _base _is_view is_pinned is_set_to is_shared",
    "time": "perf_counter monotonic process_time",
    "flags": "requires_grad retains_grad is_leaf grad_fn training is_grad_enabled is_inference_mode_enabled is_inference "
    "is_autocast_enabled get_autocast_dtype get_default_dtype",
    "hooks": "_forward_hooks _forward_pre_hooks _backward_hooks saved_tensors_hooks register_hook "
    "register_forward_hook register_forward_pre_hook register_full_backward_hook "
    "register_full_backward_pre_hook register_module_forward_hook register_post_accumulate_grad_hook register_multi_grad_hook",
    "modes": "TorchDispatchMode TorchFunctionMode",
}
_NAMES = {
    "memory": "StorageWeakRef tracemalloc getrusage weakref",
    "object identity": "id",
    "hooks": "saved_tensors_hooks",
    "modes": "TorchDispatchMode TorchFunctionMode",
}


def _by_name(table: dict[str, str]) -> dict[str, str]:
    return {name: kind for kind, names in table.items() for name in names.split()}


_KIND_OF_ATTRIBUTE, _KIND_OF_NAME = _by_name(_ATTRIBUTES), _by_name(_NAMES)
"""What is measured by an attribute (`x.data_ptr`) or a global (`id`) of this name. Other ways have to be marked by the test's author."""


class TestEvidence(Struct, frozen=True):
    """What the points of one hidden test rest on."""

    __test__ = False  # not a test, whatever pytest makes of its name

    id: str
    task: str
    points: float
    measured: str
    """What the student's process says about itself, as the test's author marked it."""
    once: bool
    """Passes with the reference's answers of one other seed, perhaps by luck."""
    replayed: bool
    """Passes with such answers under every pair of seeds: it earns without work."""
    constant: bool
    """The reference's answers are the same under every seed."""


class ModuleEvidence(Struct, frozen=True):
    """What the points of one module rest on. Tests that need a GPU are left out, as they are where there is none."""

    name: str
    tests: list[TestEvidence]

    @property
    def points(self) -> float:
        """All points."""
        return sum(test.points for test in self.tests)

    @property
    def once(self) -> float:
        """Points that the answers of one other seed earn, luck included."""
        return sum(test.points for test in self.tests if test.once)

    @property
    def replayed(self) -> float:
        """Points that such answers earn under every pair of seeds."""
        return sum(test.points for test in self.tests if test.replayed)

    @property
    def constant(self) -> float:
        """Points for answers that are the same under every seed."""
        return sum(test.points for test in self.tests if test.constant)

    @property
    def measured(self) -> float:
        """Points that can be voided only by the word of the student's process."""
        return sum(test.points for test in self.tests if test.measured)


def replay_problems(evidence: ModuleEvidence) -> Iterator[str]:
    """The tests that replayed answers pass, where these earn more than they may."""
    if evidence.replayed <= REPLAY_LIMIT * evidence.points:
        return
    yield (
        f"{evidence.name}: answers of another seed earn {evidence.replayed:.2f} of {evidence.points:g} points; "
        f"at most {REPLAY_LIMIT:.1%} may be earned without work"
    )
    for test in evidence.tests:
        if test.replayed:
            what = "has the same answer under every seed" if test.constant else "accepts the answers of another seed"
            yield f"{evidence.name}: {test.id} ({test.points:.2f} points) {what}: return a drawn value from the same probe"


def unmarked_measurements(place: str, suite: str) -> Iterator[str]:
    """Hidden tests whose probes measure the process that they run in, without the mark `measured`."""
    for name, kinds in measurements(suite).items():
        yield f"{place}: {name} measures the student's process: mark it @measured({', '.join(kinds)!r}), or compare values only"


def measurements(suite: str, *, marked: bool = False) -> dict[str, list[str]]:
    """What probes of the suite's tests measure, by the test's name: of the tests without the mark `measured`, or of all."""
    tree = ast.parse(suite)
    helpers = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = {}
    for prefix, test, owner in _tests(tree):
        kinds = sorted({kind for node in _probe_code(test, helpers) for kind in _kinds(node)})
        if kinds and (marked or not (_is_marked(test) or (owner is not None and _is_marked(owner)))):
            found[prefix + test.name] = kinds
    return found


def _tests(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, ast.ClassDef | None]]:
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) if name.startswith("test_"):
                yield "", node, None
            case ast.ClassDef(name=name):
                yield from (
                    (f"{name}::", part, node) for part in node.body if isinstance(part, ast.FunctionDef) and part.name.startswith("test_")
                )


def _is_marked(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(
        isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "measured" for mark in node.decorator_list
    )


def _probe_code(test: ast.FunctionDef, helpers: dict[str, ast.FunctionDef | ast.ClassDef]) -> Iterator[ast.AST]:
    """The functions within a test, and the helpers of the suite that they reach. A test's own lines run in the trusted process."""
    pending = [node for line in test.body for node in _outermost_functions(line)]
    seen: set[str] = set()
    while pending:
        root = pending.pop()
        yield root
        for node in ast.walk(root):
            if isinstance(node, ast.Name) and node.id in helpers and node.id not in seen:
                seen.add(node.id)
                pending.append(helpers[node.id])


def _outermost_functions(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
        yield node
    else:
        for child in ast.iter_child_nodes(node):
            yield from _outermost_functions(child)


def _kinds(root: ast.AST) -> Iterator[str]:
    """What a function or class measures."""
    for node in ast.walk(root):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()) if name in _KIND_OF_ATTRIBUTE:
                yield _KIND_OF_ATTRIBUTE[name]
            case ast.Name(id=name, ctx=ast.Load()) if name in _KIND_OF_NAME:
                yield _KIND_OF_NAME[name]
            case ast.Compare(left=left, ops=ops, comparators=others) if any(isinstance(op, ast.Is | ast.IsNot) for op in ops):
                if not any(isinstance(side, ast.Constant) or _asks_type(side) for side in (left, *others)):
                    yield "object identity"
    if _counts(root):
        yield "calls"


def _asks_type(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def _counts(root: ast.AST) -> bool:
    """Whether a callback writes down how it was called: by an `append` that is handed on, or in a function within the probe."""
    lists = {spelling for node in ast.walk(root) for spelling in _lists_made(node)}
    called = {id(node.func) for node in ast.walk(root) if isinstance(node, ast.Call)}
    inner = [node for child in ast.iter_child_nodes(root) for node in ast.walk(child) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    within = {id(node) for function in inner for node in ast.walk(function)}
    for node in ast.walk(root):
        match node:
            case ast.Attribute(attr="append", value=value) if ast.unparse(value) in lists and (
                id(node) in within or id(node) not in called
            ):
                return True
    return False


def _lists_made(node: ast.AST) -> Iterator[str]:
    """The spellings of what an assignment gives a new list: `seen`, `self.events`."""
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(values):
            pairs = list(zip(targets, values, strict=True))
        case ast.Assign(targets=[target], value=value):
            pairs = [(target, value)]
        case _:
            pairs = []
    for target, value in pairs:
        if isinstance(value, ast.List | ast.ListComp):
            yield ast.unparse(target)
