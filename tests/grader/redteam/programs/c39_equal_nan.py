"""C 39: NaN, where the reference can be NaN or infinite itself.

Attacks: log_sum_exp
Status: failed or error
Honest: one_hot
Defence: D1
"""

import torch


def log_sum_exp(x, dim, keepdim=False):
    """Return NaN in the right shape."""
    return torch.full_like(x.sum(dim, keepdim=keepdim), torch.nan)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
