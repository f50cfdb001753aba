"""`fc.compile` on the CPU: what is fused, where values lie, and that results are the model's."""

from __future__ import annotations

import sys
import threading

import fastconv as fc
import numpy as np
import pytest
from fastconv.fusion import fuse, program_of
from fastconv.graph import Graph
from fastconv.memory_plan import plan_memory
from inference_models import MODELS, model_of
from support import normals

L = fc.layers


def poison(plan):
    plan._arena[...] = np.nan


def close(actual, expected):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_computes_what_the_model_does(name, rng):
    model, shape = model_of(name), MODELS[name][1]
    plan = fc.compile(model, shape)
    for batch in range(3):  # nothing is left of the run before
        x = normals(shape, rng)
        if batch:
            poison(plan)
        y, wanted = plan(x), model(x)
        assert (y.shape, y.dtype) == (wanted.shape, wanted.dtype)
        assert plan.output_shape == y.shape
        assert not np.shares_memory(y, plan._arena)
        close(y, wanted)
        assert np.array_equal(y, plan(fc.channels_last(x) if x.ndim == 4 else x))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_fused(name):
    plan = fc.compile(model_of(name), MODELS[name][1])
    assert [row.operation for row in plan.rows] == MODELS[name][2]


@pytest.mark.parametrize("name", MODELS)
def test_memory_is_shared_only_by_what_does_not_live_together(name):
    """Every value is written once and whole when it is read: a run on byte ranges."""
    graph = Graph.of(model_of(name), MODELS[name][1])
    program = fuse(program_of(graph, model_of(name).state_dict()))
    memory = plan_memory(program, 4)
    owner = np.full((memory.elements, 1), -1)[:, 0]

    def array(value):
        value = program.views.get(value, value)
        place = memory.places[value]
        shape, begin = program.shapes[place.storage], memory.offsets[place.storage]
        flat = owner[begin : begin + int(np.prod(shape))]
        channels = program.shapes[value][1]
        columns = flat.reshape(-1, shape[1])  # images lie channels last
        return columns[:, place.channel : place.channel + channels], value

    array(0)[0][...] = 0
    whole = {}  # a concatenation is of its parts
    for step in program.steps:
        for value in step.reads:
            memory_of, name_of = array(value)
            assert np.isin(memory_of, list(whole.get(name_of, {name_of}))).all(), step
        target, name_of = array(step.output)
        if step.op == "concat":
            whole[name_of] = {name_of}.union(
                *(whole.get(v, {program.views.get(v, v)}) for v in step.inputs)
            )
            begin = 0
            for value in step.inputs:
                end = begin + program.shapes[value][1]
                source = array(value)[0]
                if not np.shares_memory(target[:, begin:end], source):
                    target[:, begin:end] = name_of
                begin = end
        else:
            target[...] = name_of
    for value in program.outputs:
        memory_of, name_of = array(value)
        assert np.isin(memory_of, list(whole.get(name_of, {name_of}))).all()


def test_concatenations_copy_only_what_is_not_a_result(rng):
    for name in ("inception", "shared", "pools"):
        rows = fc.compile(model_of(name), MODELS[name][1]).rows
        assert {row.kernel for row in rows if row.operation == "concat"} == {"in place"}
    conv = L.Sequential(L.Conv2d(2, 3, 1), L.ReLU())
    both = L.Sequential(conv, L.Concat(L.Sequential(), L.Sequential()))
    model, x = L.Concat(both, L.Sequential(), L.Tanh()).eval(), normals((2, 2, 4, 3), rng)
    plan = fc.compile(model, x.shape)
    # The first of the same result is there, the second is copied; so is the input.
    assert [row.kernel for row in plan.rows if row.operation == "concat"] == ["1 copies"] * 2
    assert np.array_equal(plan(x), model(x))


def test_a_residual_that_dies_is_written_over():
    plan = fc.compile(model_of("residual"), MODELS["residual"][1])
    stem, _, first = (row.buffer for row in plan.rows[:3])
    assert stem == first
    assert plan.activation_bytes < plan.unshared_bytes


def test_bits_are_the_models_where_nothing_is_folded(rng):
    model = L.Sequential(
        L.Conv2d(3, 8, 3, padding=1), L.ReLU(), L.MaxPool2d(2), L.Conv2d(8, 8, 3), L.Tanh(),
        L.Flatten(), L.Linear(32, 5), L.ReLU(),
    ).eval()  # fmt: skip
    x = normals((2, 3, 8, 8), rng)
    assert np.array_equal(fc.compile(model, x.shape)(x), model(x))


