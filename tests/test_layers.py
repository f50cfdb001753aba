"""What layers promise beyond numbers: state, names, modes, reprs, errors, threads, subclasses."""

from __future__ import annotations

import copy
import pickle
import threading

import fastconv as fc
import numpy as np
import pytest
from fastconv import init
from fastconv import layers as L


def small_net(seed=0):
    with init.seeded(seed):
        return L.Sequential(
            {
                "features": L.Sequential(L.Conv2d(1, 4, 3), L.BatchNorm2d(4), L.ReLU()),
                "pool": L.GlobalAvgPool2d(),
                "flatten": L.Flatten(),
                "head": L.Linear(4, 3),
            }
        )


def image(shape=(2, 1, 6, 6), seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# Names and state


def test_state_dict_names_are_torchs():
    assert list(small_net().state_dict()) == [
        "features.0.weight",
        "features.0.bias",
        "features.1.weight",
        "features.1.bias",
        "features.1.running_mean",
        "features.1.running_var",
        "features.1.num_batches_tracked",
        "head.weight",
        "head.bias",
    ]


def test_parameters_know_their_dotted_names():
    assert [p.name for p in small_net().parameters()] == [
        n for n, _ in small_net().named_parameters()
    ]


def test_state_dict_round_trip_in_both_modes():
    one, other = small_net(1), small_net(2)
    one(image())  # moves the running statistics
    other.eval()
    other.load_state_dict(one.state_dict())
    one.eval()
    np.testing.assert_array_equal(one(image()), other(image()))


def test_load_state_dict_strips_a_common_prefix():
    model = small_net(1)
    state = {f"module.net.{name}": value for name, value in small_net(2).state_dict().items()}
    model.load_state_dict(state)
    np.testing.assert_array_equal(model.head.weight.data, state["module.net.head.weight"])


def test_load_state_dict_keeps_a_prefix_that_is_its_own():
    model = L.Sequential({"features": L.Linear(2, 2)})
    model.load_state_dict({"features.weight": np.eye(2), "features.bias": np.ones(2)})
    np.testing.assert_array_equal(model.features.weight.data, np.eye(2))


def test_load_state_dict_lists_everything_and_changes_nothing():
    model = small_net()
    before = {name: value.copy() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    del state["head.bias"], state["features.0.bias"]
    state["head.weight"] = np.zeros((3, 5), np.float32)
    state["extra.weight"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="4 entries do not fit") as caught:
        model.load_state_dict(state)
    text = str(caught.value)
    assert "missing: head.bias (3,)" in text
    assert "missing: features.0.bias (4,)" in text
    assert "unexpected: extra.weight (1,)" in text
    assert "misshapen: head.weight is (3, 5), but the model has (3, 4)" in text
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_num_batches_tracked_may_be_missing():
    model = small_net()
    state = dict(model.state_dict())
    del state["features.1.num_batches_tracked"]
    model.load_state_dict(state)


def test_save_and_load_weights(tmp_path):
    one, other = small_net(1), small_net(2)
    one.save_weights(tmp_path / "net.safetensors")
    other.load_weights(tmp_path / "net.safetensors")
    for name, value in one.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], value)


def test_counts():
    assert small_net().num_parameters == 4 * 9 + 4 + 4 + 4 + 12 + 3
    assert L.Conv2d(3, 96, 11).num_parameters == 96 * (11 * 11 * 3) + 96  # F F D K + K


def test_shared_layer_is_counted_once():
    shared = L.Linear(3, 3)
    assert L.Sequential(shared, L.ReLU(), shared).num_parameters == 12


# Modes


def test_eval_keeps_nothing_and_backward_says_why():
    model = small_net().eval()
    before = {name: dict(layer.__dict__) for name, layer in model.named_layers()}
    model(image())
    for name, layer in model.named_layers():
        assert layer._saved is None
        after = {key: value for key, value in layer.__dict__.items() if key != "_packed"}
        assert after == {key: before[name][key] for key in after}
    with pytest.raises(RuntimeError, match="in eval mode"):
        model.backward(np.ones((2, 3), np.float32))


