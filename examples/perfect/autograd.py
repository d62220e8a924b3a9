import math
import torch
from torch import nn


class Value:
    def __init__(self, data):
        self.data = data
        self.grad = 0.0
        self.parents = []

    def _new(self, data, parents):
        v = Value(data)
        v.parents = parents
        return v

    def __add__(self, other):
        if not isinstance(other, Value):
            other = Value(other)
        return self._new(self.data + other.data, [(self, lambda g: g), (other, lambda g: g)])

    def __mul__(self, other):
        if not isinstance(other, Value):
            other = Value(other)
        a, b = self.data, other.data
        return self._new(a * b, [(self, lambda g: g * b), (other, lambda g: g * a)])

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self):
        return self * (-1)

    def __sub__(self, other):
        return self + other * (-1)

    def __rsub__(self, other):
        return other + (-self)

    def __truediv__(self, other):
        return self * (other**-1)

    def __rtruediv__(self, other):
        return other * self**-1

    def __pow__(self, exponent):
        if isinstance(exponent, Value):
            raise TypeError
        x = self.data
        return self._new(x**exponent, [(self, lambda g: g * exponent * x ** (exponent - 1) if exponent else 0.0)])

    def exp(self):
        e = math.exp(self.data)
        return self._new(e, [(self, lambda g: g * e)])

    def tanh(self):
        t = math.tanh(self.data)
        return self._new(t, [(self, lambda g: g * (1 - t * t))])

    def relu(self):
        on = self.data > 0
        return self._new(self.data if on else 0, [(self, lambda g: g if on else 0.0)])

    def backward(self):
        topo, state, stack = [], {}, [self]
        while stack:
            v = stack[-1]
            if state.get(id(v)) is None:
                state[id(v)] = 1
                for p, _ in v.parents:
                    if id(p) not in state:
                        stack.append(p)
            else:
                stack.pop()
                if state[id(v)] == 1:
                    state[id(v)] = 2
                    topo.append(v)
        local = {id(self): 1.0}
        for v in topo[::-1]:
            g = local.get(id(v), 0.0)
            v.grad += g
            for p, fn in v.parents:
                local[id(p)] = local.get(id(p), 0.0) + fn(g)


def unbroadcast(grad, shape):
    shape = list(shape)
    padded = [1] * (grad.dim() - len(shape)) + shape
    if len(padded) != grad.dim():
        raise ValueError("too long")
    for i, (a, b) in enumerate(zip(padded, grad.shape)):
        if a != b:
            if a != 1:
                raise ValueError("does not fit")
            grad = grad.sum(dim=i, keepdim=True)
    return grad.reshape(shape)


def numerical_gradient(f, x, eps=1e-6):
    base = x.detach().to(torch.float64).clone().contiguous()
    out = torch.zeros(x.shape, dtype=torch.float64)
    for idx in torch.ones(x.shape).nonzero() if x.dim() else [()]:
        idx = tuple(int(i) for i in idx)
        up, down = base.clone(), base.clone()
        up[idx] += eps
        down[idx] -= eps
        out[idx] = (f(up).detach() - f(down).detach()) / (2 * eps)
    return out


class Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        pos = x > 0
        small = torch.exp(torch.where(pos, -x, x))
        ctx.save_for_backward(x)
        return torch.where(pos, x, torch.zeros_like(x)) + torch.log1p(small)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return x.sigmoid() * grad


class RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.0


def jacobian(f, x):
    x = x.detach()
    with torch.enable_grad():
        z = x.clone().requires_grad_(True)
        y = f(z)
        if not y.requires_grad:
            return torch.zeros(list(y.shape) + list(x.shape), dtype=x.dtype)
        flat = y.reshape(-1)
        rows = []
        for i in range(flat.shape[0]):
            g = torch.autograd.grad(flat[i], z, retain_graph=True, allow_unused=True)[0]
            rows.append(torch.zeros_like(x) if g is None else g)
    if not rows:
        return torch.zeros(list(y.shape) + list(x.shape), dtype=x.dtype)
    return torch.stack(rows).view(y.shape + x.shape)


def hessian_vector_product(f, x, v):
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_(True)
        y = f(z)
        if y.grad_fn is None:
            return torch.zeros_like(x).detach()
        g = torch.autograd.grad(y, z, create_graph=True, allow_unused=True)[0]
        if g is None or not g.requires_grad:
            return torch.zeros_like(z).detach()
        hv = torch.autograd.grad((g * v).sum(), z, allow_unused=True)[0]
    return torch.zeros_like(z).detach() if hv is None else hv


def gradient_penalty(critic, real, fake, alpha):
    a = alpha
    while a.dim() < real.dim():
        a = a.unsqueeze(-1)
    with torch.no_grad():
        mix = a * real + (1 - a) * fake
    mix.requires_grad = True
    scores = critic(mix)
    (g,) = torch.autograd.grad(scores, mix, torch.ones_like(scores), create_graph=True)
    n = torch.norm(g.reshape(g.shape[0], -1), dim=1)
    return ((n - 1) ** 2).mean()


class Ck(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f, *args):
        ctx.f = f
        ctx.rng = torch.get_rng_state()
        ctx.is_t = [torch.is_tensor(a) for a in args]
        ctx.plain = [a for a in args if not torch.is_tensor(a)]
        ctx.save_for_backward(*[a for a in args if torch.is_tensor(a)])
        return f(*args)

    @staticmethod
    def backward(ctx, g):
        ts, ps = list(ctx.saved_tensors), list(ctx.plain)
        args = []
        for t in ctx.is_t:
            if t:
                a = ts.pop(0)
                args.append(a.detach().requires_grad_() if a.requires_grad else a)
            else:
                args.append(ps.pop(0))
        rng = torch.get_rng_state()
        torch.set_rng_state(ctx.rng)
        with torch.enable_grad():
            y = ctx.f(*args)
        torch.set_rng_state(rng)
        y.backward(g)
        return (None, *[a.grad if t and a.requires_grad else None for a, t in zip(args, ctx.is_t)])


def checkpoint(f, *args):
    return Ck.apply(f, *args)


def ema_update_(average, model, decay):
    if decay < 0 or decay > 1:
        raise ValueError
    for a, p in zip(average.parameters(), model.parameters()):
        a.data.mul_(decay)
        a.data.add_((1 - decay) * p.data)
    for a, p in zip(average.buffers(), model.buffers()):
        a.data.copy_(p.data)


def record_activation_gradients(model, names, x, loss_fn):
    mods = []
    for n in names:
        try:
            mods.append((n, model.get_submodule(n)))
        except AttributeError:
            raise ValueError(n)
    log = {n: [] for n in names}
    handles = []
    for n, mod in mods:

        def hook(mod, inp, out, n=n):
            entry = [torch.zeros(out.shape, dtype=out.dtype)]
            log[n].append(entry)

            def save(g, entry=entry):
                entry[0] = g

            out.register_hook(save)

        handles.append(mod.register_forward_hook(hook))
    try:
        loss_fn(model(x)).backward()
    finally:
        for h in handles:
            h.remove()
    return {n: [e[0] for e in es] for n, es in log.items()}
