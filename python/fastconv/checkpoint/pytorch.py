"""Reading what ``torch.save`` wrote, without PyTorch and without running code.

A zip file (PyTorch 1.6 and later) holds ``NAME/data.pkl``, a pickle in which each storage is a
persistent id with a key, and ``NAME/data/KEY``, its bytes, never compressed. A legacy file is a row
of pickles (a magic number, a protocol version, facts on the machine, the object, the list of keys)
and then for each key the number of elements (int64) and the elements.

Arrays are views of storages, each of which is read once and only if it is needed: a file can make
no more memory be taken than about four times its own size. Tar files (of PyTorch's first
releases), TorchScript archives and files of big-endian machines are not read.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from fastconv.checkpoint.arrays import check_name, decode, strided_view
from fastconv.checkpoint.files import BoundedFile
from fastconv.checkpoint.pickle_machine import load
from fastconv.checkpoint.pytorch_objects import GLOBALS, Storage, Tensor, storage_of

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

# A tensor of ``expand`` is saved with the elements that it repeats: whoever copies the arrays takes
# so much more memory than the file has bytes, at most.
MAX_REPEATED_BYTES = 1 << 26

# Where training programs keep the state dict of what they save.
NESTED = ("state_dict", "model_state_dict", "model", "net", "module")


def read_pytorch(path: str | PathLike[str]) -> dict[str, Any]:
    """name -> array of the state dict in a file of ``torch.save``."""
    with open(path, "rb") as stream:
        try:
            file = BoundedFile(stream)
            is_zip = file.read(4) == b"PK\3\4"
            content: _Zip | _Legacy = _Zip(file) if is_zip else _Legacy(file)
            return _arrays(_state_dict(content.value), content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _state_dict(value: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one that a training checkpoint holds."""
    if type(value) is not dict:
        kind = "a tensor" if type(value) is Tensor else f"a {type(value).__name__}"
        raise ValueError(f"the file holds {kind}, but a state dict (names and tensors) is needed")
    for candidate in (*(value.get(name) for name in NESTED), value):
        if type(candidate) is dict:
            tensors = {name: item for name, item in candidate.items() if type(item) is Tensor}
            if tensors:
                return tensors
    if not value:
        return {}
    raise ValueError(
        f"no state dict is found: there are {', '.join(repr(n[:50]) for n in list(value)[:20])}, "
        f"and tensors neither among them nor under {', '.join(NESTED)}"
    )


def _arrays(tensors: Mapping[str, Tensor], content: _Zip | _Legacy) -> dict[str, Any]:
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    raw = {key: content.read(storage) for key, storage in storages.items()}
    elements: dict[tuple[str, str], Any] = {}
    repeated = 0
    arrays: dict[str, Any] = {}
    for name, (storage, code, offset, shape, strides) in tensors.items():
        check_name(name, arrays)
        if (storage.key, code) not in elements:
            elements[storage.key, code] = decode(raw[storage.key], code)
        if storage.begin and code != storage.code:
            raise ValueError(f"{name!r} is of a part of an untyped storage, which is not read")
        part = elements[storage.key, code][storage.begin :]
        if code == storage.code:
            part = part[: storage.length]
        arrays[name] = strided_view(name, part, offset, shape, strides)
        repeated += max(0, arrays[name].nbytes - part.nbytes)
        if repeated > MAX_REPEATED_BYTES:
            raise ValueError(
                f"{name!r}: shape {shape} and strides {strides} repeat elements: arrays that do "
                f"would take more than {MAX_REPEATED_BYTES} bytes beyond their storages'"
            )
    return arrays


class _Content:
    """The pickled value and the storages that it names."""

    def __init__(self, file: BoundedFile) -> None:
        self.file = file
        self.storages: dict[str, Storage] = {}

    def load(self, file: Any) -> Any:
        return load(file, GLOBALS, self._storage)

    def _storage(self, identity: Any) -> Storage:
        storage = storage_of(identity)
        known = self.storages.setdefault(storage.key, storage)
        if (known.code, known.total) != (storage.code, storage.total):
            raise ValueError(f"storage {storage.key!r} is said to be of two types or sizes")
        return storage


