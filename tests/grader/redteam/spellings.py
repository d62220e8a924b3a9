"""How a forbidden function can be spelled, and which spellings the bans stop: `python -m tests.grader.redteam.spellings`.

For ten tasks, each spelling is written into an answer that calls a library twin of the task. The answer is graded twice: with the
bans, to see whether the source check, the watch at run time, or neither stops it; and without them, to see that it would have been right.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import torch

from grader.base.outcome import Status
from grader.course.manifest import Course
from grader.grading.compare import difference
from grader.grading.sides import ReferenceSide, StudentSide
from grader.protocol.probes import freeze
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.worker_handle import Ended
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.submissions.sources import Source

__all__ = ["TWINS", "Stopped", "Twin", "Verdict", "render", "study", "written"]

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- spellings: made by tests/grader/redteam/spellings.py -->", "<!-- end of spellings -->"


@dataclass(frozen=True)
class Twin:
    """A task, a library function that answers it, and the answer that calls it as CALLEE."""

    module: str
    task: str
    path: str
    answer: str
    probe: Callable[[Any], Any]
    rtol: float = 1e-5
    own: dict[str, str] = field(default_factory=dict)
    """Spellings that only this one has: a whole answer each."""


class Stopped(StrEnum):
    """What stopped a spelling."""

    SOURCE = "source"
    RUN_TIME = "run time"
    NEITHER = "neither"


@dataclass(frozen=True)
class Verdict:
    """One spelling of one task's twin."""

    task: str
    spelling: str
    stopped: Stopped
    right: bool
    """Without the bans, the answer is right."""


HEADER = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"

# Where the callee comes from: statements that go before the answer, and the expression. MODULE, LEAF and HALVES stand for the twin's home,
# its name, and its name in two pieces.
EVERYWHERE = {
    "its dotted name": ("", "PATH"),
    "from … import": ("from MODULE import LEAF", "LEAF"),
    "from … import … as": ("from MODULE import LEAF as helper", "helper"),
    "import MODULE as": ("import MODULE as lib", "lib.LEAF"),
    "a constant of the module": ("HELPER = PATH", "HELPER"),
    "a helper function": ("def _helper(*a, **k):\n    return PATH(*a, **k)", "_helper"),
    "a default argument": ("def _helper(*a, f=PATH, **k):\n    return f(*a, **k)", "_helper"),
    "functools.partial": ("import functools", "functools.partial(PATH)"),
    "a table of functions": ("TABLE = {'f': PATH}", "TABLE['f']"),
    "getattr": ("", "getattr(MODULE, 'LEAF')"),
    "getattr with a built name": ("", "getattr(MODULE, HALVES)"),
    "vars with a built name": ("", "vars(MODULE)[HALVES]"),
    "__dict__ with a built name": ("", "MODULE.__dict__[HALVES]"),
    "operator.attrgetter": ("import operator", "operator.attrgetter(HALVES)(MODULE)"),
    "importlib and a built name": ("import importlib", "getattr(importlib.import_module('MODULE'), HALVES)"),
    "__import__ and a built name": ("", "getattr(__import__('MODULE', fromlist=['x']), HALVES)"),
    "sys.modules and a built name": ("import sys", "getattr(sys.modules['MODULE'], HALVES)"),
    "eval of a built text": ("", "eval('MODULE.' + HALVES)"),
    "exec of a built text": ("space = {}\nexec('from MODULE import ' + HALVES + ' as f', space)", "space['f']"),
    "pickle": ("import pickle", "pickle.loads(('cMODULE\\n' + HALVES + '\\n.').encode())"),
    "inspect.getattr_static": ("import inspect", "inspect.getattr_static(MODULE, HALVES)"),
    "a star import": ("from MODULE import *", "globals()[HALVES]"),
    "a method of one's own class": ("class _Box:\n    f = staticmethod(vars(MODULE)[HALVES])", "_Box.f"),
    "a decorator": (
        "import functools\ndef _wrap(f):\n    return functools.wraps(f)(lambda *a, **k: f(*a, **k))",
        "_wrap(vars(MODULE)[HALVES])",
    ),
    "another thread": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def _elsewhere(f):\n    return lambda *a, **k: ThreadPoolExecutor(1).submit(f, *a, **k).result()",
        "_elsewhere(vars(MODULE)[HALVES])",
    ),
    "with torch functions disabled": (
        "def _quiet(f):\n"
        "    def run(*a, **k):\n"
        "        with getattr(torch, '_C').DisableTorchFunction():\n"
        "            return f(*a, **k)\n"
        "    return run",
        "_quiet(vars(MODULE)[HALVES])",
    ),
    "with all modes disabled": (
        "def _quiet(f):\n"
        "    def run(*a, **k):\n"
        "        from torch.utils._python_dispatch import _disable_current_modes\n"
        "        with _disable_current_modes(), getattr(torch, '_' + 'C').DisableTorchFunction():\n"
        "            return f(*a, **k)\n"
        "    return run",
        "_quiet(vars(MODULE)[HALVES])",
    ),
    "the original behind a wrapper": ("", "getattr(vars(MODULE)[HALVES], '__wrapped__', vars(MODULE)[HALVES])"),
}

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
Y = torch.tensor([[1.0, 0.0, -2.0], [0.5, 3.0, 0.25]])


