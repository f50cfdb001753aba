"""What a pickle of PyTorch may name, as plain descriptions: storages, tensors, element types.

``GLOBALS`` is the whole list. Each function here takes what a pickle gives it, so that it may be
anything: types are compared, nothing is called, hashed or printed before. The originals are in
torch/_utils.py and torch/serialization.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastconv.checkpoint.arrays import MAX_AXES, MAX_NAME, itemsize, whole_numbers


class Refused(ValueError):
    """The file wants something that no state dict needs."""


class ElementType(NamedTuple):
    """A storage class or a dtype of PyTorch."""

    code: str


class Storage(NamedTuple):
    """The elements ``begin`` to ``begin + length`` of the ``total`` that the file keeps as ``key``.

    Legacy files know storages that are parts of others; elsewhere ``begin`` is 0.
    """

    key: str
    code: str
    total: int
    begin: int
    length: int

    @property
    def file_bytes(self) -> int:
        """Bytes that the file keeps under the key."""
        return self.total * itemsize(self.code)


class Tensor(NamedTuple):
    """Element (i, j, ...) is ``offset + i strides[0] + j strides[1] ...`` of the storage."""

    storage: Storage
    code: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def set_entry(target: Any, key: Any, value: Any) -> None:
    """``target[key] = value`` for texts. No state dict has other keys, and those could be tuples
    nested so deep that hashing them overflows C's stack: they are left out."""
    if type(target) is not dict:
        raise ValueError("an entry is set in what is no dict")
    if type(key) is str:
        target[key] = value


def _ordered_dict(*args: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if args:  # Python 2 pickles an OrderedDict as the list of its pairs
        if len(args) != 1 or type(args[0]) is not list:
            raise ValueError("OrderedDict is not made of a list of pairs")
        for pair in args[0]:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise ValueError("OrderedDict is not made of a list of pairs")
            set_entry(result, *pair)
        args[0].clear()  # else n more operations could make n**2 entries of it
    return result


def _is_size(value: Any) -> bool:
    return type(value) is tuple and len(value) <= MAX_AXES and whole_numbers(value)


def _size(*args: Any) -> tuple[int, ...]:
    if len(args) != 1 or not _is_size(args[0]):
        raise ValueError(f"torch.Size is not made of up to {MAX_AXES} whole numbers")
    return args[0]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    if type(storage) is not Storage:
        raise ValueError("a tensor without a storage")
    fits = whole_numbers((offset,)) and _is_size(shape) and _is_size(strides)
    if not fits or len(shape) != len(strides):
        raise ValueError(
            f"a tensor of storage {storage.key!r}: offset, shape and strides are not whole "
            f"numbers, one of each for up to {MAX_AXES} axes"
        )
    return Tensor(storage, storage.code, offset, shape, strides)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    if metadata:  # such as {"conj": True}: the elements are not the values
        raise Refused("a tensor has metadata (a lazy conjugate or negative), which is not read")
    return _rebuild_tensor(storage, offset, shape, strides)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    """Of an untyped storage, whose elements are bytes; offset and strides count the dtype's."""
    tensor = _rebuild_tensor_v2(storage, offset, shape, strides, grad, hooks, metadata)
    if type(dtype) is not ElementType:
        raise ValueError(f"a tensor of storage {storage.key!r} without a dtype")
    return tensor._replace(code=dtype.code)


def _rebuild_parameter(data: Any, grad: Any, hooks: Any) -> Tensor:
    if type(data) is not Tensor:
        raise ValueError("a parameter without a tensor")
    return data


_STORAGES = {
    "Float": "F32", "Double": "F64", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32",
    "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
_DTYPES = {
    "float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32",
    "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
GLOBALS: dict[str, Any] = {
    "collections OrderedDict": _ordered_dict,
    "torch Size": _size,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils _rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch.storage UntypedStorage": ElementType("U8"),
    **{f"torch {name}Storage": ElementType(code) for name, code in _STORAGES.items()},
    **{f"torch {name}": ElementType(code) for name, code in _DTYPES.items()},
}


def storage_of(identity: Any) -> Storage:
    """The storage of a persistent id: ("storage", type, key, location, count[, part])."""
    if type(identity) is not tuple or len(identity) not in (5, 6):
        raise ValueError("a persistent id that is no storage")
    word, kind, key, _, count = identity[:5]
    if type(word) is not str or word != "storage":
        raise Refused("a persistent id that is no storage, such as a module with its source text")
    if type(kind) is not ElementType or type(key) is not str or not whole_numbers((count,)):
        raise ValueError("a storage without type, key or size")
    if len(key) > MAX_NAME:
        raise ValueError(f"a storage whose key has more than {MAX_NAME} characters")
    part = identity[5] if len(identity) == 6 else None
    if part is None:
        return Storage(key, kind.code, count, 0, count)
    if type(part) is not tuple or len(part) != 3 or not whole_numbers(part[1:]):
        raise ValueError(f"storage {key!r}: the part of it is not described")
    _, begin, length = part
    if begin + length > count:
        raise ValueError(f"storage {key!r}: elements {begin} to {begin + length} of {count}")
    return Storage(key, kind.code, count, begin, length)
