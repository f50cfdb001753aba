"""Reading and writing safetensors files (https://github.com/huggingface/safetensors).

A file is: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
the data. bfloat16 is read as float32. Files are written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.checkpoint.arrays import DTYPES, check_shape, decode, itemsize, whole_numbers
from fastconv.checkpoint.files import BoundedFile, atomic_file

NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def read_safetensors(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(name -> array, metadata) of a safetensors file."""
    with open(path, "rb") as stream:
        file = BoundedFile(stream)
        entries, metadata, data = _read_header(path, file)
        arrays = {}
        for name, (code, shape, begin, end) in entries.items():
            raw = file.bytes_at(data + begin, end - begin)
            arrays[name] = decode(raw, code).reshape(shape)
        return arrays, metadata


def _read_header(path: Any, file: BoundedFile) -> tuple[dict[str, Any], dict[str, str], int]:
    """(name -> (dtype, shape, begin, end), metadata, where the data begin)."""
    size = file.size
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(
            f"{path} is not a safetensors file: its header would have {length} bytes, but the file "
            f"has {size}"
        )
    try:
        text = file.bytes_at(8, length).tobytes().decode("utf-8")
        header = json.loads(text, object_pairs_hook=_no_duplicates)
        if not isinstance(header, dict):
            raise ValueError("it is not an object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("__metadata__ is not an object")
        entries = {name: _entry(name, value) for name, value in header.items()}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the header is damaged: {error}") from error
    _check_layout(path, entries, size - 8 - length)
    return entries, {str(key): str(value) for key, value in metadata.items()}, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _entry(name: str, value: Any) -> tuple[str, tuple[int, ...], int, int]:
    try:
        code, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{name!r} lacks dtype, shape or data_offsets") from None
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{name!r} has dtype {code!r}, but {', '.join(DTYPES)} are known")
    if not whole_numbers(numbers):
        raise ValueError(f"{name!r} has shape {shape!r} and data_offsets {[begin, end]!r}")
    needed = check_shape(name, shape) * itemsize(code)
    if end - begin != needed:
        raise ValueError(f"{name!r}: {code} {shape} takes {needed} bytes, not {end - begin}")
    return code, tuple(shape), begin, end


def _check_layout(path: Any, entries: Mapping[str, Any], data_bytes: int) -> None:
    """The format wants the arrays one after another, without holes or overlaps."""
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            raise ValueError(f"{path}: {name!r} begins at byte {begin}, but {position} is next")
        position = end
    if position != data_bytes:
        raise ValueError(
            f"{path}: the arrays take {position} bytes, but {data_bytes} follow the header"
        )


def write_safetensors(
    path: str | PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays; the file appears complete or not at all."""
    if Path(path).suffix.lower() != ".safetensors":
        raise ValueError(f"{path}: weights are written as safetensors; give a name in .safetensors")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # The widest dtypes first, so that each array is aligned (as the format's own writer does).
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    position = 0
    for name in order:
        array = arrays[name]
        code = "BF16" if array.dtype.name == "bfloat16" else NAMES.get(array.dtype)
        if code is None:
            raise TypeError(f"{path}: {name!r} has dtype {array.dtype}, which safetensors has not")
        end = position + array.size * array.dtype.itemsize
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            array = np.ascontiguousarray(arrays[name])
            if header[name]["dtype"] == "BF16":
                array = array.view(np.uint16)
            array = array.astype(DTYPES[header[name]["dtype"]], copy=False)
            file.write(array.reshape(-1).view(np.uint8).data)