def test_backward_before_forward_names_the_layer():
    model = small_net()
    with pytest.raises(RuntimeError, match=r"Conv2d 'features\.0'.*not called yet"):
        model.features[0].backward(np.ones((2, 4, 4, 4), np.float32))


def test_data_is_read_only_in_eval_mode():
    model = small_net().eval()
    with pytest.raises(ValueError, match="read-only"):
        model.head.weight.data[0, 0] = 1
    with pytest.raises(ValueError, match=r"'head\.weight' is read-only in eval mode"):
        model.head.weight.data = np.zeros((3, 4), np.float32)
    model.train()
    model.head.weight.data[0, 0] = 1
    model.head.weight.data -= 1
    assert model.head.weight.data[0, 0] == 0


def test_eval_sees_weights_changed_in_training():
    model = L.Sequential(L.Conv2d(1, 2, 3, bias=False))
    x = image()
    first = model.eval()(x)
    model.train()
    model[0].weight.data *= 2
    np.testing.assert_array_equal(model.eval()(x), 2 * first)
    model.load_state_dict({"0.weight": model[0].weight.data * 2})
    np.testing.assert_array_equal(model(x), 4 * first)


def test_many_threads_in_eval_mode():
    model = small_net().eval()
    inputs = [image((n + 1, 1, 6 + n % 3, 7), seed=n) for n in range(8)]
    expected = [small_net().eval()(x) for x in inputs]
    failures = []

    def work(number):
        for _ in range(20):
            if not np.array_equal(model(inputs[number]), expected[number]):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_deepcopy_and_pickle_are_independent_and_keep_the_mode():
    model = small_net().eval()
    model(image())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin(image()), model(image()))
        assert not twin.head.weight.data.flags.writeable
        twin.train().head.weight.data += 1
        assert not np.array_equal(twin.head.weight.data, model.head.weight.data)


def test_to_float64():
    model = small_net()
    model(image())
    model.to(dtype="float64")
    assert {v.dtype for n, v in model.state_dict().items() if "tracked" not in n} == {
        np.dtype("f8")
    }
    assert model(image(dtype=np.float64)).dtype == np.float64
    with pytest.raises(TypeError, match="float16"):
        model.to(dtype=np.float16)
    if not fc.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda'"):
            model.to("cuda")


def test_dropout_is_off_in_eval_and_differs_from_call_to_call():
    x = np.ones((4, 100), np.float32)
    layer = L.Dropout(0.5, seed=3)
    first, second = layer(x), layer(x)
    assert not np.array_equal(first, second)
    assert set(np.unique(first)) == {0.0, 2.0}
    again = L.Dropout(0.5, seed=3)
    np.testing.assert_array_equal(again(x), first)
    again.set_extra_state({"seed": 3, "step": 1})
    np.testing.assert_array_equal(again(x), second)
    assert layer.eval()(x) is x


def test_two_dropouts_have_different_masks():
    x = np.ones((1, 200), np.float32)
    assert not np.array_equal(L.Dropout()(x), L.Dropout()(x))


# Reprs

REPRS = [
    "Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)",
    "Conv2d(4, 8, kernel_size=(3, 1), padding=((1, 0), (0, 1)), dilation=2, groups=4)",
    "Conv2d(4, 8, kernel_size=3, padding='same')",
    "ConvTranspose2d(8, 4, kernel_size=3, stride=2, padding=1, output_padding=1)",
    "MaxPool2d(3, stride=2, padding=1, ceil_mode=True)",
    "MaxPool2d(2)",
    "AvgPool2d((2, 3), count_include_pad=False)",
    "AdaptiveAvgPool2d(6)",
    "GlobalAvgPool2d()",
    "BatchNorm2d(16, eps=0.001)",
    "LocalResponseNorm(5, alpha=0.0005, k=2.0)",
    "ReLU()",
    "Softmax()",
    "Linear(84, 10, bias=False)",
    "Flatten()",
    "PositionBias(1, 19, 19)",
    "Dropout(0.25, seed=4)",
    "CrossEntropyLoss(label_smoothing=0.1)",
]


