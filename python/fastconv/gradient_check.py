"""Hold an analytic gradient against central differences, in float64.

With outputs y_i, fixed random weights v_i and L = sum of v_i y_i, the analytic gradient dL/dx is
what backward(v) gives. For each element x_j (all of them, or a sample) and a small step h:

    numeric = (L(x_j + h) - L(x_j - h)) / (2 h)         error h^2 L''' / 6 + rounding eps |y| / h
    left    = (L(x_j) - L(x_j - h)) / h                 right = (L(x_j + h) - L(x_j)) / h

Kinks. Where L has a corner within h of x_j (relu at 0, a tie in max pooling) no derivative exists
to compare with. Left and right then differ by the corner's jump, and a correct backward gives a
value between the two. Such an element is retried with smaller steps; if the corner stays, it is
counted as a kink instead of a comparison. A gradient outside of [left, right] is an error at a kink
too, and a check that compared nothing is not passed.

Source of the step: W. Press et al., "Numerical Recipes", 5.7: h near eps^(1/3) for values near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Forward: TypeAlias = Callable[[], tuple[Array, ...]]
Checked: TypeAlias = tuple[str, Array, Array]  # name, array, its analytic gradient

STEPS = (1e-6, 1e-7, 1e-8)  # the smaller ones only to get away from a kink


class LayerLike(Protocol):
    """What `gradcheck` needs of a layer."""

    def __call__(self, *inputs: Array) -> Any: ...
    def backward(self, grad_output: Any) -> Any: ...
    def parameters(self) -> Any: ...


@dataclass(frozen=True)
class Mismatch:
    """One element whose analytic gradient is not the numeric one."""

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float

    def __str__(self) -> str:
        place = f"{self.name}[{', '.join(map(str, self.index))}]"
        difference = self.analytic - self.numeric
        return (
            f"{place}: analytic {self.analytic:.6g}, numeric {self.numeric:.6g}, "
            f"difference {difference:.3g}"
        )


@dataclass
class ArrayReport:
    """What came of one array's elements."""

    name: str
    shape: tuple[int, ...]
    compared: int = 0
    kinks: int = 0
    largest_error: float = 0.0
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No mismatch, and something was compared (an empty array has nothing to compare)."""
        return not self.mismatches and (self.compared > 0 or 0 in self.shape)

    def __str__(self) -> str:
        size = int(np.prod(self.shape))
        text = f"{'ok  ' if self.passed else 'FAIL'} {self.name} {self.shape}: "
        text += f"{self.compared} of {size} elements compared, {self.kinks} kinks skipped, "
        text += f"largest error {self.largest_error:.1e}"
        if self.mismatches:
            worst = max(self.mismatches, key=lambda m: abs(m.analytic - m.numeric))
            text += f"\n     {len(self.mismatches)} wrong, the worst {worst}"
        return text


@dataclass(frozen=True)
class GradcheckReport:
    """The result of `gradcheck`: true if every gradient agreed; `str` gives a line an array."""

    arrays: tuple[ArrayReport, ...]

    @property
    def passed(self) -> bool:
        """Whether every array's gradient agreed."""
        return all(array.passed for array in self.arrays)

    @property
    def kinks(self) -> int:
        """Elements skipped because a kink is within the step."""
        return sum(array.kinks for array in self.arrays)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        head = f"gradcheck {'passed' if self.passed else 'FAILED'}"
        return "\n".join([head, *(f"  {array}" for array in self.arrays)])


