"""The benchmark suite from the command line, its files, and two of them compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import compare, results  # noqa: E402
from benchmarks.problems import Problem  # noqa: E402
from benchmarks.session import Session  # noqa: E402

reference = pytest.importorskip("fastconv.reference")


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
        (["--json", "no_such_folder/x.json"], "there is no folder no_such_folder"),
        (["--json", "."], "--json . is a folder; a file is wanted"),
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
