"""`fc.cuda`: arrays, copies, exchange with other libraries, streams, captured graphs. Runs on a GPU
and in the emulated build; tests/test_cuda_build.py is what runs everywhere."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import types
from typing import Any

import fastconv as fc
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    not fc.cuda.is_available(), reason=f"no CUDA: {fc.cuda.why_unavailable()}"
)

core = fc._core.cuda
DTYPES = ("float32", "float16", "int64")


def numbers(shape: tuple[int, ...], dtype: str = "float32") -> Any:
    x = np.random.default_rng(7).integers(-99, 100, shape)
    return (x / 8 if dtype != "int64" else x).astype(dtype)


# ---- NumPy there and back ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (2, 0, 3), (5, 3), (2, 3, 5, 7)])
def test_numpy_there_and_back(shape: tuple[int, ...], dtype: str) -> None:
    x = numbers(shape, dtype)
    a = fc.cuda.asarray(x)
    assert (a.shape, a.dtype, a.ndim, a.size, a.nbytes) == (
        x.shape, x.dtype, x.ndim, x.size, x.nbytes,
    )  # fmt: skip
    back = fc.cuda.asnumpy(a)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)


def test_memory_order_is_kept() -> None:
    x = numbers((2, 3, 5, 7))
    last = fc.channels_last(x)
    for order, source in itertools.product((None, "channels_last", "C"), (x, last)):
        a = fc.cuda.asarray(source, order=order)
        wanted = {None: source, "channels_last": last, "C": x}[order]
        assert a.strides == wanted.strides
        back = fc.cuda.asnumpy(a)
        assert back.strides == wanted.strides
        np.testing.assert_array_equal(back, x)
    assert fc.cuda.empty((2, 3, 5, 7), order="channels_last").strides == last.strides
    with pytest.raises(ValueError, match="order must be"):
        fc.cuda.asarray(x, order="F")


def test_asarray_shares_and_never_casts_silently() -> None:
    a = fc.cuda.asarray(numbers((3, 4)))
    assert fc.cuda.asarray(a) is a
    assert fc.cuda.shares_memory(a, a[1:])
    assert not fc.cuda.shares_memory(a[:, ::2], a[:, 1::2])
    with pytest.raises(TypeError, match=r"float64.*dtype='float32'"):
        fc.cuda.asarray(np.ones(3))
    assert fc.cuda.asarray([1.5, 2], dtype="float32").dtype == np.float32
    with pytest.raises(TypeError, match="int32"):
        fc.cuda.empty(3, np.int32)


def test_nothing_is_copied_to_the_host_silently() -> None:
    a = fc.cuda.zeros((2, 3))
    with pytest.raises(TypeError, match="asnumpy"):
        np.asarray(a)
    assert "shape=(2, 3)" in repr(a)
    assert "float32" in repr(a)
    with pytest.raises(TypeError, match="not an array"):
        fc.cuda.asnumpy([1, 2])


def test_pinned_memory_and_asynchronous_copies() -> None:
    host = fc.cuda.pinned((4, 5), np.float16)
    assert host.shape == (4, 5)
    assert host.flags.writeable
    host[:] = numbers((4, 5), "float16")
    a = fc.cuda.asarray(host)
    out = fc.cuda.pinned((4, 5), "float16")
    assert fc.cuda.asnumpy(a, out, wait=False) is out
    fc.cuda.synchronize()
    np.testing.assert_array_equal(out, host)
    with pytest.raises(ValueError, match="asnumpy: out has shape"):
        fc.cuda.asnumpy(a, out[:2])


# ---- bfloat16 ------------------------------------------------------------------------------------


def test_bfloat16_through_float32() -> None:
    x = np.array([0, 1, -2.5, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.4e38, np.inf, np.nan], np.float32)
    a = fc.cuda.asarray(x, dtype="bfloat16")
    assert a.dtype == fc.cuda.bfloat16
    assert (a.dtype.name, a.itemsize) == ("bfloat16", 2)
    nearest = np.array([0, 1, -2.5, 1, 1 + 2.0**-6, np.inf, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(fc.cuda.asnumpy(a.astype("float32")), nearest)


def test_bfloat16_by_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = numbers((3, 5)).astype(ml_dtypes.bfloat16)
    a = fc.cuda.asarray(x)
    assert a.dtype == x.dtype
    np.testing.assert_array_equal(fc.cuda.asnumpy(a), x)


def test_bfloat16_without_ml_dtypes() -> None:
    program = """if True:
        import sys
        sys.modules["ml_dtypes"] = None
        import fastconv as fc
        a = fc.cuda.full(3, 1.5, "bfloat16")
        assert a.dtype == "bfloat16" and a.dtype == fc.cuda.bfloat16 and a.dtype.itemsize == 2
        assert float(a[0]) == 1.5
        try:
            fc.cuda.asnumpy(a)
        except TypeError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "fastconv[cuda]" in done.stdout


