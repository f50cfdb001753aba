"""fit: learns, agrees with PyTorch step by step, and resumes a killed run to the same bits."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastconv import data, init, optim
from fastconv import layers as L
from fastconv.__main__ import main
from fastconv.checkpoint import read_checkpoint, write_safetensors
from fastconv.history import History, Progress
from fastconv.plotting import plot_histories
from fastconv.training import Checkpoint, fit


def blobs(count=96, seed=0, classes=3):
    """Images whose class is the row of a bright stripe."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    images = rng.integers(0, 60, (count, 1, 6, 6)).astype(np.uint8)
    images[np.arange(count), 0, 2 * labels] += 150
    return data.Dataset(images, labels, mean=0.2, std=0.3)


def net(seed=0, dropout=True):
    with init.seeded(seed):
        middle = [L.Dropout(0.2)] if dropout else []
        return L.Sequential(
            L.Conv2d(1, 4, 3, padding=1),
            L.BatchNorm2d(4),
            L.ReLU(),
            L.MaxPool2d(2),
            L.Flatten(),
            *middle,
            L.Linear(36, 3),
        )


def train(model, epochs=3, schedule=None, momentum=0.9, **options):
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=momentum, weight_decay=1e-3)
    return fit(
        model,
        blobs(),
        blobs(40, seed=1),
        epochs=epochs,
        batch_size=16,
        optimizer=optimizer,
        schedule=schedule(optimizer) if schedule else optim.CosineAnnealingLR(optimizer, 3),
        progress=False,
        **{"augment": data.CropAndFlip(1), **options},
    )


def bits(model):
    return {name: value.tobytes() for name, value in model.state_dict().items()}


def test_fit_learns_and_reports():
    model = net()
    history = train(model, epochs=8)
    assert len(history) == 8
    assert history["epoch"] == list(range(1, 9))
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.8
    assert history[-1]["lr"] < history[0]["lr"] == 0.05
    assert model.training


def test_same_seed_same_bits_other_seed_other_bits():
    runs = []
    for seed in (0, 0, 1):
        model = net()
        train(model, epochs=1, seed=seed)
        runs.append(bits(model))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_fit_takes_arrays_and_leaves_the_mode():
    model = L.Sequential(L.Flatten(), L.Linear(4, 2)).eval()
    x = np.random.default_rng(0).standard_normal((50, 1, 2, 2)).astype(np.float32)
    y = (x[:, 0, 0, 0] > 0).astype(np.int64)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    history = fit(model, (x, y), epochs=5, batch_size=7, optimizer=optimizer, progress=False)
    assert history[-1]["accuracy"] > 0.8
    assert history[-1]["val_loss"] is None
    assert not model.training


def test_fit_in_float64():
    model = net().to(dtype=np.float64)
    train(model, epochs=1)
    assert model[0].weight.dtype == np.float64


def test_plateau_schedule_gets_the_validation_loss():
    history = train(
        net(), 4, schedule=lambda o: optim.ReduceLROnPlateau(o, patience=0, threshold=0.9)
    )
    # Nothing gets better by 90 %: the rate falls at each epoch after the first.
    np.testing.assert_allclose(history["lr"], [0.05, 0.05, 0.005, 0.0005])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": -1}, "epochs=-1"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"resume": True}, "needs checkpoint"),
        ({"checkpoint": "x.npz"}, r"does not end in \.safetensors"),
        ({"train": (np.zeros((0, 4), np.float32), np.zeros(0, int))}, "set is empty"),
    ],
)
def test_bad_arguments(options, text):
    model = L.Linear(4, 2)
    arguments = {
        "train": (np.zeros((4, 4), np.float32), np.zeros(4, int)),
        "epochs": 1,
        "batch_size": 2,
        "optimizer": optim.SGD(model.parameters(), lr=0.1),
        "progress": False,
        **options,
    }
    with pytest.raises(ValueError, match=text):
        fit(model, arguments.pop("train"), **arguments)


class TwoHeads(L.Layer):
    """Logits of a trunk, and in training those of a head beside it, as GoogLeNet has."""

    def __init__(self):
        self.trunk, self.main, self.side = L.Linear(6, 5), L.Linear(5, 3), L.Linear(5, 3)

    def forward(self, x):
        y = self.trunk(x)
        return (self.main(y), self.side(y)) if self.training else self.main(y)

    def backward(self, grad_y, *, need_input=True):
        main, side = grad_y
        return self.trunk.backward(self.main.backward(main) + self.side.backward(side))


