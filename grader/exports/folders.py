"""Folders that a command fills: new or empty ones only, so that nothing of the user's is written over."""

from pathlib import Path

__all__ = ["NotEmpty", "fresh_folder"]


class NotEmpty(Exception):
    """The folder can't be filled; the text says why and what to do."""


def fresh_folder(folder: Path) -> Path:
    """Make the folder, or take it as it is where it is empty. Raises: NotEmpty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise NotEmpty(f"{folder} is not empty: name a new folder, or empty it")
    except OSError as error:
        raise NotEmpty(f"{folder} can't be used: {error.strerror}: name a folder") from None
    return folder
