"""The benchmark suite: its arithmetic, its statistics, its refusal to time what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import compare, quiet, results, shapes, statistics, timing  # noqa: E402
from benchmarks.checking import Checker  # noqa: E402
from benchmarks.hosts import LocalHost, ProcessHost  # noqa: E402
from benchmarks.machine import Probes  # noqa: E402
from benchmarks.operations.convolution import Convolution  # noqa: E402
from benchmarks.operations.linear import Linear  # noqa: E402
from benchmarks.operations.pooling import Pooling  # noqa: E402
from benchmarks.peers import PEERS, Prepared, Settings  # noqa: E402
from benchmarks.problems import Problem, problems  # noqa: E402
from benchmarks.session import Session, in_orders, leading_pairs  # noqa: E402
from benchmarks.timing import Limits, Round  # noqa: E402

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


# ---- shapes and problems


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


# ---- statistics


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


# ---- checking, and the refusal to time what is wrong


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


class PlantedPeer:
    """The reference, except that one variant forgets an image's last row, and one raises."""

    timed: list[str]

    def __init__(self) -> None:
        self.timed = []

    def start(self, settings: Settings) -> str | None:
        return None

    def versions(self) -> dict[str, str]:
        return {}

    def variants(self, problem: Problem) -> list[str]:
        return ["auto", "wrong", "raises", "unsupported"]

    def slowness(self, variant: str) -> float:
        return 0.0

    def prepare(self, problem: Problem, operands: dict[str, np.ndarray], variant: str) -> Prepared:
        if variant == "unsupported":
            raise LookupError("there is none")

        def call() -> tuple[np.ndarray, ...]:
            if variant == "raises":
                raise RuntimeError("planted")
            self.timed.append(variant)
            result = problem.shape.reference(reference, operands, problem.direction)
            if variant == "wrong":
                result[0][:, :, -1] = 0
            return tuple(result)

        return Prepared(call, tuple)


def planted_session() -> tuple[Session, PlantedPeer]:
    session = Session(Settings(1), Limits(seconds=0.05, least_rounds=3, sample_seconds=1e-4))
    host, peer = LocalHost("numpy"), PlantedPeer()
    host.name, host._peer = "fastconv", peer
    session.hosts.append(host)
    return session, peer


def test_a_wrong_kernel_is_not_timed() -> None:
    session, peer = planted_session()
    result = session.run(Problem(SMALL, 1, "forward"))
    rows = {row.name: row for row in result.rows}
    assert rows["fastconv auto"].summary is not None
    assert len(rows["fastconv auto"].samples) >= 3
    for name, word in [("wrong", "WRONG"), ("raises", "failed"), ("unsupported", "there is none")]:
        row = rows[f"fastconv {name}"]
        assert row.summary is None
        assert not row.samples
        assert row.absent == word
    assert peer.timed.count("wrong") == 1  # the call that was checked
    assert peer.timed.count("auto") > 3

    from benchmarks import report

    assert report.wrong_ours([result])
    text = report.block(result) + report.summary([result])
    assert "WRONG, not timed" in text
    assert "RuntimeError: planted" in text


def test_a_figure_above_the_peak_is_flagged() -> None:
    session, _ = planted_session()
    session.probes.peak_flops = lambda: 1.0  # type: ignore[method-assign]
    session.probes.read_bandwidth = lambda size: 1.0  # type: ignore[method-assign]
    row = session.run(Problem(SMALL, 1, "forward")).rows[0]
    assert any("multiply-adds it needs" in flag for flag in row.flags)
    assert any("read bandwidth" in flag for flag in row.flags)


def test_a_busy_machine_is_told() -> None:
    from benchmarks import report

    session, _ = planted_session()
    result = session.run(Problem(SMALL, 1, "forward"))
    for each in result.rounds:
        each["others"] = 0
    assert "do not quote" not in report.summary([result])
    for each in result.rounds:
        each["others"] = 3
    assert "100 % of the rounds: do not quote" in report.summary([result])


def test_ours_is_compared_in_the_same_memory_order() -> None:
    rows = [
        ("fastconv", "auto"),
        ("fastconv", "im2col"),
        ("fastconv", "auto C order"),
        ("pytorch", "channels_last"),
        ("pytorch", "C order"),
        ("numpy", "reference"),
    ]
    assert leading_pairs(rows) == [
        ("pytorch channels_last", "fastconv auto"),
        ("pytorch C order", "fastconv auto C order"),
    ]


