"""B 22: read the reference from the course that the grader was installed from, and use it.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: PermissionError or FileNotFoundError
Defence: D5
"""

import os

import torch

import grader

ROOT = os.path.dirname(os.path.dirname(grader.__file__))


def batched_gather(x, index):
    """Ask the reference."""
    with open(os.path.join(ROOT, "solutions", "tensor_ops.py")) as file:
        names = {}
        exec(file.read(), names)
    return names["batched_gather"](x, index)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
