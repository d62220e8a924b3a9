"""F 75: ask for 40 GB.

Attacks: batched_gather
Status: out_of_memory
Honest: one_hot
Defence: D5
"""

import torch


def batched_gather(x, index):
    """Ask."""
    return torch.zeros(10**10)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