def test_a_peer_in_its_own_process_gives_the_same_results() -> None:
    problem = Problem(SMALL, 1, "backward")
    here, there = LocalHost("numpy"), ProcessHost("numpy")
    try:
        for host in (here, there):
            assert host.start(Settings(1)) is None
            host.load(problem, None)
        assert there.process not in (None, os.getpid())
        for mine, other in zip(here.first("reference"), there.first("reference"), strict=True):
            np.testing.assert_array_equal(mine, other)
        assert there.sample("reference", 2) > 0
        with pytest.raises(LookupError, match="KeyError"):
            there.sample("never prepared", 1)
    finally:
        there.stop()


# ---- the machine


def test_waiting_ends_when_other_threads_sleep() -> None:
    stop = time.perf_counter() + 0.2

    def spin() -> None:
        while time.perf_counter() < stop:
            pass

    spinner = threading.Thread(target=spin)
    spinner.start()
    calm = quiet.wait_until_quiet(timeout=5)
    ended = time.perf_counter()
    spinner.join()
    assert calm
    assert ended >= stop - 0.01


def test_probes_are_plausible() -> None:
    probes = Probes(threads=1)
    if not probes.available:
        pytest.skip("no compiled module")
    peak, reading = probes.peak_flops(), probes.read_bandwidth(1 << 16)
    assert peak is not None
    assert 1e8 < peak < 1e13
    assert reading is not None
    assert 1e8 < reading < 1e13
    assert probes.ping() is None  # one thread has nobody to ping
    ping = Probes(threads=2).ping()
    assert ping is None or 1e-9 < ping < 1e-2


# ---- files and the command line


def stored(times: list[float], rival: list[float] | None = None, processor: str = "P") -> dict:
    rows = [{"name": "fastconv auto", "samples": {str(i): t for i, t in enumerate(times)}}]
    if rival is not None:
        samples = {str(i): t for i, t in enumerate(rival)}
        rows.append({"name": "pytorch channels_last", "samples": samples})
    rounds = [{"state": "one"} for _ in times]
    problem = {"id": "a", "rows": rows, "rounds": rounds, "state": "one"}
    options = {"threads": 2, "isa": None}
    return {"machine": {"processor": processor}, "options": options, "problems": [problem]}


def test_compare_exit_codes() -> None:
    steady, slower = [1.0, 1.01, 0.99] * 4, [1.2, 1.21, 1.19] * 4
    assert compare.compare(stored(steady), stored(steady), 0.05)[1] == compare.SAME
    text, code = compare.compare(stored(steady), stored(slower), 0.05)
    assert code == compare.SLOWER
    assert "slower: a fastconv auto: 1.20x" in text
    assert compare.compare(stored(slower), stored(steady), 0.05)[1] == compare.SAME
    # the rival became slower in the same measure: the machine did
    drifted = compare.compare(stored(steady, steady), stored(slower, slower), 0.05)
    assert drifted[1] == compare.SAME
    # times of another processor mean nothing by themselves, relative to a rival they do
    assert compare.compare(stored(steady), stored(steady, processor="Q"), 0.05)[1] == 2
    other = compare.compare(stored(steady, steady), stored(slower, steady, "Q"), 0.05)
    assert other[1] == compare.SLOWER


def run_suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    python_path = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": python_path},
    )  # fmt: skip


