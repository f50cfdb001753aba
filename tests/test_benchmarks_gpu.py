"""The benchmark for CUDA devices as far as a machine without one goes: a session, and its tables.

Its rows: test_benchmarks_gpu_families.py."""

from __future__ import annotations

import json
import time
import types
from typing import Any

import fastconv as fc
import pytest
from gpu_benchmark_support import ROOT, families, on_the_cpu, on_the_host, torch

from benchmarks import options, results
from benchmarks.gpu import checks, networks, rows, run, summary
from benchmarks.operations.network import Network
from benchmarks.operations.training import Training
from benchmarks.problems import Problem


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "DEVICE", "cpu")
    torch.manual_seed(0)


# ---- the session, with a clock that does not measure ---------------------------------------------


class Clock:
    """Calls everything as the real one does; an element of the result takes a nanosecond."""

    def cold(self, calls: Any, sets: int, samples: int) -> list[list[float]]:
        for call in calls:
            call(0)
            call(sets - 1)
        return [
            [1e-6 * (2 + number) + 1e-9 * n for n in range(samples)] for number in range(len(calls))
        ]

    def copy_of(self, size: int) -> Any:
        return lambda number: size

    def replayed(self, call: Any, sets: int) -> float:
        call(0)
        return 1e-6

    def steady(self, calls: Any, rounds: int) -> list[list[float]]:
        return [[0.001 * (n + 1)] * rounds for n, call in enumerate(calls) if call() is not None]


LIMITS = {
    "copy_bytes_per_second": 3e12,
    "matrix_flops": {"float32": 5e13, "bfloat16": 8e14},
    "host_seconds": {"fastconv": 2e-5},
}


def session_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the command line makes of these arguments, on the CPU."""
    session = run.Session.__new__(run.Session)
    session.options = options.parse(["--device", "cuda", *arguments])
    session.clock, session.checks, session.limits = Clock(), checks, LIMITS
    session.began, session.wrong, session.rows = time.monotonic(), [], []
    session.complete, session.at = False, ""
    plan = types.SimpleNamespace(kernel="sm80_64x64", splits=2)
    monkeypatch.setattr(fc, "explain", lambda *_, **__: plan)  # the CPU's has neither
    return session


def content_of(session: Any) -> dict[str, Any]:
    """As written and read again."""
    content = {
        "schema": results.SCHEMA, "complete": session.complete, "device": {"name": "None"},
        "limits": LIMITS, "commit": "abc", "wrong": session.wrong, "rows": session.rows,
    }  # fmt: skip
    return json.loads(json.dumps(content, allow_nan=False))


def test_a_session_of_families(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(["--memory-bound", "--dtypes", "float32", "--samples", "2"], monkeypatch)
    found = on_the_cpu(torch.float32)
    monkeypatch.setattr(families, "memory_bound", lambda *_: iter(found))
    session.measure()
    assert session.complete
    assert session.wrong == []
    names = {row["operation"] for row in session.rows}
    assert {"softmax_rows", "cross_entropy", "sgd", "dropout", "batch_norm_training"} <= names
    assert all(set(row["times"]) == {"fastconv", "pytorch", "copy"} for row in session.rows)
    text = summary.summary(content_of(session))
    assert f"{len(session.rows)} of {len(session.rows)} rows" in text  # x1.5 in the clock above


def test_a_session_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch by itself; what cannot be compared is left out, what is wrong is told."""
    arguments = ["--suite", "lenet5_classic", "--batch", "2,1", "--dtypes", "float32", "--graph"]
    session = session_of(arguments, monkeypatch)
    session.measure()
    assert session.wrong == []
    assert [row["batch"] for row in session.rows] == sorted(
        (row["batch"] for row in session.rows), reverse=True
    )
    assert {row["direction"] for row in session.rows if row["operation"] == "conv2d"} == {
        "forward", "grad_input", "grad_weight",
    }  # fmt: skip
    text = summary.summary(content_of(session))
    assert "| conv2d grad_weight, batch 1 | 1.50x" in text

    monkeypatch.setattr(checks, "TOLERANCE", {"float32": 1e-30})
    session = session_of([*arguments, "-k", "C3"], monkeypatch)
    session.measure()
    assert len(session.wrong) == len(session.rows)
    assert "WRONG conv2d.forward.n2" in summary.summary(content_of(session))


def test_a_quick_session_compares_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--quick", "--suite", "lenet5_classic", "--batch", "1", "--dtypes", "float32"]
    session = session_of(arguments, monkeypatch)
    monkeypatch.setattr(checks, "exactly", None)  # is not asked
    session.measure()
    assert session.wrong == []
    assert {row["against"] for row in session.rows} == {"PyTorch in the same type"}
    assert {row["errors"]["pytorch"] for row in session.rows} == {0.0}
    assert any(row["errors"]["fastconv"] > 0 for row in session.rows)


def test_a_row_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(["--memory-bound", "--dtypes", "float32"], monkeypatch)
    good, bad = on_the_cpu(torch.float32)[:2]

    def fail() -> None:
        raise RuntimeError("out of luck")

    found = [bad._replace(make=fail), good]
    monkeypatch.setattr(families, "memory_bound", lambda *_: iter(found))
    monkeypatch.setattr(session, "_release", lambda: None)
    session.measure()
    assert [row["title"] for row in session.rows] == [good.name]
    assert session.wrong == [f"{bad.name}.{bad.direction}.n32 float32: RuntimeError: out of luck"]


def test_a_session_stops_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(["--suite", "vgg16", "--time-limit", "0.001"], monkeypatch)
    session.began -= 1
    session.measure()
    assert (session.complete, session.rows) == (False, [])
    assert "not complete" in summary.summary(content_of(session))


