"""The pieces of a reference's source: heads, bodies, helpers, gaps between statements. Text only; nothing here is executed."""

import ast

__all__ = [
    "Definition",
    "body_lines",
    "bound_name",
    "first_line",
    "gap",
    "head",
    "helpers_of",
    "is_private",
    "text_of",
    "todo",
    "without_docstrings",
]

Definition = ast.FunctionDef | ast.ClassDef


def helpers_of(tree: ast.Module) -> dict[str, Definition]:
    """The private functions, methods and classes of a module, by name."""
    return {node.name: node for node in ast.walk(tree) if isinstance(node, Definition) and is_private(node)}


def gap(previous: ast.stmt | None, node: ast.stmt, lines: list[str]) -> str:
    """The line breaks between two statements: two blank lines around definitions, otherwise as in the reference."""
    if previous is None:
        return ""
    if isinstance(previous, Definition) or isinstance(node, Definition):
        return "\n\n\n"
    between = lines[previous.end_lineno or previous.lineno : first_line(node) - 1]
    return "\n\n" if any(not line.strip() for line in between) else "\n"


def without_docstrings(text: str) -> str:
    """A module's text without docstrings and blank lines: what stays the same when only a statement is mended. Raises: SyntaxError."""
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | Definition) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            if isinstance(node, ast.Module) or first.lineno > node.lineno:
                dropped |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return "\n".join(line for number, line in enumerate(text.splitlines(), 1) if line.strip() and number not in dropped)


def todo(node: ast.FunctionDef, lines: list[str], helpers: dict[str, Definition]) -> str:
    """The comment that a stub has instead of a body. It says how many lines the reference takes."""
    count, more = len(body_lines(node, lines)), _lines_of_helpers(node, lines, helpers)
    return f"# TODO: about {count} line{'s' if count != 1 else ''}{f', and {more} in helpers of your own' if more else ''}."


def _lines_of_helpers(node: ast.AST, lines: list[str], helpers: dict[str, Definition]) -> int:
    """Count the lines of the private definitions that a body uses, directly or through others."""
    found: dict[str, Definition] = {}
    pending: list[ast.AST] = [node]
    while pending:
        for part in ast.walk(pending.pop()):
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if name in helpers and name not in found:
                found[name] = helpers[name]
                pending.append(helpers[name])
    outermost = [
        helper for helper in found.values() if not any(helper in ast.walk(other) for other in found.values() if other is not helper)
    ]
    return sum(1 + len(body_lines(helper, lines)) for helper in outermost)


def head(node: Definition, lines: list[str]) -> str:
    """Decorators, signature and docstring."""
    last = node.body[0].end_lineno if ast.get_docstring(node) else first_line(node.body[0]) - 1
    head = lines[first_line(node) - 1 : last]
    while not head[-1].strip() or head[-1].lstrip().startswith("#"):  # a comment above the body may give the answer away
        head.pop()
    return "\n".join(head)


def first_line(node: ast.stmt) -> int:
    """The line at which a statement begins. Decorators belong to the statement."""
    decorators = getattr(node, "decorator_list", [])
    return int(min([node.lineno, *(decorator.lineno for decorator in decorators)]))


def text_of(lines: list[str], first: int, last: int) -> str:
    """The lines from the first to the last, counted from 1."""
    return "\n".join(lines[first - 1 : last])


def body_lines(node: Definition, lines: list[str]) -> list[str]:
    """The lines of code of a body, without docstring, blank lines and comments."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return []
    text = (line.strip() for line in lines[body[0].lineno - 1 : node.end_lineno])
    return [line for line in text if line and not line.startswith("#")]


def is_private(node: ast.stmt) -> bool:
    """True if a statement binds a name with a leading underscore. Such a name is not part of the task's statement."""
    name = bound_name(node)
    return name.startswith("_") and not name.endswith("__")


def bound_name(node: ast.stmt) -> str:
    """The name that a definition or assignment binds. Empty for other statements."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case _:
            return ""
