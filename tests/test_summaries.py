"""What a person sees of a result at first sight: a few lines that fit, whatever names and numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import astroformer
from astroformer.classifier import Classifier
from astroformer.metrics import score
from astroformer.summaries import Summarized, Summary, some_of
from astroformer.training.recipe import make_recipe
from astroformer.training.study import TrainedStudy

SMALL = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layout": "CCCC", "channel_attention": "none"}
RECIPE = make_recipe(
    {"model": "astroformer_atto", "network": SMALL, "image_size": 32, "crop": 1.0, "epochs": 1, "device": "cpu"}
)


class Named(Summarized):
    def summary(self) -> Summary:
        return Summary("A <title>", {"na<me": "a\nb \x1b[2J \udce9", "longer name": "1 & 2"})


def test_text_stays_in_its_line_and_moves_no_cursor() -> None:
    assert repr(Named()).splitlines() == [
        "A <title>",
        r"  na<me        a\nb \x1b[2J \udce9",
        "  longer name  1 & 2",
    ]
    repr(Named()).encode()


def test_html_is_escaped() -> None:
    html = Named()._repr_html_()
    assert html.startswith("<b>A &lt;title&gt;</b><table>")
    assert "na&lt;me" in html
    assert "1 &amp; 2" in html
    assert r"a\nb" in html
    html.encode()


def test_many_names_are_cut() -> None:
    assert some_of([]) == ""
    assert some_of(["x" * 300]) == "x" * 300
    assert some_of(["x" * 300, "y", "z"]) == "x" * 300 + ", … (2 more)"


def test_a_model(classifier: Classifier, tmp_path: Path) -> None:
    folder = classifier.save(tmp_path / "model")
    loaded = astroformer.load(folder)
    text = repr(loaded)
    assert len(text) < 900
    for part in ("astroformer_atto", "10 classes", "disturbed, merging", "32 × 32 px", str(folder), "the fast path"):
        assert part in text
    top1 = classifier.info.metrics.intervals["top1"]  # type: ignore[union-attr]
    assert f"accuracy           {100 * top1.value:.1f} %   (95 % interval {100 * top1.low:.1f} % to" in text
    assert "validation images  50" in text
    assert "network.forward" in repr(astroformer.load(folder, fast=False))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> astroformer.training.ensemble.TrainedEnsemble:
    out = tmp_path_factory.mktemp("ensemble") / "run"
    return astroformer.train_ensemble("mock-galaxies:40x32", RECIPE, members=2, together="in-turn", out=out, quiet=True)


def test_what_training_gives_back(study: astroformer.training.ensemble.TrainedEnsemble, tmp_path: Path) -> None:
    trained = astroformer.train("mock-galaxies:40x32", RECIPE, out=tmp_path / "run", quiet=True)
    for made, words in (
        (trained, ("validation images", "accuracy", "interval", "30 images", str(tmp_path / "run" / "model"))),
        (study, ("TrainedEnsemble of 2", "accuracy of a member", "±", str(study.model))),
        (study.members, ("TrainedStudy: 2 runs", "seed-0, seed-1", "±", str(study.run))),
        (trained.validation, ("Evaluation: 10 images, 10 classes", "macro F1")),
    ):
        assert len(repr(made)) < 900
        for word in words:
            assert word in repr(made)
            assert word in made._repr_html_()


def test_runs_that_failed() -> None:
    failed = TrainedStudy(Path("runs/a-1"), {}, {}, {"seed-0": "no"}, [{"run": "seed-0", "error": "no"}])
    assert "failed    seed-0" in repr(failed)


def test_folds_are_scored_over_all_images() -> None:
    measured = score(np.array([0, 1, 1, 0]), np.eye(2)[[0, 1, 0, 0]], ("a", "b"), resamples=10)
    study = TrainedStudy(Path("runs/a-1"), {}, {}, {}, [], {0: measured})
    assert "accuracy out of fold  75.0 %   (95 % interval" in repr(study)
    assert "n = 4" in repr(study)
