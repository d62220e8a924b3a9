"""F 80: end the main thread, close the channel, and live on as what looks like a zombie.

Attacks: batched_gather
Status: error or out_of_memory
Honest: one_hot
Defence: D6
"""

import ctypes
import os
import threading
import time

import torch


def hold():
    """Close the channel when the main thread is gone."""
    time.sleep(0.1)
    os.close(3)
    time.sleep(60)


def batched_gather(x, index):
    """Leave it to the thread."""
    threading.Thread(target=hold, daemon=True).start()
    ctypes.CDLL(None).syscall(ctypes.c_long(60), ctypes.c_long(0))  # exit: this thread only


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
