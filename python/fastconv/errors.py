"""Errors that name the layer in which they happened."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def locate_error(error: Exception, layer: Any, path: str) -> None:
    """Put the layer's type and path before the error's message, once (the innermost layer wins)."""
    if getattr(error, "_located", False):
        return
    if len(error.args) == 1 and isinstance(error.args[0], str):
        where = type(layer).__name__ + (f" {path!r}" if path else "")
        error.args = (f"{where}: {error.args[0]}",)
        error._located = True  # type: ignore[attr-defined]


def append_to_error(error: Exception, text: str) -> None:
    """Add ``text`` to the end of the error's message, once."""
    if not getattr(error, "_appended", False) and len(error.args) == 1:
        error.args = (f"{error.args[0]}. {text}",)
        error._appended = True  # type: ignore[attr-defined]


def located_backward(method: Callable[..., Any]) -> Callable[..., Any]:
    """Name the layer in errors of ``backward``, and let it be defined without ``need_input``."""
    parameters = inspect.signature(method).parameters
    takes_need = "need_input" in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )

    @functools.wraps(method)
    def backward(self: Any, *grads: Any, need_input: bool = True) -> Any:
        options = {"need_input": need_input} if takes_need else {}
        try:
            return method(self, *grads, **options)
        except (TypeError, ValueError) as error:
            locate_error(error, self, self.path)
            raise

    return backward
