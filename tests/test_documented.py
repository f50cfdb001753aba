"""What docs/semantics.md and docs/numerics.md say, by small examples; kernels against the reference
and error bounds are in the tests of each family.
"""

from __future__ import annotations

import sys
import types

import fastconv as fc
import numpy as np
import pytest
from support import integers, normals

# ---- arrays


class Exported:
    """Memory of another library: DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_whatever_exports_dlpack_is_taken(rng):
    x, weight = normals((2, 3, 6, 7), rng), normals((4, 3, 3, 3), rng)
    y = fc.conv2d(Exported(x), Exported(weight))
    assert np.array_equal(np.asarray(y), fc.conv2d(x, weight))
    out = np.empty_like(y)
    assert fc.conv2d(x, weight, out=out) is out


IMAGES = {
    "conv2d": lambda x: fc.conv2d(x, np.ones((5, 4, 3, 3), np.float32)),
    "conv_transpose2d": lambda x: fc.conv_transpose2d(x, np.ones((4, 5, 3, 3), np.float32)),
    "max_pool2d": lambda x: fc.max_pool2d(x, 2),
    "max_pool2d's indices": lambda x: fc.max_pool2d(x, 2, return_indices=True)[1],
    "avg_pool2d": lambda x: fc.avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: fc.adaptive_max_pool2d(x, 3),
    "adaptive_avg_pool2d": lambda x: fc.adaptive_avg_pool2d(x, 3),
    "batch_norm": lambda x: fc.batch_norm(x, training=True)[0],
    "local_response_norm": lambda x: fc.local_response_norm(x, 3),
    "relu": lambda x: fc.relu(x),
    "dropout": lambda x: fc.dropout(x, 0.5, seed=1),
    "softmax": lambda x: fc.softmax(x),
    "grad_input": lambda x: fc.conv2d_backward(
        np.ones((2, 5, 6, 7), np.float32), x, np.ones((5, 4, 1, 1), np.float32)
    )[0],
    "conv_transpose2d's grad_input": lambda x: fc.conv_transpose2d_backward(
        np.ones((2, 5, 6, 7), np.float32), x, np.ones((4, 5, 1, 1), np.float32)
    )[0],
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_result_has_the_memory_order_of_x(name, rng):
    x = normals((2, 4, 6, 7), rng)
    plain, last = IMAGES[name](x), IMAGES[name](fc.channels_last(x))
    assert plain.flags.c_contiguous
    assert fc.is_channels_last(last)
    wide = fc.channels_last(normals((2, 9, 6, 7), rng))
    assert fc.is_channels_last(IMAGES[name](wide[:, 2:6]))  # a slice of channels, too


def test_grad_weight_has_the_order_of_the_weight(rng):
    x, grad, weight = (normals(s, rng) for s in ((2, 4, 6, 7), (2, 5, 4, 5), (5, 4, 3, 3)))
    assert fc.conv2d_backward(grad, x, weight)[1].flags.c_contiguous
    assert fc.is_channels_last(fc.conv2d_backward(grad, x, fc.channels_last(weight))[1])


def test_nothing_is_cast(rng):
    x = normals((2, 3, 5, 5), rng)
    for call in (
        lambda: fc.conv2d(x, np.ones((2, 3, 2, 2))),
        lambda: fc.linear(x[0, 0], np.ones((2, 5))),
        lambda: fc.batch_norm(x, weight=np.ones(3), training=True),
        lambda: fc.relu_backward(x, x.astype(np.float64)),
        lambda: fc.conv2d(x, np.ones((2, 3, 2, 2), np.float32), out=np.ones((2, 2, 4, 4))),
    ):
        with pytest.raises(TypeError, match="float64"):
            call()


def test_fields_of_structured_arrays_are_refused_by_name():
    table = np.ones((2, 3, 4, 5), [("value", np.float32), ("flag", np.uint8)])
    with pytest.raises(ValueError, match=r"relu: x has an address or strides .*x\.copy\(\)"):
        fc.relu(table["value"])
    assert fc.relu(table["value"].copy()).shape == (2, 3, 4, 5)


# ---- convolution

SUMMING = ["naive", "im2col", "direct"]


@pytest.mark.parametrize("algorithm", SUMMING)
def test_padding_takes_part_in_the_product(algorithm, isa):
    """0 * inf at a border is NaN, as with numpy.pad."""
    x, weight = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
    weight[0, 0, 0, 0] = np.inf
    y = fc.conv2d(x, weight, padding=1, algorithm=algorithm)[0, 0]
    assert np.isnan(y[0]).all()
    assert np.isnan(y[:, 0]).all()
    assert np.isposinf(y[1:, 1:]).all()


def test_same_keeps_the_ceiling_and_pads_the_odd_pixel_last():
    x, weight = np.ones((1, 1, 5, 6), np.float32), np.ones((1, 1, 2, 2), np.float32)
    y = fc.conv2d(x, weight, padding="same")[0, 0]
    assert y.shape == (5, 6)
    assert (y[:-1, :-1] == 4).all()
    assert (y[-1, :-1] == 2).all()
    assert fc.conv2d(x, weight, padding="same", stride=4).shape == (1, 1, 2, 2)


def test_a_window_wholly_in_the_padding_gives_the_bias():
    x, weight = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 2, 2), np.float32)
    y = fc.conv2d(x, weight, np.full(1, 7, np.float32), padding=4)[0, 0]
    assert y.shape == (8, 8)
    assert (y[:2] == 7).all()
    assert y[3:5, 3:5].tolist() == [[8, 8], [8, 8]]


def test_residual_comes_before_the_activation(rng):
    x, weight, bias = integers((2, 4, 5, 5), rng), integers((3, 4, 1, 1), rng), integers((3,), rng)
    residual = integers((2, 3, 5, 5), rng)
    y = fc.conv2d(x, weight, bias, residual=residual, activation="relu")
    assert np.array_equal(y, np.maximum(fc.conv2d(x, weight, bias) + residual, 0))


# ---- pooling


def test_pooling_by_the_table():
    x = np.array([[[[1, 2, 2], [0, np.nan, 1], [-1, -2, -3]]]], np.float32)
    y, indices = fc.max_pool2d(x[..., :1, :], (1, 3), return_indices=True)
    assert (y.item(), indices.item()) == (2, 1)  # the first of equals
    assert np.isnan(fc.max_pool2d(x, 3)).all()
    y = fc.max_pool2d(x[..., 2:, :], (1, 3), padding=(0, 2), stride=1)
    assert y.tolist() == [[[[-1, -1, -1, -2, -3]]]]  # padding never wins
    y, indices = fc.max_pool2d(x[..., :1, :2], (1, 2), padding=(0, 2), dilation=(1, 3), stride=3,
                               return_indices=True)  # fmt: skip
    assert (y.tolist(), indices.tolist()) == ([[[[2]]]], [[[[1]]]])
    with pytest.raises(ValueError, match=r"less than the window's extent \(2 - 1\) \* 3 \+ 1 = 4"):
        fc.max_pool2d(x, 2, padding=4, dilation=3)
    assert fc.max_pool2d(x, 2).shape == (1, 1, 1, 1)  # the default stride is the window


def test_windows_without_an_input_element():
    """Taps that all miss: -inf and -1, which backward ignores; an average of 0 if not counted."""
    x = np.ones((1, 1, 2, 2), np.float32)
    y, indices = fc.max_pool2d(x, 2, stride=1, padding=2, dilation=3, return_indices=True)
    missed = indices == -1
    assert missed.any()
    assert np.isneginf(y[missed]).all()
    back = fc.max_pool2d_backward(
        np.ones_like(y), indices, x.shape, 2, stride=1, padding=2, dilation=3
    )
    assert back.sum() == (~missed).sum()
    mean = fc.avg_pool2d(x, 3, stride=2, padding=2, ceil_mode=True, count_include_pad=False)
    assert set(mean.ravel().tolist()) <= {0.0, 1.0}


def test_ceil_mode_drops_a_window_that_begins_beyond_the_input():
    x = np.ones((1, 1, 5, 5), np.float32)
    assert fc.max_pool2d(x, 2, stride=2, ceil_mode=True).shape[2:] == (3, 3)
    assert fc.max_pool2d(x, 2, stride=5, padding=1, ceil_mode=True).shape[2:] == (2, 2)
    assert fc.max_pool2d(x, 2, stride=6, padding=1, ceil_mode=True).shape[2:] == (1, 1)


def test_average_counts_what_it_covers():
    x = np.full((1, 1, 3, 3), 4, np.float32)
    corner = {True: 4 * 4 / 9, False: 4}
    for counted, value in corner.items():
        y = fc.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=counted)
        assert np.isclose(y[0, 0, 0, 0], value)
    # A window that hangs over the padded input counts what it covers: 2 of 3 columns.
    y = fc.avg_pool2d(np.full((1, 1, 1, 5), 4, np.float32), (1, 3), stride=3, ceil_mode=True)
    assert y.tolist() == [[[[4, 4]]]]
    assert fc.avg_pool2d(x, 3, divisor_override=2).item() == 18


# ---- normalisation and dropout


def test_momentum_weighs_the_new_value_and_the_variance_is_unbiased():
    x = np.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1)
    mean, var = np.array([10.0]), np.array([1.0])
    fc.batch_norm(x, running_mean=mean, running_var=var, training=True, momentum=0.1)
    assert np.allclose(mean, 0.9 * 10 + 0.1 * 3)
    assert np.allclose(var, 0.9 * 1 + 0.1 * x.var(ddof=1))


def test_alpha_is_divided_by_size():
    x = np.full((1, 5, 1, 1), 2.0)
    y = fc.local_response_norm(x, 5, alpha=1.0, beta=1.0, k=1.0)
    assert np.isclose(y[0, 2, 0, 0], 2 / (1 + 1.0 / 5 * 5 * 4))


def test_dropout_depends_on_the_logical_index_alone(rng):
    x = np.abs(normals((3, 8, 5, 7), rng)) + 1
    mask = fc.dropout(x, 0.4, seed=11) != 0
    assert np.array_equal(fc.dropout(fc.channels_last(x), 0.4, seed=11) != 0, mask)
    assert np.array_equal(fc.dropout(x[:, ::-1], 0.4, seed=11) != 0, mask)
    assert not np.array_equal(fc.dropout(x, 0.4, seed=12) != 0, mask)


# ---- numbers


def test_only_multiply_accumulate_flushes_denormals(isa):
    tiny = np.full((1, 2, 4, 4), 2.0**-140, np.float32)
    assert (fc.conv2d(tiny, np.ones((1, 2, 1, 1), np.float32)) == 0).all()
    assert (fc.max_pool2d(tiny, 2) == tiny[:, :, :2, :2]).all()
    assert (fc.avg_pool2d(tiny, 2) == tiny[:, :, :2, :2]).all()
    assert (fc.relu(tiny) == tiny).all()
    assert (fc.tanh(tiny) == tiny).all()
    assert (fc.dropout(tiny, 0.0, seed=1) == tiny).all()
    assert (fc.conv2d(tiny.astype(float), np.ones((1, 2, 1, 1))) == 2.0**-139).all()


def test_scalar_rounds_each_product_and_the_others_do_not(isa):
    """-1 + (1 + 2**-12)**2: the product's last bit is lost where it is rounded by itself."""
    x = np.array([-1, 1 + 2.0**-12], np.float32).reshape(1, 2, 1, 1)
    weight = np.array([1, 1 + 2.0**-12], np.float32).reshape(1, 2, 1, 1)
    fused = 2.0**-11 + 2.0**-24
    assert fc.conv2d(x, weight).item() == (2.0**-11 if isa == "scalar" else fused)


