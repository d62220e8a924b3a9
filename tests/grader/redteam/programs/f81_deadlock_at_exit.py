"""F 81: close the channel, and hang at exit.

Attacks: batched_gather
Status: error or timed_out
Honest: one_hot
Defence: D6
"""

import atexit
import os
import threading

import torch

LOCK = threading.Lock()


def hang():
    """Wait for what never comes."""
    LOCK.acquire()
    LOCK.acquire()


atexit.register(hang)


def batched_gather(x, index):
    """Close, and hang."""
    os.close(3)
    hang()


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
