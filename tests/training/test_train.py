from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from astroformer.classifier import load
from astroformer.errors import UserError
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.images.sources import open_source
from astroformer.model_config import ModelRecord
from astroformer.network import Answers, AnswersConfig, Astroformer
from astroformer.network.answers import answers_of
from astroformer.training import single as single_module
from astroformer.training.recipe import Recipe, load_recipe, make_recipe
from astroformer.training.rules import decide
from astroformer.training.run import RunFolder
from astroformer.training.single import Trained
from astroformer.training.train import train


def recipe(**changes: Any) -> Recipe:
    settings = {"model": "astroformer_atto", "epochs": 1, "batch_size": 8, "image_size": 32, "device": "cpu"}
    return make_recipe({**settings, "crop": 1.0, **changes})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six images of 32 px."""
    root = tmp_path_factory.mktemp("train") / "set"
    images, labels = mock_galaxies(60, size=32, seed=2)
    for i in np.flatnonzero(labels < 3):
        (root / CLASSES[labels[i]]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(root / CLASSES[labels[i]] / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    return train(folder, recipe(epochs=2), out=root / "run", cache=root / "cache")


def test_where_a_frame_begins_is_learned_from_the_training_images_and_kept(folder: Path, tmp_path: Path) -> None:
    settings = {"network": {"equivariance": "frame"}}
    made = train(folder, recipe(**settings), out=tmp_path / "run", cache=tmp_path / "cache")
    learned = made.classifier.network.frame.weights_2K
    assert learned.any(1).all()
    # Training is that of the plain network, to the bit, and a plain model can be made to know as much afterwards.
    plain = train(folder, recipe(), out=tmp_path / "plain", cache=tmp_path / "cache")
    split = rows(tmp_path / "plain" / "splits" / "train.csv")
    framed = plain.classifier.framed([folder / row["file"] for row in split])
    assert framed.network.answers == made.classifier.network.answers
    for name, value in framed.network.state_dict().items():
        assert torch.equal(value, made.classifier.network.state_dict()[name])
    assert torch.equal(load(made.model).network.frame.weights_2K, learned)
    image = np.asarray(Image.open(next(folder.rglob("*.png"))))
    rolled = np.roll(image, (5, 14), (0, 1))
    answers = [load(made.model).predict(some).probabilities_NK for some in (image, rolled)]
    np.testing.assert_array_equal(*answers)
    # A run that starts from a model keeps what that has learned, whatever its images.
    settings = make_recipe({"epochs": 1, "batch_size": 8, "folds": 2, "device": "cpu"})
    other = train(folder, settings, init_from=made.model, out=tmp_path / "next", cache=tmp_path / "cache")
    assert torch.equal(other.classifier.network.frame.weights_2K, learned)


def test_the_run_folder_is_complete(folder: Path, trained: Trained) -> None:
    run = trained.run
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoint.safetensors",
        "history.csv",
        "history.pdf",
        "history.png",
        "model",
        "recipe.yaml",
        "run.json",
        "splits",
    ]
    assert trained.model == run / "model"
    assert sorted(p.name for p in trained.model.iterdir()) == [
        "README.md",
        "config.json",
        "extra.safetensors",
        "model.safetensors",
    ]
    images = open_source(folder)
    decided = decide(recipe(epochs=2, accumulate=1), images)[0]
    assert load_recipe(run / "recipe.yaml") == RunFolder(run).read_recipe() == decided
    record = json.loads((run / "run.json").read_text())
    assert record["source"] == str(folder)
    assert record["counts"] == images.counts()
    assert record["images"] == {"train": 14, "valid": 4}
    assert record["left_out"] == 0
    assert record["versions"]["torch"] == version("torch")
    assert len(rows(run / "history.csv")) == 2
    Image.open(run / "history.png").verify()


def test_the_splits_part_the_source(folder: Path, trained: Trained) -> None:
    images = open_source(folder)
    assert images.labels is not None
    parts = {name: rows(trained.run / "splits" / f"{name}.csv") for name in ("train", "valid")}
    named = {row["file"]: row["label"] for part in parts.values() for row in part}
    assert named == {file: images.classes[k] for file, k in zip(images.files, images.labels, strict=True)}
    assert len(parts["train"]) + len(parts["valid"]) == len(images)
    assert {row["label"] for row in parts["valid"]} == set(images.classes)


def test_the_model_folder_is_what_was_trained(folder: Path, trained: Trained) -> None:
    classifier = load(trained.model)
    assert classifier.classes == open_source(folder).classes
    ours, saved = trained.classifier.network.state_dict(), classifier.network.state_dict()
    assert all(torch.equal(ours[k], saved[k]) for k in ours)
    valid = {row["file"] for row in rows(trained.run / "splits" / "valid.csv")}
    images = open_source(folder)
    evaluation, _ = classifier.evaluate(images.subset([i for i, f in enumerate(images.files) if f in valid]))
    assert evaluation.n == trained.validation.n == 4
    np.testing.assert_array_equal(evaluation.confusion_KK, trained.validation.confusion_KK)
    assert evaluation["nll"] == pytest.approx(trained.validation["nll"], rel=1e-5)
    assert classifier.info.name == "astroformer_atto"
    assert "held out" in classifier.info.validation


def test_a_network_with_tied_weights_answers_alike_of_all_views(folder: Path, tmp_path: Path) -> None:
    by_the_rules = make_recipe({"epochs": 2, "batch_size": 8, "crop": 1.0, "device": "cpu"})
    first = train(folder, by_the_rules, out=tmp_path / "run", cache=tmp_path / "cache")
    free = make_recipe({"epochs": 1, "batch_size": 8, "device": "cpu"})
    second = train(folder, free, init_from=first.model, out=tmp_path / "next", cache=tmp_path / "cache")
    image = np.asarray(Image.open(next(folder.rglob("*.png"))))
    for trained in (first, second):
        classifier = load(trained.model)
        assert isinstance(classifier.network, Astroformer)
        assert classifier.network.config.group == "d4"
        assert classifier.preprocessing.image_size == (33, 33)
        assert "Unchanged by: quarter turns and flips." in (trained.model / "README.md").read_text()
        assert trained.history[-1]["valid_nll"] == pytest.approx(trained.validation["nll"], rel=1e-5)
        stored_CHW = classifier.preprocessing.apply(image)
        views = [np.rot90(v, k, (1, 2)) for k in range(4) for v in (stored_CHW, stored_CHW[..., ::-1])]
        answers = classifier.probabilities(np.stack(views))
        np.testing.assert_allclose(answers, answers[:1].repeat(8, 0), atol=1e-5)
    assert np.abs(load(first.model).predict(image).probabilities_NK - answers[0]).max() > 1e-4


def test_answers_are_averaged_over_views_once_the_network_is_trained(
    folder: Path, trained: Trained, tmp_path: Path
) -> None:
    classifier = load(trained.model)
    network = classifier.network
    assert isinstance(network, Answers)
    assert network.answers == AnswersConfig(symmetry="shift+d4", views=4)
    assert "Unchanged by: quarter turns and flips." in (trained.model / "README.md").read_text()
    valid = {row["file"] for row in rows(trained.run / "splits" / "valid.csv")}
    images = open_source(folder)
    held_out = images.subset([i for i, f in enumerate(images.files) if f in valid])
    # While it was trained it was asked about the images alone.
    alone, _ = load(trained.model, symmetry="shift").evaluate(held_out)
    assert trained.history[-1]["valid_nll"] == pytest.approx(alone["nll"], rel=1e-5)
    assert trained.validation["nll"] != pytest.approx(alone["nll"], rel=1e-4)
    settings = recipe(epochs=2, network={"symmetry": "shift"})
    other = train(folder, settings, out=tmp_path / "run", cache=tmp_path / "cache")
    assert other.history[-1]["valid_nll"] == pytest.approx(other.validation["nll"], rel=1e-5)
    ours, theirs = network.network.state_dict(), other.classifier.network.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_same_seed_gives_the_same_model(folder: Path, trained: Trained, tmp_path: Path) -> None:
    again = train(folder, recipe(epochs=2), out=tmp_path / "run", cache=tmp_path / "cache")
    other = train(folder, recipe(epochs=2, seed=1), out=tmp_path / "other", cache=tmp_path / "cache")
    ours, theirs, others = (t.classifier.network.state_dict() for t in (trained, again, other))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert not all(torch.equal(ours[k], others[k]) for k in ours)
    assert rows(again.run / "splits" / "valid.csv") != rows(other.run / "splits" / "valid.csv")


def test_a_decided_recipe_repeats_the_run(folder: Path, trained: Trained, tmp_path: Path) -> None:
    again = train(folder, load_recipe(trained.run / "recipe.yaml"), out=tmp_path / "run", cache=tmp_path / "cache")
    ours, theirs = (t.classifier.network.state_dict() for t in (trained, again))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_folds_validate_on_every_image_once(folder: Path, tmp_path: Path) -> None:
    runs = [
        train(folder, recipe(folds=3, fold=fold), out=tmp_path / str(fold), cache=tmp_path / "cache")
        for fold in range(3)
    ]
    held_out = [row["file"] for run in runs for row in rows(run.run / "splits" / "valid.csv")]
    assert sorted(held_out) == sorted(open_source(folder).files)
    assert "fold 2" in load(runs[2].model).info.validation
    with pytest.raises(UserError, match="folds"):
        train(folder, recipe(folds=3), valid=folder, out=tmp_path / "run", cache=tmp_path / "cache")
    with pytest.raises(UserError, match="0 to 2"):
        recipe(folds=3, fold=3)


def test_validation_images_can_be_given(folder: Path, tmp_path: Path) -> None:
    valid = tmp_path / "valid"
    for name in ("merging", "disturbed"):  # fewer classes than the training images have
        shutil.copytree(folder / name, valid / name)
    result = train(folder, recipe(), valid=valid, allow_shared=True, out=tmp_path / "run", cache=tmp_path / "cache")
    assert (result.validation.n, len(rows(result.run / "splits" / "train.csv"))) == (12, 18)
    assert result.validation.confusion_KK.sum(1).tolist() == [6, 6, 0]
    assert load(result.model).info.validation == "given"
    (valid / "merging").rename(valid / "mergign")
    with pytest.raises(UserError, match=r"'mergign'.*Did you mean 'merging'"):
        train(folder, recipe(), valid=valid, out=tmp_path / "run2", cache=tmp_path / "cache")


def test_damaged_files_are_left_out_or_refused(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "set"
    shutil.copytree(folder, source)
    (source / "merging" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of .* cannot be read .*broken.png.*--strict"):
        train(source, recipe(), out=tmp_path / "run", cache=tmp_path / "cache", strict=True)
    # What failed left nothing that would stand in the way of the same command, once the file is mended.
    result = train(source, recipe(), out=tmp_path / "run", cache=tmp_path / "cache")
    left_out = rows(result.run / "left_out.csv")
    assert [row["file"] for row in left_out] == ["merging/broken.png"]
    assert left_out[0]["reason"]
    record = json.loads((result.run / "run.json").read_text())
    assert (record["left_out"], sum(record["images"].values())) == (1, 18)


def test_a_run_is_never_overwritten(folder: Path, trained: Trained, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.run.rglob("*")}
    with pytest.raises(UserError, match=r"is not empty: it holds a finished run; give another --out\.$"):
        train(folder, recipe(), out=trained.run, cache=tmp_path)
    assert before == {p: p.stat().st_mtime_ns for p in trained.run.rglob("*")}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be made: it is a file"):
        train(folder, recipe(), out=tmp_path / "file", cache=tmp_path)
    with pytest.raises(UserError, match="can't be made"):
        train(folder, recipe(), out=tmp_path / "file" / "run", cache=tmp_path)


def test_a_run_by_the_clock_that_saw_its_images_too_seldom_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "from which a network learns little"
    train(folder, recipe(epochs=None, minutes=1e-4), out=tmp_path / "short", cache=tmp_path / "cache", quiet=True)
    assert said in " ".join(capsys.readouterr().err.split())
    train(folder, recipe(epochs=1), out=tmp_path / "asked", cache=tmp_path / "cache", quiet=True)  # somebody chose it
    assert said not in " ".join(capsys.readouterr().err.split())


def test_without_out_runs_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert RunFolder.create(None, "data/galaxies.npz").path == Path(f"runs/galaxies-{number}")
        assert RunFolder.create(None, "mock-galaxies:20x32").path == Path(f"runs/mock-galaxies-{number}")
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty", "x").path == tmp_path / "empty"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_weights": {"spiral": 2.0}}, "names 'spiral', which is no class"),
        ({"network": {"layout": "CCXT"}}, "layout is 'CCXT'"),
        ({"track": "tensorboard"}, r"needs the extra \[track\]"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=words):
        train(folder, recipe(**changes), out=tmp_path / "run", cache=tmp_path / "cache")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_too_few_images_and_one_class_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "merging", tmp_path / "one" / "merging")
    with pytest.raises(UserError, match="one class only"):
        train(tmp_path / "one", recipe(), out=tmp_path / "run", cache=tmp_path)
    (tmp_path / "one" / "round").mkdir()
    shutil.copy(next((folder / "merging").iterdir()), tmp_path / "one" / "round" / "x.png")
    with pytest.raises(UserError, match="class 'round' has 1 image, too few"):
        train(tmp_path / "one", recipe(), out=tmp_path / "run", cache=tmp_path)


# Starting from a model --------------------------------------------------------------------------------------


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights that each run of the test started from."""
    seen: list[dict[str, torch.Tensor]] = []

    class Noting(single_module.Loop):
        def fit(self) -> Any:
            seen.append({k: v.clone() for k, v in self.network.state_dict().items()})
            return super().fit()

    monkeypatch.setattr(single_module, "Loop", Noting)
    return seen


