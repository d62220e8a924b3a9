"""A 11: find the nonce on the stack, answer twice, and forge the next answer too.

Attacks: batched_gather
Status: failed or error
Honest: one_hot
Defence: D1, D3
"""

import os
import sys

import torch

from grader.protocol.messages import Returned, pack


def batched_gather(x, index):
    """Answer with a nonce from the frames above."""
    frame = sys._getframe()
    while "call" not in frame.f_locals:
        frame = frame.f_back
    os.write(3, pack(Returned(frame.f_locals["call"].nonce, None, [], [])) * 2)
    return x.new_zeros(*index.shape, x.shape[2])


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
