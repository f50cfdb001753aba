"""Direct convolution of small maps, where a task has several images and packs its weights."""

import fastconv as fc
import numpy as np
import pytest
from cases import CONV_SMALL_MAPS
from fastconv import reference
from strategies import machine
from support import assert_exact, in_order, integers, normals, params, poisoned


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("order", ["C", "channels_last", "channel_slice"])
@pytest.mark.parametrize("case", params(CONV_SMALL_MAPS))
def test_images_of_a_task_keep_apart(case, order, threads, isa, rng):
    x, weight = integers(case.input_shape, rng), integers(case.weight_shape, rng)
    bias = integers((case.k,), rng)
    expected = reference.conv2d(x, weight, bias, **case.arguments)
    residual, grad = integers(expected.shape, rng), integers(expected.shape, rng)
    expected = np.maximum(expected + residual, 0)
    back = reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments)
    ordered = in_order(weight, order)
    with machine(isa, threads):
        for weights in (ordered, fc.pack_weight(ordered, groups=case.groups)):
            out = poisoned(expected.shape, order=order)
            fc.conv2d(
                in_order(x, order), weights, bias, residual=in_order(residual, order), out=out,
                activation="relu", algorithm="direct", **case.arguments
            )  # fmt: skip
            assert_exact(out, expected)
        out = poisoned(x.shape, order=order)
        fc.conv2d_grad_input(
            in_order(grad, order), ordered, x.shape, out=out, algorithm="direct", **case.arguments
        )
        assert_exact(out, back)


@pytest.mark.parametrize("case", params(CONV_SMALL_MAPS))
def test_an_image_has_its_bits_alone_and_among_others(case, isa, rng):
    x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
    for order in ("C", "channels_last"):
        x = in_order(x, order)
        y = fc.conv2d(x, weight, algorithm="direct", **case.arguments)
        for n in range(case.n):
            alone = fc.conv2d(x[n : n + 1], weight, algorithm="direct", **case.arguments)
            assert np.array_equal(alone[0], y[n])


def test_a_task_has_several_images_of_a_small_map(isa):
    def tasks(batch, size, threads):
        with machine(isa, threads):
            plan = fc.explain(
                fc.conv2d, (batch, 192, size, size), (384, 192, 3, 3), padding=1,
                algorithm="direct",
            )  # fmt: skip
        return next(line for line in str(plan).splitlines() if "tasks of" in line)

    assert "tasks of 8 images of 7 x 7 positions" in tasks(8, 7, 1)
    assert "tasks of 8 images of 7 x 7 positions x 2 parts of the columns" in tasks(8, 7, 2)
    assert "tasks of 10 images of 7 x 7 positions" in tasks(20, 7, 2)
    assert "tasks of 7 x 7 positions" in tasks(1, 7, 1)
    assert "tasks of 7 x 28 positions" in tasks(8, 28, 1)


def test_large_kernels_keep_to_the_scratch_that_a_thread_has(isa, rng):
    padding = ((15, 15), (18, 17))
    x, weight = integers((9, 16, 7, 7), rng), integers((64, 16, 31, 36), rng)
    expected = reference.conv2d(x, weight, padding=padding)
    for order in ("C", "channels_last"):
        with machine(isa, 1):
            args = in_order(x, order), in_order(weight, order)
            assert_exact(fc.conv2d(*args, padding=padding, algorithm="direct"), expected)
            # Blocks come close to the limit at other widths where tiles or vectors are narrower.
            for width in range(30, 41):
                plan = fc.explain(
                    fc.conv2d, x.shape, (64, 16, 31, width), algorithm="direct", padding=(15, 20),
                    channels_last=order == "channels_last",
                )  # fmt: skip
                assert plan.scratch_bytes_per_thread <= 4 << 20
