"""The screens that open above the one of `grader watch`: the list of tasks, and a question."""

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from grader.practice.session import Mark, Place

__all__ = ["ListScreen", "QuestionScreen"]

_SIGNS: dict[Mark, tuple[str, str]] = {"passed": ("✓", "green"), "changed": ("~", "yellow"), "open": (" ", "")}


class ListScreen(ModalScreen[Place | None]):
    """All tasks, and a filter: words of which each must be in the module's name, the task's name or its mark."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "close"),
        Binding("enter", "choose", "go to task", priority=True),
        Binding("up", "move('up')", show=False, priority=True),
        Binding("down", "move('down')", show=False, priority=True),
        Binding("pageup", "move('page_up')", show=False, priority=True),
        Binding("pagedown", "move('page_down')", show=False, priority=True),
    ]

    def __init__(self, tasks: list[tuple[Place, Mark]], at: Place) -> None:
        super().__init__()
        self._tasks, self._at = tasks, at
        self._shown: list[Place] = []

    def compose(self) -> ComposeResult:
        """The filter above the list."""
        with Vertical(id="list"):
            yield Input(placeholder="filter: a task, a module, passed, changed, open")
            yield OptionList()
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Show all tasks."""
        self._fill("")

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        self._fill(event.value)

    def _fill(self, words: str) -> None:
        rows = [
            (place, mark)
            for place, mark in self._tasks
            if all(word in f"{place.module.name} {place.task.name} {mark}".lower() for word in words.lower().split())
        ]
        self._shown = [place for place, _ in rows]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(_row(place, mark)) for place, mark in rows])
        if rows:
            options.highlighted = self._shown.index(self._at) if self._at in self._shown else 0

    def action_move(self, how: str) -> None:
        """Move the highlight while the filter keeps the keys."""
        options = self.query_one(OptionList)
        moves: dict[str, Callable[[], None]] = {
            "up": options.action_cursor_up,
            "down": options.action_cursor_down,
            "page_up": options.action_page_up,
            "page_down": options.action_page_down,
        }
        moves[how]()

    def action_choose(self) -> None:
        """Go to the task that is highlighted."""
        at = self.query_one(OptionList).highlighted
        if at is not None:
            self.dismiss(self._shown[at])


def _row(place: Place, mark: Mark) -> Text:
    sign, style = _SIGNS[mark]
    return Text.assemble((f"{sign} {place.task.name}", style), (f"  {place.module.name}, {mark}", "dim"))


class QuestionScreen(ModalScreen[bool]):
    """Asks whether to do something."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "yes"),
        Binding("n,escape", "dismiss(False)", "no", key_display="n"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question; its keys are in the footer."""
        with Vertical(id="question"):
            yield Static(Text(self._question))
            yield Static(Text("y: yes   n: no", "bold"))
        yield Footer(compact=True, show_command_palette=False)
