"""A 10: put the channel in the place of standard output, so that prints become replies.

Attacks: batched_gather
Status: error
Honest: one_hot
Defence: D2, D1
"""

import json
import os

import torch


def batched_gather(x, index):
    """Interpose, and print."""
    os.dup2(3, 1)
    os.dup2(3, 2)
    print(json.dumps({"type": "returned", "nonce": "0" * 16, "value": None, "banned": []}), flush=True)
    return x.new_zeros(*index.shape, x.shape[2])


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
