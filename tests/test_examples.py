"""The examples in the docstrings of every module do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import fastconv
import pytest

# The reference's own tests run its examples; __main__ would start a command.
NAMES = [
    module.name
    for module in pkgutil.walk_packages(fastconv.__path__, "fastconv.")
    if not module.name.startswith("fastconv.reference")
    and module.name not in ("fastconv.__main__", "fastconv._core")
]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples_at_all():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = finder.find(importlib.import_module("fastconv.layers.pooling"))
    assert any(test.examples for test in found)
