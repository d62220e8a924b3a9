"""H 113: markup and script in an error's name and message, for a report that is shown in a browser.

Attacks: batched_gather
Status: error
Honest: one_hot
Says: </failure>
Defence: D7
"""

import torch

TEXT = "]]></failure></testcase><testcase name=x/><script>alert(1)</script><img src=x onerror=alert(1)>"


def batched_gather(x, index):
    """Say it."""
    print(TEXT)
    raise type(TEXT.strip()[:60], (ValueError,), {})(TEXT)


def one_hot(labels, num_classes, dtype=torch.float32):
    """Answer honestly."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError("a label is out of range")
    return torch.zeros(*labels.shape, num_classes, dtype=dtype).scatter(-1, labels.long().unsqueeze(-1), 1)
