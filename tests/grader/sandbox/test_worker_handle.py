"""What the trusted process sees of a worker's scratch folder."""

import math
from pathlib import Path

from grader.sandbox.supervisor.worker_handle import _scratch_bytes


def test_entries_are_counted_over_all_folders(tmp_path: Path):
    """Many folders with some files each are as many files as one folder with all of them."""
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in range(3_400):
            (folder / str(name)).touch()
    assert _scratch_bytes(str(tmp_path / "0")) == 0
    assert _scratch_bytes(str(tmp_path)) == math.inf


def test_bytes_are_counted_below_folders(tmp_path: Path):
    """A file counts wherever it lies; a folder that is gone counts for nothing."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(100_000))
    assert 100_000 <= _scratch_bytes(str(tmp_path)) < 200_000
    assert _scratch_bytes(str(tmp_path / "gone")) == 0
