"""pack_weight: what it holds and when, and that no bit depends on it."""

from concurrent.futures import ThreadPoolExecutor

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core
from support import normals

# The format that auto's algorithm reads, by (input, weight, arguments).
PROBLEMS = [
    ("F(4,3)", (2, 48, 28, 27), (70, 48, 3, 3), {"padding": 1}),
    ("F(4,3)", (1, 256, 14, 14), (256, 128, 3, 3), {"padding": 1, "groups": 2}),
    ("F(2,5)", (2, 48, 27, 28), (100, 48, 5, 5), {"padding": 2}),
    ("panels", (1, 48, 9, 9), (40, 48, 3, 3), {"padding": 1, "stride": 2}),
    ("panels", (1, 48, 9, 9), (40, 48, 1, 1), {}),
]


@pytest.mark.parametrize(("name", "shape", "kernel", "arguments"), PROBLEMS)
def test_the_first_call_packs_what_its_algorithm_reads(name, shape, kernel, arguments, isa, rng):
    x, weight, bias = normals(shape, rng), normals(kernel, rng), normals(kernel[:1], rng)
    packed = fc.pack_weight(weight, groups=arguments.get("groups", 1))
    assert packed.formats == ()
    for images in (x, fc.channels_last(x), x[:1]):
        expected = fc.conv2d(images, weight, bias, activation="relu", **arguments)
        actual = fc.conv2d(images, packed, bias, activation="relu", **arguments)
        assert np.array_equal(actual, expected)
    assert packed.formats == (name,)
    assert name in repr(packed)
    grown = weight.nbytes * {"F(4,3)": 36 / 9, "F(2,5)": 36 / 25}.get(name, 1)
    assert grown <= packed.nbytes <= 2 * grown  # columns are padded to vectors


@pytest.mark.parametrize(("name", "shape", "kernel", "arguments"), PROBLEMS)
def test_with_an_input_shape_it_packs_at_once(name, shape, kernel, arguments, isa, rng):
    x, weight = normals(shape, rng), normals(kernel, rng)
    packed = fc.pack_weight(weight, input_shape=shape, **arguments)
    assert packed.formats == (name,)
    expected = fc.conv2d(x, weight, **arguments)
    weight[...] = np.nan  # a snapshot
    assert np.array_equal(fc.conv2d(x, packed, **arguments), expected)
    assert packed.formats == (name,)


def test_every_algorithm_takes_it_and_it_holds_the_formats_beside_each_other(isa, rng):
    x, weight = normals((1, 20, 13, 12), rng), normals((36, 20, 3, 3), rng)
    packed = fc.pack_weight(weight, input_shape=x.shape, algorithm="direct")
    assert packed.formats == ("panels",)
    for algorithm in ("naive", "im2col", "direct", "winograd4", "winograd2"):
        expected = fc.conv2d(x, weight, algorithm=algorithm)
        assert np.array_equal(fc.conv2d(x, packed, algorithm=algorithm), expected)
    assert packed.formats == ("panels", "F(2,3)", "F(4,3)")


def test_subkernels_are_packed_each(isa, rng):
    """9x9 taps are nine times 3x3: 9 x 36 points."""
    x, weight = normals((2, 48, 15, 14), rng), normals((64, 48, 9, 9), rng)
    packed = fc.pack_weight(weight, input_shape=x.shape, padding=4, algorithm="winograd4")
    assert packed.formats == ("F(4,3)",)
    assert 9 * 36 * 48 * 64 * 4 <= packed.nbytes < 1.1 * 9 * 36 * 48 * 64 * 4
    options = {"padding": 4, "algorithm": "winograd4"}
    assert np.array_equal(fc.conv2d(x, packed, **options), fc.conv2d(x, weight, **options))


