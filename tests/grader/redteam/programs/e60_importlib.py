"""E 60: the module is imported by name.

Attacks: stable_softmax
Status: banned
Honest: one_hot
Defence: D8
"""

import importlib

import torch


def stable_softmax(x, dim=-1):
    """Import it by name."""
    return importlib.import_module("torch.nn." + "functional").__dict__["soft" + "max"](x, dim)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
