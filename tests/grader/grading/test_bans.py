"""What a task forbids is found in its source and while it runs; honest code is left alone."""

import pytest

from grader.base.outcome import Status
from grader.grading.sides import ReferenceSide, StudentSide
from grader.grading.source_bans import uses_in
from grader.protocol.ban_names import leaf
from grader.protocol.probes import freeze
from grader.protocol.watch import exists
from grader.submissions.sources import Source
from tests.grader.conftest import COUNTER, tasks_of

BANS = ("torch.softmax", "torch.nn.Linear", "torch.linalg.norm")

SPELLINGS = {
    "plain": "import torch\ndef double(x):\n    return torch.softmax(x, 0)",
    "functional": "import torch.nn.functional as F\ndef double(x):\n    return F.softmax(x, 0)",
    "functional, dotted": "import torch\ndef double(x):\n    return torch.nn.functional.softmax(x, 0)",
    "from": "from torch import softmax as s\ndef double(x):\n    return s(x, 0)",
    "from nn": "from torch import nn\ndef double(x):\n    return nn.functional.softmax(x, 0)",
    "inside": "def double(x):\n    from torch import softmax\n    return softmax(x, 0)",
    "aten": "import torch\ndef double(x):\n    return torch.ops.aten._softmax(x, 0, False)",
    "getattr": "import torch\ndef double(x):\n    return getattr(torch, 'softmax')(x, 0)",
    "safe": "import torch\ndef double(x):\n    return torch.ops.aten._safe_softmax(x, 0)",
    "special": "import torch\ndef double(x):\n    return torch.special.softmax(x, 0)",
    "tensor's": "import torch\ndef double(x):\n    return torch.Tensor.softmax(x, 0)",
    "a helper": "import torch\ndef _help(x):\n    return torch.softmax(x, 0)\ndef double(x):\n    return _help(x)",
    "a constant": "import torch\nSOFT = torch.softmax\ndef double(x):\n    return SOFT(x, 0)",
    "a default": "import torch\ndef double(x, f=torch.softmax):\n    return f(x, 0)",
    "a class": "import torch\ndef double(x):\n    return torch.nn.Linear(5, 5)(x)",
}
HIDDEN_SPELLINGS = {
    "a method": "def double(x):\n    return x.softmax(0)",
    "a computed name": "import torch\ndef double(x):\n    return getattr(torch, 'soft' + 'max')(x, 0)",
    "everything": "from torch import *\ndef double(x):\n    return softmax(x, 0)",
    "an import": "def double(x):\n    return __import__('torch').softmax(x, 0)",
    "a module": "import torch\nclass Deep(torch.nn.Softmax):\n    pass\ndef double(x):\n    return Deep(0)(x)",
    "a subclass": "import torch\nL = vars(torch.nn)['Linear']\ndef double(x):\n    return L(5, 5)(x)",
    "caught": "def double(x):\n    try:\n        return x.softmax(0)\n    except BaseException:\n        return x + x",
    "a table": "import torch\ndef double(x):\n    return vars(torch)['softmax'](x, 0)",
    "eval": "def double(x):\n    return eval('x.soft' 'max(0)')",
}
HONEST = {
    "a method of its own": "class _Net:\n    def softmax(self, x):\n        return x + x\ndef double(x):\n    return _Net().softmax(x)",
    "a function of its own": "def softmax(x):\n    return x + x\ndef double(x):\n    return softmax(x)",
    "a variable": "def double(x):\n    softmax = x + x\n    return softmax",
    "a comment": "def double(x):\n    # torch.softmax would be wrong\n    return x + x",
    "a text": "def double(x):\n    'Not torch.softmax(x).'\n    return x + x",
    "another task's": "import torch\ndef other(x):\n    return torch.softmax(x, 0)\ndef double(x):\n    return x + x",
    "an unused import": "from torch import softmax\ndef double(x):\n    return x + x",
    "another name": "import torch\ndef double(x):\n    return torch.nn.functional.log_softmax(x, 0) * 0 + x + x",
    "a class that only sounds so": "import torch\ndef double(x):\n    return torch.nn.LazyLinear is not None and x + x",
    "does not parse": "def double(:",
}


