"""Arrays of other libraries on CUDA: DLPack, `__cuda_array_interface__`, PyTorch, CuPy."""

from __future__ import annotations

import gc
import sys
import types
from typing import Any

import fastconv as fc
import numpy as np
import pytest
from cuda_support import numbers

core = fc._core.cuda


class ByInterface:
    def __init__(self, array: Any, **changes: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | changes


class ByDLPack:
    """As a library from before or after DLPack 1.0 would export."""

    def __init__(self, array: Any, versioned: bool) -> None:
        self.array, self.versioned = array, versioned
        self.streams: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned and "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(options["stream"])
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64"])
def test_dlpack_there_and_back(dtype: str, versioned: bool) -> None:
    a = fc.cuda.full((2, 3, 4), 3, dtype).transpose(2, 0, 1)[::-1]
    other = ByDLPack(a, versioned)
    b = fc.cuda.asarray(other)
    assert (b.shape, b.strides, b.dtype, b.ptr) == (a.shape, a.strides, a.dtype, a.ptr)
    assert other.streams == [1]
    with fc.cuda.Stream() as stream:
        fc.cuda.asarray(other)
    assert other.streams[1] == stream.ptr
    del a, other
    gc.collect()
    np.testing.assert_array_equal(fc.cuda.asnumpy(b.astype("float32")), 3)


def test_dlpack_arguments() -> None:
    a = fc.cuda.zeros((2, 3))
    assert a.__dlpack_device__() == (2, a.device)
    with pytest.raises(ValueError, match="stream"):
        a.__dlpack__(stream=0)
    with pytest.raises(BufferError):
        a.__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="read-only"):
        a.read_only().__dlpack__()
    assert not fc.cuda.asarray(ByDLPack(a.read_only(), True)).flags.writeable
    copy = core.from_dlpack(a.__dlpack__(copy=True))
    assert copy.ptr != a.ptr
    capsule = a.__dlpack__(stream=-1)
    core.from_dlpack(capsule)
    with pytest.raises((ValueError, TypeError)):  # consumed
        core.from_dlpack(capsule)


def test_unconsumed_capsules_free_their_memory() -> None:
    gc.collect()
    before = fc.cuda.memory_stats()["used"]
    for options in ({}, {"max_version": (1, 0)}):
        a = fc.cuda.zeros(1000)
        capsule = a.__dlpack__(**options)
        del a, capsule
    gc.collect()
    assert fc.cuda.memory_stats()["used"] == before


def test_cuda_array_interface() -> None:
    a = fc.cuda.asarray(numbers((3, 4)))
    interface = a.__cuda_array_interface__
    assert interface["shape"] == (3, 4)
    assert interface["typestr"] == "<f4"
    assert interface["data"] == (a.ptr, False)
    assert interface["version"] == 3
    b = fc.cuda.asarray(ByInterface(a.T, strides=a.T.strides))
    assert (b.ptr, b.shape, b.strides, b.stream) == (a.ptr, (4, 3), a.T.strides, 0)
    c = fc.cuda.asarray(ByInterface(a, strides=None, stream=None))
    assert (c.strides, c.stream) == (a.strides, None)
    assert not fc.cuda.asarray(ByInterface(a, data=(a.ptr, True))).flags.writeable
    with pytest.raises(TypeError, match="<f8"):
        fc.cuda.asarray(ByInterface(a, typestr="<f8"))
    with pytest.raises(TypeError, match="GPU's memory"):
        fc.cuda.asarray(ByInterface(a, data=(np.zeros(3).ctypes.data, False)))
    assert not hasattr(fc.cuda.zeros(3, "bfloat16"), "__cuda_array_interface__")