def test_init_from_the_same_classes_starts_from_the_same_weights(
    folder: Path, trained: Trained, tmp_path: Path, starts: list[dict[str, torch.Tensor]]
) -> None:
    free = Recipe(epochs=1, batch_size=8, device="cpu")
    result = train(folder, free, init_from=trained.model, out=tmp_path / "run", cache=tmp_path / "cache")
    saved = load_file(trained.model / "model.safetensors")
    assert starts[0].keys() == saved.keys()
    assert all(torch.equal(starts[0][k], saved[k]) for k in saved)
    before, after = trained.classifier.preprocessing, result.classifier.preprocessing
    assert after == before  # also the mean and deviation that these weights know
    assert json.loads((result.run / "run.json").read_text())["init_from"] == str(trained.model)
    assert result.classifier.info.name == "astroformer_atto"
    own, new = trained.classifier.network, result.classifier.network
    assert isinstance(own, Answers)
    assert isinstance(new, Answers)
    assert own.config == new.config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("shift+d4", 4)),
        ({"augment": "photo"}, ("shift+mirror", 4)),  # which the new run does not turn
        ({"network": {"symmetry": "shift"}}, ("shift", 4)),
        ({"network": {"views": 2}}, ("shift+d4", 2)),
    ],
)
def test_answers_after_init_from_have_the_symmetry_of_the_new_run(
    folder: Path, trained: Trained, tmp_path: Path, settings: dict[str, Any], expected: tuple[str, int]
) -> None:
    eight = load(trained.model)
    assert isinstance(eight.network, Answers)
    eight.network = Answers(eight.network.network, AnswersConfig(symmetry="shift+d4", views=8))
    eight.save(tmp_path / "eight")
    new = make_recipe({"epochs": 1, "batch_size": 8, "device": "cpu", **settings})
    result = train(folder, new, init_from=tmp_path / "eight", out=tmp_path / "run", cache=tmp_path / "cache")
    answers = answers_of(load(result.model).network)
    assert (answers.symmetry, answers.views) == expected