@pytest.mark.parametrize("what", SPELLINGS)
def test_the_source_shows_it(what):
    """Each spelling is found, with the ban's name and the line."""
    assert str(uses_in(SPELLINGS[what], {"double": BANS}).get("double")).startswith(("torch.softmax, line ", "torch.nn.Linear, line "))


@pytest.mark.parametrize("what", HONEST)
def test_the_source_of_honest_code_is_left_alone(what):
    """Names of its own, texts and other tasks are no uses."""
    assert uses_in(HONEST[what], {"double": BANS}).get("double") is None


@pytest.mark.parametrize("what", HIDDEN_SPELLINGS)
def test_the_watch_sees_what_the_source_hides(grade_source, what):
    """A forbidden call that only shows while it runs is banned, also where the student catches the refusal."""
    assert uses_in(HIDDEN_SPELLINGS[what], {"double": BANS}).get("double") is None
    tasks = tasks_of(grade_source(f"{HIDDEN_SPELLINGS[what]}\n\n\n{COUNTER}"))
    assert (tasks["double"].status, tasks["double"].score, tasks["Counter"].score) == (Status.BANNED, 0, 3)


@pytest.mark.parametrize("what", [what for what in HONEST if what != "does not parse"])
def test_honest_code_is_never_banned(grade_source, what):
    """What may be used may be used."""
    source = HONEST[what].replace("def double(x):\n", "def double(x):\n    if not len(x): raise ValueError\n", 1)
    assert tasks_of(grade_source(f"{source}\n\n\n{COUNTER}"))["double"].score == 2


def test_a_ban_holds_for_its_task_alone(grade_source):
    """Another task may call what this one may not."""
    counter = COUNTER.replace("self.n += n", "import torch; torch.ones(3).softmax(0); self.n += n")
    assert grade_source(f"def double(x):\n    if not len(x): raise ValueError\n    return x + x\n\n\n{counter}").score == 5


def test_leaves():
    """What marks variants of one operation is taken off."""
    names = ["torch.softmax", "aten::_softmax", "torch.Tensor.softmax_", "torch.special.softmax", "aten::_safe_softmax", "special_softmax"]
    assert {leaf(name) for name in names} == {"softmax"}


def test_a_ban_has_to_exist():
    """A misspelt ban would forbid nothing."""
    assert exists("torch.nn.functional.softmax")
    assert exists("torch.ops.aten._softmax")
    assert not exists("torch.nn.functional.sofmax")
    assert not exists("torch.nonsense.softmax")


def test_a_cell_that_does_not_parse_hides_no_other():
    """A ban is found in a notebook in which another cell is broken, at the line of its own cell."""
    source = "x = = 1\n\nimport torch\n\ndef double(x):\n    return torch.softmax(x, 0)\n"
    assert uses_in(source, {"double": BANS}, (1, 3, 5)).get("double") == "torch.softmax, line 2 of its cell"
    assert uses_in(source, {"double": BANS}).get("double") is None


def test_what_a_worker_replaces_does_not_depend_on_the_selection(course, zygote):
    """With one task selected, the names that other tasks forbid are replaced as without."""
    (alone,) = course.select([], ["Counter"])
    text = COUNTER.replace("return self.n", "import torch; return torch.nn.Linear.__init__.__code__.co_name")
    for module in (alone, course.modules[0]):
        side = StudentSide(zygote, course, module, Source(text), ReferenceSide(course, "mini"))
        try:
            assert side.call("Counter", freeze(lambda m: m.Counter().add(1)), 1).value == "noting"
        finally:
            side.close()


GIVES_OUT = {
    "torch.library": "torch.library.get_kernel('aten::softmax.int', 'CPU')",
    "the binding": "torch._C._dispatch_get_computed_kernel_for_dispatch_key('aten::softmax.int', torch._C.DispatchKey.CPU)",
}


@pytest.mark.parametrize("what", GIVES_OUT)
def test_kernels_are_not_given_out(grade_source, what):
    """One that is taken when the module is loaded would be called past the watch."""
    text = f"import torch\ntry:\n    KERNEL = {GIVES_OUT[what]}\nexcept Exception:\n    KERNEL = None\n\n\n"
    counter = COUNTER.replace("return self.n", "return self.n if KERNEL is None else 'given out'")
    assert tasks_of(grade_source(text + counter))["Counter"].score == 3
