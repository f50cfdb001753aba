"""What a layer's calls keep for backward: gone with the next call, and refused where it would be
another call's.

Calls without backward are common (a loss alone, statistics), and only the last of them can have
one. But where a layer stands at two places of a model backward comes twice, and the second would
take the last call's arrays for the first's. Sizes alone, as Flatten keeps, may be the same and then
serve both. A stack of all calls' arrays would give gradients at both places, but nobody would empty
it after calls without backward.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastconv.errors import locate_error

ARRAYS = "arrays"  # were among what is lost


def begin_call(layer: Any) -> None:
    """Let go of what the call before kept; note what it was where backward never had it."""
    state = layer.__dict__
    kept = state["_saved"]
    if state["_saved_used"]:
        state["_saved_lost"] = None
    elif kept is not None and state["_saved_lost"] is not ARRAYS:
        sizes = _sizes(kept)
        state["_saved_lost"] = sizes if state["_saved_lost"] in (None, sizes) else ARRAYS
    state["_saved"], state["_saved_used"] = None, False


def checked_backward(method: Callable[..., Any]) -> Callable[..., Any]:
    """Name the layer in errors of ``backward``, let it be defined without ``need_input``, and
    refuse to give a second call of it the arrays of another forward."""
    parameters = inspect.signature(method).parameters
    takes_need = "need_input" in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )

    @functools.wraps(method)
    def backward(self: Any, *grads: Any, need_input: bool = True) -> Any:
        options = {"need_input": need_input} if takes_need else {}
        state = self.__dict__
        if state["_saved_used"] and state["_saved_lost"] is not None:
            _check_kept(self)
        try:
            result = method(self, *grads, **options)
        except (TypeError, ValueError) as error:
            locate_error(error, self, self._layer_path)
            raise
        state["_saved_used"] = True  # at the end: a backward may call its base's
        return result

    return backward


def _check_kept(layer: Any) -> None:
    kept, lost = layer._saved, layer._saved_lost
    if kept is None or (lost != ARRAYS and lost == _sizes(kept)):
        return
    raise RuntimeError(
        f"{type(layer).__name__} {layer._layer_path!r}: backward came again after several calls, "
        f"but a layer keeps what its last call needs alone: gradients of earlier ones would be "
        f"wrong. Where it is called at several places of a model, give each a layer of its own "
        f"(with the same Parameter objects, to share weights); else call it once more before"
    )


def _sizes(kept: tuple[Any, ...]) -> Any:
    """What a call kept, where that is sizes and flags alone; else ``ARRAYS``."""
    return kept if all(map(_is_plain, kept)) else ARRAYS


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(type(size) is int for size in value)
    return value is None or isinstance(value, int)
