"""`load_state_dict` of what PyTorch and others hold: read, or named with what to do."""

from __future__ import annotations

import numpy as np
import pytest
from fastconv import layers as L


def model_and_tensors():
    torch = pytest.importorskip("torch")
    model = L.Sequential(L.Linear(3, 2))
    return torch, model, {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2)}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
def test_tensors_that_numpy_reads_are_loaded(dtype):
    torch, model, tensors = model_and_tensors()
    model.load_state_dict({n: t.to(getattr(torch, dtype)) for n, t in tensors.items()})
    assert (model[0].weight.data == 1).all()


def test_tensors_that_it_does_not_read_are_named():
    torch, model, tensors = model_and_tensors()
    before = model[0].weight.data.copy()
    for change, text in (
        (lambda t: torch.nn.Parameter(t), r"0.weight is a tensor that requires grad; .*\.detach"),
        (lambda t: t.bfloat16(), r"0.weight is a Tensor of dtype torch.bfloat16.*weight\.float\("),
        (lambda t: t.to_sparse(), r"0.weight is a Tensor of dtype torch.float32"),
    ):
        with pytest.raises(TypeError, match=f"Sequential.load_state_dict: {text}"):
            model.load_state_dict({**tensors, "0.weight": change(tensors["0.weight"])})
    np.testing.assert_array_equal(model[0].weight.data, before)


@pytest.mark.parametrize("state", [[1], None, 3, {1: np.ones(2)}], ids=repr)
def test_what_is_no_state_is_named(state):
    kind = type(state).__name__
    with pytest.raises(TypeError, match=f"Linear.load_state_dict: state is a {kind}; wanted a di"):
        L.Linear(1, 1).load_state_dict(state)
