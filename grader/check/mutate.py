"""Makes mutants of a reference: the same text with one small change, such as `<` for `<=` or a statement left out.

Text only; nothing here is executed. A change is cut into the source itself, so that line numbers stay.
"""

import ast
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from grader.course.definitions import defined_by, needed_for

__all__ = ["Mutant", "mutants_of"]

_OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "|"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_PAIRS = [
    ("max", "min"),
    ("amax", "amin"),
    ("argmax", "argmin"),
    ("maximum", "minimum"),
    ("sum", "mean"),
    ("any", "all"),
    ("ceil", "floor"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("float32", "float64"),
    ("float", "double"),
    ("tril", "triu"),
    ("sin", "cos"),
    ("add_", "sub_"),
    ("mul_", "div_"),
    ("train", "eval"),
    ("parameters", "buffers"),
    ("named_parameters", "named_buffers"),
]
_TWINS = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])} | {
    "round": "floor",
    "sqrt": "square",
    "rsqrt": "sqrt",
    "log": "log1p",
    "exp": "expm1",
}

_SYMMETRIC = {"max", "min", "maximum", "minimum", "promote_types", "allclose", "isclose", "equal", "gcd"}
"""Calls whose first two arguments may change places."""


@dataclass(frozen=True)
class Mutant:
    """A reference with one change."""

    tasks: tuple[str, ...]
    """The tasks that use what is changed; its own task, mostly."""
    line: int
    before: str
    """The line before the change; several lines on one, where the change covers them."""
    after: str
    """The same after the change."""
    what: str
    """The change, as in "a + b becomes a - b"."""
    text: str = field(repr=False)
    """The module, in which lines that none of the tasks needs are empty."""


@dataclass(frozen=True)
class _Edit:
    """A stretch of the source, in bytes, and what takes its place."""

    start: int
    end: int
    new: str
    what: str
    line: int


def mutants_of(solution: str, tasks: Sequence[str]) -> list[Mutant]:
    """All mutants of what these tasks' references consist of, each once."""
    tree = ast.parse(solution)
    source = _Source(solution)
    users: dict[ast.stmt, list[str]] = {}
    for task in tasks:
        for node in needed_for([task], tree.body):
            users.setdefault(node, []).append(task)
    found: dict[str, Mutant] = {}
    for node, needing in sorted(users.items(), key=lambda item: item[0].lineno):
        kept = needed_for(needing, tree.body)
        unneeded = [other for other in tree.body if defined_by(other) and other not in kept]
        for edit in source.edits(node):
            text = source.with_edit(edit, unneeded)
            try:
                compile(text, "mutant", "exec")
            except (SyntaxError, ValueError):
                continue
            found.setdefault(text, Mutant(tuple(needing), edit.line, *source.lines_of(edit), edit.what, text))
    return list(found.values())


