"""Runs what the command line asks for; ``options`` has the options, ``session`` does the work."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

from . import compare, layer_table, layer_times, machine, report, results, shapes, summary
from .peers import PEERS, Settings
from .problems import Problem, problems
from .session import Session
from .timing import Limits

INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 ours wrong or slower, 2 bad arguments, 130 interrupted."""
    try:
        files = [results.read(path) for path in options.compare or ()]
        if len(files) == 2:
            return _compare(files[0], files[1], options.fail)
        wanted = _wanted(options)
        _check_target(options.json)
    except (OSError, ValueError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2
    if options.list:
        print(_listing(wanted))
        return 0
    if options.device == "cuda":
        from .gpu.run import run as run_on_device

        return run_on_device(options)
    return _measure(options, wanted, files[0] if files else None)


def _check_target(path: Path | None) -> None:
    """Before hours of measuring, not after."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"--json {path} is a folder; a file is wanted")
    if not path.parent.is_dir():
        raise ValueError(f"--json {path}: there is no folder {path.parent}")


def _wanted(options: argparse.Namespace) -> list[Problem]:
    for name in [*options.peers, *options.own_process]:
        if name not in PEERS:
            raise ValueError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
    layers = [layer for name in options.suite for layer in shapes.suite(name)]
    wanted = problems(layers, options.batch, options.direction, options.pattern)
    if not wanted and not (options.device == "cuda" and options.memory_bound):
        raise ValueError("no problem matches; --list shows what there is")
    return wanted


def _listing(wanted: list[Problem]) -> str:
    lines = ["suites:"]
    for name in shapes.suite_names():
        about = shapes.COLLECTIONS.get(name, f"{len(shapes.suite(name))} layers")
        lines.append(f"  {name:<26}{about}")
    lines.append(f"problems ({len(wanted)}):")
    for problem in wanted:
        size = (
            report.count(problem.macs, "MAC")
            if problem.macs
            else report.count(problem.bytes_moved, "B")
        )
        stands_for = ", ".join(f"{layer.title} x{layer.count}" for layer in problem.layers)
        lines.append(f"  {problem.identity}  {size}  ({stands_for})")
    return "\n".join(lines)


def _measure(options: argparse.Namespace, wanted: list[Problem], old: dict[str, Any] | None) -> int:
    settings = Settings(options.threads, options.isa, tuple(options.algorithms))
    quick = options.quick
    limits = Limits(options.tolerance, options.seconds, 5 if quick else 7)
    slow = 0.15 if quick else 30.0 if {"networks", "training"} & set(options.suite) else 1.0
    session = Session(settings, limits, slow, options.seed, options.orders)
    found: list[results.ProblemResult] = []
    session.start(options.peers, options.own_process)
    about = {
        "machine": machine.facts(),
        "versions": session.versions(),
        "commit": machine.commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "probes": session.probes.available,
    }
    print(report.header(about, vars(options), session.missing, wanted), flush=True)
    if not session.hosts:
        print("no peer can be measured here", file=sys.stderr)
        return 2
    complete, code = False, 0
    try:
        complete = _run_all(session, wanted, found, options)
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is what was measured until then", flush=True)
        code = INTERRUPTED
    finally:
        session.stop()
    print("\n" + summary.summary(found))
    content = json.loads(json.dumps(results.to_json(found, _plain(options), about, complete)))
    if options.json:
        results.write(options.json, content)
        print(f"wrote {options.json}")
    if summary.wrong_ours(found):
        code = code or 1
    if old is not None:
        code = code or _compare(old, content, options.fail)
    return code


def _run_all(
    session: Session,
    wanted: list[Problem],
    found: list[results.ProblemResult],
    options: argparse.Namespace,
) -> bool:
    """Run the problems in turn, each printed as it ends; False where the limit left some out."""
    progress, began = report.Progress(), time.perf_counter()
    for number, problem in enumerate(wanted):
        spent = time.perf_counter() - began
        if options.time_limit is not None and spent > options.time_limit:
            progress.clear()
            missing = len(wanted) - number
            print(f"\ntime limit of {options.time_limit:.0f} s: {missing} problems were not begun")
            return False
        left = f", about {spent / number * (len(wanted) - number):.0f} s left" if number else ""
        place = f"{number + 1}/{len(wanted)}{left}: {problem.title} {problem.direction}"
        session.progress = functools.partial(_show, progress, place)
        result = session.run(problem)
        found.append(result)
        text = report.block(result) + (_layers(session, result) if options.layers else "")
        progress.clear()
        print("\n" + text, flush=True)
    return True


def _layers(session: Session, result: results.ProblemResult) -> str:
    """The steps of a network whose result was right, measured now."""
    problem = result.problem
    if problem.shape.operation != "network" or result.row("fastconv auto compiled") is None:
        return ""
    times = layer_times.measure(
        problem, session.probes, session.limits, session.rounds, session.progress
    )
    result.steps = layer_table.to_json(times)
    return "\n" + layer_table.table(f"{problem.shape.key}, batch {problem.batch},", times)


def _show(progress: report.Progress, place: str, step: str) -> None:
    progress.show(f"{place}, {step}")


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """The options as JSON values."""
    plain = (str, int, float, list, type(None))
    return {
        name: value
        for name, value in vars(options).items()
        if isinstance(value, plain) and name != "compare"
    }


def _compare(old: dict[str, Any], new: dict[str, Any], percent: float) -> int:
    text, code = compare.compare(old, new, percent / 100)
    print(text)
    return code
