"""Which problems `auto` gives to Winograd, and to which of its variants."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core
from support import assert_exact, normals


def test_the_batch_does_not_choose_the_gradients_algorithm():
    for size, channels in ((56, 64), (14, 256), (7, 512), (7, 24), (4, 16)):
        names = {
            fc.explain(
                fc.conv2d_grad_weight, (n, channels, size, size), (n, channels, size, size),
                (channels, channels, 3, 3), padding=1, threads=threads,
            ).algorithm
            for n in (1, 8, 256) for threads in (1, 64)
        }  # fmt: skip
        assert len(names) == 1, names


def test_the_workspace_does_not_let_the_batch_choose_the_gradients_algorithm():
    """Panels of 8 columns in 16: several sums would need more than the weights' size tells."""
    names = {
        fc.explain(
            fc.conv2d_grad_weight, (n, 128, 56, 56), (n, 256, 56, 56), (128, 16, 9, 9), padding=4,
            groups=16,
        ).algorithm
        for n in (1, 8, 64)
    }  # fmt: skip
    assert len(names) == 1, names


@pytest.mark.parametrize("function", [fc.conv2d, fc.conv2d_grad_input, fc.conv2d_grad_weight])
def test_auto_takes_it_for_large_kernels(function):
    shape, kernel, output = (1, 64, 32, 32), (64, 64, 9, 9), (1, 64, 24, 24)
    plan = fc.explain(function, *FUNCTIONS[function](shape, kernel, output))
    assert (plan.algorithm, plan.winograd["subkernels"]) == ("winograd4", 9)
    assert "9 subkernels of 3 x 3" in str(plan)


def test_auto_takes_it_for_large_kernels_of_stride_2():
    """ZFNet's second convolution: 3x3, 3x2, 2x3 and 2x2 taps, each of a quarter of the pixels."""
    operands = (1, 96, 55, 55), (256, 96, 5, 5), (1, 256, 28, 28)
    for function in (fc.conv2d, fc.conv2d_grad_weight):
        plan = fc.explain(function, *FUNCTIONS[function](*operands), stride=2, padding=2)
        assert (plan.algorithm, plan.winograd["subkernels"]) == ("winograd4", 4)
    operands = FUNCTIONS[fc.conv2d_grad_input](*operands)
    plan = fc.explain(fc.conv2d_grad_input, *operands, stride=2, padding=2)
    assert not plan.algorithm.startswith("winograd")


