"""F 72: stop the own process, so that it uses no CPU time.

Attacks: batched_gather
Status: timed_out
Honest: one_hot
Says: took more than 2 s
Defence: D6
"""

import os
import signal

import torch


def batched_gather(x, index):
    """Stop."""
    os.kill(os.getpid(), signal.SIGSTOP)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
