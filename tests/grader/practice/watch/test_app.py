"""The screen of `grader watch`, through textual's pilot."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Footer

from grader.course.manifest import Course
from grader.practice.process_handle import _GRACE
from grader.practice.session import Session
from grader.practice.watch import app as app_module
from grader.practice.watch.app import WatchApp
from tests.grader.practice.watch.conftest import COUNTER, DOUBLE, HEAD, LONGEST, NO_COUNTER, WRONG, QuickProcess, save, threads


def screen(app: WatchApp) -> str:
    """What is on the screen, in lines."""
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in app.screen._compositor.render_strips())


async def see(pilot: Pilot[None], *words: str, absent: str = "") -> str:
    """Wait until the screen shows all words. Returns: the screen."""
    app = pilot.app
    assert isinstance(app, WatchApp)
    for _ in range(int(LONGEST / 0.02)):
        await pilot.pause(0.02)
        shown = screen(app)
        if all(word in shown for word in words) and not (absent and absent in shown):
            return shown
    raise AssertionError(f"{words} not on the screen:\n{screen(app)}")


def drive(
    session: Session, scenario: Callable[[Pilot[None]], Awaitable[object]], size: tuple[int, int] = (80, 30), **options: bool
) -> None:
    """Run a scenario in the app."""

    async def main() -> None:
        async with WatchApp(session, **options).run_test(size=size) as pilot:
            await scenario(pilot)

    asyncio.run(main())


def test_shows_where_one_is_the_statement_and_the_verdict(session, quick):
    """An untouched task: progress over tasks, points and minutes, the place in the file, the statement, the keys."""

    async def scenario(pilot):
        await see(
            pilot,
            "double: not written yet",
            "0/2 tasks, 0/5 points, 3 minutes left",
            "double in exercises/mini.py:7 (2 points, 1 min)",
            "def double(x: Tensor) -> Tensor:",
            "Return twice x.",
            "n next p prev l list h hint a all r reset e edit q quit",
        )

    drive(session, scenario)


def test_a_save_is_answered_and_a_key_goes_on(session, quick, folder):
    """From a stub to a wrong answer, a right one, and the next task, which stays where it is until n is pressed."""

    async def scenario(pilot):
        await see(pilot, "not written yet")
        save(folder, HEAD + WRONG + NO_COUNTER)
        await see(pilot, "double: 0 of 1 public tests passed", "expected 6")
        save(folder, HEAD + DOUBLE + NO_COUNTER)
        await see(pilot, "double: all public tests passed (1 of 1)", "n goes on to Counter in exercises/mini.py:9.")
        await see(pilot, "1/2 tasks, 2/5 points, 2 minutes left")
        await pilot.press("n")
        await see(pilot, "Counter in exercises/mini.py:9", "Counter: not written yet", "Sums up what it is given.")
        save(folder, HEAD + DOUBLE + COUNTER)
        await see(pilot, "All tasks pass their public tests. The hidden tests check more.", "2/2 tasks")
        await pilot.press("n")
        await see(pilot, "There is no other task that is not passed.")

    drive(session, scenario)


def test_moves_on_by_itself_where_that_is_set(session, quick, folder):
    """With the setting, a pass leads to the next task, and says what passed."""

    async def scenario(pilot):
        await see(pilot, "not written yet")
        save(folder, HEAD + DOUBLE + NO_COUNTER)
        await see(pilot, "Counter: not written yet", "double: all public tests passed.")

    drive(session, scenario, move_on=True)


def test_begins_where_one_left_off(session, quick, folder):
    """The task at hand is remembered; one that passed and was not changed is not run again, also when one comes back to it."""
    save(folder, HEAD + DOUBLE + COUNTER)
    session.run(session.places[0])
    session.go_to(session.places[1])
    quick.requests.clear()

    async def scenario(pilot):
        await see(pilot, "Counter: all public tests passed")
        await pilot.press("p")
        await see(pilot, "double: passed its public tests, and was not changed since")
        await pilot.press("p")
        await see(pilot, "Counter: passed its public tests, and was not changed since. t tests it again.")
        assert quick.requests == ["Counter"]
        await pilot.press("t")
        await see(pilot, "Counter: all public tests passed")
        assert quick.requests == ["Counter", "Counter"]

    drive(session, scenario)


def test_a_change_that_breaks_another_task_skips_nothing(session, quick, folder):
    """What passed and was changed by the way is next again."""
    save(folder, HEAD + DOUBLE + COUNTER)
    for place in session.places:
        session.run(place)
    session.go_to(session.places[1])

    async def scenario(pilot):
        await see(pilot, "2/2 tasks")
        save(folder, HEAD + WRONG + COUNTER)
        await see(pilot, "Counter: all public tests passed", "n goes on to double", "1/2 tasks")
        await pilot.press("n")
        await see(pilot, "double: 0 of 1 public tests passed")

    drive(session, scenario)


def test_a_touch_runs_nothing(session, quick, folder):
    """A file that is written with the same text, and another file, run nothing; a change after them does."""

    async def scenario(pilot):
        await see(pilot, "not written yet")
        text = (folder / "exercises" / "mini.py").read_text()
        save(folder, text)
        save(folder, "x = 1\n", name="other")
        await pilot.pause(0.3)
        save(folder, HEAD + WRONG + NO_COUNTER)
        await see(pilot, "0 of 1 public tests passed")
        assert quick.requests == ["double", "double"]

    drive(session, scenario)


def test_hints_come_one_at_a_time(session, quick):
    """Each press of h shows one more; they are kept, and shown again when one comes back."""

    async def scenario(pilot):
        await see(pilot, "not written yet")
        await pilot.press("h")
        shown = await see(pilot, "Hint 1 of 3: What is twice a number?")
        assert "Hint 2" not in shown
        await pilot.press("h")
        assert "Hint 3" not in await see(pilot, "Hint 2 of 3: A product has two factors.")
        await pilot.press("h")
        await see(pilot, "Hint 3 of 3")
        await pilot.press("h")
        await see(pilot, "These are all hints.")
        await pilot.press("n")
        await see(pilot, "Counter: not written yet", absent="Hint 1")
        await pilot.press("p")
        await see(pilot, "Hint 3 of 3")

    drive(session, scenario)


def test_the_list_is_filtered_by_words(session, quick, folder):
    """Names, modules and marks filter; Enter goes there, Escape stays."""
    save(folder, HEAD + DOUBLE + NO_COUNTER)
    session.run(session.places[0])
    session.go_to(session.places[0])

    async def scenario(pilot):
        await see(pilot, "double: passed")
        await pilot.press("l")
        await see(pilot, "✓ double  mini, passed", "Counter  mini, open")
        await pilot.press(*"mini open")
        await see(pilot, "Counter  mini, open", absent="double  mini, passed")
        await pilot.press("enter")
        await see(pilot, "Counter: not written yet")
        await pilot.press("l", "up", "enter")
        await see(pilot, "double: passed")
        await pilot.press("l", *"nothing", "enter")
        await see(pilot, "nothing")
        await pilot.press("escape")
        await see(pilot, "double: passed", absent="nothing")

    drive(session, scenario)


def test_all_runs_every_task(session, quick, folder):
    """The count, and each task that was begun and fails; marks are kept."""
    save(folder, HEAD + WRONG + COUNTER)

    async def scenario(pilot):
        await see(pilot, "0 of 1 public tests passed")
        await pilot.press("a")
        await see(pilot, "1 of 2 tasks pass their public tests.", "double: 0 of 1 public tests passed  exercises/mini.py:5", "1/2 tasks")

    drive(session, scenario)


def test_reset_asks_and_says_where_the_copy_is(session, quick, folder):
    """The key n changes nothing; y puts the stub back, names the copy, and runs the stub."""
    own = HEAD + WRONG + NO_COUNTER
    save(folder, own)

    async def scenario(pilot):
        await see(pilot, "0 of 1 public tests passed")
        await pilot.press("r")
        await see(pilot, "Put the stub of double back?")
        await pilot.press("n")
        await see(pilot, "0 of 1 public tests passed", absent="Put the stub")
        assert (folder / "exercises" / "mini.py").read_text() == own
        await pilot.press("r", "y")
        await see(pilot, "double is as it was at first. Your file is kept as", ".grader/backups/mini.", "double: not written yet")
        (copy,) = (folder / ".grader" / "backups").glob("mini.*.py")
        assert copy.read_text() == own

    drive(session, scenario)


def test_reset_that_is_not_possible_says_why(session, quick, folder):
    """A task in a file with a syntax error can't be found."""
    save(folder, "def double(x:\n")

    async def scenario(pilot):
        await see(pilot, "SyntaxError")
        await pilot.press("r", "y")
        await see(pilot, "mini.py has a syntax error", "grader reset mini")

    drive(session, scenario)


