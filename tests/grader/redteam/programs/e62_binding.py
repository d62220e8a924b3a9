"""E 62: the binding below torch.

Attacks: stable_softmax
Status: banned
Honest: one_hot
Defence: D8
"""

import torch


def stable_softmax(x, dim=-1):
    """Call the binding."""
    return getattr(torch._C._VariableFunctions, "soft" + "max")(x, dim)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
