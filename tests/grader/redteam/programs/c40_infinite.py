"""C 40: infinities, for which every tolerance is large enough.

Attacks: masked_mean
Status: failed
Honest: one_hot
Defence: D1
"""

import torch


def masked_mean(x, mask, dim):
    """Return infinities."""
    return torch.full_like(x.sum(dim), torch.inf)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
