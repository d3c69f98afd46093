"""`astroformer train`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import astroformer
from astroformer.augmentation.settings import Augment
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.training.recipe import NetworkSettings
from helpers.command_line import TINY, Run, command, table


def test_train_then_predict_evaluate_and_info(run: Run, tmp_path: Path, galaxy_folder: Path) -> None:
    trained = command("train", "mock-galaxies:60", *TINY, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    lines = trained.stdout.splitlines()
    assert lines[-1] == "model: runs/mock-galaxies-1/model"
    assert lines[-2].startswith("try next: astroformer evaluate runs/mock-galaxies-1 ")
    assert lines[0].split() == ["validation", "images", "12"]
    assert lines[1].startswith("accuracy")
    assert "picture: runs/mock-galaxies-1/history.png" in lines
    assert "Traceback" not in trained.stderr
    model = lines[-1].removeprefix("model: ")

    predicted = command("predict", model, galaxy_folder, "--out", "p.csv", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.splitlines()[0] == "30 predictions"
    assert predicted.stdout.splitlines()[-1] == "predictions: p.csv"
    assert len(table(tmp_path / "p.csv")) == 30

    refused = command("evaluate", model, "nowhere", "--out", "e", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: 'nowhere' is neither a file or folder here nor a named set")
    assert refused.stderr.count("\n") == 1

    measured = run("evaluate", model, galaxy_folder, "--out", "measured")
    assert measured.status == 0
    assert measured.out.splitlines()[-1] == "evaluation: measured"
    assert json.loads((tmp_path / "measured" / "metrics.json").read_text())["n"] == 30
    assert "48 images of 'mock-galaxies:60'" in run("info", "runs/mock-galaxies-1").out


def sources(folder: Path) -> dict[str, Path]:
    """The same kind of images as each source that is read: folder, .npz, catalog, grey, 16-bit."""
    images, labels = mock_galaxies(20, size=36, seed=2)
    made: dict[str, Path] = {name: folder / name for name in ("rgb", "grey", "deep")}
    for image, label, i in zip(images, labels, range(20), strict=True):
        kinds = {"rgb": image, "grey": image[..., 1], "deep": image[..., 1].astype(np.uint16) * 200}
        for name, array in kinds.items():
            file = made[name] / CLASSES[label] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(file)
    made["npz"] = folder / "set.npz"
    np.savez(made["npz"], images=images, labels=labels, classes=np.array(CLASSES))
    made["csv"] = folder / "set.csv"
    files = sorted(made["rgb"].rglob("*.png"))
    made["csv"].write_text("file,label\n" + "".join(f"{f.relative_to(folder)},{f.parent.name}\n" for f in files))
    return made


@pytest.mark.parametrize(
    ("kind", "channels", "dtype"),
    [("rgb", 3, "uint8"), ("grey", 1, "uint8"), ("deep", 1, "float16"), ("npz", 3, "uint8"), ("csv", 3, "uint8")],
)
def test_every_kind_of_source_end_to_end(run: Run, tmp_path: Path, kind: str, channels: int, dtype: str) -> None:
    source = sources(tmp_path)[kind]
    said = run("train", source, *TINY, "--out", "run", "--valid-fraction", "0.5")
    assert said.status == 0, said.err
    assert said.out.splitlines()[-1] == "model: run/model"
    model = astroformer.load("run/model")
    assert (model.preprocessing.channels, model.preprocessing.dtype) == (channels, dtype)
    assert sorted(model.classes) == sorted(CLASSES)
    said = run("predict", "run", source, "--out", "p.parquet")
    assert said.status == 0
    rows = pq.read_table("p.parquet").to_pylist()
    assert len(rows) == 20
    assert all(row["error"] is None and row["prediction"] in CLASSES for row in rows)
    assert run("evaluate", "run", source, "--out", "e").status == 0
    assert json.loads(Path("e/metrics.json").read_text())["n"] == 20


def test_settings_come_from_recipe_and_options_and_end_up_in_the_run_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("minutes: 3\nbatch_size: 16\naugment:\n  preset: photo\n  noise: 0.02\n")
    words = (*TINY, "--recipe", "r.yaml", "--clip", "none", "--augment.policy", "randaugment")
    words += ("--augment.mix-probability=0.25", "--quiet")
    said = run("train", "mock-galaxies:40", *words, "--out", "run")
    assert said.status == 0, said.err
    assert said.err == ""  # quiet
    recipe = astroformer.Recipe(**yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text()))
    assert (recipe.epochs, recipe.minutes, recipe.batch_size, recipe.clip) == (1, None, 16, None)
    assert (recipe.augment.noise, recipe.augment.flip_vertical) == (0.02, 0)
    assert (recipe.augment.policy, recipe.augment.policy_epochs) == ("randaugment", 0)  # asked for, so applied
    assert (recipe.augment.cutmix, recipe.augment.mix_probability, recipe.augment.mix_epochs) == (1, 0.25, 0)
    again = run("train", "mock-galaxies:40", *TINY, "--out", "run")
    assert "run folder 'run' is not empty" in again.refusal()


def test_files_that_cannot_be_read_are_left_out_and_listed_or_refused(
    run: Run, galaxy_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(galaxy_folder, tmp_path / "set"))
    bad = folder / CLASSES[0] / "bad.png"
    bad.write_text("no image")
    words: list[str | Path] = ["train", folder, *TINY, "--valid-fraction", "0.5"]
    said = run(*words, "--out", "run")
    assert said.status == 0
    assert "bad.png" in said.err
    assert [Path(row["file"]).name for row in table(tmp_path / "run" / "left_out.csv")] == ["bad.png"]
    assert "bad.png" in run(*words, "--out", "strict", "--strict").refusal()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["train"], "no SOURCE given"),
        (["train", "mock-galaxie"], "Did you mean 'mock-galaxies'?"),
        (["train", "S", "--epoch", "1"], "unknown option '--epoch'. Did you mean '--epochs'?"),
        (["train", "S", "--augment.rotatoin=1"], "Did you mean '--augment.rotation'?"),
        (["train", "S", "-x"], "unknown option '-x'."),
        (["train", "S", "--model", "astroformer_ato"], "Did you mean 'astroformer_atto'?"),
        (["train", "S", "--optimizer", "adam"], "unknown --optimizer 'adam'. Did you mean 'adamw'?"),
        (["train", "S", "--epochs", "one"], "--epochs can't be 'one'; a whole number is needed."),
        (["train", "S", "--batch-size", "x"], "--batch-size can't be 'x'; a whole number is needed."),
        (["train", "S", "--warmup", "x"], "--warmup can't be 'x'; a number is needed."),
        (["train", "S", "--crop=wide"], "--crop can't be 'wide'; a number is needed."),
        (["train", "S", "--epochs"], "--epochs needs a value."),
        (["train", "S", "--epochs", "0"], "'epochs' can't be 0"),
        (["train", "S", "--augment.rotation", "500"], "'augment.rotation' can't be 500.0: input should be less than"),
        (["train", "S", "--augment.scale", "2", "1"], "the lower end 2.0 is above the upper end 1.0"),
        (["train", "S", "--network.widths", "64"], "--network.widths can't be '64'; 4 whole numbers are needed."),
        (["train", "S", "--class-weights", "x"], "none, auto or pairs of a word and a number are needed."),
        (["train", "--image-size", "64", "mock-galaxie"], "Did you mean 'mock-galaxies'?"),
        (["train", "S", "--epochs", "1", "--minutes", "1"], "exclude each other"),
        (["train", "S", "T"], "can't make sense of 'T' here"),
        (["train", "S", "--recipe", "skyy"], "unknown recipe 'skyy'. Did you mean 'sky'?"),
        (["train", "S", "--recipe", "no.yaml"], "no recipe file 'no.yaml'"),
        (["train", "S", "--image-size", "16"], "at least 32"),
        (["train", "--resume", "nowhere"], "'nowhere' is no run folder"),
        (["train", "S", "--resume", "R"], "leave out the source 'S'"),
        (["train", "--resume", "R", "--epochs", "3"], "leave out --epochs"),
        (["train", "mock-galaxies:60", "--init-from", "nowhere"], "'nowhere' does not exist"),
        (["predict"], "missing MODEL (model folder, or the run folder that holds it); SOURCE ("),
        (["predict", "M", "S", "--out", "p.csv", "--batchsize", "2"], "Did you mean '--batch-size'?"),
        (["evaluate"], "missing MODEL"),
        (["info", "astroformer_00"], "Did you mean 'astroformer_0'?"),
        (["info", "--image-size", "8"], "at least 32x32"),
    ],
)
def test_a_wrong_word_is_one_sentence(run: Run, words: list[str], says: str) -> None:
    said = run(*words)
    assert says in said.refusal()
    assert said.err.count("\n") == 1
    assert not any(mark in said.err for mark in "│╭─")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("epoch: 3", "unknown setting 'epoch'. Did you mean 'epochs'?"),
        ("augment:\n  flip_horizontl: 1", "Did you mean 'augment.flip_horizontal'?"),
        ("network: {layuot: CCCT}", "Did you mean 'network.layout'?"),
        ("augment: foto", "Did you mean 'photo'?"),
        ("epochs: many", "'epochs' can't be 'many'"),
        ("- a\n- b", "holds a list"),
        ("a: [", "no valid YAML"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(run: Run, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    said = run("train", "mock-galaxies:60", "--recipe", "r.yaml")
    assert says in said.refusal()
    assert said.err.count("\n") == 1


def test_help_of_train_explains_every_setting(run: Run) -> None:
    text = " ".join(run("train", "--help", "all").out.split())
    for option, what in (
        ("--seed INT", "of all that is random"),
        ("--optimizer {adamw,sgd,muon}", "what turns gradients into updates"),
        ("--label-smoothing FLOAT", "share of each target"),
        ("--minutes FLOAT", "length by the clock"),
        ("--network.layout STR", "vertical layout"),
        ("--augment.rotation FLOAT", "Rotate by up to"),
        ("--scaling {none,linear,log,asinh,asinh-sky,zscale,percentile}", "how values are stretched"),
        ("--missing {refuse,median,zero}", "pixels without a value (NaN)"),
        ("--storage {uint8,float16,float32}", "how decoded images are kept; float32 keeps all digits; not given:"),
    ):
        assert f"{option} {what}" in text
    assert "@votes=COLUMN+COLUMN+... (what people voted, a column a class; shares, or @votes-as=counts;" in text
    for group in (astroformer.Recipe, NetworkSettings, Augment):
        for name, setting in group.model_fields.items():
            assert setting.description, f"{group.__name__}.{name} has no help"
