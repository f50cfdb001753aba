"""Files of torch.save: both forms, nested checkpoints, and those that PyTorch itself writes."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoint_files import (
    DTYPES,
    NONE,
    ONES,
    ORDERED_DICT,
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
    state_dict,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
)
from fastconv.checkpoint import read_checkpoint


@pytest.mark.parametrize("kind", DTYPES)
@both_forms
def test_element_types(tmp_path, form, kind):
    values = np.array([0, 1, 1, 0, 1, 1]) if kind == "Bool" else np.arange(6)
    stored = values.astype(DTYPES[kind])
    if kind == "BFloat16":
        stored = (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    content = form(state_dict({"a": simple_tensor(kind=kind, shape=(2, 3))}), {"0": stored})
    a = read(tmp_path, content)["a"]
    assert a.dtype == (np.float32 if kind == "BFloat16" else np.dtype(DTYPES[kind]))
    np.testing.assert_array_equal(a, values.reshape(2, 3))
    assert a.flags.writeable
    assert a.flags.aligned


@both_forms
def test_views_of_storages(tmp_path, form):
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
    arrays = read(tmp_path, content)
    expected = values.reshape(1, 4, 2, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(arrays["last"], expected)
    assert arrays["part"].tolist() == [5, 9, 13]
    assert arrays["scalar"].shape == ()
    assert arrays["scalar"] == 23
    assert arrays["empty"].shape == (0, 3)
    assert np.shares_memory(arrays["last"], arrays["tied"])


@both_forms
def test_tensors_of_expand(tmp_path, form):
    """Strides of 0 repeat elements: views, of which all copies together are bounded."""
    floats = storage("0", "Float", 2)

    def content(*counts):
        rows = {f"t{i}": tensor(floats, 0, (n, 2), (0, 1)) for i, n in enumerate(counts)}
        return form(state_dict(rows), {"0": np.array([1, 2], np.float32)})

    (array,) = read(tmp_path, content(1000)).values()
    np.testing.assert_array_equal(array, [[1, 2]] * 1000)
    assert (array.dtype, array.strides) == (np.float32, (0, 4))
    assert len(read(tmp_path, content(*[2**20] * 8))) == 8
    refuses(tmp_path, content(*[2**20] * 9), "'t8': shape .* repeat elements: arrays that do")


def test_a_part_of_a_storage_in_a_legacy_file(tmp_path):
    part = storage("0", "Float", 6, tuple_(text("1"), number(2), number(3)))
    content = legacy_file(
        state_dict({"a": tensor(part, 1, (2,), (1,))}), {"0": np.arange(6, dtype=np.float32)}
    )
    assert read(tmp_path, content)["a"].tolist() == [3, 4]
    beyond = storage("0", "Float", 6, tuple_(text("1"), number(4), number(3)))
    content = legacy_file(
        state_dict({"a": tensor(beyond, 0, (1,), (1,))}), {"0": np.ones(6, np.float32)}
    )
    refuses(tmp_path, content, "elements 4 to 7 of 6")


def test_parameters_old_tensors_and_untyped_storages(tmp_path):
    hooks = ORDERED_DICT
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
    arrays = read(tmp_path, zip_file(state_dict(items), {**ONES, "1": bits}))
    assert arrays["parameter"].tolist() == arrays["old"].tolist() == [1, 1]
    assert (arrays["untyped"].dtype, arrays["untyped"].tolist()) == (np.float32, [-2.5])


def test_python_2(tmp_path):
    """OrderedDict as a list of pairs, byte strings as names."""
    name = b"U\x01a"
    pairs = list_(list_(name, simple_tensor()))
    content = legacy_file(call("collections", "OrderedDict", pairs), ONES)
    assert read(tmp_path, content)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "net", "module"])
@both_forms
def test_nested_checkpoints(tmp_path, form, name):
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
    assert list(read(tmp_path, content)) == ["a.weight"]


@both_forms
def test_what_is_no_state_dict(tmp_path, form):
    refuses(tmp_path, form(simple_tensor(), ONES), "holds a tensor, but a state dict")
    refuses(tmp_path, form(list_(), {}), "holds a list, but a state dict")
    content = form(dict_({"epoch": number(1), "weights": dict_({"a": simple_tensor()})}), ONES)
    refuses(
        tmp_path, content, r"no state dict is found: there are 'epoch', 'weights'.*nor under state"
    )
    assert read(tmp_path, form(dict_({}), {})) == {}


@pytest.mark.parametrize("suffix", [".pth", ".th", ".bin", ".ckpt", ".tar", ".PT"])
def test_names_of_files(tmp_path, suffix):
    assert list(read(tmp_path, zip_file(dict_({"a": simple_tensor()}), ONES), f"x{suffix}")) == [
        "a"
    ]


@both_forms
def test_every_truncation_is_noticed(tmp_path, form):
    content = form(state_dict({"a": simple_tensor(shape=(3, 5))}), {"0": np.zeros(15, np.float32)})
    for cut in range(0, len(content), 3):
        refuses(tmp_path, content[:cut], ".")


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
