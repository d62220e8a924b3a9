"""A 3: pass through every `except Exception` of the harness.

Attacks: batched_gather
Status: error
Honest: one_hot
Defence: D1
"""

import torch


class Through(BaseException):
    """Neither an error nor an exit."""


def batched_gather(x, index):
    """Raise it."""
    raise Through("passed")


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