@pytest.mark.parametrize("r", [2, 4, 5, 7, 8])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col", "winograd4", "winograd2"])
def test_one_weight_for_several_strides(algorithm, r, isa, rng):
    """Winograd cuts the kernel by the stride, so each has its own."""
    x, weight = normals((2, 20, 33, 31), rng), normals((66, 20, r, r), rng)
    packed = fc.pack_weight(weight)
    for _ in range(2):
        for stride in (1, 2, (2, 1), (1, 2)):
            options = {"stride": stride, "padding": r // 2, "algorithm": algorithm}
            expected = fc.conv2d(x, weight, **options)
            assert np.array_equal(fc.conv2d(x, packed, **options), expected)
    if algorithm == "winograd4" and r == 2:
        strides = ("", " of stride 1x2", " of stride 2x1", " of stride 2x2")
        assert packed.formats == tuple(f"F(4,3){stride}" for stride in strides)


def test_double_precision_is_packed_too(isa, rng):
    x, weight = normals((1, 64, 14, 14), rng, np.float64), normals((64, 64, 3, 3), rng, np.float64)
    packed = fc.pack_weight(weight)
    assert np.array_equal(fc.conv2d(x, packed, padding=1), fc.conv2d(x, weight, padding=1))
    assert packed.formats == ("panels",)


def test_no_bit_depends_on_threads_or_on_who_packs(isa, rng):
    x, weight = normals((3, 40, 17, 18), rng), normals((150, 40, 3, 3), rng)
    expected = fc.conv2d(x, weight, padding=1, algorithm="winograd4")
    before = _core.num_threads()
    for threads in (1, 2, 5, 16):
        _core.set_num_threads(threads)
        try:
            packed = fc.pack_weight(weight)
            actual = fc.conv2d(x, packed, padding=1, algorithm="winograd4")
        finally:
            _core.set_num_threads(before)
        assert np.array_equal(actual, expected)


def test_many_threads_may_pack_several_formats(rng):
    x, weight = normals((1, 16, 14, 14), rng), normals((32, 16, 4, 4), rng)
    options = [{"algorithm": a, "stride": s} for a in ("winograd2", "winograd4") for s in (1, 2)]
    expected = [fc.conv2d(x, weight, **option) for option in options]
    for _ in range(20):
        packed = fc.pack_weight(weight)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(fc.conv2d, x, packed, **option) for option in options * 4]
        for call, wanted in zip(calls, expected * 4, strict=True):
            assert np.array_equal(call.result(), wanted)
        assert len(packed.formats) == 4


def test_many_threads_may_make_the_first_call(rng):
    x, weight = normals((1, 64, 14, 14), rng), normals((64, 64, 3, 3), rng)
    expected = fc.conv2d(x, weight, padding=1)
    for _ in range(20):
        packed = fc.pack_weight(weight)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: fc.conv2d(x, packed, padding=1), range(4)))  # noqa: B023
        assert all(np.array_equal(result, expected) for result in results)
        assert packed.formats == ("F(4,3)",)


def test_other_groups_or_instruction_sets_pass_it_by(rng):
    x, weight = normals((1, 8, 9, 9), rng), normals((16, 8, 3, 3), rng)
    packed = fc.pack_weight(weight, input_shape=x.shape, padding=1)
    held = packed.formats
    grouped = normals((1, 16, 9, 9), rng)
    expected = fc.conv2d(grouped, weight, padding=1, groups=2)
    assert np.array_equal(fc.conv2d(grouped, packed, padding=1, groups=2), expected)
    for name in _core.supported_isas():
        with fc.isa(name):
            expected = fc.conv2d(x, weight, padding=1)
            assert np.array_equal(fc.conv2d(x, packed, padding=1), expected)
    assert packed.formats == held


def test_a_layer_in_eval_mode_transforms_once(rng):
    layer = fc.layers.Conv2d(64, 64, 3, padding=1).eval()
    x = fc.channels_last(normals((1, 64, 28, 28), rng))
    first = layer(x)
    packed = layer._packed
    assert packed.formats == ("F(4,3)",)
    assert np.array_equal(layer(x), first)
    assert layer._packed is packed
    weight, bias = layer.weight.data, layer.bias.data
    assert np.array_equal(first, fc.conv2d(x, weight, bias, padding=1))


def test_errors_name_argument_and_value():
    weight = np.ones((6, 4, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"pack_weight: weight has 4 input channels .* x has 5"):
        fc.pack_weight(weight, input_shape=(1, 5, 9, 9))
    with pytest.raises(ValueError, match=r"pack_weight: input_shape is \(4, 9\)"):
        fc.pack_weight(weight, input_shape=(4, 9))
    with pytest.raises(ValueError, match=r"'winograd4' cannot do this problem: .*dilated"):
        fc.pack_weight(weight, input_shape=(1, 4, 9, 9), dilation=2, algorithm="winograd4")
    with pytest.raises(ValueError, match="algorithm is 'fast'; the names are"):
        fc.pack_weight(weight, algorithm="fast")


def test_the_reference_and_pack_weight_take_it(rng):
    x, weight = normals((2, 8, 9, 9), rng), normals((6, 4, 3, 3), rng)
    packed = fc.pack_weight(weight, groups=2)
    expected = fc.reference.conv2d(x, weight, groups=2)
    assert np.array_equal(fc.reference.conv2d(x, packed, groups=2), expected)
    grad = normals(expected.shape, rng)
    arguments = (grad, weight, x.shape)
    expected = fc.reference.conv2d_grad_input(*arguments, groups=2)
    arguments = (grad, packed, x.shape)
    assert np.array_equal(fc.reference.conv2d_grad_input(*arguments, groups=2), expected)
    assert not np.asarray(packed).flags.writeable
    again = fc.pack_weight(packed, groups=2, input_shape=x.shape, algorithm="direct")
    assert again.formats == ("panels",)
    assert packed.formats == ()
    assert np.array_equal(fc.conv2d(x, again, groups=2), fc.conv2d(x, weight, groups=2))
