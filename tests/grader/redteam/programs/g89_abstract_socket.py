"""G 89: connect to an abstract socket.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: PermissionError
Defence: D5
"""

import socket

import torch


def batched_gather(x, index):
    """Connect."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0@ABSTRACT@")
    return x.new_zeros(*index.shape, x.shape[2])


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