def test_what_quick_means_on_a_device() -> None:
    quick = options.parse(["--device", "cuda", "--quick"])
    assert (quick.batch, quick.samples, quick.dtypes) == ([32, 256, 1], 3, ["bfloat16"])
    assert quick.direction == ["forward", "grad_input", "grad_weight"]
    alone = options.parse(["--device", "cuda", "--memory-bound"])
    assert (alone.suite, alone.batch) == (["none"], [32])
    training = options.parse(["--device", "cuda", "--suite", "training,networks"])
    assert {"step", "forward"} <= set(training.direction)
    assert options.parse([]).batch == [1]
    with pytest.raises(SystemExit):
        options.parse(["--device", "cuda", "--dtypes", "float23"])


# ---- what is said of raw results -----------------------------------------------------------------


def row_of(**fields: Any) -> dict[str, Any]:
    times = {"fastconv": [1e-4], "pytorch": [1e-4]}
    return {
        "operation": "conv2d", "direction": "forward", "kind": "3x3", "title": "a/b", "batch": 32,
        "dtype": "bfloat16", "bytes": 1000, "flops": 10**9, "times": times, "errors": {},
        "graph": {}, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "is_met"),
    [(1.0, 0.5, True), (1.2, 1.3, False), (1.2, 1.45, True), (1.12, 0.1, False), (1.11, 0.1, True)],
)
def test_memory_bound_rows_meet_copy_or_pytorch(ours: float, theirs: float, is_met: bool) -> None:
    """At least 90 % of a copy, or 1.2 times PyTorch."""
    size = int(LIMITS["copy_bytes_per_second"])  # one second by a copy
    row = row_of(bytes=size, times={"fastconv": [ours], "pytorch": [theirs]})
    assert summary.met(row, LIMITS) is is_met


def test_rows_behind_are_named() -> None:
    """Geometric means, and the rows below the least ratio, worst first."""
    slow = [
        row_of(title=f"net/{name}", times={"fastconv": [1e-4], "pytorch": [seconds]})
        for name, seconds in (("fine", 2e-4), ("slow", 5e-5), ("slowest", 1e-5))
    ]
    fewer = row_of(dtype="float32", flops=10**10)  # 1e14 a second: no direct algorithm
    text = summary.summary(content_with(*slow, fewer))
    assert "| conv2d forward, batch 32 | 0.46x (3) |  | 1.00x (1) |" in text
    assert "2 rows below 0.8x; best 10 TFLOP/s" in text
    assert text.index("net/slowest ") < text.index("net/slow ")
    assert "net/fine " not in text.split("rows below")[1].split("\n", 1)[1]


def content_with(*found: dict[str, Any]) -> dict[str, Any]:
    return {"device": {"name": "X"}, "complete": True, "commit": "c", "limits": LIMITS,
            "wrong": [], "rows": list(found)}  # fmt: skip


def test_every_layer_has_a_line() -> None:
    row = row_of(flops=4 * 10**10, bytes=3 * 10**7, plan={"kernel": "sm80_64x64", "splits": 2})
    (line,) = summary.every_layer(content_with(row, row_of(kind="memory-bound"))).split("\n")[2:]
    assert line == (
        "| a/b | forward | 32 | bfloat16 | 100.0 | 400.0 | 50% | 10% | 1.00 | sm80_64x64, 2 |"
    )


def test_two_files_are_compared() -> None:
    old = content_with(row_of(id="one"), row_of(id="two"), row_of(id="three"))
    faster = {"fastconv": [5e-5], "pytorch": [1e-4]}
    new = content_with(row_of(id="one", times=faster, title="n/one"), row_of(id="two"))
    text = summary.against(old, new)
    assert "conv2d forward bfloat16: 1.41x (2), from 1.00x (a/b) to 2.00x (n/one)" in text


def test_the_committed_results_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((ROOT / "benchmarks" / "results").glob("*-h[12]00*.json"))
    paths = [path for path in files if "schema" in json.loads(path.read_text())]  # of the suite
    assert summary.main([str(path) for path in paths]) == 0
    text = capsys.readouterr().out
    assert text.count("NVIDIA H100") == len(paths) > 0
    assert "geometric mean" in text
    assert "rows at 90% of a copy" in text
    assert summary.main(["--rows", str(paths[0])]) == 0
    assert summary.main(["--against", str(paths[0])]) == summary.main([]) == 2


# ---- whole networks: fastconv's part in the emulation --------------------------------------------


@pytest.mark.skipif(not fc.cuda.is_available(), reason="no CUDA arrays here")
@pytest.mark.parametrize(("suite", "direction"), [("networks", "forward"), ("training", "step")])
def test_whole_networks_agree(suite: str, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyTorch's graphs, which need its device."""
    monkeypatch.setattr(checks, "as_tensor", on_the_host)
    monkeypatch.setattr(networks, "_captured", lambda call: call)
    session = session_of(["--suite", suite, "--batch", "2", "--dtypes", "float32"], monkeypatch)
    shape = (Network if suite == "networks" else Training)("lenet5")
    session._one(Problem(shape, 2, direction), "float32")
    assert session.wrong == []
    (row,) = session.rows
    captured = {"fastconv graph", "pytorch graph"} if suite == "training" else set()
    assert set(row["times"]) == {"fastconv", "pytorch", *captured}
    assert all(0 <= error < 1e-4 for error in row["errors"].values())
    text = summary.summary(content_of(session))
    assert f"lenet5 {direction} float32, batch 2: fastconv 1.00 ms" in text