def test_a_missing_file_is_said_and_waited_for(session, quick, folder):
    """Deleted, renamed and made again: the screen says so, and runs what comes back."""
    path = folder / "exercises" / "mini.py"

    async def scenario(pilot):
        await see(pilot, "not written yet")
        path.unlink()
        await see(pilot, "exercises/mini.py is missing")
        save(folder, HEAD + DOUBLE + NO_COUNTER)
        await see(pilot, "double: all public tests passed")
        path.rename(path.with_name("renamed.py"))
        await see(pilot, "exercises/mini.py is missing")
        await pilot.press("r", "y")
        await see(pilot, "double: not written yet")

    drive(session, scenario)


def test_a_deleted_folder_comes_back(session, quick, folder):
    """As when git changes to another commit and back."""
    exercises = folder / "exercises"

    async def scenario(pilot):
        await see(pilot, "not written yet")
        exercises.rename(folder / "away")
        await see(pilot, "exercises/mini.py is missing")
        exercises.mkdir()
        save(folder, HEAD + WRONG + NO_COUNTER)
        await see(pilot, "expected 6")
        save(folder, HEAD + DOUBLE + NO_COUNTER)
        await see(pilot, "all public tests passed")

    drive(session, scenario)


def test_a_long_run_is_shown_and_a_save_ends_it(session, quick, folder, monkeypatch):
    """The screen says what runs, keys work meanwhile, and only the answer to the last save is shown."""
    monkeypatch.setattr(app_module, "_SHOW_AFTER", 0.0)

    async def scenario(pilot):
        await see(pilot, "not written yet")
        quick.held.clear()
        save(folder, HEAD + WRONG + NO_COUNTER)
        await see(pilot, "running double …")
        await pilot.press("h")
        await see(pilot, "Hint 1 of 3")
        save(folder, HEAD + DOUBLE + NO_COUNTER)
        await see(pilot, "all public tests passed", absent="running")

    drive(session, scenario)