def test_list_names_suites_and_problems_and_measures_nothing() -> None:
    done = run_suite("--list", "--suite", "vgg16", "--direction", "forward", "--batch", "1,8")
    assert done.returncode == 0, done.stderr
    assert "resnet50_v1_5" in done.stdout
    assert (
        "conv2d.forward.n8.c64i224x224k64r3x3s1x1p1x1  14.8 GMAC  (vgg16/conv1_2 x1)" in done.stdout
    )
    assert "problems (34):" in done.stdout  # 9 convolutions, 5 pools, 3 linear, at two batches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "vgg17"], "unknown suite 'vgg17'"),
        (["--peers", "caffe"], "unknown peer 'caffe'"),
        (["-k", "no such layer"], "no problem matches"),
        (["--direction", "sideways"], "'sideways' is none of"),
        (["--batch", "0"], "a batch is at least 1"),
        (["--compare", "no_such_file.json"], "no_such_file.json"),
    ],
)
def test_bad_arguments_are_told_and_exit_2(arguments: list[str], message: str) -> None:
    done = run_suite(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    done = run_suite(
        "--suite", "lenet5_classic", "-k", "lenet5_classic/C3", "--direction", "forward",
        "--seconds", "0.05", "--threads", "1", "--peers", "fastconv,numpy", "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lenet5_classic/C3" in done.stdout
    content = results.read(file)
    assert content["complete"]
    assert content["options"]["threads"] == 1
    assert content["machine"]["processor"]
    assert content["versions"]["numpy"] == np.__version__
    (problem,) = content["problems"]
    assert problem["macs"] == 240_000
    rows = {row["name"]: row for row in problem["rows"]}
    measured = rows["numpy reference"]
    assert measured["verdict"]["passed"]
    assert measured["summary"]["count"] == len(measured["samples"]) >= 3
    assert measured["summary"]["median"] == pytest.approx(
        np.median([*measured["samples"].values()])
    )
    same = run_suite("--compare", str(file), str(file))
    assert same.returncode == 0, same.stdout + same.stderr


def test_files_of_another_schema_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match="schema 0"):
        results.read(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        results.read(file)


def test_what_is_written_is_strict_json(tmp_path: Path) -> None:
    session, _ = planted_session()
    found = [session.run(Problem(SMALL, 1, "forward"))]
    results.write(tmp_path / "a.json", results.to_json(found, {}, {}, True))
    text = (tmp_path / "a.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)  # NaN and Infinity are not JSON
    verdicts = [row["verdict"] for row in content["problems"][0]["rows"]]
    assert [verdict and verdict["passed"] for verdict in verdicts] == [True, False, False, None]


def test_every_peer_can_be_loaded_without_its_library() -> None:
    for name in PEERS:
        assert LocalHost(name).name == name


def test_rows_that_no_ratio_waits_for_do_not_cost_the_others_their_rounds() -> None:
    class Timed(LocalHost):
        def sample(self, variant: str, calls: int, warm: bool = True) -> float:
            time.sleep(0.05 if variant == "slow" else 0.001)
            return 0.05 if variant == "slow" else 0.001

    host = Timed("numpy")
    rows = [timing.Row(host, "fast", leads=True), timing.Row(host, "slow")]
    limits = Limits(seconds=0.1, least_rounds=10, most_rounds=12)
    measured = timing.measure(rows, [], Probes(1), limits, seed=0)
    assert len(rows[0].samples) == len(measured.rounds) >= 10
    assert len(rows[1].samples) == 3


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    from benchmarks import cli, options

    arguments = ["--suite", "lenet5_classic", "--direction", "forward", "--seconds", "0.01"]
    arguments += ["--peers", "numpy"]
    chosen = options.parse([*arguments, "--threads", "1", "--json", str(tmp_path / "part.json")])
    original, calls = Session.run, []

    def run(self: Session, problem: Problem) -> results.ProblemResult:
        calls.append(problem)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, problem)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "run", run)
        assert cli.run(chosen) == 130
    content = results.read(tmp_path / "part.json")
    assert not content["complete"]
    assert len(content["problems"]) == 2


def test_the_isa_reaches_every_library(tmp_path: Path) -> None:
    from fastconv import _core

    if "avx2" not in _core.supported_isas():
        pytest.skip("no AVX2 here")
    file = tmp_path / "avx2.json"
    done = run_suite(
        "--suite", "lenet5_classic", "-k", "lenet5_classic/C3", "--direction", "forward",
        "--seconds", "0.01", "--isa", "avx2", "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    versions = results.read(file)["versions"]
    assert versions["fastconv isa"] == "avx2"
    assert versions.get("torch capability", "AVX2") == "AVX2"
    assert "limited to avx2" in done.stdout


def test_memory_orders_can_be_chosen() -> None:
    rows = ["auto", "im2col", "auto C order"]
    assert in_orders(rows, "both") == rows
    assert in_orders(rows, "c") == ["auto C order"]
    assert in_orders(rows, "channels_last") == ["auto", "im2col"]
    assert in_orders(["C order"], "channels_last") == ["C order"]  # a matrix has one


def test_only_hopeless_rows_are_left_out() -> None:
    session, peer = planted_session()
    session.slow_seconds = 1e-9
    peer.slowness = lambda variant: float(variant == "wrong")  # type: ignore[method-assign]
    rows = {row.name: row for row in session.run(Problem(SMALL, 1, "forward")).rows}
    assert rows["fastconv wrong"].absent.startswith("slow: about")
    assert rows["fastconv auto"].summary is not None
