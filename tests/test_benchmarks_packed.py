"""The benchmark's second column: weights packed ahead, bias and ReLU fused, on every side alike."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import fastconv as fc
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from test_benchmarks_command import run_suite, stored  # noqa: E402

from benchmarks import compare, options, report, results  # noqa: E402
from benchmarks.checking import Checker  # noqa: E402
from benchmarks.operations.convolution import Convolution  # noqa: E402
from benchmarks.operations.network import Network  # noqa: E402
from benchmarks.peers import Settings, load_peer  # noqa: E402
from benchmarks.problems import Problem  # noqa: E402
from benchmarks.session import Session  # noqa: E402
from benchmarks.timing import Limits  # noqa: E402

SHAPES = [
    Convolution(6, (9, 7), 8, (3, 3), (2, 1), (1, 2), groups=2),
    Convolution(32, (12, 12), 24, (3, 3), (1, 1), (1, 1)),
    Convolution(16, (5, 6), 20, (1, 1)),
    Convolution(3, (11, 11), 7, (5, 3), (1, 2), (2, 0), (1, 2)),
]


def variants_of(name: str, problem: Problem):
    if name == "pytorch" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    peer = load_peer(name)
    assert peer.start(Settings(1, algorithms=("auto", "im2col", "naive"))) is None
    return peer, peer.variants(problem)


@pytest.mark.parametrize("name", ["fastconv", "pytorch", "numpy"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.key)
def test_every_variant_adds_the_bias_and_takes_the_relu(name, shape):
    problem = Problem(shape, 2, "forward_packed")
    operands = problem.operands()
    checker = Checker(problem, operands, fc.reference, 1e9)
    peer, variants = variants_of(name, problem)
    assert variants
    for variant in variants:
        prepared = peer.prepare(problem, operands, variant)
        for _ in range(2):
            verdict = checker.check(variant, prepared.arrays(prepared.call()))
            assert verdict.passed, (variant, str(verdict))


def test_a_bias_or_a_relu_left_out_is_found():
    problem = Problem(SHAPES[1], 1, "forward_packed")
    operands, keywords = problem.operands(), SHAPES[1].keywords()
    x, weight, bias = operands["x"], operands["weight"], operands["bias"]
    right = fc.reference.conv2d(x, weight, bias, activation="relu", **keywords)
    assert Checker(problem, operands).check("right", [right]).passed
    rolled = np.roll(bias, 1)
    for wrong in (
        fc.reference.conv2d(x, weight, bias, **keywords),
        fc.reference.conv2d(x, weight, activation="relu", **keywords),
        fc.reference.conv2d(x, weight, rolled, activation="relu", **keywords),
    ):
        assert not Checker(problem, operands).check("wrong", [wrong]).passed


@pytest.mark.parametrize("name", ["fastconv", "pytorch"])
def test_weights_are_packed_before_the_call(name):
    """In C order nothing else could have copied them: the call no longer reads the raw weight."""
    problem = Problem(SHAPES[1], 1, "forward_packed")
    operands = problem.operands()
    expected = Checker(problem, operands)
    peer, variants = variants_of(name, problem)
    (variant,) = [each for each in variants if each.endswith("C order")]
    prepared = peer.prepare(problem, operands, variant)
    operands["weight"][...] = 0
    assert expected.check(name, prepared.arrays(prepared.call())).passed


def test_fastconv_packs_what_the_call_reads(monkeypatch):
    problem = Problem(SHAPES[1], 1, "forward_packed")
    taken = []
    original = fc.conv2d

    def spy(x, weight, *rest, **keywords):
        taken.append((weight, weight.formats))
        return original(x, weight, *rest, **keywords)

    monkeypatch.setattr(fc, "conv2d", spy)
    peer, _ = variants_of("fastconv", problem)
    prepared = peer.prepare(problem, problem.operands(), "auto")
    prepared.call()
    (weight, formats) = taken[0]
    assert isinstance(weight, fc.ops.PackedWeight)
    assert formats
    assert weight.formats == formats  # nothing was packed in the call


def test_the_report_says_what_lies_outside_of_the_time():
    raw, packed = (Problem(SHAPES[1], 1, name) for name in ("forward", "forward_packed"))
    assert report.conditions([raw]) == "packing of weights inside the time"
    assert report.conditions([packed, packed]) == "weights packed ahead, bias and ReLU fused"
    assert report.conditions([Problem(Network("vgg16"), 1, "forward")]).endswith("before the time")
    both = report.conditions([raw, Problem(SHAPES[0], 1, "backward"), packed])
    assert both == (
        "forward, backward: packing of weights inside the time; "
        "forward_packed: weights packed ahead, bias and ReLU fused"
    )


def test_the_two_kinds_are_never_compared():
    raw, packed = (Problem(SHAPES[1], 1, name) for name in ("forward", "forward_packed"))
    old, new = stored([1.0, 1.01, 0.99] * 4), stored([2.0, 2.01, 1.99] * 4)
    old["problems"][0]["id"], new["problems"][0]["id"] = raw.identity, packed.identity
    text, code = compare.compare(old, new, 0.05)
    assert (code, text) == (compare.NOT_COMPARABLE, "nothing to compare: no common row")
    old["problems"][0]["id"] = packed.identity
    assert compare.compare(old, new, 0.05)[1] == compare.SLOWER


def test_from_the_command_line(tmp_path):
    file = tmp_path / "packed.json"
    done = run_suite(
        "--suite", "lenet5_classic", "-k", "lenet5_classic/C3", "--direction", "forward_packed",
        "--seconds", "0.01", "--threads", "1", "--peers", "fastconv,numpy", "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    header = done.stdout.split("\n\n")[0]
    assert "weights packed ahead, bias and ReLU fused" in header
    assert "inside the time" not in header
    (problem,) = results.read(file)["problems"]
    assert problem["conditions"] == "weights packed ahead, bias and ReLU fused"
    assert problem["direction"] == "forward_packed"
    assert all(row["verdict"]["passed"] for row in problem["rows"])


def test_a_session_ends_with_a_ratio_of_the_packed_rows():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    session = Session(Settings(1), Limits(seconds=0.02, least_rounds=5, most_rounds=5))
    session.start(["fastconv", "pytorch"])
    try:
        result = session.run(Problem(SHAPES[2], 1, "forward_packed"))
    finally:
        session.stop()
    assert list(result.ratios) == [
        "pytorch channels_last / fastconv auto", "pytorch C order / fastconv auto C order",
    ]  # fmt: skip


def test_it_is_asked_for_by_name_only():
    assert "forward_packed" not in options.parse([]).direction
    assert "forward_packed" not in options.parse(["--device", "cuda"]).direction
    assert options.parse(["--direction", "forward_packed"]).direction == ["forward_packed"]
