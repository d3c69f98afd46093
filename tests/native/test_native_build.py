"""How the kernels are built and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from astroformer import native

if native.why_not() is not None:
    pytest.skip(f"no native kernels: {native.why_not()}", allow_module_level=True)

RESIZE = native._SOURCES / "resize.cpp"  # compiles fastest


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ASTROFORMER_CACHE", str(tmp_path))
    return tmp_path / "native"


def with_headers(patch: pytest.MonkeyPatch, **texts: str) -> None:
    patch.setattr(native, "headers", lambda: {f"{name}.h": text for name, text in texts.items()})


def test_a_source_finds_the_generated_headers(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "answer.cpp"
    source.write_text('#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n')
    with_headers(monkeypatch, answer="#define ANSWER 42\n")
    monkeypatch.setattr(native, "_SOURCES", tmp_path)
    library = native.library.__wrapped__("answer")
    assert library is not None, native.why_not("answer")
    assert library.answer() == 42
    assert [file.suffix for file in cache.iterdir()] == [".so"]  # nothing half made is left


def test_another_generated_header_makes_another_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = native._target(RESIZE)
    assert before.parent == cache
    with_headers(monkeypatch, augment_plan="struct Plan {};\n")
    assert native._target(RESIZE) != before


def test_a_source_that_does_not_compile_leaves_nothing_and_says_why(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "broken.cpp"
    source.write_text("no C++\n")
    monkeypatch.setattr(native, "_SOURCES", tmp_path)
    assert native.library.__wrapped__("broken") is None
    assert "could not compile broken.cpp: " in str(native.why_not("broken"))
    assert not cache.exists()


def test_a_plan_that_is_laid_out_in_another_way_does_not_compile(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = native.headers()
    texts["augment_plan.h"] = texts["augment_plan.h"].replace("int64_t channels;", "int32_t channels, more, rest;")
    monkeypatch.setattr(native, "headers", lambda: texts)
    with pytest.raises(native._NotBuilt, match=r"could not compile augment\.cpp: "):
        native._build(native._SOURCES / "augment.cpp")
