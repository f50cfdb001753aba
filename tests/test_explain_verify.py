"""explain says what runs; verify fails when a kernel is wrong."""

import itertools

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core
from support import normals


def test_explain_names_the_plan_and_the_reasons():
    plan = fc.explain(fc.conv2d, (1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    assert plan.algorithm == "winograd4"
    assert plan.winograd["tiles"] == (14, 14)
    small = fc.explain(fc.conv2d, (1, 256, 4, 4), (256, 256, 3, 3), padding=1)
    assert small.algorithm == "direct"
    assert "direct is as fast" in small.declined["winograd4"]
    assert plan.rejected["pointwise"] == "pointwise: the kernel is not 1x1"
    assert plan.output_shape == (1, 64, 56, 56)
    assert plan.macs == 56 * 56 * 64 * 64 * 9
    assert plan.bytes == 4 * (2 * 64 * 56 * 56 + 64 * 64 * 9)
    assert plan.workspace_bytes >= 4 * 64 * 64 * 9
    assert 0 < plan.bound_seconds < 1
    for word in ("winograd4", "direct: possible", "roofline", "FLOP/B", "efficiency"):
        assert word in str(plan)
    with fc.isa("scalar"):
        direct = fc.explain(
            fc.conv2d, (1, 64, 56, 56), (64, 64, 3, 3), padding=1, algorithm="direct"
        )
    assert "depth blocks of 576" in str(direct)


def test_explain_agrees_with_arrays_and_algorithm():
    x, weight = np.zeros((2, 32, 7, 7)), np.zeros((8, 32, 1, 1))
    plan = fc.explain(fc.conv2d, x, weight)
    assert (plan.algorithm, plan.dtype, plan.channels_last) == ("pointwise", "float64", False)
    assert fc.explain(fc.conv2d, x, weight, algorithm="direct").algorithm == "direct"
    assert fc.explain(fc.conv2d, fc.channels_last(x), weight).channels_last


def test_explain_plans_for_many_threads():
    one = fc.explain(fc.conv2d, (1, 512, 4, 4), (512, 512, 3, 3), padding=1, threads=1)
    many = fc.explain(fc.conv2d, (1, 512, 4, 4), (512, 512, 3, 3), padding=1, threads=8)
    assert many.tasks >= 8 > one.tasks
    assert many.efficiency > 0.7
    # One image of few positions: parts of 16 columns keep 64 threads busy.
    for height, filters, kernel in ((7, 512, 3), (14, 512, 3), (14, 1024, 1)):
        few = fc.explain(
            fc.conv2d, (1, 512, height, height), (filters, 512, kernel, kernel),
            padding=kernel // 2, threads=64, algorithm="direct",
        )  # fmt: skip
        assert few.efficiency > 0.9


def test_explain_tells_whether_weights_are_packed_ahead():
    x, weight = np.ones((8, 64, 14, 14), np.float32), np.ones((64, 64, 3, 3), np.float32)
    packed = fc.pack_weight(weight, input_shape=x.shape, padding=1)
    plain, ahead = (fc.explain(fc.conv2d, x, w, padding=1) for w in (weight, packed))
    assert plain.algorithm == ahead.algorithm == "winograd4"
    assert ahead.packed
    assert "weights transformed ahead" in str(ahead)
    assert not plain.packed
    assert "packed ahead" not in str(plain)
    assert ahead.workspace_bytes == 0
    direct = fc.explain(fc.conv2d, x, packed, padding=1, algorithm="direct")
    assert direct.packed
    assert direct.workspace_bytes == 0


def test_explain_gradients():
    plan = fc.explain(
        fc.conv2d_grad_input, (1, 8, 4, 4), (8, 24, 3, 3), (1, 24, 8, 8), stride=2, padding=1
    )
    assert len(plan.phases) == 4
    assert sum(p["taps"][0] * p["taps"][1] for p in plan.phases) == 9
    with pytest.raises(ValueError, match="explain: len has no plans"):
        fc.explain(len, (1, 2))
    with pytest.raises(TypeError, match="no argument 'strides'"):
        fc.explain(fc.conv2d, (1, 3, 8, 8), (4, 3, 3, 3), strides=2)


@pytest.mark.parametrize("function", [fc.conv2d, fc.conv2d_grad_input, fc.conv2d_grad_weight])
def test_explain_names_what_runs_in_any_order(function, isa, monkeypatch):
    """Each operand lies as it lies: grad_input weighs how the weight does."""
    ran, kernel = [], _core.conv2d

    def noting(*arguments):
        ran.append(_core.conv2d_algorithms[kernel(*arguments)])

    monkeypatch.setattr(_core, "conv2d", noting)
    sizes = [(16, 8, 6, 5), (16, 8, 7, 3), (64, 64, 6, 5), (64, 64, 7, 5), (3, 8, 28, 5)]
    for channels, filters, size, r in sizes:
        options = {"padding": r // 2}
        x, weight = np.ones((2, channels, size, size)), np.ones((filters, channels, r, r))
        x, weight = x.astype(np.float32), weight.astype(np.float32)
        grad = np.ones((2, filters, size, size), np.float32)
        for images, kernels in itertools.product((np.copy, fc.channels_last), repeat=2):
            operands = {
                fc.conv2d: (images(x), kernels(weight)),
                fc.conv2d_grad_input: (images(grad), kernels(weight), x.shape),
                fc.conv2d_grad_weight: (images(grad), images(x), weight.shape),
            }[function]
            function(*operands, **options)
            assert fc.explain(function, *operands, **options).algorithm == ran[-1]


def test_explain_takes_operands_by_name():
    x, weight = np.zeros((2, 32, 7, 7)), np.zeros((8, 32, 1, 1))
    plan = fc.explain(fc.conv2d, x, weight)
    for given in ({"x": x, "weight": weight}, {"weight": weight, "x": x.shape}):
        named = fc.explain(fc.conv2d, **given, bias=np.zeros(8), residual=(2, 8, 7, 7))
        assert (named.algorithm, named.dtype) == (plan.algorithm, "float64")
    named = fc.explain(
        fc.conv2d_grad_input, (2, 8, 7, 7), weight=(8, 32, 1, 1), input_shape=x.shape
    )
    assert named.input_shape == x.shape
    one = fc.explain(fc.conv2d, x[0], weight, out=np.zeros((8, 7, 7)))
    assert one.output_shape == (1, 8, 7, 7)


X, W = np.zeros((1, 8, 9, 9), np.float32), np.zeros((4, 8, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fc.explain(fc.conv2d, X.shape, W.shape, dtype="float16"), TypeError,
         "explain: dtype is float16; on the CPU float32 and float64 have kernels"),
        (lambda: fc.explain(fc.conv2d, X.shape, W.shape, dtype="half?"), TypeError,
         "explain: dtype is 'half?'"),
        (lambda: fc.explain(fc.conv2d, X, W, threads=-1), ValueError, "explain: threads is -1"),
        (lambda: fc.explain(fc.conv2d, X, W, threads=0), ValueError, "explain: threads is 0"),
        (lambda: fc.explain(fc.conv2d, X, W, threads=257), ValueError, "wanted at most 256"),
        (lambda: fc.explain(fc.conv2d, X, W, threads="a"), TypeError, "explain: threads is 'a'"),
        (lambda: fc.explain(fc.conv2d, X, W, threads=1.5), TypeError, "explain: threads is 1.5"),
        (lambda: fc.explain(fc.conv2d, X, W, groups=2.5), TypeError, "conv2d: groups is 2.5"),
        (lambda: fc.explain(fc.conv2d, X, W, activation="foo"), ValueError,
         "conv2d: activation is 'foo'"),
        (lambda: fc.explain(fc.conv2d, X, W, algorithm="pointwise"), ValueError,
         "conv2d: algorithm 'pointwise' cannot do this problem: pointwise: the kernel is not 1x1"),
        (lambda: fc.explain(fc.conv2d, X, W.astype(float)), TypeError,
         "conv2d: weight has dtype float64, but x has float32"),
        (lambda: fc.explain(fc.conv2d, X, W, np.zeros(5, np.float32)), ValueError,
         "conv2d: bias has shape (5,), but (K,) of the weight is (4,)"),
        (lambda: fc.explain(fc.conv2d, X, W, residual=X), ValueError,
         "conv2d: residual has shape (1, 8, 9, 9), but the result's is (1, 4, 7, 7)"),
        (lambda: fc.explain(fc.conv2d_grad_input, (1, 4, 5, 5), W, X.shape), ValueError,
         "conv2d_grad_input: grad_output has shape (1, 4, 5, 5), but conv2d's output shape here is "
         "(1, 4, 7, 7)"),
        (lambda: fc.explain(fc.conv2d, X), TypeError, "conv2d: missing a required argument"),
        (lambda: fc.explain(fc.conv2d, X, W, weight=W), TypeError, "conv2d: multiple values"),
    ],
)  # fmt: skip
def test_explain_checks_what_the_call_checks(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_verify_passes_what_is_right(rng):
    x = rng.standard_normal((2, 19, 9, 8)).astype(np.float32)
    weight = rng.standard_normal((17, 19, 3, 3)).astype(np.float32)
    check = fc.verify(fc.conv2d, x, weight, stride=2, padding=1, activation="relu")
    assert check
    assert check.worst < 1
    assert check.terms == 19 * 9
    assert "PASS" in str(check)
    grad = rng.standard_normal((2, 17, 5, 4)).astype(np.float32)
    assert fc.verify(fc.conv2d_grad_input, grad, weight, x.shape, stride=2, padding=1)


def test_verify_fails_what_is_wrong(rng, monkeypatch):
    x = rng.standard_normal((1, 4, 6, 6)).astype(np.float32)
    weight = rng.standard_normal((3, 4, 3, 3)).astype(np.float32)

    def conv2d(x, weight, **arguments):
        y = fc.conv2d(x, weight, **arguments)
        y[0, 2, 1, 3] += 1e-4
        return y

    check = fc.verify(conv2d, x, weight)
    assert not check
    assert check.where == (0, 2, 1, 3)
    assert "FAIL" in str(check)
    x[0, 0, 0, 0] = np.nan
    check = fc.verify(fc.conv2d, x, weight)
    assert check  # NaN where the reference has NaN

    def conv2d(x, weight):
        return np.nan_to_num(fc.conv2d(x, weight))

    assert not fc.verify(conv2d, x, weight)


def test_verify_reads_operands_that_the_call_writes(rng):
    x, weight = normals((1, 8, 9, 9), rng), normals((4, 8, 3, 3), rng)
    grad, out = normals((1, 4, 7, 7), rng), normals((1, 4, 7, 7), rng)
    assert fc.verify(fc.conv2d, x, weight, residual=out, out=out)
    total = 100 * normals(weight.shape, rng)
    assert fc.verify(fc.conv2d_grad_weight, grad, x, weight.shape, out=total, accumulate=True)
    into = x.copy()
    assert fc.verify(fc.conv2d_grad_input, grad, weight, x.shape, residual=into, out=into)


def test_verify_takes_operands_by_name(rng):
    x, weight = normals((1, 8, 9, 9), rng), normals((4, 8, 3, 3), rng)
    assert fc.verify(fc.conv2d, x, weight=weight)
    assert fc.verify(fc.conv2d, weight=fc.pack_weight(weight), x=x)
    assert fc.verify(fc.conv_transpose2d, normals((1, 4, 5, 5), rng), weight=weight, stride=2)
    assert fc.verify(fc.linear, x=x[0, 0], weight=weight[0, 0, :1].repeat(3, 1))
    with pytest.raises(TypeError, match="verify: conv2d has no argument 'strides'"):
        fc.verify(fc.conv2d, x, weight, strides=2)


def test_verify_allows_denormals_to_be_flushed(isa, rng):
    x, weight = normals((1, 8, 9, 9), rng), normals((4, 8, 3, 3), rng)
    assert fc.verify(fc.conv2d, x * np.float32(1e-39), weight * 1e20)
    assert fc.verify(fc.conv2d, x * 1e20, weight * np.float32(1e-39), algorithm="winograd4")
    assert fc.verify(fc.conv2d, x * np.float32(1e-39), weight, residual=x[:, :4, :7, :7])


@pytest.mark.parametrize(
    ("algorithm", "r"), [*itertools.product(("winograd2", "winograd4", "winograd6"), (2, 3, 7)),
                         ("winograd2", 5), ("winograd4", 5)],
)  # fmt: skip
def test_verify_takes_winograds_bound_by_tile(algorithm, r, isa, rng):
    """Large and infinite values in some tiles; any kernel, tiles at the edges, groups."""
    for channels, groups in ((2, 1), (32, 2)):
        x, weight = normals((2, channels, 23, 19), rng), normals((6, channels // groups, r, r), rng)
        options = {"padding": r // 2, "groups": groups, "algorithm": algorithm}
        grad = normals(fc.conv2d_output_shape(x.shape, weight.shape, padding=r // 2), rng)
        for value in (1e6, np.inf, np.nan):
            x[1, 1, 7, 11] = grad[0, 3, 2, 5] = value
            assert fc.verify(fc.conv2d, x, weight, **options)
            assert fc.verify(fc.conv2d_grad_input, grad, weight, x.shape, **options)
            assert fc.verify(fc.conv2d_grad_weight, grad, x, weight.shape, **options)
            check = fc.verify(fc.conv_transpose2d, grad, weight, **options)
            assert check
            assert check.algorithm == algorithm
    assert "max|a in the tile|" in str(check)


@pytest.mark.parametrize("value", [1.0, np.inf])
@pytest.mark.parametrize("fault", [0, 0.02, np.nan, np.inf])
def test_verify_finds_faults_in_winograds_tiles(fault, value, isa, rng):
    x, weight = normals((1, 8, 32, 32), rng), normals((4, 8, 3, 3), rng)
    x[0, 0, 0, 0] = value

    def conv2d(*operands, **arguments):
        y = fc.conv2d(*operands, **arguments)
        y[0, 2, 9, 9] += fault
        return y

    check = fc.verify(conv2d, x, weight, algorithm="winograd4")
    assert bool(check) == (fault == 0)
    assert fault == 0 or check.where == (0, 2, 9, 9)


def test_verify_allows_a_stride_that_winograd_folds(isa, rng):
    x, weight = normals((1, 3, 47, 43), rng), normals((8, 3, 11, 11), rng)
    x[0, 1, 20, 20] = 1e6
    assert fc.explain(fc.conv2d, x, weight, stride=4, algorithm="winograd4").winograd["folded"]
    assert fc.verify(fc.conv2d, x, weight, stride=4, padding=2, algorithm="winograd4")
    x[0, 1, 20, 20] = np.nan
    assert fc.verify(fc.conv2d, x, weight, stride=4, padding=2, algorithm="winograd4")
