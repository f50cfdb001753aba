"""Products over the channels of a convolution at one tap, group by group.

With `groups`, filter k sees the channels of group k // (K // groups) only: K and C fall apart into
`groups` independent matrices (K // groups, C // groups).

Source of groups: A. Krizhevsky et al., "ImageNet Classification with Deep CNNs" (2012), fig. 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .windows import Array


def mix_channels(matrix: Array, images: Array, groups: int) -> Array:
    """(K, C // groups) times (N, C, P, Q) -> (N, K, P, Q), group by group."""
    n, c, p, q = images.shape
    matrices = matrix.reshape(groups, matrix.shape[0] // groups, c // groups)
    columns = images.reshape(n, groups, c // groups, p * q)
    mixed: Array = np.matmul(matrices, columns).reshape(n, matrix.shape[0], p, q)
    return mixed


def correlate_channels(left: Array, right: Array, groups: int) -> Array:
    """(N, K, P, Q) with (N, C, P, Q) -> (K, C // groups): products summed over n, p, q."""
    n, k, p, q = left.shape
    c = right.shape[1]
    left = left.reshape(n, groups, k // groups, p * q)
    right = right.reshape(n, groups, c // groups, p * q)
    products: Array = np.matmul(left, right.transpose(0, 1, 3, 2)).sum(axis=0)
    return products.reshape(k, c // groups)


def transpose_groups(weight: Array, groups: int) -> Array:
    """(K, C // groups, R, S) -> (C, K // groups, R, S): the matrix of each group transposed."""
    k, c_group, r, s = weight.shape
    grouped: Array = weight.reshape(groups, k // groups, c_group, r, s).transpose(0, 2, 1, 3, 4)
    return grouped.reshape(groups * c_group, k // groups, r, s)


def check_channels(channels: int, weight_shape: Sequence[int], groups: int) -> None:
    """Complain unless `channels` inputs fit a kernel (K, C // groups, R, S)."""
    if len(weight_shape) != 4 or groups < 1:
        raise ValueError(f"weight has shape {tuple(weight_shape)} and groups={groups}")
    k, c_group = weight_shape[:2]
    if c_group * groups != channels or k % groups != 0:
        raise ValueError(
            f"weight has {c_group} input channels x {groups} groups and {k} filters, "
            f"but x has {channels} channels"
        )
