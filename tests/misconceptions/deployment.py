"""Named wrong answers to the tasks of deployment: the hidden suite must reject every one."""

import contextlib
import itertools
import json
import pickle

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from grader.testing import misconception
from solutions.deployment import ContinuousBatcher as ReferenceContinuous
from solutions.deployment import DynamicBatcher as ReferenceBatcher
from solutions.deployment import ExportableModel as ReferenceModel
from solutions.deployment import Handler as ReferenceHandler
from solutions.deployment import ScriptedGate as ReferenceGate
from solutions.deployment import clean_state_dict as reference_clean
from solutions.deployment import fuse_graph as reference_fuse
from solutions.deployment import load_safe as reference_load
from solutions.deployment import safe_load as reference_safe_load
from solutions.deployment import save_safe as reference_save
from solutions.deployment import speculative_step as reference_step

# clean_state_dict


def _clean(checkpoint, dtype, rename, copy=None):
    """The reference with other names, or another way to make a tensor."""
    state = checkpoint["model"] if isinstance(checkpoint.get("model"), dict) else checkpoint
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    names = rename(list(tensors))
    if len(set(names)) < len(names):
        raise ValueError("two names become the same")
    copy = copy or (lambda x: x.clone(memory_format=torch.contiguous_format))
    values = [x.detach().to("cpu", dtype if dtype and x.is_floating_point() else x.dtype) for x in tensors.values()]
    return {name: copy(x) for name, x in zip(names, values, strict=True)}


def _right_names(names):
    return list(reference_clean({name: torch.zeros(1) for name in names}))


@misconception("clean_state_dict", "Takes `module` away from the names that have it, though others have none.")
def strips_some(checkpoint, dtype=None):
    def rename(names):
        parts = [[p for p in name.split(".") if p != "_orig_mod"] or name.split(".") for name in names]
        for part in parts:
            while len(part) > 1 and part[0] == "module":
                part.pop(0)
        return [".".join(part) for part in parts]

    return _clean(checkpoint, dtype, rename)


@misconception("clean_state_dict", "Takes `module` away once only.")
def strips_once(checkpoint, dtype=None):
    def rename(names):
        names = [".".join(p for p in name.split(".") if p != "_orig_mod") or name for name in names]
        if names and all(name.startswith("module.") for name in names):
            names = [name.removeprefix("module.") for name in names]
        return names

    return _clean(checkpoint, dtype, rename)


@misconception("clean_state_dict", "Replaces the text wherever it stands: parts that only contain it change too.")
def replaces_text(checkpoint, dtype=None):
    def rename(names):
        names = [name.replace("_orig_mod.", "") for name in names]
        while names and all(name.startswith("module.") for name in names):
            names = [name.replace("module.", "", 1) for name in names]
        return names

    return _clean(checkpoint, dtype, lambda names: [name.replace("_orig_mod", "").strip(".") for name in rename(names)])


@misconception("clean_state_dict", "Takes _orig_mod away at the front only.")
def orig_mod_in_front(checkpoint, dtype=None):
    def rename(names):
        while True:
            before = names
            names = [name.removeprefix("_orig_mod.") for name in names]
            if names and all(name.startswith("module.") for name in names):
                names = [name.removeprefix("module.") for name in names]
            if names == before:
                return names

    return _clean(checkpoint, dtype, rename)


@misconception("clean_state_dict", "Takes `module` away within names, too.")
def strips_inside(checkpoint, dtype=None):
    def rename(names):
        return [".".join(p for p in name.split(".") if p not in ("_orig_mod", "module")) or name for name in names]

    return _clean(checkpoint, dtype, rename)


@misconception("clean_state_dict", "Casts integers and bools as well.")
def casts_everything(checkpoint, dtype=None):
    clean = reference_clean(checkpoint)
    return {name: x.to(dtype) if dtype else x for name, x in clean.items()}


@misconception("clean_state_dict", "Ignores dtype.")
def casts_nothing(checkpoint, dtype=None):
    return reference_clean(checkpoint)


@misconception("clean_state_dict", "Casts to float16 always.")
def always_half(checkpoint, dtype=None):
    return reference_clean(checkpoint, torch.float16 if dtype else None)


@misconception("clean_state_dict", "Keeps the memory of the checkpoint where nothing has to be changed.")
def keeps_memory(checkpoint, dtype=None):
    return _clean(checkpoint, dtype, _right_names, lambda x: x.contiguous())


@misconception("clean_state_dict", "Clones as it is: a transposed tensor stays transposed.")
def keeps_strides(checkpoint, dtype=None):
    return _clean(checkpoint, dtype, _right_names, lambda x: x.clone())


@misconception("clean_state_dict", "Lets tied names share one copy.")
def keeps_ties(checkpoint, dtype=None):
    state = checkpoint["model"] if isinstance(checkpoint.get("model"), dict) else checkpoint
    clean = reference_clean(checkpoint, dtype)
    seen = {}
    for name, x in zip(clean, [v for v in state.values() if isinstance(v, torch.Tensor)], strict=True):
        key = x.data_ptr(), x.shape, x.stride()
        clean[name] = seen.setdefault(key, clean[name]) if x.numel() else clean[name]
    return clean


@misconception("clean_state_dict", "Leaves parameters as they are, with gradients.")
def keeps_parameters(checkpoint, dtype=None):
    state = checkpoint["model"] if isinstance(checkpoint.get("model"), dict) else checkpoint
    clean = reference_clean(checkpoint, dtype)
    for name, x in zip(clean, [v for v in state.values() if isinstance(v, torch.Tensor)], strict=True):
        if isinstance(x, nn.Parameter):
            clean[name] = nn.Parameter(clean[name])
    return clean


@misconception("clean_state_dict", "Keeps the optimizer, and what else the run has saved.")
def keeps_the_rest(checkpoint, dtype=None):
    state = checkpoint["model"] if isinstance(checkpoint.get("model"), dict) else checkpoint
    rest = {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}
    return {**reference_clean(checkpoint, dtype), **rest}


@misconception("clean_state_dict", "Takes the entry model for the state, whatever it is.")
def model_is_the_state(checkpoint, dtype=None):
    return reference_clean({"model": checkpoint["model"]} if False else checkpoint["model"] if "model" in checkpoint else checkpoint, dtype)


@misconception("clean_state_dict", "Lets the last of two equal names win.")
def last_name_wins(checkpoint, dtype=None):
    state = checkpoint["model"] if isinstance(checkpoint.get("model"), dict) else checkpoint
    clean = {}
    for name, value in state.items():
        with contextlib.suppress(ValueError):
            short = [p for p in name.split(".") if p != "_orig_mod"]
            clean[".".join(short) or name] = value
    return reference_clean(clean, dtype)


@misconception("clean_state_dict", "Sorts the names.")
def sorts_names(checkpoint, dtype=None):
    return dict(sorted(reference_clean(checkpoint, dtype).items()))


@misconception("clean_state_dict", "Takes an empty model for none, and the checkpoint for the state.")
def empty_is_none(checkpoint, dtype=None):
    model = checkpoint.get("model")
    model = None if isinstance(model, torch.Tensor) else model
    return reference_clean({**checkpoint, "model": None} if model == {} else checkpoint, dtype)


@misconception("clean_state_dict", "Looks for a plain dict: what state_dict() gives is an OrderedDict.")
def plain_dicts_only(checkpoint, dtype=None):
    if type(checkpoint.get("model")) in (dict, torch.Tensor):
        return reference_clean(checkpoint, dtype)
    return reference_clean({**checkpoint, "model": None}, dtype)


@misconception("clean_state_dict", "Clones only what is not contiguous: the rest keeps its memory, such as a whole of which it is a part.")
def copies_odd_layouts_only(checkpoint, dtype=None):
    return _clean(checkpoint, dtype, _right_names, lambda x: x.contiguous())


# save_safe


def _save(state, path, metadata, key, tied=True, check=True, order=sorted, copy=None):
    notes = dict(metadata or {})
    if check and not all(isinstance(k, str) and isinstance(v, str) and not k.startswith("tied:") for k, v in notes.items()):
        raise ValueError("metadata are strings")
    first, tensors = {}, {}
    for name in order(state):
        x = state[name]
        if x.numel() and key(x) in first:
            if tied:
                notes[f"tied:{name}"] = first[key(x)]
        else:
            first[key(x)] = name
            tensors[name] = x.detach().clone(memory_format=torch.contiguous_format)
    save_file(tensors, path, notes)


def _whole_key(x):
    return x.untyped_storage().data_ptr(), x.storage_offset(), x.shape, x.stride(), x.dtype