def test_init_from_other_classes_keeps_all_but_the_head(
    trained: Trained, tmp_path: Path, starts: list[dict[str, torch.Tensor]]
) -> None:
    free = Recipe(epochs=1, device="cpu")
    result = train("mock-galaxies:20x32", free, init_from=trained.run, out=tmp_path / "run", cache=tmp_path / "cache")
    saved = load_file(trained.model / "model.safetensors")
    other = {k for k in saved if starts[0][k].shape != saved[k].shape}
    assert {k.rsplit(".", 1)[0] for k in other} == {"head.classifier"}
    assert all(torch.equal(starts[0][k], saved[k]) for k in saved.keys() - other)
    assert load(result.model).classes == CLASSES
    assert result.validation.confusion_KK.shape == (10, 10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "astroformer_pico"}, "brings its own network"),
        ({"network": {"layout": "CCTT"}}, "brings its own network"),
        ({"channels": 1}, "channels is 1, but the model of --init-from has 3"),
    ],
)
def test_init_from_takes_no_other_network(
    folder: Path, trained: Trained, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(folder, make_recipe(changes), init_from=trained.model, out=tmp_path / "run", cache=tmp_path)


def test_init_from_runs_at_another_size(folder: Path, trained: Trained, tmp_path: Path) -> None:
    settings = Recipe(epochs=1, device="cpu", image_size=40)
    result = train(folder, settings, init_from=trained.model, out=tmp_path / "run", cache=tmp_path / "cache")
    again = load(result.model)
    assert again.preprocessing.image_size == (40, 40)
    pictures = open_source(folder, labelled=False)
    ours, theirs = result.classifier.predict(pictures), again.predict(pictures)
    np.testing.assert_array_equal(ours.probabilities_NK, theirs.probabilities_NK)


# Images of other kinds --------------------------------------------------------------------------------------


def test_images_that_are_not_square(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(4):
            pixels = generator.integers(0, 256, (40, 60, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{i}.jpg")
    settings = recipe(image_size=[32, 48], augment={"quarter_turns": False}, channels=3)
    result = train(tmp_path / "set", settings, out=tmp_path / "run", cache=tmp_path / "cache")
    assert load(result.model).preprocessing.image_size == (32, 48)
    network = result.classifier.network
    assert isinstance(network, Answers)
    assert (network.config.img_size, network.answers.symmetry) == ((32, 48), "shift+mirror")
    turned = make_recipe({"epochs": 1, "device": "cpu", "network": {"symmetry": "shift+d4"}, "image_size": [32, 48],
                          "augment": {"quarter_turns": False}})  # fmt: skip
    with pytest.raises(UserError, match="must be square"):  # before the work
        train(tmp_path / "set", turned, init_from=result.model, out=tmp_path / "other", cache=tmp_path / "cache")
    assert not (tmp_path / "other").exists()


def test_grey_images_of_five_classes_from_an_npz(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = ["v", "w", "x", "y", "z"]
    np.savez(
        tmp_path / "grey.npz",
        images=generator.integers(0, 2**16, (20, 36, 36)).astype(np.uint16),
        labels=np.arange(20) % 5,
        classes=np.array(names),
    )
    result = train(tmp_path / "grey.npz", recipe(), out=tmp_path / "run", cache=tmp_path / "cache")
    classifier = load(result.model)
    assert classifier.classes == tuple(names)
    assert (classifier.preprocessing.channels, classifier.preprocessing.dtype) == (1, "float16")
    assert isinstance(classifier.network, Answers)
    assert classifier.network.config.in_chans == 1
    assert classifier.network.config.num_classes == 5


# Around the run ---------------------------------------------------------------------------------------------


def test_precision_and_accumulation_of_one_run_do_not_stay_for_the_next(folder: Path, tmp_path: Path) -> None:
    for number, changes in enumerate(({"precision": "bf16", "accumulate": 2}, {"precision": "no"})):
        settings = recipe(batch_size=16, epochs=1, **changes)
        result = train(folder, settings, out=tmp_path / str(number), cache=tmp_path / "cache")
        assert np.isfinite(result.validation["nll"])
    fresh = train(folder, settings, out=tmp_path / "fresh", cache=tmp_path / "cache")
    ours, theirs = (t.classifier.network.state_dict() for t in (result, fresh))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_tensorboard(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = recipe(track="tensorboard", epochs=2)
    result = train(folder, settings, out=tmp_path / "run", cache=tmp_path / "cache")
    events = EventAccumulator(str(result.run / "tensorboard"))
    events.Reload()
    logged = events.Scalars("valid_balanced_accuracy")
    assert [e.step for e in logged] == [2, 4]
    expected = [row["valid_balanced_accuracy"] for row in result.history]
    assert [e.value for e in logged] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_two_parts(folder: Path, tmp_path: Path) -> None:
    """Processes share a batch as accumulated parts do, so their weights agree but for the order of sums."""
    settings = recipe(
        epochs=2,
        optimizer="sgd",
        learning_rate=0.01,
        network={"stochastic_depth": 0.0},
        ema=0.0,
        seed=4,
        precision="no",
    )
    (tmp_path / "recipe.yaml").write_text(settings.to_yaml())
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = ["astroformer.cli", "train", str(folder), "--recipe", str(tmp_path / "recipe.yaml")]
    places = ["--out", str(tmp_path / "two"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run(
        [*launch, *command, *places],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    parts = settings.model_copy(update={"accumulate": 2})
    one = train(folder, parts, out=tmp_path / "one", cache=tmp_path / "cache")
    two = load(tmp_path / "two" / "model")
    assert len(rows(tmp_path / "two" / "history.csv")) == len(rows(tmp_path / "one" / "history.csv")) == 2
    trained_here = dict(one.classifier.network.named_parameters())
    for name, value in two.network.named_parameters():
        torch.testing.assert_close(value, trained_here[name], rtol=1e-4, atol=1e-5)


def test_a_model_that_does_not_say_what_it_is_cannot_be_started_from(
    trained: Trained, folder: Path, tmp_path: Path
) -> None:
    model = replace(trained.classifier, info=ModelRecord()).save(tmp_path / "model")
    with pytest.raises(UserError, match="gives 'None' as its name; one of astroformer_0"):
        train(folder, Recipe(epochs=1, device="cpu"), init_from=model, out=tmp_path / "run", cache=tmp_path)


@pytest.mark.slow
def test_compiled_steps_train_and_leave_an_ordinary_model(folder: Path, tmp_path: Path) -> None:
    settings = recipe(epochs=2, speed="compiled", precision="no", seed=4)
    made = train(folder, settings, out=tmp_path / "compiled")
    plain = train(folder, settings.model_copy(update={"speed": "plain"}), out=tmp_path / "plain")
    ours, theirs = made.classifier.network.state_dict(), plain.classifier.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert made.history[-1]["train_loss"] == pytest.approx(plain.history[-1]["train_loss"], rel=0.02)
