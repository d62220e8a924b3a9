"""A 1: leave with status 0 in the middle of a test.

Attacks: batched_gather
Status: error
Honest: one_hot
Defence: D1
"""

import sys

import torch


def batched_gather(x, index):
    """Leave."""
    sys.exit(0)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
