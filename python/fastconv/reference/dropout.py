"""Dropout whose mask is a function of (seed, position) alone, and its gradient.

    y[i] = x[i] / (1 - p) where element i is kept, else 0        dx[i] = dy[i] / (1 - p), else 0

The mask does not depend on the memory order, the device or the number of threads, because every
element draws its own random number from a counter-based generator, Philox4x32-10. Exactly:

    i         position in C order of the logical shape, e.g. ((n * C + c) * H + h) * W + w
    counter   four 32-bit words (a, b, 0, 0), a = (i // 4) mod 2^32, b = (i // 4) // 2^32
    key       two 32-bit words (seed mod 2^32, seed // 2^32), 0 <= seed < 2^64
    u         word i mod 4 of Philox4x32-10(counter, key)
    kept      if u >= floor(p * 2^32 + 1/2), computed in float64 (p = 1 keeps nothing)
    scale     1 / (1 - p), computed in float64, rounded to x's dtype; a kept element is x * scale

A dropped element is 0 whatever it was, NaN too. One call of the generator serves 4 neighbours.
Source: N. Srivastava et al., "Dropout" (2014), scaled in training instead of in evaluation;
J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011), for Philox.
"""

from __future__ import annotations

import numpy as np

from .windows import Array, no_warnings

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = np.uint64(0xFFFFFFFF)


@no_warnings
def dropout(x: Array, p: float = 0.5, *, seed: int, training: bool = True) -> Array:
    """Zero each element with probability p and scale the others up; x itself in evaluation.

    Parameters
    ----------
    x : array of any shape
    p : float in [0, 1]
    seed : int, 0 <= seed < 2**64
        The same seed gives the same mask: draw a new one for each training step.
    training : bool

    Returns
    -------
    array like x (a copy, in evaluation too)

    Examples
    --------
    >>> import numpy as np
    >>> dropout(np.ones(6), 0.5, seed=5)
    array([2., 0., 2., 2., 0., 0.])
    """
    x = np.asarray(x)
    return masked(x, p, seed) if training else x.copy()


@no_warnings
def dropout_backward(grad_output: Array, p: float, *, seed: int) -> Array:
    """The same mask and scale, applied to the gradient.

    Parameters
    ----------
    grad_output : array of x's shape
    p, seed : as in `dropout`

    Returns
    -------
    array like grad_output

    Examples
    --------
    >>> import numpy as np
    >>> dropout_backward(np.ones(6), 0.5, seed=5)
    array([2., 0., 2., 2., 0., 0.])
    """
    return masked(np.asarray(grad_output), p, seed)


def masked(x: Array, p: float, seed: int) -> Array:
    """x * scale where kept, else 0."""
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: wanted 0 <= p <= 1")
    if p == 1:
        return np.zeros_like(x)
    kept = random_words(x.size, seed).reshape(x.shape) >= np.floor(p * 2.0**32 + 0.5)
    scale = x.dtype.type(1 / (1 - p))
    return np.where(kept, np.asarray(x * scale), x.dtype.type(0))


def random_words(count: int, seed: int) -> Array:
    """u of elements 0 to count - 1, as uint64 below 2^32."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed}: wanted 0 <= seed < 2**64")
    block = np.arange((count + 3) // 4, dtype=np.uint64)
    zero = np.zeros_like(block)
    counter = (block & WORD, block >> np.uint64(32), zero, zero)
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return np.stack(words, axis=1).reshape(-1)[:count]


def philox(counter: tuple[Array, ...], key: tuple[int, int]) -> tuple[Array, ...]:
    """Philox4x32-10 of many counters: four arrays of 32-bit words, held as uint64, in and out."""
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        product0, product1 = a * MULTIPLIERS[0], c * MULTIPLIERS[1]  # 32 x 32 bits fit in 64
        high0, low0 = product0 >> np.uint64(32), product0 & WORD
        high1, low1 = product1 >> np.uint64(32), product1 & WORD
        a, b, c, d = high1 ^ b ^ np.uint64(left), low1, high0 ^ d ^ np.uint64(right), low0
        left, right = (left + KEY_STEPS[0]) % 2**32, (right + KEY_STEPS[1]) % 2**32
    return a, b, c, d
