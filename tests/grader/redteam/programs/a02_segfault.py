"""A 2: end the process by reading address 0.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: SIGSEGV
Defence: D1, D6
"""

import ctypes

import torch


def batched_gather(x, index):
    """Crash."""
    return ctypes.string_at(0)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
