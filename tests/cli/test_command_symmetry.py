"""`astroformer symmetry`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astroformer.summaries import percent
from helpers.command_line import Run, command


def test_symmetry_of_a_model_folder_in_a_process_of_its_own(
    model_folder: Path, galaxy_folder: Path, tmp_path: Path
) -> None:
    words = ["--images", "9", "--shifts", "3", "--crops", "2", "--rotations", "1", "--max-shift", "5", "--quiet"]
    done = command("symmetry", model_folder, "--data", galaxy_folder, *words, "--out", "new/s", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{model_folder}: Astroformer as it is, trained weights"
    assert lines[1] == f"{galaxy_folder}: 9 of 30 images, drawn with seed 0"
    assert lines[-1] == "symmetry: new/s"
    names = ["symmetry.json", "symmetry.pdf", "symmetry.png"]
    assert sorted(file.name for file in (tmp_path / "new/s").iterdir()) == names
    content = json.loads((tmp_path / "new/s/symmetry.json").read_text())
    assert (content["n"], content["total"], content["left_out"]) == (9, 30, {})
    assert content["settings"]["shift_range"] == [[-5, 5], [-5, 5]]
    assert content["accuracy"].keys() == {"plain", "shifted", "worst"}
    assert percent(content["c_cons"]["value"], 2) in done.stdout
    assert len(content["features"]["circular shifts"]) == 5
    assert content["preprocessing"]["crop"] == 0.9  # frames hold as much more of the picture as there is
    assert (content["frame_preprocessing"]["crop"], content["frame"]) == (1.0, [37, 37])


def test_symmetry_of_an_equivariant_variant_by_name(run: Run) -> None:
    words = ["--image-size", "32", "--images", "3", "--shifts", "4", "--crops", "2", "--rotations", "1", "--quiet"]
    said = run("symmetry", "astroformer_atto", "--equivariance", "anchor", "--symmetry", "shift+d4", *words)
    first = (
        "astroformer_atto: Astroformer (group none, equivariance anchor, symmetry shift+d4), random (seed 0) weights"
    )
    assert said.out.splitlines()[0] == first
    changes = json.loads(Path("symmetry-1/symmetry.json").read_text())["changes"]
    assert all(changes[name]["relative"] < 1e-3 for name in ("circular shifts", "flips", "quarter turns"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["M", "--shifts", "1"], "shifts is 1"),
        (["M", "--equivariance", "anchor"], "--equivariance is for networks by name"),
        (["timm:resnet18", "--symmetry", "shift+d4"], "settings of our own networks"),
        (["M", "--max-shift", "17"], "max_shift is 17; images of 32 × 32 px take 1 to 16"),
        (["M", "--dtype", "float16"], "unknown --dtype 'float16'"),
        (["M", "--data", "nowhere"], "'nowhere' is neither a file or folder"),
        (["M", "--image-size", "64"], "--image-size is for networks by name"),
        (["M", "--images", "0"], "images is 0"),
        (["M", "--out", "file"], "folder 'file' can't be made"),
        (["resnet18"], "unknown model 'resnet18'"),
        (["G"], "is no model folder: it has no config.json"),
    ],
)
def test_symmetry_refuses_with_one_sentence(
    run: Run, model_folder: Path, galaxy_folder: Path, words: list[str], says: str
) -> None:
    Path("file").write_text("x")
    before = set(Path().iterdir())
    named = {"M": str(model_folder), "G": str(galaxy_folder)}
    assert says in run("symmetry", *(named.get(word, word) for word in words), "--quiet").refusal()
    assert set(Path().iterdir()) == before