@pytest.mark.parametrize("text", REPRS)
def test_repr_round_trip(text):
    layer = eval(text, vars(L).copy())
    assert repr(layer) == text


def test_repr_of_a_tree():
    assert repr(L.Sequential(L.Residual(L.ReLU()), L.Flatten())) == (
        "Sequential(\n  (0): Residual(\n    (body): ReLU()\n  )\n  (1): Flatten()\n)"
    )


# Errors


def test_error_names_layer_argument_and_shapes_so_far():
    model = L.Sequential({"block": L.Sequential(L.Conv2d(1, 4, 3), L.Conv2d(5, 2, 3))})
    with pytest.raises(ValueError, match=r"^Conv2d 'block\.1': ") as caught:
        model(image())
    text = str(caught.value)
    assert "5" in text
    assert "4" in text
    assert text.endswith("Shapes so far: input (2, 1, 6, 6) -> 0 (2, 4, 4, 4)")
    assert text.count("Conv2d 'block.1'") == 1


def test_error_of_backward_names_the_layer():
    model = L.Sequential({"conv": L.Conv2d(1, 4, 3)})
    model(image())
    with pytest.raises(ValueError, match=r"^Conv2d 'conv': "):
        model.backward(np.ones((2, 4, 9, 9), np.float32))


def test_wrong_dtype_names_the_layer():
    with pytest.raises(TypeError, match=r"^Conv2d 'features\.0': .*float64"):
        small_net()(image(dtype=np.float64))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: L.Conv2d(4, 6, 3, groups=3), "groups=3 does not divide in_channels=4"),
        (lambda: L.Conv2d(0, 6, 3), "in_channels=0"),
        (lambda: L.Conv2d(4, 6, 0), "kernel_size=0"),
        (lambda: L.Conv2d(4, 6, 3, stride=(1, 0)), r"stride=\(1, 0\)"),
        (lambda: L.Dropout(1.5), "p=1.5"),
        (lambda: L.CrossEntropyLoss(reduction="average"), "reduction='average'"),
        (lambda: L.Highway(L.ReLU(), L.Sequential(L.Sigmoid())), "applies the sigmoid itself"),
        (lambda: L.Concat(), "at least one branch"),
        (lambda: L.Sequential({"a.b": L.ReLU()}), "contain a dot"),
        (lambda: L.Sequential({"train": L.ReLU()}), "is taken"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_sequential_takes_layers_only():
    with pytest.raises(TypeError, match="'1' is a int"):
        L.Sequential(L.ReLU(), 3)


def test_residual_and_concat_say_which_shapes_differ():
    with pytest.raises(
        ValueError, match=r"body gives \(2, 4, 4, 4\), but the input has \(2, 1, 6, 6\)"
    ):
        L.Residual(L.Conv2d(1, 4, 3))(image())
    with pytest.raises(ValueError, match="differ beyond the channels"):
        L.Concat(L.Conv2d(1, 4, 3), L.Conv2d(1, 4, 1))(image())


# Layouts and composites


def test_sequential_hands_on_channels_last():
    seen = []

    class Look(L.Layer):
        def forward(self, x):
            seen.append(x.transpose(0, 2, 3, 1).flags.c_contiguous)
            return x

    L.Sequential(Look())(image((2, 3, 4, 5)))
    assert seen == [True]


def test_order_of_memory_changes_no_value():
    model = L.Sequential(L.Conv2d(3, 4, 3), L.MaxPool2d(2), L.Flatten())
    x = image((2, 3, 6, 6))
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(model(x), model(last))


def test_flatten_is_in_logical_order():
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(L.Flatten()(last)[0], np.arange(24))


def test_slices_share_layers_and_keep_names():
    model = small_net()
    head = model[1:]
    assert list(head._layers) == ["pool", "flatten", "head"]
    assert head[-1] is model["head"]
    assert model.head.weight.name == "head.weight"


def test_highway_at_a_closed_gate_carries_the_input():
    layer = L.Highway(L.Linear(3, 3), L.Linear(3, 3))
    layer.gate.weight.data = np.zeros((3, 3))
    layer.gate.bias.data -= 200
    x = image((2, 3))
    np.testing.assert_array_equal(layer(x), x)


# Subclasses


class Twice(L.Layer):
    """No super().__init__(), no need_input, composed by hand."""

    def __init__(self):
        self.first = L.Linear(3, 3)
        self.second = L.Linear(3, 3)
        self.scale = L.Parameter(np.full((1,), 2, np.float32))

    def forward(self, x):
        y = self.second(self.first(x))
        self.save(y)
        return y * self.scale.data

    def backward(self, grad_y):
        (y,) = self.saved()
        self.scale.accumulate((grad_y * y).sum(keepdims=True).reshape(1))
        return self.first.backward(self.second.backward(grad_y * self.scale.data))


def test_subclass_registers_parameters_and_works_in_sequential():
    model = L.Sequential(Twice(), L.ReLU())
    assert [n for n, _ in model.named_parameters()] == [
        "0.scale",
        "0.first.weight",
        "0.first.bias",
        "0.second.weight",
        "0.second.bias",
    ]
    y = model(image((2, 3)))
    assert model.backward(np.ones_like(y), need_input=False).shape == (2, 3)
    with pytest.raises(ValueError, match=r"^Linear '0\.first': "):
        model(image((2, 4)))


def test_replacing_and_deleting_attributes_updates_the_registry():
    layer = L.Linear(3, 3)
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]
    del layer.weight
    assert layer.num_parameters == 0


