"""Parameter: an array that is learned, with its gradient.

The gradient has the data's shape, dtype and device, is allocated once, and is added to by
``Layer.backward``. Zeroing it is put off until it is read: the first gradient after ``zero_grad``
overwrites what was there, which saves a pass that writes zeros and one that reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv.layers.arithmetic import add_into
from fastconv.layers.placement import (
    FLOATING,
    device_of,
    host,
    is_floating,
    placed,
    write,
    zeros_like,
)
from fastconv.ops.devices import new, on_device


class Parameter:
    """A learned array with its gradient.

    Parameters
    ----------
    data : array_like
        float32 or float64, or a `fastconv.cuda.Array` of float32, float16 or bfloat16. An array
        that owns its memory in C order is taken over, anything else is copied; what is not an array
        becomes float32.
    name : str
        Dotted name in the model; layers set it when the parameter is assigned to an attribute.
    requires_grad : bool
        False freezes the parameter: layers do not compute its gradient, optimisers leave it alone.

    Raises
    ------
    TypeError
        If the dtype is neither float32 nor float64.

    Examples
    --------
    >>> import fastconv as fc
    >>> scale = fc.Parameter([1.0, 2.0], name="scale")
    >>> scale.grad += 1
    >>> scale.zero_grad()
    >>> scale
    Parameter('scale', shape=(2,), dtype=float32)
    """

    _grad_is_old = False  # zero_grad was called, and the zeros are not written yet
    _stretch: tuple[Any, int] | None = None  # the flat array that has the gradient, and where

    def __init__(self, data: Any, name: str = "", *, requires_grad: bool = True) -> None:
        self._data: Any = _owned(data)
        self._grad: Any = None
        self._frozen = False
        self.version = 0  # counts what load, convert and assignment wrote: float32 masters follow
        self.name = name
        self.requires_grad = requires_grad

    @property
    def data(self) -> Any:
        """The values; read-only while the layer that owns the parameter is in eval mode."""
        if self._frozen and on_device(self._data):
            return self._data.read_only()
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        if self._frozen:
            raise ValueError(
                f"parameter {self.name!r} is read-only in eval mode, because its packed form is in "
                f"use; call train() first"
            )
        if value is self._data:  # parameter.data += ... ends here
            return
        array = value if on_device(value) else np.asarray(value)
        if array.shape != self._data.shape:
            raise ValueError(
                f"parameter {self.name!r} has shape {self._data.shape}, but the value has "
                f"shape {array.shape}"
            )
        write(self._data, array)
        self.version += 1

    @property
    def grad(self) -> Any:
        """The gradient, zero at first; allocated at first use and then kept."""
        if self._grad is None:
            self._grad = zeros_like(self._data)
        elif self._grad_is_old:
            self._grad.fill(0)
        self._grad_is_old = False
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not self.grad:
            write(self.grad, value)

    @property
    def has_grad(self) -> bool:
        """Whether a gradient was ever allocated."""
        return self._grad is not None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._data.shape)

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    @property
    def size(self) -> int:
        return int(self._data.size)

    def zero_grad(self) -> None:
        """Set the gradient to zero, in the array that it has: when ``grad`` is read next, unless a
        gradient overwrites it before."""
        self._grad_is_old = self._grad is not None

    def accumulate(self, grad: Any) -> None:
        """Add ``grad`` (the data's shape) to the gradient."""
        if on_device(self._data):
            add_into(self.grad, grad)
        elif self._grad is None:
            self._grad = np.array(grad, dtype=self._data.dtype, order="C", copy=True)
        elif self._grad_is_old:
            write(self._grad, grad)
            self._grad_is_old = False
        else:
            add_into(self._grad, grad)

    def accumulate_from(self, compute: Callable[[Any, bool], Any]) -> None:
        """Have ``compute(out, accumulate)`` write a gradient to ``out``: added to what is there, or
        with ``accumulate`` False over it, where that is to be zero."""
        if self._grad is None:
            self._grad, self._grad_is_old = new(self.shape, self._data.dtype, self._data), True
        compute(self._grad, not self._grad_is_old)
        self._grad_is_old = False

    def is_at(self, flat: Any, begin: int) -> bool:
        """Whether the gradient lies in ``flat`` from its element ``begin`` on."""
        return self._stretch is not None and self._stretch[0] is flat and self._stretch[1] == begin

    def move_grad(self, flat: Any, begin: int) -> None:
        """Keep the gradient in a stretch of ``flat`` (one axis, the data's dtype and device) from
        now on."""
        place = flat[begin : begin + self.size].reshape(self.shape)
        write(place, self.grad)
        self._grad, self._stretch = place, (flat, begin)

    @property
    def flat_grad(self) -> Any:
        """The array in which the gradient is a stretch, or None (`fastconv.optim.flat_gradients`
        makes it)."""
        return None if self._stretch is None else self._stretch[0]

    def load(self, value: Any) -> None:
        """Overwrite the values in place, in eval mode too; the shape must be the same."""
        self._set_writeable(True)
        try:
            write(self._data, value)
        finally:
            self._set_writeable(not self._frozen)
        self.version += 1

    def convert(self, device: int | None, dtype: str) -> None:
        """Move to a GPU by its number (None: to the host) and change the dtype; the gradient starts
        again at zero."""
        moved = placed(self._data, device, dtype)
        if moved is not self._data:
            self._data, self._grad, self._grad_is_old, self._stretch = moved, None, False, None
            self._set_writeable(not self._frozen)
            self.version += 1

    def freeze(self) -> None:
        """Make the data read-only (eval mode)."""
        self._frozen = True
        self._set_writeable(False)

    def thaw(self) -> None:
        """Make the data writeable again (train mode)."""
        self._frozen = False
        self._set_writeable(True)

    def _set_writeable(self, flag: bool) -> None:
        if not on_device(self._data):  # of device arrays `data` gives read-only views
            self._data.flags.writeable = flag

    def __getstate__(self) -> dict[str, Any]:
        own = {**self.__dict__, "_stretch": None}  # a copy's gradient is an array of its own
        if not on_device(self._data):
            return own
        arrays = {name: getattr(self, name) for name in ("_data", "_grad")}
        copies = {name: None if a is None else host(a) for name, a in arrays.items()}
        where = {"device": device_of(self._data), "dtype": self._data.dtype.name}
        return {**own, **copies, "_placed": where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        where = self.__dict__.pop("_placed", None)
        if where is not None:
            for name in ("_data", "_grad"):
                if state[name] is not None:
                    setattr(self, name, placed(state[name], where["device"], where["dtype"]))
        # An unpickled array looks at bytes, which NumPy never makes writeable again; and it forgets
        # the read-only flag when an array is pickled or deep-copied.
        self._data = _owned(self._data)
        self._set_writeable(not self._frozen)

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.shape}, dtype={self.dtype})"


def _owned(data: Any) -> Any:
    """`data` as an array of our own, in C order."""
    array: Any = data if on_device(data) or isinstance(data, np.ndarray) else np.asarray(data, "f4")
    if not (is_floating(array) if on_device(array) else array.dtype in FLOATING):
        raise TypeError(
            f"Parameter: data has dtype {array.dtype}, but float32 or float64 is needed "
            f"(convert it with .astype)"
        )
    flags = array.flags
    if on_device(array):
        return array if flags.writeable and flags.c_contiguous and array.owned else array.copy()
    # A view's owner may still write to its memory: freezing would not hold.
    if not (flags.owndata and flags.writeable and flags.c_contiguous):
        array = np.array(array, order="C", copy=True)
    return array
