"""Confinement of the calling process by the operating system: Landlock, a seccomp allowlist, resource limits, no capabilities.

Called in a fresh fork, before a thread starts and before the first student byte is compiled. Needs no privilege and no user
namespace. It uses the standard library and the C library's `syscall` only: this is the part that an auditor reads first.

Sources: landlock(7), seccomp(2), capabilities(7), linux/filter.h. Landlock alone leaves open UDP, path-name unix sockets, chmod and
utime, prlimit on another process; the system-call filter closes those. `stat` still tells whether a hidden name exists, unless the
process has been enclosed before (`enclose.py`).
"""

import ctypes
import functools
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from grader.protocol.confinement import Layers, Permissions

__all__ = [
    "MINIMUM_ABI",
    "ConfinementError",
    "checked",
    "confine",
    "landlock_abi",
    "libc",
    "readable_paths",
    "supported",
    "syscall",
]

MINIMUM_ABI = 3
"""Landlock's version from Linux 6.2, the first that guards truncation."""


class ConfinementError(Exception):
    """A layer of the confinement could not be put in force."""


def confine(permissions: Permissions, layers: Layers) -> None:
    """Put the layers in force on this process, for good. Raises: ConfinementError."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if layers.no_capabilities:
        _drop_capabilities()
    _limit_resources(permissions)
    if layers.landlock_abi:
        _landlock(permissions, layers.landlock_abi)
    if layers.seccomp:
        _seccomp()


def supported() -> str | None:
    """Say why this machine can't confine; None where it can."""
    if not sys.platform.startswith("linux"):
        return f"confinement needs Linux, this is {platform.system()}"
    if platform.machine() != "x86_64":
        return f"the system-call filter is written for x86_64, this is {platform.machine()}"
    abi = landlock_abi()
    if abi < MINIMUM_ABI:
        return f"confinement needs Landlock ABI {MINIMUM_ABI} (Linux 6.2 with landlock among its LSMs), this kernel has {abi or 'none'}"
    return None


def landlock_abi() -> int:
    """Landlock's version in the running kernel; 0 where it has none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(libc().syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))))


def readable_paths() -> tuple[str, ...]:
    """What Python, torch and NumPy read lazily: libraries, and a few files that describe the machine."""
    python = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    system = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{sys.base_prefix}/lib"}
    machine = {"/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/urandom", "/dev/null", "/etc/localtime"}
    return tuple(sorted(path for path in python | system | machine if Path(path).exists()))


# ---- the C library, for this module and enclose.py

_PR_SET_NO_NEW_PRIVS = 38
_SYS_CAPSET = 126
_SYS_SECCOMP = 317
_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """The result of a call of the C library. Raises: ConfinementError, with what failed, where it is negative."""
    if result < 0:
        raise ConfinementError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def syscall(what: str, number: int, *arguments: object) -> int:
    """The result of a system call. Raises: ConfinementError."""
    return checked(libc().syscall(ctypes.c_long(number), *arguments), what)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    checked(libc().prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def _drop_capabilities() -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))  # version 3, this thread
    syscall("capset", _SYS_CAPSET, header, ctypes.create_string_buffer(24))


def _limit_resources(permissions: Permissions) -> None:
    import resource  # Windows has none, and this module has to say there that it can't confine

    limits = {
        resource.RLIMIT_AS: permissions.memory_bytes,
        resource.RLIMIT_FSIZE: permissions.scratch_bytes,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


# ---- Landlock

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE


def _landlock(permissions: Permissions, abi: int) -> None:
    if abi < MINIMUM_ABI:
        raise ConfinementError(f"Landlock ABI {abi} is older than {MINIMUM_ABI}")
    files = (1 << 15) - 1 | (_IOCTL_DEV if abi >= 5 else 0)
    tcp = 0b11 if abi >= 4 else 0  # bind, connect
    scopes = 0b11 if abi >= 6 else 0  # abstract unix sockets, signals
    attributes = struct.pack("=QQQ", files, tcp, scopes)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = syscall(
        "landlock_create_ruleset",
        _SYS_LANDLOCK_CREATE_RULESET,
        ctypes.create_string_buffer(attributes, len(attributes)),
        ctypes.c_size_t(len(attributes)),
        ctypes.c_uint(0),
    )
    _allow(ruleset, permissions.readable, _READ)
    _allow(ruleset, [permissions.scratch], _WRITE)
    syscall("landlock_restrict_self", _SYS_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)


def _allow(ruleset: int, paths: Iterable[str], access: int) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        granted = access if Path(path).is_dir() else access & _FOR_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", granted, descriptor))
        syscall(f"landlock_add_rule {path}", _SYS_LANDLOCK_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(descriptor)


# ---- seccomp: an allowlist, x86_64 numbers

# fmt: off
_ALLOWED = {
    # descriptors that are open already, memory, threads' own business
    "read": 0, "write": 1, "readv": 19, "writev": 20, "pread64": 17, "pwrite64": 18, "preadv": 295, "pwritev": 296, "close": 3,
    "close_range": 436, "lseek": 8, "dup": 32, "dup2": 33, "dup3": 292, "pipe": 22, "pipe2": 293, "sendfile": 40,
    "copy_file_range": 326, "mmap": 9, "munmap": 11, "mprotect": 10, "mremap": 25, "madvise": 28, "brk": 12, "msync": 26, "mincore": 27,
    "futex": 202, "rseq": 334, "set_robust_list": 273, "get_robust_list": 274, "membarrier": 324, "arch_prctl": 158,
    "set_tid_address": 218, "sched_yield": 24,
    "exit": 60, "exit_group": 231,
    # waiting, signals to handle (none to send), clocks, random bytes
    "poll": 7, "ppoll": 271, "select": 23, "pselect6": 270, "epoll_create1": 291, "epoll_ctl": 233, "epoll_wait": 232, "epoll_pwait": 281,
    "eventfd2": 290, "timerfd_create": 283, "timerfd_settime": 286, "pause": 34, "restart_syscall": 219, "rt_sigaction": 13,
    "rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131, "rt_sigtimedwait": 128, "rt_sigpending": 127, "rt_sigsuspend": 130,
    "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "nanosleep": 35, "gettimeofday": 96, "time": 201, "times": 100,
    "getcpu": 309, "getrusage": 98, "getrandom": 318,
    # who am I
    "getpid": 39, "gettid": 186, "getppid": 110, "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108, "getpgrp": 111,
    "getresuid": 118, "getresgid": 120, "getgroups": 115, "uname": 63, "sysinfo": 99, "getrlimit": 97,
    "capget": 125,
    # files, as far as Landlock lets
    "open": 2, "openat": 257, "creat": 85, "stat": 4, "fstat": 5, "lstat": 6, "newfstatat": 262, "statx": 332, "access": 21,
    "faccessat": 269, "faccessat2": 439, "statfs": 137, "fstatfs": 138, "getdents64": 217, "getcwd": 79, "chdir": 80, "fchdir": 81,
    "readlink": 89, "readlinkat": 267, "unlink": 87, "unlinkat": 263, "rename": 82, "renameat": 264, "mkdir": 83,
    "mkdirat": 258, "rmdir": 84, "ftruncate": 77, "fsync": 74, "fdatasync": 75, "umask": 95, "fadvise64": 221,
}
# fmt: on
_KILL, _TGKILL, _PRLIMIT, _FCNTL, _IOCTL, _CLONE, _CLONE3 = 62, 234, 302, 72, 16, 56, 435
_OF_A_PROCESS = {"getpgid": 121, "getsid": 124, "sched_getaffinity": 204, "sched_getparam": 143, "sched_getscheduler": 145}
_GETPRIORITY, _RENAMEAT2 = 140, 316
_RENAME_FLAGS = (0, 1, 2)  # replace, don't replace, exchange; no whiteout, which is a device
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032)  # duplicate, flags, pipe size; no lock, owner, signal, lease or seal
_IOCTL_COMMANDS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, bytes waiting, non-blocking, close on exec
_CLONE_THREAD, _CLONE_NEW_NAMESPACE = 0x00010000, 0x7E020000

_AUDIT_ARCH_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
_RETURN_ALLOW, _RETURN_KILL, _RETURN_ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _jump(test: int, value: int, then: int, otherwise: int) -> bytes:
    return struct.pack("=HBBI", test, then, otherwise, value)


def _return(action: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, action)


_EQUAL, _AT_LEAST, _ANY_BIT = 0x15, 0x35, 0x45


def _when_argument_in(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow the system call `number` when the low half of its argument is one of `values`, and refuse it otherwise."""
    body = [_load(_OFFSET_ARGUMENTS + 8 * argument)]
    for value in values:
        body += [_jump(_EQUAL, value & 0xFFFFFFFF, 0, 1), _return(_RETURN_ALLOW)]
    body.append(_return(_RETURN_ERRNO | _EPERM))
    return [_jump(_EQUAL, number, 0, len(body)), *body]


