"""The tutor, asked by the package's own client: what it gives, and that it can't spoil."""

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from grader.course.manifest import Course
from grader.course.stubs import make_stub, solution_lines
from grader.practice.session import Session
from tests.grader.conftest import ALTERNATIVES, COUNTER, DOUBLE, HIDDEN, MISCONCEPTIONS, PUBLIC, SOLUTION, grader, mini_course

pytest.importorskip("mcp", reason="the extra tutor is not installed")

import anyio
from mcp import Client, StdioServerParameters

from grader.practice.tutor import client_config, tutor

ROOT = Path(__file__).parents[3]
TOOLS = {"list_tasks", "statement", "public_tests", "student_code", "run", "hint"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A course in its own repository: references, hidden tests and banks lie beside the exercises."""
    return mini_course(tmp_path / "course")


def ask(course: Course, *questions: tuple[str, dict[str, Any]]) -> list[str]:
    """The tutor's answers; those that are errors begin with "ERROR: "."""

    async def talk() -> list[str]:
        with Session(course) as session:
            async with Client(tutor(session)) as client:
                return [await answer(client, *question) for question in questions]

    return anyio.run(talk)


async def answer(client: Client, tool: str, arguments: dict[str, Any]) -> str:
    """The text of a tool's answer."""
    result = await client.call_tool(tool, arguments)
    text = "\n".join(part.text for part in result.content)
    return text.replace(f"Error executing tool {tool}:", "ERROR:") if result.is_error else text


def with_client(course: Course, use: Callable[[Client], Awaitable[Any]]) -> Any:
    """What a function makes of a client of the tutor."""

    async def talk() -> Any:
        with Session(course) as session:
            async with Client(tutor(session)) as client:
                return await use(client)

    return anyio.run(talk)


def test_what_it_says_of_itself(folder):
    """It has these tools and no other; it says that it holds no solution, and that the student is to write the answer."""

    async def look(client: Client) -> Any:
        return client.instructions, await client.list_tools()

    instructions, listed = with_client(Course.read(folder), look)
    assert "It holds no solution and can't give one." in instructions
    assert "Don't write the answer for the student" in instructions
    assert {tool.name for tool in listed.tools} == TOOLS
    assert all(tool.description for tool in listed.tools)
    assert {tool.name for tool in listed.tools if not tool.annotations.read_only_hint} == {"run", "hint"}


def test_statement_tests_and_code(folder):
    """The stub's text; the task's own public tests with their imports; the student's definition with its helpers."""
    (folder / "exercises" / "mini.py").write_text(
        "import math\nimport torch\n\n\ndef helper(x):\n    return torch.add(x, x)\n\n\ndef double(x):\n    return helper(x)\n\n\n"
        + COUNTER
    )
    statement, tests, code = ask(
        Course.read(folder), ("statement", {"task": "double"}), ("public_tests", {"task": "double"}), ("student_code", {"task": "double"})
    )
    assert statement.startswith("exercises/mini.py, 2 points, about 1 minute\n\ndef double(x: Tensor) -> Tensor:")
    assert "Raises: ValueError if x has no elements." in statement
    assert tests == (
        "import torch\nfrom mini import double\n\n\n"
        'def test_double_of_three():\n    """3 + 3 is 6."""\n    assert double(torch.tensor([3.0])).item() == 6'
    )
    assert code == "import torch\n\n\ndef helper(x):\n    return torch.add(x, x)\n\n\ndef double(x):\n    return helper(x)"


def test_a_files_name_and_a_byte_order_mark(folder):
    """Both are taken as the commands and Python take them."""
    (folder / "exercises" / "mini.py").write_text(f"{DOUBLE}\n\n{COUNTER}", "utf-8-sig")
    questions = [(tool, {"task": "double.py"}) for tool in ("statement", "public_tests", "student_code")]
    statement, tests, code = ask(Course.read(folder), *questions)
    assert "def double(x: Tensor)" in statement
    assert "def test_double_of_three" in tests
    assert code == DOUBLE.strip()


def test_fixtures_belong_to_a_test(folder):
    """What a public test names as an argument is shown, too."""
    suite = folder / "tests" / "public" / "test_mini.py"
    suite.write_text("import pytest\n\n\n@pytest.fixture\ndef three():\n    return 3\n\n\n" + PUBLIC.replace("three()", "three(three)"))
    (tests,) = ask(Course.read(folder), ("public_tests", {"task": "double"}))
    assert tests.startswith("import pytest\nimport torch\n")
    assert "@pytest.fixture\ndef three():" in tests
    assert "Counter" not in tests


def test_verdicts_are_those_of_the_command(folder):
    """The same text as `grader run` prints, on the file as it is at that moment; marks are shared both ways."""
    course = Course.read(folder)
    path = folder / "exercises" / "mini.py"
    path.write_text(f"import torch\n\n\n{DOUBLE}\n\n{COUNTER.replace('self.n += n', 'pass')}")

    async def talk(client: Client) -> list[str]:
        answers = [await answer(client, "run", {"task": name}) for name in ("double", "Counter")]
        printed = grader("run", "Counter", cwd=folder).stdout
        path.write_text(f"import torch\n\n\n{DOUBLE}\n\n{COUNTER}")
        assert grader("run", "Counter", cwd=folder).returncode == 0
        return [*answers, printed, await answer(client, "list_tasks", {}), await answer(client, "run", {"task": "Counter"})]

    right, wrong, printed, listed, mended = with_client(course, talk)
    assert right.startswith("double: all public tests passed (1 of 1)")
    assert wrong == printed.strip()
    assert "assert Counter(1).add(2) == 3" in wrong
    assert "- Counter: passed, 3 points, about 2 minutes" in listed
    assert mended.startswith("Counter: all public tests passed")
    assert grader("list", cwd=folder).stdout.count("✓") == 2


def test_hints_come_one_at_a_time(folder):
    """The counter is that of the file of progress, so another session goes on."""
    course = Course.read(folder)
    first, second = ask(course, ("hint", {"task": "double"}), ("hint", {"task": "double"}))
    assert first == "Hint 1 of 3 for double: What is twice a number?"
    assert second == "Hint 2 of 3 for double: A product has two factors."
    third, again = ask(course, ("hint", {"task": "double"}), ("hint", {"task": "double"}))
    assert third == "Hint 3 of 3 for double: One factor is the argument."
    assert again.endswith("There are no more hints.")


def test_bad_input_gets_a_sentence(folder):
    """Unknown names, a module's name, a broken file, a missing one."""
    course = Course.read(folder)
    path = folder / "exercises" / "mini.py"
    unknown, module, nonsense = ask(
        course, ("run", {"task": "doubel"}), ("statement", {"task": "mini"}), ("statement", {"task": "../solutions/mini"})
    )
    assert unknown == "ERROR: There is no task or module 'doubel'. Do you mean double?"
    assert module == "ERROR: mini is a module: name one task."
    assert nonsense.startswith("ERROR: There is no task or module '../solutions/mini'.")
    path.write_text("def double(x:\n    return 2\n")
    (broken,) = ask(course, ("student_code", {"task": "double"}))
    assert broken.startswith("exercises/mini.py has a syntax error in line 1")
    assert "return 2" in broken
    path.unlink()
    (missing,) = ask(course, ("student_code", {"task": "double"}))
    assert missing.startswith("ERROR: exercises/mini.py can't be read")


def test_no_answer_holds_a_line_of_what_is_hidden(folder):
    """Every tool is called with every name that could lead astray, in a repository where all files lie beside each other."""
    course = Course.read(folder)
    names = ["double", "Counter", "mini", "", ".", "solutions/mini", "../solutions/mini.py", "hidden", "test_mini", "adds", "squares", "*"]
    questions = [
        (tool, {"task": name}) for tool in sorted(TOOLS - {"list_tasks"}) for name in names for _ in range(1 + 3 * (tool == "hint"))
    ]
    text = "\n".join(ask(course, ("list_tasks", {}), *questions))

    async def about(client: Client) -> str:
        return f"{client.instructions}\n{(await client.list_tools()).model_dump_json()}"

    text += with_client(course, about)
    assert "Hint 3 of 3 for Counter" in text  # so the answers are really there
    assert "def test_double_of_three" in text
    shown = {line.strip() for line in (PUBLIC + make_stub(SOLUTION, ["double", "Counter"])).splitlines()}
    secret = [line for task in ("double", "Counter") for line in solution_lines(SOLUTION, task)]
    secret += [line.strip() for source in (HIDDEN, MISCONCEPTIONS, ALTERNATIVES) for line in source.splitlines()]
    found = [line for line in secret if len(line) > 10 and line not in shown and line in text]
    assert len(secret) > 100
    assert found == []


def test_over_a_pipe(folder):
    """As an assistant starts it, with the configuration that it prints itself."""
    course = Course.read(folder)
    (entry,) = client_config(sys.executable, course)["mcpServers"].values()
    printed = grader("tutor", "--config", cwd=folder).stdout
    assert '"tutor"' in printed
    assert str(folder) in printed

    async def talk() -> tuple[Any, list[str]]:
        parameters = StdioServerParameters(**entry, env={"PYTHONPATH": str(ROOT)})
        async with Client(parameters) as client:
            answers = [await answer(client, name, {"task": "double"}) for name in ("run", "hint", "run")]
            return client.server_info, answers

    info, answers = anyio.run(talk)
    assert info.name == "pytorch-exercises"
    assert answers == ["double: not written yet", "Hint 1 of 3 for double: What is twice a number?", "double: not written yet"]


def test_without_mcp(folder):
    """The sentence says what to install."""
    hide = folder / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda name, *a: None if name == 'mcp' else find(name, *a)\n"
    )
    result = grader("tutor", cwd=folder, PYTHONPATH=f"{hide}:{ROOT}")
    assert result.returncode != 0
    assert re.search(r'mcp is not installed: pip install "pytorch-exercises\[tutor\]"', result.stderr)
