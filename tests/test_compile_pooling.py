"""2x2 max pooling in the call of a Winograd convolution: the bits of the two calls, by the kernel
and by `fc.compile`, and what keeps a step of its own."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core
from fastconv.fusion import fuse, program_of
from fastconv.graph import Graph
from fastconv.memory_plan import plan_memory
from fastconv.ops.conv_problem import ALGORITHMS
from fastconv.pool_fusion import fuse_max_pools
from inference_models import model_of
from support import ORDERS, assert_only_wrote, in_order, normals, poisoned

L = fc.layers

KERNELS = [("winograd2", 3), ("winograd4", 3), ("winograd6", 3), ("winograd2", 5), ("winograd4", 5),
           ("winograd4", 11), ("winograd2", 9)]  # fmt: skip


def same_bits(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


# The kernel


def pooled(
    x, weight, out, algorithm, bias=None, residual=None, relu=False, pad=1, groups=1, stride=1
):
    numbers = (stride, stride, pad, pad, pad, pad, 1, 1, groups)
    _core.conv2d(
        0, x, weight, out, None, bias, residual, numbers, relu, False, ALGORITHMS[algorithm],
        pooled=True,
    )  # fmt: skip
    return out


def check(x, weight, algorithm, order="C", *, pad=1, groups=1, stride=1, **added):
    """One call beside two: every bit, a NaN's and a zero's sign too."""
    relu, residual = added.pop("relu", False), added.get("residual")
    y = fc.conv2d(
        x, weight, stride=stride, padding=pad, groups=groups, algorithm=algorithm,
        activation="relu" if relu else None, **added,
    )  # fmt: skip
    wanted = fc.max_pool2d(y, 2)
    out = poisoned(wanted.shape, order=order)
    if residual is not None:
        added["residual"] = in_order(residual, order)
    options = {"pad": pad, "groups": groups, "stride": stride, "relu": relu}
    pooled(in_order(x, order), weight, out, algorithm, **options, **added)
    assert same_bits(out, wanted)
    assert_only_wrote(out)
    return wanted


@pytest.mark.parametrize(("algorithm", "taps"), KERNELS)
@pytest.mark.parametrize("size", [(15, 13), (12, 16), (2, 3), (17, 4), (9, 25)])
def test_one_call_has_the_bits_of_two(algorithm, taps, size, isa, rng):
    filters = 2 * _core.vector_lanes() + 3
    weight, bias = normals((filters, 5, taps, taps), rng), normals((filters,), rng)
    x, residual = normals((3, 5, *size), rng), normals((3, filters, *size), rng)
    pad = taps // 2
    check(x, weight, algorithm, pad=pad)
    check(x, weight, algorithm, "channels_last", pad=pad, bias=bias, relu=True)
    check(x, weight, algorithm, pad=pad, bias=bias, residual=residual, relu=True)
    check(x, weight, algorithm, "channels_last", pad=pad, residual=residual)
    grouped = normals((filters - filters % 3, 2, taps, taps), rng)
    check(normals((2, 6, *size), rng), grouped, algorithm, pad=pad, groups=3)


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_memory(order, isa, rng):
    weight, bias = normals((21, 6, 3, 3), rng), normals((21,), rng)
    x, residual = normals((2, 6, 15, 11), rng), normals((2, 21, 15, 11), rng)
    check(x, weight, "winograd4", order, bias=bias, residual=residual, relu=True)
    check(x, weight, "winograd2", order)
    check(x, normals((21, 6, 5, 5), rng), "winograd4", order, pad=2, stride=2, bias=bias)


@pytest.mark.parametrize("relu", [False, True])
def test_infinities_nan_and_signed_zeros(relu, isa, rng):
    x, weight = normals((2, 4, 24, 20), rng), normals((19, 4, 3, 3), rng)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        spoilt = x.copy()
        spoilt.reshape(-1)[rng.integers(0, x.size, 3)] = value
        wanted = check(spoilt, weight, "winograd4", relu=relu)
        assert np.isnan(wanted).any()
        assert np.isfinite(wanted).any()
    residual = normals((2, 19, 24, 20), rng)
    for value in (np.nan, np.inf, -np.inf):  # in single elements of a window, and whole ones
        spoilt = np.where(rng.random(residual.shape) < 0.4, np.float32(value), residual)
        check(x, weight, "winograd4", residual=spoilt, relu=relu)
    # Sums too small for a normal number are flushed to zeros of their signs.
    bias = np.full(19, 1.5e-38, np.float32)
    tiny = np.where(rng.random(residual.shape) < 0.5, -1.6e-38, -1.4e-38).astype(np.float32)
    wanted = check(0 * x, weight, "winograd4", bias=bias, residual=tiny, relu=relu)
    assert not wanted.any()
    assert 0 < np.signbit(wanted).sum() < wanted.size


def test_what_does_not_pool_says_so(rng):
    x, weight = normals((1, 4, 8, 8), rng), normals((4, 4, 3, 3), rng)
    out = poisoned((1, 4, 4, 4))
    for algorithm in ("direct", "im2col", "naive"):
        with pytest.raises(ValueError, match="does not pool what it computes"):
            pooled(x, weight, out, algorithm)
    with pytest.raises(ValueError, match="tiles have 3 x 3 outputs, which do not pool"):
        pooled(x, normals((4, 4, 4, 4), rng), poisoned((1, 4, 3, 3)), "winograd4")
    with pytest.raises(ValueError, match="shapes do not belong together"):
        pooled(x, weight, poisoned((1, 4, 8, 8)), "winograd4")
    with pytest.raises(ValueError, match="only a forward convolution pools"):
        _core.conv2d(1, x, weight, out, None, None, None, (1, 1, 1, 1, 1, 1, 1, 1, 1), False,
                     False, ALGORITHMS["winograd4"], pooled=True)  # fmt: skip
    assert np.isnan(out).all()


# What is compiled

C = 40  # channels that no vector divides, enough for Winograd's algorithm


def conv(filters=C + 3, channels=C, **options):
    return L.Conv2d(channels, filters, 3, padding=1, **options)


def plain():
    return L.Sequential(conv(), L.ReLU(), L.MaxPool2d(2))


def normalized():
    return L.Sequential(conv(bias=False), L.BatchNorm2d(C + 3), L.MaxPool2d(2, ceil_mode=False))


def residual():
    """The stem's result dies with the sum, and its memory is four times that of the maxima."""
    body = L.Sequential(conv(C), L.ReLU(), conv(C), L.BatchNorm2d(C))
    return L.Sequential(conv(C), L.Residual(body), L.ReLU(), L.MaxPool2d(2), conv())


