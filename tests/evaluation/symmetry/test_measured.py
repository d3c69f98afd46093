"""What is measured: a model folder, a variant or a timm network, and the images for it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from astroformer.errors import UserError
from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry
from astroformer.evaluation.symmetry.measured import open_network, read_images

FAST = SymmetrySettings(shifts=6, crops=4, rotations=2, batch_size=4)


def test_a_variant_gets_images_that_are_the_middle_of_their_frames() -> None:
    measured = open_network("astroformer_atto", image_size=32, seed=3)
    inputs = read_images(measured, None, images=4)
    assert (measured.weights, inputs.labels_N, inputs.total) == ("random (seed 3)", None, 4)
    assert inputs.frames_NCHW.shape == (4, 3, 37, 37)
    torch.testing.assert_close(inputs.images_NCHW, inputs.frames_NCHW[:, :, 2:34, 2:34], rtol=0, atol=0)
    again = open_network("astroformer_atto", image_size=32, seed=3).network.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in measured.network.state_dict().items())


def test_timm_knows_the_variants_by_name_too(tmp_path: Path) -> None:
    program = "from astroformer.evaluation.symmetry.measured import open_network"
    program += "\nassert open_network('timm:astroformer_atto', image_size=32).name == 'timm:astroformer_atto'"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)


def test_a_timm_network_by_name() -> None:
    measured = open_network("timm:test_resnet", image_size=32)
    inputs = read_images(measured, None, images=2)
    report = measure_symmetry(measured.network, inputs.images_NCHW, frames_NCHW=inputs.frames_NCHW, settings=FAST)
    assert report.num_classes == 10
    assert len(report.features["circular shifts"]) > 2
    assert report.changes["circular shifts"].largest > 0
    with pytest.raises(UserError, match=r"no network 'test_resent'\. Did you mean 'timm:test_resnet'"):
        open_network("timm:test_resent")


def test_a_model_folder_keeps_its_preprocessing_and_labels(model_folder: Path, galaxy_folder: Path) -> None:
    measured = open_network(str(model_folder))
    inputs = read_images(measured, str(galaxy_folder), images=11, seed=1)
    assert (measured.weights, inputs.total, inputs.left_out) == ("trained", 30, [])
    assert inputs.images_NCHW.shape == (11, 3, 32, 32)
    assert inputs.labels_N is not None
    assert inputs.labels_N.shape == (11,)
    assert read_images(measured, None, images=3).labels_N is not None  # the classes are the mock galaxies'
    with pytest.raises(UserError, match="--image-size is for networks by name"):
        open_network(str(model_folder), image_size=64)


def test_an_unreadable_file_is_left_out_and_counted(model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    measured = open_network(str(model_folder))
    shutil.copytree(galaxy_folder, tmp_path / "set")
    files = sorted((tmp_path / "set").rglob("*.png"))
    files[4].write_bytes(b"no image")
    inputs = read_images(measured, str(tmp_path / "set"), images=100)
    assert (inputs.total, len(inputs.images_NCHW), len(inputs.frames_NCHW)) == (30, 29, 29)
    assert inputs.labels_N is not None
    assert len(inputs.labels_N) == 29
    [(file, reason)] = inputs.left_out
    assert file.endswith(files[4].name)
    assert "not a JPEG" in reason
    for file in files:
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of 30 images of .* can be read"):
        read_images(measured, str(tmp_path / "set"), images=100)
    with pytest.raises(UserError, match="images is 0"):
        read_images(measured, None, images=0)


@pytest.mark.parametrize(
    ("model", "words", "says"),
    [
        ("astroformer_ato", {}, "Did you mean 'astroformer_atto'.*a model folder, or timm:NAME"),
        ("astroformer_atto", {"pretrained": True}, "no weights of astroformer_atto are published"),
        ("astroformer_atto", {"image_size": 8}, "--image-size is 8"),
        ("astroformer_atto", {"num_classes": 0}, "--num-classes is 0"),
    ],
)
def test_a_wrong_network_is_one_sentence(model: str, words: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_network(model, **words)  # type: ignore[arg-type]


def test_what_is_said_of_a_network() -> None:
    plain = open_network("astroformer_atto", image_size=32)
    assert (plain.kind, plain.symmetries, plain.label) == ("Astroformer", "as it is", "astroformer_atto")
    turned = open_network("astroformer_atto", image_size=32, equivariance="anchor", symmetry="shift+d4")
    assert turned.kind == "Astroformer"
    assert turned.symmetries == "(group none, equivariance anchor, symmetry shift+d4)"
    assert open_network("timm:test_resnet", image_size=32).symmetries == "as it is"
    for name, label in (("runs/deep/model", "deep"), ("runs/deep", "deep"), ("timm:resnet18", "timm:resnet18")):
        assert dataclasses.replace(plain, name=name).label == label
