"""C 48: results without values (meta), or whose values are elsewhere (sparse).

Attacks: batched_gather
Status: failed
Honest: one_hot
Defence: D2, D1
"""

import torch


def batched_gather(x, index):
    """Alternate between the two."""
    shape = (*index.shape, x.shape[2])
    if x.dtype is torch.float32:
        return torch.empty(shape, device="meta")
    return torch.zeros(shape, dtype=x.dtype).to_sparse()


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
