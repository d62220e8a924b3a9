"""F 76: folders within folders, too deep to be taken away by their path.

Attacks: batched_gather
Status: error or timed_out
Honest: one_hot
Defence: D6
"""

import os

import torch


def batched_gather(x, index):
    """Go down."""
    for _ in range(3000):
        os.mkdir("d" * 8)
        os.chdir("d" * 8)
    raise OSError("deep enough")


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
