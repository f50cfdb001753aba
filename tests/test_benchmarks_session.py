"""The benchmark suite: whom it times, whom it refuses, and the machine beside the samples."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import quiet, results, summary, timing  # noqa: E402
from benchmarks.hosts import LocalHost, ProcessHost  # noqa: E402
from benchmarks.machine import Probes  # noqa: E402
from benchmarks.operations.convolution import Convolution  # noqa: E402
from benchmarks.peers import PEERS, Prepared, Settings  # noqa: E402
from benchmarks.problems import Problem  # noqa: E402
from benchmarks.session import Session, in_orders, leading_pairs, named_pairs  # noqa: E402
from benchmarks.timing import Limits  # noqa: E402

reference = pytest.importorskip("fastconv.reference")

SMALL = Convolution(6, (9, 7), 8, (3, 3), (2, 1), (1, 2), groups=2)


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

    assert summary.wrong_ours([result])
    text = report.block(result) + summary.summary([result])
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
    session, _ = planted_session()
    result = session.run(Problem(SMALL, 1, "forward"))
    for each in result.rounds:
        each["others"] = 0
    assert "do not quote" not in summary.summary([result])
    for each in result.rounds:
        each["others"] = 3
    assert "100 % of the rounds: do not quote" in summary.summary([result])


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


def test_auto_is_held_against_each_algorithm_by_name() -> None:
    rows = [("fastconv", "auto"), ("fastconv", "direct"), ("fastconv", "auto C order"),
            ("pytorch", "channels_last")]  # fmt: skip
    assert named_pairs(rows) == [("fastconv direct", "fastconv auto")]
    assert named_pairs(rows[1:]) == []


def test_an_algorithm_that_auto_may_not_take_is_not_held_against_it() -> None:
    session = Session(
        Settings(1, algorithms=("auto", "direct", "winograd2", "winograd4")),
        Limits(seconds=0.02, least_rounds=3, most_rounds=3, sample_seconds=1e-4),
    )
    session.start(["fastconv"])
    try:
        kernels = {taps: Convolution(8, (12, 12), 8, (taps, taps)) for taps in (3, 5)}
        found = {taps: session.run(Problem(shape, 1, "forward")) for taps, shape in kernels.items()}
    finally:
        session.stop()
    pairs = {taps: [pair.split(" / ")[0] for pair in each.named] for taps, each in found.items()}
    assert pairs[3] == ["fastconv direct", "fastconv winograd2", "fastconv winograd4"]
    assert pairs[5] == ["fastconv direct", "fastconv winograd2"]  # F(4,5) is for precision "high"
    row = found[5].row("fastconv winograd4")
    assert row is not None
    assert row.plan.endswith("rounds more than auto may")


def test_the_summary_tells_where_auto_is_not_the_best() -> None:
    host = LocalHost("fastconv")
    found = []
    for auto, direct, winograd in [(2.0, 1.6, 3.0), (1.0, 2.0, 1.0)]:
        times = {"auto": auto, "direct": direct, "winograd2": winograd}
        rows = [
            timing.Row(host, name, samples={number: value for number in range(6)})
            for name, value in times.items()
        ]
        plans = {"auto": "winograd2 on avx2, 3 tasks", "direct": "direct on avx2, 2 tasks",
                 "winograd2": "winograd2 on avx2, 3 tasks"}  # fmt: skip
        result = results.ProblemResult(
            Problem(SMALL, 1, "forward"),
            [results.RowResult(row.name, plan=plans[row.variant]) for row in rows],
        )
        measured = timing.Measured(rows, [timing.Round() for _ in range(6)], "rounds")
        about = [("fastconv", row.variant) for row in rows]
        results.add_figures(result, measured, None, None, [], named_pairs(about))
        found.append(result)
    assert {name: ratio.value for name, ratio in found[0].named.items()} == {
        "fastconv direct / fastconv auto": pytest.approx(0.8),
        "fastconv winograd2 / fastconv auto": pytest.approx(1.5),
    }
    text = summary.summary(found)
    assert "fastconv auto against the best of direct, winograd2, forward, batch 1: 0.894x" in text
    assert "over 2 distinct shapes; in 1 of them auto runs that best one itself" in text
    assert f"worst: {SMALL.key} 0.80x direct [0.80, 0.80], {SMALL.key} 1.00x winograd2" in text
    assert "1 of 2 rows more than 10 % slower than the best" in text
    assert "against the best" not in summary.summary([results.ProblemResult(found[0].problem, [])])
    assert json.dumps(results.to_json(found, {}, {}, True)).count('"fastconv direct / fastc') == 2


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


def test_a_total_counts_each_layer_as_often_as_it_occurs() -> None:
    from benchmarks import shapes, statistics
    from benchmarks.problems import problems
    from benchmarks.results import ProblemResult, RowResult

    found = []
    for problem in problems(shapes.suite("resnet50_v1_5"), [1], ["forward"]):
        one_order = problem.shape.operation == "linear"
        names = ["pytorch C order"] if one_order else ["pytorch channels_last", "pytorch C order"]
        times = statistics.summarize([0.001])
        rows = [RowResult(name, samples={0: 0.001}, summary=times) for name in names]
        found.append(ProblemResult(problem, rows))
    text = summary.summary(found)
    # 53 convolutions, 2 pools, 1 linear layer, a millisecond each
    assert "resnet50_v1_5 (conv2d+linear+pool2d, forward, batch 1)" in text
    assert "pytorch channels_last 56 ms, pytorch C order 56 ms" in text
    assert "resnet50_v1_5" not in summary.summary(found[1:])  # a part has no total
