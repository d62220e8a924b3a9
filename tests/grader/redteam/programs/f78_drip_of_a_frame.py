"""F 78: the header of a frame, and then a byte now and then.

Attacks: batched_gather
Status: timed_out
Honest: one_hot
Defence: D6
"""

import os
import struct
import time

import torch


def batched_gather(x, index):
    """Drip."""
    os.write(3, struct.pack("=IQ", 1000, 0))
    while True:
        os.write(3, b" ")
        time.sleep(0.1)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