# ---- views ---------------------------------------------------------------------------------------

KEYS = [
    np.s_[1], np.s_[-1], np.s_[:], np.s_[::-1], np.s_[1:2, ::2], np.s_[..., 3], np.s_[:, None, 1],
    np.s_[1, 2, 3, 4], np.s_[..., ::-3, 1:6:2], np.s_[None, ..., None], np.s_[5:1], np.s_[2:0:-1],
    np.s_[:, -2:, 10:], (),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_is_numpys(key: Any) -> None:
    x = numbers((2, 3, 5, 7))
    a = fc.cuda.asarray(x)[key]
    wanted = x[key]
    assert a.shape == wanted.shape
    assert a.flags.c_contiguous == wanted.flags.c_contiguous
    if wanted.size and 1 not in wanted.shape:
        assert a.strides == wanted.strides
    np.testing.assert_array_equal(fc.cuda.asnumpy(a), wanted)


@pytest.mark.parametrize("key", [np.s_[2], np.s_[0, 0, 0, 0, 0], np.s_[..., ...], [0], True, "x"])
def test_wrong_indices(key: Any) -> None:
    with pytest.raises((IndexError, TypeError)):
        fc.cuda.zeros((2, 3, 5, 7))[key]


def test_transposing_and_reshaping_are_numpys() -> None:
    x = numbers((2, 3, 4, 6))
    a = fc.cuda.asarray(x)
    assert a.T.strides == x.T.strides
    for axes in itertools.permutations(range(4)):
        y, b = x.transpose(axes), a.transpose(axes)
        assert b.strides == y.strides
        for shape in [(-1,), (6, -1), (2, 3, 24), (4, 1, 36), (144, 1), (2, 2, 2, 2, 3, 3)]:
            reshaped = b.reshape(shape)
            assert reshaped.shape == y.reshape(shape).shape
            is_view = np.shares_memory(y.reshape(shape), x)
            assert fc.cuda.shares_memory(reshaped, a) == is_view
            np.testing.assert_array_equal(fc.cuda.asnumpy(reshaped), y.reshape(shape))
    with pytest.raises(ValueError, match=r"cannot reshape.*\(2, 3, 4, 6\)"):
        a.reshape(5, -1)
    with pytest.raises(ValueError, match="no order of the 4 dimensions"):
        a.transpose(0, 1, 2, 2)
    assert fc.cuda.zeros((0, 3)).reshape(3, 0).shape == (3, 0)


# ---- copies of any strides -----------------------------------------------------------------------

# What the kernels tell apart: blocks, words of 16 .. 2 bytes, tiles with whole and broken edges.
SHAPES = [
    (3, 5, 4, 6),
    (2, 64, 8, 8),
    (1, 70, 9, 8),
    (2, 8, 11, 16),
    (1, 3, 13, 9),
    (2, 130, 1, 67),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("source", "target"),
    [("float32", "float32"), ("float16", "float16"), ("int64", "int64"), ("float32", "float16"),
     ("float16", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32"),
     ("bfloat16", "float16"), ("int64", "float32"), ("float32", "int64")],
)  # fmt: skip
def test_copies_from_and_to_every_memory_order(
    shape: tuple[int, ...], source: str, target: str
) -> None:
    x = np.random.default_rng(1).integers(-50, 50, shape).astype(np.float32)  # exact everywhere
    a = fc.cuda.asarray(x).astype(source)
    for axes in [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 2, 0), (0, 3, 1, 2)]:
        y = x.transpose(axes)
        for keys in [np.s_[:], np.s_[:, ::-1], np.s_[..., 1:], np.s_[:, :, 1::2]]:
            from_, wanted = a.transpose(axes)[keys], y[keys]
            for out in [
                fc.cuda.full(wanted.shape, -77, target),
                fc.cuda.full(wanted.shape, -77, target, order="channels_last"),
                fc.cuda.full((*wanted.shape[:3], wanted.shape[3] + 3), -77, target)[..., 2:-1],
            ]:
                out[...] = from_
                result = fc.cuda.asnumpy(out.astype("float32"))
                np.testing.assert_array_equal(result, wanted)


def test_copies_leave_the_neighbours_alone() -> None:
    whole = fc.cuda.full((4, 9, 8), 5)
    whole[1:3, ::2, 3:7] = fc.cuda.zeros((2, 5, 4))
    wanted = np.full((4, 9, 8), 5, np.float32)
    wanted[1:3, ::2, 3:7] = 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(whole), wanted)
    whole[..., -1] = 2
    wanted[..., -1] = 2
    whole[0] = whole[3, :1]  # broadcast
    wanted[0] = wanted[3, :1]
    np.testing.assert_array_equal(fc.cuda.asnumpy(whole), wanted)
    with pytest.raises(ValueError, match="could not broadcast"):
        whole[0] = whole[:, 0]
    with pytest.raises(TypeError, match="asarray"):
        whole[0] = np.zeros((9, 8))
    with pytest.raises(ValueError, match="read-only"):
        whole.read_only()[0] = 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64"])
