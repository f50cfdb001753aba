"""examples/alphago: the cache of encoded positions, symmetries, training pairs."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from alphago_boards import HANDICAP, OTHER, PLAIN

from examples.alphago import cache as caches
from examples.alphago import records, symmetries
from examples.alphago.dataset import Positions, split_games
from examples.alphago.evaluation import NO_MOVE, previous_moves, score, table_accuracies
from examples.alphago.planes import encode, unpack

pytest.importorskip("sgfmill")

# The cache


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "positions"
    games = [("plain", PLAIN), ("bad", b"(;B[aa];W[aa])"), ("again", PLAIN), ("empty", b"(;)")]
    report = caches.build([*games, ("handicap", HANDICAP), ("other", OTHER)], path)
    assert (report.games, report.positions) == (3, 9)
    assert [reason.split(":")[0] for reason in report.refused] == ["bad", "again", "empty"]
    assert "the moves of plain" in report.refused[1]
    assert list(tmp_path.iterdir()) == [path]
    return path


def test_cache_holds_what_was_encoded(path):
    cache = caches.Cache(path)
    cache.verify()
    assert cache.games == ["plain", "handicap", "other"]
    assert cache.offsets.tolist() == [0, 4, 6, 9]
    assert path.stat().st_size < 2300 * len(cache) + 500
    assert isinstance(cache.planes.base, np.memmap)
    number = 0
    for raw in (PLAIN, HANDICAP, OTHER):
        for board, move in records.positions(records.parse(raw)):
            x, y = board.geometry.xy(move)
            assert cache.moves[number] == x * 19 + y
            np.testing.assert_array_equal(
                unpack(cache.planes[number : number + 1], np.uint8)[0], encode(board)
            )
            number += 1
    assert number == len(cache)


def test_cache_of_nothing(tmp_path):
    caches.build([], tmp_path / "empty")
    cache = caches.Cache(tmp_path / "empty")
    cache.verify()
    assert len(cache) == len(cache.games) == 0


def test_an_interrupted_build_leaves_no_cache(tmp_path):
    def games():
        yield "plain", PLAIN
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caches.build(games(), tmp_path / "positions")
    assert not (tmp_path / "positions").exists()


def test_any_damaged_byte_is_found(path):
    """Every byte of head, footer and trailer, and some of each game."""
    whole = path.read_bytes()
    records_end = 8 + 9 * caches.RECORD.itemsize
    for place in [*range(8), *range(8, records_end, 501), *range(records_end, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(path)):
            caches.Cache(path).verify()
    path.write_bytes(whole[:8] + bytes([whole[8] ^ 1]) + whole[9:])
    with pytest.raises(ValueError, match="game plain is damaged"):
        caches.Cache(path).verify()


@pytest.mark.parametrize("keep", [0, 7, 8, 23, 100, -1, -17])
def test_cut_short(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"not a cache|cut short"):
        caches.Cache(path)


def test_records_that_are_missing_in_the_middle(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + whole[8 + caches.RECORD.itemsize :])
    with pytest.raises(ValueError, match="bytes, but its list says"):
        caches.Cache(path)


def test_a_footer_that_claims_too_much_is_not_followed(path):
    footer = b'{"positions": 1000000000000, "games": [["a", 1000000000000, 0]]}'
    trailer = struct.pack("<II8s", len(footer), zlib.crc32(footer), caches.MAGIC)
    path.write_bytes(caches.MAGIC + footer + trailer)
    with pytest.raises(ValueError, match="bytes, but its list says"):
        caches.Cache(path)


# Symmetries


def test_symmetries_move_planes_and_move_together(rng):
    planes = rng.integers(0, 2, (8, 48, 19, 19), np.uint8)
    packed = np.packbits(planes.reshape(8, 48, 361).transpose(0, 2, 1), axis=2)
    moves = rng.integers(0, 361, 8)
    turned, moved = symmetries.transform(packed, moves, np.arange(8))
    back = unpack(turned, np.uint8)
    last = 18
    x, y = np.divmod(moves, 19)
    by_hand = {
        0: (planes[0], (x[0], y[0])),
        1: (planes[1][:, ::-1], (last - x[1], y[1])),
        2: (planes[2][:, :, ::-1], (x[2], last - y[2])),
        3: (planes[3][:, ::-1, ::-1], (last - x[3], last - y[3])),
        4: (planes[4].transpose(0, 2, 1), (y[4], x[4])),
        5: (np.rot90(planes[5], -1, (1, 2)), (y[5], last - x[5])),
        6: (np.rot90(planes[6], 1, (1, 2)), (last - y[6], x[6])),
        7: (planes[7][:, ::-1, ::-1].transpose(0, 2, 1), (last - y[7], last - x[7])),
    }
    for symmetry, (expected, place) in by_hand.items():
        np.testing.assert_array_equal(back[symmetry], expected)
        assert moved[symmetry] == place[0] * 19 + place[1], symmetry


def test_eight_different_symmetries_and_their_inverses():
    sources, targets = symmetries.source_points(19), symmetries.target_points(19)
    assert len({tuple(row) for row in sources.tolist()}) == 8
    for source, target in zip(sources, targets):
        np.testing.assert_array_equal(source[target], np.arange(361))


# Training pairs


@pytest.fixture
def cache(path):
    return caches.Cache(path)


def test_epochs_go_through_all_positions_before_any_comes_again(cache):
    data = Positions(cache, [0, 2, 3, 5, 8], per_epoch=2)
    assert (len(data), data.shape) == (2, (48, 19, 19))
    numbers = np.concatenate([data.order(7, epoch) % 5 for epoch in range(5)])
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == [0, 1, 2, 3, 4]
    whole = np.concatenate([data.order(7, epoch) // 5 for epoch in range(200)])
    assert set(whole) == set(range(8))
    np.testing.assert_array_equal(data.order(7, 3), data.order(7, 3))
    longer = Positions(cache, [0, 1, 2], per_epoch=8).order(0, 1) % 3
    assert np.bincount(longer).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_batches_are_turned_pairs(cache):
    data = Positions(cache, [4, 0, 1])
    x, moves = data.batch(np.array([1, 1 + 3 * 4]))  # cache's position 0, as it is and transposed
    assert (x.shape, x.dtype) == ((2, 48, 19, 19), np.float32)
    assert moves.tolist() == [15 * 19 + 3, 3 * 19 + 15]
    np.testing.assert_array_equal(x[0].transpose(0, 2, 1), x[1])
    x, moves = data.subset([0]).batch(np.arange(1))
    assert moves.tolist() == [2 * 19 + 3]
    with pytest.raises(ValueError, match="0 positions"):
        Positions(cache, [])


def test_games_are_held_out_whole(cache):
    seen = set()
    for seed in range(20):
        train, held = split_games(cache, 1, seed)
        assert sorted([*train, *held]) == list(range(9))
        seen.add(tuple(held))
    assert seen == {(0, 1, 2, 3), (4, 5), (6, 7, 8)}
    for wrong in (0, 3):
        with pytest.raises(ValueError, match=f"held_games={wrong}"):
            split_games(cache, wrong, 0)


def test_scores_and_tables(cache):
    everything = Positions(cache, np.arange(9))
    assert previous_moves(cache.planes[:6]).tolist() == [
        NO_MOVE, 15 * 19 + 3, 3 * 19 + 15, 2 * 19 + 3, NO_MOVE, NO_MOVE,
    ]  # fmt: skip

    class Knows:
        """Puts the move played first, fifth or sixth by turns."""

        training = True
        place = 0

        def eval(self):
            self.training = False

        def train(self, mode):
            self.training = mode

        def __call__(self, x):
            logits = np.zeros((len(x), 361), np.float32)
            for row, move in zip(logits, cache.moves):
                better = (0, 4, 5)[self.place % 3]
                row[move] = 5
                row[(int(move) + 1 + np.arange(better)) % 361] = 9
                self.place += 1
            return logits

    result = score(Knows(), everything)
    assert (result.top1, result.top5, result.positions) == (3 / 9, 6 / 9, 9)
    with pytest.raises(ValueError, match="not finite"):
        score(type("Lost", (Knows,), {"__call__": lambda s, x: np.full((len(x), 361), np.nan)})(),
              everything)  # fmt: skip
    # What the table has seen it can say again, up to the symmetries that leave a position alike.
    move, answer = table_accuracies(everything, everything)
    assert 0 < move < answer <= 1
