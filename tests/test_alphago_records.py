"""SGF records of examples/alphago: parsed, played, found in folders and archives."""

from __future__ import annotations

import zipfile

import pytest
from alphago_boards import HANDICAP, OTHER, PLAIN, places

from examples.alphago import records
from examples.alphago.board import BLACK, WHITE
from examples.alphago.planes import encode

pytest.importorskip("sgfmill")


def test_game_without_headers():
    record = records.parse(PLAIN, "plain")
    assert record.moves == ((BLACK, (15, 3)), (WHITE, (3, 15)), (BLACK, (2, 3)), (WHITE, (16, 15)))
    assert (record.black, record.white) == ((), ())


def test_handicap_passes_and_resignation():
    record = records.parse(HANDICAP)
    assert set(record.black) == {(15, 3), (3, 15)}
    assert record.moves == (
        (WHITE, (2, 3)), (BLACK, None), (WHITE, (16, 15)), (BLACK, None), (WHITE, None),
    )  # fmt: skip
    seen = [
        (board.to_move, board.geometry.xy(move), encode(board))
        for board, move in records.positions(record)
    ]
    assert [(color, place) for color, place, _ in seen] == [(WHITE, (2, 3)), (WHITE, (16, 15))]
    first, second = seen[0][2], seen[1][2]
    assert first[11].sum() == 2  # set-up stones are old
    assert second[4].sum() == 0  # the last turn was a pass
    assert second[5, 2, 3] == 1


def test_main_line_and_a_player_who_moves_twice():
    assert len(records.parse(OTHER).moves) == 3
    boards = [
        board.copy() for board, _ in records.positions(records.parse(b"(;B[aa];B[bb];W[cc])"))
    ]
    assert [board.to_move for board in boards] == [BLACK, BLACK, WHITE]
    assert places(boards[2], boards[2].stones[BLACK]) == {(0, 0), (1, 1)}


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"no game", "bad.sgf: "),
        (b"(;B[pd];W[", "bad.sgf: "),
        (b"(;SZ[9];B[aa])", "bad.sgf: a board of 9 lines, not of 19"),
        (b"(;B[pd];AB[dd];W[dp])", "bad.sgf: setup properties after the root node"),
        (b"(;B[zz])", "bad.sgf: "),
    ],
)
def test_what_is_no_record(raw, text):
    with pytest.raises(ValueError, match=text):
        records.parse(raw, "bad.sgf")


def test_moves_against_the_rules_are_named():
    record = records.parse(b"(;B[pd];W[dp];B[pd])", "bad.sgf")
    with pytest.raises(ValueError, match=r"bad.sgf: move 3 at \(15, 3\) is against the rules"):
        list(records.positions(record))


def test_folder_zip_and_single_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.sgf").write_bytes(PLAIN)
    (tmp_path / "sub" / "a.sgf").write_bytes(OTHER)
    (tmp_path / "notes.txt").write_bytes(b"no game")
    assert list(records.sources(tmp_path)) == [("b.sgf", PLAIN), ("sub/a.sgf", OTHER)]
    assert list(records.sources(tmp_path / "b.sgf")) == [("b.sgf", PLAIN)]
    archive = tmp_path / "games.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/c.sgf", PLAIN)
        file.writestr("a.sgf", OTHER)
    assert list(records.sources(archive)) == [("a.sgf", OTHER), ("x/c.sgf", PLAIN)]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("huge.sgf", bytes(records.MAX_BYTES + 1))
    with pytest.raises(ValueError, match=r"huge.sgf in .*games.zip: 1,048,577 bytes"):
        list(records.sources(archive))
    with pytest.raises(ValueError, match=r"a folder, a \.zip or an \.sgf file is needed"):
        list(records.sources(tmp_path / "notes.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.sgf file"):
        list(records.sources(tmp_path / "empty"))
