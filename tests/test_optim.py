"""SGD and schedules: by hand, against PyTorch, and through state_dict."""

from __future__ import annotations

import copy

import fastconv as fc
import numpy as np
import pytest
from fastconv import layers as L
from fastconv import optim
from fastconv.layers import Parameter

VARIANTS = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.01},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
]


def run_sgd(steps, seed=0, dtype=np.float64, size=100_003, **options):
    rng = np.random.default_rng(seed)
    parameters = [
        Parameter(rng.standard_normal(size).astype(dtype)),
        Parameter(rng.standard_normal((3, 5)).astype(dtype)),
    ]
    optimizer = optim.SGD(parameters, lr=0.1, **options)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = rng.standard_normal(parameter.shape)
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_sgd_against_torch(options, dtype, tolerance):
    torch = pytest.importorskip("torch")
    ours, _ = run_sgd(4, dtype=dtype, **options)
    rng = np.random.default_rng(0)
    theirs = [
        torch.tensor(rng.standard_normal(100_003).astype(dtype), requires_grad=True),
        torch.tensor(rng.standard_normal((3, 5)).astype(dtype), requires_grad=True),
    ]
    optimizer = torch.optim.SGD(theirs, lr=0.1, **options)
    for _ in range(4):
        for tensor in theirs:
            tensor.grad = torch.tensor(rng.standard_normal(tuple(tensor.shape)).astype(dtype))
        optimizer.step()
    for parameter, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), atol=tolerance)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_step_leaves_the_gradient_and_works_in_place(options):
    parameter = Parameter(np.ones(7, np.float32))
    optimizer = optim.SGD([parameter], lr=0.5, **options)
    held, parameter.grad = parameter.data, np.arange(7)
    optimizer.step()
    optimizer.step()
    assert parameter.data is held
    np.testing.assert_array_equal(parameter.grad, np.arange(7))


def test_parameters_without_gradient_or_frozen_stay():
    idle, frozen, moved = (Parameter(np.ones(3, np.float32)) for _ in range(3))
    frozen.requires_grad = False
    frozen.grad += 1
    moved.grad += 1
    optim.SGD([idle, frozen, moved], lr=1.0, weight_decay=0.1).step()
    assert idle.data[0] == frozen.data[0] == 1
    assert moved.data[0] == pytest.approx(-0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_call_for_all_parameters_is_one_for_each(momentum):
    """Sizes around the kernel's tiles of 16,384, none and one element, two dtypes."""
    rng = np.random.default_rng(4)
    shapes = [(0,), (1,), (3, 5), (0, 4), (16_384,), (16_385,), (70_001,), (8, 3, 5, 5), (0,)]
    made = [(s, dtype) for dtype in (np.float32, np.float64) for s in shapes]
    pairs = [[Parameter(rng.standard_normal(s).astype(d)) for s, d in made]]
    pairs.append([Parameter(p.data.copy()) for p in pairs[0]])
    together = [optim.SGD(pairs[0], lr=0.1, momentum=momentum, weight_decay=0.01)]
    apart = [optim.SGD([p], lr=0.1, momentum=momentum, weight_decay=0.01) for p in pairs[1]]
    for _ in range(2):
        for one, other in zip(*pairs, strict=True):
            one.grad = other.grad = rng.standard_normal(one.shape)
        for optimizer in together + apart:
            optimizer.step()
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_sgd_state_resumes_to_the_same_bits():
    whole, _ = run_sgd(4, momentum=0.9, weight_decay=0.1)
    rng = np.random.default_rng(0)
    parameters = [Parameter(rng.standard_normal(100_003)), Parameter(rng.standard_normal((3, 5)))]
    state = None
    for _ in range(2):
        optimizer = optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
        if state is not None:
            optimizer = optim.SGD(parameters, lr=9.0)
            optimizer.load_state_dict(state)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = rng.standard_normal(parameter.shape)
            optimizer.step()
        state = optimizer.state_dict()
    for one, other in zip(whole, parameters, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1}, "lr=-1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": 1, "momentum": -0.5}, "momentum=-0.5"),
        ({"lr": 1, "nesterov": True}, "needs momentum > 0"),
    ],
)
def test_bad_sgd_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        optim.SGD([Parameter([1.0])], **options)


