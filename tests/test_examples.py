"""Every public name has an example in its docstring, and every example gives the output that it shows."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import astroformer

NAMES = [*astroformer.__all__, "AstroformerClassifier"]  # which needs an extra, so that __all__ leaves it out


class NoExampleError(AssertionError):
    """The docstring of a public name has no example."""


def examples(name: str) -> list[doctest.DocTest]:
    """The examples of a public name: that of its own docstring, and those of its methods.

    An example can use all public names, as after `from astroformer import *`, and what it imports itself.
    """
    public = {each: getattr(astroformer, each) for each in NAMES}
    found = [test for test in doctest.DocTestFinder().find(public[name], name, globs=public) if test.examples]
    if name not in {test.name for test in found}:
        raise NoExampleError(f"the docstring of astroformer.{name} has no example (lines that begin with >>>)")
    return found


def run(test: doctest.DocTest) -> None:
    report: list[str] = []
    failed, _ = doctest.DocTestRunner().run(test, out=report.append)
    assert failed == 0, "".join(report)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_that_is_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples write `runs/`; the cache is the tests' own, see conftest.py
    for test in examples(name):
        run(test)


def test_a_wrong_output_is_noticed() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    with pytest.raises(AssertionError, match="Got"):
        run(wrong)
