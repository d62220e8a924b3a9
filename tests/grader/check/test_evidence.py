"""What points rest on: answers of another seed, constant answers, and the word of the student's own process."""

import json

import pytest

from grader.check.evidence import ModuleEvidence, TestEvidence, measurements, replay_problems
from grader.check.replay import replay_modules
from grader.course.manifest import Course
from tests.grader.conftest import forget_suites, mini_course
from tests.grader.conftest import grader as command

CONSTANT = """

@task("double")
def test_of_three(agree):
    \"\"\"Twice three is six.\"\"\"
    agree(lambda m: m.double(torch.tensor([3.0])), rtol=0, atol=0)
"""
LOOSE = """

@task("double")
def test_is_positive(student, draw):
    \"\"\"Positive numbers stay positive.\"\"\"
    x = draw.uniform(7)
    assert (student(lambda m: m.double(x)) >= 0).all(), "not positive"
"""
MORE_CALLS = """

@task("Counter")
def test_any_number_of_counters(student, draw):
    \"\"\"A counter begins at 10, however many there are.\"\"\"
    for _ in range(draw.integer(1, 99)):
        assert student(lambda m: m.Counter().add(0)) == 10, "not 10"
"""
MARKED = """

@measured("calls")
@task("Counter")
def test_once(agree, draw):
    \"\"\"One call is one call.\"\"\"
    n = draw.integer(1, 999)

    def probe(m):
        seen = []
        call = lambda: seen.append(m.Counter(n).add(1))
        call()
        return seen

    agree(probe, rtol=0, atol=0)
"""
GPU = """

@pytest.mark.gpu
@task("double")
def test_of_three_there(agree):
    \"\"\"Twice three is six on a GPU.\"\"\"
    agree(lambda m: m.double(torch.tensor([3.0], device="cuda")), rtol=0, atol=0)
"""


@pytest.fixture
def weigh(tmp_path, monkeypatch):
    """`weigh(text)`: the evidence of the course in miniature with this text added to its hidden suite, replayed in this process."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(text: str) -> ModuleEvidence:
        course = Course.read(with_tests(mini_course(tmp_path), text))
        [evidence] = replay_modules(course, course.modules, seed=1)
        return evidence

    yield run
    forget_suites()


def with_tests(root, text):
    """Add tests to the hidden suite of a course in miniature."""
    path = root / "tests/hidden/test_mini.py"
    path.write_text(path.read_text().replace("import raised, task", "import measured, raised, task") + text)
    return root


def test_a_suite_of_drawn_values_earns_nothing_by_replay(weigh):
    """All points are there, and none for another seed's answers."""
    evidence = weigh("")
    assert (evidence.points, evidence.once, evidence.replayed, evidence.constant, evidence.measured) == (5, 0, 0, 0, 0)
    assert list(replay_problems(evidence)) == []


def test_a_constant_answer_is_named(weigh):
    """With its points: one of the task's five parts, of two points."""
    evidence = weigh(CONSTANT)
    assert [test.id for test in evidence.tests if test.constant] == ["test_of_three"]
    assert evidence.constant == evidence.replayed == pytest.approx(0.4)
    whole, one = replay_problems(evidence)
    assert "earn 0.40 of 5 points" in whole
    assert "test_of_three (0.40 points) has the same answer under every seed" in one


def test_a_check_that_takes_any_answer_is_named(weigh):
    """The answers differ, and pass all the same."""
    evidence = weigh(LOOSE)
    assert [test.id for test in evidence.tests if test.replayed] == ["test_is_positive"]
    assert evidence.constant == 0
    assert "test_is_positive (0.40 points) accepts the answers of another seed" in list(replay_problems(evidence))[1]


def test_answers_can_run_out(weigh):
    """A test that asks more often than the recorded one fails there: nothing is made up."""
    evidence = weigh(MORE_CALLS)
    assert not [test.id for test in evidence.tests if test.replayed]


def test_a_mark_is_taken_up(weigh):
    """Its points rest on honesty, and not on a replay."""
    evidence = weigh(MARKED)
    assert [(test.id, test.measured, test.replayed) for test in evidence.tests if test.measured] == [("test_once", "calls", False)]
    assert evidence.measured == pytest.approx(1)


def test_tests_for_a_gpu_do_not_count(weigh):
    """As on a machine without one."""
    evidence = weigh(GPU)
    assert evidence.points == 5
    assert "test_of_three_there" not in [test.id for test in evidence.tests]


@pytest.mark.parametrize(("points", "problems"), [(0.5, 0), (0.51, 2)])
def test_half_a_per_cent_is_allowed(points, problems):
    """Of a module's points."""
    tests = [TestEvidence("a", "t", points, "", True, True, False), TestEvidence("b", "t", 100 - points, "", False, False, False)]
    assert len(list(replay_problems(ModuleEvidence("m", tests)))) == problems


@pytest.mark.parametrize(
    ("probe", "kinds"),
    [
        ("lambda m: m.f(x).data_ptr()", ["memory"]),
        ("lambda m: [m.f(x) is x, m.f(x).stride()]", ["object identity", "views"]),
        ("lambda m: m.f(x).requires_grad", ["flags"]),
        ("lambda m: watched(m)", ["hooks"]),
        ("lambda m: Mode(m)", ["modes"]),
        ("lambda m: told(m)", ["calls"]),
        ("lambda m: [m.f(x) is None, type(m.f(x)) is int, x.requires_grad_(), m.stride]", []),
        ("lambda m: m.cache.append(x)", []),
        ("plain", []),
    ],
)
def test_measurements_are_found(probe, kinds):
    """In the probe and in the helpers that it reaches; a test's own lines run in the trusted process."""
    suite = f"""
def watched(m):
    m.layer.register_forward_hook(print)

def told(m):
    seen = []
    m.f(seen.append)
    return seen

class Mode(TorchDispatchMode):
    pass

class TestF:
    def test_it(self, agree):
        x.data_ptr(); y is x
        agree({probe})
"""
    found = measurements(suite.replace("m.stride]", "m.strides]"))
    assert found == ({"TestF::test_it": kinds} if kinds else {})


@pytest.mark.parametrize("place", ["class", "test"])
def test_a_marked_test_is_not_named(place):
    """By a mark of its own or of its class."""
    marks = {"class": ('@measured("memory")', ""), "test": ("", '@measured("memory")')}[place]
    suite = f"""
{marks[0]}
class TestF:
    {marks[1]}
    def test_it(self, agree):
        agree(lambda m: m.f().data_ptr())
"""
    assert measurements(suite) == {}
    assert measurements(suite, marked=True) == {"TestF::test_it": ["memory"]}


def test_the_command_lists_what_rests_on_honesty(tmp_path):
    """Marked tests with their points, and the table; nothing is graded."""
    root = with_tests(mini_course(tmp_path), MARKED)
    done = command("check", "--evidence", "--seed", 1, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "mini: test_once (1.00 points) rests on calls" in done.stdout
    assert "1.00 (20.0%)" in done.stdout
    assert "1 modules, 2 tasks, 6 hidden tests, seed 1" in done.stdout


def test_the_command_fails_for_what_earns_without_work(tmp_path):
    """With a problem for each test."""
    root = with_tests(mini_course(tmp_path), CONSTANT)
    done = command("check", "--evidence", "--json", "--seed", 1, cwd=root)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert any("test_of_three (0.40 points)" in problem for problem in report["problems"])
    assert [test["id"] for test in report["evidence"][0]["tests"] if test["replayed"]] == ["test_of_three"]
