"""Files of torch.save: both forms, nested checkpoints, and files that lie or want code run."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
import warnings
import zipfile

import checkpoint_files as make
import numpy as np
import pytest
from checkpoint_files import (
    DTYPES,
    NONE,
    call,
    dict_,
    global_,
    legacy_file,
    list_,
    number,
    numbers,
    pickled,
    simple_tensor,
    state_dict,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
)
from fastconv.checkpoint import read_checkpoint

FORMS = {"zip": zip_file, "legacy": legacy_file}
ONES = {"0": np.ones(2, np.float32)}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a .pt file."""

    def of(content, name="x.pt"):
        (tmp_path / name).write_bytes(content)
        return read_checkpoint(tmp_path / name)

    return of


def refuses(read, content, pattern, name="x.pt"):
    with pytest.raises(ValueError, match=pattern) as caught:
        read(content, name)
    assert name in str(caught.value)


@pytest.mark.parametrize("kind", DTYPES)
def test_element_types(read, form, kind):
    values = np.array([0, 1, 1, 0, 1, 1]) if kind == "Bool" else np.arange(6)
    stored = values.astype(DTYPES[kind])
    if kind == "BFloat16":
        stored = (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    content = form(state_dict({"a": simple_tensor(kind=kind, shape=(2, 3))}), {"0": stored})
    a = read(content)["a"]
    assert a.dtype == (np.float32 if kind == "BFloat16" else np.dtype(DTYPES[kind]))
    np.testing.assert_array_equal(a, values.reshape(2, 3))
    assert a.flags.writeable
    assert a.flags.aligned


def test_views_of_storages(read, form):
    """Offsets, strides (channels last), axes of one element with any stride; shared memory."""
    values = np.arange(24, dtype=np.float32)
    whole = storage("7", "Float", 24)
    content = form(
        state_dict(
            {
                "last": tensor(whole, 0, (1, 3, 4, 2), (2**62, 1, 6, 3)),
                "tied": tensor(whole, 0, (24,), (1,)),
                "part": tensor(whole, 5, (3,), (4,)),
                "scalar": tensor(whole, 23, (), ()),
                "empty": tensor(storage("8", "Float", 0), 0, (0, 3), (3, 1)),
            }
        ),
        {"7": values, "8": np.empty(0, np.float32)},
    )
    arrays = read(content)
    expected = values.reshape(1, 4, 2, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(arrays["last"], expected)
    assert arrays["part"].tolist() == [5, 9, 13]
    assert arrays["scalar"].shape == ()
    assert arrays["scalar"] == 23
    assert arrays["empty"].shape == (0, 3)
    assert np.shares_memory(arrays["last"], arrays["tied"])


def test_a_part_of_a_storage_in_a_legacy_file(read):
    part = storage("0", "Float", 6, tuple_(text("1"), number(2), number(3)))
    content = legacy_file(
        state_dict({"a": tensor(part, 1, (2,), (1,))}), {"0": np.arange(6, dtype=np.float32)}
    )
    assert read(content)["a"].tolist() == [3, 4]
    beyond = storage("0", "Float", 6, tuple_(text("1"), number(4), number(3)))
    content = legacy_file(
        state_dict({"a": tensor(beyond, 0, (1,), (1,))}), {"0": np.ones(6, np.float32)}
    )
    refuses(read, content, "elements 4 to 7 of 6")


def test_parameters_old_tensors_and_untyped_storages(read):
    hooks = make.ORDERED_DICT
    bits = np.array([0x3F80, 0xC020], "<u2")
    items = {
        "parameter": call(
            "torch._utils", "_rebuild_parameter", simple_tensor("0"), number(True), hooks
        ),
        "old": tensor(storage("0", "Float", 2), 0, (2,), (1,), rebuild="_rebuild_tensor"),
        "untyped": tensor(
            storage("1", "UntypedStorage", 4),
            1,
            (1,),
            (1,),
            rebuild="_rebuild_tensor_v3",
            extra=[global_("torch", "bfloat16")],
        ),
    }
    arrays = read(zip_file(state_dict(items), {**ONES, "1": bits}))
    assert arrays["parameter"].tolist() == arrays["old"].tolist() == [1, 1]
    assert (arrays["untyped"].dtype, arrays["untyped"].tolist()) == (np.float32, [-2.5])


def test_python_2(read):
    """OrderedDict as a list of pairs, byte strings as names."""
    name = b"U\x01a"
    pairs = list_(list_(name, simple_tensor()))
    content = legacy_file(call("collections", "OrderedDict", pairs), ONES)
    assert read(content)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "net", "module"])