def test_sgd_takes_parameters_only():
    with pytest.raises(ValueError, match="params is empty"):
        optim.SGD([], lr=1)
    with pytest.raises(TypeError, match="ndarray"):
        optim.SGD([np.ones(3)], lr=1)
    twice = Parameter([1.0])
    with pytest.raises(ValueError, match="a parameter twice"):
        optim.SGD([twice, Parameter([1.0]), twice], lr=1)
    optimizer = optim.SGD([Parameter([1.0, 2.0])], lr=1)
    with pytest.raises(ValueError, match=r"shape \(3,\), but the parameter has \(2,\)"):
        optimizer.load_state_dict({"hyper": {}, "velocity": [np.zeros(3)]})


def pair_of_schedules(name, **options):
    torch = pytest.importorskip("torch")
    ours = optim.SGD([Parameter([0.0])], lr=0.3)
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    peer = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    theirs.step()  # else it warns
    return ours, getattr(optim, name)(ours, **options), theirs, peer


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 3, "gamma": 0.2}),
        ("MultiStepLR", {"milestones": [2, 5, 5, 8], "gamma": 0.5}),
        ("CosineAnnealingLR", {"T_max": 10}),
        ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.05}),
    ],
)
def test_schedule_against_torch(name, options):
    ours, schedule, theirs, peer = pair_of_schedules(name, **options)
    for _ in range(options.get("T_max", 10)):
        schedule.step()
        peer.step()
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": 0, "cooldown": 2, "factor": 0.5},
        {"patience": 1, "mode": "max", "threshold_mode": "abs", "threshold": 0.05},
        {"patience": 0, "min_lr": 0.1},
    ],
    ids=str,
)
def test_plateau_against_torch(options):
    ours, schedule, theirs, peer = pair_of_schedules("ReduceLROnPlateau", **options)
    for metric in (
        1.0,
        0.9,
        0.9,
        0.91,
        0.9,
        0.8,
        0.85,
        0.85,
        0.86,
        0.9,
        0.95,
        1.0,
        float("nan"),
        1.2,
    ):
        schedule.step(metric)
        peer.step(metric)
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: optim.StepLR(o, 2, gamma=0.5),
        lambda o: optim.CosineAnnealingLR(o, 6),
        lambda o: optim.ReduceLROnPlateau(o, patience=0, cooldown=1),
        lambda o: optim.MultiStepLR(o, [2, 4]),
        lambda o: optim.WarmUp(optim.MultiStepLR(o, [4]), lr=0.01),
        lambda o: optim.WarmUp(optim.ReduceLROnPlateau(o, patience=0), lr=0.01),
    ],
)
def test_schedule_state_round_trip(make):
    rates = {}
    for resumed in (False, True):
        optimizer = optim.SGD([Parameter([0.0])], lr=0.3)
        schedule = make(optimizer)
        rates[resumed] = []
        for epoch in range(6):
            if resumed and epoch == 3:
                fresh = optim.SGD([Parameter([0.0])], lr=7.0)
                state = schedule.state_dict()
                schedule = make(fresh)
                schedule.load_state_dict(state)
                fresh.load_state_dict(optimizer.state_dict())
                optimizer = fresh
            accuracy = 0.1 * epoch  # ends the warm-up after the epoch whose number is 3
            row = {"accuracy": accuracy, "val_accuracy": accuracy, "loss": 1.0, "val_loss": 1.0}
            schedule.step_epoch(row)
            rates[resumed].append(optimizer.lr)
    assert rates[True] == rates[False]


def test_warm_up_goes_on_with_the_schedule_which_counted_from_the_start():
    optimizer = optim.SGD([Parameter([0.0])], lr=0.1)
    schedule = optim.WarmUp(optim.MultiStepLR(optimizer, [3, 5]), lr=0.01, accuracy=0.2)
    rates = [optimizer.lr]
    for accuracy in (0.1, 0.2, 0.25, 0.15, 0.3):
        schedule.step(accuracy)
        rates.append(optimizer.lr)
    # Milestone 3 was reached as the warm-up ended.
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.01, 0.01, 0.01, 0.001])
    optimizer.lr = 0.1
    schedule = optim.WarmUp(optim.ReduceLROnPlateau(optimizer, "max", patience=0), lr=0.01)
    row = {"accuracy": 0.5, "loss": 1.0, "val_accuracy": 0.4, "val_loss": 1.0}
    for expected in (0.1, 0.01):  # warm after one epoch; no better in the next
        schedule.step_epoch(row)
        assert optimizer.lr == pytest.approx(expected)


def test_a_schedule_tells_its_settings_and_not_its_counters():
    optimizer = optim.SGD([Parameter([0.0])], lr=0.1)
    schedule = optim.WarmUp(optim.MultiStepLR(optimizer, [3]), lr=0.01)
    before = repr(schedule)
    assert before == (
        "WarmUp(MultiStepLR(base_lr=0.1, milestones=[3], gamma=0.1), lr=0.01, accuracy=0.2)"
    )
    schedule.step(0.5)
    assert repr(schedule) == before


