"""Pickles that want code run, that lie, or that ask for more than a small file should."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from checkpoint_files import (
    NONE,
    ONES,
    both_forms,
    call,
    dict_,
    global_,
    legacy_file,
    list_,
    number,
    numbers,
    read,
    refuses,
    simple_tensor,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
)


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
@both_forms
def test_no_code_is_run(form, name, tmp_path):
    """The error names the global; what it would have done is not done."""
    marker = tmp_path / "ran"
    content = form(dict_({"a": hostile(marker)[name]}), {})
    refuses(tmp_path, content, r"names the global '\w+[\w.]*', which no state dict needs")
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
@both_forms
def test_other_operations_are_refused(tmp_path, form, value, pattern):
    refuses(tmp_path, form(dict_({"a": value}), ONES), pattern)


FLOATS = storage("0", "Float", 2)
WRONG_TENSORS = {
    "beyond": (tensor(FLOATS, 1, (2,), (1,)), "reach element 2, but its storage has 2"),
    "huge stride": (tensor(FLOATS, 0, (2,), (2**62,)), "reach element 4611686018427387904"),
    "huge shape": (tensor(FLOATS, 0, (2**40, 2**40), (0, 0)), "more than any array"),
    "huge repetition": (tensor(FLOATS, 0, (2**40,), (0,)), "repeat elements"),
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
@both_forms
def test_wrong_tensors(tmp_path, form, name):
    value, pattern = WRONG_TENSORS[name]
    value = value if name in NAMES else dict_({"a": value})
    refuses(tmp_path, form(value, ONES), pattern)


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
@both_forms
def test_damaged_pickles(tmp_path, form, name):
    refuses(tmp_path, form(DAMAGED[name], {}), ".")


BOMBS = {
    "memo of 4 billion": dict_({"a": simple_tensor()}) + b"r\xff\xff\xff\xff",
    "tuple as a key, nested": b"}" + b")" + b"\x85" * 30_000 + text("x") + b"s",
    "a text that is not there": b"\x8d" + (50_000_000).to_bytes(8, "little"),
    "lists, nested": b"](" * 20_000 + b"e" * 20_000,
    "list in itself": b"]q\x00h\x00a",
    "dict in itself": b"}q\x00" + text("state_dict") + b"h\x00s",
    "dicts of one list": b"](" + b"".join(text(f"{n}") + b"N\x86" for n in range(2000)) + b"eq\x00"
    + (global_("collections", "OrderedDict") + b"h\x00\x85R") * 2000,
    "tensors of one long shape": b"(" + b"K\x01" * 5000 + b"tq\x00"
    + (global_("torch", "Size") + b"h\x00\x85R") * 2000,
    "a number of 200,000 digits": b"\x8b" + (100_000).to_bytes(4, "little") + b"\x7f" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@both_forms
def test_small_files_take_little_memory(tmp_path, form, name):
    """100 bytes an operation, far from what the file asks for; no crash; nothing quadratic."""
    content = form(BOMBS[name], ONES)
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            read(tmp_path, content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(content) + 3_000_000


def test_the_number_of_operations_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("fastconv.checkpoint.pickle_machine.MAX_OPERATIONS", 1000)
    refuses(tmp_path, zip_file(b"}" * 1001, {}), "more than 1000 operations")


def test_parts_that_are_no_arrays_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("fastconv.checkpoint.files.MAX_WHOLE_BYTES", 1000)
    refuses(tmp_path, legacy_file(text("x" * 2000), {}), "has 2000 bytes, more than any real file")