@pytest.mark.parametrize("weight", [0.3, 0.0, 1.5])
def test_loss_of_auxiliary_heads(weight, rng):
    with init.seeded(0):
        model = TwoHeads().to(dtype=np.float64)
    loss = L.CrossEntropyLoss(auxiliary_weight=weight, label_smoothing=0.1)
    x, labels = rng.standard_normal((4, 6)), np.array([0, 2, 1, 2])
    value = loss(model(x), labels)
    single = L.CrossEntropyLoss(label_smoothing=0.1)
    parts = [float(single(y, labels)) for y in model(x)]
    assert value == pytest.approx(parts[0] + weight * parts[1])
    loss(model(x), labels)
    grad = model.backward(loss.backward())
    step = 1e-6 * rng.standard_normal(x.shape)
    moved = loss(model(x + step), labels) - loss(model(x - step), labels)
    assert moved == pytest.approx(2 * float((grad * step).sum()), rel=1e-5)


def test_fit_of_a_network_with_auxiliary_heads(rng):
    with init.seeded(1):  # some weights separate the classes so well that the last line fails
        model = TwoHeads()
    x = rng.standard_normal((60, 6)).astype(np.float32)
    labels = x[:, :3].argmax(axis=1)
    optimizer = optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    data = (x, labels)
    history = fit(model, data, data, epochs=10, batch_size=20, optimizer=optimizer, progress=False)
    assert history[-1]["val_accuracy"] > 0.8
    assert history[-1]["loss"] > history[-1]["val_loss"]  # with the side head's


# Against PyTorch


def test_training_agrees_with_torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    model = net(dropout=False).to(dtype=np.float64)
    peer = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 3),
    ).double()
    peer.load_state_dict({n: torch.tensor(v.copy()) for n, v in model.state_dict().items()})
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    optimizer = optim.SGD(model.parameters(), **settings)
    peer_optimizer = torch.optim.SGD(peer.parameters(), **settings)
    loss = L.CrossEntropyLoss(label_smoothing=0.1)
    peer_loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for x, labels in data.batches(blobs(), 16, dtype=np.float64):
        optimizer.zero_grad()
        value = loss(model(x), labels)
        model.backward(loss.backward())
        optimizer.step()
        peer_optimizer.zero_grad()
        peer_value = peer_loss(peer(torch.tensor(np.ascontiguousarray(x))), torch.tensor(labels))
        peer_value.backward()
        peer_optimizer.step()
        assert float(value) == pytest.approx(peer_value.item(), rel=1e-10)
    ours = model.state_dict()
    for name, tensor in peer.state_dict().items():
        np.testing.assert_allclose(ours[name], tensor.numpy(), rtol=1e-9, atol=1e-11)


# Checkpoint and resume

SCRIPT = Path(__file__).with_name("resume_script.py")


def run_script(folder, *arguments, expect=0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == expect, done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("seconds", [0, 1e9], ids=["saved each batch", "saved each epoch"])
def test_killed_run_resumes_to_the_same_bits(tmp_path, seconds):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    run_script(whole, seconds)
    # 6 batches an epoch, 3 epochs: killed within the 2nd, and the resumed run within the 3rd.
    for after in (9, 5):
        run_script(killed, seconds, after, expect=-signal.SIGKILL)
    run_script(killed, seconds)
    first, second = (read_checkpoint(folder / "final.safetensors") for folder in (whole, killed))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    rows = [(folder / "history.txt").read_text() for folder in (whole, killed)]
    assert rows[0] == rows[1]
    assert [p.name for p in killed.iterdir() if p.name.endswith(".part")] == []


def test_resume_of_a_finished_run_changes_nothing_and_more_epochs_go_on(tmp_path):
    path = tmp_path / "run.safetensors"
    whole, model = net(), net()
    train(whole, epochs=4)
    train(model, epochs=2, checkpoint=path)
    before = bits(model)
    again = net(5)
    assert len(train(again, epochs=2, checkpoint=path, resume=True)) == 2
    assert bits(again) == before
    assert len(train(again, epochs=4, checkpoint=path, resume=True)) == 4
    assert bits(again) == bits(whole)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: optim.WarmUp(optim.MultiStepLR(o, [2, 3]), lr=0.01, accuracy=0.5),
        lambda o: optim.ReduceLROnPlateau(o, patience=0, threshold=0.9),
    ],
    ids=["warm-up and steps", "plateau"],
)
def test_resume_with_schedules_that_look_at_the_epochs(tmp_path, schedule):
    whole, model, again = net(), net(), net(5)
    wanted = train(whole, epochs=4, schedule=schedule)
    assert len(set(wanted["lr"])) > 1
    options = {"schedule": schedule, "checkpoint": tmp_path / "run.safetensors"}
    train(model, epochs=2, **options)
    history = train(again, epochs=4, **options, resume=True)
    assert bits(again) == bits(whole)
    assert history["lr"] == wanted["lr"]


def test_resume_without_a_file_begins(tmp_path):
    one, other = net(), net()
    train(one, epochs=1)
    train(other, epochs=1, checkpoint=tmp_path / "run.safetensors", resume=True)
    assert bits(one) == bits(other)


