"""F 74: more threads than anyone needs.

Attacks: batched_gather
Status: error or out_of_memory
Honest: one_hot
Defence: D6, D5
"""

import threading
import time

import torch


def batched_gather(x, index):
    """Start them, and wait."""
    for _ in range(500):
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
    time.sleep(5)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