def _adamw(m: Any) -> Any:
    p = torch.nn.Parameter(X.clone())
    optimizer = m.AdamW([p], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (p * Y).sum().backward()
        optimizer.step()
    return p.detach()


def _clip(m: Any) -> Any:
    p = torch.nn.Parameter(X.clone())
    (p * Y).sum().backward()
    return [m.clip_grad_norm_([p], 0.5), p.grad]


_LAYER_NORM = (
    "class LayerNorm(nn.Module):\n    def __init__(self, n, **_):\n        super().__init__()\n    def forward(self, x):\n        return {}"
)
_CONV = "def conv2d(x, weight, bias=None, **_):\n    return {}"
_ATTENTION = "def scaled_dot_product_attention(q, k, v, mask=None):\n    return {}"

TWINS = [
    Twin(
        "tensor_ops",
        "stable_softmax",
        "torch.softmax",
        "def stable_softmax(x, dim=-1):\n    return CALLEE(x, dim)",
        lambda m: m.stable_softmax(X, 1),
        own={
            "a method": "def stable_softmax(x, dim=-1):\n    return x.softmax(dim)",
            "nn.functional": "def stable_softmax(x, dim=-1):\n    return F.softmax(x, dim)",
            "a layer": "def stable_softmax(x, dim=-1):\n    return nn.Softmax(dim)(x)",
            "torch.special": "def stable_softmax(x, dim=-1):\n    return torch.special.softmax(x, dim)",
            "aten": "def stable_softmax(x, dim=-1):\n    return torch.ops.aten._softmax(x, dim, False)",
            "patching the watch": "import sys\n"
            "getattr(sys.modules.get('grader.protocol.watch'), 'Watch', sys).note = lambda *_: None\n"
            "def stable_softmax(x, dim=-1):\n    return getattr(F, 'soft' + 'max')(x, dim)",
            "patching the watch by import": "try:\n"
            "    import grader.protocol.watch as w\n"
            "    w.Watch.note = w.Watch.over = w._notebook = w.BannedCall = lambda *_: None\n"
            "except ImportError:\n    pass\n"
            "def stable_softmax(x, dim=-1):\n    return getattr(F, 'soft' + 'max')(x, dim)",
            "patching the worker": "import sys, types\n"
            "for name, module in list(sys.modules.items()):\n"
            "    if name.startswith('grader') and isinstance(vars(module).get('watch'), types.ModuleType):\n"
            "        module.watch.Watch.over = lambda *_: None\n"
            "def stable_softmax(x, dim=-1):\n    return getattr(F, 'soft' + 'max')(x, dim)",
            "a thread started at import": "import threading, queue\n"
            "_todo, _done = queue.Queue(), queue.Queue()\n"
            "def _run():\n    while True:\n        _done.put(getattr(F, 'soft' + 'max')(*_todo.get()))\n"
            "threading.Thread(target=_run, daemon=True).start()\n"
            "def stable_softmax(x, dim=-1):\n    _todo.put((x, dim))\n    return _done.get(timeout=1)",
            "torch._refs among the modules": "import sys\n"
            "def stable_softmax(x, dim=-1):\n    return getattr(vars(sys)['modules']['torch._' + 'refs'], 'soft' + 'max')(x, dim)",
            "the table of decompositions": "import importlib\n"
            "def stable_softmax(x, dim=-1):\n"
            "    table = importlib.import_module('torch._' + 'decomp').decomposition_table\n"
            "    return table[getattr(torch.ops.aten, '_soft' + 'max').default](x, dim, False)",
            "the checks found in closures": "[d.cell_contents.clear() for c in type(torch.ops.aten.add.Tensor).decompose.__closure__\n"
            " for d in getattr(c.cell_contents, '__closure__', None) or () if isinstance(d.cell_contents, dict)]\n"
            "def stable_softmax(x, dim=-1):\n    return getattr(torch, 'soft' + 'max')(x, dim)",
            "the watch found by inspect": "import inspect\n"
            "def stable_softmax(x, dim=-1):\n"
            "    [f.frame.f_locals['watch']._active.clear() for f in inspect.stack() if 'watch' in f.frame.f_locals]\n"
            "    return getattr(torch, 'soft' + 'max')(x, dim)",
            "kernels put back, found by gc": "import gc\n"
            "def stable_softmax(x, dim=-1):\n"
            "    for thing in vars(gc)['get_' + 'objects']():\n"
            "        if type(thing).__name__ == 'Library':\n"
            "            thing._destroy()\n"
            "    return getattr(torch, 'soft' + 'max')(x, dim)",
            "an operator's parts": "def stable_softmax(x, dim=-1):\n"
            "    return getattr(torch.ops.aten, 'soft' + 'max').int.decompose(x, dim)",
            "functionalize": "def stable_softmax(x, dim=-1):\n    return torch.func.functionalize(getattr(F, 'soft' + 'max'))(x, dim)",
            "mkldnn": "def stable_softmax(x, dim=-1):\n    return getattr(x.to_mkldnn(), 'soft' + 'max')(dim).to_dense()",
            "mkldnn in inference mode": "def stable_softmax(x, dim=-1):\n"
            "    with torch.inference_mode():\n"
            "        return getattr(x.to_mkldnn(), 'soft' + 'max')(dim).to_dense()",
            "the log's exponential": "def stable_softmax(x, dim=-1):\n    return x.log_softmax(dim).exp()",
            "softmin": "def stable_softmax(x, dim=-1):\n    return F.softmin(-x, dim)",
            "torch.masked": "def stable_softmax(x, dim=-1):\n    return torch.masked.softmax(x, dim, mask=x == x)",
            "torch._refs": "def stable_softmax(x, dim=-1):\n    import torch._refs as r\n    return r.softmax(x, dim)",
            "the gradient of logsumexp": "def stable_softmax(x, dim=-1):\n"
            "    x = x.detach().requires_grad_()\n"
            "    return torch.autograd.grad(x.logsumexp(dim).sum(), x)[0]",
            "a distribution": "def stable_softmax(x, dim=-1):\n"
            "    return torch.distributions.Categorical(logits=x.movedim(dim, -1)).probs.movedim(-1, dim)",
            "attention": "def stable_softmax(x, dim=-1):\n"
            "    h = x.movedim(dim, -1)[..., None, :]\n"
            "    n = h.shape[-1]\n"
            "    zero, eye = torch.zeros(*h.shape[:-1], 1), torch.eye(n).expand(*h.shape[:-2], n, n)\n"
            "    return F.scaled_dot_product_attention(zero, torch.zeros(*h.shape[:-2], n, 1), eye, h)[..., 0, :].movedim(-1, dim)",
            "the gradient of cross_entropy": "def stable_softmax(x, dim=-1):\n"
            "    h = x.detach().movedim(dim, -1).flatten(0, -2).requires_grad_()\n"
            "    labels = torch.zeros(len(h), dtype=torch.long)\n"
            "    (g,) = torch.autograd.grad(F.cross_entropy(h, labels, reduction='sum'), h)\n"
            "    return (g + F.one_hot(labels, h.shape[-1])).reshape(x.movedim(dim, -1).shape).movedim(-1, dim)",
        },
    ),
    Twin(
        "tensor_ops",
        "pairwise_distances",
        "torch.cdist",
        "def pairwise_distances(a, b):\n    return CALLEE(a, b)",
        lambda m: m.pairwise_distances(X, Y),
        rtol=1e-4,
        own={
            "aten": "def pairwise_distances(a, b):\n    return torch.ops.aten._cdist_forward(a, b, 2.0, None)",
            "a norm of differences": "def pairwise_distances(a, b):\n    return (a[:, None] - b).norm(dim=-1)",
            "torch.linalg": "def pairwise_distances(a, b):\n    return torch.linalg.vector_norm(a[:, None] - b, dim=-1)",
            "one pair at a time": "def pairwise_distances(a, b):\n"
            "    return torch.stack([torch.stack([torch.dist(p, q) for q in b]) for p in a])",
            "a layer": "def pairwise_distances(a, b):\n    return nn.PairwiseDistance(eps=0)(a[:, None], b)",
            "mse_loss": "def pairwise_distances(a, b):\n"
            "    n, m = len(a), len(b)\n"
            "    return F.mse_loss(a[:, None].expand(n, m, -1), b.expand(n, m, -1), reduction='none').sum(-1).sqrt()",
            "hypot": "def pairwise_distances(a, b):\n"
            "    import functools\n"
            "    return functools.reduce(torch.hypot, (a[:, None] - b).unbind(-1))",
        },
    ),
    Twin(
        "tensor_ops",
        "one_hot",
        "torch.nn.functional.one_hot",
        "def one_hot(labels, num_classes, dtype=torch.float32):\n    return CALLEE(labels, num_classes).to(dtype)",
        lambda m: m.one_hot(torch.tensor([2, 0, 1]), 4),
        own={
            "aten": "def one_hot(labels, num_classes, dtype=torch.float32):\n"
            "    return torch.ops.aten.one_hot(labels, num_classes).to(dtype)",
            "the binding": "def one_hot(labels, num_classes, dtype=torch.float32):\n"
            "    return torch._C._nn.one_hot(labels, num_classes).to(dtype)",
            "a distribution": "def one_hot(labels, num_classes, dtype=torch.float32):\n"
            "    d = torch.distributions.OneHotCategorical(torch.ones(num_classes))\n"
            "    return d.enumerate_support()[labels].to(dtype)",
        },
    ),
    Twin(
        "tensor_ops",
        "log_sum_exp",
        "torch.logsumexp",
        "def log_sum_exp(x, dim, keepdim=False):\n    return CALLEE(x, dim, keepdim)",
        lambda m: m.log_sum_exp(X, 1),
        own={
            "a method": "def log_sum_exp(x, dim, keepdim=False):\n    return x.logsumexp(dim, keepdim)",
            "torch.special": "def log_sum_exp(x, dim, keepdim=False):\n    return torch.special.logsumexp(x, dim, keepdim)",
            "the last of logcumsumexp": "def log_sum_exp(x, dim, keepdim=False):\n    return x.logcumsumexp(dim).select(dim, -1)",
            "logaddexp, reduced": "def log_sum_exp(x, dim, keepdim=False):\n"
            "    import functools\n"
            "    return functools.reduce(torch.logaddexp, x.unbind(dim))",
            "x less its log_softmax": "def log_sum_exp(x, dim, keepdim=False):\n    return (x - x.log_softmax(dim)).select(dim, 0)",
            "a distribution": "def log_sum_exp(x, dim, keepdim=False):\n"
            "    h = x.movedim(dim, -1)\n"
            "    return h[..., 0] - torch.distributions.Categorical(logits=h).logits[..., 0]",
            "cross_entropy": "def log_sum_exp(x, dim, keepdim=False):\n"
            "    h = x.movedim(dim, -1)\n"
            "    return F.cross_entropy(h, torch.zeros(len(h), dtype=torch.long), reduction='none') + h[:, 0]",
        },
    ),
    Twin(
        "training",
        "cross_entropy",
        "torch.nn.functional.cross_entropy",
        "def cross_entropy(logits, targets, *, ignore_index=-100, label_smoothing=0.0):\n    return CALLEE(logits, targets)",
        lambda m: m.cross_entropy(X, torch.tensor([2, 0])),
        own={
            "a layer": "def cross_entropy(logits, targets, **_):\n    return nn.CrossEntropyLoss()(logits, targets)",
            "nll_loss": "def cross_entropy(logits, targets, **_):\n    return F.nll_loss(logits.log_softmax(1), targets)",
            "aten": "def cross_entropy(logits, targets, **_):\n"
            "    return torch.ops.aten.cross_entropy_loss(logits, targets, None, 1, -100, 0.0)",
            "the binding": "def cross_entropy(logits, targets, **_):\n"
            "    return torch._C._nn.cross_entropy_loss(logits, targets, None, 1, -100, 0.0)",
            "a distribution": "def cross_entropy(logits, targets, **_):\n"
            "    return -torch.distributions.Categorical(logits=logits).log_prob(targets).mean()",
        },
    ),
    Twin(
        "training",
        "AdamW",
        "torch.optim.AdamW",
        "class AdamW:\n"
        "    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):\n"
        "        self.o = CALLEE(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)\n"
        "    def step(self):\n        self.o.step()\n"
        "    def zero_grad(self):\n        self.o.zero_grad()\n",
        _adamw,
        own={
            "a subclass": "class AdamW(torch.optim.AdamW):\n    pass",
            "a subclass by a built name": "class AdamW(vars(torch.optim)['Adam' + 'W']):\n    pass",
            "Adam with decay in its class": "class AdamW:\n"
            "    def __init__(self, params, lr=1e-3, weight_decay=1e-2, **k):\n"
            "        self.o = torch.optim.Adam(params, lr=lr, weight_decay=weight_decay, decoupled_weight_decay=True)\n"
            "    def step(self):\n        self.o.step()\n"
            "    def zero_grad(self):\n        self.o.zero_grad()\n",
        },
    ),
    Twin(
        "training",
        "clip_grad_norm_",
        "torch.nn.utils.clip_grad_norm_",
        "def clip_grad_norm_(parameters, max_norm):\n    return CALLEE(parameters, max_norm)",
        _clip,
        own={
            "in two halves": "def clip_grad_norm_(parameters, max_norm):\n"
            "    ps = list(parameters)\n"
            "    total = torch.nn.utils.get_total_norm([p.grad for p in ps])\n"
            "    torch.nn.utils.clip_grads_with_norm_(ps, max_norm, total)\n"
            "    return total",
            "its file": "from torch.nn.utils.clip_grad import clip_grad_norm_ as helper\n"
            "def clip_grad_norm_(parameters, max_norm):\n    return helper(parameters, max_norm)",
            "renorm": "def clip_grad_norm_(parameters, max_norm):\n"
            "    (p,) = parameters\n"
            "    total = p.grad.norm()\n"
            "    p.grad.copy_(p.grad.flatten()[None].renorm(2, 0, max_norm)[0].view_as(p))\n"
            "    return total",
        },
    ),
    Twin(
        "modules",
        "LayerNorm",
        "torch.nn.functional.layer_norm",
        "class LayerNorm(nn.Module):\n"
        "    def __init__(self, normalized_shape, eps=1e-5, *, elementwise_affine=True):\n"
        "        super().__init__()\n"
        "        self.shape = (normalized_shape,)\n"
        "    def forward(self, x):\n        return CALLEE(x, self.shape)",
        lambda m: m.LayerNorm(3)(X),
        own={
            "a subclass of the layer": "class LayerNorm(nn.LayerNorm):\n    pass",
            "a subclass by a built name": "class LayerNorm(vars(nn)['Layer' + 'Norm']):\n    pass",
            "functionalize": _LAYER_NORM.format("torch.func.functionalize(getattr(F, 'layer' + '_norm'))(x, (3,))"),
            "aten": _LAYER_NORM.format("torch.ops.aten.native_layer_norm(x, (3,), None, None, 1e-5)[0]"),
            "the binding": _LAYER_NORM.format("torch._C._VariableFunctions.layer_norm(x, (3,))"),
            "group norm": _LAYER_NORM.format("F.group_norm(x, 1)"),
            "batch norm of the transpose": _LAYER_NORM.format("F.batch_norm(x.T, None, None, training=True).T"),
            "rms norm of the centred": _LAYER_NORM.format("F.rms_norm(x - x.mean(-1, keepdim=True), (3,), eps=1e-5)"),
            "standardised by var_mean": _LAYER_NORM.format(
                "(x - x.mean(-1, keepdim=True)) * (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()"
            ),
        },
    ),
    Twin(
        "autograd",
        "jacobian",
        "torch.autograd.functional.jacobian",
        "def jacobian(f, x):\n    return CALLEE(f, x)",
        lambda m: m.jacobian(lambda x: x.square().sum(1), X),
        own={
            "torch.func": "def jacobian(f, x):\n    return torch.func.jacrev(f)(x)",
            "forward mode": "def jacobian(f, x):\n    return torch.func.jacfwd(f)(x)",
            "functorch": "def jacobian(f, x):\n    import functorch\n    return functorch.jacrev(f)(x)",
            "one vjp at a time": "def jacobian(f, x):\n"
            "    y, back = torch.func.vjp(f, x)\n"
            "    return torch.stack([back(e)[0] for e in torch.eye(y.numel())]).reshape(*y.shape, *x.shape)",
        },
    ),
    Twin(
        "cnn",
        "conv2d",
        "torch.nn.functional.conv2d",
        "def conv2d(x, weight, bias=None, **_):\n    return CALLEE(x, weight, bias)",
        lambda m: m.conv2d(X[None, None], Y[None, None, :, :2]),
        own={
            "a layer": _CONV.format("torch.func.functional_call(nn.Conv2d(1, 1, 2, bias=False), {'weight': weight}, x)"),
            "aten": _CONV.format("torch.ops.aten.convolution(x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)"),
            "torch.convolution": _CONV.format("torch.convolution(x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)"),
            "three dimensions": _CONV.format("F.conv3d(x[:, :, None], weight[:, :, None])[:, :, 0]"),
            "mkldnn": _CONV.format("torch.mkldnn_convolution(x, weight, None, [0, 0], [1, 1], [1, 1], 1)"),
            "the transposed one of the flipped kernel": _CONV.format(
                "F.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), padding=(1, 1))"
            ),
            "conv_tbc, row by row": _CONV.format("sum(F.conv1d(x[:, :, i], weight[:, :, i]) for i in range(2))[:, :, None]"),
        },
    ),
    Twin(
        "attention",
        "scaled_dot_product_attention",
        "torch.nn.functional.scaled_dot_product_attention",
        "def scaled_dot_product_attention(q, k, v, mask=None):\n    return CALLEE(q, k, v, mask)",
        lambda m: m.scaled_dot_product_attention(X, Y, Y),
        own={
            "the binding": _ATTENTION.format("torch._C._nn.scaled_dot_product_attention(q, k, v, mask)"),
            "aten": _ATTENTION.format("torch.ops.aten._scaled_dot_product_attention_math(q, k, v, mask)[0]"),
            "the kernel for CPUs": _ATTENTION.format(
                "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q[None, None], k[None, None], v[None, None])[0][0, 0]"
            ),
            "flex_attention": "from torch.nn.attention.flex_attention import flex_attention\n"
            + _ATTENTION.format("flex_attention(q[None, None], k[None, None], v[None, None])[0, 0]"),
        },
    ),
]


def answers(twin: Twin) -> Iterator[tuple[str, str]]:
    """All spellings of a twin, with the answers that use them."""
    home, _, leaf = twin.path.rpartition(".")
    middle = len(leaf) // 2
    names = {"PATH": twin.path, "MODULE": home, "LEAF": leaf, "HALVES": f"({leaf[:middle]!r} + {leaf[middle:]!r})"}
    for spelling, (before, callee) in EVERYWHERE.items():
        if leaf == twin.task and spelling in ("from … import", "a star import"):
            continue  # the answer takes the name
        for name, text in names.items():
            before, callee = before.replace(name, text), callee.replace(name, text)
        yield spelling, f"{HEADER}{before}\n{twin.answer.replace('CALLEE', callee)}"
    for spelling, answer in twin.own.items():
        yield spelling, HEADER + answer


def study(course: Course, zygote: ZygoteHandle, twins: list[Twin]) -> Iterator[Verdict]:
    """Grade every spelling of these twins, with bans and without."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for twin in twins:
        reference = ReferenceSide(course, twin.module)
        probe = freeze(twin.probe)
        for spelling, text in answers(twin):
            stopped = Stopped.NEITHER
            value = _call(course, zygote, twin, reference, text, probe, bans=True)
            if isinstance(value, str) and value.startswith("banned"):
                stopped = Stopped.SOURCE if value.startswith("banned: uses") else Stopped.RUN_TIME
            value = _call(course, zygote, twin, reference, text, probe, bans=False)
            right = not isinstance(value, str) and difference(value, reference.call(probe, 1).value, rtol=twin.rtol, atol=1e-6) is None
            yield Verdict(twin.task, spelling, stopped, right)


def _call(course: Course, zygote: ZygoteHandle, twin: Twin, reference: ReferenceSide, text: str, probe: bytes, *, bans: bool) -> Any:
    """What the probe returns for this answer; as a text, how it ended otherwise."""
    (module,) = course.select([twin.module], [twin.task])
    if not bans:
        module = msgspec.structs.replace(module, tasks=(msgspec.structs.replace(module.tasks[0], bans=()),))
    side = StudentSide(zygote, course, module, Source(text), reference)
    try:
        return side.call(twin.task, probe, 1).value
    except Ended as end:
        kind = "banned" if end.outcome.status is Status.BANNED else "ended"
        return f"{kind}: {end.outcome.message}"
    finally:
        side.close()


def render(verdicts: list[Verdict]) -> str:
    """The table and the list of what gets past, in Markdown."""
    lines = ["| task | twin | spellings | stopped by the source | at run time | by neither |", "| --- | --- | --- | --- | --- | --- |"]
    for twin in TWINS:
        own = [verdict.stopped for verdict in verdicts if verdict.task == twin.task]
        numbers = [len(own), *(own.count(kind) for kind in Stopped)]
        lines.append(f"| `{twin.task}` | `{twin.path}` | {' | '.join(map(str, numbers))} |")
    every = [verdict.stopped for verdict in verdicts]
    lines += [f"| all | | {' | '.join(map(str, [len(every), *(every.count(kind) for kind in Stopped)]))} |", "", "Stopped by neither:", ""]
    past: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.stopped is Stopped.NEITHER:
            past.setdefault(verdict.spelling, []).append(f"`{verdict.task}`")
    return "\n".join(lines + [f"- {spelling} ({', '.join(tasks)})" for spelling, tasks in past.items()]) + "\n"


def written() -> str:
    """What stands between the markers of docs/security.md."""
    return DOCUMENT.read_text().split(BEGIN + "\n")[1].split(END)[0]


def main() -> None:
    """Write the outcome into docs/security.md, and name the answers that would not have been right."""
    with ZygoteHandle(machine_layers()) as zygote:
        verdicts = list(study(Course.read(ROOT), zygote, TWINS))
    before, after = DOCUMENT.read_text().split(BEGIN + "\n")[0], DOCUMENT.read_text().split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{render(verdicts)}{END}{after}")
    print(render(verdicts))
    for verdict in verdicts:
        if not verdict.right:
            print(f"{verdict.task}, {verdict.spelling}: not a right answer even without the bans")


if __name__ == "__main__":
    main()
