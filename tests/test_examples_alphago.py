"""The scripts of examples/alphago on games made here: training, its resume, a picture."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import zipfile

import fastconv as fc
import numpy as np
import pytest
from alphago_boards import ROOT

from examples.alphago import show, train
from examples.alphago.board import Board, points_of
from examples.alphago.policy import load_policy, probabilities

pytest.importorskip("sgfmill")


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    """A zip archive of five games of random legal moves."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("games") / "games.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            board, moves = Board(), []
            for turn in range(14):
                board.play(int(rng.choice(points_of(board.legal_moves()))))
                x, y = board.geometry.xy(points_of(board.recent[0])[0])
                moves.append(f"{'BW'[turn % 2]}[{chr(97 + x)}{chr(97 + y)}]")
            archive.writestr(f"game{number}.sgf", f"(;SZ[19];{';'.join(moves)};W[])")
    return path


def arguments(games, folder, name, *more):
    return [
        str(games), "--cache", str(folder / "cache"), "--filters", "4", "--convolutions", "2",
        "--held-games", "1", "--epochs", "2", "--epoch-positions", "24", "--batch-size", "8",
        "--check-positions", "4", "--checkpoint", str(folder / f"{name}.safetensors"),
        "--history", str(folder / f"{name}.csv"), "--save", str(folder / f"{name}_w.safetensors"),
        *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(games, tmp_path_factory):
    """A folder with the results of a run in one go."""
    folder = tmp_path_factory.mktemp("trained")
    assert train.main(arguments(games, folder, "whole")) == 0
    return folder


def test_a_run_that_was_stopped_ends_with_the_same_bits(games, trained, capsys):
    assert train.main(arguments(games, trained, "parts", "--stop-after", "1")) == 0
    assert train.main(arguments(games, trained, "parts", "--resume")) == 0
    said = capsys.readouterr()
    assert (
        "56 positions to train on, 14 of 1 games held out; 4 filters, 2 + 1 convolutions"
        in said.out
    )
    assert "of 14 positions, among five in" in said.out
    assert "the commonest answer to the last move" in said.out
    assert "after 48 positions" in said.out
    whole, parts = (
        fc.read_checkpoint(trained / f"{name}_w.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)
    with open(trained / "parts.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["lr"]) > float(rows[1]["lr"]) > 0


def test_errors_are_one_line(games, trained, tmp_path, capsys):
    assert train.main(arguments(games, trained, "x", "--held-games", "5")) == 1
    assert "train: split_games: held_games=5" in capsys.readouterr().err
    assert train.main(arguments(tmp_path / "nothing.zip", tmp_path, "x")) == 1
    assert "nothing.zip: a folder, a .zip or an .sgf file is needed" in capsys.readouterr().err
    weights = trained / "other.safetensors"
    fc.layers.Sequential(fc.layers.Linear(4, 2)).save_weights(weights)
    for more, text in (
        (["--weights", str(weights)], "no first layer of 5x5 kernels on 48 planes"),
        (["--weights", str(trained / "whole.safetensors"), "--move", "15"], "has 14 moves"),
        (["--weights", str(trained / "whole.safetensors"), "--game", "x9"], "no game has 'x9'"),
    ):
        assert show.main([str(games), "--out", str(tmp_path / "p.png"), "--move", "3", *more]) == 1
        assert text in capsys.readouterr().err


def test_probabilities_are_of_legal_moves_and_turn_with_the_board(trained):
    model = load_policy(trained / "whole.safetensors")
    board, turned = Board(), Board()
    for x, y in ((3, 3), (15, 2), (2, 16), (16, 15)):
        board.play(board.geometry.point(x, y))
        turned.play(board.geometry.point(18 - y, x))
    likely = probabilities(model, board)
    assert likely.shape == (19, 19)
    assert likely.sum() == pytest.approx(1, abs=1e-5)
    assert (likely == 0).sum() == likely[3, 3] + 4
    np.testing.assert_allclose(probabilities(model, turned), np.rot90(likely), rtol=1e-4)


def test_picture(games, trained, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    picture = tmp_path / "picture.png"
    command = [sys.executable, "-m", "examples.alphago.show", str(games), "--game", "game2"]
    options = ["--move", "9", "--weights", str(trained / "whole_w.safetensors")]
    path = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [*command, *options, "--out", str(picture)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "game2.sgf, before move 9: black to play" in result.stdout
    assert "favourite number" in result.stdout
    with Image.open(picture) as image:
        assert image.size == (620, 650)
        # Wood, ink and stones are there, not a blank sheet.
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_help_names_what_is_needed():
    for script in (train, show):
        assert script.__doc__ is not None
        assert "python -m examples.alphago." in script.__doc__
        with pytest.raises(SystemExit, match="0"):
            script.main(["--help"])


def test_names_of_points():
    assert [show.move_name(place) for place in ((0, 0), (8, 3), (18, 18))] == ["A19", "J16", "T1"]