def test_bad_schedule_arguments():
    optimizer = optim.SGD([Parameter([0.0])], lr=1.0)
    for make, text in (
        (lambda: optim.StepLR(optimizer, 0), "step_size=0"),
        (lambda: optim.CosineAnnealingLR(optimizer, 0), "T_max=0"),
        (lambda: optim.MultiStepLR(optimizer, [3, -1]), r"milestones=\[3, -1\]"),
        (lambda: optim.WarmUp(optim.StepLR(optimizer, 1), lr=-1), "lr=-1"),
        (lambda: optim.WarmUp(optim.StepLR(optimizer, 1), accuracy=20), "accuracy=20"),
        (lambda: optim.WarmUp(optim.StepLR(optimizer, 1)).step(), "training accuracy"),
        (lambda: optim.ReduceLROnPlateau(optimizer, mode="least"), "mode='least'"),
        (lambda: optim.ReduceLROnPlateau(optimizer, factor=1.0), "factor=1.0"),
        (lambda: optim.ReduceLROnPlateau(optimizer).step(), "needs the epoch's loss"),
    ):
        with pytest.raises(ValueError, match=text):
            make()


def small_model():
    with fc.init.seeded(3):
        return L.Sequential(
            L.Conv2d(2, 3, 3), L.BatchNorm2d(3), L.ReLU(), L.Flatten(), L.Linear(27, 4)
        )


def backward(model, seed):
    x = np.random.default_rng(seed).standard_normal((4, 2, 5, 5)).astype(model[0].weight.dtype)
    model.zero_grad()
    model.backward(model(x))


def concatenated(model):
    return np.concatenate([p.grad.ravel() for p in model.parameters()])


def test_gradients_are_views_of_one_array():
    model, apart = small_model(), small_model()
    backward(apart, 0)
    (flat,) = optim.flat_gradients(model.parameters())
    np.testing.assert_array_equal(flat, np.zeros(model.num_parameters))
    for seed in (0, 1):
        backward(model, seed)
        backward(apart, seed)
        (again,) = optim.flat_gradients(model.parameters())
        assert again is flat
        np.testing.assert_array_equal(flat, concatenated(apart))
        assert all(np.shares_memory(p.grad, flat) for p in model.parameters())
    kept = flat.copy()
    model.zero_grad()  # put off
    optim.flat_gradients(model.parameters())
    assert not flat.any()
    assert kept.any()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_flat_array_changes_no_step(when):
    models = small_model(), small_model()
    for model in models:
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for seed in range(3):
            if model is models[1] and when == "before":
                optim.flat_gradients(model.parameters())
            backward(model, seed)
            if model is models[1] and when == "after":
                (flat,) = optim.flat_gradients(model.parameters())
                assert np.linalg.norm(flat) > 0
            optimizer.step()
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_flat_gradients_of_other_parameters_dtypes_and_copies():
    model = small_model()
    backward(model, 0)
    expected = concatenated(model)
    parameters = model.parameters()
    (flat,) = optim.flat_gradients(parameters)
    (part,) = optim.flat_gradients(parameters[1:])
    np.testing.assert_array_equal(part, expected[parameters[0].size :])
    (flat,) = optim.flat_gradients(parameters)
    assert not np.shares_memory(flat, part)
    np.testing.assert_array_equal(flat, expected)

    copied = copy.deepcopy(model)
    (other,) = optim.flat_gradients(copied.parameters())
    other[...] = 1
    np.testing.assert_array_equal(flat, expected)
    assert all((p.grad == 1).all() for p in copied.parameters())

    model[0].weight.requires_grad = False
    (rest,) = optim.flat_gradients(parameters)
    assert rest.size == model.num_parameters - model[0].weight.size
    model[1].to(dtype="float64")
    single, double = optim.flat_gradients(parameters)
    assert (single.dtype, double.dtype, double.size) == (np.float32, np.float64, 6)
    assert np.shares_memory(model[1].bias.grad, double)


def test_flat_gradients_takes_parameters_only():
    assert optim.flat_gradients([]) == []
    with pytest.raises(TypeError, match="flat_gradients: params holds a ndarray"):
        optim.flat_gradients([np.ones(3)])
    twice = Parameter([1.0])
    with pytest.raises(ValueError, match="flat_gradients: params holds a parameter twice"):
        optim.flat_gradients([twice, twice])
