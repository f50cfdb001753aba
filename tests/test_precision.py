"""The precision of float32 arithmetic: a process's choice, and a context's."""

import threading

import fastconv as fc
import numpy as np
import pytest


def test_default_is_highest_and_a_context_ends():
    assert fc.get_float32_precision() == "highest"
    with fc.float32_precision("tf32"):
        assert fc.get_float32_precision() == "tf32"
        with fc.float32_precision("high"):
            assert fc.get_float32_precision() == "high"
        assert fc.get_float32_precision() == "tf32"
    assert fc.get_float32_precision() == "highest"


def test_a_context_is_its_threads_own():
    seen = []
    with fc.float32_precision("high"):
        thread = threading.Thread(target=lambda: seen.append(fc.get_float32_precision()))
        thread.start()
        thread.join()
    assert seen == ["highest"]


def test_process_choice_and_unknown_names():
    fc.set_float32_precision("high")
    try:
        assert fc.get_float32_precision() == "high"
    finally:
        fc.set_float32_precision("highest")
    with pytest.raises(ValueError, match="set_float32_precision: the precision is 'medium'"):
        fc.set_float32_precision("medium")
    with pytest.raises(ValueError, match="float32_precision: the precision is 'TF32'"):
        fc.float32_precision("TF32").__enter__()
    with pytest.raises(ValueError, match=r"set_float32_precision: the precision is array\("):
        fc.set_float32_precision(np.array(["high", "high"]))


def test_a_call_that_comes_again_follows_the_precision(rng):
    x, w = (
        fc.channels_last(rng.standard_normal(s, np.float32))
        for s in [(1, 64, 24, 24), (64, 64, 3, 3)]
    )
    tiles = {"highest": "winograd4", "high": "winograd6"}
    forced = {name: fc.conv2d(x, w, padding=1, algorithm=name) for name in tiles.values()}
    assert not np.array_equal(*forced.values())
    for precision in ("highest", "high", "highest", "high"):
        with fc.float32_precision(precision):
            assert fc.explain(fc.conv2d, x, w, padding=1).algorithm == tiles[precision]
            assert np.array_equal(fc.conv2d(x, w, padding=1), forced[tiles[precision]])
