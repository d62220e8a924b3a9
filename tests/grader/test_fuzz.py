"""Short runs of tests/fuzz/, always the same, and proof that its properties see faults. `tox run -e fuzz` makes the long runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import frames
from tests.fuzz.engines import Violation, run_mutator

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("target", "engine", "count"),
    [("frames", "hypothesis", 1000), ("frames", "mutator", 5000), ("packages", "hypothesis", 200), ("packages", "mutator", 500)],
)
def test_the_property_holds(target: str, engine: str, count: int) -> None:
    """Frames are refused or well-formed, packages harmless; in a process of its own, with a cap on memory and a watch over files."""
    command = [sys.executable, "-m", f"tests.fuzz.{target}", f"--{target}", str(count), "--engine", engine, "--any-time"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{engine}: " in done.stdout
    assert "  accepted" in done.stdout
    assert "  refused" in done.stdout


@pytest.mark.parametrize(
    "lenient",
    [lambda node, block: object(), lambda node, block: float("0x" + "f" * len(block)), lambda node, block: [1, "\ud800"]],
    ids=["another type", "another exception", "a lone surrogate"],
)
def test_a_lenient_decoder_is_seen(monkeypatch: pytest.MonkeyPatch, lenient: object) -> None:
    """A decoder that gives what it may not, or raises what it may not, breaks the property of frames."""
    monkeypatch.setattr(frames, "decode", lenient)
    with pytest.raises(Violation):
        run_mutator(frames.TARGET, 100, seed=1)


CARELESS = {
    "writes": "open('written', 'w').close()",
    "runs a program": "__import__('os').system('true')",
    "runs the source": "exec(compile(data, 'mini.py', 'exec'), {})",
    "follows a path": "open('/etc/hostname').close()",
    "raises": "1 / 0",
}


@pytest.mark.parametrize("what", CARELESS)
def test_a_careless_ingest_is_seen(tmp_path: Path, what: str) -> None:
    """Reading that does more than to read breaks the property of packages."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from grader.submissions import reading
from tests.fuzz import packages
from tests.fuzz.engines import command

original = reading._text

def text(data):
    {CARELESS[what]}
    return original(data)

reading._text = text
sys.exit(command(packages.TARGET, ["--packages", "1", "--engine", "mutator"]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "violation" in done.stdout
    assert [path.suffix for path in tmp_path.glob("fuzz-packages-*")] == [".bin"]
