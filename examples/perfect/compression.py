"""A submission with all tasks of compression solved, in another style than the reference's."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize


def magnitude_masks(weights, sparsity):
    """Sort by size, then by place; cut after k."""
    if not 0 <= sparsity <= 1:
        raise ValueError("sparsity must be in 0 … 1")
    masks = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()}
    places = [(name, i) for name, w in weights.items() for i in range(w.numel())]
    sizes = [abs(x) for w in weights.values() for x in w.detach().flatten().tolist()]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    for rank in order[: round(sparsity * len(sizes))]:
        name, i = places[rank]
        masks[name].view(-1)[i] = False
    return masks


class Pruned(nn.Module):
    """Selects kept weights, and writes them into zeros."""

    def __init__(self, mask):
        super().__init__()
        if mask.dtype is not torch.bool:
            raise ValueError("the mask must be bool")
        self.register_buffer("mask", torch.empty_like(mask, memory_format=torch.contiguous_format).copy_(mask))

    def forward(self, weight):
        """Weights where the mask is True, else 0."""
        if list(weight.shape) != list(self.mask.shape):
            raise ValueError("weight and mask differ in shape")
        return torch.zeros_like(weight).masked_scatter(self.mask, weight[self.mask])

    right_inverse = forward

    @staticmethod
    def bake(model):
        """Remove what is pruned, deepest modules first."""
        for module in reversed(list(model.modules())):
            pruned = [
                name
                for name in ("parametrizations" in module._modules and list(module.parametrizations) or [])
                if [step for step in module.parametrizations[name] if isinstance(step, Pruned)]
            ]
            for name in pruned:
                parametrize.remove_parametrizations(module, name)


def two_four_mask(weight):
    """Take the largest twice; argmax of a group gives the first of equal ones."""
    if weight.dim() < 1 or weight.shape[-1] % 4:
        raise ValueError("groups of four are needed")
    sizes = weight.detach().double().abs().reshape(-1, 4)
    mask = torch.zeros(sizes.shape, dtype=torch.bool)
    rows = torch.arange(len(sizes))
    for _ in range(2):
        best = torch.where(mask, -1.0, sizes).argmax(1)
        mask[rows, best] = True
    return mask.reshape(weight.shape)


def pack_two_four(weight):
    """Score the places: entries before zeros, smaller before larger ones."""
    if weight.dim() != 2 or weight.shape[1] % 4:
        raise ValueError("a matrix of groups of four is needed")
    out, columns = weight.shape
    groups = weight.detach().reshape(out * columns // 4, 4)
    used = groups != 0
    if used.sum(1).gt(2).any():
        raise ValueError("more than two entries in a group")
    score = torch.arange(4) + 4 * (~used).int()
    i, j = score.topk(2, dim=1, largest=False).values.remainder(4).sort(dim=1).values.unbind(1)
    rows = torch.arange(len(groups))
    values = torch.stack((groups[rows, i], groups[rows, j]), 1).reshape(out, columns // 2)
    codes = torch.zeros(out, 2 * -(-columns // 8), dtype=torch.uint8)
    codes[:, : columns // 4] = (i | j << 2).to(torch.uint8).reshape(out, columns // 4)
    low, high = codes[:, ::2], codes[:, 1::2]
    return values, low | high << 4


def stored_bytes(state):
    """A generator of rows, added up column by column."""
    names = ("dense", "csr", "bitmask", "2:4", "int4", "best")

    def sizes():
        done = set()
        for tensor in state.values():
            key = tensor.untyped_storage()._cdata
            if not tensor.nelement() or key in done:
                continue
            done.add(key)
            dense = tensor.nelement() * tensor.element_size()
            if tensor.dim() != 2 or not tensor.dtype.is_floating_point:
                yield (dense,) * 6
                continue
            used = tensor.detach() != 0
            n, m = used.shape
            values = int(used.sum()) * tensor.element_size()
            csr = values + 4 * int(used.sum()) + 4 * (n + 1)
            bitmask = values + math.ceil(n * m / 8)
            fits = not m % 4 and int(used.reshape(n, m // 4, 4).sum(2).max()) < 3
            half = dense // 2 + n * math.ceil(m / 8) if fits else dense
            int4 = n * (math.ceil(m / 2) + 2 * math.ceil(m / 32))
            yield dense, csr, bitmask, half, int4, min(dense, csr, bitmask, half)

    totals = [sum(column) for column in zip(*sizes())] or [0] * 6
    return dict(zip(names, totals))


def prune_channels(net, keep):
    """Make each kind of layer anew, on the way through the net."""
    C = net[0].weight.shape[0]
    if keep.dtype is not torch.bool or keep.shape != torch.Size([C]) or not bool(keep.any()):
        raise ValueError("keep must be a mask of the channels")
    where, n = torch.nonzero(keep)[:, 0], int(keep.sum())

    def conv(old, inputs, outputs, groups, dim):
        new = nn.Conv2d(
            inputs, outputs, old.kernel_size, old.stride, old.padding, old.dilation, groups,
            old.bias is not None, old.padding_mode, dtype=old.weight.dtype,
        )
        new.weight.data = old.weight.detach().index_select(dim, where)
        if old.bias is not None:
            new.bias.data = old.bias.detach()[where] if dim == 0 else old.bias.detach().clone()
        return new

    def norm(old):
        new = nn.BatchNorm2d(n, old.eps, old.momentum, old.affine, old.track_running_stats)
        for name, tensor in (*old.named_parameters(), *old.named_buffers()):
            getattr(new, name).data = tensor.detach()[where] if tensor.dim() else tensor.detach().clone()
        return new

    layers = []
    for i, old in enumerate(net):
        if i == 0:
            new = conv(old, old.in_channels, n, 1, 0)
        elif i == len(net) - 1:
            new = conv(old, n, old.out_channels, 1, 1)
        elif isinstance(old, nn.BatchNorm2d):
            new = norm(old)
        else:
            new = conv(old, n, n, n, 0) if isinstance(old, nn.Conv2d) else nn.ReLU(old.inplace)
        for name, parameter in new.named_parameters():
            parameter.requires_grad = getattr(old, name).requires_grad
        new.training = old.training
        layers.append(new)
    small = nn.Sequential(*layers)
    small.training = net.training
    return small


def factorize_linear(layer, energy):
    """Peel off singular values until enough energy is kept."""
    if not 0.0 < energy < 1.0:
        raise ValueError("energy must lie between 0 and 1")
    out, inputs = layer.out_features, layer.in_features
    u, s, v = torch.svd(layer.weight.data.double())
    squares = (s * s).tolist()
    r = next(k for k in range(1, len(squares) + 1) if sum(squares[:k]) >= energy * sum(squares))
    if out * inputs <= r * (out + inputs):
        return layer
    half = torch.diag(s[:r].sqrt())
    down = nn.Linear(inputs, r, bias=False)
    up = nn.Linear(r, out, bias=layer.bias is not None)
    pair = nn.Sequential(down, up).to(layer.weight.dtype)
    down.weight.data = (v[:, :r] @ half).T.contiguous().to(layer.weight.dtype)
    up.weight.data = (u[:, :r] @ half).to(layer.weight.dtype)
    if layer.bias is not None:
        up.bias.data = layer.bias.data.clone()
    return pair.train() if layer.training else pair.eval()


def distillation_loss(student, teacher, labels, *, T=4.0, alpha=0.5):
    """kl_div for the soft part, nll_loss for the hard one."""
    if not T > 0 or not 0 <= alpha <= 1:
        raise ValueError("T must be above 0 and alpha in 0 … 1")
    target = F.log_softmax(teacher.detach().div(T), dim=1)
    soft = F.kl_div(F.log_softmax(student.div(T), dim=1), target, reduction="sum", log_target=True) / len(student)
    picked = F.log_softmax(student, dim=1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    known = (labels >= 0).to(student.dtype)
    hard = -(picked * known).sum() / max(float(known.sum()), 1.0)
    return T * T * alpha * soft + (1 - alpha) * hard


def codebook(weight, start, *, iterations):
    """k-means with scatter; autograd goes through index_select."""
    if start.dim() != 1 or start.shape[0] == 0 or start.shape[0] > 256 or iterations < 0:
        raise ValueError("1 to 256 centroids, 0 or more iterations")
    w, centres = weight.detach().double().reshape(-1), start.detach().double().clone()
    step = 0
    while True:
        codes = torch.stack([(w - c).abs() for c in centres]).argmin(0)
        if step == iterations:
            break
        means = centres.scatter_reduce(0, codes, w, "mean", include_self=False)
        centres, step = means, step + 1
    centroids = nn.Parameter(centres.to(weight.dtype)).detach().requires_grad_()
    shared = centroids.index_select(0, codes).reshape(weight.shape)
    width = next(bits for bits in range(9) if 2**bits >= len(centres))
    bits = width * weight.numel() + 8 * centroids.nbytes
    return centroids, codes.reshape(weight.shape).to(torch.uint8), shared, bits


def distill_digits(net, images, logits, *, generator, updates=300):
    """RMSprop on the divergence from the teacher."""
    teacher = F.softmax(logits, dim=1)
    optimizer = torch.optim.RMSprop(net.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(updates, 1))
    for _ in range(updates):
        chosen = torch.randint(0, images.shape[0], (80,), generator=generator)
        loss = F.kl_div(F.log_softmax(net(images[chosen]), dim=1), teacher[chosen], reduction="batchmean")
        net.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
