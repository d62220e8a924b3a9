"""F 77: print without end.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: printed more than
Defence: D6
"""

import sys

import torch


def batched_gather(x, index):
    """Print."""
    while True:
        sys.stdout.write("A" * 65536)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
