"""H 111: an error with a huge text, terminal escapes, markup and no decodable name.

Attacks: batched_gather
Status: error
Honest: one_hot
Defence: D7
"""

import torch


class Huge(Exception):
    """Says too much."""

    def __str__(self):
        return "\x1b[2J\u202e<script>alert(1)</script>=1+1\ud800" + "Z" * 10**7

    __repr__ = __str__


def batched_gather(x, index):
    """Raise it."""
    raise Huge


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
