"""Notices that a student's file was saved."""

import threading
from collections.abc import Callable
from pathlib import Path

from watchfiles import watch

__all__ = ["watch_folder"]

_STEP = 10
"""Milliseconds without another change, after which a change is reported."""
_DEBOUNCE = 40
"""Milliseconds after which it is reported even though changes go on."""
_SECOND = 1000


def watch_folder(folder: Path, look: Callable[[], None], stop: threading.Event) -> None:
    """Call `look` whenever something in a folder changes, and once a second, until `stop` is set.

    It is the folder that is watched: many editors replace a file, and a file may be renamed or deleted and come back. Once a second is for
    folders whose changes the system does not report, such as those of a network, and for a folder that is deleted and made again.
    """
    while not stop.is_set():
        try:
            made = folder.stat().st_ino
            changes = watch(
                *(folder,),
                watch_filter=None,
                debounce=_DEBOUNCE,
                step=_STEP,
                stop_event=stop,
                rust_timeout=_SECOND,
                yield_on_timeout=True,
                recursive=False,
                raise_interrupt=False,
                ignore_permission_denied=True,
            )
            look()  # what was saved before the folder was watched
            for _ in changes:
                look()
                if folder.stat().st_ino != made:
                    break
        except OSError:  # the folder is gone, or the system can't watch any more of them
            look()
            stop.wait(_SECOND / 1000)
