"""Small checkpoints of PyTorch and Caffe, put together byte by byte: tests need neither program.

PyTorch    `text`, `number`, `tuple_`, `dict_`, `call` ... give the bytes of pickle operations
           (protocol 2); `tensor` those of a tensor; `zip_file` and `legacy_file` a file;
           `both_forms` runs a test with either.
Caffe      `field` gives a field of a protocol buffer, `blob`, `layer`, `layer_v1` messages;
           `caffemodel` a file with the weights of a network.
Both       `read`, `refuses`: through a file in a folder.
"""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from fastconv.checkpoint import read_checkpoint

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
DTYPES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": "<u2", "Long": "<i8", "Int": "<i4",
    "Short": "<i2", "Char": "|i1", "Byte": "|u1", "Bool": "|b1",
}  # fmt: skip


def text(value):
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    if type(value) is bool:
        return b"\x88" if value else b"\x89"
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


NONE = b"N"


def tuple_(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(values):
    return tuple_(*(number(value) for value in values))


def list_(*items):
    return b"](" + b"".join(items) + b"e"


def dict_(items, begin=b"}"):
    return begin + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def global_(module, name):
    return f"c{module}\n{name}\n".encode()


def call(module, name, *arguments):
    return global_(module, name) + tuple_(*arguments) + b"R"


ORDERED_DICT = call("collections", "OrderedDict")


def state_dict(items):
    """As a module's: an OrderedDict that has the attribute _metadata."""
    return dict_(items, ORDERED_DICT) + dict_({"_metadata": dict_({})}) + b"b"


def storage(key, kind, count, *view):
    """A persistent id."""
    module, name = ("torch.storage", kind) if kind == "UntypedStorage" else ("torch", kind)
    name = name if name.endswith("Storage") else f"{name}Storage"
    items = text("storage"), global_(module, name), text(key), text("cpu"), number(count)
    return tuple_(*items, *view) + b"Q"


def tensor(of, offset, shape, strides, *, rebuild="_rebuild_tensor_v2", extra=()):
    arguments = [of, number(offset), numbers(shape), numbers(strides)]
    if rebuild != "_rebuild_tensor":
        arguments += [number(False), ORDERED_DICT]
    return call("torch._utils", rebuild, *arguments, *extra)


def simple_tensor(key="0", kind="Float", shape=(2,)):
    """A contiguous tensor that is all of its storage."""
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    return tensor(storage(key, kind, int(np.prod(shape))), 0, shape, strides)


def pickled(value):
    return b"\x80\x02" + value + b"."


def zip_file(value, storages, *, root="archive", more=(), compression=zipfile.ZIP_STORED):
    """`value`: operations; `storages`: key -> bytes or array; `more`: (name, bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", pickled(value))
        archive.writestr(f"{root}/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"{root}/data/{key}", _bytes(content))
        for name, content in more:
            archive.writestr(name, content)
    return file.getvalue()


def legacy_file(value, storages, *, magic=MAGIC_NUMBER, version=1001, little=True, counts=None):
    """`storages`: key -> array; `counts`: key -> what the file says instead of its size."""
    head = pickled(number(magic)) + pickled(number(version))
    head += pickled(dict_({"little_endian": number(little)}))
    keys = pickled(list_(*(text(key) for key in storages)))
    rows = (
        struct.pack("<q", (counts or {}).get(key, array.size)) + array.tobytes()
        for key, array in storages.items()
    )
    return head + pickled(value) + keys + b"".join(rows)


def _bytes(content):
    return content if isinstance(content, bytes) else content.tobytes()


both_forms = pytest.mark.parametrize("form", [zip_file, legacy_file], ids=["zip", "legacy"])
ONES = {"0": np.ones(2, np.float32)}


def read(folder, content, name="x.pt"):
    """What `fc.read_checkpoint` reads of a file with that content."""
    (folder / name).write_bytes(content)
    return read_checkpoint(folder / name)


def refuses(folder, content, pattern, name="x.pt"):
    """Fail unless reading raises a ValueError that matches and names the file."""
    with pytest.raises(ValueError, match=pattern) as caught:
        read(folder, content, name)
    assert name in str(caught.value)


def varint(value):
    value &= 2**64 - 1
    raw = bytearray()
    while value >= 0x80:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(raw) + bytes([value])


def field(tag, value):
    """An int as a varint; bytes, text and messages with their length; a float in 32 bits."""
    if isinstance(value, float):
        return varint(tag << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(tag << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(tag << 3 | 2) + varint(len(value)) + value


def blob(array, *, old=False, shape=None):
    """A BlobProto; `old`: with num, channels, height and width."""
    array = np.asarray(array)
    shape = array.shape if shape is None else shape
    if old:
        sizes = (1,) * (4 - len(shape)) + tuple(shape)
        head = b"".join(field(index + 1, size) for index, size in enumerate(sizes))
    else:
        head = field(7, field(1, b"".join(varint(size) for size in shape)))
    tag, dtype = (8, "<f8") if array.dtype == np.float64 else (5, "<f4")
    return head + field(tag, array.astype(dtype).tobytes())


def layer(name, kind, *blobs):
    """A layer of a NetParameter as of 2014 and later."""
    return field(100, field(1, name) + field(2, kind) + b"".join(field(7, b) for b in blobs))


def layer_v1(name, kind, *blobs):
    """The same in the first generation; `kind` is a number (4 convolution, 14 inner product)."""
    return field(2, field(4, name) + field(5, kind) + b"".join(field(6, b) for b in blobs))


def layer_v0(name, kind, *blobs):
    inner = field(1, name) + field(2, kind) + b"".join(field(50, b) for b in blobs)
    return field(2, field(1, inner))


def caffemodel(model):
    """A network of ours as Caffe would save it: its names, old shapes."""
    state = model.state_dict()
    names = {path: caffe for caffe, path in model.caffe_layers.items()}
    layers = []
    for path in dict.fromkeys(key.rpartition(".")[0] for key in state):
        arrays = [state[f"{path}.weight"], state[f"{path}.bias"]]
        kind = "InnerProduct" if arrays[0].ndim == 2 else "Convolution"
        blobs = (blob(array, old=True) for array in arrays)
        layers.append(layer(names.get(path, path), kind, *blobs))
    return b"".join(layers)
