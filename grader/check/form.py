"""What the gate reads: whether files, manifest and README agree, and whether each task has all that a task needs."""

import ast
import re
from collections.abc import Iterator

from grader.check.evidence import unmarked_measurements
from grader.check.mutants import equivalents_problems
from grader.course.banks import Bank, read_bank
from grader.course.manifest import Course, Gate, Module
from grader.course.readme import with_table
from grader.course.source import Definition
from grader.course.stubs import broken_bodies, docstrings, make_stub, solution_lines, stub_task

__all__ = ["course_problems", "module_problems", "unreadable_files", "warnings_of"]

_FOLDERS = ("solutions", "exercises", "tests/public", "tests/hidden", "tests/misconceptions", "tests/alternatives")


def course_problems(course: Course) -> list[str]:
    """What is wrong with the course as a whole."""
    return [*_stray_files(course), *_readme_problems(course)]


def warnings_of(course: Course) -> list[str]:
    """What may be meant so, and makes scores worth less."""
    usual = Gate()
    return [
        f"course.toml, [gate]: {kind} = {mine} is fewer than the usual {due}. A suite is worth what it was tried on."
        for kind, mine, due in (
            ("misconceptions", course.gate.misconceptions, usual.misconceptions),
            ("alternatives", course.gate.alternatives, usual.alternatives),
        )
        if mine < due
    ]


def _stray_files(course: Course) -> Iterator[str]:
    """Files that the manifest does not know."""
    for folder in _FOLDERS:
        expected = {f"{module.name}.py" for module in course.modules} | {f"test_{module.name}.py" for module in course.modules}
        for path in sorted((course.root / folder).glob("*.py")):
            if path.name not in expected | {"conftest.py", "__init__.py"}:
                yield f"{folder}/{path.name} belongs to no module of course.toml: add the module, or take the file out"


def _readme_problems(course: Course) -> Iterator[str]:
    """A README whose table of modules differs from the manifest. A README without such a table is fine."""
    readme = course.root / "README.md"
    text = readme.read_text() if readme.is_file() else ""
    if with_table(text, course) != text:
        yield "README.md: the table of modules is out of date: run `grader stubs`"


def unreadable_files(course: Course, module: Module) -> list[str]:
    """Files of a module that are missing or do not parse, so that it can't be checked."""
    name = module.name
    paths = [course.solution(name), course.stub(name), course.public_suite(name), course.hidden_suite(name)]
    paths += [course.misconceptions(name), course.alternatives(name)]
    problems = []
    for path in paths:
        place = path.relative_to(course.root)
        try:
            ast.parse(path.read_text())
        except FileNotFoundError:
            problems.append(f"{place} is missing: write it, or make it with `grader stubs`")
        except (SyntaxError, ValueError, OSError) as error:
            problems.append(f"{place} can't be read: {error}")
    return problems


def module_problems(course: Course, module: Module) -> list[str]:
    """What is wrong with a module's tasks and can be found by reading their files."""
    whole = course.module(module.name)
    solution, stub = course.solution(module.name).read_text(), course.stub(module.name).read_text()
    bank = course.misconceptions(module.name).read_text()
    return [
        *_stub_problems(whole, solution, stub, broken_bodies(bank)),
        *_mending_problems(module, solution, bank),
        *_task_problems(module, solution),
        *_suite_problems(whole, course.hidden_suite(module.name).read_text()),
        *_bank_problems(whole, module, "misconception", read_bank(bank, "misconception"), course.gate.misconceptions),
        *_bank_problems(
            whole, module, "alternative", read_bank(course.alternatives(module.name).read_text(), "alternative"), course.gate.alternatives
        ),
        *equivalents_problems(course, module),
    ]


def _stub_problems(module: Module, solution: str, stub: str, broken: dict[str, str]) -> Iterator[str]:
    tasks = [task.name for task in module.tasks]
    ours, theirs = docstrings(solution, tasks), docstrings(stub, tasks)
    for name in tasks:
        if not ours.get(name):
            yield f"solutions/{module.name}.py: {name} is missing or has no docstring"
    if ours != theirs:
        different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        yield f"exercises/{module.name}.py: the docstring of {different[0]} differs from the reference's: run `grader stubs`"
    if stub != make_stub(solution, tasks, broken):
        yield f"exercises/{module.name}.py is out of date: run `grader stubs`"