def test_checkpoint_serves_as_weights(tmp_path):
    path = tmp_path / "run.safetensors"
    model, other = net(), net(5)
    train(model, epochs=1, checkpoint=Checkpoint(path))
    other.load_weights(path)
    assert bits(other) == bits(model)


def test_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    train(net(), epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match="was written with seed 0, but this run has 1"):
        train(net(), checkpoint=path, resume=True, seed=1)
    with pytest.raises(ValueError, match=r"schedule 'CosineAnnealingLR\(.*has 'StepLR"):
        train(net(), checkpoint=path, resume=True, schedule=lambda o: optim.StepLR(o, 1))
    for options, text in (
        ({"loss": L.CrossEntropyLoss(label_smoothing=0.1)}, r"loss 'CrossEntropyLoss\(\)'"),
        ({"augment": data.CropAndFlip(2)}, r"augmentation 'CropAndFlip\(padding=1"),
        ({"momentum": 0.5}, r"momentum 0\.9, but this run has 0\.5"),
    ):
        with pytest.raises(ValueError, match=text):
            train(net(), checkpoint=path, resume=True, **options)
    with pytest.raises(ValueError, match="entries do not fit"):
        train(net(dropout=False)[:4], checkpoint=path, resume=True)
    write_safetensors(path, net().state_dict())
    with pytest.raises(ValueError, match="not the state of a training run"):
        train(net(), checkpoint=path, resume=True)


# Reports


def test_history_columns_and_csv(tmp_path):
    history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    assert history["loss"] == [0.5, 0.25]
    history.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text().split() == ["epoch,loss", "1,0.5", "2,0.25"]


def test_history_reads_what_it_wrote(tmp_path):
    history = train(net(), epochs=2)
    history.rows[0]["val_loss"] = None
    history.to_csv(tmp_path / "h.csv")
    assert History.from_csv(tmp_path / "h.csv").rows == history.rows
    for text in ("epoch,loss\n1,x\n", "loss\n1\n", "epoch,loss\n1\n", "epoch\n1,2\n", "\0\n1\n"):
        (tmp_path / "h.csv").write_text(text)
        with pytest.raises(ValueError, match=r"h\.csv is no history"):
            History.from_csv(tmp_path / "h.csv")


def draws(path):
    """Whether ``path`` holds a picture that is not blank."""
    image = pytest.importorskip("matplotlib.image").imread(path)
    return image.shape[0] > 100 and float(image[..., :3].std()) > 0.01


def test_plot_of_runs(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    history = train(net(), epochs=2, checkpoint=tmp_path / "run.safetensors")
    history.to_csv(tmp_path / "h.csv")
    runs = [str(tmp_path / "h.csv"), f"resumed={tmp_path / 'run.safetensors'}"]
    assert main(["plot", *runs, "--output", str(tmp_path / "a.png"), "--title", "Two"]) == 0
    assert draws(tmp_path / "a.png")
    unvalidated = History([{"epoch": 1, "loss": 1.0, "lr": 0.1, "val_loss": None}])
    plot_histories({"one": unvalidated}, tmp_path / "b.svg")
    assert "<svg" in (tmp_path / "b.svg").read_text()


def test_plot_errors(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    train(net(), epochs=1).to_csv(tmp_path / "h.csv")
    one = str(tmp_path / "h.csv")
    for arguments, text in (
        ([one, one, "--output", "a.png"], "two runs are called 'h'"),
        ([str(tmp_path / "none.csv"), "--output", "a.png"], "none.csv"),
        ([one, "--output", "a.jpeg"], "'a.jpeg' does not end in .png, .svg, .pdf"),
    ):
        assert main(["plot", *arguments]) == 2
        assert text in capsys.readouterr().err
    with pytest.raises(ValueError, match="no finished epochs"):
        plot_histories({"one": History()}, "a.png")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        plot_histories({}, "a.png")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_progress(stream):
    line = Progress(True, 3, stream)
    line.begin_epoch(0)
    line.update(1, 50, 100, 0.25, 0.5)
    row = {"epoch": 1, "loss": 0.2, "accuracy": 0.75, "val_loss": None, "lr": 0.1, "seconds": 2.0}
    line.end_epoch(row, 50.0)
    text = stream.getvalue()
    assert ("50 %" in text and "accuracy 50.00 %" in text) == stream.isatty()
    assert text.endswith("epoch 1/3  loss 0.2000  accuracy 75.00 %  lr 0.1  50 images/s  2.0 s\n")


def test_progress_off_is_silent():
    stream = Terminal()
    line = Progress(False, 1, stream)
    line.update(1, 1, 1, 0.0, None)
    line.say("x")
    assert stream.getvalue() == ""
