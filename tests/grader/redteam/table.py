"""The table of docs/security.md, made from catalogue.toml and the first lines of the programs' docstrings.

`python tests/grader/redteam/table.py` writes it. Only the standard library: the table can be made where there is no torch.
"""

import ast
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Attack", "Program", "attacks", "missing_tests", "programs", "render", "stale", "write"]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DOCUMENT = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- table: made by tests/grader/redteam/table.py -->", "<!-- end of table -->"
DEFENCES = [f"D{number}" for number in range(1, 11)]


@dataclass(frozen=True)
class Attack:
    """One number of the catalogue."""

    group: str
    number: int
    title: str
    test: str = ""
    because: str = ""
    defence: str = ""


@dataclass(frozen=True)
class Program:
    """What a hostile program's docstring says of it."""

    stem: str
    numbers: tuple[tuple[str, int], ...]
    """Groups and numbers, such as ("B", 29)."""
    sentence: str
    statuses: str
    defences: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Program":
        """Read `B 29: sentence.` and the lines `Status:` and `Defence:`. Raises: ValueError where one is missing."""
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        first = re.match(r"((?:[A-I] \d+(?:, )?)+): (.+\.)$", text.partition("\n")[0])
        lines = dict(re.findall(r"^(Status|Defence): (.+)$", text, re.MULTILINE))
        if first is None or len(lines) != 2:
            raise ValueError(f"{path.name}: begin the docstring with `B 29: sentence.`, and give it the lines Status and Defence")
        numbers = tuple((group, int(number)) for group, number in re.findall(r"([A-I]) (\d+)", first[1]))
        return cls(path.stem, numbers, first[2], lines["Status"], tuple(lines["Defence"].split(", ")))


def attacks() -> list[Attack]:
    """The catalogue, in order."""
    return [Attack(**entry) for entry in tomllib.loads((HERE / "catalogue.toml").read_text())["attacks"]]


def programs() -> list[Program]:
    """The hostile programs, in the order of their names."""
    return [Program.read(path) for path in sorted((HERE / "programs").glob("*.py"))]


def missing_tests(catalogue: list[Attack]) -> list[str]:
    """The tests that the catalogue names and no file defines."""
    missing = []
    for test in filter(None, (attack.test for attack in catalogue)):
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text()) if (ROOT / path).is_file() else ast.Module([], [])
        if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
            missing.append(test)
    return missing


def render(catalogue: list[Attack], suite: list[Program]) -> str:
    """The table in Markdown."""
    lines = ["| number | what it tries | program or test | outcome | defence |", "| --- | --- | --- | --- | --- |"]
    for attack in catalogue:
        mine = [program for program in suite if (attack.group, attack.number) in program.numbers]
        if mine:
            where = ", ".join(f"`{program.stem}`" for program in mine)
            said = {status for program in mine for status in program.statuses.split(" or ")}
            outcome = f"{' or '.join(sorted(said))}; 0 points, canaries untouched"
            used = {defence for program in mine for defence in program.defences}
            first = mine[0].defences[0]  # of the first program, its most important one; then the others in order
            defence = ", ".join([first, *(name for name in DEFENCES if name in used - {first})])
        elif attack.test:
            where, outcome, defence = f"`{attack.test.rpartition('/')[2]}`", "as the test asserts", attack.defence
        else:
            where, outcome, defence = "none", attack.because, attack.defence
        lines.append(f"| {attack.group} {attack.number} | {attack.title} | {where} | {outcome} | {defence} |")
    return "\n".join(lines) + "\n"


def _with_table(text: str) -> str:
    """The document with the table of today between its markers. Raises: ValueError."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{DOCUMENT.name} needs the lines {BEGIN!r} and {END!r}, each once")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{render(attacks(), programs())}{END}{rest.partition(END)[2]}"


def stale() -> bool:
    """True where docs/security.md does not show today's table."""
    text = DOCUMENT.read_text()
    return _with_table(text) != text


def write() -> None:
    """Write the table into docs/security.md."""
    DOCUMENT.write_text(_with_table(DOCUMENT.read_text()))


if __name__ == "__main__":
    write()
