"""The one name that all spellings of a banned operation share. Reading a source needs it without torch, watching a run with it."""

__all__ = ["leaf"]


def leaf(name: str) -> str:
    """The last part of a dotted or `aten::` name, without what marks private, in-place and namespaced variants of one operation."""
    last = name.replace("::", ".").rsplit(".", 1)[-1].strip("_")
    return last.removeprefix("linalg_").removeprefix("special_").removeprefix("safe_").removeprefix("sparse_")
