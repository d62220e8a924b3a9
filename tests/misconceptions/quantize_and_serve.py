"""Named wrong answers to the tasks of quantize_and_serve: the hidden suite must reject every one."""

import base64
import json
import os
import tempfile
import time
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.quantize_and_serve import RequestHandler as ReferenceHandler
from solutions.quantize_and_serve import TicketBatcher as ReferenceBatcher
from solutions.quantize_and_serve import pack_model as reference_pack
from solutions.quantize_and_serve import quantize_weights as reference_quantize
from solutions.quantize_and_serve import train_sparse_digits as reference_train

# train_sparse_digits


def _trained(images, labels, classes, keep, seed, *, first=60, second=100, prune=None, masked=True, before=False, lr=2e-2):
    """Train, prune, train; with the masks applied before each step in place of after it."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 32), nn.ReLU(), nn.Linear(32, classes))
    weights = [model[1].weight, model[3].weight]

    def train(steps, masks):
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        for _ in range(steps):
            if before:
                apply(masks)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if not before:
                apply(masks)

    @torch.no_grad()
    def apply(masks):
        for w, mask in zip(weights, masks, strict=True):
            w.mul_(mask)

    full = [torch.ones_like(w) for w in weights]
    train(first, full)
    masks = (prune or _largest)(weights, keep)
    apply(masks)
    train(second, masks if masked else full)
    return model.state_dict()


def _largest(weights, keep):
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    kept = torch.zeros_like(sizes)
    kept[sizes.topk(min(keep, len(sizes))).indices] = 1
    return [part.view_as(w) for part, w in zip(kept.split([w.numel() for w in weights]), weights, strict=True)]


@misconception("train_sparse_digits", "Prunes after training and leaves it at that: the weights that are left do not fit each other.")
def prunes_once(images, labels, *, classes, keep, seed):
    return _trained(images, labels, classes, keep, seed, first=160, second=0)


@misconception("train_sparse_digits", "Trains on without masks: the weights that were set to 0 grow again.")
def trains_on_without_masks(images, labels, *, classes, keep, seed):
    return _trained(images, labels, classes, keep, seed, masked=False)


@misconception("train_sparse_digits", "Sets weights to 0 before a step in place of after it: the last step revives them.")
def masks_before_the_step(images, labels, *, classes, keep, seed):
    return _trained(images, labels, classes, keep, seed, before=True)


@misconception("train_sparse_digits", "Does not prune: it returns the dense network.")
def never_prunes(images, labels, *, classes, keep, seed):
    return _trained(images, labels, classes, 10**9, seed)


@misconception("train_sparse_digits", "Keeps as many of each matrix: together, that is twice as many.")
def keeps_twice(images, labels, *, classes, keep, seed):
    return _trained(images, labels, classes, keep, seed, prune=lambda ws, k: [_largest([w], k)[0] for w in ws])


@misconception("train_sparse_digits", "Keeps one weight too many.")
def keeps_one_more(images, labels, *, classes, keep, seed):
    return _trained(images, labels, classes, keep + 1, seed)


@misconception("train_sparse_digits", "Keeps the smallest weights, and drops the large ones.")
def keeps_the_smallest(images, labels, *, classes, keep, seed):
    def smallest(weights, k):
        total = sum(w.numel() for w in weights)
        return [1 - mask for mask in _largest(weights, max(total - k, 0))]

    return _trained(images, labels, classes, keep, seed, prune=smallest, second=20)


@misconception(
    "train_sparse_digits", "Prunes by the value, not by its size: large negative weights go, and few steps do not make up for that."
)
def prunes_by_value(images, labels, *, classes, keep, seed):
    def highest(weights, k):
        values = torch.cat([w.detach().flatten() for w in weights])
        kept = torch.zeros_like(values)
        kept[values.topk(min(k, len(values))).indices] = 1
        return [part.view_as(w) for part, w in zip(kept.split([w.numel() for w in weights]), weights, strict=True)]

    return _trained(images, labels, classes, keep, seed, prune=highest, second=5)


@misconception("train_sparse_digits", "Makes weights small in place of 0: a file still has to hold them.")
def makes_them_small(images, labels, *, classes, keep, seed):
    weights = reference_train(images, labels, classes=classes, keep=keep, seed=seed)
    return {name: torch.where(value == 0, 1e-8, value) if "weight" in name else value for name, value in weights.items()}


@misconception("train_sparse_digits", "Prunes the hidden layer only: the output layer is dense, and counts.")
def first_layer_only(images, labels, *, classes, keep, seed):
    return _trained(images, labels, classes, keep, seed, prune=lambda ws, k: [_largest(ws[:1], k)[0], torch.ones_like(ws[1])])


@misconception("train_sparse_digits", "Doesn't use the seed: two runs with the same seed give different weights.")
def ignores_the_seed(images, labels, *, classes, keep, seed):
    return reference_train(images, labels, classes=classes, keep=keep, seed=int(torch.randint(2**31, ())))


@misconception("train_sparse_digits", "Always makes ten outputs.")
def ten_classes(images, labels, *, classes, keep, seed):
    return reference_train(images, labels, classes=10, keep=keep, seed=seed)


@misconception("train_sparse_digits", "Shuffles the images but not their labels: there is nothing to learn.")
def shuffles_the_images_only(images, labels, *, classes, keep, seed):
    torch.manual_seed(seed)
    return reference_train(images[torch.randperm(len(images))], labels, classes=classes, keep=keep, seed=seed)


@misconception("train_sparse_digits", "Keeps a sixth whatever is asked for: also where all weights may stay, or fewer.")
def always_a_sixth(images, labels, *, classes, keep, seed):
    total = images[0].numel() * 32 + 32 * classes
    return reference_train(images, labels, classes=classes, keep=-(-total // 6), seed=seed)


@misconception("train_sparse_digits", "Asks topk for more weights than there are: an error if all may stay.")
def more_than_there_are(images, labels, *, classes, keep, seed):
    def largest(weights, k):
        sizes = torch.cat([w.detach().abs().flatten() for w in weights])
        limit = sizes.topk(k).values[-1]
        return [(w.detach().abs() >= limit).float() for w in weights]

    return _trained(images, labels, classes, keep, seed, prune=largest)


@misconception("train_sparse_digits", "Returns the weights of the masks' forward pass under names of its own.")
def other_names(images, labels, *, classes, keep, seed):
    weights = reference_train(images, labels, classes=classes, keep=keep, seed=seed)
    return {name.replace("1.", "hidden.").replace("3.", "output."): value for name, value in weights.items()}


# quantize_weights


def _quantized(weights, scales, rounded=torch.round, kept=lambda w: w.clone()):
    """As the statement says, with other scales or another rounding."""
    out = {}
    for name, w in weights.items():
        w = w.detach()
        if not w.is_floating_point():
            out[name] = w.clone()
        elif w.ndim < 2:
            out[name] = kept(w.float())
        else:
            rows = w.double().flatten(1)
            scale = scales(rows).float()
            out[name] = rounded(rows / scale[:, None].double()).clamp(-128, 127).to(torch.int8).view(w.shape)
            out[f"{name}.scale"] = scale
    return out


def _scales(rows, divisor=127):
    scale = rows.abs().amax(1) / divisor
    return scale.masked_fill(scale == 0, 1.0)


@misconception("quantize_weights", "Takes one scale for the whole tensor: small channels become 0.")
def one_scale(weights):
    return _quantized(weights, lambda rows: _scales(rows.reshape(1, -1)).expand(len(rows)).clone())


@misconception("quantize_weights", "Gives the scales of the input channels.")
def scales_of_inputs(weights):
    out = reference_quantize(weights)
    for name, w in weights.items():
        if w.is_floating_point() and w.ndim >= 2:
            columns = reference_quantize({"w": w.detach().transpose(0, 1)})
            out[name], out[f"{name}.scale"] = columns["w"].transpose(0, 1), columns["w.scale"]
    return out


@misconception("quantize_weights", "Takes the maximum over the last dimension only: a filter has more of them.")
def maximum_of_the_last(weights):
    out = reference_quantize(weights)
    for name, w in weights.items():
        if w.is_floating_point() and w.ndim > 2:
            scale = _scales(w.detach().double().flatten(0, -2)).view(w.shape[:-1])
            out[name] = (w.detach() / scale[..., None]).round().to(torch.int8)
            out[f"{name}.scale"] = scale.float()
    return out


@misconception("quantize_weights", "Divides by 128: the largest weight becomes 128, which int8 does not have.")
def divides_by_128(weights):
    return _quantized(weights, lambda rows: _scales(rows, 128))


@misconception("quantize_weights", "Divides by 255, as for codes without a sign.")
def divides_by_255(weights):
    return _quantized(weights, lambda rows: _scales(rows, 255))


@misconception("quantize_weights", "Takes the largest value, not the largest absolute value.")
def largest_value(weights):
    return _quantized(weights, lambda rows: (rows.amax(1) / 127).abs().clamp(min=1e-30))


@misconception("quantize_weights", "Cuts off in place of rounding: errors are up to a whole scale.")
def cuts_off(weights):
    return _quantized(weights, _scales, rounded=torch.trunc)


@misconception("quantize_weights", "Rounds halves up, with floor(x + 0.5).")
def halves_up(weights):
    return _quantized(weights, _scales, rounded=lambda x: (x + 0.5).floor())


@misconception("quantize_weights", "Divides by 0 in a channel of zeros.")
def divides_by_zero(weights):
    return _quantized(weights, lambda rows: rows.abs().amax(1) / 127)


@misconception("quantize_weights", "Adds a little to each scale, against 0: tiny channels are lost.")
def adds_a_little(weights):
    return _quantized(weights, lambda rows: rows.abs().amax(1) / 127 + 1e-8)


@misconception("quantize_weights", "Gives a channel of zeros the scale 0.")
def scale_zero(weights):
    out = reference_quantize(weights)
    for name, w in weights.items():
        if f"{name}.scale" in out:
            out[f"{name}.scale"][w.detach().flatten(1).abs().amax(1) == 0] = 0.0
    return out


@misconception("quantize_weights", "Computes in the weights' dtype: in half precision, 127 steps are too fine.")
def in_the_weights_dtype(weights):
    out = reference_quantize(weights)
    for name, w in weights.items():
        if f"{name}.scale" in out:
            rows = w.detach().flatten(1)
            scale = _scales(rows)
            out[name], out[f"{name}.scale"] = (rows / scale[:, None]).round().to(torch.int8).view(w.shape), scale.float()
    return out


@misconception("quantize_weights", "Gives the scales the weights' dtype.")
def scales_in_the_weights_dtype(weights):
    out = reference_quantize(weights)
    return {name: value.to(weights[name[:-6]].dtype) if name.endswith(".scale") else value for name, value in out.items()}


@misconception("quantize_weights", "Gives the scales a dimension of size 1 behind.")
def scales_with_a_dimension(weights):
    return {name: value[:, None] if name.endswith(".scale") else value for name, value in reference_quantize(weights).items()}


@misconception("quantize_weights", "Quantizes biases as well.")
def biases_too(weights):
    out = reference_quantize(weights)
    for name, w in weights.items():
        if w.is_floating_point() and w.ndim == 1:
            row = reference_quantize({"b": w[None]})
            out[name], out[f"{name}.scale"] = row["b"][0], row["b.scale"]
    return out


@misconception("quantize_weights", "Leaves biases in their dtype.")
def biases_in_their_dtype(weights):
    out = reference_quantize(weights)
    return {name: weights[name].detach().clone() if name in weights and weights[name].ndim < 2 else value for name, value in out.items()}


@misconception("quantize_weights", "Returns the bias itself: who changes the result changes the network.")
def shares_the_bias(weights):
    out = reference_quantize(weights)
    return {name: w.detach() if (w := weights.get(name)) is not None and out[name].dtype == w.dtype else out[name] for name in out}


@misconception("quantize_weights", "Returns biases that are still part of a graph.")
def biases_with_a_graph(weights):
    out = reference_quantize(weights)
    return {name: weights[name].float().clone() if weights.get(name, out[name]).dtype.is_floating_point and name in weights and
            weights[name].ndim < 2 else value for name, value in out.items()}  # fmt: skip


@misconception("quantize_weights", "Quantizes whatever has two dimensions, also whole numbers and masks.")
def quantizes_whole_numbers(weights):
    return reference_quantize({name: w.float() if w.ndim > 1 else w for name, w in weights.items()})


@misconception("quantize_weights", "Takes all that is no weight for a bias, and counters become floats.")
def counters_as_floats(weights):
    out = reference_quantize(weights)
    return {name: value.float() if name in weights and not weights[name].is_floating_point() else value for name, value in out.items()}


@misconception("quantize_weights", "Quantizes by name: only what ends in weight.")
def by_name(weights):
    out = {}
    for name, w in weights.items():
        out |= reference_quantize({name: w}) if name.endswith("weight") or not w.is_floating_point() else {name: w.float().clone()}
    return out


@misconception("quantize_weights", "Quantizes matrices only: filters of convolutions stay as they are.")
def matrices_only(weights):
    out = {}
    for name, w in weights.items():
        out |= {name: w.float().clone()} if w.is_floating_point() and w.ndim > 2 else reference_quantize({name: w})
    return out


@misconception("quantize_weights", "Quantizes in place: the float weights are overwritten.")
def in_place(weights):
    out = reference_quantize(weights)
    for name, w in weights.items():
        if f"{name}.scale" in out:
            scale = out[f"{name}.scale"].view(-1, *[1] * (w.ndim - 1))
            w.detach().copy_(out[name] * scale)
    return out


@misconception("quantize_weights", "Takes what is called a bias for one, whatever its dimensions.")
def biases_by_name(weights):
    out = {}
    for name, w in weights.items():
        out |= {name: w.detach().float().clone()} if name.endswith("bias") and w.is_floating_point() else reference_quantize({name: w})
    return out


@misconception(
    "quantize_weights", "Keeps scales away from 0 with clamp: tiny channels are lost, and those of zeros do not have the scale 1."
)
def clamps_scales(weights):
    return _quantized(weights, lambda rows: (rows.abs().amax(1) / 127).clamp(min=1e-8))


@misconception("quantize_weights", "Puts weight and scale into a pair under the weight's name.")
def pairs(weights):
    out = reference_quantize(weights)
    return {name: (out[name], out[f"{name}.scale"]) if f"{name}.scale" in out else out[name] for name in weights}


# pack_model


def _parts(tensors, *, shorter=lambda n, k: -(-n // 8) + k < n, bits=None, only=torch.int8):
    """Tensors and shapes of a file, with other bits, or another rule."""
    packed, shapes = {}, {}
    for name, t in tensors.items():
        flat = t.detach().flatten()
        kept, n = flat != 0, t.numel()
        if (only is None or t.dtype == only) and shorter(n, int(kept.sum())):
            rows = F.pad(kept, (0, -n % 8)).view(-1, 8)
            packed[f"{name}.bits"] = (bits or _low_first)(rows)
            packed[f"{name}.values"], shapes[name] = flat[kept], list(t.shape)
        else:
            packed[name] = t.detach().clone(memory_format=torch.contiguous_format)
    return packed, shapes


def _low_first(rows):
    return (rows * 2 ** torch.arange(8)).sum(1).to(torch.uint8)


def _save(path, packed, shapes, labels, **metadata):
    known = {"format": "sparse-int8", "labels": json.dumps(list(labels)), "shapes": json.dumps(shapes)} | metadata
    safetensors.torch.save_file(packed, f"{path}.new", known)
    os.replace(f"{path}.new", path)


def _finite(tensors):
    if not all(t.isfinite().all() for t in tensors.values() if t.is_floating_point()):
        raise ValueError


@misconception("pack_model", "Puts the first entry into the highest bit, as numpy.packbits does if nothing is said.")
def high_bit_first(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, bits=lambda rows: (rows * 2 ** torch.arange(7, -1, -1)).sum(1).to(torch.uint8)), labels)


@misconception("pack_model", "Sets the bits of zeros, not of the others.")
def bits_of_zeros(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, bits=lambda rows: _low_first(~rows)), labels)


@misconception("pack_model", "Looks for entries with abs() > 0: in int8, abs(-128) is -128.")
def abs_overflows(path, tensors, labels):
    reference_pack(path, {name: t.where(t != -128, 0) if t.dtype == torch.int8 else t for name, t in tensors.items()}, labels)


@misconception("pack_model", "Looks for entries above 0: negative ones are lost.")
def positive_ones(path, tensors, labels):
    reference_pack(path, {name: t.clamp(min=0) if t.dtype == torch.int8 else t for name, t in tensors.items()}, labels)


@misconception("pack_model", "Cleans the folder of everything else.")
def cleans_the_folder(path, tensors, labels):
    reference_pack(path, tensors, labels)
    for other in Path(path).parent.iterdir():
        if other != Path(path):
            other.unlink()


@misconception("pack_model", "Fills the last byte with ones.")
def fills_with_ones(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    for name in shapes:
        if left := -tensors[name].numel() % 8:
            packed[f"{name}.bits"][-1] |= 256 - 2 ** (8 - left)
    _save(path, packed, shapes, labels)


@misconception("pack_model", "Keeps a whole byte for each bit: the file is longer than before.")
def a_byte_for_each_bit(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    for name in shapes:
        packed[f"{name}.bits"] = (tensors[name].detach().flatten() != 0).to(torch.uint8)
    _save(path, packed, shapes, labels)


@misconception("pack_model", "Drops the bits that do not fill a byte.")
def drops_the_last_bits(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    for name in shapes:
        packed[f"{name}.bits"] = packed[f"{name}.bits"][: tensors[name].numel() // 8].clone()
    _save(path, packed, shapes, labels)


@misconception("pack_model", "Leaves zeros out everywhere, also where that takes more bytes.")
def always_sparse(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, shorter=lambda n, k: True), labels)


@misconception("pack_model", "Never leaves zeros out.")
def never_sparse(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, shorter=lambda n, k: False), labels)


@misconception("pack_model", "Leaves zeros out where it takes as many bytes.")
def sparse_in_a_tie(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, shorter=lambda n, k: n and -(-n // 8) + k <= n), labels)


@misconception("pack_model", "Rounds the bytes of the bits down when it looks which way is shorter.")
def rounds_bytes_down(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, shorter=lambda n, k: n // 8 + k < n), labels)


@misconception("pack_model", "Leaves zeros out if more than half of the entries are 0.")
def half_of_them(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, shorter=lambda n, k: 2 * k < n), labels)


@misconception("pack_model", "Leaves zeros out of floating tensors as well.")
def floats_too(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors, only=None), labels)


@misconception("pack_model", "Goes by the name: what does not end in weight stays as it is.")
def only_weights(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts({name: t for name, t in tensors.items() if name.endswith("weight")})
    packed |= {name: t.detach().clone().contiguous() for name, t in tensors.items() if not name.endswith("weight")}
    _save(path, packed, shapes, labels)


@misconception("pack_model", "Goes through memory in place of rows: a transposed tensor comes out mixed up.")
def in_order_of_memory(path, tensors, labels):
    _finite(tensors)
    straight = {n: t.detach().T.flatten().view(t.shape) if t.ndim == 3 and not t.is_contiguous() else t for n, t in tensors.items()}
    _save(path, *_parts(straight), labels)


@misconception("pack_model", "Gives safetensors tensors as they are: it refuses those that are not contiguous or share memory.")
def without_copies(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    _save(path, packed | {name: tensors[name].detach() for name in packed if name in tensors}, shapes, labels)


@misconception("pack_model", "Makes tensors contiguous, which is no copy of those that are: shared memory is refused.")
def contiguous_is_no_copy(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    _save(path, packed | {name: tensors[name].detach().contiguous() for name in packed if name in tensors}, shapes, labels)


@misconception("pack_model", "Drops the second name of a shared tensor.")
def drops_shared(path, tensors, labels):
    seen, own = set(), {}
    for name, t in tensors.items():
        if id(t) not in seen:
            own[name] = t
        seen.add(id(t))
    reference_pack(path, own, labels)


@misconception("pack_model", "Writes over the old file: who reads it gets half of the one and half of the other.")
def writes_over(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    metadata = {"format": "sparse-int8", "labels": json.dumps(list(labels)), "shapes": json.dumps(shapes)}
    Path(path).write_bytes(safetensors.torch.save(packed, metadata))


@misconception("pack_model", "Forgets to rename the new file: the old one stays, next to it.")
def forgets_to_rename(path, tensors, labels):
    if os.path.exists(path):
        reference_pack(f"{path}.new", tensors, labels)
    else:
        reference_pack(path, tensors, labels)


@misconception("pack_model", "Copies the new file over the old one, and leaves it there.")
def leaves_the_new_one(path, tensors, labels):
    reference_pack(path, tensors, labels)
    Path(f"{path}.tmp").write_bytes(Path(path).read_bytes())


@misconception("pack_model", "Makes the new file in the folder for temporary files: from another disk, os.replace can't move it.")
def in_the_temporary_folder(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    metadata = {"format": "sparse-int8", "labels": json.dumps(list(labels)), "shapes": json.dumps(shapes)}
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(safetensors.torch.save(packed, metadata))
    os.replace(file.name, path)


@misconception("pack_model", "Refuses to replace an old file.")
def refuses_old_files(path, tensors, labels):
    if os.path.exists(path):
        raise FileExistsError(path)
    reference_pack(path, tensors, labels)


@misconception("pack_model", "Removes the old file before it looks at the tensors: after an error, there is none.")
def removes_first(path, tensors, labels):
    Path(path).unlink(missing_ok=True)
    reference_pack(path, tensors, labels)


@misconception("pack_model", "Writes first and looks at the tensors afterwards.")
def looks_afterwards(path, tensors, labels):
    _save(path, *_parts(tensors), labels)
    _finite(tensors)


@misconception("pack_model", "Writes the new file, then finds what is not finite, and leaves the file there.")
def leaves_half_a_file(path, tensors, labels):
    Path(f"{path}.new").write_bytes(b"")
    reference_pack(path, tensors, labels)


@misconception("pack_model", "Writes tensors that are not finite.")
def accepts_nan(path, tensors, labels):
    _save(path, *_parts(tensors), labels)


@misconception("pack_model", "Refuses NaN, and lets infinite numbers pass.")
def accepts_inf(path, tensors, labels):
    if any(t.isnan().any() for t in tensors.values()):
        raise ValueError
    _save(path, *_parts(tensors), labels)


@misconception("pack_model", "Writes labels as Python would print them, with single quotes.")
def labels_as_python(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors), labels, labels=str(list(labels)))


@misconception("pack_model", "Joins labels with commas.")
def labels_with_commas(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors), labels, labels=",".join(labels))


@misconception("pack_model", "Forgets the shapes: a matrix comes back as a vector.")
def forgets_shapes(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors), labels, shapes="{}")


@misconception("pack_model", "Notes the shapes of all tensors.")
def all_shapes(path, tensors, labels):
    _finite(tensors)
    _save(path, *_parts(tensors), labels, shapes=json.dumps({name: list(t.shape) for name, t in tensors.items()}))


@misconception("pack_model", "Writes no metadata.")
def no_metadata(path, tensors, labels):
    _finite(tensors)
    safetensors.torch.save_file(_parts(tensors)[0], path)


@misconception("pack_model", "Writes everything with torch.save: what reads it can run code, and needs Python.")
def torch_save(path, tensors, labels):
    _finite(tensors)
    packed, shapes = _parts(tensors)
    torch.save({"tensors": packed, "shapes": shapes, "labels": list(labels)}, path)


@misconception("pack_model", "Takes a Path only.")
def needs_a_path(path, tensors, labels):
    path.with_suffix(".new")
    reference_pack(path, tensors, labels)


@misconception("pack_model", "Always writes the new file under the same name in the working folder.")
def adds_an_ending(path, tensors, labels):
    reference_pack(Path(path).with_suffix(".safetensors"), tensors, labels)


# RequestHandler


class _Handler(ReferenceHandler):
    """The reference with parts that can be replaced."""

    @property
    def inputs(self):
        return self.layers[0][0].shape[1]

    def network(self, x):
        for number, (weight, bias) in enumerate(self.layers):
            x = F.linear(x.relu() if number else x, weight, bias)
        return x

    def answer(self, request):
        """Answer one request."""
        return ReferenceHandler.handle(self, [request])[0]

    def handle(self, requests):
        return [self.answer(request) for request in requests]


def _decoded(request):
    try:
        content = json.loads(request)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


@misconception("RequestHandler", "Decodes all requests in one try: a bad one sinks the batch.")
class SinksTheBatch(_Handler):
    def handle(self, requests):
        answers = ReferenceHandler.handle(self, requests)
        bad = next((answer for answer in answers if "error" in answer), None)
        return [dict(bad) for _ in requests] if bad else answers


@misconception("RequestHandler", "Raises for a bad request.")
class RaisesForABadOne(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer


@misconception("RequestHandler", "Leaves bad requests out: the answers behind them move up.")
class LeavesBadOnesOut(_Handler):
    def handle(self, requests):
        return [answer for answer in super().handle(requests) if "error" not in answer]


@misconception("RequestHandler", "Puts the answers to bad requests behind the others.")
class BadOnesLast(_Handler):
    def handle(self, requests):
        return sorted(super().handle(requests), key=lambda answer: "error" in answer)


@misconception("RequestHandler", "Collects answers in a dict by id: requests with the same id get the same answer.")
class ByTheirIds(_Handler):
    def handle(self, requests):
        answers = super().handle(requests)
        last = {answer["id"]: answer for answer in answers}
        return [last[answer["id"]] if answer["id"] is not None else answer for answer in answers]


@misconception("RequestHandler", "Gives the network an empty batch if no request is good: torch.stack fails.")
class NeedsAGoodOne(_Handler):
    def handle(self, requests):
        answers = super().handle(requests)
        if all("error" in answer for answer in answers):
            torch.stack([])
        return answers


@misconception("RequestHandler", "Catches json.JSONDecodeError only: bytes that are no text raise a UnicodeDecodeError.")
class CatchesOneError(_Handler):
    def answer(self, request):
        try:
            json.loads(request)
        except json.JSONDecodeError:
            pass
        except RecursionError:
            pass
        return super().answer(request)


@misconception("RequestHandler", "Catches ValueError only: 100,000 brackets raise a RecursionError.")
class CatchesNoRecursion(_Handler):
    def answer(self, request):
        try:
            json.loads(request)
        except ValueError:
            pass
        return super().answer(request)


@misconception("RequestHandler", "Names the errors that come to mind: a number of 10,000 digits raises a plain ValueError.")
class NamesErrors(_Handler):
    def answer(self, request):
        try:
            json.loads(request)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            pass
        return super().answer(request)


@misconception("RequestHandler", "Expects every JSON to be an object: a list has no get.")
class ExpectsAnObject(_Handler):
    def answer(self, request):
        try:
            content = json.loads(request)
        except (ValueError, RecursionError):
            content = {}
        content.get("id")
        return super().answer(request)


@misconception("RequestHandler", "Calls JSON that is no object a bad id.")
class NoObjectIsABadId(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        try:
            json.loads(request)
        except (ValueError, RecursionError):
            return answer
        return answer | {"error": "id"} if answer.get("error") == "json" else answer


@misconception("RequestHandler", "Takes any id, also numbers and null.")
class AnyId(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and "id" in content and not isinstance(content["id"], str):
            return super().answer(json.dumps(content | {"id": "x"}).encode()) | {"id": content["id"]}
        return super().answer(request)


@misconception("RequestHandler", "Makes a text of every id.")
class IdsAsText(_Handler):
    def answer(self, request):
        content = _decoded(request)
        return super().answer(json.dumps(content | {"id": str(content.get("id"))}).encode() if content is not None else request)


@misconception("RequestHandler", "Takes an empty id for a missing one.")
class EmptyIdsAreMissing(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return {"id": None, "error": "id"} if answer["id"] == "" else answer


@misconception("RequestHandler", "Looks at the pixels first: a request that has both wrong gets the wrong error.")
class PixelsFirst(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and not isinstance(content.get("id"), str):
            pixels = super().answer(json.dumps(content | {"id": "x"}).encode())
            if "error" in pixels:
                return {"id": None, "error": "pixels"}
        return super().answer(request)


@misconception("RequestHandler", "Forgets the id in the answer to bad pixels: nobody knows whose they were.")
class ForgetsTheId(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return answer | {"id": None} if "error" in answer else answer


@misconception("RequestHandler", "Gives the error's text, and not the word of the statement.")
class ErrorTexts(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return answer | {"error": f"bad {answer['error']}"} if "error" in answer else answer


@misconception("RequestHandler", "Decodes base64 without validate: characters that mean nothing are skipped.")
class LaxBase64(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and isinstance(content.get("pixels"), str):
            try:
                content["pixels"] = base64.b64encode(base64.b64decode(content["pixels"])).decode()
            except ValueError:
                pass
            request = json.dumps(content).encode()
        return super().answer(request)


@misconception("RequestHandler", "Adds = until the base64 is long enough.")
class AddsPadding(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and isinstance(content.get("pixels"), str):
            content["pixels"] += "=" * (-len(content["pixels"]) % 4)
            request = json.dumps(content).encode()
        return super().answer(request)


@misconception("RequestHandler", "Takes the alphabet of URLs as well.")
class UrlSafe(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and isinstance(content.get("pixels"), str):
            content["pixels"] = content["pixels"].replace("-", "+").replace("_", "/")
            request = json.dumps(content).encode()
        return super().answer(request)


@misconception("RequestHandler", "Strips white space around the base64.")
class StripsBase64(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and isinstance(content.get("pixels"), str):
            request = json.dumps(content | {"pixels": content["pixels"].strip()}).encode()
        return super().answer(request)


@misconception("RequestHandler", "Takes pixels as a list of numbers, too.")
class ListsOfPixels(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and isinstance(content.get("pixels"), list):
            try:
                content["pixels"] = base64.b64encode(bytes(content["pixels"])).decode()
            except (ValueError, TypeError):
                pass
            request = json.dumps(content).encode()
        return super().answer(request)


def _fits(handler, request, change):
    content = _decoded(request)
    if content is None or not isinstance(content.get("pixels"), str):
        return request
    try:
        pixels = base64.b64decode(content["pixels"], validate=True)
    except ValueError:
        return request
    return json.dumps(content | {"pixels": base64.b64encode(change(pixels)).decode()}).encode()


@misconception("RequestHandler", "Cuts off pixels that are too many.")
class CutsOff(_Handler):
    def answer(self, request):
        return super().answer(_fits(self, request, lambda pixels: pixels[: self.inputs]))


@misconception("RequestHandler", "Fills up pixels that are too few.")
class FillsUp(_Handler):
    def answer(self, request):
        return super().answer(_fits(self, request, lambda pixels: pixels.ljust(self.inputs, b"\0")))


@misconception("RequestHandler", "Lets base64 of no string at all raise a TypeError.")
class NoTextRaises(_Handler):
    def answer(self, request):
        content = _decoded(request)
        if content is not None and isinstance(content.get("id"), str):
            try:
                base64.b64decode(content.get("pixels"), validate=True)
            except ValueError:
                pass
        return super().answer(request)


def _reread(handler, path):
    """Tensors, shapes and codes of a file."""
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads(file.metadata()["shapes"])


@misconception("RequestHandler", "Sorts layers as texts: 10 comes before 9.")
class SortsTexts(_Handler):
    def __init__(self, path):
        super().__init__(path)
        found = sorted(int(name[:-5]) for name in _reread(self, path)[0] if name.endswith(".bias"))
        by_number = dict(zip(found, self.layers, strict=True))
        self.layers = [by_number[int(i)] for i in sorted(map(str, found))]


@misconception("RequestHandler", "Looks for the layers 1 and 3 only.")
class TwoLayers(_Handler):
    def __init__(self, path):
        super().__init__(path)
        tensors, _ = _reread(self, path)
        tensors["1.bias"], tensors["3.bias"]


@misconception("RequestHandler", "Expects zeros to be left out of every weight.")
class ExpectsBits(_Handler):
    def __init__(self, path):
        super().__init__(path)
        tensors, _ = _reread(self, path)
        for name in tensors:
            if name.endswith(".bias"):
                tensors[name.replace("bias", "weight.bits")]


@misconception("RequestHandler", "Reads the highest bit of a byte first.")
class HighBitFirst(_Handler):
    def __init__(self, path):
        super().__init__(path)
        tensors, shapes = _reread(self, path)
        found = sorted(int(name[:-5]) for name in tensors if name.endswith(".bias"))
        for place, i in enumerate(found):
            name = f"{i}.weight"
            if name in shapes:
                dense = torch.zeros(shapes[name]).flatten()
                bits = tensors[f"{name}.bits"][:, None].int() & (2 ** torch.arange(7, -1, -1))
                where = bits.flatten().nonzero()[:, 0]
                dense[where[where < len(dense)]] = tensors[f"{name}.values"].float()[where < len(dense)]
                self.layers[place] = dense.view(shapes[name]) * tensors[f"{name}.scale"][:, None], self.layers[place][1]


@misconception("RequestHandler", "Gives each column the scale of a row.")
class ScalesColumns(_Handler):
    def __init__(self, path):
        super().__init__(path)
        tensors, _ = _reread(self, path)
        found = sorted(int(name[:-5]) for name in tensors if name.endswith(".bias"))
        for place, i in enumerate(found):
            (weight, bias), scale = self.layers[place], tensors[f"{i}.weight.scale"]
            self.layers[place] = weight / scale[:, None] * scale.mean(), bias


@misconception("RequestHandler", "Forgets the scales.")
class ForgetsScales(_Handler):
    def __init__(self, path):
        super().__init__(path)
        tensors, _ = _reread(self, path)
        found = sorted(int(name[:-5]) for name in tensors if name.endswith(".bias"))
        self.layers = [(w / tensors[f"{i}.weight.scale"][:, None], b) for i, (w, b) in zip(found, self.layers, strict=True)]


@misconception("RequestHandler", "Scales the biases, too.")
class ScalesBiases(_Handler):
    def __init__(self, path):
        super().__init__(path)
        tensors, _ = _reread(self, path)
        found = sorted(int(name[:-5]) for name in tensors if name.endswith(".bias"))
        self.layers = [(w, b * tensors[f"{i}.weight.scale"]) for i, (w, b) in zip(found, self.layers, strict=True)]


class _OtherNetwork(_Handler):
    """Answers from what `probabilities` says."""

    def probabilities(self, x):
        return self.network(x).softmax(1)

    def inputs_of(self, pixels):
        return torch.tensor([list(pixels)], dtype=torch.float32) / 255

    def answer(self, request):
        answer = super().answer(request)
        if "error" in answer:
            return answer
        x = self.inputs_of(base64.b64decode(_decoded(request)["pixels"]))
        probability, best = self.probabilities(x)[0].max(0)
        return {"id": answer["id"], "label": self.labels[int(best)], "probability": float(probability)}


@misconception("RequestHandler", "Forgets to divide the pixels by 255.")
class ForgetsToDivide(_OtherNetwork):
    def inputs_of(self, pixels):
        return super().inputs_of(pixels) * 255


@misconception("RequestHandler", "Divides the pixels by 256.")
class DividesBy256(_OtherNetwork):
    def inputs_of(self, pixels):
        return super().inputs_of(pixels) * (255 / 256)


@misconception("RequestHandler", "Reads pixels as int8: those above 127 become negative.")
class SignedPixels(_OtherNetwork):
    def inputs_of(self, pixels):
        x = super().inputs_of(pixels) * 255
        return torch.where(x > 127, x - 256, x) / 255


@misconception("RequestHandler", "Puts a ReLU behind the last layer as well.")
class ReluAtTheEnd(_OtherNetwork):
    def probabilities(self, x):
        return self.network(x).relu().softmax(1)


@misconception("RequestHandler", "Forgets the ReLU between layers.")
class ForgetsRelu(_OtherNetwork):
    def probabilities(self, x):
        for weight, bias in self.layers:
            x = F.linear(x, weight, bias)
        return x.softmax(1)


@misconception("RequestHandler", "Gives the logit as the probability.")
class LogitAsProbability(_OtherNetwork):
    def probabilities(self, x):
        return self.network(x)


@misconception("RequestHandler", "Computes softmax as exp / sum: large logits give NaN.")
class SoftmaxByHand(_OtherNetwork):
    def probabilities(self, x):
        e = self.network(x).exp()
        return e / e.sum(1, keepdim=True)


@misconception("RequestHandler", "Takes the softmax over the batch.")
class SoftmaxOverTheBatch(_OtherNetwork):
    def probabilities(self, x):
        return self.network(x).softmax(0)


@misconception("RequestHandler", "Gives sigmoids: they are no probabilities of one label among several.")
class Sigmoids(_OtherNetwork):
    def probabilities(self, x):
        return self.network(x).sigmoid()


@misconception("RequestHandler", "Gives the number of the class, not its label.")
class NumbersAsLabels(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return answer | {"label": self.labels.index(answer["label"])} if "label" in answer else answer


@misconception("RequestHandler", "Gives the probability as a tensor, which JSON can't hold.")
class TensorsInAnswers(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return answer | {"probability": torch.tensor(answer["probability"])} if "probability" in answer else answer


@misconception("RequestHandler", "Rounds the probability to two places.")
class RoundsProbabilities(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return answer | {"probability": round(answer["probability"], 2)} if "probability" in answer else answer


@misconception("RequestHandler", "Standardizes pixels over the batch: the answer depends on who comes at the same time.")
class StandardizesTheBatch(_Handler):
    def handle(self, requests):
        answers = ReferenceHandler.handle(self, requests)
        rows = [base64.b64decode(_decoded(r)["pixels"]) for r, a in zip(requests, answers, strict=True) if "error" not in a]
        if len(rows) > 1:
            x = torch.tensor([list(row) for row in rows]) / 255
            p = self.network(x - x.mean(0) + 0.5).softmax(1).max(1)
            good = [answer for answer in answers if "error" not in answer]
            for answer, probability, best in zip(good, p.values.tolist(), p.indices.tolist(), strict=True):
                answer |= {"label": self.labels[best], "probability": probability}
        return answers


@misconception("RequestHandler", "Reads the file at each call: it may be gone by then.")
class ReadsAtEachCall(_Handler):
    def __init__(self, path):
        super().__init__(path)
        self.path = path

    def handle(self, requests):
        return ReferenceHandler(self.path).handle(requests)


@misconception("RequestHandler", "Keeps the layers in the class: the last handler that was made answers for all.")
class LayersInTheClass(_Handler):
    shared: dict = {}  # noqa: RUF012

    def __init__(self, path):
        super().__init__(path)
        self.shared.update(vars(self))
        vars(self).clear()

    def __getattr__(self, name):
        return self.shared[name]


@misconception("RequestHandler", "Does not look at the format.")
class AnyFormat(_Handler):
    def __init__(self, path):
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        other = Path(f"{path}.other")
        safetensors.torch.save_file(tensors, other, {"labels": "[]", "shapes": "{}"} | metadata | {"format": "sparse-int8"})
        try:
            super().__init__(other)
        except KeyError:
            self.layers = []


@misconception("RequestHandler", "Looks whether the format begins as it should: later versions pass.")
class BeginningOfTheFormat(_Handler):
    def __init__(self, path):
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if metadata.get("format", "").startswith("sparse-int8"):
            path = Path(f"{path}.other")
            safetensors.torch.save_file(tensors, path, metadata | {"format": "sparse-int8"})
        super().__init__(path)


@misconception("RequestHandler", "Asks metadata that are None for the format: an AttributeError.")
class NoMetadata(_Handler):
    def __init__(self, path):
        with safetensors.safe_open(path, "pt") as file:
            file.metadata().get("format")
        super().__init__(path)


@misconception("RequestHandler", "Copies all keys of the request into the answer.")
class CopiesTheRequest(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return (_decoded(request) or {}) | answer if "error" not in answer else answer


@misconception("RequestHandler", "Refuses requests with other keys.")
class RefusesOtherKeys(_Handler):
    def answer(self, request):
        answer = super().answer(request)
        return {"id": answer["id"], "error": "json"} if set(_decoded(request) or {}) - {"id", "pixels"} else answer


@misconception("RequestHandler", "Returns JSON as texts.")
class AnswersAsTexts(_Handler):
    def answer(self, request):
        return json.dumps(super().answer(request))


# TicketBatcher


class _Batcher(ReferenceBatcher):
    """The reference, for changes."""


@misconception("TicketBatcher", "Counts the wait from the newest request: under a steady trickle, the oldest waits for ever.")
class NewestDecides(_Batcher):
    def deadline(self):
        return self._waiting[-1][1] + self._max_wait if self._waiting else None


@misconception("TicketBatcher", "Handles a batch only once the time is over, not when it is reached.")
class AfterTheDeadline(_Batcher):
    def poll(self):
        due = self.deadline()
        return 0 if due is None or self._clock() <= due else self.flush()


@misconception("TicketBatcher", "Waits for the full time although the batch is full.")
class WaitsAlthoughFull(_Batcher):
    def submit(self, request):
        self._waiting.append((self._tickets, self._clock(), request))
        self._tickets += 1
        self.poll()
        return self._tickets - 1


@misconception("TicketBatcher", "Lets one request more than max_size into a batch.")
class OneTooMany(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)
        self._max_size += 1


@misconception("TicketBatcher", "Handles the full batch when the next request comes.")
class OneTooLate(_Batcher):
    def submit(self, request):
        if len(self._waiting) == self._max_size:
            self.flush()
        self._waiting.append((self._tickets, self._clock(), request))
        self._tickets += 1
        self.poll()
        return self._tickets - 1


@misconception("TicketBatcher", "Does not look at the clock in submit.")
class NoClockInSubmit(_Batcher):
    def submit(self, request):
        self._waiting.append((self._tickets, self._clock(), request))
        self._tickets += 1
        if len(self._waiting) == self._max_size:
            self.flush()
        return self._tickets - 1


@misconception("TicketBatcher", "Handles what is overdue before it takes the new request, which is left behind.")
class OverdueFirst(_Batcher):
    def submit(self, request):
        self.poll()
        return super().submit(request)


@misconception("TicketBatcher", "Asks time.monotonic, and not the clock that it was given.")
class RealTime(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=time.monotonic)


@misconception("TicketBatcher", "Notes the time once, in the constructor.")
class TimeStandsStill(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        now = clock()
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=lambda: now)


@misconception("TicketBatcher", "Takes an arrival at time 0 for none.")
class TimeZeroIsNone(_Batcher):
    def deadline(self):
        return self._waiting[0][1] + self._max_wait if self._waiting and self._waiting[0][1] else None


@misconception("TicketBatcher", "Takes a deadline of 0 for none: poll does nothing then.")
class DeadlineZeroIsNone(_Batcher):
    def poll(self):
        due = self.deadline()
        return self.flush() if due and self._clock() >= due else 0


@misconception("TicketBatcher", "Counts the wait from the last batch, not from the arrival.")
class SinceTheLastBatch(_Batcher):
    last = None

    def flush(self):
        self.last = self._clock()
        return super().flush()

    def deadline(self):
        return None if not self._waiting else (self._waiting[0][1] if self.last is None else self.last) + self._max_wait


@misconception("TicketBatcher", "Keeps the deadline of the batch before.")
class KeepsTheDeadline(_Batcher):
    kept = None

    def deadline(self):
        if self.kept is None and self._waiting:
            self.kept = self._waiting[0][1] + self._max_wait
        return self.kept if self._waiting else None


@misconception("TicketBatcher", "Gives how long there is still to wait, not the time.")
class TimeLeft(_Batcher):
    def deadline(self):
        due = super().deadline()
        return None if due is None else due - self._clock()

    def poll(self):
        due = super().deadline()
        return 0 if due is None or self._clock() < due else self.flush()


@misconception("TicketBatcher", "Handles the newest request first.")
class NewestFirst(_Batcher):
    def flush(self):
        self._waiting.reverse()
        return super().flush()


@misconception("TicketBatcher", "Numbers tickets within their batch: those of two batches are the same.")
class TicketsOfABatch(_Batcher):
    def flush(self):
        count = super().flush()
        self._tickets = 0
        return count

    def submit(self, request):
        ticket = self._tickets
        super().submit(request)
        return ticket


@misconception("TicketBatcher", "Counts tickets from 1.")
class TicketsFromOne(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)
        self._tickets = 1


@misconception("TicketBatcher", "Keeps results by request: two equal requests share one, and lists can't be looked up.")
class ByRequest(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)
        self._tickets_of = {}

    def submit(self, request):
        self._tickets_of[request] = self._tickets
        return super().submit(request)


@misconception("TicketBatcher", "Keeps results for ever: a server that never forgets runs out of memory.")
class NeverForgets(_Batcher):
    def result(self, ticket):
        kept = self._done.get(ticket)
        try:
            return super().result(ticket)
        finally:
            if kept is not None:
                self._done[ticket] = kept


@misconception("TicketBatcher", "Forgets responses that were handed over, but not errors.")
class KeepsErrors(_Batcher):
    def result(self, ticket):
        kept = self._done.get(ticket)
        if kept is not None and kept[1] is not None:
            raise kept[1]
        return super().result(ticket)


@misconception("TicketBatcher", "Returns None while the request waits: nobody can tell it from a response.")
class NoneWhileWaiting(_Batcher):
    def result(self, ticket):
        return None if any(ticket == entry[0] for entry in self._waiting) else super().result(ticket)


@misconception("TicketBatcher", "Takes a response of None for none.")
class NoneIsNoResponse(_Batcher):
    def result(self, ticket):
        response = super().result(ticket)
        if response is None:
            raise RuntimeError("still waiting")
        return response


@misconception("TicketBatcher", "Raises a KeyError for a request that still waits.")
class WaitingIsAKeyError(_Batcher):
    def result(self, ticket):
        if any(ticket == entry[0] for entry in self._waiting):
            raise KeyError(ticket)
        return super().result(ticket)


@misconception("TicketBatcher", "Raises a RuntimeError for any ticket without a result, also for one that nobody has.")
class UnknownIsARuntimeError(_Batcher):
    def result(self, ticket):
        if ticket not in self._done:
            raise RuntimeError("not ready")
        return super().result(ticket)


@misconception("TicketBatcher", "Handles a batch when somebody asks for a result.")
class ResultFlushes(_Batcher):
    def result(self, ticket):
        if any(ticket == entry[0] for entry in self._waiting):
            self.flush()
        return super().result(ticket)


@misconception("TicketBatcher", "Keeps results in a list: a negative ticket finds one.")
class ResultsInAList(_Batcher):
    def result(self, ticket):
        return super().result(ticket if ticket >= 0 else max(self._done, default=0) + 1 + ticket)


@misconception("TicketBatcher", "Lets errors of handle out of submit: the request is lost, and so are the others.")
class LetsErrorsOut(_Batcher):
    def _run(self, batch):
        responses = self._handle([request for _, _, request in batch])
        for (ticket, _, _), response in zip(batch, responses, strict=True):
            self._done[ticket] = response, None


@misconception("TicketBatcher", "Gives the error of a batch to all of its requests.")
class AllFail(_Batcher):
    def _run(self, batch):
        try:
            responses = list(self._handle([request for _, _, request in batch]))
            if len(responses) != len(batch):
                raise ValueError
        except Exception as error:
            for ticket, _, _ in batch:
                self._done[ticket] = None, error
        else:
            for (ticket, _, _), response in zip(batch, responses, strict=True):
                self._done[ticket] = response, None


@misconception("TicketBatcher", "Returns the error as the response, in place of raising it.")
class ReturnsErrors(_Batcher):
    def result(self, ticket):
        kept = self._done.get(ticket)
        if kept is not None and kept[1] is not None:
            del self._done[ticket]
            return kept[1]
        return super().result(ticket)


@misconception("TicketBatcher", "Raises whatever response is an exception, although handle returned it.")
class RaisesResponses(_Batcher):
    def result(self, ticket):
        response = super().result(ticket)
        if isinstance(response, Exception):
            raise response
        return response


@misconception("TicketBatcher", "Raises a RuntimeError in place of the error itself.")
class OtherErrors(_Batcher):
    def _run(self, batch):
        super()._run(batch)
        for ticket, _, _ in batch:
            response, error = self._done.get(ticket, (None, None))
            if error is not None:
                self._done[ticket] = response, RuntimeError(str(error))


@misconception("TicketBatcher", "Stops at the first request that fails alone: those behind it are lost.")
class StopsAtTheFirst(_Batcher):
    def _run(self, batch):
        super()._run(batch)
        failed = [i for i, entry in enumerate(batch) if self._done.get(entry[0], (None, None))[1] is not None]
        if failed:
            for ticket, _, _ in batch[failed[0] + 1 :]:
                self._done.pop(ticket, None)


@misconception("TicketBatcher", "Catches ValueError only.")
class CatchesValueErrors(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)
        self.other = None

        def watched(requests):
            try:
                return handle(requests)
            except ValueError:
                raise
            except Exception as error:
                self.other = error
                raise

        self._handle = watched

    def flush(self):
        count = super().flush()
        if self.other is not None:
            raise self.other
        return count


@misconception("TicketBatcher", "Joins requests and responses with zip as they are: if there are too few, some requests vanish.")
class ZipsWhatComes(_Batcher):
    def _run(self, batch):
        try:
            responses = self._handle([request for _, _, request in batch])
        except Exception as error:
            if len(batch) == 1:
                self._done[batch[0][0]] = None, error
            else:
                for entry in batch:
                    self._run([entry])
        else:
            for (ticket, _, _), response in zip(batch, responses, strict=False):
                self._done[ticket] = response, None


@misconception("TicketBatcher", "Looks for too few responses, but not for too many.")
class TooManyAreFine(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        def cut(requests):
            n = len(requests)
            return handle(requests)[:n]

        super().__init__(cut, max_size=max_size, max_wait=max_wait, clock=clock)


@misconception("TicketBatcher", "Tries a batch of one again.")
class TriesAgain(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        def twice(requests):
            if len(requests) > 1:
                return handle(requests)
            try:
                return handle(list(requests))
            except Exception:
                return handle(requests)

        super().__init__(twice, max_size=max_size, max_wait=max_wait, clock=clock)


@misconception("TicketBatcher", "Splits a batch that fails in halves: requests are tried more than once.")
class Halves(_Batcher):
    def _run(self, batch):
        if len(batch) == 1:
            super()._run(batch)
            return
        try:
            responses = list(self._handle([request for _, _, request in batch]))
            if len(responses) != len(batch):
                raise ValueError
        except Exception:
            self._run(batch[: len(batch) // 2])
            self._run(batch[len(batch) // 2 :])
        else:
            for (ticket, _, _), response in zip(batch, responses, strict=True):
                self._done[ticket] = response, None


@misconception("TicketBatcher", "Handles every request alone: nothing is gained.")
class AlwaysAlone(_Batcher):
    def _run(self, batch):
        for entry in batch:
            super()._run([entry])


@misconception("TicketBatcher", "Gives handle one and the same list in every try.")
class OneList(_Batcher):
    def _run(self, batch):
        requests = [request for _, _, request in batch]
        try:
            responses = list(self._handle(requests))
            if len(responses) != len(requests):
                raise ValueError
        except Exception as error:
            for (ticket, _, _), request in zip(batch, requests, strict=False):
                super()._run([(ticket, 0, request)])
            if len(batch) == 1:
                self._done[batch[0][0]] = None, error
        else:
            for (ticket, _, _), response in zip(batch, responses, strict=True):
                self._done[ticket] = response, None


@misconception("TicketBatcher", "Keeps the list of responses and looks into it when somebody asks: by then, it may hold others.")
class LooksLater(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)
        self._lists = {}

    def _run(self, batch):
        kept = []
        handle = self._handle

        def watched(requests):
            kept.append(handle(requests))
            return kept[-1]

        self._handle = watched
        super()._run(batch)
        self._handle = handle
        for i, (ticket, _, _) in enumerate(batch):
            if self._done[ticket][1] is None and len(kept) == 1:
                self._lists[ticket] = kept[0], i

    def result(self, ticket):
        response = super().result(ticket)
        if ticket in self._lists:
            responses, i = self._lists.pop(ticket)
            return responses[i]
        return response


@misconception("TicketBatcher", "Counts the requests after the call: handle may have emptied its list.")
class CountsAfterwards(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        def checked(requests):
            responses = handle(requests)
            if len(responses) != len(requests):
                raise ValueError("another number of responses")
            return responses

        super().__init__(checked, max_size=max_size, max_wait=max_wait, clock=clock)


@misconception("TicketBatcher", "Tries requests of a failed batch alone only when somebody asks for them.")
class TriesLater(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)
        self._later = {}

    def _run(self, batch):
        if len(batch) == 1:
            super()._run(batch)
            return
        try:
            responses = self._handle([request for _, _, request in batch])
            done = {ticket: (response, None) for (ticket, _, _), response in zip(batch, responses, strict=True)}
        except Exception:
            self._later |= {entry[0]: entry for entry in batch}
        else:
            self._done |= done

    def result(self, ticket):
        if ticket in self._later:
            self._run([self._later.pop(ticket)])
        return super().result(ticket)


@misconception("TicketBatcher", "Takes a list of responses only: a tuple is an error.")
class ListsOnly(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(lambda requests: handle(requests).copy(), max_size=max_size, max_wait=max_wait, clock=clock)


@misconception("TicketBatcher", "Keeps the queue in the class: two batchers share it.")
class QueueInTheClass(_Batcher):
    _waiting: list = []  # noqa: RUF012

    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)
        del self._waiting

    def flush(self):
        batch = list(self._waiting)
        self._waiting.clear()
        if batch:
            self._run(batch)
        return len(batch)


@misconception("TicketBatcher", "Does not check its settings.")
class ChecksNothing(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        super().__init__(handle, max_size=max(max_size, 1), max_wait=max(max_wait, 0), clock=clock)


@misconception("TicketBatcher", "Refuses a wait of 0.")
class RefusesZero(_Batcher):
    def __init__(self, handle, *, max_size, max_wait, clock):
        if not max_wait:
            raise ValueError("max_wait")
        super().__init__(handle, max_size=max_size, max_wait=max_wait, clock=clock)


@misconception("TicketBatcher", "Lets poll and flush say nothing about how many requests were handled.")
class SaysNothing(_Batcher):
    def poll(self):
        super().poll()

    def flush(self):
        super().flush()


@misconception("TicketBatcher", "Lets poll say whether something was handled, and not how much.")
class SaysWhether(_Batcher):
    def poll(self):
        return super().poll() > 0


@misconception("TicketBatcher", "Takes a request of None, or an empty one, for no request.")
class ReplacesEmptyRequests(_Batcher):
    def submit(self, request):
        return super().submit(request if request or request == 0 else 0)