def gradcheck(
    f: Callable[..., tuple[Any, Callable[..., Any]]] | LayerLike,
    inputs: Array | Sequence[Array],
    *,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    max_elements: int | None = 256,
    seed: int = 0,
) -> GradcheckReport:
    """Compare the analytic gradient of a function or layer with central differences.

    Parameters
    ----------
    f : function or layer
        A function is called as `output, backward = f(*inputs)`, and `backward(grad_output)` gives
        one gradient for each input, None for one not to be checked (a bare array where there is
        one input). A layer (anything with `backward` and `parameters`) is called as
        `y = layer(*inputs)`, then `layer.backward(grad_y)`; its parameters' `.data` are checked
        against their `.grad` as well, but for those with `requires_grad=False`. Outputs may be a
        tuple; then so is grad_output. Either must give the same output when called again.
    inputs : array or sequence of arrays
        float64; arrays of integers are passed on and not checked.
    rtol, atol : float
        An element agrees if |analytic - numeric| <= atol + rtol * max(|analytic|, |numeric|).
    max_elements : int or None
        At most so many elements of each array, drawn at random; None: all.
    seed : int
        Of the random weights and of the draw.

    Returns
    -------
    GradcheckReport
        True if all agree. `print` it, or `assert report, report`.

    Raises
    ------
    TypeError
        If an input or a parameter is float32: differences need float64.
    ValueError
        If a gradient's shape is not that of what it is the gradient of.

    Examples
    --------
    >>> import numpy as np
    >>> def square(x):
    ...     return x * x, lambda grad_output: 2 * x * grad_output
    >>> bool(gradcheck(square, np.array([1.0, 2.0, 3.0])))
    True
    >>> def wrong(x):
    ...     return x * x, lambda grad_output: x * grad_output
    >>> print(gradcheck(wrong, np.array([1.0])))
    gradcheck FAILED
      FAIL input 0 (1,): 1 of 1 elements compared, 0 kinks skipped, largest error 1.3e-01
         1 wrong, the worst input 0[0]: analytic 0.12573, numeric 0.25146, difference -0.126
    """
    if isinstance(inputs, np.ndarray):
        inputs = (inputs,)
    copies = tuple(np.array(x, order="K") for x in inputs)
    rng = np.random.default_rng(seed)
    is_layer = hasattr(f, "backward") and hasattr(f, "parameters")
    for i, copy in enumerate(copies):
        if copy.dtype.kind == "f":
            _check_dtype(f"input {i}", copy)
    loss, arrays = (_layer if is_layer else _function)(f, copies, rng)
    reports = []
    for name, array, gradient in arrays:
        _check_array(name, array, gradient)
        report = ArrayReport(name, array.shape)
        for index in _draw(array.shape, max_elements, rng):
            _compare(report, array, index, float(gradient[index]), loss, rtol, atol)
        reports.append(report)
    return GradcheckReport(tuple(reports))


class _Loss:
    """L = sum of v_i y_i with fixed random v."""

    def __init__(self, forward: Forward, output: Any, rng: np.random.Generator) -> None:
        self.forward = forward
        self.several = isinstance(output, (tuple, list))
        # Copies, here and below: a layer may return the same buffer each time.
        self.middle = tuple(np.array(y) for y in _as_tuple(output))
        self.weights = tuple(np.asarray(rng.standard_normal(y.shape)) for y in self.middle)

    @property
    def grad_output(self) -> Any:
        """What backward is called with."""
        return self.weights if self.several else self.weights[0]

    def change(self, array: Array, index: tuple[int, ...], step: float) -> float:
        """(L(x_j + step) - L(x_j)) / step, where x_j is put back afterwards."""
        value = array[index]
        try:
            array[index] = value + step
            actual_step = float(array[index] - value)
            moved = [np.array(y) for y in self.forward()]
        finally:
            array[index] = value
        # Differences of outputs before the weighted sum: less cancels than between two sums.
        terms = zip(moved, self.middle, self.weights, strict=True)
        return sum(float(np.sum((y - middle) * v)) for y, middle, v in terms) / actual_step


def _function(
    f: Any, inputs: tuple[Array, ...], rng: np.random.Generator
) -> tuple[_Loss, list[Checked]]:
    """The loss, and each input to be checked with its gradient."""
    output, backward = f(*inputs)
    loss = _Loss(lambda: _as_tuple(f(*inputs)[0]), output, rng)
    return loss, _pair_up(inputs, backward(loss.grad_output))


