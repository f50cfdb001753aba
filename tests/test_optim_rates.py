"""Rates of optimisers and schedules: kinds of numbers, and what becomes of one set by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fastconv import layers as L
from fastconv import optim
from fastconv.layers import Parameter
from fastconv.training import fit
from test_optim import pair_of_schedules
from test_training import bits, net, train

f32, f64, i64 = np.float32, np.float64, np.int64

SCHEDULES = {
    "step": lambda o: optim.StepLR(o, i64(1), gamma=f32(0.5)),
    "steps": lambda o: optim.MultiStepLR(o, np.array([1, 2]), gamma=f64(0.5)),
    "cosine": lambda o: optim.CosineAnnealingLR(o, np.int32(3), eta_min=f32(1e-3)),
    "plateau": lambda o: optim.ReduceLROnPlateau(
        o, factor=f32(0.5), patience=i64(0), threshold=f32(0.9), cooldown=i64(1), min_lr=f32(1e-6)
    ),
    "warm_up": lambda o: optim.WarmUp(optim.StepLR(o, i64(1)), lr=f32(0.01), accuracy=f32(0.1)),
}


def sgd(lr=0.3, **options):
    return optim.SGD([Parameter([0.0])], lr=lr, **options)


@pytest.mark.parametrize("name", SCHEDULES)
def test_numpys_numbers_survive_a_checkpoint(name, tmp_path):
    path = tmp_path / "run.safetensors"
    options = {"schedule": SCHEDULES[name], "momentum": f32(0.9)}
    whole, resumed = net(), net()
    history = train(whole, 3, **options)
    train(resumed, 2, checkpoint=path, **options)
    again = train(resumed, 3, checkpoint=path, resume=True, **options)
    assert bits(whole) == bits(resumed)
    assert history["lr"] == again["lr"]


def test_numbers_are_kept_as_pythons():
    optimizer = sgd(f32(0.1), momentum=np.array(0.9), weight_decay=i64(0), nesterov=np.True_)
    for name, make in SCHEDULES.items():
        schedule = make(optimizer)
        schedule.step(0.5)
        assert "np." not in repr(schedule), name
        json.dumps(schedule.state_dict())
    optimizer.lr = f32(0.2)
    hyper = optimizer.state_dict()["hyper"]
    assert json.loads(json.dumps(hyper)) == hyper
    assert (hyper["lr"], hyper["nesterov"]) == (float(f32(0.2)), True)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sgd("0.1"), "SGD: lr='0.1', but a number is needed"),
        (lambda: sgd(None), "SGD: lr=None"),
        (lambda: sgd(0.1, momentum=[0.9]), r"SGD: momentum=\[0.9\]"),
        (lambda: sgd(0.1, weight_decay=np.zeros(2)), "SGD: weight_decay=array"),
        (lambda: optim.StepLR(sgd(), "2"), "StepLR: step_size='2'"),
        (lambda: optim.StepLR(sgd(), 2, gamma=1j), "StepLR: gamma=1j"),
        (lambda: optim.MultiStepLR(sgd(), ["3"]), "MultiStepLR: milestones='3'"),
        (lambda: optim.CosineAnnealingLR(sgd(), None), "CosineAnnealingLR: T_max=None"),
        (lambda: optim.ReduceLROnPlateau(sgd(), factor="x"), "ReduceLROnPlateau: factor='x'"),
        (lambda: optim.WarmUp(optim.StepLR(sgd(), 1), lr=None), "WarmUp: lr=None"),
    ],
)
def test_what_is_no_number_is_named(make, text):
    with pytest.raises(TypeError, match=text):
        make()


def test_a_rate_that_is_no_number_is_named_at_the_step():
    optimizer = sgd()
    optimizer.lr = "fast"
    optimizer.params[0].grad += 1
    with pytest.raises(TypeError, match="SGD: lr='fast', but a number is needed"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"MultiStepLR: milestones=\[2\.5\], but whole numbers"):
        optim.MultiStepLR(sgd(), [2.5])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StepLR", {"step_size": 3, "gamma": 0.2}),
        ("MultiStepLR", {"milestones": [2, 5, 5, 8], "gamma": 0.5}),
        ("CosineAnnealingLR", {"T_max": 10}),
        ("CosineAnnealingLR", {"T_max": 4, "eta_min": 0.05}),
    ],
)
@pytest.mark.parametrize("at", [0, 2, 4, 5])
def test_a_rate_set_by_hand_is_scaled_on_from_as_torch(name, options, at):
    ours, schedule, theirs, peer = pair_of_schedules(name, **options)
    for epoch in range(10):
        if epoch == at:
            ours.lr = theirs.param_groups[0]["lr"] = 0.07
        schedule.step()
        peer.step()
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("at", [0, 2, 3])
@pytest.mark.parametrize("name", ["step", "steps", "cosine", "plateau", "warm_up"])
def test_a_rate_set_by_hand_resumes_to_the_same_bits(name, at):
    rates = {}
    for resumed in (False, True):
        optimizer = sgd(0.1)
        schedule = SCHEDULES[name](optimizer)
        rates[resumed] = []
        for epoch in range(6):
            if epoch == at:
                optimizer.lr = f32(0.7)
            if resumed:
                state = json.loads(json.dumps([schedule.state_dict(), optimizer._hyper()]))
                optimizer = sgd(9.0)
                schedule = SCHEDULES[name](optimizer)
                schedule.load_state_dict(state[0])
                none = [None]
                optimizer.load_state_dict({"hyper": state[1], "velocity": none, "master": none})
            schedule.step(0.5)
            rates[resumed].append(optimizer.lr)
    assert rates[True] == rates[False]


def test_rates_of_nobodys_hand_have_the_closed_forms_bits():
    optimizer = sgd(0.1)
    schedules = optim.StepLR(optimizer, 1, 0.1), optim.CosineAnnealingLR(sgd(0.3), 7, eta_min=0.05)
    for schedule in schedules:
        for _ in range(9):
            schedule.step()
            assert schedule.optimizer.lr == schedule.rate()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("kind", ["rel", "abs"])
def test_plateau_of_negative_metrics_against_torch(mode, kind):
    """A log-likelihood: 10 % of a negative best is the other way."""
    options = {"mode": mode, "threshold_mode": kind, "threshold": 0.1, "patience": 0}
    ours, schedule, theirs, peer = pair_of_schedules("ReduceLROnPlateau", **options)
    for metric in (-1.0, -1.05, -0.95, -1.2, -1.1, -0.5, -0.52, 0.0, -0.01, 0.3, 0.2, -3.0):
        schedule.step(metric)
        peer.step(metric)
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)


def test_what_would_fail_after_an_epoch_fails_before(tmp_path):
    data = np.zeros((4, 4), np.float32), np.zeros(4, int)
    model = L.Linear(4, 2)
    before = bits(model)
    run = {"epochs": 1, "batch_size": 2, "optimizer": optim.SGD(model.parameters(), lr=0.1)}
    for options, text in (
        ({"checkpoint": tmp_path / "none" / "run.safetensors"}, "folder .*none is missing or can"),
        ({"validation": (data[0][:0], data[1][:0])}, "fit: the validation set is empty"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(model, data, progress=False, **run, **options)
    assert bits(model) == before
