"""What the exports share: choosing submissions, and writing files without overwriting others."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from grader.base.files import write_atomically
from grader.base.text import one_line
from grader.runner.results import Results, ResultsError, SubmissionResult

__all__ = ["WouldOverwrite", "chosen", "write_files"]


class WouldOverwrite(Exception):
    """A file with other content exists already; the text says which one and what to do."""


def chosen(results: Results, ids: Iterable[str] = ()) -> list[SubmissionResult]:
    """The submissions with these names; all of them if no name is given. Raises: ResultsError for an unknown name."""
    known = {submission.id: submission for submission in results.submissions}
    names = list(dict.fromkeys(ids)) or list(known)
    for name in names:
        if name not in known:
            some = ", ".join(one_line(id, 40) for id in list(known)[:5]) + (", …" if len(known) > 5 else "")
            raise ResultsError(f"no submission is called {one_line(name)!r}: the file has {some or 'none'}")
    return [known[name] for name in names]


def write_files(folder: Path, files: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Write files by relative path. If one exists with other content, nothing is written.

    Raises: WouldOverwrite, unless `replace` is given; OSError.
    """
    if not replace:
        for name, data in files.items():
            path = folder / name
            if path.is_symlink() or (path.exists() and (not path.is_file() or path.read_bytes() != data)):
                raise WouldOverwrite(f"{path} exists already and holds something else: choose another folder, or add --force to replace it")
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