def test_nested_checkpoints(read, form, name):
    """With what else a training program saves; keys that are no text are left out."""
    other = {
        "epoch": number(3),
        "lr": b"G" + np.array(0.5, ">f8").tobytes(),
        "optimizer": b"}(" + number(0) + dict_({"step": number(1)}) + b"u",
        "size": call("torch", "Size", numbers((2, 3))),
        "dtype": global_("torch", "float32"),
        "args": list_(NONE, text("x")),
    }
    content = form(dict_({**other, name: state_dict({"a.weight": simple_tensor()})}), ONES)
    assert list(read(content)) == ["a.weight"]


def test_what_is_no_state_dict(read, form):
    refuses(read, form(simple_tensor(), ONES), "holds a tensor, but a state dict")
    refuses(read, form(list_(), {}), "holds a list, but a state dict")
    content = form(dict_({"epoch": number(1), "weights": dict_({"a": simple_tensor()})}), ONES)
    refuses(read, content, r"no state dict is found: there are 'epoch', 'weights'.*nor under state")
    assert read(form(dict_({}), {})) == {}


@pytest.mark.parametrize("suffix", [".pth", ".th", ".bin", ".ckpt", ".tar", ".PT"])
def test_names_of_files(read, suffix):
    assert list(read(zip_file(dict_({"a": simple_tensor()}), ONES), f"x{suffix}")) == ["a"]


def hostile(marker):
    """Values that would make the file `marker` if anything of them were run."""
    touch, write = text(f"touch {marker}"), text(f"open({str(marker)!r}, 'w')")
    return {
        "a command": call("posix", "system", touch),
        "eval": call("builtins", "eval", write),
        "eval of Python 2": call("__builtin__", "eval", write),
        "getattr": call("builtins", "getattr", global_("torch", "Size"), text("mro")),
        "torch.load": call("torch", "load", text(str(marker))),
        "a class": global_("torch.nn.modules.conv", "Conv2d") + b")\x81",
        "a number of NumPy": call("numpy.core.multiarray", "scalar"),
        "an attribute of what is allowed": global_("collections", "OrderedDict.fromkeys"),
        "a module that looks allowed": call("collections.abc", "OrderedDict"),
        "unused": call("posix", "system", touch) + b"0" + dict_({}),
        "by the stack": text("posix") + text("system") + b"\x93" + tuple_(touch) + b"R",
    }


@pytest.mark.parametrize("name", hostile(""))
def test_no_code_is_run(read, form, name, tmp_path):
    """The error names the global; what it would have done is not done."""
    marker = tmp_path / "ran"
    content = form(dict_({"a": hostile(marker)[name]}), {})
    refuses(read, content, r"names the global '\w+[\w.]*', which no state dict needs")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "pattern"),
    [
        (global_("torch", "Size") + b")\x81", "operation NEWOBJ"),
        (b"(iposix\nsystem\n", "operation INST"),
        (b"\x82\x01", "operation EXT1"),
        (text("x") + b"Q", "a persistent id that is no storage"),
        (tuple_(text("module"), *[NONE] * 4) + b"Q", "no storage, such as a module"),
        (tensor(storage("0", "Float", 2), 0, (2,), (1,), extra=[dict_({"conj": number(True)})]),
         "has metadata"),
    ],
)  # fmt: skip
def test_other_operations_are_refused(read, form, value, pattern):
    refuses(read, form(dict_({"a": value}), ONES), pattern)


