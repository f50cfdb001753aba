"""The benchmark of whole networks: every library gets the same network, and faults are found."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import fastconv as fc
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inference_models import MODELS, model_of  # noqa: E402

from benchmarks import networks, operations, options, shapes  # noqa: E402
from benchmarks.checking import Checker  # noqa: E402
from benchmarks.networks.ncnn_model import NcnnModel  # noqa: E402
from benchmarks.operations.network import Network  # noqa: E402
from benchmarks.operations.training import Training  # noqa: E402
from benchmarks.peers import PEERS, Settings, fastconv_kernels, load_peer  # noqa: E402
from benchmarks.problems import Problem, problems  # noqa: E402
from benchmarks.session import Session  # noqa: E402
from benchmarks.timing import Limits  # noqa: E402


@pytest.fixture(params=["residual", "inception", "classifier"])
def network(request, monkeypatch):
    """A small model in the place of a network: residuals, concatenations, batch norm, pooling."""
    model, (_, *image) = model_of(request.param), MODELS[request.param][1]
    if request.param == "classifier":
        model = model[:-1]  # without its softmax
    monkeypatch.setitem(networks.NETWORKS, request.param, ("small", {}))
    monkeypatch.setitem(networks.IMAGES, request.param, tuple(image))
    for module in (networks, operations.network, fastconv_kernels):
        monkeypatch.setattr(module, "model_of", lambda name: model)
    return request.param


def needs(name: str) -> None:
    packages = {"pytorch": ["torch"], "mnn": ["MNN", "onnx"], "ncnn": ["ncnn"], "numpy": []}
    for package in packages.get(name, [name, "onnx"] if name != "fastconv" else []):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("name", [name for name in PEERS if name != "numpy"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_library_computes_the_same_network(name, batch, network):
    needs(name)
    problem = Problem(Network(network), batch, "forward")
    operands = problem.operands()
    checker = Checker(problem, operands)
    peer = load_peer(name)
    assert peer.start(Settings(1)) is None
    variants = [v for v in peer.variants(problem) if v != "torch.compile"]  # a compiler's minute
    for variant in variants:
        prepared = peer.prepare(problem, operands, variant)
        for _ in range(2):  # the second call finds the first one's memory
            verdict = checker.check(name, prepared.arrays(prepared.call()))
            assert verdict.passed, verdict


def test_ours_takes_the_image_in_c_order_as_the_runtimes_do(network, monkeypatch):
    taken = []

    class Plan:
        rows = ()

        def __call__(self, x):
            taken.append(x)
            return x

    monkeypatch.setattr(fc, "compile", lambda model, shape: Plan())
    problem = Problem(Network(network), 2, "forward")
    peer = load_peer("fastconv")
    peer.start(Settings(1))
    peer.prepare(problem, problem.operands(), "auto compiled").call()
    assert [x.flags.c_contiguous for x in taken] == [True]


def test_a_fault_of_a_thousandth_is_found(network):
    problem = Problem(Network(network), 2, "forward")
    operands = problem.operands()
    peer = load_peer("fastconv")
    peer.start(Settings(1))
    prepared = peer.prepare(problem, operands, "auto compiled")
    (result,) = prepared.arrays(prepared.call())
    checker = Checker(problem, operands)
    assert checker.check("right", (result,)).passed
    result.flat[-1] += 1e-3 * np.abs(result).max()
    assert not checker.check("wrong", (result,)).passed
    result.flat[-1] = np.nan
    assert not checker.check("wrong", (result,)).passed


def test_the_suite_has_the_four_networks_once_each():
    layers = shapes.suite("networks")
    found = problems(layers, [1, 16], ["forward", "backward"])
    assert [layer.name for layer in layers] == ["alexnet", "vgg16", "googlenet", "resnet50"]
    assert len(found) == 8
    assert not set(layers) & set(shapes.suite("all"))
    chosen = options.parse(["--suite", "networks"])
    assert chosen.peers[0] == "fastconv"
    assert chosen.own_process == chosen.peers[1:]
    assert options.parse([]).own_process == []


def test_ncnn_reads_each_blob_once(network):
    model = NcnnModel(networks.program_of_network(network, 1, folded=True))
    lines = [line.split() for line in model.param.splitlines()[2:]]
    layers, blobs = map(int, model.param.splitlines()[1].split())
    made = [name for line in lines for name in line[4 + int(line[2]) :][: int(line[3])]]
    read = [name for line in lines for name in line[4 : 4 + int(line[2])]]
    assert (len(lines), len(made)) == (layers, blobs)
    assert sorted([*read, model.output]) == sorted(made)


def test_a_network_from_end_to_end(tmp_path):
    session = Session(Settings(1), Limits(seconds=0.05, least_rounds=5, most_rounds=5))
    session.start(["fastconv", "numpy"])
    try:
        (problem,) = problems(
            [shapes.Layer("networks", "lenet5", Network("lenet5"), 1)], [2], ["forward"]
        )
        result = session.run(problem)
    finally:
        session.stop()
    (row,) = result.rows
    assert row.name == "fastconv auto compiled"
    assert row.verdict is not None
    assert row.verdict.passed
    assert row.summary is not None
    assert "direct" in row.plan
    assert problem.macs == 2 * 416_520
    from benchmarks.results import to_json

    json.dumps(to_json([result], {}, {}, True))


@pytest.mark.parametrize("name", ["fastconv", "pytorch"])
def test_every_library_takes_the_same_training_step(name, network, monkeypatch):
    needs(name)
    model, (_, *image) = model_of(network), MODELS[network][1]
    if network == "classifier":
        model = model[:-1]
    if len(model.output_shape((1, *image))) == 4:
        model = fc.layers.Sequential(model, fc.layers.GlobalAvgPool2d(), fc.layers.Flatten())
    monkeypatch.setattr(operations.training, "build_model", lambda name: model.train())
    monkeypatch.setattr(networks, "model_of", lambda name: model.eval())
    monkeypatch.setitem(networks.IMAGES, network, tuple(image))
    problem = Problem(Training(network), 3, "step")
    operands = problem.operands()
    checker = Checker(problem, operands)
    peer = load_peer(name)
    assert peer.start(Settings(1)) is None
    (variant,) = peer.variants(problem)
    prepared = peer.prepare(problem, operands, variant)
    for _ in range(2):  # with a rate of 0 the second step is the first one again
        results = prepared.arrays(prepared.call())
        verdict = checker.check(name, results)
        assert verdict.passed, verdict
    faulty = [results[0], results[1], results[2] * np.float32(1.01)]
    assert not checker.check(name, faulty).passed
