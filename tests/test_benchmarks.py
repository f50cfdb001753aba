"""The benchmark suite: its arithmetic, its statistics, its refusal to time what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import shapes, statistics, timing  # noqa: E402
from benchmarks.checking import Checker  # noqa: E402
from benchmarks.operations.convolution import Convolution  # noqa: E402
from benchmarks.operations.linear import Linear  # noqa: E402
from benchmarks.operations.pooling import Pooling  # noqa: E402
from benchmarks.problems import Problem, problems  # noqa: E402
from benchmarks.timing import Round  # noqa: E402

reference = pytest.importorskip("fastconv.reference")

SMALL = Convolution(6, (9, 7), 8, (3, 3), (2, 1), (1, 2), groups=2)
DILATED = Convolution(4, (9, 9), 5, (3, 2), (1, 2), (2, 0), (2, 3))
SHAPES = [
    SMALL,
    DILATED,
    Linear(7, 5),
    Pooling("max", 3, (7, 6), (3, 3), (2, 2), (1, 1)),
    Pooling("max", 3, (8, 6), (3, 3), (2, 2), ceil_mode=True),
    Pooling("avg", 3, (7, 6), (3, 2), (2, 1), (1, 0), ceil_mode=True),
]


@pytest.mark.parametrize(
    ("network", "macs"),
    [
        # convolution + linear per image, as in the papers' tables
        ("vgg16", 15_470_264_320),
        ("vgg19", 19_632_062_464),
        ("resnet50_v1_5", 4_089_184_256),
        ("resnet50_v1", 3_857_973_248),
        ("alexnet", 724_406_816),
        ("alexnet_owt_torchvision", 714_188_480),
        ("lenet5_classic", 416_520),
        ("alphago_policy_192", 1_400_726_208),
    ],
)
def test_networks_have_the_known_multiply_adds(network: str, macs: int) -> None:
    found = sum(layer.count * layer.shape.macs(1, "forward") for layer in shapes.suite(network))
    assert found == macs


def test_multiply_adds_inside_leave_out_the_padding() -> None:
    # one row of 3 pixels, 3 taps, padding 1: 2 + 3 + 2 taps inside, by 1 in the other direction
    shape = Convolution(1, (3, 1), 1, (3, 1), (1, 1), (1, 0))
    assert shape.macs(1, "forward") == 9
    assert shape.macs_inside(1, "forward") == 7
    assert shape.macs_inside(2, "backward") == 28
    assert SMALL.macs_inside(1, "forward") < SMALL.macs(1, "forward")


def test_bytes_count_each_operand_once() -> None:
    x, y, w = 2 * 6 * 9 * 7, 2 * 8 * 5 * 9, 8 * 3 * 3 * 3
    assert SMALL.output_size == (5, 9)
    assert SMALL.bytes_moved(2, "forward") == 4 * (x + y + w)
    assert SMALL.bytes_moved(2, "backward") == 4 * (2 * x + y + 2 * w)
    pool = Pooling("max", 1, (4, 4), (2, 2), (2, 2))
    assert pool.bytes_moved(1, "forward") == 4 * 20
    assert pool.bytes_moved(1, "forward_indices") == 4 * 20 + 8 * 4


def test_equal_shapes_are_one_problem_that_knows_its_layers() -> None:
    found = problems(shapes.suite("all"), [1, 8], ["forward", "forward_indices"])
    assert len({problem.identity for problem in found}) == len(found)
    fc7 = [
        problem
        for problem in found
        if problem.matches("alexnet/fc7 forward") and problem.batch == 1
    ]
    assert len(fc7) == 1
    assert {layer.network for layer in fc7[0].layers} >= {"alexnet", "vgg16", "vgg19"}
    assert all(
        problem.shape.kind == "max pooling" for problem in found if "indices" in problem.direction
    )


def test_quick_names_layers_that_exist() -> None:
    titles = {layer.title for layer in shapes.layers()}
    assert titles >= set(shapes.QUICK)


def test_an_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown suite 'vgg17'; known: .*vgg16"):
        shapes.suite("vgg17")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.key)
def test_sampled_expectations_agree_with_the_reference(shape: Convolution) -> None:
    """Two derivations of the same values: element by element, and the reference's whole arrays."""
    for direction in shape.directions:
        problem = Problem(shape, 2, direction)
        operands = {name: array.astype(np.float64) for name, array in problem.operands().items()}
        whole = shape.reference(reference, operands, direction)
        expected = shape.expected(operands, direction, np.random.default_rng(1), 64)
        assert len(whole) == len(expected)
        for found, wanted in zip(whole, expected, strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found[wanted.index], wanted.values, rtol=1e-12, atol=1e-12)


