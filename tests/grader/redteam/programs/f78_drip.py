"""F 78: a byte now and then, so that there is always progress.

Attacks: batched_gather
Status: error or timed_out
Honest: one_hot
Defence: D6, D2
"""

import os
import time

import torch


def batched_gather(x, index):
    """Drip."""
    while True:
        os.write(3, bytes(1))
        time.sleep(0.3)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
