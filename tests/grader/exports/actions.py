"""A small stand-in for GitHub's runner: it executes the `run:` steps of a workflow's job in order, as the runner would.

It resolves the expressions that our workflows use, gives each step its own GITHUB_OUTPUT and GITHUB_ENV, and reads the log as the
runner does, so that a test can see which lines were taken for commands. Steps that use an action are replaced by functions.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

INSTALLS = "python -m pip install"
"""Steps that begin so are left out: the interpreter of the test has what they install, and torch is 1 GB to fetch."""

Action = Callable[[dict[str, str]], dict[str, str]]
"""What stands for an action: gets `with:`, returns the step's outputs."""


def read_workflow(path: Path) -> dict[Any, Any]:
    """The workflow as plain data; YAML 1.1 reads the key `on` as true."""
    plain = yaml.safe_load(path.read_text())
    plain["on"] = plain.pop(True)
    return plain


def steps_of(workflow: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """All steps of all jobs."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@dataclass
class Step:
    """What came of one step."""

    name: str
    outcome: str
    log: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    """Lines of the log that the runner takes for commands."""


@dataclass
class Job:
    """What came of a job."""

    steps: list[Step]
    outputs: dict[str, str]

    @property
    def log(self) -> str:
        """The whole log."""
        return "".join(step.log for step in self.steps)

    @property
    def commands(self) -> list[str]:
        """All commands of all steps."""
        return [command for step in self.steps for command in step.commands]

    @property
    def succeeded(self) -> bool:
        """Whether no step failed."""
        return all(step.outcome != "failure" for step in self.steps)

    def step(self, name: str) -> Step:
        """The step of this name."""
        return next(step for step in self.steps if step.name == name)


def run_job(
    job: Mapping[str, Any],
    folder: Path,
    *,
    actions: Mapping[str, Action] | None = None,
    context: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    left_out: tuple[str, ...] = (),
) -> Job:
    """Run a job in a folder.

    Args:
        job: its entry in the workflow.
        folder: the checkout.
        actions: what stands for the actions, by their name without the commit. All other actions do nothing.
        context: `github`, `inputs`, `secrets`, `vars` and `needs`.
        environment: more variables of the machine.
        left_out: names of steps that are not run.
    """
    runner = folder.parent / f"{folder.name}-runner"
    runner.mkdir(exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    machine = {"PATH": path, "HOME": str(runner), "CI": "true", "GITHUB_ACTIONS": "true", "COLUMNS": "120", **(environment or {})}
    known: dict[str, Any] = {"github": {}, "inputs": {}, "secrets": {}, "vars": {}, "needs": {}, **(context or {}), "steps": {}}
    done: list[Step] = []
    for number, plain in enumerate(job["steps"]):
        name = plain["name"]
        resolve = _Expressions(known, folder, failed=any(step.outcome == "failure" for step in done))
        if name in left_out or not resolve.condition(plain.get("if")):
            step = Step(name, "skipped")
        elif "uses" in plain:
            action = (actions or {}).get(plain["uses"].partition("@")[0], lambda _: {})
            step = Step(name, "success", outputs=action({key: resolve.text(value) for key, value in plain.get("with", {}).items()}))
        elif plain["run"].startswith(INSTALLS):
            step = Step(name, "success")
        else:
            own = {key: resolve.text(value) for key, value in {**job.get("env", {}), **plain.get("env", {})}.items()}
            step = _run_step(plain, name, folder, runner / str(number), {**machine, **own}, machine)
        done.append(step)
        if "id" in plain:
            known["steps"][plain["id"]] = {"outputs": step.outputs, "outcome": step.outcome}
    resolve = _Expressions(known, folder, failed=False)
    return Job(done, {key: resolve.text(value) for key, value in job.get("outputs", {}).items()})


def _run_step(plain: Mapping[str, Any], name: str, folder: Path, files: Path, environment: dict[str, str], machine: dict[str, str]) -> Step:
    files.mkdir(exist_ok=True)
    script = files / "step.sh"
    script.write_text(plain["run"])
    for variable in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"):
        (files / variable).touch()
        environment[variable] = str(files / variable)
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"] if plain.get("shell") == "bash" else ["bash", "-e"]
    command = [*shell, str(script)]
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
        check=False,
    )
    log = ended.stdout.decode(errors="replace")
    machine.update(_read_file(files / "GITHUB_ENV"))
    outcome = "success" if ended.returncode == 0 else "failure"
    return Step(name, outcome, log, _read_file(files / "GITHUB_OUTPUT"), _commands(log))


def _read_file(path: Path) -> dict[str, str]:
    """Read a file command: `name=value`, or `name<<delimiter`, lines, delimiter."""
    values, lines = {}, iter(path.read_text().splitlines())
    for line in lines:
        name, equals, value = line.partition("=")
        start = line.find("<<")
        if start >= 0 and (not equals or start < len(name)):
            name, _, delimiter = line.partition("<<")
            held = []
            for inner in lines:
                if inner == delimiter:
                    break
                held.append(inner)
            value = "\n".join(held)
        elif not equals:
            continue
        values[name] = value
    return values


def _commands(log: str) -> list[str]:
    """Lines that the runner takes for commands: `::name…::` at the start, blanks aside, or `##[name…]` anywhere."""
    found, stopped = [], None
    for line in re.split(r"\r\n|\r|\n", log):
        modern = re.match(r"\s*::(\S+?)(?: [^:]*)?::(.*)", line)
        if stopped:
            if modern and modern[1] == stopped:
                stopped = None
        elif modern and modern[1] == "stop-commands":
            stopped = modern[2]
        elif modern or re.search(r"##\[\w", line):
            found.append(line.strip())
    return found


class _Expressions:
    """What stands between `${{` and `}}`, as far as our workflows go."""

    def __init__(self, known: Mapping[str, Any], folder: Path, *, failed: bool) -> None:
        self._known, self._folder, self._failed = known, folder, failed

    def text(self, value: Any) -> str:
        """A value with its expressions resolved."""
        if isinstance(value, bool):
            return str(value).lower()
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: self._shown(self._value(found[1])), str(value))

    def condition(self, text: Any) -> bool:
        """Whether a step with this `if:` runs: unless it says otherwise, where nothing has failed."""
        if text is None:
            return not self._failed
        inner = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", str(text).strip())
        chosen = bool(self._value(inner))
        return chosen and (not self._failed or "cancelled()" in inner or "always()" in inner)

    @staticmethod
    def _shown(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _value(self, text: str) -> Any:
        for sign, join in (("||", lambda a, b: a or b), ("&&", lambda a, b: a and b)):
            if sign in text:
                left, _, right = text.rpartition(sign)
                return join(self._value(left), self._value(right))
        if found := re.fullmatch(r"(.+?)\s*([!=]=)\s*(.+)", text.strip()):
            same = self._shown(self._value(found[1])).lower() == self._shown(self._value(found[3])).lower()
            return same == (found[2] == "==")
        text = text.strip()
        if text.startswith("!"):
            return not self._value(text[1:])
        if text.startswith("'"):
            return text[1:-1]
        if text == "cancelled()":
            return False
        if found := re.fullmatch(r"hashFiles\('([^']*)'\)", text):
            return "a hash" if list(self._folder.glob(found[1])) else ""
        value: Any = self._known
        for part in text.split("."):
            value = value.get(part, "") if isinstance(value, Mapping) else ""
        return value