class _Source:
    """A text with its edits. Positions of `ast` count bytes within a line; here they count bytes from the start."""

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()
        lengths = (len(line) for line in self._bytes.splitlines(keepends=True))
        self._starts = [0, *itertools.accumulate(lengths)]

    def with_edit(self, edit: _Edit, unneeded: Sequence[ast.stmt]) -> str:
        """The text after an edit, without the statements that are not needed."""
        pieces = [(edit.start, edit.end, edit.new)]
        for node in unneeded:
            first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
            start, end = self._starts[first - 1], self._span(node)[1]
            pieces.append((start, end, "\n" * self._bytes[start:end].count(b"\n")))
        text = self._bytes
        for start, end, new in sorted(pieces, reverse=True):
            text = text[:start] + new.encode() + text[end:]
        return text.decode()

    def lines_of(self, edit: _Edit) -> tuple[str, str]:
        """The lines of an edit before and after it, on one line each."""
        first = self._bytes.rfind(b"\n", 0, edit.start) + 1
        last = self._bytes.find(b"\n", edit.end)
        before, after = self._bytes[first : edit.start].decode(), self._bytes[edit.end : last].decode()
        old = self._bytes[edit.start : edit.end].decode()
        return " ".join(f"{before}{old}{after}".split()), " ".join(f"{before}{edit.new}{after}".split())

    def edits(self, node: ast.stmt) -> Iterator[_Edit]:
        """All changes within a statement of the module."""
        yield from self._statement(node, set())

    # ---- places in the text

    def _span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword)
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._starts[node.lineno - 1] + node.col_offset, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._bytes[start:end].decode()

    def _replace(self, node: ast.AST, new: str, what: str = "") -> _Edit:
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword)
        return _Edit(*self._span(node), new, what or f"{_short(self._text(node))} becomes {_short(new)}", node.lineno)

    def _between(self, whole: ast.expr, left: ast.expr, right: ast.expr, operator: ast.AST) -> Iterator[_Edit]:
        """An edit of the operator that stands between two operands."""
        old, new = _OPERATORS.get(type(operator), ("", ""))
        start, end = self._span(left)[1], self._span(right)[0]
        gap = self._bytes[start:end].decode()
        if old and old in gap:
            first, last = self._span(whole)
            changed = gap.replace(old, new, 1)
            after = self._bytes[first:start].decode() + changed + self._bytes[end:last].decode()
            yield _Edit(start, end, changed, f"{_short(self._text(whole))} becomes {_short(after)}", left.end_lineno or left.lineno)

    # ---- statements

    def _statement(self, node: ast.stmt, bound: set[str]) -> Iterator[_Edit]:
        """The edits of a statement; `bound` are the names that have a value before it."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._decorators(node)
                arguments = node.args
                for default in [*arguments.defaults, *(value for value in arguments.kw_defaults if value)]:
                    yield from self._expression(default)
                given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                yield from self._block(node.body, {argument.arg for argument in given})
            case ast.ClassDef():
                yield from self._decorators(node)
                yield from self._block(node.body, set())
            case ast.Expr(value=ast.Constant()):
                pass  # a docstring
            case ast.Raise() | ast.Delete() | ast.Break() | ast.Continue() | ast.Expr() | ast.AugAssign():
                yield self._replace(node, "pass", f"{_short(self._text(node))} is dropped")
                if isinstance(node, ast.AugAssign):
                    yield from self._between_augmented(node)
                    yield from self._expression(node.value)
                elif isinstance(node, ast.Expr):
                    yield from self._expression(node.value)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
                stores = any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
                if node.value is not None:
                    if stores or all(name in bound for name in names):
                        yield self._replace(node, "pass", f"{_short(self._text(node))} is dropped")
                    yield from self._expression(node.value)
                for target in targets:
                    if isinstance(target, ast.Subscript):
                        yield from self._expression(target.slice)
                bound.update(names)
            case ast.If() | ast.While():
                if isinstance(node, ast.If) and not node.orelse:
                    yield self._replace(node, "pass", f"{_short(self._text(node))} is dropped")
                yield self._negate(node.test)
                yield from self._expression(node.test)
                yield from self._block(node.body, bound)
                yield from self._block(node.orelse, bound)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    if item.optional_vars is None:
                        dropped = f"with {_short(self._text(item.context_expr))} is dropped"
                        yield self._replace(item.context_expr, "__import__('contextlib').nullcontext()", dropped)
                    yield from self._expression(item.context_expr)
                yield from self._block(node.body, bound)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        yield from self._expression(child)
                        bound.update(part.id for part in ast.walk(child) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
                for name in ("body", "orelse", "finalbody"):
                    yield from self._block(getattr(node, name, []), bound)
                for handler in getattr(node, "handlers", []):
                    yield from self._block(handler.body, bound)

    def _block(self, statements: Sequence[ast.stmt], bound: set[str]) -> Iterator[_Edit]:
        for statement in statements:
            yield from self._statement(statement, bound)

    def _decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[_Edit]:
        for decorator in node.decorator_list:
            if self._text(decorator) not in ("property", "staticmethod", "classmethod"):
                yield self._replace(decorator, "(lambda decorated: decorated)", f"@{_short(self._text(decorator))} is dropped")

    def _between_augmented(self, node: ast.AugAssign) -> Iterator[_Edit]:
        old, new = _OPERATORS.get(type(node.op), ("", ""))
        start, end = self._span(node.target)[1], self._span(node.value)[0]
        gap = self._bytes[start:end].decode()
        if old and f"{old}=" in gap:
            whole = self._text(node)
            yield _Edit(
                start,
                end,
                gap.replace(f"{old}=", f"{new}=", 1),
                f"{_short(whole)} becomes {_short(whole.replace(f'{old}=', f'{new}=', 1))}",
                node.lineno,
            )

    # ---- expressions

    def _negate(self, test: ast.expr) -> _Edit:
        return self._replace(test, f"not ({self._text(test)})")

    def _expression(self, node: ast.expr) -> Iterator[_Edit]:
        match node:
            case ast.JoinedStr():
                return  # a message
            case ast.Lambda():
                yield from self._expression(node.body)
                return
            case ast.BinOp():
                yield from self._between(node, node.left, node.right, node.op)
            case ast.BoolOp():
                for left, right in itertools.pairwise(node.values):
                    yield from self._between(node, left, right, node.op)
            case ast.Compare():
                for left, right, operator in zip([node.left, *node.comparators], node.comparators, node.ops, strict=False):
                    yield from self._between(node, left, right, operator)
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
                yield self._replace(node, f"({self._text(node.operand)})")
            case ast.IfExp():
                yield self._negate(node.test)
            case ast.Constant():
                yield from self._constant(node)
            case ast.Attribute() if node.attr in _TWINS and isinstance(node.ctx, ast.Load):
                whole = self._text(node)
                yield self._replace(node, whole[: -len(node.attr)] + _TWINS[node.attr])
            case ast.Name() if node.id in _TWINS and isinstance(node.ctx, ast.Load):
                yield self._replace(node, _TWINS[node.id])
            case ast.Call():
                yield from self._call(node)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for generator in node.generators:
                    for test in generator.ifs:
                        yield self._negate(test)
                        yield from self._expression(test)
                    yield from self._expression(generator.iter)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.keyword):
                yield from self._expression(child.value)
            elif isinstance(child, ast.Slice):
                yield from self._slice(child)
            elif isinstance(child, ast.expr):
                yield from self._expression(child)

    def _constant(self, node: ast.Constant) -> Iterator[_Edit]:
        match node.value:
            case bool():
                yield self._replace(node, str(not node.value))
            case int():
                yield self._replace(node, str(node.value + 1))
                if node.value == 1:
                    yield self._replace(node, "0")
            case float():
                yield self._replace(node, repr(2 * node.value if node.value else 1.0))

    def _call(self, node: ast.Call) -> Iterator[_Edit]:
        positional = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        if isinstance(node.func, ast.Attribute) and not _is_module(node.func.value):
            yield self._replace(node, f"({self._text(node.func.value)})")
        elif positional and len(positional) == len(node.args):
            yield self._replace(node, f"({self._text(positional[0])})")
        name, texts = self._text(node.func), [self._text(argument) for argument in node.args]
        keywords = [self._text(keyword) for keyword in node.keywords]
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                rest = [*texts, *keywords[:index], *keywords[index + 1 :]]
                dropped = f"{_short(keywords[index])} of {_short(name)} is dropped"
                yield self._replace(node, f"{name}({', '.join(rest)})", dropped)
        swapped = len(positional) >= 2 and positional == node.args and texts[0] != texts[1]
        if swapped and name.rpartition(".")[2] not in _SYMMETRIC:
            yield self._replace(node, f"{name}({', '.join([texts[1], texts[0], *texts[2:], *keywords])})")

    def _slice(self, node: ast.Slice) -> Iterator[_Edit]:
        for bound in (node.lower, node.upper, node.step):
            if bound is not None:
                yield self._replace(bound, "", f"{_short(self._text(bound))} of a slice is dropped")
                yield from self._expression(bound)


def _is_module(node: ast.expr) -> bool:
    """True for the names that modules are imported under, such as torch, math, F and nn.init."""
    if isinstance(node, ast.Attribute):
        return _is_module(node.value) and node.attr.islower()
    return isinstance(node, ast.Name) and node.id in {"torch", "math", "F", "nn", "os", "copy", "itertools", "random", "functools"}


def _short(text: str) -> str:
    """Some source on one line, cut in its middle where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:40]} … {line[-25:]}"
