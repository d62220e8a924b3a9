"""`grader similar`: copies are found whatever was changed to hide them, independent answers are not, and the page is harmless."""

import ast
import json
import random
from html.parser import HTMLParser
from pathlib import Path

import pytest

from grader.similar.fingerprints import LONGEST_UNSEEN, fingerprints, tokens
from grader.similar.page import page
from grader.similar.pairs import Text, alike
from tests.grader.conftest import grader, mini_course
from tests.grader.exports.samples import HOSTILE

ROOT = Path(__file__).parents[3]
MODULES = ["autograd", "cnn", "attention"]
FILLERS = ["z = 1", "assert True", "y = len([])", "print('x')", "if False: pass"]


def disguised(source: str, edits: int, seed: int) -> str:
    """The same code with other names for all variables, the definitions in another order, and so many statements put in."""
    rng, tree = random.Random(seed), ast.parse(source)
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg) and node.arg != "self"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in own:
            node.id = f"other_{node.id}"
        elif isinstance(node, ast.arg) and node.arg in own:
            node.arg = f"other_{node.arg}"
    kinds = (ast.FunctionDef, ast.ClassDef)
    definitions = [node for node in tree.body if isinstance(node, kinds)]
    rng.shuffle(definitions)
    tree.body = [node for node in tree.body if not isinstance(node, kinds)] + definitions
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for _ in range(edits):
        body = rng.choice(bodies)
        body.insert(rng.randrange(len(body)), ast.parse(rng.choice(FILLERS)).body[0])
    return ast.unparse(ast.fix_missing_locations(tree))


def given(module: str) -> dict[str, list[str]]:
    """What everybody has of a module."""
    return {module: [(ROOT / folder / f"{module}.py").read_text() for folder in ("exercises", "solutions")]}


@pytest.mark.parametrize("edits", [0, 10, 40])
@pytest.mark.parametrize("module", MODULES)
def test_a_copy_is_found(module, edits):
    """Renamed, reordered and padded."""
    source = (ROOT / "examples" / "perfect" / f"{module}.py").read_text()
    texts = [Text("anna", module, source), Text("ben", module, disguised(source, edits, 1))]
    (pair,) = alike(texts, given(module))
    assert pair.share > 0.5
    assert all(0 < len(lines) <= len(text.source.splitlines()) for lines, text in zip(pair.lines, texts, strict=True))


@pytest.mark.parametrize("module", MODULES)
def test_another_right_answer_is_no_copy(module):
    """Nor is what many have, nor what was handed out."""
    source, reference = ((ROOT / folder / f"{module}.py").read_text() for folder in ("examples/perfect", "solutions"))
    stub = (ROOT / "exercises" / f"{module}.py").read_text()
    assert alike([Text("anna", module, source), Text("ben", module, reference)], {module: [stub]}, 0.3) == []
    assert alike([Text(name, module, stub) for name in "abc"], given(module), 0.05) == []
    assert alike([Text(name, module, source) for name in "abcdef"], given(module), 0.05) == []


def test_what_counts_of_a_text():
    """Names of its own, comments, docstrings and layout don't; attributes, keywords and what is torch's do."""
    one = 'def f(a, b):\n    """Says."""\n    c = torch.sum(a, dim=1)  # sum\n    return c.view(b)\n'
    other = "def g(x,y):\n  z=torch.sum(x,\n     dim=1)\n\n  return z.view(y)\n"
    assert [token.text for token in tokens(one)] == [token.text for token in tokens(other)]
    for change in (("sum", "amax"), ("dim", "axis"), ("view", "reshape"), ("torch", "np"), ("1", "2")):
        assert [token.text for token in tokens(one)] != [token.text for token in tokens(other.replace(*change))]
    assert tokens("def f(:\n") == tokens("def f(:\n'''")
    assert fingerprints(tokens("x = 1")) == {}


def test_a_long_enough_run_is_always_seen():
    """That is what winnowing promises."""
    words = tokens("; ".join(f"x.a{number}(b{number % 7})" for number in range(40)))
    run = words[20 : 20 + LONGEST_UNSEEN + 1]
    for seed in range(20):
        rng = random.Random(seed)
        before, after = (tokens("; ".join(f"y.c{rng.random()}" for _ in range(9))) for _ in range(2))
        assert fingerprints(words).keys() & fingerprints([*before, *run, *after]).keys()


class Tags(HTMLParser):
    """Collects the tags of a page and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        """Keep it."""
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_page_is_harmless():
    """Names and code of students are text, whatever they hold; nothing is loaded, and no script can run."""
    source = "".join(f"def f{n}(x):\n    return x.a{n}(x.b{n}, [{n}, {n + 1}])  # {HOSTILE.splitlines()[0]} <script>\n" for n in range(9))
    pairs = alike([Text(f"eve <b>{HOSTILE}", "mini", source), Text("ben", "mini", source)], {})
    read = Tags()
    text = page(pairs, 2, 0.3)
    read.feed(text)
    assert not {"script", "b", "img", "iframe", "object", "form"} & set(read.tags)
    assert read.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "scope", "tabindex", "aria-label"}
    assert "default-src 'none'" in text
    assert "<mark>" in text
    assert "There are none." in page([], 0, 0.3)


def test_the_command(tmp_path):
    """Submissions as `grade` takes them; a table, a page, JSON; and a sentence where something is wrong."""
    root = mini_course(tmp_path / "course")
    steps = "".join(f"    y = y.add(x.mul({n})).sub(x.sin().mul({n}))\n" for n in range(12))
    for name, text in {
        "anna": f"def double(x):\n    y = x\n{steps}    return y\n",
        "ben": f"def double(x):\n    # mine\n    y = x\n{steps.replace('y', 'z').replace('z = z', 'q = q')}    return y\n",
        "cy": "def double(x):\n    return x + x\n",
    }.items():
        (tmp_path / "hand-in" / name).mkdir(parents=True)
        (tmp_path / "hand-in" / name / "mini.py").write_text(text)
    done = grader("similar", tmp_path / "hand-in", "--out", "page.html", cwd=root)
    assert done.returncode == 0, done.stderr
    assert "Pairs that look alike: 1, among 3 hand-ins. Side by side: page.html" in done.stdout
    assert "<h3>anna</h3>" in (root / "page.html").read_text()
    (plain,) = json.loads(grader("similar", tmp_path / "hand-in", "--json", cwd=root).stdout)
    assert (plain["module"], plain["one"], plain["other"]) == ("mini", "anna", "ben")
    for bad in (("nowhere",), (tmp_path / "hand-in", "--module", "none"), (tmp_path / "hand-in", "--out", "no/such/page.html")):
        refused = grader("similar", *bad, cwd=root)
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