def in_channels():
    pools = [L.Sequential(conv(C + i), L.ReLU(), L.MaxPool2d(2, stride=2)) for i in (3, 8)]
    return L.Sequential(L.Concat(*pools), L.Tanh())


def twice():
    """Of two poolings the first alone is in the convolution."""
    return L.Sequential(conv(), L.MaxPool2d(2), L.MaxPool2d(2), L.ReLU())


FUSED = {plain: 1, normalized: 1, residual: 1, in_channels: 2, twice: 1}


def without_pools(model, shape, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fastconv.inference.fuse_max_pools", lambda program, dtype: program)
        return fc.compile(model, shape)


def operations(plan):
    return [row.operation for row in plan.rows]


@pytest.mark.parametrize("make", FUSED)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_plan_has_the_bits_of_one_that_pools_apart(make, batch, isa, rng, monkeypatch):
    model, shape = make().eval(), (batch, C, 15, 13)
    plan, apart = fc.compile(model, shape), without_pools(model, shape, monkeypatch)
    fused = [row for row in plan.rows if row.kernel.endswith("+ max_pool2d")]
    assert len(fused) == len(apart.rows) - len(plan.rows) == FUSED[make]
    x = normals(shape, rng)
    spoilt = x.copy()
    spoilt[0, 3, 4, 5], spoilt[-1, 7, 14, 0] = np.nan, np.inf
    before = fc.get_num_threads()
    try:
        for images in (x, fc.channels_last(x), spoilt):
            for threads in (1, 2, 3):
                fc.set_num_threads(threads)
                plan._arena[...] = np.nan
                assert same_bits(plan(images), apart(images))
    finally:
        fc.set_num_threads(before)


def test_the_fused_step_names_both():
    plan = fc.compile(plain().eval(), (2, C, 15, 13))
    (row,) = plan.rows
    assert row.operation == "conv2d + relu + max_pool2d"
    assert row.layer == "0 + 2"
    assert row.kernel == "winograd4 + max_pool2d"
    assert row.output == (2, C + 3, 7, 6)
    weights = 9 * C * (C + 3) + C + 3
    assert row.bytes == 4 * (2 * C * 15 * 13 + 2 * (C + 3) * 7 * 6 + weights)
    assert row.multiply_adds == 2 * 9 * C * (C + 3) * 15 * 13
    assert "winograd4 + max_pool2d" in str(plan)
    profile = plan.profile(np.zeros(plan.input_shape, np.float32), repeats=1)
    assert "winograd4 + max_pool2d" in str(profile)


def test_what_is_pooled_has_no_memory():
    model, shape = plain().eval(), (2, C, 16, 16)
    program = fuse(program_of(Graph.of(model, shape), model.state_dict()))
    apart = plan_memory(program, 4)
    (step,) = fuse_max_pools(program, "float32").steps
    memory = plan_memory(program, 4)
    assert len(apart.places) == len(memory.places) + 1 == 3
    sizes = 2 * 256 * np.array([C, (C + 3) / 4])
    assert memory.elements <= sizes.sum() + 2 * 64  # both are padded to whole lines
    assert memory.places[step.output].storage == step.output


class Twice(L.Layer):
    """What is pooled is read again, or returned."""

    def __init__(self, returned):
        self.conv, self.pool, self.other, self.returned = conv(), L.MaxPool2d(2), L.Tanh(), returned

    def forward(self, x):
        y = self.conv(x)
        return self.pool(y), y if self.returned else self.other(y)


APART = {
    "another reader": lambda: Twice(False),
    "a result": lambda: Twice(True),
    "3x3/2": lambda: L.Sequential(conv(), L.MaxPool2d(3, stride=2)),
    "stride 1": lambda: L.Sequential(conv(), L.MaxPool2d(2, stride=1)),
    "padded": lambda: L.Sequential(conv(), L.MaxPool2d(2, padding=1)),
    "dilated": lambda: L.Sequential(conv(), L.MaxPool2d(2, stride=2, dilation=2)),
    "hanging over": lambda: L.Sequential(conv(), L.MaxPool2d(2, ceil_mode=True)),
    "average": lambda: L.Sequential(conv(), L.AvgPool2d(2)),
    "something between": lambda: L.Sequential(conv(), L.Tanh(), L.MaxPool2d(2)),
    "pointwise": lambda: L.Sequential(L.Conv2d(C, C, 1), L.MaxPool2d(2)),
    "strided": lambda: L.Sequential(
        L.Conv2d(C, C, 3, stride=2, padding=1), L.ReLU(), L.MaxPool2d(2)
    ),
    "direct": lambda: L.Sequential(L.Conv2d(C, 4, 3, groups=4), L.MaxPool2d(2)),
}


@pytest.mark.parametrize("case", APART)
def test_others_keep_a_step_of_their_own(case, rng, monkeypatch):
    model, shape = APART[case]().eval(), (2, C, 15, 13)
    plan = fc.compile(model, shape)
    assert sum(name.endswith("_pool2d") for name in operations(plan)) == 1
    assert not any(" + max_pool2d" in row.operation + row.kernel for row in plan.rows)
    x, apart = normals(shape, rng), without_pools(model, shape, monkeypatch)
    for ours, wanted in zip(results_of(plan, x), results_of(apart, x), strict=True):
        assert same_bits(ours, wanted)


def results_of(plan, x):
    results = plan(x)
    return results if isinstance(results, tuple) else (results,)


def test_float64_empty_batches_and_images_of_one_pixel(rng):
    model = plain().to(dtype="float64").eval()
    plan = fc.compile(model, (1, C, 15, 13), dtype="float64")
    assert operations(plan) == ["conv2d + relu", "max_pool2d"]
    empty = fc.compile(plain().eval(), (0, C, 15, 13))
    assert empty(np.ones((0, C, 15, 13), np.float32)).shape == (0, C + 3, 7, 6)
    # Whole windows even where ceil_mode may hang over.
    even = L.Sequential(conv(), L.MaxPool2d(2, ceil_mode=True)).eval()
    assert operations(fc.compile(even, (1, C, 16, 12))) == ["conv2d + max_pool2d"]


def test_vgg16_pools_in_its_convolutions():
    with fc.init.skipped():
        model = fc.models.vgg16().eval()
    program = fuse(program_of(Graph.of(model, (1, 3, 224, 224)), model.state_dict()))
    assert sum(step.op == "max_pool2d" for step in program.steps) == 5
    steps = fuse_max_pools(program, "float32").steps
    assert not any(step.op == "max_pool2d" for step in steps)
    assert [step.path for step in steps if step.pooled] == [
        "features.2 + features.4", "features.7 + features.9", "features.14 + features.16",
        "features.21 + features.23", "features.28 + features.30",
    ]  # fmt: skip


def test_a_plan_outlives_the_precision_it_was_made_in(rng):
    model, x = plain().eval(), normals((1, C, 24, 24), rng)
    with fc.float32_precision("high"):
        plan = fc.compile(model, x.shape)
        wanted = plan(x)
    before = fc.get_num_threads()
    try:
        fc.set_num_threads(before + 1)  # the calls are recorded anew
        assert same_bits(plan(x), wanted)
    finally:
        fc.set_num_threads(before)


def test_the_models_of_compile_are_as_they_were():
    """Small ones run by other algorithms: their poolings stay steps."""
    plan = fc.compile(model_of("classifier"), (2, 3, 6, 8))
    assert "max_pool2d" in operations(plan)