def _program() -> bytes:
    own = os.getpid()
    threads = [
        _load(_OFFSET_ARGUMENTS),
        _jump(_ANY_BIT, _CLONE_NEW_NAMESPACE, 2, 0),
        _jump(_ANY_BIT, _CLONE_THREAD, 0, 1),
        _return(_RETURN_ALLOW),
        _return(_RETURN_ERRNO | _EPERM),
    ]
    program = [
        _load(_OFFSET_ARCH),
        _jump(_EQUAL, _AUDIT_ARCH_X86_64, 1, 0),
        _return(_RETURN_KILL),
        _load(_OFFSET_NUMBER),
        _jump(_AT_LEAST, _X32_BIT, 0, 1),
        _return(_RETURN_KILL),
    ]
    for number in _ALLOWED.values():
        program += [_jump(_EQUAL, number, 0, 1), _return(_RETURN_ALLOW)]
    program += [_jump(_EQUAL, _CLONE3, 0, 1), _return(_RETURN_ERRNO | _ENOSYS)]  # its flags are behind a pointer; glibc falls back to clone
    program += [_jump(_EQUAL, _CLONE, 0, len(threads)), *threads]
    program += _when_argument_in(_KILL, 0, (own,))
    program += _when_argument_in(_TGKILL, 0, (own,))
    program += _when_argument_in(_PRLIMIT, 0, (0, own))
    for number in _OF_A_PROCESS.values():
        program += _when_argument_in(number, 0, (0, own))
    program += _when_argument_in(_GETPRIORITY, 1, (0, own))
    program += _when_argument_in(_RENAMEAT2, 4, _RENAME_FLAGS)
    program += _when_argument_in(_FCNTL, 1, _FCNTL_COMMANDS)
    program += _when_argument_in(_IOCTL, 1, _IOCTL_COMMANDS)
    program.append(_return(_RETURN_ERRNO | _EPERM))
    return b"".join(program)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


def _seccomp() -> None:
    program = _program()
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = _Filter(len(program) // 8, ctypes.addressof(buffer))
    set_mode_filter, every_thread = 1, 1
    syscall("seccomp", _SYS_SECCOMP, ctypes.c_uint(set_mode_filter), ctypes.c_uint(every_thread), ctypes.byref(descriptor))
