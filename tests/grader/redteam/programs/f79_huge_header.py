"""F 79: a header that announces 10 GB.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: returned too much
Defence: D2, D6
"""

import os
import struct
import time

import torch


def batched_gather(x, index):
    """Announce."""
    os.write(3, struct.pack("=IQ", 100, 10**10))
    time.sleep(5)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
