"""What is not imported: nobody waits for a library that his command does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LATE = (
    *("torch", "numpy", "timm", "torchvision", "accelerate", "matplotlib", "pyarrow"),
    *("sympy", "torch._dynamo", "torch.distributed.tensor"),
)


def imported(program: str, cwd: Path) -> set[str]:
    """Which of `LATE` a fresh process has imported after `program`."""
    told = f"\nimport sys\nprint('imported:', *(name for name in {LATE} if name in sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", program + told], capture_output=True, text=True, timeout=120, check=True, cwd=cwd
    )
    return set(ran.stdout.splitlines()[-1].removeprefix("imported:").split())


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["trian"], 2),
        (["train", "--help"], 0),
        (["predict", "--help"], 0),
        (["symmetry", "--help"], 0),
        (["show", "--help"], 0),
        (["train", "S", "--epoch", "1"], 2),
        (["train", "S", "--batch-size", "x"], 2),
        (["train"], 2),
        (["predict", "M"], 2),
    ],
)
def test_words_alone_are_answered_without_torch(words: list[str], status: int, tmp_path: Path) -> None:
    assert imported(f"from astroformer.cli.main import main\nassert main({words}) == {status}", tmp_path) == set()


def test_a_source_that_is_not_there_is_refused_without_torch(tmp_path: Path) -> None:
    for words in (["train", "nowhere/"], ["show", "nowhere/"], ["train", "mock-galaxies", "--valid", "nowhere.csv"]):
        program = f"from astroformer.cli.main import main\nassert main({words}) == 2"
        assert imported(program, tmp_path) == {"numpy"}


def test_importing_the_package_imports_none_of_them(tmp_path: Path) -> None:
    assert imported("import astroformer", tmp_path) == set()


def test_info_needs_torch_alone(tmp_path: Path) -> None:
    for words in (["info"], ["info", "astroformer_1"]):
        assert imported(f"from astroformer.cli.main import main\nassert main({words}) == 0", tmp_path) <= {
            "torch",
            "numpy",
        }


def test_prediction_needs_torch_alone(model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    words = ["predict", str(model_folder), str(galaxy_folder), "--out", "p.csv", "--quiet"]
    got = imported(f"from astroformer.cli.main import main\nassert main({words}) == 0", tmp_path)
    assert got == {"torch", "numpy"}


def test_the_first_steps_wait_for_none_of_the_rest(galaxy_folder: Path, tmp_path: Path) -> None:
    words = [
        "train",
        str(galaxy_folder),
        "--device",
        "cpu",
        "--out",
        "run",
        "--cache",
        str(tmp_path / "cache"),
        "--quiet",
    ]
    program = f"""
from astroformer.cli.main import main
from astroformer.training.loop import Loop
from astroformer.training.stopping import Interrupted
progress = Loop.progress
def after_two_steps(self):
    if self.state.updates == 2:
        raise Interrupted
    return progress(self)
Loop.progress = after_two_steps
assert main({words}) == 130"""
    assert imported(program, tmp_path) == {"torch", "numpy", "accelerate"}  # accelerate is what the loop runs on


@pytest.mark.parametrize(
    "program",
    [
        "import astroformer.timm, timm",
        "import timm, astroformer.timm",
        "import astroformer, timm\nastroformer.create_model('astroformer_atto')",
    ],
)
def test_timm_knows_the_variants_once_it_is_asked_for(program: str, tmp_path: Path) -> None:
    assert "timm" in imported(f"{program}\nassert timm.is_model('astroformer_5')", tmp_path)


def test_importing_the_package_changes_nothing_in_timm(tmp_path: Path) -> None:
    for program in ("import astroformer, timm", "import timm, astroformer"):
        imported(f"{program}\nassert not timm.list_models('astroformer*')", tmp_path)


def test_every_public_name_is_there() -> None:
    import astroformer

    for name in astroformer.__all__:
        assert getattr(astroformer, name) is not None
        assert name in dir(astroformer)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        astroformer.trian  # noqa: B018
    with pytest.raises(AttributeError, match=r"called astroformer\.score\(labels, probabilities, classes\) now"):
        astroformer.evaluate  # noqa: B018


def test_the_collector_leaves_alone_what_a_command_imports(tmp_path: Path) -> None:
    """What `first_imports` relies on: off means no collection, frozen means that no later one looks at it."""
    program = """
import gc
collections = []
gc.callbacks.append(lambda phase, info: phase == "start" and collections.append(info["generation"]))
from astroformer.cli.common import first_imports
with first_imports():
    before = len(collections)
    import torch
    assert len(collections) == before, "the collector ran while torch was imported"
assert gc.isenabled()
looked_at, frozen = len(gc.get_objects()), gc.get_freeze_count()
assert frozen > 50 * looked_at, (frozen, looked_at)
assert not any(each is torch.nn.Module for each in gc.get_objects())
with first_imports():
    assert gc.isenabled(), "a program that has torch is left as it is"
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)


def test_only_help_imports_tyro(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom astroformer.cli.main import main\nassert main({}) == {}\nassert ('tyro' in sys.modules) is {}"
    )
    for words, status, imported_then in ((["predict", "M"], 2, False), (["predict", "--help"], 0, True)):
        command = [sys.executable, "-c", program.format(words, status, imported_then)]
        subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
