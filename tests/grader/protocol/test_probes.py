"""Probes as bytes: a tensor that a probe captures arrives with its values and its layout."""

import pytest
import torch

from grader.protocol.probes import freeze, thaw

X = torch.tensor([[1 + 2j, 3 - 4j], [0.5j, -1]])
VIEWS = {
    "plain": X,
    "transposed": X.mT,
    "expanded": X[:1].expand(3, 2),
    "sliced": X[:, 1:],
    "conjugate": X.conj(),
    "negative": X.conj().imag,
    "empty": X[:0],
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_captured_tensor_arrives_as_it_is(view: str) -> None:
    """A view that only says that its entries are conjugate or negative, too."""
    x = VIEWS[view]
    got = thaw(freeze(lambda m: x))(None)
    assert torch.equal(got.resolve_conj(), x.resolve_conj().resolve_neg())
    assert (got.dtype, got.stride()) == (x.dtype, x.stride())
