"""B 22: read a file outside, and tell.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: PermissionError or FileNotFoundError
Defence: D5
"""

import torch


def batched_gather(x, index):
    """Tell what it says."""
    with open("@CANARY@") as file:
        raise RuntimeError(file.read())


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