def test_tensors_that_are_no_arrays_are_refused_by_name():
    torch = pytest.importorskip("torch")
    ones = torch.ones(3, 5)
    with pytest.raises(ValueError, match=r"relu: x has no memory to share: .*meta"):
        fc.relu(ones.to("meta"))
    with pytest.raises(TypeError, match=r"relu: x is no plain array: .*Sparse"):
        fc.relu(ones.to_sparse())
    with pytest.raises(TypeError, match=r"relu: x is no plain array: .*resolve_neg\(\)"):
        fc.relu(torch.ones(3, 5, dtype=torch.cfloat).conj().imag)
    with pytest.raises(TypeError, match=r"relu: x has dtype int32.*x\.float\(\)"):
        fc.relu(ones.int())
    with pytest.raises(TypeError, match=r"relu: x has dtype bfloat16.*x\.float\(\)"):
        fc.relu(ones.bfloat16())
    loss = fc.cross_entropy(ones, torch.tensor([0, 4, 2], dtype=torch.int32))  # narrower: taken
    assert np.isclose(float(loss), np.log(5))


def test_tensors_of_a_subclass_come_back_as_tensors():
    torch = pytest.importorskip("torch")

    class Tagged(torch.Tensor):
        pass

    x = torch.arange(-8.0, 8.0).reshape(1, 1, 4, 4)
    tagged = x.as_subclass(Tagged)
    assert torch.equal(fc.relu(tagged), torch.relu(x))
    pooled, indices = fc.max_pool2d(tagged, 2, return_indices=True)
    assert isinstance(pooled, torch.Tensor)
    assert isinstance(indices, torch.Tensor)
    with pytest.raises(TypeError, match=r"dtype bfloat16.*x\.float\(\)"):
        fc.relu(tagged.bfloat16())
    parameter = torch.nn.Parameter(x)
    with pytest.raises(TypeError, match=r"requires grad.*x\.detach\(\)"):
        fc.relu(parameter)


@pytest.mark.parametrize("module", ["jaxlib._jax", "jax.interpreters", "unloaded.arrays"])
def test_arrays_of_other_libraries_come_back_as_theirs(module, monkeypatch):
    """JAX's arrays are of a class in jaxlib, made by jax.numpy; what none makes is NumPy's."""

    class Theirs(Exported):
        pass

    Theirs.__module__ = module
    numpy_of_jax = types.ModuleType("jax.numpy")
    numpy_of_jax.from_dlpack = lambda array: Theirs(np.asarray(array))
    monkeypatch.setitem(sys.modules, "jax.numpy", numpy_of_jax)
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    y = fc.relu(Theirs(x))
    assert type(y) is (np.ndarray if module.startswith("unloaded") else Theirs)
    np.testing.assert_array_equal(getattr(y, "array", y), np.maximum(x, 0))