def _mending_problems(module: Module, solution: str, bank: str) -> Iterator[str]:
    """Misconceptions marked `stub=True` that can't be shown in the stub: they need the reference's functions, with the same parameters."""
    tasks = [task.name for task in module.tasks]
    due: dict[str, str] = {}
    for node in ast.parse(solution).body:
        if isinstance(node, Definition) and node.name in tasks:
            due |= _parameters(node, node.name)
    shown: set[str] = set()
    for node in ast.parse(bank).body:
        task = stub_task(node)
        if task not in tasks or not isinstance(node, Definition):
            continue
        if task in shown:
            yield f"{module.name}: two misconceptions of {task} are marked stub=True: a stub shows one"
        shown.add(task)
        for name, parameters in _parameters(node, task).items():
            if name not in due:
                yield f"{module.name}: {node.name}, which the stub shows, has {name}, and the reference has not"
            elif due[name] != parameters:
                yield f"{module.name}: {node.name}, which the stub shows, has other parameters than {name}: ({due[name]}) are due"


def _parameters(node: Definition, name: str) -> dict[str, str]:
    """The parameters of a function, or of each method of a class, under a task's name."""
    functions = {name: node} if isinstance(node, ast.FunctionDef) else {}
    if isinstance(node, ast.ClassDef):
        functions = {f"{name}.{item.name}": item for item in node.body if isinstance(item, ast.FunctionDef)}
    found = {}
    for where, function in functions.items():
        every = function.args
        found[where] = ", ".join(one.arg for one in (*every.posonlyargs, *every.args, *every.kwonlyargs))
    return found


def _task_problems(module: Module, solution: str) -> Iterator[str]:
    from grader.protocol.watch import exists  # with torch, which the command needs for nothing else

    statements = docstrings(solution, [task.name for task in module.tasks])
    for task in module.tasks:
        for ban in task.bans:
            if not exists(ban):
                yield f"{module.name}: {ban}, a ban of {task.name}, names nothing: mend its spelling"
        whole = "\n".join(text or "" for name, text in statements.items() if name.split(".")[0] == task.name)
        if bool(task.bans) != ("Not allowed:" in whole):
            what = "bans something, and its docstring has no line `Not allowed:`" if task.bans else "says `Not allowed:`, and bans nothing"
            yield f"{module.name}: {task.name} {what}: a student has to know"
        squeezed = [_squeeze(hint) for hint in task.hints]
        for line in solution_lines(solution, task.name):
            if len(_squeeze(line)) >= 10 and any(_squeeze(line) in hint for hint in squeezed):
                yield f"{module.name}: a hint of {task.name} holds a line of the solution: {line}"


def _suite_problems(module: Module, suite: str) -> Iterator[str]:
    """Hidden tests of tasks that don't exist, which would count for nobody, and hidden tests that don't say what they check."""
    place = f"tests/hidden/test_{module.name}.py"
    tasks = [task.name for task in module.tasks]
    for node in ast.walk(ast.parse(suite)):
        match node:
            case ast.Call(func=ast.Name(id="task"), args=[ast.Constant(value=name), *_]) if name not in tasks:
                yield f"{place}: @task({name!r}) names no task of the module: mend its spelling, or add the task to course.toml"
            case ast.FunctionDef(name=name) if name.startswith("test_") and not ast.get_docstring(node):
                yield f"{place}: {name} has no docstring: say in a sentence what it checks, because students are told"
            case ast.FunctionDef(name=name) if name.startswith("test_") and (lines := _silent_asserts(node)):
                yield f"{place}, line {lines[0]}: this assert has no message, and students would see none"
    yield from unmarked_measurements(place, suite)


def _silent_asserts(test: ast.FunctionDef) -> list[int]:
    """The lines of a test's own asserts without a message. Those in a probe run with the student's code."""
    pending, lines = list(test.body), []
    while pending:
        match pending.pop():
            case ast.Assert(msg=None, lineno=line):
                lines.append(line)
            case ast.FunctionDef() | ast.ClassDef():
                pass
            case statement:
                pending += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
    return sorted(lines)


def _squeeze(text: str) -> str:
    return re.sub(r"[\s`]+", "", text)


def _bank_problems(whole: Module, module: Module, kind: str, bank: Bank, minimum: int) -> Iterator[str]:
    """Entries that are wrong, and tasks of `module` that have fewer than `minimum` entries."""
    names = [entry.name for entry in bank.entries]
    for name in sorted(set(names)):
        if names.count(name) > 1:
            yield f"{module.name}: two {kind}s are called {name}: rename one"
    for entry in bank.entries:
        if entry.task not in [task.name for task in whole.tasks]:
            yield f"{module.name}: the {kind} {entry.name} is for {entry.task}, which is no task of the module"
        if kind == "misconception" and not entry.why.strip():
            yield f"{module.name}: the misconception {entry.name} does not say why it is wrong"
    for task in module.tasks:
        count = sum(entry.task == task.name for entry in bank.entries)
        if count < minimum:
            yield f"{module.name}: {task.name} has {count} {kind}s, and needs {minimum}"
