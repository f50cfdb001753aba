"""Reading and writing arrays by name: safetensors (read, write), .npz (read).

A safetensors file is: 8 bytes little-endian header length, a JSON header {name: {dtype, shape,
data_offsets}}, the data (https://github.com/huggingface/safetensors). Files may be hostile: every
number of the header is checked against the file before memory is allocated, and no code is run.
bfloat16 is read as float32, which holds each of its values. Files are written whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_AXES = 32  # NumPy 1.26's

# In a training checkpoint these names are not the model's.
TRAINING_PREFIX = "training/"


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Read named arrays from a file that fastconv or others saved.

    Parameters
    ----------
    path : str or path
        ``.safetensors`` or ``.npz``. Of a checkpoint of ``fc.fit`` the model's arrays are read.

    Returns
    -------
    dict of str to numpy.ndarray

    Raises
    ------
    ValueError
        If the format is not known, or the file is damaged; the message says where.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import fastconv as fc
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     np.savez(path, bias=np.zeros(3))
    ...     sorted(fc.read_checkpoint(path))
    ['bias']
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors":
        arrays, _ = read_safetensors(path)
        return {n: a for n, a in arrays.items() if not n.startswith(TRAINING_PREFIX)}
    if suffix == ".npz":
        return _read_npz(path)
    raise ValueError(
        f"read_checkpoint: {path} ends in {suffix or 'nothing'!r}, but this version reads "
        f".safetensors and .npz"
    )


def _read_npz(path: str | PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser raise a dozen kinds
        raise ValueError(f"{path} is not a readable .npz file: {error}") from error


def read_safetensors(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(name -> array, metadata) of a safetensors file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        entries, metadata, begin = _read_header(path, file, size)
        arrays = {}
        for name, (code, shape, offset) in entries.items():
            array = np.empty(shape, np.dtype(DTYPES[code]))
            file.seek(begin + offset)
            flat = array.reshape(-1).view(np.uint8)
            if file.readinto(flat.data) != flat.size:
                raise ValueError(f"{path}: {name!r} is cut short")
            arrays[name] = _widen_bfloat16(array) if code == "BF16" else _native(array)
        return arrays, metadata


def _native(array: Any) -> Any:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _widen_bfloat16(bits: Any) -> Any:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _read_header(
    path: Any, file: IO[bytes], size: int
) -> tuple[dict[str, Any], dict[str, str], int]:
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(
            f"{path} is not a safetensors file: its header would have {length} bytes, but the file "
            f"has {size}"
        )
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
        if not isinstance(header, dict):
            raise ValueError("it is not an object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("__metadata__ is not an object")
        entries = {name: _entry(name, value) for name, value in header.items()}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the header is damaged: {error}") from error
    _check_layout(path, entries, size - 8 - length)
    return (
        {name: (code, shape, begin) for name, (code, shape, begin, _) in entries.items()},
        {str(key): str(value) for key, value in metadata.items()},
        8 + length,
    )


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
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"{name!r} has shape {shape!r} and data_offsets {[begin, end]!r}")
    if len(shape) > MAX_AXES:
        raise ValueError(f"{name!r} has {len(shape)} axes, but {MAX_AXES} are the most")
    if math.prod(size for size in shape if size) * 8 >= 2**63:  # NumPy refuses (0, 2**62), too
        raise ValueError(f"{name!r} has shape {shape!r}, more than any array")
    needed = math.prod(shape) * np.dtype(DTYPES[code]).itemsize
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


class atomic_file:
    """A binary file that takes the place of ``path`` only when it is complete and on the disk."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> IO[bytes]:
        handle, self.temporary = tempfile.mkstemp(
            dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".part"
        )
        self.file = os.fdopen(handle, "wb")
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
                os.chmod(self.temporary, 0o666 & ~_umask())  # mkstemp gives 0600
                os.replace(self.temporary, self.path)
        finally:
            self.file.close()
            if os.path.exists(self.temporary):
                os.unlink(self.temporary)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
