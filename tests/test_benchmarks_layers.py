"""The benchmark's table of a network's steps: the work of each, its floor, and what is printed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import fastconv as fc
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from test_benchmarks_command import run_suite  # noqa: E402

from benchmarks import cli, layer_table, layer_times, options, results, shapes  # noqa: E402
from benchmarks.layer_times import LayerTime, LayerTimes, Work  # noqa: E402
from benchmarks.operations.network import Network  # noqa: E402
from benchmarks.peers import Settings  # noqa: E402
from benchmarks.problems import Problem  # noqa: E402
from benchmarks.session import Session  # noqa: E402
from benchmarks.timing import Limits, Round  # noqa: E402

L = fc.layers


def works_of(model, shape) -> list[Work]:
    from fastconv.fusion import fuse, program_of
    from fastconv.graph import Graph
    from fastconv.pool_fusion import fuse_max_pools

    model.eval()
    program = fuse(program_of(Graph.of(model, shape), model.state_dict()))
    return layer_times.works(fc.compile(model, shape), fuse_max_pools(program, "float32"))


def test_winograd_is_counted_by_its_own_multiply_adds():
    batch, channels, filters, size = 2, 128, 64, 30  # tiles of 4, and at the edges of 2
    model = L.Sequential(L.Conv2d(channels, filters, 3, padding=1), L.ReLU())
    (work,) = works_of(model, (batch, channels, size, size))
    assert work.macs == batch * size**2 * 9 * channels * filters
    assert work.algorithm.startswith("winograd"), "the cost model has another pick: other sizes"
    m = int(work.algorithm.removeprefix("winograd"))
    points = size // m * (m + 2) + (size % m + 2 if size % m else 0)
    assert work.macs_done == batch * points**2 * channels * filters < work.macs
    assert work.activation_bytes == 4 * batch * size**2 * (channels + filters)
    assert work.weight_bytes >= 4 * ((m + 2) ** 2 * channels * filters + filters)
    assert work.weight_bytes < 1.1 * 4 * ((m + 2) ** 2 * channels * filters + filters)


def test_a_pooling_in_its_convolution_is_counted_with_it():
    batch, channels, filters, size = 2, 128, 64, 29
    model = L.Sequential(L.Conv2d(channels, filters, 3, padding=1), L.ReLU(), L.MaxPool2d(2))
    (work,) = works_of(model, (batch, channels, size, size))
    assert (work.layer, work.algorithm) == ("0 + 2", "winograd4 + max_pool2d")
    assert work.macs == batch * size**2 * 9 * channels * filters
    assert work.macs_done == batch * 7**2 * 36 * channels * filters  # 28 of the 29 are pooled
    assert work.activation_bytes == 4 * batch * (size**2 * channels + 14**2 * filters)


def test_other_steps_are_counted_as_they_stand():
    shortcut = L.Residual(L.Conv2d(16, 16, 1))
    model = L.Sequential(
        L.Conv2d(3, 16, 7, stride=2, padding=3), L.BatchNorm2d(16), L.ReLU(), shortcut, L.ReLU(),
        L.MaxPool2d(2), L.Flatten(), L.Linear(16 * 4 * 4, 10),
    )  # fmt: skip
    first, residual, pool, flatten, linear = works_of(model, (1, 3, 16, 16))
    assert first.macs == first.macs_done == 64 * 147 * 16
    assert first.activation_bytes == 4 * (3 * 256 + 16 * 64)
    panels = first.weight_bytes - 4 * 16  # less the bias; whole panels of up to 64 filters
    assert 4 * 147 * 16 <= panels <= 4 * 147 * 64
    assert residual.macs == residual.macs_done == 64 * 256
    assert residual.activation_bytes == 4 * 3 * 16 * 64  # the residual is read too
    assert (pool.macs, pool.weight_bytes) == (0, 0)
    assert pool.activation_bytes == 4 * 16 * (64 + 16)
    assert flatten.macs == 0
    assert linear.macs_done == 256 * 10
    assert linear.weight_bytes == 4 * (256 * 10 + 10)
    assert linear.activation_bytes == 4 * (256 + 10)


def test_a_floor_is_arithmetic_or_bytes_where_they_lie():
    work = Work("a", "conv2d", "winograd4", 4_000, 1_000, 600, 80)
    bandwidths = {5_000: 10.0, 80: 40.0}
    step = layer_times._against(work, 150.0, 50.0, bandwidths, 5_000)
    assert step.arithmetic == 2 * 1_000 / 50
    assert step.memory == 600 / 10 + 80 / 40
    assert step.floor == 62
    assert step.flops == 2 * 4_000 / 150
    quick = layer_times._against(work, 150.0, 20.0, bandwidths, 5_000)
    assert quick.floor == quick.arithmetic == 100


def words(line: str) -> str:
    return " ".join(line.split())


def test_the_table_adds_up():
    steps = (
        LayerTime(Work("one", "conv2d + relu", "winograd4", 4_000_000, 1_000_000, 1_000, 2_000),
                  0.002, 0.001, 0.003),
        LayerTime(Work("two", "concat", "in place", 0, 0, 0, 0), 0.0, 0.0, 0.0),
        LayerTime(Work("", "max_pool2d", "", 0, 0, 0, 500), 0.0, 0.004, 0.006),
    )  # fmt: skip
    rounds = (Round(others=1), Round(others=0))
    times = LayerTimes(steps, 0.012, 3_500, 1e9, {3_500: 1e6, 2_000: 2e6, 500: 3e6}, rounds, "one")
    about, head, one, two, three, total, run = layer_table.table("net", times).split("\n")
    assert "2 rounds; one state; other programs ran in 1 of them; peak 1 GFLOP/s" in about
    assert "a run touches 3.5 kB, so weights are read at 1 MB/s" in about
    assert head.split()[:4] == ["layer", "algorithm", "MMAC", "done"]
    assert words(one) == "one winograd4 4.0 1.0 1 kB 2 kB 2 MB/s 2 ms arithmetic 3 ms 3 1.50"
    assert words(two) == "two in place 0 ns"
    assert words(three) == "max_pool2d 500 B 3 MB/s 4 ms memory 6 ms 1.50"
    assert words(total) == "total 4.0 1.0 1 kB 2.5 kB 6 ms 9 ms 1 1.50"
    assert run == "a whole run 12 ms, 2.00 times the sum of the floors"


@pytest.fixture
def small_suite(monkeypatch):
    """The suite of networks with a small one alone."""
    monkeypatch.setattr(shapes, "INFERENCE", ("lenet5",))


def test_from_the_command_line(small_suite, tmp_path, capsys):
    file = tmp_path / "layers.json"
    arguments = ["--suite", "networks", "--layers", "--seconds", "0.01", "--threads", "1"]
    assert cli.run(options.parse([*arguments, "--json", str(file)])) == 0
    text = capsys.readouterr().out
    assert "lenet5, batch 1, by its steps" in text
    (problem,) = results.read(file)["problems"]
    found = problem["steps"]
    steps, bandwidths = found["steps"], found["bandwidths"]
    assert sum(step["macs"] for step in steps) == problem["macs"] == 416_520
    assert [step["layer"] for step in steps] == [
        row.layer for row in fc.compile(fc.models.lenet5(), (1, 1, 28, 28)).rows
    ]
    for step in steps:
        memory = step["weight_bytes"] / bandwidths[str(found["run_bytes"])]
        memory += step["activation_bytes"] / bandwidths[str(step["activation_bytes"])]
        assert step["memory_seconds"] == pytest.approx(memory)
        assert step["arithmetic_seconds"] == pytest.approx(2 * step["macs_done"] / found["peak"])
        assert step["floor_seconds"] == max(step["memory_seconds"], step["arithmetic_seconds"])
        assert step["seconds"] > 0
    assert len(found["rounds"]) >= 7
    assert found["run_bytes"] > 4 * fc.models.lenet5().num_parameters
    for step in steps:
        assert any(line.split()[:1] == [step["layer"]] for line in text.split("\n")), step


def test_steps_of_a_wrong_result_are_not_timed():
    session = Session(Settings(1), Limits(seconds=0.01))
    problem = Problem(Network("lenet5"), 1, "forward")
    wrong = results.RowResult("fastconv auto compiled", absent="WRONG")
    result = results.ProblemResult(problem, [wrong])
    assert cli._layers(session, result) == ""
    assert result.steps is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers"], "--layers takes networks apart: add --suite networks"),
        (["--suite", "networks", "--layers", "--peers", "ncnn"], "name it first in --peers"),
        (["--suite", "networks", "--layers", "--device", "cuda"], "are for the CPU"),
        (["--direction", "forward_packed", "--device", "cuda"], "are for the CPU"),
    ],
)
def test_what_has_no_steps_is_told(arguments, message):
    done = run_suite(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_only_fastconv_runs_unless_others_are_named():
    assert options.parse(["--suite", "networks", "--layers"]).peers == ["fastconv"]
    both = options.parse(["--suite", "networks", "--layers", "--peers", "fastconv,ncnn"])
    assert both.own_process == ["ncnn"]


def planted(profile, seconds):
    steps = tuple(dataclasses.replace(step, seconds=seconds) for step in profile.steps)
    return dataclasses.replace(profile, steps=steps, seconds=seconds, peak_flops=1e9)


def test_only_rounds_in_one_state_of_the_machine_count(monkeypatch):
    pings = iter([1e-7, 1e-7, 9e-7, 9e-7, 1e-7, 1e-7, 1e-7, 1e-7, 9e-7, 9e-7])

    class Probes:
        def read_bandwidth(self, size):
            return 1e9

        def peak_flops(self):
            return 1e8

        def ping(self):
            return next(pings)

    seconds = iter([1.0, 50.0, 2.0, 3.0, 50.0])
    original = fc.compile

    def compiled(model, shape):
        plan = original(model, shape)
        real = plan.profile

        def profile(x, repeats):
            assert repeats == 1
            return planted(real(x, repeats=1), next(seconds))

        plan.profile = profile
        return plan

    monkeypatch.setattr(fc, "compile", compiled)
    times = layer_times.measure(
        Problem(Network("lenet5"), 1, "forward"), Probes(), Limits(least_rounds=5, most_rounds=5)
    )
    assert times.state == "near"
    assert times.run_seconds == 2.0
    assert {step.seconds for step in times.steps} == {2.0}
    assert times.peak == 1e9
