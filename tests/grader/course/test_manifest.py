"""course.toml: what is wrong with it is said with the file, the key and the fix."""

import pickle
from pathlib import Path

import msgspec
import pytest

from grader.course.manifest import Course, ManifestError, find_root
from tests.grader.conftest import MANIFEST, mini_course

ROOT = Path(__file__).parents[3]
PATH = '[[paths]]\nname = "short"\ntitle = "A"\nstory = "B"\nmodules = ["mini"]\n\n[[modules]]'
WRONG = {
    "no title": (('title = "A course in miniature"', ""), "in top level: Object missing required field `title`: add the key `title`"),
    "unknown key": (
        ("minutes = 1", "minutes = 1\nminuets = 2"),
        "in module 'mini', task 'double': Object contains unknown field `minuets`",
    ),
    "unknown limit": (("threads = 4", "thread = 4"), "in limits: Object contains unknown field `thread`: remove the key `thread`"),
    "no points": (("points = 2\n", ""), "task 'double': Object missing required field `points`: add the key `points`"),
    "negative points": (("points = 2", "points = -2"), "task 'double', points: Expected `float` > 0.0"),
    "no points at all": (("points = 2", "points = 0"), "points: Expected `float` > 0.0"),
    "endless points": (("points = 2", "points = inf"), "points"),
    "points that are no number": (("points = 2", "points = nan"), "points"),
    "endless seconds": (("test_seconds = 4", "test_seconds = inf"), "test_seconds"),
    "points in words": (("points = 2", 'points = "two"'), "points: Expected `float`, got `str`: give it a value of that kind"),
    "half a minute": (("minutes = 1", "minutes = 0.5"), "minutes: Expected `int`, got `float`"),
    "a bad module name": (('name = "mini"', 'name = "../mini"'), "name: Expected `str` matching regex"),
    "a bad task name": (('name = "double"', 'name = "dou ble"'), "name: Expected `str` matching regex"),
    "a name with a line feed": (('name = "double"', 'name = "double\\n"'), "name: Expected `str` matching regex"),
    "two tasks of a name": (('name = "Counter"', 'name = "double"'), "two tasks are called 'double': rename one"),
    "two hints": ((', "One factor is the argument."', ""), "task 'double' needs `hints` with three texts, none of them empty"),
    "an empty hint": (('"A product has two factors."', '" "'), "task 'double' needs `hints`"),
    "no hints": (('hints = ["What', 'hint = ["What'), "task 'double': Object contains unknown field `hint`"),
    "a ban without a module": (('"torch.softmax"', '"softmax"'), "bans"),
    "a ban elsewhere": (('"torch.softmax"', '"numpy.sum"'), "bans"),
    "bans as a word": (('["torch.softmax", "torch.nn.Linear"]', '"torch.softmax"'), "bans: Expected `array`, got `str`"),
    "an unknown limit of a task": (("minutes = 1", "minutes = 1\nlimits = {patience = 9}"), "unknown field `patience`"),
    "a task's limit of nothing": (
        ("minutes = 1", "minutes = 1\nlimits = {test_seconds = 0}"),
        "in module 'mini', task 'double', limits, test_seconds: Expected `float` > 0.0",
    ),
    "a task's limit in words": (
        ("minutes = 1", 'minutes = 1\nlimits = {threads = "many"}'),
        "task 'double', limits, threads: Expected `int`, got `str`: give it a value of that kind",
    ),
    "a limit of nothing": (("test_seconds = 4", "test_seconds = 0"), "in limits, test_seconds: Expected `float` > 0.0"),
    "a detail that is none": (
        ("[[modules]]", '[feedback]\ndetail = "some"\n\n[[modules]]'),
        """in feedback, detail: Invalid enum value 'some': say "full", "sentence" or "points\"""",
    ),
    "an extra task that is none": (
        ("[[modules]]", '[rules]\nextra = ["triple"]\n\n[[modules]]'),
        "rules, extra: there is no task 'triple': correct it",
    ),
    "a path of nothing": (("[[modules]]", PATH.replace('["mini"]', "[]")), "modules: Expected `array` of length >= 1"),
    "a path to nowhere": (("[[modules]]", PATH.replace("mini", "maxi")), "path 'short' names 'maxi', which is no module: correct it"),
    "a path in a circle": (("[[modules]]", PATH.replace('"mini"', '"mini", "mini"')), "path 'short' names 'mini', more than once"),
    "two paths of a name": (("[[modules]]", PATH.replace("[[modules]]", PATH)), "two paths are called 'short': rename one"),
    "not TOML": (("[limits]", "[limits"), "is not valid TOML"),
    "a key twice": (("points = 2", "points = 2\npoints = 3"), "is not valid TOML"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_with_file_key_and_fix(tmp_path: Path, what):
    """One mistake, one sentence that begins with the file and names the place."""
    (old, new), sentence = WRONG[what]
    path = tmp_path / "course.toml"
    assert old in MANIFEST
    path.write_text(MANIFEST.replace(old, new, 1))
    with pytest.raises(ManifestError) as caught:
        Course.read(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"modules = []\ntitle = 'x'", b"title = '\xff'", b"\xff\xfe\x00", b"title = 1", b"modules = 3\ntitle = 'x'"]
)
def test_a_file_that_is_no_manifest(tmp_path: Path, data):
    """Whatever the bytes, the error is a sentence with the file's name."""
    (tmp_path / "course.toml").write_bytes(data)
    with pytest.raises(ManifestError, match=r"course\.toml"):
        Course.read(tmp_path)


def test_a_module_without_tasks(tmp_path: Path):
    """An empty module is named."""
    (tmp_path / "course.toml").write_text('title = "x"\n[[modules]]\nname = "m"\ntitle = "M"\nstory = "S"\ntasks = []\n')
    with pytest.raises(ManifestError, match=r"module 'm' has no tasks: add a \[\[modules.tasks\]\]"):
        Course.read(tmp_path)


def test_no_manifest(tmp_path: Path):
    """A missing file, and a folder in its place, say what to do."""
    with pytest.raises(ManifestError, match="is missing: run from a course's folder, or name it with --course"):
        Course.read(tmp_path)
    with pytest.raises(ManifestError, match="there is no course here"):
        find_root(tmp_path)
    (tmp_path / "course.toml").mkdir()
    with pytest.raises(ManifestError, match=r"course\.toml"):
        Course.read(tmp_path)


def test_the_course_is_found_from_below(tmp_path: Path):
    """The nearest folder upwards that holds the manifest."""
    mini_course(tmp_path)
    assert find_root(tmp_path / "tests" / "hidden") == tmp_path


def test_select_keeps_what_is_named(course):
    """Nothing named keeps everything; a task keeps its module with that task alone; unknown names are errors that list the known."""
    assert course.select([], []) == course.modules
    (module,) = course.select(["mini", "mini"], ["Counter"])
    assert [task.name for task in module.tasks] == ["Counter"]
    assert (module.points, module.minutes) == (3, 2)
    with pytest.raises(ManifestError, match=r"no module 'maxi' in course\.toml; it has mini"):
        course.select(["maxi"], [])
    with pytest.raises(ManifestError, match="no task 'triple' in mini; `grader list` shows the tasks"):
        course.select([], ["double", "triple"])


def test_a_tasks_limits_take_the_place_of_the_courses(tmp_path: Path):
    """What a task overrides is its own; the rest is the course's; a task has at least the time of one test."""
    text = MANIFEST.replace("minutes = 1", "minutes = 1\nlimits = {test_seconds = 30, output_kib = 7}", 1)
    (tmp_path / "course.toml").write_text(text)
    course = Course.read(tmp_path)
    double, counter = (task.limits_within(course.limits) for task in course.modules[0].tasks)
    assert (double.test_seconds, double.output_kib, double.task_seconds, double.test_cpu_seconds) == (30, 7, 30, 1)
    assert counter == course.limits


def test_a_task_says_only_the_limits_that_it_changes(tmp_path: Path):
    """The store hashes a module as JSON, and modules travel between processes: limits that a task leaves alone are not in it."""
    text = MANIFEST.replace("minutes = 1", "minutes = 1\nlimits = {output_kib = 7}", 1)
    (tmp_path / "course.toml").write_text(text)
    (module,) = Course.read(tmp_path).modules
    assert [task["limits"] for task in msgspec.to_builtins(module)["tasks"] if "limits" in task] == [{"output_kib": 7}, {}]
    assert pickle.loads(pickle.dumps(module)) == module
    assert hash(pickle.loads(pickle.dumps(module))) == hash(module)


def test_a_path_has_an_order_of_its_own():
    """Its modules only; the course itself stays, and so do the files."""
    course = Course.read(ROOT)
    for path in course.paths:
        along = course.along(path.name)
        assert tuple(module.name for module in along.modules) == path.modules
        assert along.root == course.root
    with pytest.raises(ManifestError, match=r"no path 'nowhere' in course\.toml; it has first-course, "):
        course.along("nowhere")