@misconception("save_safe", "Saves tied weights twice.")
def saves_twice(state, path, metadata=None):
    _save(state, path, metadata, id)


@misconception("save_safe", "Leaves the second of two tied names out, and notes nothing.")
def forgets_the_note(state, path, metadata=None):
    _save(state, path, metadata, _whole_key, tied=False)


@misconception("save_safe", "Takes tensors that begin at one address for tied, whatever their shapes are.")
def address_only(state, path, metadata=None):
    _save(state, path, metadata, lambda x: x.data_ptr())


@misconception("save_safe", "Takes all tensors of one memory for tied.")
def storage_only(state, path, metadata=None):
    _save(state, path, metadata, lambda x: x.untyped_storage().data_ptr())


@misconception("save_safe", "Compares address and shape, but not strides: a square matrix and its transpose.")
def without_strides(state, path, metadata=None):
    _save(state, path, metadata, lambda x: (x.data_ptr(), x.shape, x.dtype))


@misconception("save_safe", "Does not compare dtypes: bits that are looked at as whole numbers.")
def without_dtypes(state, path, metadata=None):
    _save(state, path, metadata, lambda x: (x.data_ptr(), x.shape[:1], x.element_size() * x.numel()))


@misconception("save_safe", "Takes equal numbers for tied.")
def equal_numbers(state, path, metadata=None):
    _save(
        state,
        path,
        metadata,
        lambda x: (x.shape, x.dtype, x.detach().contiguous().view(torch.uint8).flatten().numpy().tobytes() if x.dim() else x.item()),
    )


@misconception("save_safe", "Saves under the name that comes first in the dict.")
def first_in_the_dict(state, path, metadata=None):
    _save(state, path, metadata, _whole_key, order=list)


@misconception("save_safe", "Saves under the name that comes last in the alphabet.")
def last_name(state, path, metadata=None):
    _save(state, path, metadata, _whole_key, order=lambda s: sorted(s, reverse=True))


@misconception("save_safe", "Notes the other way round: whose name shares this one.")
def note_reversed(state, path, metadata=None):
    notes, first, tensors = dict(metadata or {}), {}, {}
    if not all(isinstance(k, str) and isinstance(v, str) and not k.startswith("tied:") for k, v in notes.items()):
        raise ValueError
    for name in sorted(state):
        x = state[name]
        if x.numel() and _whole_key(x) in first:
            notes[f"tied:{first[_whole_key(x)]}"] = name
        else:
            first[_whole_key(x)] = name
            tensors[name] = x.detach().clone(memory_format=torch.contiguous_format)
    save_file(tensors, path, notes)


@misconception("save_safe", "Chains notes: the third name refers to the second, which is not in the file.")
def chains_notes(state, path, metadata=None):
    notes, last, tensors = dict(metadata or {}), {}, {}
    if not all(isinstance(k, str) and isinstance(v, str) and not k.startswith("tied:") for k, v in notes.items()):
        raise ValueError
    for name in sorted(state):
        x = state[name]
        if x.numel() and _whole_key(x) in last:
            notes[f"tied:{name}"] = last[_whole_key(x)]
        else:
            tensors[name] = x.detach().clone(memory_format=torch.contiguous_format)
        last[_whole_key(x)] = name
    save_file(tensors, path, notes)


@misconception("save_safe", "Turns metadata into strings instead of refusing them.")
def makes_strings(state, path, metadata=None):
    notes = {str(k): str(v) for k, v in (metadata or {}).items()}
    if any(k.startswith("tied:") for k in notes):
        raise ValueError
    reference_save(state, path, notes)


@misconception("save_safe", "Allows keys that begin with tied:, which it uses itself.")
def allows_tied_keys(state, path, metadata=None):
    notes = metadata or {}
    if not all(isinstance(k, str) and isinstance(v, str) for k, v in notes.items()):
        raise ValueError
    _save(state, path, notes, _whole_key, check=False)


@misconception("save_safe", "Raises the library's own error for metadata that are no strings.")
def library_error(state, path, metadata=None):
    if any(str(k).startswith("tied:") for k in metadata or {}):
        raise ValueError
    _save(state, path, metadata, _whole_key, check=False)


@misconception("save_safe", "Leaves the metadata out.")
def without_metadata(state, path, metadata=None):
    _save({}, path, metadata, _whole_key)
    reference_save(state, path)


@misconception("save_safe", "Writes its notes into the caller's dict.")
def writes_into_the_callers(state, path, metadata=None):
    reference_save(state, path, metadata)
    if metadata is not None:
        metadata["tied:x"] = "y"


@misconception("save_safe", "Pickles the state.")
def pickles(state, path, metadata=None):
    torch.save(state, path)


@misconception("save_safe", "Writes first, and looks at the metadata afterwards.")
def writes_then_complains(state, path, metadata=None):
    reference_save(state, path, {k: v for k, v in (metadata or {}).items() if isinstance(k, str) and isinstance(v, str) and ":" not in k})
    reference_save(state, path, metadata)


@misconception("save_safe", "Makes tensors contiguous first: copies of one transposed matrix have different addresses.")
def contiguous_first(state, path, metadata=None):
    kept = {name: x.detach().contiguous() for name, x in state.items()}
    reference_save(kept, path, metadata)


@misconception("save_safe", "Compares the tensors themselves: two views of one memory are two objects.")
def same_objects(state, path, metadata=None):
    _save(state, path, metadata, lambda x: id(x))


@misconception("save_safe", "Compares without dtypes: the bits of floats, looked at as ints, are other numbers.")
def whole_key_without_dtype(state, path, metadata=None):
    _save(state, path, metadata, lambda x: _whole_key(x)[:-1])


@misconception("save_safe", "Takes tensors without numbers for tied, since all of them have the address 0.")
def ties_empty_ones(state, path, metadata=None):
    tied = dict(metadata or {})
    reference_save({}, path, metadata)
    first, tensors = {}, {}
    for name in sorted(state):
        if _whole_key(state[name]) in first:
            tied[f"tied:{name}"] = first[_whole_key(state[name])]
        else:
            first[_whole_key(state[name])] = name
            tensors[name] = state[name].detach().clone(memory_format=torch.contiguous_format)
    save_file(tensors, path, tied)


@misconception("save_safe", "Forgets that the first name must be the first of all: with three names it ties the last two only.")
def ties_pairs(state, path, metadata=None):
    names, notes, tensors = sorted(state), dict(metadata or {}), {}
    reference_save({}, path, metadata)
    for i, name in enumerate(names):
        after = [other for other in names[i + 1 :] if state[name].numel() and _whole_key(state[other]) == _whole_key(state[name])]
        if len(after) == 1:
            notes[f"tied:{after[0]}"] = name
        if f"tied:{name}" not in notes:
            tensors[name] = state[name].detach().clone(memory_format=torch.contiguous_format)
    save_file({name: x for name, x in tensors.items() if f"tied:{name}" not in notes}, path, notes)


# load_safe


@misconception("load_safe", "Gives tied names a copy.")
def copies_tied(path):
    state, notes = reference_load(path)
    seen = set()
    for name, x in state.items():
        state[name] = x.clone() if id(x) in seen else x
        seen.add(id(x))
    return state, notes


@misconception("load_safe", "Leaves tied names out.")
def forgets_tied(path):
    return load_file(path), reference_load(path)[1]


@misconception("load_safe", "Leaves the notes about tied names in the metadata.")
def keeps_notes(path):
    state, _ = reference_load(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return state, json.loads(file.read(length)).get("__metadata__", {})


@misconception("load_safe", "Adds tied names at the end: the order is not the alphabet's.")
def tied_at_the_end(path):
    state, notes = reference_load(path)
    own = load_file(path)
    return {name: state[name] for name in [*sorted(own), *sorted(set(state) - set(own))]}, notes


@misconception("load_safe", "Reads the length as big-endian.")
def big_endian(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "big")
        notes = json.loads(file.read(length).rstrip(b"\0").decode()) if length < 1 << 20 else {}
    return reference_load(path)[0], notes.get("__metadata__", {})


@misconception("load_safe", "Forgets the metadata.")
def no_metadata(path):
    return reference_load(path)[0], {}


@misconception("load_safe", "Needs metadata: a file without them raises a KeyError.")
def needs_metadata(path):
    with open(path, "rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    return reference_load(path)


@misconception("load_safe", "Passes over a tied name whose owner is missing.")
def passes_over_missing(path):
    try:
        return reference_load(path)
    except ValueError:
        return load_file(path), {}


@misconception("load_safe", "Raises a KeyError where the owner is missing.")
def key_error(path):
    try:
        return reference_load(path)
    except ValueError:
        raise KeyError("owner") from None


@misconception("load_safe", "Takes every key that contains tied: for a tied name.")
def tied_anywhere(path):
    state, notes = reference_load(path)
    return state, {k: v for k, v in notes.items() if "tied:" not in k}


@misconception("load_safe", "Splits the key at every colon: a name with a colon is cut.")
def splits_at_colons(path):
    state, notes = reference_load(path)
    own = load_file(path)
    return {name if name in own else name.split(":")[-1]: x for name, x in state.items()}, notes


@misconception("load_safe", "Takes every key that begins with tied, without the colon, for a note of its own.")
def tied_without_colon(path):
    state, notes = reference_load(path)
    return state, {k: v for k, v in notes.items() if not k.startswith("tied")}


@misconception("load_safe", "Looks for the owner among the names that are tied already: it depends on the order of the entries.")
def follows_chains(path):
    with open(path, "rb") as file:
        notes = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})
    state = load_file(path)
    for key, owner in notes.items():
        if key.startswith("tied:"):
            if owner not in state:
                raise ValueError("missing")
            state[key.removeprefix("tied:")] = state[owner]
    return {name: state[name] for name in sorted(state)}, {k: v for k, v in notes.items() if not k.startswith("tied:")}


