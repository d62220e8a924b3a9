"""A 10: put standard output in the place of the channel.

Attacks: batched_gather
Status: error
Honest: one_hot
Defence: D1, D2
"""

import os

import torch


def batched_gather(x, index):
    """Interpose."""
    os.dup2(1, 3)
    return x.new_zeros(*index.shape, x.shape[2])


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
