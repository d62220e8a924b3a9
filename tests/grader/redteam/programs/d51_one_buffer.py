"""D 51: return one buffer again and again, and fill in the answer to a call at the next one.

Attacks: batched_gather
Status: failed
Honest: one_hot
Defence: D1, D2
"""

import torch

BUFFERS, LATE = {}, []


def batched_gather(x, index):
    """Settle the last call, and return what is not filled yet."""
    while LATE:
        out, right = LATE.pop()
        out.copy_(right)
    key = (*index.shape, x.shape[2], x.dtype)
    out = BUFFERS.setdefault(key, x.new_zeros(*index.shape, x.shape[2])).zero_()
    LATE.append((out, x[torch.arange(len(x))[:, None], index].detach()))
    return out


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
