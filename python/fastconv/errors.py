"""Errors that name the layer in which they happened."""

from __future__ import annotations

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
