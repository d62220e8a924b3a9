"""H 114: an error whose name and message begin as a spreadsheet's formula does.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: cmd
Defence: D7
"""

import torch

TEXT = '\t=cmd|" /C calc"!A0\n=1+1\r@SUM(1)'


def batched_gather(x, index):
    """Say it."""
    print(TEXT)
    raise type(TEXT.strip()[:60], (ValueError,), {})(TEXT)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
