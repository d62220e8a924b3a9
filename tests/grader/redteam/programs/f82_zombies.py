"""F 82: leave zombies behind: children in every way in which the kernel makes them.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: all refused
Defence: D5, D6
"""

import ctypes
import errno
import os

import torch

LIBC = ctypes.CDLL(None, use_errno=True)


def refused(number, *arguments):
    """True where the kernel does not let this process make the call at all."""
    ctypes.set_errno(0)
    return LIBC.syscall(*map(ctypes.c_long, (number, *arguments))) == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)


def batched_gather(x, index):
    """Try each; a child that came to be after all ends at once."""
    own = os.getpid()
    for call in ((57,), (58,), (56, 17, 0, 0, 0, 0), (56, 0x4111, 0, 0, 0, 0), (435, 0, 0)):  # fork, vfork, clone, clone, clone3
        let_through = not refused(*call)
        if os.getpid() != own:
            os._exit(0)
        if let_through:
            raise RuntimeError(f"system call {call[0]} was let through")
    raise OSError("all refused")


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