@misconception("load_safe", "Takes every occurrence of tied: out of the key.")
def replaces_tied(path):
    state, notes = reference_load(path)
    return {name.replace("tied:", ""): x for name, x in state.items()}, notes


# safe_load


@misconception("safe_load", "Loads everything: a program in the file runs.")
def loads_everything(path, shapes, allowed=()):
    loaded = torch.load(path, weights_only=False)
    if not isinstance(loaded, dict) or set(loaded) != set(shapes):
        raise ValueError("names")
    for name, shape in shapes.items():
        if not isinstance(loaded[name], torch.Tensor) or tuple(loaded[name].shape) != tuple(shape):
            raise ValueError("shape")
    return {name: loaded[name] for name in shapes}


@misconception("safe_load", "Lets UnpicklingError through.")
def other_error(path, shapes, allowed=()):
    with torch.serialization.safe_globals(list(allowed)):
        loaded = torch.load(path, weights_only=True)
    if not isinstance(loaded, dict) or set(loaded) != set(shapes):
        raise ValueError("names")
    for name, shape in shapes.items():
        if not isinstance(loaded[name], torch.Tensor) or tuple(loaded[name].shape) != tuple(shape):
            raise ValueError("shape")
    return {name: loaded[name] for name in shapes}


@misconception("safe_load", "Allows the classes for good.")
def allows_for_good(path, shapes, allowed=()):
    torch.serialization.add_safe_globals(list(allowed))
    return reference_safe_load(path, shapes)


@misconception("safe_load", "Clears the list of allowed classes afterwards, with those of others.")
def clears_the_list(path, shapes, allowed=()):
    from decimal import Decimal

    torch.serialization.add_safe_globals([Decimal])
    try:
        return reference_safe_load(path, shapes, allowed)
    finally:
        if allowed:
            torch.serialization.clear_safe_globals()


@misconception("safe_load", "Takes everything else out of the dict, instead of refusing names too many.")
def drops_the_rest(path, shapes, allowed=()):
    try:
        with torch.serialization.safe_globals(list(allowed)):
            loaded = torch.load(path, weights_only=True)
        return {name: loaded[name] for name in shapes if tuple(loaded[name].shape) == tuple(shapes[name]) or 1 / 0}
    except (pickle.UnpicklingError, KeyError, ZeroDivisionError, TypeError, AttributeError, IndexError) as error:
        raise ValueError("refused") from error


@misconception("safe_load", "Does not look at the shapes.")
def any_shape(path, shapes, allowed=()):
    try:
        with torch.serialization.safe_globals(list(allowed)):
            loaded = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("refused") from error
    if not isinstance(loaded, dict) or set(loaded) != set(shapes) or not all(isinstance(x, torch.Tensor) for x in loaded.values()):
        raise ValueError("names")
    return {name: loaded[name] for name in shapes}


@misconception("safe_load", "Compares the number of entries instead of the shape.")
def only_numel(path, shapes, allowed=()):
    loaded = any_shape(path, shapes, allowed)
    for name, shape in shapes.items():
        if loaded[name].numel() != torch.Size(shape).numel():
            raise ValueError("shape")
    return loaded


@misconception("safe_load", "Keeps the file's order.")
def the_files_order(path, shapes, allowed=()):
    good = reference_safe_load(path, shapes, allowed)
    return {name: good[name] for name in torch.load(path, weights_only=True)}


@misconception("safe_load", "Passes over names that are missing.")
def passes_over_names(path, shapes, allowed=()):
    try:
        return reference_safe_load(path, shapes, allowed)
    except ValueError:
        with torch.serialization.safe_globals(list(allowed)):
            try:
                loaded = torch.load(path, weights_only=True)
            except pickle.UnpicklingError as error:
                raise ValueError("refused") from error
        if isinstance(loaded, dict) and set(loaded) < set(shapes):
            return {name: x for name, x in loaded.items() if isinstance(x, torch.Tensor)}
        raise


@misconception("safe_load", "Ignores `allowed`.")
def ignores_allowed(path, shapes, allowed=()):
    return reference_safe_load(path, shapes)


@misconception("safe_load", "Gives up on every file.")
def refuses_all(path, shapes, allowed=()):
    raise ValueError("I trust nobody")


@misconception("safe_load", "Takes a list of numbers for a tensor.")
def takes_lists(path, shapes, allowed=()):
    try:
        with torch.serialization.safe_globals(list(allowed)):
            loaded = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("refused") from error
    if not isinstance(loaded, dict) or set(loaded) != set(shapes):
        raise ValueError("names")
    out = {name: torch.as_tensor(loaded[name]) for name in shapes}
    if any(tuple(out[name].shape) != tuple(shape) for name, shape in shapes.items()):
        raise ValueError("shape")
    return out


@misconception("safe_load", "Forbids the allowed classes afterwards, also those that somebody else had allowed before.")
def forbids_too_much(path, shapes, allowed=()):
    with torch.serialization.safe_globals(list(allowed)):
        return reference_safe_load(path, shapes)


@misconception("safe_load", "Tries again without weights_only where the file is refused.")
def tries_again(path, shapes, allowed=()):
    try:
        return reference_safe_load(path, shapes, allowed)
    except ValueError:
        loaded = torch.load(path, weights_only=False)
        if not isinstance(loaded, dict) or set(loaded) != set(shapes):
            raise
        if not all(isinstance(x, torch.Tensor) and tuple(x.shape) == tuple(shapes[name]) for name, x in loaded.items()):
            raise
        return {name: loaded[name] for name in shapes}


@misconception("safe_load", "Looks at the text of the file for suspicious words, and loads everything else.")
def looks_for_words(path, shapes, allowed=()):
    if any(word in path.read_bytes() for word in (b"posix", b"system", b"subprocess", b"eval", b"exec")):
        raise ValueError("suspicious")
    return loads_everything(path, shapes, allowed)


@misconception("safe_load", "Forbids the classes again only if the file could be read.")
def forbids_after_success(path, shapes, allowed=()):
    new = [kind for kind in allowed if kind not in torch.serialization.get_safe_globals()]
    torch.serialization.add_safe_globals(new)
    good = reference_safe_load(path, shapes)
    kept = [kind for kind in torch.serialization.get_safe_globals() if kind not in new]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(kept)
    return good


@misconception("safe_load", "Returns what the file holds before it has looked at the shapes of all.")
def first_shape_only(path, shapes, allowed=()):
    loaded = any_shape(path, shapes, allowed)
    for name, shape in shapes.items():
        if tuple(loaded[name].shape) != tuple(shape):
            raise ValueError("shape")
        break
    return loaded


# ScriptedGate


@misconception("ScriptedGate", "Traces: the program knows only the way that its example took.")
class Traces(ReferenceGate):
    def save(self, path):
        torch.jit.trace(self, torch.zeros(2, self.loud.in_features, dtype=self.loud.weight.dtype), check_trace=False).save(str(path))


@misconception("ScriptedGate", "Pickles the model, which needs this class wherever it is loaded.")
class Pickles(ReferenceGate):
    def save(self, path):
        torch.save(self.state_dict(), path)


