"""`grader watch` on the screen of a terminal."""

import subprocess
import time
from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Footer, Static

from grader.practice.describe import describe
from grader.practice.outcome import TaskRun
from grader.practice.reset import BACKUPS, CannotReset
from grader.practice.session import Place, Session
from grader.practice.watch import words
from grader.practice.watch.editor import NoEditor, find_editor
from grader.practice.watch.loop import Event, Loop, Missing
from grader.practice.watch.runner import Broke, Finished, Started
from grader.practice.watch.screens import ListScreen, QuestionScreen

__all__ = ["WatchApp"]

_SHOW_AFTER = 0.3
"""Seconds after which a run is said to be under way. Most have ended by then."""
_WIDE = 110
"""Columns from which answer and statement stand beside each other."""


class Told(Message):
    """Something happened in another thread."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event


class WatchApp(App[None]):
    """Shows where the student is, what came of the last run, and the statement. The keys are in the footer."""

    TITLE = "grader watch"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_WIDE, "-wide")]  # noqa: RUF012  (textual declares it so)
    CSS = """
    #top { dock: top; height: auto; }
    #progress { height: 1; }
    #bar { width: 1fr; }
    #standing { width: auto; margin-left: 2; }
    #state { height: auto; min-height: 1; }
    #body { height: 1fr; }
    #answer, #hints { margin-bottom: 1; }
    #hints.-empty { display: none; }
    .-narrow #body > VerticalScroll { height: auto; overflow: hidden; }
    .-wide #body { layout: horizontal; overflow: hidden; }
    .-wide #body > VerticalScroll { width: 1fr; height: 1fr; margin-right: 1; }
    ListScreen, QuestionScreen { align: center middle; }
    #list { width: 90%; max-width: 76; height: 80%; border: round $primary; }
    #list OptionList { height: 1fr; border: none; }
    #question { width: 90%; max-width: 76; height: auto; border: round $primary; padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "next", "next"),
        Binding("p", "previous", "prev"),
        Binding("l", "list", "list"),
        Binding("h", "hint", "hint"),
        Binding("t", "test", "test", show=False),  # rarely needed, and the footer of 60 columns is full
        Binding("a", "run_all", "all"),
        Binding("r", "reset", "reset"),
        Binding("e", "edit", "edit"),
        Binding("q,ctrl+c", "quit", "quit", key_display="q", priority=False),
    ]

    def __init__(self, session: Session, *, move_on: bool = False) -> None:
        super().__init__(ansi_color=True)  # the terminal's own colours, dark or light, and with NO_COLOR none
        self.theme = "ansi-dark"
        self._session, self._move_on = session, move_on
        self._practice = Loop(session, self._tell)
        self._views = {name: Static(id=name) for name in ("bar", "standing", "title", "state", "answer", "hints", "statement")}
        self._since: float | None = None  # when the run that is under way began
        self._doing = ""
        self._notice = self._state_shown = Text()
        self._runs: list[TaskRun] = []  # of "all", so far

    def _tell(self, event: Event) -> None:
        """Pass on what happens in another thread."""
        self.post_message(Told(event))

    # ---- what is on the screen

    def compose(self) -> ComposeResult:
        """Where one is, above; the answer and the statement; the keys, below."""
        with Vertical(id="top"):
            with Horizontal(id="progress"):
                yield self._views["bar"]
                yield self._views["standing"]
            yield self._views["title"]
            yield self._views["state"]
        with VerticalScroll(id="body"):
            with VerticalScroll(id="answers"):
                yield self._views["answer"]
                yield self._views["hints"]
            with VerticalScroll(id="statements"):
                yield self._views["statement"]
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to watch."""
        self.query_one("#answers").focus()
        self._views["state"].set_interval(0.1, self._show_state)
        self._practice.start()
        self._show_task()

    def on_unmount(self) -> None:
        """End what runs."""
        self._practice.close()

    def _show_task(self) -> None:
        """Show the task at hand, before it is run."""
        place = self._practice.place
        self._views["statement"].update(words.statement_or_reason(self._session, place))
        self._views["answer"].update(words.begun(self._session, place))
        for name in ("#body", "#answers", "#statements"):
            self.query_one(name).scroll_home(animate=False)
        self._show_hints(self._session.hints(place))
        self._show_standing()

    def _show_standing(self) -> None:
        """Show where one is: in the course, and in the file, whose lines move."""
        standing = self._session.in_all()
        self._views["bar"].update(words.Bar(standing))
        self._views["standing"].update(words.standing(standing))
        self._views["title"].update(words.title(self._session, self._practice.place))

    def _show_hints(self, shown: tuple[str, ...]) -> None:
        self._views["hints"].update(words.hints(shown, len(self._practice.place.task.hints)))
        self._views["hints"].set_class(not shown, "-empty")

    def _show_state(self) -> None:
        """Say what runs, once that takes a moment; else what the last key did."""
        seconds = time.monotonic() - self._since if self._since is not None else 0.0
        state = self._notice
        if seconds > _SHOW_AFTER:
            what = self._doing if self._session.process.ready else "loading torch"
            state = Text(f"{what} … {seconds:.0f} s", "yellow")
        if state != self._state_shown:  # else the terminal would get it ten times a second
            self._state_shown = state
            self._views["state"].update(state)

    def _say(self, sentence: str | Text, style: str = "") -> None:
        self._notice = Text(sentence, style) if isinstance(sentence, str) else sentence
        self._show_state()

    # ---- what happens elsewhere

    def on_told(self, message: Told) -> None:
        """Show what the loop tells."""
        match message.event:
            case Started(place, number, of):
                if number == 1:
                    self._since, self._runs = time.monotonic(), []
                self._doing = f"running {place.task.name}{f', {number} of {of}' if of > 1 else ''}"
            case Finished(_, run, mistake, number, of) if of == 1:
                self._since = None
                self._answer(run, mistake)
            case Finished(_, run, _, number, of):
                self._runs.append(run)
                if number == of:
                    self._since = None
                    self._views["answer"].update(words.all_runs(self._session, self._runs))
                    self._show_standing()
            case Missing(place):
                self._since = None
                self._views["answer"].update(words.missing(self._session, place))
            case Broke(error):
                raise error
        self._show_state()

    def _answer(self, run: TaskRun, mistake: str) -> None:
        """Show the answer at once, and all else after it."""
        answer = describe(run, mistake)
        if not run.passed:
            self._views["answer"].update(answer)
            self.call_after_refresh(self._show_standing)
            return
        following = self._practice.next()
        if self._move_on and following:
            self._go_to(following)
            self._say(Text.assemble((run.task, "bold"), (": all public tests passed.", "green")))
        else:
            self._views["answer"].update(Group(answer, Text(), words.what_next(self._session, self._practice.place, following, "n")))
            self.call_after_refresh(self._show_standing)

    # ---- keys

    def _go_to(self, place: Place) -> None:
        self._since, self._notice = None, Text()
        self._practice.go_to(place)
        self._show_task()
        self._show_state()

    def action_next(self) -> None:
        """Go to the next task that is not passed."""
        following = self._practice.next()
        if following:
            self._go_to(following)
        else:
            self._say("There is no other task that is not passed.")

    def action_previous(self) -> None:
        """Go to the task before this one."""
        self._go_to(self._practice.previous())

    def action_list(self) -> None:
        """Choose a task."""
        tasks = [(place, self._session.mark(place)) for place in self._session.places]
        self.push_screen(ListScreen(tasks, self._practice.place), lambda place: self._go_to(place) if place else None)

    def action_hint(self) -> None:
        """Show one more hint."""
        try:
            before = self._session.hints(self._practice.place)
            shown = self._session.hints(self._practice.place, 1)
        except OSError as error:
            self._say(f"The progress can't be written: {error}", "red")
            return
        self._show_hints(shown)
        if shown == before:
            self._say("These are all hints.")
        self._views["hints"].scroll_visible(animate=False)

    def action_test(self) -> None:
        """Run the task at hand once more."""
        self._say("")
        self._practice.run()

    def action_run_all(self) -> None:
        """Run every task."""
        self._say("")
        self._practice.run_all()

    def action_reset(self) -> None:
        """Put the stub back, if that is meant."""
        place = self._practice.place
        question = f"Put the stub of {place.task.name} back? Your file is copied to {BACKUPS}/ before."

        def answered(yes: bool | None) -> None:
            if yes and place is self._practice.place:
                self._reset(place)

        self.push_screen(QuestionScreen(question), answered)

    def _reset(self, place: Place) -> None:
        try:
            kept = self._practice.reset()
        except CannotReset as error:
            self._say(str(error), "red")
            return
        where = f" Your file is kept as {kept.relative_to(self._session.course.root).as_posix()}." if kept else ""
        self._say(f"{place.task.name} is as it was at first.{where}")

    def action_edit(self) -> None:
        """Open the task in the student's editor."""
        path = self._session.file(self._practice.place)
        line = int(words.path(self._session, self._practice.place).rpartition(":")[2])
        try:
            editor = find_editor(path, line)
            if editor.in_terminal:
                with self.suspend():
                    subprocess.run(editor.command, check=False)
                self.refresh()
            else:
                subprocess.Popen(editor.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except NoEditor as error:
            self._say(str(error))
        except SuspendNotSupported:
            self._say(f"This terminal can't be shared with an editor: open {path.name} at line {line} yourself.")
        except OSError as error:
            self._say(f"The editor can't be started: {error}", "red")
