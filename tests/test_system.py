from __future__ import annotations

import json

import pytest
import torch

from astroformer import native, system
from astroformer.cli.main import main
from astroformer.system import MatrixRates, bfloat16_instructions, describe_system, matrix_rates, pick_precision


def test_matrix_rates_are_measured_once_and_are_those_of_a_computer() -> None:
    rates = matrix_rates()
    assert all(0.01 < rate < 1e6 for rate in rates)
    assert matrix_rates() is rates


@pytest.mark.parametrize(
    ("words", "compute_library", "found"),
    [
        ({"flags": "avx2 avx512f avx512_bf16 amx_bf16"}, False, "AMX bf16"),
        ({"flags": "avx2 avx512f avx512_bf16"}, False, "AVX-512 bf16"),
        ({"flags": "avx2 avx512f avx512_bf16_too"}, False, None),
        ({"flags": "avx2"}, False, None),
        ({"Features": "asimd sve bf16"}, True, "bf16"),
        ({"Features": "asimd sve bf16"}, False, None),
        ({"Features": "asimd sve"}, True, None),
        ({}, True, None),
    ],
)
def test_the_precision_follows_from_instructions_alone(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, str], compute_library: bool, found: str | None
) -> None:
    def timed() -> MatrixRates:
        raise AssertionError("nothing may be timed")

    monkeypatch.setattr(system, "matrix_rates", timed)
    monkeypatch.setattr(system, "_cpuinfo", lambda key: words.get(key, ""))
    monkeypatch.setattr(torch.backends.mkldnn, "is_acl_available", lambda: compute_library)
    assert bfloat16_instructions() == found
    assert pick_precision("auto", "cpu") == ("float32" if found is None else "bfloat16")
    assert pick_precision("float32", "cpu") == "float32"


def test_the_system_as_text_and_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(system, "matrix_rates", lambda: MatrixRates(100.0, 250.0))
    monkeypatch.setenv("ASTROFORMER_NATIVE", "0")
    assert main(["info", "--system", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(describe_system()))
    assert told["matrix_gflops"] == {"float32": 100.0, "bfloat16": 250.0, "bfloat16_over_float32": 2.5}
    assert told["native_kernels"] == "no: ASTROFORMER_NATIVE=0 forbids them"
    assert told["threads"] >= 1
    assert told["memory_gb"] is None or told["memory_gb"] > 0.1
    assert main(["info", "--system"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert told["processor"] in lines["processor"]
    assert lines["bfloat16_over_float32"].endswith("2.5")


def test_kernels_that_cannot_be_built_are_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not", lambda name=None: "x.cpp could not be compiled" if name else None)
    monkeypatch.setattr(native, "library", lambda name: None)
    monkeypatch.setattr(system, "matrix_rates", lambda: MatrixRates(1.0, 1.0))
    sources = list(system.Path(native.__file__).parent.glob("*.cpp"))
    told = describe_system()["native_kernels"]
    assert told == ("no: " + "; ".join(["x.cpp could not be compiled"] * len(sources)) if sources else "yes")


def test_system_takes_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "astroformer_0", "--system"]) == 2
    assert "--system describes this machine; leave out 'astroformer_0'." in capsys.readouterr().err
    assert main(["info", "--system", "--num-classes", "3"]) == 2
    assert "leave out --num-classes" in capsys.readouterr().err