def test_fill(dtype: str) -> None:
    for value, shape in itertools.product((0, 3, -1.5), ((5, 7), (4, 8), (1,), (0, 3))):
        value = int(value) if dtype == "int64" else value
        a = fc.cuda.full(shape, value, dtype)
        wanted = np.full(shape, value, np.float32)
        np.testing.assert_array_equal(fc.cuda.asnumpy(a.astype("float32")), wanted)
        a.T[1:3:2].fill(9)
        wanted.T[1:3:2].fill(9)
        np.testing.assert_array_equal(fc.cuda.asnumpy(a.astype("float32")), wanted)


def test_conversion_rounds_once_to_the_nearest() -> None:
    x = np.random.default_rng(2).normal(size=4099).astype(np.float32) * np.float32(1e-3)
    x[:8] = [0, -0.0, 65504, 65520, 70000, 6e-8, np.nan, -np.inf]
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    np.testing.assert_array_equal(fc.cuda.asnumpy(fc.cuda.asarray(x).astype("float16")), wanted)
    strided = fc.cuda.asarray(np.stack([x, x], 1))[:, 0]
    np.testing.assert_array_equal(fc.cuda.asnumpy(strided.astype("float16")), wanted)


def test_items() -> None:
    a = fc.cuda.asarray(np.array([[1.5, 2]], np.float16))
    assert a[0, 0].item() == 1.5
    assert float(a[0, 1]) == 2
    assert fc.cuda.full((), 7, "int64").item() == 7
    assert len(a) == 1
    with pytest.raises(ValueError, match="one element"):
        float(a)


# ---- other libraries -----------------------------------------------------------------------------


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


# ---- memory, streams, graphs ---------------------------------------------------------------------


def test_memory_is_counted_and_comes_back() -> None:
    gc.collect()
    before = fc.cuda.memory_stats()
    a = fc.cuda.empty((1 << 20,), "float32")
    during = fc.cuda.memory_stats()
    assert during["used"] - before["used"] >= 4 << 20
    view = a[5:]
    del a
    assert fc.cuda.memory_stats()["used"] == during["used"]
    del view
    after = fc.cuda.memory_stats()
    assert after["used"] == before["used"]
    assert after["used_peak"] >= during["used"]
    fc.cuda.release_memory()


