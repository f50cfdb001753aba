"""Errors of the functions over (N, C, L) show what the user passed, not the images of height 1."""

import fastconv as fc
import numpy as np
import pytest

X, W = np.ones((2, 3, 8), np.float32), np.ones((4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fc.conv1d(X, W, padding=-1), "conv1d: padding is -1; wanted 0 or more"),
        (lambda: fc.conv1d(X, W, padding=(1, -2)), "conv1d: padding is (1, -2); wanted 0"),
        (lambda: fc.conv1d(X, W, padding=2 * 10**9), "conv1d: padding is 2000000000; wanted at"),
        (lambda: fc.conv1d(X, W[:, :2]), "but x has 3 channels (shape (2, 3, 8))"),
        (lambda: fc.conv1d(X[0], W[:, :2]), "but x has 3 channels (shape (1, 3, 8))"),
        (lambda: fc.conv1d(X[..., :2], W), "conv1d: no window fits along L: input 2 + padding"),
        (lambda: fc.conv1d(X, W[..., :0]), "weight has shape (4, 3, 0): a kernel without taps"),
        (lambda: fc.conv1d(X, W, np.ones((2, 1, 5), np.float32)), "bias has shape (2, 1, 5), but"),
        (lambda: fc.conv1d(X, W, residual=X), "residual has shape (2, 3, 8), but the result's is "
         "(2, 4, 6)"),
        (lambda: fc.conv1d(X[0], W, residual=X[0]),
         "residual has shape (3, 8), but the result's is (4, 6)"),
        (lambda: fc.conv1d(X, W, out=X), "out has shape (2, 3, 8), but the result's shape is "
         "(2, 4, 6)"),
        (lambda: fc.conv1d(X, W, out=np.lib.stride_tricks.as_strided(X, (2, 4, 6), (16, 8, 4))),
         "out has strides (16, 8, 4) for shape (2, 4, 6): its elements overlap"),
        (lambda: fc.max_pool1d(X, 3, padding=-1), "max_pool1d: padding is -1; wanted 0 or more"),
        (lambda: fc.max_pool1d(X, 3, padding=3), "max_pool1d: padding is 3, 3 along L; wanted"),
        (lambda: fc.avg_pool1d(X, 3, padding=(3, 1)), "avg_pool1d: padding is (3, 1), 3 along L"),
        (lambda: fc.avg_pool1d(X[..., :2], 3), "avg_pool1d: no window fits along L: input 2"),
    ],
)  # fmt: skip
def test_messages_are_about_sequences(call, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the words are compared below
        call()
    assert words in str(caught.value)
    assert "((" not in str(caught.value)