def test_says_that_torch_is_loading(session, quick, monkeypatch):
    """Until the process is ready, that is what one waits for."""
    monkeypatch.setattr(app_module, "_SHOW_AFTER", 0.0)
    quick.ready = False
    quick.held.clear()

    async def scenario(pilot):
        await see(pilot, "loading torch …")
        quick.ready = True
        quick.held.set()
        await see(pilot, "not written yet", absent="loading")

    drive(session, scenario)


@pytest.mark.parametrize("width", [60, 40])
def test_a_narrow_terminal_shows_all(session, quick, width):
    """At 60 columns all keys are seen, and no line is cut; at 40 nothing breaks."""

    async def scenario(pilot):
        shown = await see(pilot, "not written yet", "n next p prev")
        lines = shown.splitlines()
        assert max(map(len, lines)) <= width
        if width == 60:
            assert lines[-1].endswith("q quit")
            assert "3 minutes left" in lines[0]
            assert lines[0].startswith("┄")  # nothing is passed

    drive(session, scenario, size=(width, 24))


def test_a_resize_moves_everything(session, quick):
    """From narrow to wide and back: the statement stands beside the answer where there is room, below it else."""

    async def scenario(pilot):
        app = pilot.app
        await see(pilot, "not written yet")
        below = [app.query_one(name).region for name in ("#answers", "#statements")]
        await pilot.resize_terminal(150, 40)
        await see(pilot, "not written yet", "q quit")
        beside = [app.query_one(name).region for name in ("#answers", "#statements")]
        assert below[0].x == below[1].x
        assert below[0].y < below[1].y
        assert beside[0].y == beside[1].y
        assert beside[0].x < beside[1].x
        await pilot.resize_terminal(60, 15)
        await see(pilot, "not written yet", "q quit")
        assert app.query_one(Footer).region.bottom == 15

    drive(session, scenario, size=(60, 20))


