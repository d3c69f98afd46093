"""Every example in the docstrings of `astroformer.trust` gives the output that it shows."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import astroformer.trust

MODULES = [module.name for module in pkgutil.iter_modules(astroformer.trust.__path__, "astroformer.trust.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name: str) -> None:
    report: list[str] = []
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module, name):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
    assert runner.tries > 0
