"""Parameter: an array that is learned, with its gradient.

The gradient has the data's shape and dtype, is allocated once, and is added to by
``Layer.backward``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOATING = (np.dtype(np.float32), np.dtype(np.float64))


class Parameter:
    """A learned array with its gradient.

    Parameters
    ----------
    data : array_like
        float32 or float64. An array that owns its memory in C order is taken over, anything else is
        copied; what is not an array becomes float32.
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

    def __init__(self, data: Any, name: str = "", *, requires_grad: bool = True) -> None:
        array = data if isinstance(data, np.ndarray) else np.asarray(data, dtype=np.float32)
        if array.dtype not in FLOATING:
            raise TypeError(
                f"Parameter: data has dtype {array.dtype}, but float32 or float64 is needed "
                f"(convert it with .astype)"
            )
        flags = array.flags
        # A view's owner may still write to its memory: freezing would not hold.
        if not (flags.owndata and flags.writeable and flags.c_contiguous):
            array = np.array(array, order="C", copy=True)
        self._data = array
        self._grad: Any = None
        self._frozen = False
        self.name = name
        self.requires_grad = requires_grad

    @property
    def data(self) -> Any:
        """The values; read-only while the layer that owns the parameter is in eval mode."""
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        if self._frozen:
            raise ValueError(
                f"parameter {self.name!r} is read-only in eval mode, because its packed form is in "
                f"use; call train() first"
            )
        array = np.asarray(value)
        if array is self._data:  # parameter.data += ... ends here
            return
        if array.shape != self._data.shape:
            raise ValueError(
                f"parameter {self.name!r} has shape {self._data.shape}, but the value has "
                f"shape {array.shape}"
            )
        np.copyto(self._data, array, casting="same_kind")

    @property
    def grad(self) -> Any:
        """The gradient, zero at first; allocated at first use and then kept."""
        if self._grad is None:
            self._grad = np.zeros_like(self._data)
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not self.grad:
            np.copyto(self.grad, value, casting="same_kind")

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
        """Set the gradient to zero in place."""
        if self._grad is not None:
            self._grad.fill(0)

    def accumulate(self, grad: Any) -> None:
        """Add ``grad`` (the data's shape) to the gradient."""
        if self._grad is None:
            self._grad = np.array(grad, dtype=self._data.dtype, order="C", copy=True)
        else:
            self._grad += grad

    def load(self, value: Any) -> None:
        """Overwrite the values in place, in eval mode too; the shape must be the same."""
        self._data.flags.writeable = True
        try:
            np.copyto(self._data, value, casting="same_kind")
        finally:
            self._data.flags.writeable = not self._frozen

    def convert(self, dtype: Any) -> None:
        """Change the dtype; the gradient starts again at zero."""
        if dtype != self._data.dtype:
            self._data = self._data.astype(dtype)
            self._data.flags.writeable = not self._frozen
            self._grad = None

    def freeze(self) -> None:
        """Make the data read-only (eval mode)."""
        self._frozen = True
        self._data.flags.writeable = False

    def thaw(self) -> None:
        """Make the data writeable again (train mode)."""
        self._frozen = False
        self._data.flags.writeable = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        # NumPy forgets the read-only flag when an array is pickled or deep-copied.
        self.__dict__.update(state)
        self._data.flags.writeable = not self._frozen

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.shape}, dtype={self.dtype})"