def test_summary_is_of_the_samples() -> None:
    summary = statistics.summarize([4.0, 1.0, 2.0, 3.0, 10.0])
    assert (summary.median, summary.minimum, summary.count) == (3.0, 1.0, 5)
    assert (summary.low_quartile, summary.high_quartile) == (2.0, 4.0)
    assert summary.spread == pytest.approx(1 / 3)


def test_a_paired_ratio_is_blind_to_drift_that_both_share() -> None:
    drift = np.linspace(1, 3, 40)
    paired = statistics.ratio_of_medians(2 * drift, drift)
    assert paired.value == pytest.approx(2)
    assert paired.half_width < 1e-9
    apart = statistics.ratio_of_medians(2 * drift, drift, paired=False)
    assert apart.half_width > 0.05


def test_the_interval_of_a_ratio_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        above, below = generator.normal(3, 0.3, 30), generator.normal(2, 0.2, 30)
        ratio = statistics.ratio_of_medians(above, below, paired=False, seed=seed)
        held += ratio.low <= 1.5 <= ratio.high
    assert 180 <= held <= 200


def test_too_few_samples_have_no_interval() -> None:
    ratio = statistics.ratio_of_medians([1.0] * 4, [2.0] * 4)
    assert (ratio.value, ratio.low, ratio.high) == (0.5, 0.0, np.inf)
    assert not ratio.half_width <= 1e9  # never tight


def test_pairs_need_equal_numbers() -> None:
    with pytest.raises(ValueError, match="not 2 and 1"):
        statistics.ratio_of_medians([1.0, 2.0], [1.0])


def test_geometric_mean_of_a_ratio_and_its_inverse_is_one() -> None:
    assert statistics.geometric_mean([4.0, 0.25]) == pytest.approx(1)


def test_states_are_found_where_pings_cluster() -> None:
    near, far = [55e-9, 60e-9, 65e-9, 58e-9], [330e-9, 334e-9, 340e-9]
    border = statistics.split_point([*near, *far])
    assert border is not None
    assert 65e-9 < border < 330e-9
    assert statistics.split_point(near) is None
    assert statistics.split_point([*near, 5e-6]) is None  # one disturbed ping is no state


def test_only_rounds_of_one_state_are_used() -> None:
    pings = [(55, 60), (56, 330), (330, 331), (58, 61), (329, 335), (57, 59)]
    rounds = [Round(before * 1e-9, after * 1e-9) for before, after in pings]
    named = timing.states(rounds, timing.ping_border(rounds))
    assert named == ["near", "mixed", "far", "near", "far", "near"]
    assert timing.used_rounds(named) == ("near", [0, 3, 5])
    assert timing.used_rounds(["mixed", "mixed"]) == ("mixed", [0, 1])


def test_the_check_passes_float32_rounding_and_finds_small_faults() -> None:
    problem = Problem(Convolution(32, (14, 14), 24, (3, 3), (1, 1), (1, 1)), 1, "forward")
    operands = problem.operands()
    right = problem.shape.reference(reference, operands, "forward")[0]
    assert right.dtype == np.float32
    assert Checker(problem, operands).check("right", [right]).passed
    checker = Checker(problem, operands, reference, reference_macs=1e9)
    assert checker.check("right", [right]).passed
    one_wrong, has_nan = right.copy(), right.copy()
    one_wrong[0, 5, 7, 3] += 0.01
    has_nan[0, 1, 2, 3] = np.nan
    assert not checker.check("one element", [one_wrong]).passed
    assert not checker.check("nan", [has_nan]).passed
    assert not checker.check("transposed", [right.transpose(0, 1, 3, 2)]).passed
    assert not checker.check("shape", [right[:, :, :-1]]).passed
    assert not checker.check("count", [right, right]).passed
    weight = operands["weight"].copy()
    weight[:, 17, 2, 0] = 0  # one tap of 288 left out
    short = reference.conv2d(operands["x"], weight, **problem.shape.keywords())
    assert not Checker(problem, operands).check("a tap left out", [short]).passed


def test_indices_must_be_equal() -> None:
    problem = Problem(Pooling("max", 4, (8, 8), (2, 2), (2, 2)), 2, "forward_indices")
    operands = problem.operands()
    output, indices = problem.shape.reference(reference, operands, "forward_indices")
    checker = Checker(problem, operands, reference, 1.0)
    assert checker.check("right", [output, indices]).passed
    wrong = indices.copy()
    wrong[1, 3, 3, 3] += 1
    assert not checker.check("wrong", [output, wrong]).passed