class Tensor:
    """What fastconv asks of a PyTorch tensor."""

    __module__ = "torch"
    requires_grad = False
    is_cuda = True

    def __init__(self, array: Any, dtype: Any) -> None:
        self.array, self.dtype, self.shape = array, dtype, array.shape

    def is_neg(self) -> bool:
        return False

    def stride(self) -> tuple[int, ...]:
        return tuple(s // self.array.itemsize for s in self.array.strides)

    def data_ptr(self) -> int:
        return int(self.array.ptr)

    def storage_offset(self) -> int:
        return 0

    def new_empty_strided(self, shape: tuple[int, ...], elems: tuple[int, ...]) -> Tensor:
        array = core.empty(shape, "float32", self.array)
        assert elems == tuple(stride // array.itemsize for stride in array.strides)
        return Tensor(array, self.dtype)

    def as_strided(self, shape: tuple[int, ...], elems: tuple[int, ...], first: int) -> Tensor:
        assert (elems, first) == ((4, 1), 4)
        return Tensor(self.array[1:2], self.dtype)

    def get_device(self) -> int:
        return int(self.array.device)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands for PyTorch, on a stream of its own."""
    module: Any = types.ModuleType("torch")
    for name in ("float32", "float16", "bfloat16", "int64", "float64"):
        setattr(module, name, f"torch.{name}")
    module.Tensor = Tensor
    module.stream = fc.cuda.Stream()
    module._C = types.SimpleNamespace(_cuda_getCurrentRawStream=lambda device: module.stream.ptr)
    module.utils = types.SimpleNamespace(
        dlpack=types.SimpleNamespace(
            from_dlpack=lambda capsule: Tensor(core.from_dlpack(capsule), module.float32)
        )
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def test_torch_tensors_share_memory_and_stream(torch: Any) -> None:
    x = numbers((2, 3, 4, 5))
    tensor = Tensor(fc.cuda.asarray(x).transpose(0, 3, 1, 2), torch.float32)
    fc.cuda.synchronize()  # the stand-in says that x was made on its own stream; it was not
    a = fc.cuda.asarray(tensor)
    assert (a.ptr, a.shape, a.strides) == (tensor.data_ptr(), tensor.shape, tensor.array.strides)
    assert a.stream == torch.stream.ptr
    assert a[1:].stream == torch.stream.ptr
    result = core.empty([3], "float32", a)
    assert result.stream == torch.stream.ptr
    assert type(fc.cuda.give_like(result, tensor)) is Tensor
    assert fc.cuda.give_like(result, result) is result
    np.testing.assert_array_equal(fc.cuda.asnumpy(tensor), x.transpose(0, 3, 1, 2))
    kept = sys.getrefcount(tensor)
    b = fc.cuda.asarray(tensor)
    assert sys.getrefcount(tensor) == kept + 1
    del b
    assert sys.getrefcount(tensor) == kept


def test_results_of_torch_calls_are_tensors_of_its_own(torch: Any) -> None:
    x = numbers((3, 4))
    tensor = Tensor(fc.cuda.asarray(x), torch.float32)
    result = fc.relu(tensor)
    assert type(result) is Tensor
    np.testing.assert_array_equal(fc.cuda.asnumpy(result), np.maximum(x, 0))
    operand = fc.cuda.import_array("relu", "x", tensor, for_call=True)
    assert fc.cuda.give_like(operand, tensor) is tensor
    view = fc.cuda.give_like(operand[1:2], tensor)
    np.testing.assert_array_equal(fc.cuda.asnumpy(view), x[1:2])
    torch.stream = fc.cuda.Stream()  # another than the operand's: memory of ours
    assert core.to_torch(core.empty([3], "float32", operand)) is None
    assert core.to_torch(fc.cuda.asarray(tensor)) is None  # somebody may keep that


def test_torch_tensors_that_cannot_be_taken(torch: Any) -> None:
    tensor = Tensor(fc.cuda.zeros(3), torch.float64)
    with pytest.raises(TypeError, match=r"relu: x has dtype torch.float64.*\.float\(\)"):
        fc.cuda.import_array("relu", "x", tensor)
    tensor.dtype, tensor.requires_grad = torch.float32, True
    with pytest.raises(TypeError, match=r"relu: x is a tensor that requires grad.*\.detach\(\)"):
        fc.cuda.import_array("relu", "x", tensor)


def test_real_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch without CUDA")
    x = torch.randn(2, 3, 4, 5, device="cuda").to(memory_format=torch.channels_last)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        a = fc.cuda.asarray(x.to(dtype))
        back = torch.from_dlpack(a)
        assert back.dtype == dtype
        assert torch.equal(back, x.to(dtype))
        assert back.data_ptr() == a.ptr
    with torch.cuda.stream(torch.cuda.Stream()) as _:
        assert fc.cuda.asarray(x).stream == torch.cuda.current_stream().cuda_stream
    given = fc.cuda.give_like(fc.cuda.asarray(numbers((3, 2))), x)
    assert given.is_cuda
    np.testing.assert_array_equal(given.cpu().numpy(), numbers((3, 2)))


def test_real_cupy_arrays() -> None:
    cupy = pytest.importorskip("cupy")
    x = cupy.asarray(numbers((2, 3, 4)))
    a = fc.cuda.asarray(x)
    assert a.ptr == x.data.ptr
    with cupy.cuda.Stream():
        assert fc.cuda.asarray(x).stream == cupy.cuda.get_current_stream().ptr
    given = fc.cuda.give_like(a, x)
    assert type(given) is cupy.ndarray
    np.testing.assert_array_equal(given.get(), numbers((2, 3, 4)))