def test_a_replaced_layer_keeps_its_place():
    model = L.Sequential({"a": L.Conv2d(1, 2, 3), "pool": L.MaxPool2d(2), "b": L.Conv2d(2, 2, 3)})
    model.pool = L.AvgPool2d(2)
    assert [type(layer).__name__ for layer in model] == ["Conv2d", "AvgPool2d", "Conv2d"]
    model.a.weight = fc.Parameter(np.ones((2, 1, 3, 3), np.float32))
    assert [name for name, _ in model.a.named_parameters()] == ["weight", "bias"]
    model.pool = None
    assert len(model) == 2


def test_parameter_rules():
    source = np.ones((2, 2), np.float32)
    view = source[:1]
    held = L.Parameter(view)
    source[:] = 5
    assert held.data[0, 0] == 1  # a view is copied
    with pytest.raises(TypeError, match="int64"):
        L.Parameter(np.arange(3))
    with pytest.raises(ValueError, match=r"shape \(1, 2\), but the value has shape \(3,\)"):
        held.data = np.ones(3, np.float32)
    assert L.Parameter([1, 2]).dtype == np.float32


def test_initial_weights_are_seeded_and_scaled():
    with init.seeded(5):
        one = L.Conv2d(64, 64, 3)
    with init.seeded(5):
        two = L.Conv2d(64, 64, 3)
    np.testing.assert_array_equal(one.weight.data, two.weight.data)
    assert abs(one.weight.data.std() - np.sqrt(2 / 576)) < 0.001
    assert not one.bias.data.any()
    assert abs(init.xavier_uniform((300, 100)).std() - np.sqrt(2 / 400)) < 0.001
    assert init.he_uniform((10, 6)).max() <= 1
    assert abs(init.normal((200, 200), std=0.5, mean=1.0).mean() - 1) < 0.02
