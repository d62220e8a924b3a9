"""The process-wide state that a probe can see, put back to defaults before every probe, on both sides alike."""

import random
import sys

import numpy
import torch
from torch.utils.hooks import RemovableHandle

__all__ = ["reset_state"]

_RECURSION_LIMIT = sys.getrecursionlimit()
_FIRST_HOOK = 1 << 20
"""Hooks in a probe keep their numbers, which begin at 0. A new hook of the same number would take the place of such a one."""
_GUARDS: list[object] = []
"""What ends an inference mode that was left on, for as long as it lives."""


def reset_state(seed: int) -> None:
    """Undo what one task could do to the next (dtype, device, gradient mode, hooks, groups, modes left on). Seed Python, NumPy, torch."""
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()
    while torch._C._len_torch_dispatch_stack():
        torch._C._pop_torch_dispatch_stack(None)
    while torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        torch._C._autograd._pop_saved_tensors_default_hooks()
    if torch.is_inference_mode_enabled():
        _GUARDS.append(torch._C._InferenceMode(False))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    torch._C._set_deterministic_algorithms(False)  # torch.use_deterministic_algorithms imports a compiler first
    torch.set_autocast_enabled("cpu", False)
    torch.set_autocast_enabled("cuda", False)
    torch.set_float32_matmul_precision("highest")
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    torch.set_autocast_cache_enabled(True)
    modules = torch.nn.modules.module
    for hooks in (
        modules._global_forward_hooks,
        modules._global_forward_hooks_always_called,
        modules._global_forward_hooks_with_kwargs,
        modules._global_forward_pre_hooks,
        modules._global_backward_hooks,
        modules._global_backward_pre_hooks,
        modules._global_buffer_registration_hooks,
        modules._global_module_registration_hooks,
        modules._global_parameter_registration_hooks,
    ):
        hooks.clear()
    if sys.getrecursionlimit() != _RECURSION_LIMIT:
        sys.setrecursionlimit(_RECURSION_LIMIT)
    numpy.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
    RemovableHandle.next_id = max(RemovableHandle.next_id, _FIRST_HOOK)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed spends milliseconds on absent accelerators
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
