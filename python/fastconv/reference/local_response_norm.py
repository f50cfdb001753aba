"""Local response normalization across channels, and its gradient.

    y[c] = x[c] * d[c]^-beta        d[c] = k + alpha / size * sum over j in near(c) of x[j]^2
    near(c) = the channels from c - size // 2 to c + (size - 1) // 2, as far as they exist

at every (n, h, w). x[c] reaches every y[j] with c in near(j), which is j from c - (size - 1) // 2
to c + size // 2, through d[j], and y[c] directly. With g = dL/dy:

    dL/dx[c] = g[c] * d[c]^-beta
               - 2 * alpha * beta / size * x[c] * sum over those j of g[j] * x[j] * d[j]^(-beta - 1)

alpha is divided by size, as in PyTorch and Caffe; AlexNet's paper does not divide.
Shapes: x (N, C, H, W), (C, H, W) or (N, C).
Source: A. Krizhevsky et al., "ImageNet Classification with Deep CNNs" (2012), section 3.3.
"""

from __future__ import annotations

import numpy as np

from .windows import Array, no_warnings


@no_warnings
def local_response_norm(
    x: Array, size: int, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """Divide each element by a power of the mean square of its neighbours in other channels.

    Parameters
    ----------
    x : array (N, C, H, W), (C, H, W) or (N, C)
    size : int, number of neighbouring channels
    alpha, beta, k : float

    Returns
    -------
    array like x

    Examples
    --------
    >>> import numpy as np
    >>> local_response_norm(np.array([[1.0, 2.0]]), 2, alpha=2.0, beta=1.0)
    array([[0.5       , 0.33333333]])
    """
    x = np.asarray(x)
    return np.asarray(x * denominators(x, size, alpha, k) ** -beta)


@no_warnings
def local_response_norm_backward(
    grad_output: Array,
    x: Array,
    size: int,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Array:
    """Gradient of `local_response_norm` by the formula at the module's head.

    Parameters
    ----------
    grad_output : array like x
    x, size, alpha, beta, k : as in `local_response_norm`

    Returns
    -------
    array like x

    Examples
    --------
    >>> import numpy as np
    >>> local_response_norm_backward(np.ones((1, 1)), np.array([[1.0]]), 1, alpha=1.0, beta=1.0)
    array([[0.]])
    """
    x = np.asarray(x)
    d = denominators(x, size, alpha, k)
    through_others = sum_near(grad_output * x * d ** (-beta - 1), (size - 1) // 2, size // 2)
    return np.asarray(grad_output * d**-beta - 2 * alpha * beta / size * x * through_others)


def denominators(x: Array, size: int, alpha: float, k: float) -> Array:
    """d of the module's head, like x."""
    if size < 1:
        raise ValueError(f"size={size}: wanted at least 1")
    return np.asarray(k + alpha / size * sum_near(x * x, size // 2, (size - 1) // 2))


def sum_near(values: Array, before: int, after: int) -> Array:
    """At each channel c the sum over channels c - before to c + after, as far as they exist."""
    channel = 0 if values.ndim == 3 else 1
    by_channel = np.moveaxis(values, channel, 0)
    sums = np.zeros_like(by_channel)
    for c in range(len(by_channel)):
        sums[c] = by_channel[max(0, c - before) : c + after + 1].sum(axis=0)
    return np.moveaxis(sums, 0, channel)
