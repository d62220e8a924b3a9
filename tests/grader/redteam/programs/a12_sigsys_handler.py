"""A 12: handle the signals of refused system calls, and go on as if they had worked.

Attacks: batched_gather
Status: failed
Honest: one_hot
Defence: D5, D1
"""

import contextlib
import signal
import socket

import torch


def shrug(number, frame):
    """Go on."""


for number in (signal.SIGSYS, signal.SIGTRAP, signal.SIGSEGV, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGALRM):
    signal.signal(number, shrug)


def batched_gather(x, index):
    """Connect after all."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", int("@PORT@")), 1).close()
    return x.new_zeros(*index.shape, x.shape[2])


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