FLOATS = storage("0", "Float", 2)
WRONG_TENSORS = {
    "beyond": (tensor(FLOATS, 1, (2,), (1,)), "reach element 2, but its storage has 2"),
    "huge stride": (tensor(FLOATS, 0, (2,), (2**62,)), "reach element 4611686018427387904"),
    "huge shape": (tensor(FLOATS, 0, (2**40, 2**40), (0, 0)), "more than any array"),
    "huge repetition": (tensor(FLOATS, 0, (2**40,), (0,)), "repeat elements"),
    "overlapping": (tensor(FLOATS, 0, (2, 2), (1, 0)), "repeat elements"),
    "zero and huge": (tensor(FLOATS, 0, (0, 2**62), (1, 1)), "more than any array"),
    "huge offset": (tensor(FLOATS, 2**62, (1,), (1,)), "reach element"),
    "negative offset": (tensor(FLOATS, -1, (1,), (1,)), "are not whole numbers"),
    "negative stride": (tensor(FLOATS, 1, (2,), (-1,)), "are not whole numbers"),
    "negative size": (tensor(FLOATS, 0, (-1, -2), (1, 1)), "are not whole numbers"),
    "beyond 63 bits": (tensor(FLOATS, 0, (2**64,), (0,)), "are not whole numbers"),
    "a size that is true": (tensor(FLOATS, 0, (True,), (1,)), "are not whole numbers"),
    "fewer strides": (tensor(FLOATS, 0, (1, 1), (1,)), "are not whole numbers"),
    "too many axes": (tensor(FLOATS, 0, (1,) * 33, (1,) * 33), "are not whole numbers"),
    "no storage": (tensor(NONE, 0, (1,), (1,)), "without a storage"),
    "no dtype": (tensor(FLOATS, 0, (1,), (1,), rebuild="_rebuild_tensor_v3", extra=[NONE]),
                 "without a dtype"),
    "few arguments": (call("torch._utils", "_rebuild_tensor_v2", FLOATS), "with 1 arguments"),
    "parameter of none": (call("torch._utils", "_rebuild_parameter", NONE, NONE, NONE),
                          "without a tensor"),
    "size of a text": (call("torch", "Size", text("1")), "torch.Size"),
    "dict of a number": (call("collections", "OrderedDict", number(1)), "list of pairs"),
    "dict of triples": (call("collections", "OrderedDict", list_(numbers((1, 2, 3)))), "pairs"),
    "two types": (tuple_(FLOATS, storage("0", "Double", 2)), "of two types or sizes"),
    "two sizes": (tuple_(FLOATS, storage("0", "Float", 1)), "of two types or sizes"),
    "storage without a type": (
        tuple_(text("storage"), NONE, text("0"), text("cpu"), number(2)) + b"Q", "without type"),
    "storage with a long key": (simple_tensor("0" * 1001), "more than 1000 characters"),
    "storage of a negative size": (storage("0", "Float", -1), "without type, key or size"),
    "a name on two lines": (dict_({"a\nb": simple_tensor()}), "cannot be printed"),
    "a long name": (dict_({"a" * 1001: simple_tensor()}), "more than 1000 characters"),
    "half a character": (dict_({"\ud800": simple_tensor()}), "cannot be printed"),
}  # fmt: skip


NAMES = ("a name on two lines", "a long name", "half a character")


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors(read, form, name):
    value, pattern = WRONG_TENSORS[name]
    value = value if name in NAMES else dict_({"a": value})
    refuses(read, form(value, ONES), pattern)


