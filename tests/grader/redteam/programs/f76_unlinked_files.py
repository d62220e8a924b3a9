"""F 76: fill the disk with files that have no name any more.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: wrote more than
Defence: D6
"""

import os
import time

import torch


def batched_gather(x, index):
    """Keep the files open, and take their names away."""
    files = []
    for _ in range(24):
        files.append(open("file", "wb"))  # noqa: SIM115
        os.unlink("file")
        files[-1].write(bytes(3 << 20))
    time.sleep(0.2)
    raise SystemExit("72 MiB are written")


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
