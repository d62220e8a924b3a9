"""Namespaces for the zygote, where the machine allows them: a file system that holds the readable paths and nothing else, and no network.

An additional layer. Landlock and the system-call filter already keep a student's code from files. This layer hides the names of files
too, so that `stat` tells nothing. Workers inherit it, and each mounts a scratch folder of limited size for itself. Needs unprivileged
user namespaces, which some systems refuse (Ubuntu 24.04 through AppArmor, most containers): then the other layers stand alone.

Sources: user_namespaces(7), mount_namespaces(7), pivot_root(2), mount_setattr(2).
"""

import contextlib
import ctypes
import functools
import os
import signal
import struct
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from grader.sandbox.worker.confine import ConfinementError, checked, libc, readable_paths, syscall

__all__ = ["MAX_FILES", "can_enclose", "enclose", "limit_scratch"]

MAX_FILES = 10_000
"""How many files and folders a worker's scratch folder may hold."""

_NEW_MOUNTS = 0x00020000
_NEW_NAMESPACES = _NEW_MOUNTS | 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000  # and user, network, System V IPC, host name
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x1000, 0x4000, 0x40000, 0x2, 0x4
_MNT_DETACH = 2
_SYS_PIVOT_ROOT, _SYS_MOUNT_SETATTR = 155, 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2


def enclose(visible: Iterable[str], home: str) -> None:
    """Leave the machine's file system and network, for good: keep `visible`, read-only, and the folder `home`.

    Call it in a process of one thread. Paths stay what they were. Raises: ConfinementError.
    """
    user, group = os.geteuid(), os.getegid()
    checked(libc().unshare(ctypes.c_int(_NEW_NAMESPACES)), "unshare")
    try:
        checked(libc().sethostname(b"worker", ctypes.c_size_t(6)), "sethostname")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        root = Path(home, ".root")
        root.mkdir(exist_ok=True)
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
        visible = set(visible)
        for path in _topmost(visible | {os.path.realpath(path) for path in visible}):
            _show(path, root)
        _bind(home, root)
        _read_only(str(root), recursive=False)
        os.chdir(root)
        syscall("pivot_root", _SYS_PIVOT_ROOT, b".", b".")
        checked(libc().umount2(b".", ctypes.c_int(_MNT_DETACH)), "umount2")
        os.chdir("/")
    except OSError as error:
        raise ConfinementError(f"namespaces: {error}") from error


def limit_scratch(folder: str, size: int) -> None:
    """Put a file system of this size, in bytes, over a folder. It is this process's own, and goes with it.

    Call it in a fork of an enclosed process, before the confinement. Raises: ConfinementError.
    """
    checked(libc().unshare(ctypes.c_int(_NEW_MOUNTS)), "unshare")
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes={MAX_FILES},mode=700")


@functools.cache
def can_enclose() -> bool:
    """True where this machine lets this user make the namespaces: found out by making them in a fork."""
    if not sys.platform.startswith("linux"):
        return False
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="grader-") as home:
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    enclose(readable_paths(), home)
                    limit_scratch(home, 1 << 20)
                    os._exit(0)
                os._exit(1)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != -signal.SIGKILL:  # one that was killed tells nothing
            break
    return status == 0


def _topmost(paths: Iterable[str]) -> list[str]:
    """The paths without those that lie below another one."""
    kept: list[str] = []
    for path in sorted(paths):
        if not any(Path(path).is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def _show(path: str, root: Path) -> None:
    if os.path.islink(path):  # such as /lib, where /usr is merged; what it leads to is visible too
        Path(f"{root}{path}").parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.path.realpath(path), f"{root}{path}")
    else:
        _bind(path, root)
        _read_only(f"{root}{path}", recursive=True)


def _bind(path: str, root: Path) -> None:
    """Make a path of the machine appear at the same place below the new root."""
    place = Path(f"{root}{path}")
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.isdir(path):
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    _mount(path, str(place), None, _MS_BIND | _MS_REC)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [text.encode() if text is not None else None for text in (source, target, kind)]
    result = libc().mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None)
    checked(result, f"mount {target}")


def _read_only(path: str, *, recursive: bool) -> None:
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0))
    syscall(
        f"mount_setattr {path}",
        _SYS_MOUNT_SETATTR,
        ctypes.c_int(_AT_FDCWD),
        path.encode(),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        attributes,
        ctypes.c_size_t(32),
    )
