"""F 70: never return.

Attacks: batched_gather
Status: timed_out
Honest: one_hot
Defence: D6
"""

import torch


def batched_gather(x, index):
    """Go on."""
    while True:
        pass


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