class _Zip(_Content):
    """The zip form. Members are found by name alone: nothing is extracted to a path."""

    def __init__(self, file: BoundedFile) -> None:
        super().__init__(file)
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except Exception as error:  # zipfile raises half a dozen kinds
            raise ValueError(f"the zip's directory is damaged: {error}") from error
        self.members = {info.filename: info for info in infos}
        if len(self.members) != len(infos):
            raise ValueError("the zip holds a name twice")
        roots = [name[: -len("data.pkl")] for name in self.members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"the zip holds {len(roots)} files data.pkl, but torch.save writes 1")
        self.root = roots[0]
        if f"{self.root}constants.pkl" in self.members:
            raise ValueError(
                "the file is a TorchScript archive; save the weights alone: "
                "torch.save(torch.jit.load(path).state_dict(), other_path)"
            )
        self._check_members()
        order = f"{self.root}byteorder"
        if order in self.members and self._member(order).tobytes() != b"little":
            raise ValueError("the file is of a big-endian machine, which is not read")
        self.value = self.load(io.BytesIO(self._member(f"{self.root}data.pkl").tobytes()))

    def _check_members(self) -> None:
        """PyTorch never compresses; and members that overlap would multiply what is read."""
        position, before = 0, ""
        for info in sorted(self.members.values(), key=lambda info: info.header_offset):
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"{info.filename!r} is compressed, which torch.save never does")
            if info.header_offset < position:
                raise ValueError(f"{info.filename!r} overlaps {before!r}")
            position, before = info.header_offset + 30 + info.file_size, info.filename

    def _member(self, name: str) -> Any:
        """The bytes of a member, as ``zipfile`` would give them, without a copy."""
        info = self.members[name]
        header = self.file.bytes_at(info.header_offset, 30).tobytes()
        if header[:4] != b"PK\3\4" or info.flag_bits & 1:
            raise ValueError(f"{name!r} is damaged or encrypted")
        after_name = 30 + int.from_bytes(header[26:28], "little")
        begin = info.header_offset + after_name + int.from_bytes(header[28:30], "little")
        raw = self.file.bytes_at(begin, info.file_size)
        # 0: torch.serialization.set_crc32_options(False) was set.
        if info.CRC not in (0, zlib.crc32(raw.data)):
            raise ValueError(f"{name!r} is damaged: its checksum is wrong")
        return raw

    def read(self, storage: Storage) -> Any:
        name = f"{self.root}data/{storage.key}"
        if name not in self.members:
            raise ValueError(f"storage {storage.key!r} is missing")
        if self.members[name].file_size != storage.file_bytes:
            raise ValueError(
                f"storage {storage.key!r} has {self.members[name].file_size} bytes, but "
                f"{storage.total} elements of {storage.code} take {storage.file_bytes}"
            )
        return self._member(name)


class _Legacy(_Content):
    """The form before PyTorch 1.6, still written by ``_use_new_zipfile_serialization=False``."""

    def __init__(self, file: BoundedFile) -> None:
        super().__init__(file)
        file.seek(0)
        if file.size >= 262 and file.bytes_at(257, 5).tobytes() == b"ustar":
            raise ValueError("tar files of PyTorch's first releases are not read; save it anew")
        file.seek(0)
        if file.read(1) != b"\x80":
            raise ValueError("not a file of torch.save: neither a zip nor a pickle")
        file.seek(0)
        magic, version, machine = self.load(file), self.load(file), self.load(file)
        if type(magic) is not int or magic != MAGIC_NUMBER:
            raise ValueError("not a file of torch.save: a pickle without its magic number")
        if type(version) is not int or version != PROTOCOL_VERSION:
            raise ValueError(f"a legacy file whose protocol is not {PROTOCOL_VERSION}")
        if type(machine) is not dict or machine.get("little_endian") is not True:
            raise ValueError("the file is of a big-endian machine, which is not read")
        self.value = self.load(file)
        self.begins = self._walk(self.load(file))

    def _walk(self, keys: Any) -> dict[str, int]:
        """Where the elements of each storage begin."""
        begins: dict[str, int] = {}
        if type(keys) is not list:
            raise ValueError("the list of storages is missing")
        position = self.file.tell()
        for key in keys:
            if type(key) is not str or key not in self.storages or key in begins:
                raise ValueError("the list of storages has one that is not used, or one twice")
            storage = self.storages[key]
            count = int(self.file.bytes_at(position, 8).view(np.dtype("<i8"))[0])
            if count != storage.total:
                raise ValueError(f"storage {key!r} has {count} elements, but {storage.total} used")
            begins[key] = position + 8
            position += 8 + storage.file_bytes
            if position > self.file.size:
                raise ValueError(f"cut short: storage {key!r} ends beyond the file")
        return begins

    def read(self, storage: Storage) -> Any:
        if storage.key not in self.begins:
            raise ValueError(f"storage {storage.key!r} is missing")
        return self.file.bytes_at(self.begins[storage.key], storage.file_bytes)
