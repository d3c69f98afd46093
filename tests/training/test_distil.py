"""Distilling a run: one network learns what the run's model answers, on the same images and split."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import astroformer
from astroformer.classifier import Classifier
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.store import ImageStore
from astroformer.network import Ensemble, create_network
from astroformer.progress import Reporter
from astroformer.training.batches import Batches
from astroformer.training.distil import distil
from astroformer.training.ensemble import TrainedEnsemble, train_ensemble
from astroformer.training.loop import Loop
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.stopping import Interrupted
from astroformer.training.study import train_many
from astroformer.training.train import resume, train

SOURCE = "mock-galaxies:40x32"


def recipe(**changes: Any) -> Recipe:
    settings = {"model": "astroformer_atto", "epochs": 1, "batch_size": 8, "image_size": 32, "device": "cpu"}
    return make_recipe({**settings, "crop": 1.0, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distil-cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> TrainedEnsemble:
    """An ensemble of two. Read only."""
    out = tmp_path_factory.mktemp("distil") / "run"
    return train_ensemble(SOURCE, recipe(seed=3), members=2, out=out, cache=cache, together="in-turn")


def test_one_network_on_the_split_of_the_ensemble(
    trained: TrainedEnsemble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["train", "--distil", str(trained.run), "--out", str(tmp_path / "one"), "--epochs", "2", "--quiet"]) == 0
    )
    shown = capsys.readouterr().out
    assert f"model: {tmp_path / 'one' / 'model'}" in shown
    one = astroformer.load(tmp_path / "one")
    assert not isinstance(one.network, Ensemble)
    assert one.preprocessing == trained.classifier.preprocessing
    for part in ("train.csv", "valid.csv"):
        theirs = (trained.run / "seed-3" / "splits" / part).read_bytes()
        assert (tmp_path / "one" / "splits" / part).read_bytes() == theirs
    assert "on the answers of 'run'" in one.info.training
    assert "2 epochs" in one.info.training
    made = RunFolder.open(tmp_path / "one").read_recipe()
    assert (made.seed, made.split_seed, made.label_smoothing, made.epochs) == (5, 3, 0.0, 2)
    decisions = json.loads((tmp_path / "one" / "run.json").read_text())["decisions"]
    assert "an ensemble of 2 networks" in decisions[-1]
    again = distil(trained.run, out=tmp_path / "again", epochs=2)
    assert (again.model / "model.safetensors").read_bytes() == (
        tmp_path / "one" / "model" / "model.safetensors"
    ).read_bytes()
    other = distil(trained.run, out=tmp_path / "other", epochs=2, seed=9)
    assert (other.model / "model.safetensors").read_bytes() != (again.model / "model.safetensors").read_bytes()


def preprocessing_of(size: int = 32) -> Preprocessing:
    return Preprocessing(image_size=(size, size), channels=3, crop=1.0, fit="crop", dtype="uint8")


def store_of(labels_N: np.ndarray, cache: Path, size: int) -> tuple[ImageStore, Preprocessing]:
    images = np.random.default_rng(0).integers(0, 256, (len(labels_N), size, size, 3)).astype(np.uint8)
    files = [str(i) for i in range(len(images))]
    preprocessing = preprocessing_of(size)
    source = LabelledImages("noise", files, labels_N, ("a", "b", "c"), lambda i: images[i])
    return ImageStore.build(source, preprocessing, cache=cache), preprocessing


def loop_of(labels_N: np.ndarray, cache: Path, teacher: Classifier | None, **changes: Any) -> Loop:
    store, preprocessing = store_of(labels_N, cache, changes.get("image_size", 32))
    torch.manual_seed(1)
    network = create_network("astroformer_atto", num_classes=3, img_size=32)
    words = {"learning_rate": 1e-3, "accumulate": 1, "channels": 3, "storage": "uint8", "augment": {"mixup": 0.3}}
    made = recipe(**{**words, "precision": "no", "speed": "plain", "progressive": 0.0, **changes})
    accelerator = Accelerator(cpu=True)
    return Loop(network, store, store, preprocessing, made, teacher=teacher, accelerator=accelerator)


@pytest.fixture
def teacher() -> Classifier:
    torch.manual_seed(0)
    networks = [create_network("astroformer_atto", num_classes=3, img_size=32).eval() for _ in range(2)]
    return Classifier.ensemble([Classifier(n, preprocessing_of(), ("a", "b", "c")) for n in networks])


def test_targets_are_the_answers_to_the_batch_that_is_learned(
    teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = loop_of(np.arange(12) % 3, tmp_path, teacher)
    seen: list[tuple[Tensor, Tensor]] = []
    take = Batches.take

    def noted(self: Batches, *of: Any) -> Any:
        batch = take(self, *of)
        seen.append((batch.x_BCHW, batch.y_BK))
        return batch

    monkeypatch.setattr(Batches, "take", noted)
    loop.fit()
    assert len(seen) == loop.steps_per_epoch
    for x_BCHW, y_BK in seen:
        with torch.no_grad():
            expected_BK = torch.stack([n(x_BCHW).softmax(1) for n in teacher.network.members]).mean(0)
        torch.testing.assert_close(y_BK, expected_BK, rtol=0, atol=1e-5)
        assert y_BK.dtype == torch.float32


def test_labels_have_no_part_in_it(teacher: Classifier, tmp_path: Path) -> None:
    labels_N = np.arange(12) % 3
    weights = [
        loop_of(some, tmp_path, by).fit().network.head.classifier.weight
        for some, by in ((labels_N, teacher), (labels_N[::-1].copy(), teacher), (labels_N[::-1].copy(), None))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_batches_made_beside_the_steps_are_those_made_between_them(
    teacher: Classifier, tmp_path: Path, threads_as_before: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher.preprocessing = preprocessing_of(44)
    makers: list[set[int]] = []
    sizes: list[list[int]] = []
    weights = []
    make = Batches._augmented

    def noted(self: Batches, *of: Any) -> tuple[Tensor, Tensor]:
        x_BCHW, y_BK = make(self, *of)
        makers[-1].add(threading.get_ident())
        sizes[-1].append(x_BCHW.shape[-1])
        return x_BCHW, y_BK

    monkeypatch.setattr(Batches, "_augmented", noted)
    for some in (2, 1):  # one thread has no other beside it
        torch.set_num_threads(some)
        # Six steps, the last two of images of 44 px, not 32: the fifth is not what was foreseen.
        loop = loop_of(np.arange(22) % 3, tmp_path, teacher, epochs=2, image_size=44, progressive=0.6)
        makers.append(set())
        sizes.append([])
        weights.append(loop.fit().network.head.classifier.weight)
        assert torch.get_num_threads() == some
    assert threading.get_ident() not in makers[0]
    assert makers[1] == {threading.get_ident()}
    assert sizes == [[32, 32, 32, 32, 32, 44, 44], [32, 32, 32, 32, 44, 44]]
    assert torch.equal(weights[0], weights[1])


def test_the_teacher_is_asked_in_the_precision_of_the_run(teacher: Classifier, tmp_path: Path) -> None:
    for precision, expected in (("no", "float32"), ("bf16", "bfloat16")):
        loop = loop_of(np.arange(12) % 3, tmp_path, teacher, precision=precision)
        assert loop.batches.teacher is not None
        assert loop.batches.teacher.precision == expected
    assert teacher.precision == "float32"


def test_many_images_are_answered_in_parts(teacher: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    x_BCHW = torch.randn(7, 3, 32, 32)
    whole = teacher.answers(x_BCHW)
    monkeypatch.setattr(astroformer.predictor, "_TARGET_IMAGES", 3)
    sizes: list[int] = []
    ask = teacher._asked()
    monkeypatch.setattr(teacher, "_asked", lambda: lambda x: (sizes.append(len(x)), ask(x))[1])
    torch.testing.assert_close(teacher.answers(x_BCHW), whole, rtol=0, atol=1e-6)
    assert sizes == [3, 3, 1]


def test_a_teacher_of_other_images_is_refused(teacher: Classifier, tmp_path: Path) -> None:
    teacher.classes = ("a", "b", "d")
    with pytest.raises(UserError, match="other classes"):
        loop_of(np.arange(12) % 3, tmp_path, teacher)


def test_resumed_it_is_the_same_to_the_bit(
    trained: TrainedEnsemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distil(trained.run, out=tmp_path / "whole", epochs=2)
    made = Loop._asked_to_stop
    monkeypatch.setattr(Loop, "_asked_to_stop", lambda loop: loop.state.updates == 3)
    with pytest.raises(Interrupted):
        distil(trained.run, out=tmp_path / "part", epochs=2)
    monkeypatch.setattr(Loop, "_asked_to_stop", made)
    part = resume(tmp_path / "part")
    assert (part.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


def test_a_teacher_that_has_changed_is_not_gone_on_with(
    trained: TrainedEnsemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_asked_to_stop", lambda loop: loop.state.updates == 2)
        with pytest.raises(Interrupted):
            distil(run, out=tmp_path / "part")
    shutil.rmtree(run / "model")
    shutil.copytree(trained.run / "seed-3" / "model", run / "model")
    with pytest.raises(UserError, match="has other weights"):
        resume(tmp_path / "part")
    shutil.rmtree(run / "model")
    with pytest.raises(UserError, match="model"):
        resume(tmp_path / "part")


def test_a_single_run_can_be_learned_from(cache: Path, tmp_path: Path) -> None:
    first = train(SOURCE, recipe(folds=4, fold=2), out=tmp_path / "first", cache=cache)
    second = distil(first.run, out=tmp_path / "second", reporter=Reporter(quiet=True))
    for part in ("train.csv", "valid.csv"):
        assert (second.run / "splits" / part).read_bytes() == (first.run / "splits" / part).read_bytes()
    assert second.classifier.info.validation == first.classifier.info.validation
    assert "1 epochs" in second.classifier.info.training


def test_what_can_not_be_learned_from_is_refused(trained: TrainedEnsemble, cache: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    shutil.rmtree(run / "model")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="finish it first"):
        distil(run, out=out)
    with pytest.raises(UserError, match="no run folder"):
        distil(tmp_path, out=out)
    with pytest.raises(UserError, match="exclude each other"):
        distil(trained.run, out=out, epochs=1, minutes=1.0)
    with pytest.raises(UserError, match="epochs"):
        distil(trained.run, out=out, epochs=0)
    several = train_many(SOURCE, [recipe(seed=s) for s in (0, 1)], out=tmp_path / "several", cache=cache)
    with pytest.raises(UserError, match="several runs"):
        distil(several.run, out=out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["S", "--distil", "R"], "leave out the source 'S'"),
        (["--distil", "R", "--model", "astroformer_nano"], "leave out --model"),
        (["--distil", "R", "--resume", "R"], "leave out --"),
        (["--distil", "nowhere"], "'nowhere' is no run folder (no recipe.yaml in it); give that of"),
    ],
)
def test_the_command_line_says_what_is_wrong(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 2
    assert said in capsys.readouterr().err