@pytest.mark.parametrize("name", ["avx2", "avx512"])  # with matrix tiles direct may be faster
def test_auto_folds_the_stride_of_a_first_layer(name):
    """AlexNet's 11x11 of stride 4 over 3 channels is 3x3 over 48, ResNet's 7x7 of 2 4x4 over 12."""
    if name not in _core.supported_isas():
        pytest.skip(f"no {name} here")
    with fc.isa(name):
        alexnet = fc.explain(fc.conv2d, (1, 3, 227, 227), (96, 3, 11, 11), stride=4)
        wide = fc.explain(fc.conv2d, (1, 12, 64, 64), (64, 12, 12, 12), stride=4)
        # By name: twelve channels pay where products are slow beside starting a tile (Zen 4).
        resnet = fc.explain(
            fc.conv2d, (1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3, algorithm="winograd4"
        )
    for plan, channels, tile in (
        (alexnet, 48, (4, 3)), (wide, 192, (4, 3)), (resnet, 12, (3, 4)),
    ):  # fmt: skip
        assert (plan.algorithm, plan.winograd["channels"]) == ("winograd4", channels)
        assert (plan.winograd["m"], plan.winograd["r"]) == tile
        assert plan.winograd["subkernels"] == 1
        assert f"the stride folded into {channels} channels" in str(plan)


@pytest.mark.parametrize("batch", [1, 6, 12])
def test_no_more_is_folded_than_fits_for_any_batch(batch):
    options = {"stride": 23, "algorithm": "winograd4"}
    plan = fc.explain(fc.conv2d, (batch, 15, 138, 138), (64, 15, 69, 69), **options)
    assert not plan.winograd["folded"]


SHAPES = [((1, c, size, size), (k, c, r, r), r // 2) for c, k, size, r in (
    (64, 64, 56, 3), (512, 512, 14, 3), (16, 16, 32, 3), (128, 160, 7, 3), (64, 192, 27, 5),
)]  # fmt: skip
FUNCTIONS = {
    fc.conv2d: lambda x, w, y: (x, w),
    fc.conv2d_grad_input: lambda x, w, y: (y, w, x),
    fc.conv2d_grad_weight: lambda x, w, y: (y, x, w),
}


@pytest.mark.parametrize(("shape", "kernel", "padding"), SHAPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_precision_high_allows_wider_tiles_and_nothing_else(function, shape, kernel, padding):
    operands = FUNCTIONS[function](shape, kernel, (1, kernel[0], *shape[2:]))
    plan = fc.explain(function, *operands, padding=padding)
    wide = "winograd6" if kernel[2] == 3 else "winograd4"
    assert plan.algorithm != wide
    assert "precision" in plan.declined[wide]
    with fc.float32_precision("high"):
        high = fc.explain(function, *operands, padding=padding)
        assert "precision" not in high.declined.get(wide, "")
        assert high.algorithm in (wide, plan.algorithm)
    with fc.float32_precision("tf32"):
        assert fc.explain(function, *operands, padding=padding).algorithm == plan.algorithm
    # "winograd" is the best of them, of those that the precision allows.
    picked = fc.explain(function, *operands, padding=padding, algorithm="winograd").algorithm
    assert picked.startswith("winograd")
    assert picked != wide
    if plan.algorithm.startswith("winograd"):
        assert picked == plan.algorithm


def test_precision_high_reaches_the_kernels(rng):
    x, weight = normals((1, 32, 60, 60), rng), normals((32, 32, 3, 3), rng)
    grad = normals((1, 32, 60, 60), rng)
    packed = fc.pack_weight(weight)

    def calls(**options):
        return (
            fc.conv2d(x, weight, padding=1, **options),
            fc.conv2d_grad_input(grad, weight, x.shape, padding=1, **options),
            fc.conv2d_grad_weight(grad, x, weight.shape, padding=1, **options),
        )

    exact, named = calls(), calls(algorithm="winograd6")
    with fc.float32_precision("high"):
        for actual, wanted, other in zip(calls(), named, exact):
            assert np.array_equal(actual, wanted)
            assert not np.array_equal(actual, other)
        for actual, wanted in zip(calls(algorithm="winograd"), named):
            assert np.array_equal(actual, wanted)
        assert np.array_equal(fc.conv2d(x, packed, padding=1), named[0])
    assert packed.formats == ("F(6,3)",)


@pytest.mark.parametrize(
    ("function", "alone"), [(fc.conv2d, "direct"), (fc.conv2d_grad_input, "winograd2")]
)
def test_the_batch_has_no_say(function, alone):
    """A tile of 4x4 an image: its products are fewest, but one image alone does not pay for U."""
    for batch in (1, 128):
        shape = (batch, 64, 4, 4)
        operands = FUNCTIONS[function](shape, (64, 64, 3, 3), shape)
        assert fc.explain(function, *operands, padding=1).algorithm == alone


@pytest.mark.parametrize("function", [fc.conv2d, fc.conv2d_grad_input])
@pytest.mark.parametrize("size", [14, 28, 56])
def test_a_large_workspace_leaves_the_choice_alone(function, size):
    """U of 1024 -> 1024 is 151 MB, over the limit: each task makes its own then."""
    weight, taken = (1024, 1024, 3, 3), set()
    for batch in (1, 2, 8, 64):
        shape = (batch, 1024, size, size)
        operands = (shape, weight) if function is fc.conv2d else (shape, weight, shape)
        for threads in (1, 2, 4, 16, 64):
            plan = fc.explain(function, *operands, padding=1, threads=threads)
            taken.add((plan.algorithm, plan.workspace_bytes))
    assert taken == {("winograd4", 0)}


def test_layers_give_an_image_its_bits_among_others_and_in_training(rng):
    layer = fc.layers.Conv2d(512, 512, 3, padding=1)
    x = fc.channels_last(normals((32, 512, 7, 7), rng))
    y = layer(x)
    assert_exact(layer(x[:1]), y[:1])
    assert_exact(layer.eval()(x), y)