def test_batch_norm_is_folded_in_float64_and_rounded_once():
    conv, norm = L.Conv2d(1, 1, 1), L.BatchNorm2d(1, eps=0.0)
    conv.weight.data, conv.bias.data = np.float32([[[[3]]]]), np.float32([1 / 3])
    norm.running_mean[...], norm.running_var[...] = 0.1, 0.7
    model = L.Sequential(conv, norm)
    program = fuse(program_of(Graph.of(model, (1, 1, 2, 2)), model.state_dict()))
    (step,) = program.steps
    scale = 1 / np.sqrt(np.float64(np.float32(0.7)))
    assert step.constants["weight"].item() == 3 * scale
    shift = (np.float64(np.float32(1 / 3)) - np.float64(np.float32(0.1))) * scale
    assert step.constants["bias"].item() == shift


def test_float64(rng):
    model = model_of("residual").to(dtype="float64")
    x = normals(MODELS["residual"][1], rng).astype(np.float64)
    plan = fc.compile(model, x.shape, dtype="float64")
    np.testing.assert_allclose(plan(x), model(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(TypeError, match="x has dtype float32, but the plan was compiled for"):
        plan(x.astype(np.float32))


def _forward_only():
    """Every operation that has a rule, none of which is folded into another."""
    features = L.Sequential(
        L.Conv2d(4, 8, 3, padding=1), L.ReLU(), L.MaxPool2d(2, stride=1), L.Tanh(),
        L.BatchNorm2d(8), L.Sigmoid(), L.LocalResponseNorm(3), L.PositionBias(8, 6, 5),
        L.AvgPool2d(3, stride=1, padding=1), L.ConvTranspose2d(8, 6, 2),
        L.Concat(L.Conv2d(6, 3, 1), L.Sequential()), L.Highway(L.Conv2d(9, 9, 1), L.Tanh()),
        L.Residual(L.MaxPool2d(3, stride=1, padding=1)),
    )  # fmt: skip
    head = L.Sequential(
        L.AdaptiveAvgPool2d((3, 2)), L.Flatten(), L.Linear(54, 70), L.ReLU(), L.Linear(70, 5),
        L.Softmax(),
    )  # fmt: skip
    return L.Sequential(features, head).eval()


@pytest.mark.parametrize("batch", [0, 1, 3, 5])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_step_has_the_bits_of_its_own_call(batch, threads, rng):
    model, shape = _forward_only(), (batch, 4, 7, 6)
    before = fc.get_num_threads()
    try:
        plan, x = fc.compile(model, shape), normals(shape, rng)
        wanted = model(x)
        fc.set_num_threads(threads)  # of the run, not of the compilation
        poison(plan)
        assert np.array_equal(plan(x), wanted)
        assert plan._threads == threads
    finally:
        fc.set_num_threads(before)


def test_any_strides_in_and_out(rng):
    plan = fc.compile(L.Sequential(L.Conv2d(3, 5, 3, padding=1)).eval(), (2, 3, 6, 7))
    wide = normals((4, 6, 12, 9), rng)
    x = wide[::2, ::-2, ::-2, 1:8]
    assert x.shape == plan.input_shape
    room = np.full((2, 8, 9, 6), np.nan, np.float32)
    out = room.transpose(0, 1, 3, 2)[:, 1:6, :, ::-1][..., 1:8]
    assert plan.run(x, out) is out
    assert np.array_equal(out, plan(x.copy()))
    assert np.isnan(room).sum() == room.size - out.size


def test_a_call_that_fails_ends_the_recording(monkeypatch):
    def refuse(*arguments, **options):
        raise ValueError("refused")

    with monkeypatch.context() as patch:
        patch.setattr("fastconv.bound_calls.ops.linear", refuse)
        with pytest.raises(ValueError, match="refused"):
            fc.compile(L.Sequential(L.Linear(3, 2)), (1, 3))
    x = np.float32([[-1, 2]])
    assert np.array_equal(fc.relu(x), [[0, 2]])  # runs, is not recorded
    assert fc.compile(L.ReLU(), (1, 2))(x).tolist() == [[0, 2]]


def test_other_threads_calls_are_not_recorded():
    program, x, done = fc._core.Program(), np.float32([-1, 2]), []
    program.begin()
    try:
        with pytest.raises(RuntimeError, match="records a program already"):
            program.begin()
        other = threading.Thread(target=lambda: done.append(fc.relu(x)))
        other.start()
        other.join()
        assert len(program) == 0
        result = np.zeros(2, np.float32)
        fc._core.relu(x, result)
        assert (len(program), result.tolist()) == (1, [0, 0])
    finally:
        program.end()
    assert done[0].tolist() == [0, 2]
    program.run([], [])
    assert result.tolist() == [0, 2]
    x[:] = 3
    (seconds,) = program.run_timed()
    assert result.tolist() == [3, 3]
    assert seconds > 0


def test_a_profile_names_every_step(rng):
    model, shape = model_of("inception"), MODELS["inception"][1]
    plan, x = fc.compile(model, shape), normals(shape, rng)
    profile = plan.profile(x, repeats=3)
    assert [step.row for step in profile.steps] == list(plan.rows)
    assert all(step.seconds >= 0 for step in profile.steps)
    conv = profile.steps[0]
    assert conv.row.multiply_adds == 2 * 8 * 4 * 5 * 4
    assert conv.row.bytes == 4 * (2 * 4 * 20 + 2 * 8 * 20 + 8 * 4 + 8)
    assert sum(step.row.multiply_adds for step in profile.steps) == plan.multiply_adds
    concat = next(step for step in profile.steps if step.row.operation == "concat")
    assert concat.seconds == concat.row.bytes == 0  # in place: there is no call
    text = str(profile)
    assert len(text.splitlines()) == len(plan.rows) + 3
    assert f"ms in {len(plan.rows)} steps" in text
    with pytest.raises(ValueError, match="repeats=0; at least 1 is needed"):
        plan.profile(x, repeats=0)


def test_highway_and_one_image(rng):
    model = L.Highway(L.Sequential(L.Linear(6, 6), L.ReLU()), L.Linear(6, 6)).eval()
    x = normals((3, 6), rng)
    close(fc.compile(model, (3, 6))(x), model(x))
    model = L.Sequential(L.Conv2d(2, 3, 2), L.ReLU()).eval()
    plan, x = fc.compile(model, (1, 2, 5, 4)), normals((2, 5, 4), rng)
    assert plan(x).shape == (3, 4, 3)
    assert np.array_equal(plan(x), model(x))
    out = np.empty((3, 4, 3), np.float32)
    assert plan.run(x, out) is out
    assert np.array_equal(out, model(x))


def test_models_that_only_hand_on(rng):
    x = normals((2, 3), rng)
    for model in (L.Dropout(), L.Sequential(), L.Flatten()):
        y = fc.compile(model, x.shape)(x)
        assert np.array_equal(y, x)
        assert not np.shares_memory(y, x)
    empty = fc.compile(model_of("classifier"), (0, 3, 6, 8))
    assert empty(np.ones((0, 3, 6, 8), np.float32)).shape == (0, 5)


def test_several_results(rng):
    class Two(L.Layer):
        def __init__(self):
            self.stem, self.head = L.Conv2d(2, 4, 3), L.Conv2d(4, 3, 1)

        def forward(self, x):
            y = self.stem(x)
            return self.head(y), y

    model, x = Two().eval(), normals((2, 2, 5, 5), rng)
    plan = fc.compile(model, x.shape)
    assert plan.output_shape == ((2, 3, 3, 3), (2, 4, 3, 3))
    for ours, theirs in zip(plan(x), model(x), strict=True):
        assert np.array_equal(ours, theirs)
    outs = tuple(np.empty(shape, np.float32) for shape in plan.output_shape)
    assert plan.run(x, outs) is outs
    assert np.array_equal(outs[0], model(x)[0])
    with pytest.raises(TypeError, match="out must be a tuple of 2 arrays"):
        plan.run(x, outs[0])


def test_the_model_is_a_snapshot_and_stays_as_it_is(rng):
    model = model_of("residual")
    x = normals(MODELS["residual"][1], rng)
    plan, wanted = fc.compile(model.train(), x.shape), model.eval()(x)
    model.train()
    before = plan(x)
    for parameter in model.parameters():
        parameter.data[...] = 0
    assert model.training
    assert np.array_equal(plan(x), before)
    close(before, wanted)


def test_another_instruction_set_than_at_compilation(rng, isa):
    model, x = model_of("residual"), normals(MODELS["residual"][1], rng)
    with fc.isa("scalar"):
        plan = fc.compile(model, x.shape)
    close(plan(x), model(x))


def test_threads_take_turns(rng):
    model, shape = model_of("inception"), MODELS["inception"][1]
    plan = fc.compile(model, shape)
    inputs = [normals(shape, rng) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    wanted = [plan(x) for x in inputs]
    wrong = []

    def work(x, y):
        wrong.extend(not np.array_equal(plan(x), y) for _ in range(20))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not any(wrong)


def test_out_is_written_and_checked(rng):
    model, shape = model_of("inception"), MODELS["inception"][1]
    plan, x = fc.compile(model, shape), normals(shape, rng)
    wide = np.full((2, 40, 3, 3), np.nan, np.float32)
    out = wide[:, 3 : 3 + plan.output_shape[1]]
    assert plan.run(x, out=out) is out
    assert np.array_equal(out, plan(x))
    with pytest.raises(ValueError, match=r"plan: out has shape \(2, 40, 3, 3\), but the result's"):
        plan.run(x, wide)
    with pytest.raises(TypeError, match="plan: out has dtype float64"):
        plan.run(x, np.empty(plan.output_shape))


def test_torchs_tensors_give_torchs(rng):
    torch = pytest.importorskip("torch")
    model, shape = model_of("inception"), MODELS["inception"][1]
    plan, x = fc.compile(model, shape), normals(shape, rng)
    y = plan(torch.from_numpy(x))
    assert isinstance(y, torch.Tensor)
    out = torch.empty(y.shape)
    assert plan.run(torch.from_numpy(x), out) is out
    assert np.array_equal(y.numpy(), plan(x))
    assert torch.equal(out, y)


def test_wrong_inputs_are_named(rng):
    plan = fc.compile(model_of("classifier"), (2, 3, 6, 8))
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 6, 8\), but what was compiled for"):
        plan(normals((1, 3, 6, 8), rng))
    with pytest.raises(TypeError, match="x has dtype float64, but the plan was compiled for float"):
        plan(np.ones((2, 3, 6, 8)))
    with pytest.raises(TypeError, match="plan: x is a list"):
        plan([1.0])


class Scale(L.Layer):
    def forward(self, x):
        return 2 * x

    def output_shape(self, input_shape):
        return input_shape


class Doubled(L.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_has_no_rule_is_named():
    with pytest.raises(TypeError, match="compile: Scale '1' computes its output itself"):
        fc.compile(L.Sequential(L.ReLU(), Scale()), (2, 3))
    with pytest.raises(TypeError, match="Doubled '0': it has a forward of its own, but lower from"):
        fc.compile(L.Sequential(Doubled(3, 4, 1)), (1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"weight has 3 input channels x 1 group, but the input"):
        fc.compile(L.Conv2d(3, 4, 1), (1, 2, 4, 4))
    with pytest.raises(TypeError, match="compile: model is a function"):
        fc.compile(close, (1, 2))
    with pytest.raises(TypeError, match="compile: bfloat16 has kernels on a CUDA device only"):
        fc.compile(L.ReLU(), (1, 2), dtype="bfloat16")
    with pytest.raises(ValueError, match="compile: device='gpu', but"):
        fc.compile(L.ReLU(), (1, 2), device="gpu")


def test_a_plan_prints_its_steps_and_totals():
    plan = fc.compile(model_of("residual"), (2, 3, 6, 5))
    text = str(plan)
    third = "conv2d + batch_norm + add + relu 2.0.body.3 (2, 8, 6, 5) + (2, 8, 6, 5) (2, 8, 6, 5)"
    assert any(" ".join(line.split()).startswith(third) for line in text.splitlines())
    assert "direct" in text
    macs = sum(row.multiply_adds for row in fc.summary(model_of("residual"), (2, 3, 6, 5)).rows)
    assert plan.multiply_adds == macs
    assert f"float32 on cpu: {macs:,} multiply-adds, weights" in text
    assert repr(plan) == (
        "<fastconv.InferencePlan (2, 3, 6, 5) -> (2, 16), float32 on cpu, 7 steps>"
    )


def test_lenet5(rng):
    for shape, variant in (((1, 1, 28, 28), "relu"), ((3, 1, 32, 32), "paper")):
        model = fc.models.lenet5(variant=variant, seed=1).eval()
        x = normals(shape, rng)
        assert np.array_equal(fc.compile(model, shape)(x), model(x))
