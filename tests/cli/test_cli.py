from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import astroformer
from astroformer.augmentation.settings import Augment
from astroformer.cli.main import main
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.training.recipe import NetworkSettings

TINY = ["--epochs", "1", "--image-size", "32", "--crop", "1"]


def command(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own, as a user starts it."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("astroformer")), *map(str, words)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


class Said:
    """Exit status and output of a command run in this process."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def refusal(self) -> str:
        """The one sentence that a user's error prints."""
        assert self.status == 2
        assert self.err.endswith("\n")
        sentence = self.err.splitlines()[-1]
        assert sentence.startswith("error: ")
        assert "Traceback" not in self.err
        assert self.out == ""
        return sentence


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")

    def call(*words: str | Path) -> Said:
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return call


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# -- as a newcomer does it -------------------------------------------------------------------------------------------


def test_train_then_predict_evaluate_and_info(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, galaxy_folder: Path
) -> None:
    trained = command("train", "mock-galaxies:60", *TINY, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    lines = trained.stdout.splitlines()
    assert lines[-1] == "model: runs/mock-galaxies-1/model"
    assert lines[-2] == "try next: astroformer predict runs/mock-galaxies-1/model IMAGES --out predictions.csv"
    assert lines[0].startswith("validation top-1")
    assert "n = 12" in lines[0]
    assert "Traceback" not in trained.stderr
    model = lines[-1].removeprefix("model: ")

    predicted = command("predict", model, galaxy_folder, "--out", "p.csv", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.splitlines() == ["30 predictions", "predictions: p.csv"]
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


# -- train ---------------------------------------------------------------------------------------------------------


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
def test_every_kind_of_source_end_to_end(run, tmp_path: Path, kind: str, channels: int, dtype: str) -> None:  # type: ignore[no-untyped-def]
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


def test_settings_come_from_recipe_and_options_and_end_up_in_the_run_folder(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "r.yaml").write_text("minutes: 3\nbatch_size: 16\naugment:\n  preset: photo\n  noise: 0.02\n")
    words = (*TINY, "--recipe", "r.yaml", "--clip", "none", "--augment.policy", "randaugment")
    words += ("--augment.mix-probability=0.25", "--quiet")
    said = run("train", "mock-galaxies:40", *words, "--out", "run")
    assert said.status == 0, said.err
    assert said.err == ""  # quiet
    recipe = astroformer.Recipe(**_yaml(tmp_path / "run" / "recipe.yaml"))
    assert (recipe.epochs, recipe.minutes, recipe.batch_size, recipe.clip) == (1, None, 16, None)
    assert (recipe.augment.noise, recipe.augment.flip_vertical) == (0.02, 0)
    assert (recipe.augment.policy, recipe.augment.policy_epochs) == ("randaugment", 0)  # asked for, so applied
    assert (recipe.augment.cutmix, recipe.augment.mix_probability, recipe.augment.mix_epochs) == (1, 0.25, 0)
    again = run("train", "mock-galaxies:40", *TINY, "--out", "run")
    assert "run folder 'run' is not empty" in again.refusal()


def _yaml(path: Path) -> dict[str, object]:
    import yaml

    return yaml.safe_load(path.read_text())


def test_files_that_cannot_be_read_are_left_out_and_listed_or_refused(  # type: ignore[no-untyped-def]
    run, galaxy_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(galaxy_folder, tmp_path / "set"))
    bad = folder / CLASSES[0] / "bad.png"
    bad.write_text("no image")
    words = ("train", folder, *TINY, "--valid-fraction", "0.5")
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
        (["predict", "M", "S"], "missing --out PATH (file to write, .csv or .parquet)."),
        (["predict", "M", "S", "--out", "p.csv", "--batchsize", "2"], "Did you mean '--batch-size'?"),
        (["evaluate", "M", "S"], "missing --out PATH"),
        (["info", "astroformer_00"], "Did you mean 'astroformer_0'?"),
        (["info", "--image-size", "8"], "at least 32x32"),
    ],
)
def test_a_wrong_word_is_one_sentence(run, words: list[str], says: str) -> None:  # type: ignore[no-untyped-def]
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
def test_a_wrong_recipe_is_one_sentence(run, tmp_path: Path, content: str, says: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "r.yaml").write_text(content)
    said = run("train", "mock-galaxies:60", "--recipe", "r.yaml")
    assert says in said.refusal()
    assert said.err.count("\n") == 1


# -- predict and evaluate ------------------------------------------------------------------------------------------


def test_predict_gives_every_file_a_row(run, model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(galaxy_folder.rglob("*.png"))[:5]):
        (flat / f"{i}.png").write_bytes(file.read_bytes())
    (flat / "2.png").write_bytes(b"no image")
    said = run("predict", model_folder, flat, "--out", "p.csv", "--batch-size", "2")
    assert said.status == 0
    assert said.out.splitlines() == [
        "4 predictions, 1 file could not be read (column error says why)",
        "predictions: p.csv",
    ]
    assert said.err == "predicting: 5 images\n"
    rows = table(tmp_path / "p.csv")
    assert list(rows[0]) == ["file", "prediction", "confidence", *(f"p:{name}" for name in CLASSES), "error"]
    assert [row["file"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [bool(row["error"]) for row in rows] == [False, False, True, False, False]
    assert "not a JPEG" in rows[2]["error"]
    assert rows[2]["prediction"] == rows[2]["confidence"] == rows[2]["p:merging"] == ""


def test_evaluate_writes_four_files(run, model_folder: Path, galaxy_folder: Path) -> None:  # type: ignore[no-untyped-def]
    said = run("evaluate", model_folder, galaxy_folder, "--out", "new/folder")
    assert said.status == 0
    out = Path("new/folder")
    assert sorted(file.name for file in out.iterdir()) == [
        "confusion.png",
        "confusion.txt",
        "metrics.json",
        "predictions.csv",
    ]
    content = json.loads((out / "metrics.json").read_text())
    assert {"n", "top1", "balanced_accuracy", "macro_f1", "nll", "source", "left_out"} <= content.keys()
    assert (content["n"], content["left_out"], content["source"]) == (30, 0, str(galaxy_folder))
    assert f"{content['top1']['value']:.4f}" in said.out
    assert (out / "confusion.txt").read_text() in said.out
    right = [row["prediction"] == row["file"].split("/")[0] for row in table(out / "predictions.csv")]
    assert np.mean(right) == pytest.approx(content["top1"]["value"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "M", "G", "--out", "p.txt"], "must end in .csv or .parquet"),
        (["predict", "M", "G", "--out", "no/p.csv"], "folder 'no' does not exist"),
        (["predict", "M", "G", "--out", "p.csv", "--batch-size", "0"], "batch_size is 0"),
        (["predict", "M", "G", "--out", "p.csv", "--device", "gpu"], "unknown device 'gpu'"),
        (["predict", "M", "nowhere", "--out", "p.csv"], "'nowhere' is neither a file or folder"),
        (["predict", "G", "G", "--out", "p.csv"], "is no model folder: it has no config.json"),
        (["evaluate", "M", "G/merging", "--out", "e"], "no class folders"),
        (["evaluate", "M", "G", "--out", "file"], "folder 'file' can't be made"),
    ],
)
def test_predict_and_evaluate_refuse_with_one_sentence(  # type: ignore[no-untyped-def]
    run, model_folder: Path, galaxy_folder: Path, words: list[str], says: str
) -> None:
    Path("file").write_text("x")
    before = set(Path().iterdir())
    named = {"M": str(model_folder), "G": str(galaxy_folder), "G/merging": str(galaxy_folder / "merging")}
    assert says in run(*(named.get(word, word) for word in words)).refusal()
    assert set(Path().iterdir()) == before  # nothing half-made is left


# -- symmetry --------------------------------------------------------------------------------------------------------


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
    assert sorted(file.name for file in (tmp_path / "new/s").iterdir()) == ["symmetry.json", "symmetry.png"]
    content = json.loads((tmp_path / "new/s/symmetry.json").read_text())
    assert (content["n"], content["total"], content["left_out"]) == (9, 30, {})
    assert content["settings"]["shift_range"] == [[-5, 5], [-5, 5]]
    assert content["accuracy"].keys() == {"plain", "shifted", "worst"}
    assert f"{content['c_cons']['value']:.2%}" in done.stdout
    assert len(content["features"]["circular shifts"]) == 5
    assert content["preprocessing"]["crop"] == 0.9  # frames hold as much more of the picture as there is
    assert (content["frame_preprocessing"]["crop"], content["frame"]) == (1.0, [37, 37])


def test_symmetry_of_an_equivariant_variant_by_name(run) -> None:  # type: ignore[no-untyped-def]
    words = ["--image-size", "32", "--images", "3", "--shifts", "4", "--crops", "2", "--rotations", "1", "--quiet"]
    said = run("symmetry", "astroformer_atto", "--equivariance", "anchor", "--symmetry", "shift+d4", *words)
    first = (
        "astroformer_atto: Astroformer (group none, equivariance anchor, symmetry shift+d4), random (seed 0) weights"
    )
    assert said.out.splitlines()[0] == first
    changes = json.loads(Path("symmetry/symmetry.json").read_text())["changes"]
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
def test_symmetry_refuses_with_one_sentence(  # type: ignore[no-untyped-def]
    run, model_folder: Path, galaxy_folder: Path, words: list[str], says: str
) -> None:
    Path("file").write_text("x")
    before = set(Path().iterdir())
    named = {"M": str(model_folder), "G": str(galaxy_folder)}
    assert says in run("symmetry", *(named.get(word, word) for word in words), "--quiet").refusal()
    assert set(Path().iterdir()) == before


# -- info, help, faults ----------------------------------------------------------------------------------------------


def test_info_of_the_variants_shows_the_published_sizes(run) -> None:  # type: ignore[no-untyped-def]
    said = run("info")
    assert said.status == 0
    rows = {line.split()[0]: line.split() for line in said.out.splitlines()}
    # M parameters and GMAC at 224 px with ten classes
    for name, parameters, macs in (
        ("astroformer_0", "22.77", 3.99),
        ("astroformer_1", "37.39", 6.81),
        ("astroformer_2", "66.37", 13.34),
        ("astroformer_3", "148.89", 29.88),
        ("astroformer_4", "241.08", 48.54),
        ("astroformer_5", "593.55", 108.24),
    ):
        assert rows[name][1:4] == ["CCCT", "224", parameters]
        assert float(rows[name][4]) == pytest.approx(macs, abs=0.0055)
    assert float(rows["astroformer_atto"][3]) <= 0.7


def test_info_of_one_variant_and_as_json(run) -> None:  # type: ignore[no-untyped-def]
    said = run("info", "astroformer_0", "--image-size", "256", "--json")
    assert json.loads(said.out)["macs"] / 1e9 == pytest.approx(5.22, abs=0.005)
    assert "22,772,282" in run("info", "astroformer_0").out


def test_info_of_a_model(run, model_folder: Path) -> None:  # type: ignore[no-untyped-def]
    said = run("info", model_folder)
    assert said.status == 0
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert all(name in lines["classes"] for name in CLASSES)
    assert "95 % interval" in lines["balanced_accuracy"]
    content = json.loads(run("info", model_folder, "--json").out)
    assert isinstance(content["parameters"], int)
    assert content["classes"] == list(CLASSES)


def test_help(run) -> None:  # type: ignore[no-untyped-def]
    for words in ([], ["--help"], ["-h"]):
        said = run(*words)
        assert said.status == 0
        assert all(f"astroformer {name}" in said.out for name in ("train", "predict", "evaluate", "symmetry", "info"))
    for name in ("train", "predict", "evaluate", "symmetry", "info"):
        said = run(name, "--help")
        assert (said.status, said.err) == (0, "")
        assert f"astroformer {name}" in said.out
        assert "{None" not in said.out
        assert "(default: None)" not in " ".join(said.out.split())
    assert run("--version").out.strip() == astroformer.__version__


def test_help_of_train_explains_every_setting(run) -> None:  # type: ignore[no-untyped-def]
    text = " ".join(run("train", "--help").out.split())
    for option, what in (
        ("--seed INT", "of all that is random"),
        ("--optimizer {adamw,sgd,muon}", "what turns gradients into updates"),
        ("--label-smoothing FLOAT", "share of each target"),
        ("--minutes FLOAT", "length by the clock"),
        ("--network.layout STR", "vertical layout"),
        ("--augment.rotation FLOAT", "Rotate by up to"),
    ):
        assert f"{option} {what}" in text
    for group in (astroformer.Recipe, NetworkSettings, Augment):
        for name, setting in group.model_fields.items():
            assert setting.description, f"{group.__name__}.{name} has no help"


def test_our_own_fault_is_status_1_and_a_traceback_only_with_debug(  # type: ignore[no-untyped-def]
    run, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a wheel came off")

    monkeypatch.setattr("astroformer.network.counting.describe", broken)
    said = run("info")
    assert (said.status, said.out) == (1, "")
    assert "RuntimeError: a wheel came off" in said.err
    assert "--debug" in said.err
    assert "Traceback" not in said.err
    said = run("info", "--debug")
    assert said.status == 1
    assert "Traceback" in said.err
    assert "in broken" in said.err


def test_debug_shows_the_traceback_of_a_users_error_too(run) -> None:  # type: ignore[no-untyped-def]
    said = run("info", "astroformer_9", "--debug")
    assert said.status == 2
    assert "Traceback" in said.err
    assert said.err.splitlines()[-1].startswith("error: unknown model folder or variant")


def test_a_full_disk_is_no_fault_of_ours(  # type: ignore[no-untyped-def]
    run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "e/metrics.json")

    monkeypatch.setattr("astroformer.evaluation.tables.write_metrics", full)
    said = run("evaluate", model_folder, galaxy_folder, "--out", "e", "--quiet")
    assert said.refusal() == "error: 'e/metrics.json' can't be written: No space left on device."


def test_ctrl_c_is_no_traceback(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("astroformer.network.counting.describe", stopped)
    said = run("info")
    assert (said.status, said.err) == (130, "stopped.\n")