DAMAGED = {
    "empty stack": b"R",
    "short stack": text("x") + b"\x86",
    "no mark": text("x") + b"t",
    "no memo": b"h\x05",
    "odd items": b"}(" + text("x") + b"u",
    "item of a list": b"](" + text("x") + text("y") + b"u",
    "element of a dict": b"}" + text("x") + b"a",
    "state of a list": b"]" + dict_({}) + b"b",
    "call of a dict": dict_({}) + b")R",
    "call with a list": global_("torch", "Size") + list_() + b"R",
    "global of numbers": number(1) + number(2) + b"\x93",
    "text cut short": b"X\xff\xff\xff\x7fab",
    "not UTF-8": text(b"\xff\xfe"),
    "huge bytes": b"\x8e" + (2**60).to_bytes(8, "little"),
    "huge text": b"\x8d" + (2**60).to_bytes(8, "little"),
    "number cut short": b"\x8b\xff\xff\xff\x7f",
    "unknown operation": b"\xff",
    "line without an end": b"cposix",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles(read, form, name):
    refuses(read, form(DAMAGED[name], {}), ".")


BOMBS = {
    "memo of 4 billion": dict_({"a": simple_tensor()}) + b"r\xff\xff\xff\xff",
    "tuple as a key, nested": b"}" + b")" + b"\x85" * 30_000 + text("x") + b"s",
    "lists, nested": b"](" * 20_000 + b"e" * 20_000,
    "list in itself": b"]q\x00h\x00a",
    "dict in itself": b"}q\x00" + text("state_dict") + b"h\x00s",
    "dicts of one list": b"](" + (text("k") + text("v") + b"\x86") * 2000 + b"eq\x00"
    + (global_("collections", "OrderedDict") + b"h\x00\x85R") * 2000,
    "tensors of one long shape": b"(" + b"K\x01" * 5000 + b"tq\x00"
    + (global_("torch", "Size") + b"h\x00\x85R") * 2000,
    "a number of 200,000 digits": b"\x8b" + (100_000).to_bytes(4, "little") + b"\x7f" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_take_little_memory(read, form, name):
    """100 bytes an operation, far from what the file asks for; no crash; nothing quadratic."""
    content = form(BOMBS[name], ONES)
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(content) + 3_000_000


def test_the_number_of_operations_is_bounded(read, monkeypatch):
    monkeypatch.setattr("fastconv.checkpoint.pickle_machine.MAX_OPERATIONS", 1000)
    refuses(read, zip_file(b"}" * 1001, {}), "more than 1000 operations")


def test_parts_that_are_no_arrays_are_bounded(read, monkeypatch):
    monkeypatch.setattr("fastconv.checkpoint.files.MAX_WHOLE_BYTES", 1000)
    refuses(read, legacy_file(text("x" * 2000), {}), "has 2000 bytes, more than any real file")


SIMPLE = dict_({"a": simple_tensor()})


def raw_zip(*members):
    """A zip whose members are (name, bytes), written as they come."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name that is there twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def test_zip_files_of_others(read):
    other = zip_file(SIMPLE, ONES, more=[("archive/constants.pkl", b"")])
    refuses(read, other, "TorchScript archive.*state_dict")
    refuses(read, zip_file(SIMPLE, ONES, more=[("b/data.pkl", b"")]), "holds 2 files data.pkl")
    refuses(read, zip_file(SIMPLE, ONES).replace(b"data.pkl", b"data.xyz"), "holds 0 files")
    refuses(read, zip_file(SIMPLE, ONES).replace(b"little", b"middle"), "checksum is wrong")
    refuses(read, zip_file(SIMPLE, {}), "storage '0' is missing")
    refuses(read, zip_file(SIMPLE, {"0": b"x" * 7}), "has 7 bytes, but 2 elements of F32 take 8")
    twice = raw_zip(("a/data.pkl", pickled(SIMPLE)), ("a/data.pkl", pickled(SIMPLE)))
    refuses(read, twice, "holds a name twice")


def test_big_endian_files(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled(SIMPLE))
        archive.writestr("a/byteorder", "big")
    refuses(read, file.getvalue(), "big-endian")
    refuses(read, legacy_file(SIMPLE, ONES, little=False), "big-endian")


def test_compression_is_refused(read):
    """A zip bomb: what PyTorch writes is never compressed."""
    bomb = zip_file(SIMPLE, {"0": bytes(8)}, more=[("archive/data/1", bytes(10**6))],
                    compression=zipfile.ZIP_DEFLATED)  # fmt: skip
    refuses(read, bomb, "is compressed, which torch.save never does")


def directory_entry(content, name):
    """Where the entry of `name` begins in the zip's central directory."""
    position = content.index(b"PK\1\2")
    while content[position + 46 : position + 46 + len(name)] != name:
        position = content.index(b"PK\1\2", position + 1)
    return position


def test_members_that_overlap_are_refused(read):
    """The other zip bomb: many members with the same bytes."""
    value = dict_({"a": simple_tensor("0"), "b": simple_tensor("1")})
    content = bytearray(zip_file(value, {"0": bytes(8), "1": bytes(8)}))
    first, second = (directory_entry(content, b"archive/data/%d" % n) for n in (0, 1))
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    refuses(read, bytes(content), "overlaps")


def test_members_beyond_the_file_and_paths_upwards(read, tmp_path):
    content = bytearray(zip_file(SIMPLE, ONES))
    place = directory_entry(content, b"archive/data/0")
    for at in (20, 24):  # both sizes
        content[place + at : place + at + 4] = (2**31).to_bytes(4, "little")
    refuses(read, bytes(content), "has 2147483648 bytes, but 2 elements")
    # A name is a name, not a path: nothing outside the archive is looked at.
    (tmp_path / "secret").write_bytes(bytes(8))
    value = dict_({"a": simple_tensor("../../secret")})
    refuses(read, zip_file(value, ONES), "storage '../../secret' is missing")
    inside = zip_file(value, {"../../secret": np.ones(2, np.float32)})
    assert read(inside)["a"].tolist() == [1, 1]
    assert (tmp_path / "secret").read_bytes() == bytes(8)


def test_checksums(read):
    content = zip_file(SIMPLE, ONES)
    data = np.ones(2, np.float32).tobytes()
    wrong = content.replace(data, np.zeros(2, np.float32).tobytes())
    refuses(read, wrong, "'archive/data/0' is damaged: its checksum is wrong")
    # torch.serialization.set_crc32_options(False) writes 0.
    place = directory_entry(wrong, b"archive/data/0")
    unchecked = wrong[: place + 16] + bytes(4) + wrong[place + 20 :]
    assert read(unchecked)["a"].tolist() == [0, 0]


def test_legacy_heads(read):
    refuses(read, b"", "neither a zip nor a pickle")
    refuses(read, b"hello", "neither a zip nor a pickle")
    refuses(read, bytes(257) + b"ustar" + bytes(300), "tar files")
    refuses(read, legacy_file(SIMPLE, ONES, magic=1), "without its magic number")
    refuses(read, legacy_file(SIMPLE, ONES, version=1000), "protocol is not 1001")
    refuses(read, legacy_file(SIMPLE, ONES, counts={"0": 3}), "has 3 elements, but 2 used")
    refuses(read, legacy_file(SIMPLE, ONES, counts={"0": -1}), "has -1 elements, but 2 used")
    refuses(read, legacy_file(SIMPLE, {}), "storage '0' is missing")
    unused = legacy_file(SIMPLE, {**ONES, "1": ONES["0"]})
    refuses(read, unused, "has one that is not used, or one twice")


def test_every_truncation_is_noticed(read, form):
    content = form(state_dict({"a": simple_tensor(shape=(3, 5))}), {"0": np.zeros(15, np.float32)})
    for cut in range(0, len(content), 3):
        refuses(read, content[:cut], ".")


def test_files_of_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    from collections import OrderedDict

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 3)
    )
    odd = OrderedDict(
        half=torch.arange(5.0).half(),
        brain=torch.tensor([1.5, -3e38, float("inf")]).bfloat16(),
        bits=torch.tensor([1, 2], dtype=torch.uint16),
        last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        view=torch.arange(20.0)[3:17:2],
        scalar=torch.tensor(7),
        flags=torch.tensor([True, False]),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.zeros(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    run = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    for new_form in (True, False):
        for saved, wanted in (
            (net.state_dict(), net.state_dict()),
            (odd, odd),
            (run, run["model"]),
        ):
            path = tmp_path / "x.pth"
            torch.save(saved, path, _use_new_zipfile_serialization=new_form)
            arrays = read_checkpoint(path)
            assert list(arrays) == list(wanted)
            for name, value in wanted.items():
                value = value.detach()
                value = value.float() if value.dtype == torch.bfloat16 else value
                assert arrays[name].dtype == value.numpy().dtype
                np.testing.assert_array_equal(arrays[name], value.numpy())
        torch.save(net, path, _use_new_zipfile_serialization=new_form)
        with pytest.raises(ValueError, match=r"torch\.nn\.modules\.container\.Sequential"):
            read_checkpoint(path)
