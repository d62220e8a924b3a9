"""C 38: NaN, which is not further away than any tolerance.

Attacks: batched_gather
Status: failed or error
Honest: one_hot
Defence: D1
"""

import torch


def batched_gather(x, index):
    """Return NaN."""
    return torch.full((*index.shape, x.shape[2]), torch.nan).to(x.dtype)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