@misconception("ScriptedGate", "Halves once only.")
class HalvesOnce(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        if float(x.abs().mean()) > self.threshold:
            x = x / 2
            rounds = 1
            return self.loud(x), rounds
        return self.quiet(x), rounds


@misconception("ScriptedGate", "Looks at the mean of x instead of |x|.")
class WithoutAbs(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        if float(x.mean()) > self.threshold:
            while float(x.mean()) > self.threshold:
                x = x / 2
                rounds += 1
            return self.loud(x), rounds
        return self.quiet(x), rounds


@misconception("ScriptedGate", "Looks at the largest |x| instead of the mean.")
class Largest(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        if float(x.abs().max()) > self.threshold:
            while float(x.abs().max()) > self.threshold:
                x = x / 2
                rounds += 1
            return self.loud(x), rounds
        return self.quiet(x), rounds


@misconception("ScriptedGate", "Takes the loud way at the threshold.")
class AtTheThreshold(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        if float(x.abs().mean()) >= self.threshold:
            while float(x.abs().mean()) > self.threshold:
                x = x / 2
                rounds += 1
            return self.loud(x), rounds
        return self.quiet(x), rounds


@misconception("ScriptedGate", "Swaps the two layers.")
class SwapsLayers(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        loud = float(x.abs().mean()) > self.threshold
        while float(x.abs().mean()) > self.threshold:
            x = x / 2
            rounds += 1
        return (self.quiet(x) if loud else self.loud(x)), rounds


@misconception("ScriptedGate", "Gives the loud layer the input as it was.")
class LoudOfTheInput(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        small = x
        while float(small.abs().mean()) > self.threshold:
            small = small / 2
            rounds += 1
        if rounds > 0:
            return self.loud(x), rounds
        return self.quiet(x), rounds


@misconception("ScriptedGate", "Halves each row by itself.")
class RowByRow(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        rows = x.reshape(-1, x.shape[-1])
        while float(rows.abs().mean(1).max()) > self.threshold:
            rows = torch.where((rows.abs().mean(1) > self.threshold).unsqueeze(1), rows / 2, rows)
            rounds += 1
        x = rows.reshape(x.shape)
        if rounds > 0:
            return self.loud(x), rounds
        return self.quiet(x), rounds


@misconception("ScriptedGate", "Changes the caller's tensor by halving in place.")
class InPlace(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        with torch.no_grad():
            while float(x.abs().mean()) > self.threshold:
                x /= 2
                rounds += 1
        if rounds > 0:
            return self.loud(x), rounds
        return self.quiet(x), rounds


@misconception("ScriptedGate", "Puts the model into eval mode for saving, and leaves it there.")
class LeavesEval(ReferenceGate):
    def save(self, path):
        self.eval()
        super().save(path)


@misconception("ScriptedGate", "Returns the number of rounds as a tensor.")
class RoundsAsTensor(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rounds = 0
        loud = float(x.abs().mean()) > self.threshold
        while float(x.abs().mean()) > self.threshold:
            x = x / 2
            rounds += 1
        return (self.loud(x) if loud else self.quiet(x)), torch.tensor(rounds)


@misconception("ScriptedGate", "Freezes the program, so that it has no train mode any more.")
class Freezes(ReferenceGate):
    def save(self, path):
        mode = self.training
        torch.jit.freeze(torch.jit.script(self.eval())).save(str(path))
        self.train(mode)


@misconception("ScriptedGate", "Saves a program in float32 always.")
class SavesFloat32(ReferenceGate):
    def save(self, path):
        import copy

        torch.jit.script(copy.deepcopy(self).float()).save(str(path))


@misconception("ScriptedGate", "Gives up after sixteen rounds.")
class SixteenRounds(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        if float(x.abs().mean()) <= self.threshold:
            return self.quiet(x), rounds
        for _ in range(16):
            if float(x.abs().mean()) > self.threshold:
                x = x / 2
                rounds += 1
        return self.loud(x), rounds


@misconception("ScriptedGate", "Rounds the number of halvings down.")
class RoundsDown(ReferenceGate):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        mean = float(x.abs().mean())
        if mean <= self.threshold:
            return self.quiet(x), 0
        rounds = max(1, int(torch.log2(torch.tensor(mean / self.threshold)).item()))
        return self.loud(x / 2.0**rounds), rounds


# ExportableModel


@misconception("ExportableModel", "Decides in Python: torch.export can't know which way numbers will go.")
class DecidesInPython(ReferenceModel):
    def forward(self, x):
        y = self.loud(x) if x.abs().mean() > self.threshold else self.quiet(x)
        return y.reshape(x.shape[0], -1)


@misconception("ExportableModel", "Has the batch of its example built in.")
class BatchBuiltIn(ReferenceModel):
    def program(self, steps):
        example = torch.zeros(2, steps, self.loud.in_features, dtype=self.loud.weight.dtype)
        return torch.export.export(self, (example,))


@misconception("ExportableModel", "Reshapes to eight rows, as before.")
class EightRows(ReferenceModel):
    def forward(self, x):
        return super().forward(x).reshape(8, -1)


@misconception("ExportableModel", "Exports with a batch of eight only.")
class ExampleOfEight(ReferenceModel):
    def program(self, steps):
        example = torch.zeros(8, steps, self.loud.in_features, dtype=self.loud.weight.dtype)
        return torch.export.export(self, (example,), dynamic_shapes={"x": {0: 8}})


@misconception("ExportableModel", "Decides for each example of the batch.")
class EachExample(ReferenceModel):
    def forward(self, x):
        loud = x.abs().mean((1, 2), keepdim=True) > self.threshold
        return torch.where(loud, self.loud(x), self.quiet(x)).reshape(x.shape[0], -1)


@misconception("ExportableModel", "Decides for each step.")
class EachStep(ReferenceModel):
    def forward(self, x):
        loud = x.abs().mean(2, keepdim=True) > self.threshold
        return torch.where(loud, self.loud(x), self.quiet(x)).reshape(x.shape[0], -1)


@misconception("ExportableModel", "Adds up both ways.")
class BothWays(ReferenceModel):
    def forward(self, x):
        return (self.loud(x) + self.quiet(x)).reshape(x.shape[0], -1)


@misconception("ExportableModel", "Swaps the two ways.")
class SwapsWays(ReferenceModel):
    def forward(self, x):
        y = torch.where(x.abs().mean() > self.threshold, self.quiet(x), self.loud(x))
        return y.reshape(x.shape[0], -1)


@misconception("ExportableModel", "Looks at the mean of x instead of |x|.")
class MeanOfX(ReferenceModel):
    def forward(self, x):
        return torch.where(x.mean() > self.threshold, self.loud(x), self.quiet(x)).reshape(x.shape[0], -1)


@misconception("ExportableModel", "Takes the loud way at the threshold.")
class NotBelow(ReferenceModel):
    def forward(self, x):
        return torch.where(x.abs().mean() >= self.threshold, self.loud(x), self.quiet(x)).reshape(x.shape[0], -1)


@misconception("ExportableModel", "Exports a copy in float32.")
class CopyInFloat32(ReferenceModel):
    def program(self, steps):
        import copy

        return ReferenceModel.program(copy.deepcopy(self).float(), steps)


@misconception("ExportableModel", "Puts steps in the place of the batch.")
class OpensSteps(ReferenceModel):
    def program(self, steps):
        example = torch.zeros(2, max(2, steps), self.loud.in_features, dtype=self.loud.weight.dtype)
        return torch.export.export(self, (example,), dynamic_shapes={"x": {1: torch.export.Dim("steps")}})


@misconception("ExportableModel", "Detaches its result.")
class Detaches(ReferenceModel):
    def forward(self, x):
        return super().forward(x).detach().requires_grad_()


@misconception("ExportableModel", "Sets a largest batch.")
class SetsALargestBatch(ReferenceModel):
    def program(self, steps):
        example = torch.zeros(2, steps, self.loud.in_features, dtype=self.loud.weight.dtype)
        return torch.export.export(self, (example,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=1024)}})


@misconception("ExportableModel", "Puts the model into eval mode for the export, and leaves it there.")
class LeavesEvalMode(ReferenceModel):
    def program(self, steps):
        self.eval()
        return super().program(steps)


@misconception("ExportableModel", "Freezes the parameters for the export, and leaves them so.")
class FreezesParameters(ReferenceModel):
    def program(self, steps):
        self.requires_grad_(False)
        return super().program(steps)


# fuse_graph


def _fuse(model, *, once_conv=True, once_norm=True, one_user=True, statistics=True, kind=True, remove=True, evaluate=True):
    graph_module = torch.fx.symbolic_trace(model)
    modules = dict(graph_module.named_modules())
    calls = [node for node in graph_module.graph.nodes if node.op == "call_module"]
    count = {}
    for node in calls:
        count[id(modules[node.target])] = count.get(id(modules[node.target]), 0) + 1
    for node in calls:
        norm, before = modules[node.target], node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d if kind else nn.modules.batchnorm._BatchNorm) or (statistics and norm.running_mean is None):
            continue
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or (one_user and len(before.users) > 1):
            continue
        conv = modules[before.target]
        if not isinstance(conv, nn.Conv2d if kind else nn.modules.conv._ConvNd):
            continue
        if (once_conv and count[id(conv)] > 1) or (once_norm and count[id(norm)] > 1):
            continue
        owner, _, name = before.target.rpartition(".")
        fused = fuse_conv_bn_eval(conv, norm) if norm.running_mean is not None else conv
        setattr(graph_module.get_submodule(owner), name, fused)
        node.replace_all_uses_with(before)
        graph_module.graph.erase_node(node)
    if remove:
        graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return graph_module.eval() if evaluate else graph_module.train()


@misconception("fuse_graph", "Fuses nothing.")
def fuses_nothing(model):
    return torch.fx.symbolic_trace(model).eval()


@misconception("fuse_graph", "Fuses a convolution that is called twice: its other caller gets the batch norm too.")
def fuses_shared_conv(model):
    return _fuse(model, once_conv=False)


@misconception("fuse_graph", "Fuses a batch norm that is called twice.")
def fuses_shared_norm(model):
    return _fuse(model, once_norm=False)


@misconception("fuse_graph", "Fuses although somebody else uses the convolution's output.")
def fuses_used_twice(model):
    return _fuse(model, one_user=False)


@misconception("fuse_graph", "Drops a batch norm that has no running statistics.")
def drops_without_statistics(model):
    return _fuse(model, statistics=False)


@misconception("fuse_graph", "Fuses 1-d and transposed convolutions as well.")
def fuses_all_kinds(model):
    return _fuse(model, kind=False)


@misconception("fuse_graph", "Leaves the fused batch norms in the result, where nobody calls them.")
def leaves_norms(model):
    return _fuse(model, remove=False)


@misconception("fuse_graph", "Leaves the result in train mode.")
def result_in_train_mode(model):
    return _fuse(model, evaluate=False)


@misconception("fuse_graph", "Takes modules that were made one after the other for pairs.")
def by_order_of_making(model):
    import copy

    model = copy.deepcopy(model)
    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    for (p, n, conv), (q, k, norm) in itertools.pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and p is q:
            if conv.out_channels == norm.num_features:
                setattr(p, n, fuse_conv_bn_eval(conv, norm))
                setattr(q, k, nn.Identity())
    return torch.fx.symbolic_trace(model).eval()


@misconception("fuse_graph", "Replaces the modules of the model itself.")
def changes_the_model(model):
    fused = reference_fuse(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return fused


@misconception("fuse_graph", "Fuses only pairs that are not in a submodule.")
def top_level_only(model):
    if any(list(child.children()) for child in model.children()):
        return torch.fx.symbolic_trace(model).eval()
    return reference_fuse(model)


@misconception("fuse_graph", "Stops after the first pair.")
def first_pair_only(model):
    if sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) > 1:
        return torch.fx.symbolic_trace(model).eval()
    return reference_fuse(model)


@misconception("fuse_graph", "Forgets the batch norm's shift.")
def forgets_the_shift(model):
    fused = reference_fuse(model)
    for name, module in fused.named_modules():
        before = dict(model.named_modules()).get(name)
        if isinstance(module, nn.Conv2d) and before is not None and not torch.equal(module.weight, before.weight):
            with torch.no_grad():
                module.bias.zero_()
    return fused


@misconception("fuse_graph", "Traces and scripts nothing: returns the model.")
def returns_the_model(model):
    return model


def _by_hand(model, padding=True, dilation=True):
    """Fuse with a convolution that is made anew."""
    fused = reference_fuse(model)
    for name, old in list(fused.named_modules()):
        if isinstance(old, nn.Conv2d) and old is not dict(model.named_modules()).get(name):
            settings = (old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
            new = nn.Conv2d(
                *settings,
                dilation=old.dilation if dilation else 1,
                groups=old.groups,
                padding_mode=old.padding_mode if padding else "zeros",
                dtype=old.weight.dtype,
            )
            new.load_state_dict(old.state_dict())
            fused.set_submodule(name, new.eval())
    return fused


@misconception("fuse_graph", "Makes a new convolution, and forgets the dilation.")
def forgets_the_dilation(model):
    return _by_hand(model, dilation=False)


@misconception("fuse_graph", "Makes a new convolution, and forgets how it pads.")
def forgets_the_padding(model):
    return _by_hand(model, padding=False)


@misconception("fuse_graph", "Takes neighbours in the list of nodes for pairs, whatever the batch norm's input is.")
def neighbours(model):
    graph_module = torch.fx.symbolic_trace(model)
    targets = [node.target for node in graph_module.graph.nodes]
    for before, node in itertools.pairwise(list(graph_module.graph.nodes)):
        if before.op != "call_module" or node.op != "call_module":
            continue
        conv, norm = graph_module.get_submodule(before.target), graph_module.get_submodule(node.target)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        if targets.count(before.target) == targets.count(node.target) == 1 and len(before.users) == 1:
            graph_module.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return graph_module


# Handler


@misconception("Handler", "Lets one bad request sink the batch.")
class OneSinksAll(ReferenceHandler):
    def handle(self, requests):
        read = self.preprocess(requests)
        if any(x is None for _, x in read):
            return [{"id": name, "error": "a bad batch"} for name, _ in read]
        return super().handle(requests)


@misconception("Handler", "Answers the good ones first, and the bad ones at the end.")
class BadOnesLast(ReferenceHandler):
    def handle(self, requests):
        return sorted(super().handle(requests), key=lambda answer: "error" in answer)


@misconception("Handler", "Leaves bad requests without an answer.")
class DropsBad(ReferenceHandler):
    def handle(self, requests):
        return [answer for answer in super().handle(requests) if "error" not in answer]


@misconception("Handler", "Forgets the id of a bad request.")
class ForgetsIds(ReferenceHandler):
    def handle(self, requests):
        return [{**answer, "id": None} if "error" in answer else answer for answer in super().handle(requests)]


@misconception("Handler", "Leaves the id out where there is none.")
class NoIdKey(ReferenceHandler):
    def handle(self, requests):
        return [{k: v for k, v in answer.items() if k != "id" or v is not None} for answer in super().handle(requests)]


@misconception("Handler", "Takes true and false for numbers.")
class TakesBools(ReferenceHandler):
    def _read(self, request):
        name, x = super()._read(request)
        with contextlib.suppress(Exception):
            read = json.loads(request)
            if x is None and len(read["x"]) == self.model.in_features and all(isinstance(v, int | float) for v in read["x"]):
                x = torch.tensor([float(v) for v in read["x"]])
                x = x if x.isfinite().all() else None
        return name, x


@misconception("Handler", "Lets NaN and infinities into the model.")
class TakesNaN(ReferenceHandler):
    def _read(self, request):
        name, x = super()._read(request)
        with contextlib.suppress(Exception):
            read = json.loads(request)
            if x is None and len(read["x"]) == self.model.in_features and all(type(v) in (int, float) for v in read["x"]):
                x = torch.tensor([float(v) for v in read["x"]])
        return name, x


@misconception("Handler", "Stumbles over an int that is too large for a float.")
class StumblesOverLarge(ReferenceHandler):
    def _read(self, request):
        with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
            [float(v) for v in json.loads(request)["x"] if isinstance(v, int)]
        return super()._read(request)


@misconception("Handler", "Stumbles over deep nesting.")
class StumblesOverNesting(ReferenceHandler):
    def _read(self, request):
        with contextlib.suppress(ValueError):
            json.loads(request)
        return super()._read(request)


@misconception("Handler", "Stumbles over JSON that is no object.")
class StumblesOverLists(ReferenceHandler):
    def _read(self, request):
        try:
            read = json.loads(request)
        except (ValueError, RecursionError):
            return None, None
        name = read.get("id")
        return name, super()._read(request)[1]


@misconception("Handler", "Turns strings into numbers.")
class TakesStrings(ReferenceHandler):
    def _read(self, request):
        with contextlib.suppress(Exception):
            read = json.loads(request)
            read["x"] = [float(v) if isinstance(v, str) else v for v in read["x"]]
            request = json.dumps(read)
        return super()._read(request)


@misconception("Handler", "Pads inputs that are too short, and cuts those that are too long.")
class PadsInputs(ReferenceHandler):
    def _read(self, request):
        with contextlib.suppress(Exception):
            read = json.loads(request)
            if isinstance(read["x"], list) and all(type(v) in (int, float) for v in read["x"]):
                read["x"] = (read["x"] + [0] * self.model.in_features)[: self.model.in_features]
                request = json.dumps(read)
        return super()._read(request)


@misconception("Handler", "Leaves the model in train mode: dropout answers.")
class TrainMode(ReferenceHandler):
    def initialize(self, model, labels):
        self.model, self.labels = model.train(), list(labels)


@misconception("Handler", "Records a graph.")
class RecordsAGraph(ReferenceHandler):
    def inference(self, inputs):
        if not inputs:
            return torch.empty(0, len(self.labels))
        return self.model(torch.stack(list(inputs))).softmax(1)


@misconception("Handler", "Calls the model for each request.")
class CallsForEach(ReferenceHandler):
    def inference(self, inputs):
        if not inputs:
            return torch.empty(0, len(self.labels))
        with torch.inference_mode():
            return torch.cat([self.model(x[None]).softmax(1) for x in inputs])


@misconception("Handler", "Calls the model for an empty batch.")
class CallsForNone(ReferenceHandler):
    def inference(self, inputs):
        with torch.inference_mode():
            batch = torch.stack(list(inputs)) if inputs else torch.empty(0, self.model.in_features)
            return self.model(batch).softmax(1)


@misconception("Handler", "Gives the output for the score, without softmax.")
class RawScores(ReferenceHandler):
    def inference(self, inputs):
        if not inputs:
            return torch.empty(0, len(self.labels))
        with torch.inference_mode():
            return self.model(torch.stack(list(inputs)))


@misconception("Handler", "Takes the softmax over the batch.")
class SoftmaxOverBatch(ReferenceHandler):
    def inference(self, inputs):
        if not inputs:
            return torch.empty(0, len(self.labels))
        with torch.inference_mode():
            return self.model(torch.stack(list(inputs))).softmax(0)


@misconception("Handler", "Gives the index for the label.")
class IndexAsLabel(ReferenceHandler):
    def handle(self, requests):
        answers = super().handle(requests)
        return [{**a, "label": self.labels.index(a["label"])} if "label" in a else a for a in answers]


@misconception("Handler", "Gives the score as a tensor, which json can't write.")
class ScoreAsTensor(ReferenceHandler):
    def handle(self, requests):
        return [{**a, "score": torch.tensor(a["score"])} if "score" in a else a for a in super().handle(requests)]


@misconception("Handler", "Takes an id that counts as false, such as 0, for none.")
class ZeroIsNoId(ReferenceHandler):
    def handle(self, requests):
        return [{**answer, "id": answer["id"] or None} for answer in super().handle(requests)]


@misconception("Handler", "Keeps the answers of earlier batches.")
class KeepsAnswers(ReferenceHandler):
    answers: list = []  # noqa: RUF012

    def handle(self, requests):
        self.answers += super().handle(requests)
        return list(self.answers)


@misconception("Handler", "Keeps model and labels in the class, which all handlers share.")
class SharedModel(ReferenceHandler):
    def initialize(self, model, labels):
        type(self).model, type(self).labels = model.eval(), list(labels)


@misconception("Handler", "Looks for x in JSON of any kind: in a number there is nothing to look for.")
class LooksInAnything(ReferenceHandler):
    def _read(self, request):
        try:
            read = json.loads(request)
        except (ValueError, RecursionError):
            return None, None
        if read is None or isinstance(read, list) or "x" not in read:
            return super()._read(request)
        read["x"]
        return super()._read(request)


@misconception("Handler", "Keeps answers by id: of requests with the same id, one gets the other's answer.")
class AnswersById(ReferenceHandler):
    def handle(self, requests):
        answers = super().handle(requests)
        by_id = {json.dumps(answer["id"]): answer for answer in answers if answer["id"] is not None}
        return [by_id.get(json.dumps(answer["id"]), answer) for answer in answers]


# DynamicBatcher


@misconception("DynamicBatcher", "Waits although a queue is full.")
class WaitsThoughFull(ReferenceBatcher):
    def _is_due(self, queue, now):
        return bool(queue) and now - queue[0][2] >= self.max_wait


@misconception("DynamicBatcher", "Waits until a queue is full, for ever.")
class WaitsForEver(ReferenceBatcher):
    def _is_due(self, queue, now):
        return len(queue) >= self.max_size


@misconception("DynamicBatcher", "Waits longer than max_wait: > for ≥.")
class WaitsTooLong(ReferenceBatcher):
    def _is_due(self, queue, now):
        return bool(queue) and (len(queue) >= self.max_size or now - queue[0][2] > self.max_wait)


@misconception("DynamicBatcher", "Counts the wait from the youngest request.")
class FromTheYoungest(ReferenceBatcher):
    def _is_due(self, queue, now):
        return bool(queue) and (len(queue) >= self.max_size or now - queue[-1][2] >= self.max_wait)


@misconception("DynamicBatcher", "Never waits.")
class NeverWaits(ReferenceBatcher):
    def _is_due(self, queue, now):
        return bool(queue)


@misconception("DynamicBatcher", "Runs a single batch in a poll, though more are due.")
class OneBatchAPoll(ReferenceBatcher):
    def poll(self):
        now = self.clock()
        due = [queue for queue in self.queues.values() if self._is_due(queue, now)]
        if not due:
            return 0
        queue = min(due, key=lambda queue: queue[0][0])
        batch = queue[: self.max_size]
        del queue[: self.max_size]
        self._finish(batch)
        return len(batch)


@misconception("DynamicBatcher", "Runs the whole queue at once, more than max_size.")
class RunsAllAtOnce(ReferenceBatcher):
    def poll(self):
        now, finished = self.clock(), 0
        while due := [queue for queue in self.queues.values() if self._is_due(queue, now)]:
            queue = min(due, key=lambda queue: queue[0][0])
            batch = queue[:]
            queue.clear()
            self._finish(batch)
            finished += len(batch)
        return finished


@misconception("DynamicBatcher", "Takes the youngest requests first.")
class YoungestFirst(ReferenceBatcher):
    def poll(self):
        for queue in self.queues.values():
            queue.reverse()
        try:
            return super().poll()
        finally:
            for queue in self.queues.values():
                queue.reverse()


@misconception("DynamicBatcher", "Goes through the shapes in the order in which they came up, whatever has waited longest.")
class ShapeByShape(ReferenceBatcher):
    def poll(self):
        now, finished = self.clock(), 0
        for queue in self.queues.values():
            while self._is_due(queue, now):
                batch = queue[: self.max_size]
                del queue[: self.max_size]
                self._finish(batch)
                finished += len(batch)
        return finished


@misconception("DynamicBatcher", "Pads requests of other shapes into one batch.")
class PadsShapes(ReferenceBatcher):
    def submit(self, request):
        if request.dim():
            request = torch.nn.functional.pad(request, (0, max(0, 5 - request.shape[0])))
        return super().submit(request)


@misconception("DynamicBatcher", "Lets all requests of a failed batch fail.")
class AllFail(ReferenceBatcher):
    def _finish(self, batch):
        try:
            results = self.run(torch.stack([request for _, request, _ in batch]))
        except Exception as error:
            self.done.update({ticket: error for ticket, _, _ in batch})
        else:
            self.done.update({ticket: row for (ticket, _, _), row in zip(batch, results, strict=True)})


@misconception("DynamicBatcher", "Lets the error of a batch out of poll.")
class ErrorOutOfPoll(ReferenceBatcher):
    def _finish(self, batch):
        results = self.run(torch.stack([request for _, request, _ in batch]))
        self.done.update({ticket: row for (ticket, _, _), row in zip(batch, results, strict=True)})


@misconception("DynamicBatcher", "Runs a failed batch of one a second time.")
class TriesOneAgain(ReferenceBatcher):
    def _finish(self, batch):
        before = dict(self.done)
        super()._finish(batch)
        if len(batch) == 1 and isinstance(self.done[batch[0][0]], Exception) and batch[0][0] not in before:
            super()._finish(batch)


@misconception("DynamicBatcher", "Does not count failed requests.")
class CountsGoodOnes(ReferenceBatcher):
    def poll(self):
        before = sum(isinstance(x, Exception) for x in self.done.values())
        finished = super().poll()
        return finished - (sum(isinstance(x, Exception) for x in self.done.values()) - before)


@misconception("DynamicBatcher", "Returns the error instead of raising it.")
class ReturnsErrors(ReferenceBatcher):
    def result(self, ticket):
        if isinstance(self.done.get(ticket), Exception):
            return self.done.pop(ticket)
        return super().result(ticket)


@misconception("DynamicBatcher", "Keeps results for ever.")
class KeepsResults(ReferenceBatcher):
    def result(self, ticket):
        if ticket in self.done and not isinstance(self.done[ticket], Exception):
            return self.done[ticket]
        return super().result(ticket)


@misconception("DynamicBatcher", "Keeps errors for ever.")
class KeepsErrors(ReferenceBatcher):
    def result(self, ticket):
        if isinstance(self.done.get(ticket), Exception):
            raise self.done[ticket]
        return super().result(ticket)


@misconception("DynamicBatcher", "Says None for tickets that there are not.")
class NoneForUnknown(ReferenceBatcher):
    def result(self, ticket):
        try:
            return super().result(ticket)
        except KeyError:
            return None


@misconception("DynamicBatcher", "Counts tickets for each shape.")
class TicketsByShape(ReferenceBatcher):
    def submit(self, request):
        self.tickets = len(self.queues.get(tuple(request.shape), []))
        return super().submit(request)


@misconception("DynamicBatcher", "Runs a full queue within submit.")
class RunsInSubmit(ReferenceBatcher):
    def submit(self, request):
        ticket = super().submit(request)
        if any(len(queue) >= self.max_size for queue in self.queues.values()):
            self.poll()
        return ticket


@misconception("DynamicBatcher", "Keeps the caller's tensor: what is changed later runs changed.")
class KeepsNoCopy(ReferenceBatcher):
    def submit(self, request):
        ticket = super().submit(request)
        queue = self.queues[tuple(request.shape)]
        queue[-1] = (ticket, request, queue[-1][2])
        return ticket


@misconception("DynamicBatcher", "Reads the clock for each queue.")
class ReadsTheClockOften(ReferenceBatcher):
    def _is_due(self, queue, now):
        return super()._is_due(queue, self.clock())


@misconception("DynamicBatcher", "Gives every request of a batch the first row.")
class FirstRowForAll(ReferenceBatcher):
    def _finish(self, batch):
        super()._finish(batch)
        first = self.done[batch[0][0]]
        for ticket, _, _ in batch:
            if not isinstance(self.done[ticket], Exception):
                self.done[ticket] = first


@misconception("DynamicBatcher", "Keeps the error of the whole batch for a request that fails by itself.")
class KeepsTheBatchesError(ReferenceBatcher):
    def _finish(self, batch):
        try:
            results = self.run(torch.stack([request for _, request, _ in batch]))
        except Exception as error:
            for ticket, request, _ in batch:
                try:
                    if len(batch) == 1:
                        raise error
                    self.done[ticket] = self.run(request[None])[0]
                except Exception:
                    self.done[ticket] = error
        else:
            self.done.update({ticket: row for (ticket, _, _), row in zip(batch, results, strict=True)})


@misconception("DynamicBatcher", "Counts the wait of those left behind anew when a batch has run.")
class WaitsAnew(ReferenceBatcher):
    def _finish(self, batch):
        super()._finish(batch)
        now = self.clock()
        for queue in self.queues.values():
            queue[:] = [(ticket, request, now) for ticket, request, _ in queue]


@misconception("DynamicBatcher", "Tells shapes apart by how many numbers there are.")
class QueuesByNumel(ReferenceBatcher):
    def submit(self, request):
        ticket = super().submit(request)
        shapes = [shape for shape in self.queues if torch.Size(shape).numel() == request.numel()]
        if len(shapes) > 1:
            self.queues[shapes[0]].append(self.queues[tuple(request.shape)].pop())
        return ticket


# ContinuousBatcher


@misconception("ContinuousBatcher", "Waits until all slots are free: the shorter texts wait for the longest.")
class WaitsForAll(ReferenceContinuous):
    def step(self):
        if self.growing:
            waiting, self.waiting = self.waiting, []
            try:
                return super().step()
            finally:
                self.waiting = waiting + self.waiting
        return super().step()


@misconception("ContinuousBatcher", "Fills free slots at the end of a step, before new texts may come.")
class FillsAtTheEnd(ReferenceContinuous):
    def submit(self, prompt, at_most):
        number = super().submit(prompt, at_most)
        if len(self.growing) < self.slots and self.count == 1:
            return number
        return number

    def step(self):
        finished = super().step()
        while self.waiting and len(self.growing) + len(finished) < self.slots:
            self.growing.append(self.waiting.pop(0))
        return finished

    def run(self):
        finished = {}
        while self.waiting or self.growing:
            new = self.step()
            finished |= new
            if new:
                self.model([[1]])
        return finished


@misconception("ContinuousBatcher", "Lets more texts grow than there are slots.")
class TooManySlots(ReferenceContinuous):
    def step(self):
        self.slots += 1
        try:
            return super().step()
        finally:
            self.slots -= 1


@misconception("ContinuousBatcher", "Takes the text that came last.")
class LastComeFirst(ReferenceContinuous):
    def step(self):
        self.waiting.reverse()
        try:
            return super().step()
        finally:
            self.waiting.reverse()


@misconception("ContinuousBatcher", "Drops the end token.")
class DropsTheEnd(ReferenceContinuous):
    def step(self):
        return {number: text[:-1] if text[-1] == self.end else text for number, text in super().step().items()}


@misconception("ContinuousBatcher", "Leaves the prompt out of the result.")
class WithoutPrompt(ReferenceContinuous):
    def submit(self, prompt, at_most):
        number = super().submit(prompt, at_most)
        self.lengths = {**getattr(self, "lengths", {}), number: len(prompt)}
        return number

    def step(self):
        return {number: text[self.lengths[number] :] for number, text in super().step().items()}


@misconception("ContinuousBatcher", "Does not stop at the end token.")
class IgnoresTheEnd(ReferenceContinuous):
    def step(self):
        end, self.end = self.end, None
        try:
            return super().step()
        finally:
            self.end = end


@misconception("ContinuousBatcher", "Stops where the prompt has the end token.")
class EndInThePrompt(ReferenceContinuous):
    def submit(self, prompt, at_most):
        return super().submit(prompt, 1 if self.end in prompt else at_most)


@misconception("ContinuousBatcher", "Makes one token too many.")
class OneTooMany(ReferenceContinuous):
    def submit(self, prompt, at_most):
        return super().submit(prompt, at_most + 1)


@misconception("ContinuousBatcher", "Counts the prompt in at_most.")
class CountsThePrompt(ReferenceContinuous):
    def submit(self, prompt, at_most):
        return super().submit(prompt, max(1, at_most - len(prompt)))


@misconception("ContinuousBatcher", "Keeps the caller's list, and writes into it.")
class WritesIntoThePrompt(ReferenceContinuous):
    def submit(self, prompt, at_most):
        number = super().submit(prompt, at_most)
        if isinstance(prompt, list):
            self.waiting[-1] = (number, prompt, at_most)
        return number


@misconception("ContinuousBatcher", "Hands its own lists to the model, which may change them.")
class HandsOutItsOwn(ReferenceContinuous):
    def __init__(self, model, *, slots, end):
        super().__init__(model, slots=slots, end=end)
        self.model = lambda copies: model([text for _, text, _ in self.growing])


@misconception("ContinuousBatcher", "Calls the model for no texts.")
class CallsForNobody(ReferenceContinuous):
    def step(self):
        if not self.growing and not self.waiting:
            self.model([])
        return super().step()


@misconception("ContinuousBatcher", "Takes the largest of several likeliest tokens.")
class LargestOfTies(ReferenceContinuous):
    def __init__(self, model, *, slots, end):
        def nudged(texts):
            logits = model(texts)
            return logits + 1e-4 * torch.arange(logits.shape[1])

        super().__init__(nudged, slots=slots, end=end)


@misconception("ContinuousBatcher", "Calls the model once for each text.")
class CallsForEachText(ReferenceContinuous):
    def __init__(self, model, *, slots, end):
        super().__init__(lambda texts: torch.cat([model([text]) for text in texts]), slots=slots, end=end)


@misconception("ContinuousBatcher", "Gives a new text the smallest free number.")
class ReusesNumbers(ReferenceContinuous):
    def submit(self, prompt, at_most):
        used = {number for number, _, _ in [*self.waiting, *self.growing]}
        self.count = next(n for n in range(10**6) if n not in used)
        return super().submit(prompt, at_most)


@misconception("ContinuousBatcher", "Lets a new text take the place of the finished one in the model's batch.")
class TakesThePlace(ReferenceContinuous):
    def step(self):
        places = getattr(self, "places", [None] * self.slots)
        for i, job in enumerate(places):
            if job is None and self.waiting:
                places[i] = self.waiting.pop(0)
        self.places, finished = places, {}
        self.growing = [job for job in places if job]
        if not self.growing:
            return {}
        tokens = self.model([list(text) for _, text, _ in self.growing]).argmax(1).tolist()
        for (number, text, left), token in zip(self.growing, tokens, strict=True):
            i = next(i for i, job in enumerate(places) if job and job[0] == number)
            text.append(token)
            places[i] = (number, text, left - 1)
            if token == self.end or left == 1:
                finished[number], places[i] = text, None
        self.growing = [job for job in places if job]
        return finished


@misconception("ContinuousBatcher", "Lets the shortest text go first.")
class ShortestFirst(ReferenceContinuous):
    def step(self):
        self.waiting.sort(key=lambda job: len(job[1]))
        return super().step()


@misconception("ContinuousBatcher", "Keeps finished texts in the batch until all are finished: the model goes on with them.")
class KeepsFinished(ReferenceContinuous):
    def step(self):
        extra = getattr(self, "extra", [])
        model = self.model
        self.model = lambda texts: model(texts + [list(t) for t in extra])[: len(texts)]
        try:
            finished = super().step()
        finally:
            self.model = model
        self.extra = [*extra, *finished.values()] if self.growing else []
        return finished


# speculative_step


@misconception("speculative_step", "Accepts a guess if it is the large model's likeliest token: that is greedy decoding.")
def greedy(drafted, draft, target, *, generator):
    K, V = drafted.shape[1], target.shape[-1]
    sure = torch.nn.functional.one_hot(target.argmax(-1), V).to(target.dtype)
    return (
        reference_step(
            drafted, torch.nn.functional.one_hot(drafted, V).to(target.dtype).reshape(*drafted.shape, V), sure, generator=generator
        )
        if K
        else reference_step(drafted, draft, target, generator=generator)
    )


def _step(drafted, draft, target, generator, *, accept=None, left=None):
    B, K = drafted.shape
    rows = torch.arange(B)
    p = target[:, :K].gather(2, drafted[..., None])[..., 0]
    q = draft.gather(2, drafted[..., None])[..., 0]
    u = torch.rand(B, K, generator=generator, dtype=p.dtype)
    accepted = (accept or (lambda u, p, q: u * q < p))(u, p, q)
    counts = accepted.long().cumprod(1).sum(1)
    rest = torch.cat([draft, torch.zeros_like(target[:, :1])], 1)[rows, counts]
    now = target[rows, counts]
    weights = (left or (lambda p, q: (p - q).clamp(min=0)))(now, rest)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, now)
    drawn = torch.multinomial(weights, 1, generator=generator)
    tokens = torch.cat([drafted, drafted.new_full((B, 1), -1)], 1)
    tokens = torch.where(torch.arange(K + 1) < counts[:, None], tokens, -1).scatter(1, counts[:, None], drawn)
    return tokens, counts


@misconception("speculative_step", "Draws a refused guess's token from the large model's whole distribution.")
def draws_from_target(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, left=lambda p, q: p)


@misconception("speculative_step", "Draws the rest from |p − q|.")
def absolute_rest(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, left=lambda p, q: (p - q).abs())


@misconception("speculative_step", "Draws the rest from q − p.")
def rest_the_other_way(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, left=lambda p, q: torch.where(q.sum(1, keepdim=True) > 0, (q - p).clamp(min=0), p))


@misconception("speculative_step", "Accepts with probability p instead of p / q.")
def accepts_with_p(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, accept=lambda u, p, q: u < p)


@misconception("speculative_step", "Accepts with probability q / p.")
def accepts_with_the_inverse(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, accept=lambda u, p, q: u * p < q)


@misconception("speculative_step", "Accepts a guess if p is at least q, and never otherwise.")
def accepts_if_larger(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, accept=lambda u, p, q: p >= q)


@misconception("speculative_step", "Accepts everything.")
def accepts_all(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, accept=lambda u, p, q: torch.ones_like(p, dtype=torch.bool))


@misconception("speculative_step", "Accepts nothing.")
def accepts_nothing(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, accept=lambda u, p, q: torch.zeros_like(p, dtype=torch.bool), left=lambda p, q: p)


@misconception("speculative_step", "Counts all accepted guesses, also those behind a refused one.")
def counts_all(drafted, draft, target, *, generator):
    B, K = drafted.shape
    p = target[:, :K].gather(2, drafted[..., None])[..., 0]
    q = draft.gather(2, drafted[..., None])[..., 0]
    counts = (torch.rand(B, K, generator=generator, dtype=p.dtype) * q < p).sum(1)
    drawn = torch.multinomial(target[torch.arange(B), counts], 1, generator=generator)
    tokens = torch.cat([drafted, drafted.new_full((B, 1), -1)], 1)
    return torch.where(torch.arange(K + 1) < counts[:, None], tokens, -1).scatter(1, counts[:, None], drawn), counts


@misconception("speculative_step", "Draws one random number for all guesses of a text.")
def one_number_a_text(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, accept=lambda u, p, q: (u[:, :1] if u.shape[1] else u) * q < p)


@misconception("speculative_step", "Draws one random number for all texts.")
def one_number_for_all(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, accept=lambda u, p, q: (u[:1] if len(u) else u) * q < p)


@misconception("speculative_step", "Draws no further token after all guesses.")
def none_after_all(drafted, draft, target, *, generator):
    tokens, counts = reference_step(drafted, draft, target, generator=generator)
    done = counts == drafted.shape[1]
    tokens[done, -1] = -1
    return tokens, counts


@misconception("speculative_step", "Leaves the guesses behind the drawn token.")
def leaves_the_rest(drafted, draft, target, *, generator):
    tokens, counts = reference_step(drafted, draft, target, generator=generator)
    tokens[:, :-1] = torch.where(tokens[:, :-1] == -1, drafted, tokens[:, :-1])
    return tokens, counts


@misconception("speculative_step", "Counts the drawn token.")
def counts_the_drawn(drafted, draft, target, *, generator):
    tokens, counts = reference_step(drafted, draft, target, generator=generator)
    return tokens, counts + 1


@misconception("speculative_step", "Draws from torch's global generator.")
def global_draws(drafted, draft, target, *, generator):
    return reference_step(drafted, draft, target, generator=torch.Generator().manual_seed(torch.randint(2**40, ()).item()))


@misconception("speculative_step", "Draws the token after all guesses from the small model's last distribution.")
def last_from_draft(drafted, draft, target, *, generator):
    if not drafted.shape[1]:
        return reference_step(drafted, draft, target, generator=generator)
    target = torch.cat([target[:, :-1], draft[:, -1:]], 1)
    return reference_step(drafted, draft, target, generator=generator)


@misconception("speculative_step", "Looks at the large model's distribution one place too late.")
def one_place_late(drafted, draft, target, *, generator):
    return reference_step(drafted, draft, target.roll(-1, 1), generator=generator)


@misconception("speculative_step", "Takes the likeliest token of what is left, instead of drawing one.")
def likeliest_of_the_rest(drafted, draft, target, *, generator):
    return _step(
        drafted, draft, target, generator, left=lambda p, q: torch.nn.functional.one_hot((p - q).argmax(1), p.shape[1]).to(p.dtype)
    )


@misconception("speculative_step", "Gives the generator to the first draw only.")
def second_draw_is_global(drafted, draft, target, *, generator):
    tokens, counts = reference_step(drafted, draft, target, generator=generator)
    rows = torch.arange(len(drafted))
    rest = torch.cat([draft, torch.zeros_like(target[:, :1])], 1)[rows, counts]
    weights = (target[rows, counts] - rest).clamp(min=0)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, target[rows, counts])
    return tokens.scatter(1, counts[:, None], torch.multinomial(weights, 1)), counts


@misconception("speculative_step", "Ends every text's step where the first text of the batch has to end.")
def all_end_together(drafted, draft, target, *, generator):
    tokens, counts = reference_step(drafted, draft, target, generator=generator)
    if not len(counts):
        return tokens, counts
    least = counts.min()
    tokens[:, least + 1 :] = -1
    return tokens, counts.clamp(max=least)


@misconception("speculative_step", "Draws from p / q − 1 instead of p − q.")
def draws_from_the_ratio(drafted, draft, target, *, generator):
    return _step(drafted, draft, target, generator, left=lambda p, q: torch.where(q > 0, p / q - 1, p).clamp(min=0))


@misconception("speculative_step", "Takes the softmax of what is left: all tokens can come.")
def softmax_of_the_rest(drafted, draft, target, *, generator):
    return _step(
        drafted, draft, target, generator, left=lambda p, q: torch.where(q.sum(1, keepdim=True) > 0, (p - q).clamp(min=0).softmax(1), p)
    )


@misconception("speculative_step", "Looks at the first text's models for all texts.")
def models_of_the_first(drafted, draft, target, *, generator):
    if not len(drafted):
        return reference_step(drafted, draft, target, generator=generator)
    return reference_step(drafted, draft[:1].expand_as(draft), target[:1].expand_as(target), generator=generator)
