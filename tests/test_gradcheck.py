"""fc.gradcheck: what is right passes, what is wrong fails, kinks are neither."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import layers, reference
from fastconv.gradient_check import gradcheck


def relu(x):
    y = np.maximum(x, 0)
    return y, lambda grad: grad * (y > 0)


def test_smooth_function_passes(rng):
    def f(a, b):
        return np.sin(a) @ b, lambda g: (np.cos(a) * (g @ b.T), np.sin(a).T @ g)

    report = gradcheck(f, (rng.normal(size=(3, 4)), rng.normal(size=(4, 2))))
    assert report
    assert report.passed
    assert [array.compared for array in report.arrays] == [12, 8]
    assert report.kinks == 0


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.001])
def test_wrong_gradient_fails(factor, rng):
    report = gradcheck(lambda x: (x**3, lambda g: factor * 3 * x**2 * g), rng.normal(size=7))
    assert not report
    assert len(report.arrays[0].mismatches) == 7
    assert "FAIL input 0 (7,)" in str(report)


def test_one_wrong_element_is_named(rng):
    def f(x):
        def backward(grad):
            wrong = 2 * x * grad
            wrong[1, 2] += 0.5
            return wrong

        return x * x, backward

    report = gradcheck(f, rng.normal(size=(3, 4)))
    (mismatch,) = report.arrays[0].mismatches
    assert mismatch.index == (1, 2)
    assert mismatch.analytic - mismatch.numeric == pytest.approx(0.5)
    assert "input 0[1, 2]" in str(report)


def test_nan_gradient_fails():
    assert not gradcheck(lambda x: (x * x, lambda g: g * np.nan), np.ones(3))


def test_kinks_are_skipped_and_counted():
    report = gradcheck(relu, np.array([0.0, 1.0, -1.0, 2e-9, -3e-9]))
    assert report
    assert report.arrays[0].compared == 2
    assert report.kinks == 3
    assert "3 kinks skipped" in str(report)


def test_a_kink_near_by_is_stepped_around():
    report = gradcheck(relu, np.array([3e-7, -4e-8]))
    assert report
    assert report.arrays[0].compared == 2


def test_a_kink_excuses_only_what_lies_between_the_sides():
    def f(x):
        return np.maximum(x, 0), lambda grad: 1.5 * grad * np.ones_like(x)

    report = gradcheck(f, np.array([0.0, 0.0]))
    assert not report
    assert report.kinks == 0


def test_a_check_that_compared_nothing_is_not_passed():
    assert not gradcheck(relu, np.zeros(4))
    assert gradcheck(relu, np.zeros((0, 4)))  # except that there is nothing to compare


def test_a_function_that_changes_from_call_to_call_does_not_pass(rng):
    def f(x):
        mask = rng.random(x.shape) < 0.5
        return x * mask, lambda grad: grad * mask

    assert not gradcheck(f, np.ones(20))


def test_integers_and_none_are_not_checked(rng):
    target = np.array([0, 2])

    def loss(logits, target, unused):
        y = reference.cross_entropy(logits, target)
        return y, lambda g: (
            reference.cross_entropy_backward(logits, target, grad_output=g),
            None,
            None,
        )

    report = gradcheck(loss, (rng.normal(size=(2, 3)), target, np.ones(2)))
    assert report
    assert [array.name for array in report.arrays] == ["input 0"]


def test_several_outputs(rng):
    def f(x):
        return (x * x, np.cos(x)), lambda grads: 2 * x * grads[0] - np.sin(x) * grads[1]

    assert gradcheck(f, rng.normal(size=5))


def test_large_arrays_are_sampled(rng):
    report = gradcheck(lambda x: (x * x, lambda g: 2 * x * g), rng.normal(size=1000))
    assert report.arrays[0].compared == 256
    report = gradcheck(
        lambda x: (x * x, lambda g: 2 * x * g), rng.normal(size=300), max_elements=None
    )
    assert report.arrays[0].compared == 300


def test_inputs_are_left_alone(rng):
    x = rng.normal(size=(3, 4))[:, ::-1]
    before = x.copy()
    gradcheck(lambda x: (x * x, lambda g: 2 * x * g), x)
    np.testing.assert_array_equal(x, before)


def test_float32_is_refused():
    with pytest.raises(TypeError, match="input 0 is float32"):
        gradcheck(relu, np.ones(3, np.float32))
    layer = layers.Conv2d(1, 2, 3)  # says so before a function that takes one dtype does
    with pytest.raises(TypeError, match=r"gradcheck: input 0 is float32; differences need float64"):
        gradcheck(layer, np.ones((1, 1, 4, 4), np.float32))
    with pytest.raises(TypeError, match=r"gradcheck: weight is float32"):
        gradcheck(layer, np.ones((1, 1, 4, 4)))


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"input 0 has shape \(3,\), its gradient \(2,\)"):
        gradcheck(lambda x: (x, lambda g: g[:2]), np.ones(3))
    with pytest.raises(ValueError, match="1 gradients for 2 inputs"):
        gradcheck(lambda x, y: (x * y, lambda g: g * y), (np.ones(3), np.ones(3)))


class Parameter:
    def __init__(self, data, name=None):
        self.data, self.grad, self.name = data, np.full(data.shape, 7.0), name


class Affine:
    """The smallest layer there is; `error` spoils the gradient of its bias."""

    def __init__(self, rng, error=0.0):
        self.weight = Parameter(rng.normal(size=(4, 3)), "weight")
        self.bias = Parameter(rng.normal(size=4))
        self.error = error

    def parameters(self):
        return [self.weight, self.bias]

    def __call__(self, x):
        self.x = x.copy()
        return x @ self.weight.data.T + self.bias.data

    def backward(self, grad):
        self.weight.grad += grad.T @ self.x
        self.bias.grad += grad.sum(axis=0) + self.error
        return grad @ self.weight.data


def test_layers_and_their_parameters(rng):
    layer = Affine(rng)
    report = gradcheck(layer, rng.normal(size=(5, 3)))
    assert report, report
    assert [array.name for array in report.arrays] == ["input 0", "weight", "parameter 1"]
    assert (layer.weight.grad == 7).all()  # as it was before


def test_a_layer_with_a_wrong_parameter_gradient_fails(rng):
    report = gradcheck(Affine(rng, error=0.1), rng.normal(size=(5, 3)))
    assert [array.passed for array in report.arrays] == [True, True, False]


def test_frozen_parameters_are_not_compared(rng):
    layer = fc.layers.Linear(3, 4).to(dtype="float64")
    layer.weight.requires_grad = False
    report = gradcheck(layer, rng.normal(size=(5, 3)))
    assert report, report
    assert [array.name for array in report.arrays] == ["input 0", "bias"]
