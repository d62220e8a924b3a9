"""The process-wide state that a probe can see, put back to defaults before every probe, on both sides alike."""

import random

import numpy
import torch

__all__ = ["reset_state"]


def reset_state(seed: int) -> None:
    """Undo what one task could do to the next (dtype, device, gradient mode, hooks, modes left on), and seed Python, NumPy and torch."""
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    torch.use_deterministic_algorithms(False)
    torch.set_autocast_enabled("cpu", False)
    for hooks in (
        torch.nn.modules.module._global_forward_hooks,
        torch.nn.modules.module._global_forward_pre_hooks,
        torch.nn.modules.module._global_backward_hooks,
    ):
        hooks.clear()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed spends milliseconds on absent accelerators
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
