"""F 71: a loop in C with every signal ignored.

Attacks: batched_gather
Status: timed_out
Honest: one_hot
Says: the test took more than
Defence: D6
"""

import contextlib
import signal

import torch

for number in range(1, 65):
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_IGN)


def batched_gather(x, index):
    """Go on."""
    return sum(iter(int, 1))


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
