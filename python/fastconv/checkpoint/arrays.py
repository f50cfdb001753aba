"""What every format's reader checks of an array before memory is taken, and how bytes become one.

Element types are called by safetensors' codes: "F32", "BF16", "I64" ... bfloat16 becomes float32,
which holds each of its values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
MAX_AXES = 32  # NumPy 1.26's
MAX_NAME = 1000


def itemsize(code: str) -> int:
    """Bytes of an element in a file."""
    return np.dtype(DTYPES[code]).itemsize


def whole_numbers(values: Any) -> bool:
    """Whether all values are integers from 0 to 2**63 - 1 (a bool is none)."""
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def check_shape(name: str, shape: Any) -> int:
    """The number of elements of ``shape``, a sequence of ``whole_numbers``."""
    if len(shape) > MAX_AXES:
        raise ValueError(f"{name!r} has {len(shape)} axes, but {MAX_AXES} are the most")
    if math.prod(size for size in shape if size) * 8 >= 2**63:  # NumPy refuses (0, 2**62), too
        raise ValueError(f"{name!r} has shape {tuple(shape)!r}, more than any array")
    return math.prod(shape)


def check_name(name: str, taken: Any) -> None:
    """A name that can be printed, so that errors which list names show what there is, once."""
    if len(name) > MAX_NAME:
        raise ValueError(f"the name {name[:50]!r}... has more than {MAX_NAME} characters")
    if not name.isprintable():
        raise ValueError(f"the name {name!r} holds characters that cannot be printed")
    if name in taken:
        raise ValueError(f"the name {name!r} occurs twice")


def decode(raw: NDArray[np.uint8], code: str) -> NDArray[Any]:
    """The elements of ``raw``, the bytes of a file: a flat array in the machine's byte order."""
    if code == "BOOL":
        return raw != 0  # other bytes than 0 and 1 would be booleans that equal neither
    array = raw.view(DTYPES[code])
    if code == "BF16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def strided_view(
    name: str, elements: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray[Any]:
    """The array whose element (i, j) is ``elements[offset + i strides[0] + j strides[1]]``.

    A view: names that share elements keep sharing them, and strides of 0 repeat them. It may not
    reach beyond ``elements``.
    """
    count = check_shape(name, shape)
    if count == 0:
        return np.empty(shape, elements.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if last >= elements.size:
        raise ValueError(
            f"{name!r}: shape {shape}, strides {strides} and offset {offset} reach element {last}, "
            f"but its storage has {elements.size}"
        )
    # The stride of an axis of one element may be anything, beyond 63 bits when in bytes.
    in_bytes = [elements.itemsize * (stride if n > 1 else 1) for n, stride in zip(shape, strides)]
    begin = offset * elements.itemsize
    return np.ndarray(shape, elements.dtype, elements.data, begin, in_bytes)
