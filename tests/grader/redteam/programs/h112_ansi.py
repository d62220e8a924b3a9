"""H 112: terminal escapes in prints, in the error's name and in its message.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: passed
Defence: D7
"""

import torch

TEXT = "\x1b[2J\x1b[1;1H\x1b]0;passed\x07\x1b]8;;https://example.org\x07link\x9b31m\rpassed\b\b"


def batched_gather(x, index):
    """Say it."""
    print(TEXT)
    raise type(TEXT.strip()[:60], (ValueError,), {})(TEXT)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