def _layer(
    layer: Any, inputs: tuple[Array, ...], rng: np.random.Generator
) -> tuple[_Loss, list[Checked]]:
    """The same for a layer and its parameters that are not frozen, whose gradients are left as they
    were."""
    parameters = [p for p in layer.parameters() if getattr(p, "requires_grad", True)]
    for i, parameter in enumerate(parameters):  # before a kernel that takes one dtype does
        _check_dtype(_name_of(parameter, i), parameter.data)
    before = [None if p.grad is None else np.array(p.grad) for p in parameters]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad[...] = 0
    loss = _Loss(lambda: _as_tuple(layer(*inputs)), layer(*inputs), rng)
    arrays = _pair_up(inputs, layer.backward(loss.grad_output))
    for i, (parameter, old) in enumerate(zip(parameters, before, strict=True)):
        name = _name_of(parameter, i)
        if parameter.grad is None:
            raise ValueError(f"gradcheck: backward gave {name} no gradient")
        arrays.append((name, parameter.data, np.array(parameter.grad)))
        parameter.grad[...] = 0 if old is None else old
    return loss, arrays


def _pair_up(inputs: tuple[Array, ...], gradients: Any) -> list[Checked]:
    """(name, input, gradient) of each floating input whose gradient is not None."""
    floating = [i for i, x in enumerate(inputs) if x.dtype.kind == "f"]
    given = _as_tuple(gradients)
    if len(given) == len(inputs):
        given = tuple(given[i] for i in floating)
    if len(given) != len(floating):
        raise ValueError(f"gradcheck: {len(given)} gradients for {len(inputs)} inputs")
    return [
        (f"input {i}", inputs[i], np.array(gradient))
        for i, gradient in zip(floating, given, strict=True)
        if gradient is not None
    ]


def _name_of(parameter: Any, index: int) -> str:
    return str(getattr(parameter, "name", None) or f"parameter {index}")


def _check_dtype(name: str, array: Any) -> None:
    if array.dtype != np.float64:
        raise TypeError(f"gradcheck: {name} is {array.dtype}; differences need float64")


def _check_array(name: str, array: Array, gradient: Array) -> None:
    _check_dtype(name, array)
    if gradient.shape != array.shape:
        raise ValueError(
            f"gradcheck: {name} has shape {array.shape}, its gradient {gradient.shape}"
        )


def _compare(
    report: ArrayReport,
    array: Array,
    index: tuple[int, ...],
    analytic: float,
    loss: _Loss,
    rtol: float,
    atol: float,
) -> None:
    """Compare one element and write down what came of it."""
    for step in STEPS:
        scaled = step * max(1.0, abs(float(array[index])))
        left, right = loss.change(array, index, -scaled), loss.change(array, index, scaled)
        numeric = (left + right) / 2
        # Rounding grows as the step shrinks.
        tolerance = atol * STEPS[0] / step + rtol * max(abs(analytic), abs(numeric))
        error = abs(analytic - numeric)
        low, high = min(left, right), max(left, right)
        if error <= tolerance or high - low <= tolerance:  # it agrees, or no kink excuses it
            break
    else:
        if low - tolerance <= analytic <= high + tolerance:
            report.kinks += 1
            return
    report.compared += 1
    report.largest_error = max(report.largest_error, error)
    if not error <= tolerance:  # NaN is an error too
        report.mismatches.append(Mismatch(report.name, index, analytic, numeric))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _draw(
    shape: tuple[int, ...], most: int | None, rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """Indices of all elements, or of a random sample of them."""
    size = int(np.prod(shape))
    if most is None or size <= most:
        yield from np.ndindex(*shape)
        return
    for place in np.sort(rng.choice(size, most, replace=False)):
        yield tuple(int(i) for i in np.unravel_index(place, shape))
