"""A 9: a perfect reply, sent at import, to a question that has not been asked yet.

Attacks: batched_gather
Status: error
Honest: none
Defence: D3, D2
"""

import os

import torch

from grader.protocol.messages import Loaded, Returned, pack

os.write(3, pack(Loaded({"batched_gather": "function"})))
os.write(3, pack(Returned("0" * 16, None, [], [])))


def batched_gather(x, index):
    """Never asked."""
    return x.new_zeros(*index.shape, x.shape[2])


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