def test_a_long_statement_scrolls_while_keys_stay(session, quick):
    """In a low terminal the end of the statement is reached by the arrow keys; progress and keys stay."""

    async def scenario(pilot):
        shown = await see(pilot, "not written yet", "0/2 tasks", "q quit")
        assert "Raises: ValueError" not in shown
        await pilot.press(*["down"] * 20)
        await see(pilot, "Raises: ValueError", "0/2 tasks", "q quit")

    drive(session, scenario, size=(60, 12))


def test_no_color_means_none(session, quick, monkeypatch):
    """With NO_COLOR nothing on the screen has a colour; without it something does."""

    def coloured(app: WatchApp) -> bool:
        lines = app.screen._compositor.render_strips()
        filtered = [segment for line in lines for segment in line.apply_filter(app.get_line_filters()[-1], app.screen.background_colors[1])]
        return any(
            part and not part.is_default for segment in filtered if segment.style for part in (segment.style.color, segment.style.bgcolor)
        )

    seen: list[bool] = []

    async def scenario(pilot):
        await see(pilot, "not written yet")
        seen.append(coloured(pilot.app))

    monkeypatch.setenv("NO_COLOR", "1")
    drive(session, scenario)
    assert seen == [False]


def test_edit_opens_the_line(session, quick, folder, monkeypatch):
    """An editor with a window of its own is started with the task's line; without an editor a sentence says what to set."""
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(app_module.subprocess, "Popen", lambda command, **_: started.append(command))
    monkeypatch.delenv("TERM_PROGRAM", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    tool = folder / "code"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)

    async def scenario(pilot):
        await see(pilot, "not written yet")
        await pilot.press("e")
        await see(pilot, "No editor is set", "VISUAL=nano")
        monkeypatch.setenv("VISUAL", str(tool))
        await pilot.press("e")
        assert started == [(str(tool), "-g", f"{folder / 'exercises' / 'mini.py'}:7")]

    drive(session, scenario)


def test_quitting_ends_everything(session, quick, folder):
    """The key q ends the app while a task runs, and no thread is left."""

    async def scenario(pilot):
        await see(pilot, "not written yet")
        quick.held.clear()
        save(folder, HEAD + WRONG + NO_COUNTER)
        await pilot.pause(0.2)
        await pilot.press("q")

    drive(session, scenario)
    assert not threads() & {"runner", "files"}


def test_survives_what_students_write(folder, monkeypatch):
    """With the real process: a syntax error, the end of Python, an endless loop that a save ends, one that ends by time; then a pass."""

    async def scenario(pilot):
        await see(pilot, "double: not written yet")
        save(folder, "def double(x:\n")
        await see(pilot, "mini.py can't be imported", "exercises/mini.py:1")
        save(folder, HEAD + "import os\n\n\ndef double(x):\n    os._exit(3)\n")
        await see(pilot, "Your code ended Python itself (status 3)")
        save(folder, HEAD + "def double(x):\n    while True:\n        pass\n")
        await see(pilot, "running double")
        save(folder, HEAD + WRONG + NO_COUNTER)
        await see(pilot, "0 of 1 public tests passed")
        with monkeypatch.context() as patch:
            patch.setattr("grader.practice.process_handle._GRACE", _GRACE - 23)  # 2 s in all
            save(folder, HEAD + "def double(x):\n    while True:\n        pass\n")
            await see(pilot, "did not end within 10 seconds")
        save(folder, HEAD + DOUBLE + NO_COUNTER)
        await see(pilot, "double: all public tests passed (1 of 1)", "1/2 tasks")

    with Session(Course.read(folder)) as session:
        drive(session, scenario)


def test_progress_written_elsewhere_is_kept(session, quick, folder: Path):
    """A mark that another command makes while one watches is not lost."""
    save(folder, HEAD + DOUBLE + COUNTER)

    async def scenario(pilot):
        await see(pilot, "double: all public tests passed")
        with Session(Course.read(folder)) as other:
            other.process = QuickProcess(folder)  # type: ignore[assignment]
            other.run(other.places[1])
        await pilot.press("h")
        await see(pilot, "Hint 1 of 3")
        assert session.mark(session.places[1]) == "passed"

    drive(session, scenario)
    assert os.path.exists(folder / ".grader" / "progress.json")
