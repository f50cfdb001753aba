"""Reading Caffe's ``.caffemodel`` (a NetParameter) and ``.binaryproto`` (a BlobProto).

The messages are those of caffe/proto/caffe.proto, in all three generations of layers: ``layer``
(LayerParameter), ``layers`` (V1LayerParameter) and, inside of that, V0. A layer's arrays are its
blobs: of shape ``shape``, or in old files ``num, channels, height, width``. Everything but names,
types and blobs is skipped. A convolution's weight is (K, C // groups, R, S) and a linear layer's
(outputs, inputs), the inputs of an image in (C, H, W) order: as fastconv has them.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

from fastconv.checkpoint.arrays import MAX_AXES, check_name, check_shape, whole_numbers
from fastconv.checkpoint.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    expect,
    fields,
    packed_varints,
)

# Message -> the numbers of its fields.
NET_V1_LAYERS, NET_LAYERS = 2, 100
LAYER = {"name": 1, "type": 2, "blobs": 7}
V1_LAYER = {"v0": 1, "name": 4, "type": 5, "blobs": 6}
V0_LAYER = {"name": 1, "type": 2, "blobs": 50}
BLOB_OLD_SHAPE, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8
SHAPE_DIM = 1

# What a linear layer is called: in LayerParameter, as V1's enumeration, in V0.
INNER_PRODUCT = ("InnerProduct", 14, "innerproduct")
NAMES = ("weight", "bias")
# So that many tiny ones do not fill memory with names and slices.
MAX_LAYERS, MAX_BLOBS = 100_000, 64


def read_caffemodel(path: str | PathLike[str]) -> dict[str, Any]:
    """``layer.weight`` and ``layer.bias`` -> array, for each layer that has arrays."""
    arrays: dict[str, Any] = {}
    with open(path, "rb") as file:
        net = memoryview(file.read())
    layers = 0
    try:
        for number, wire, value in fields(net):
            if number not in (NET_LAYERS, NET_V1_LAYERS):
                continue
            expect(number, wire, BYTES)
            layers += 1
            if layers > MAX_LAYERS:
                raise ValueError(f"more than {MAX_LAYERS} layers")
            for name, array in _layer(value, LAYER if number == NET_LAYERS else V1_LAYER).items():
                check_name(name, arrays)
                arrays[name] = array
        if not layers:
            raise ValueError("it holds no layers")
    except ValueError as error:
        raise ValueError(f"{path} is not a readable .caffemodel: {error}") from error
    return arrays


def read_binaryproto(path: str | PathLike[str]) -> dict[str, Any]:
    """{"mean": array (C, H, W)} of a mean image."""
    with open(path, "rb") as file:
        blob = memoryview(file.read())
    try:
        array = _blob(blob, axes=3)
        if array.ndim == 4 and len(array) == 1:
            array = array[0]
        if array.ndim != 3:
            raise ValueError(f"its shape is {array.shape}, but (1, C, H, W) or (C, H, W) is needed")
    except ValueError as error:
        raise ValueError(f"{path} is not a readable .binaryproto: {error}") from error
    return {"mean": array}


def _layer(view: memoryview, numbers: dict[str, int]) -> dict[str, Any]:
    """name -> array of a layer, its own name before each."""
    name, kind = "", None
    blobs: list[memoryview] = []
    for number, wire, value in fields(view):
        if number == numbers.get("v0"):
            expect(number, wire, BYTES)
            return _layer(value, V0_LAYER)
        if number == numbers["name"]:
            expect(number, wire, BYTES)
            name = bytes(value).decode("utf-8")
        elif number == numbers["type"]:
            expect(number, wire, BYTES, VARINT)
            kind = value if wire == VARINT else bytes(value).decode("utf-8")
        elif number == numbers["blobs"]:
            expect(number, wire, BYTES)
            if len(blobs) == MAX_BLOBS:
                raise ValueError(f"layer {name[:200]!r} has more than {MAX_BLOBS} blobs")
            blobs.append(value)
    arrays = {}
    for index, blob in enumerate(blobs):
        part = NAMES[index] if index < len(NAMES) else f"blob{index}"
        try:
            axes = 1 if index else 2 if kind in INNER_PRODUCT else 4
            arrays[f"{name}.{part}"] = _blob(blob, axes=axes)
        except ValueError as error:
            raise ValueError(f"layer {name[:200]!r}, {part}: {error}") from error
    return arrays


def _blob(view: memoryview, *, axes: int) -> Any:
    """The array of a BlobProto; an old shape loses leading ones until it has ``axes`` axes."""
    old, shape = [0, 0, 0, 0], None
    data = {BLOB_DATA: bytearray(), BLOB_DOUBLE_DATA: bytearray()}
    for number, wire, value in fields(view):
        if number in BLOB_OLD_SHAPE:
            expect(number, wire, VARINT)
            old[number - 1] = value
        elif number == BLOB_SHAPE:
            expect(number, wire, BYTES)
            shape = _dimensions(value)
        elif number in data:
            # A packed row, or one field a number: the bytes are the same.
            expect(number, wire, BYTES, FIXED32 if number == BLOB_DATA else FIXED64)
            data[number] += value
    if shape is None:
        shape = old
        while len(shape) > axes and shape[0] == 1:
            shape = shape[1:]
    if not whole_numbers(shape):
        raise ValueError("its shape has a negative size")
    dtype = np.dtype("<f8" if data[BLOB_DOUBLE_DATA] else "<f4")
    values = data[BLOB_DOUBLE_DATA] or data[BLOB_DATA]
    if check_shape("blob", shape) * dtype.itemsize != len(values):
        raise ValueError(f"its shape is {tuple(shape)}, but its values have {len(values)} bytes")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _dimensions(view: memoryview) -> list[int]:
    sizes: list[int] = []
    for number, wire, value in fields(view):
        if number == SHAPE_DIM:
            expect(number, wire, BYTES, VARINT)
            for size in packed_varints(wire, value):
                sizes.append(size)
                if len(sizes) > MAX_AXES:
                    raise ValueError(f"its shape has more than {MAX_AXES} axes")
    return sizes