def test_out_of_memory_says_how_much() -> None:
    with pytest.raises(MemoryError, match=r"\d+ MB asked for, \d+ MB of \d+ MB free"):
        fc.cuda.empty((1 << 44,), "float32")
    with pytest.raises(MemoryError):
        fc.cuda.empty((1 << 40, 1 << 40), "float32")
    fc.cuda.zeros(3)  # the error is not sticky


def test_streams_are_of_the_thread() -> None:
    assert core.current_stream() == 0
    seen = []
    with fc.cuda.Stream() as outer:
        assert core.current_stream() == outer.ptr
        with fc.cuda.Stream() as inner, outer:
            assert core.current_stream() == outer.ptr
            assert inner.ptr != outer.ptr
        thread = threading.Thread(target=lambda: seen.append(core.current_stream()))
        thread.start()
        thread.join()
        assert core.current_stream() == outer.ptr
        x = fc.cuda.asarray(numbers((5, 6)))
        outer.synchronize()
    assert seen == [0]
    assert core.current_stream() == 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(x.T), numbers((5, 6)).T)
    with fc.cuda.Stream(ptr=outer.ptr) as same:
        same.wait(fc.cuda.Stream())
        x.fill(1)
    np.testing.assert_array_equal(fc.cuda.asnumpy(x), 1)


def test_events_measure_time() -> None:
    begin, end = fc.cuda.Event(), fc.cuda.Event()
    begin.record()
    fc.cuda.zeros((64, 64)).T.copy()
    assert begin.elapsed(end.record()) >= 0


def test_a_captured_graph_runs_again_on_new_values() -> None:
    x = fc.cuda.asarray(numbers((6, 70, 5, 5)))
    temporary = fc.cuda.zeros(8)
    with fc.cuda.capture() as graph:
        half = x.astype("float16")
        y = half.copy("channels_last")
        half[:] = 0
        y[..., 0] = 3
        y[0, 0, 0, :2] = temporary[:2]
        del half, temporary
    for scale in (1, 2):
        x[...] = fc.cuda.asarray(numbers((6, 70, 5, 5)) * scale)
        graph.launch()
        wanted = (numbers((6, 70, 5, 5)) * scale).astype(np.float16)
        wanted[..., 0] = 3
        wanted[0, 0, 0, :2] = 0
        np.testing.assert_array_equal(fc.cuda.asnumpy(y), wanted)
    del x  # the graph keeps it
    gc.collect()
    graph.launch()
    np.testing.assert_array_equal(fc.cuda.asnumpy(y), wanted)


def test_captures_that_fail_leave_the_thread_as_it_was() -> None:
    with pytest.raises(TypeError, match="asarray"), fc.cuda.capture() as graph:
        fc.cuda.zeros(3)[...] = "x"
    with pytest.raises(RuntimeError, match="not finished"):
        graph.launch()
    with fc.cuda.capture(), pytest.raises(RuntimeError, match="already"), fc.cuda.capture():
        pass
    assert core.current_stream() == 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(fc.cuda.full(3, 2)), 2)


def test_devices() -> None:
    assert fc.cuda.device_count() >= 1
    info = fc.cuda.device_info()
    assert info["index"] == fc.cuda.current_device()
    assert info["compute_capability"] >= (7, 5)
    with pytest.raises(ValueError, match=r"no GPU 99: this machine has \d+"):
        fc.cuda.set_device(99)


def test_a_second_gpu() -> None:
    if fc.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x = fc.cuda.asarray(numbers((3, 4, 2)), device=1)
    assert (x.device, fc.cuda.current_device()) == (1, 0)
    y = fc.cuda.asarray(x.T, device=0)
    assert y.device == 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(y), numbers((3, 4, 2)).T)
    with pytest.raises(ValueError, match="different devices"):
        x[...] = y.T
