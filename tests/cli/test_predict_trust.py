"""`astroformer predict` with sets of classes, abstaining, and other shares of the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from astroformer.classifier import Classifier
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.trust.conformal import ConformalSets
from astroformer.trust.held_out import HeldOut
from astroformer.trust.trust import Trust
from helpers.command_line import Run, table
from helpers.interrupting import interrupted_after

SHARES = ",".join(f"{name}={0.55 if name == 'merging' else 0.05}" for name in CLASSES)


@pytest.fixture
def trusted(classifier: Classifier, tmp_path: Path) -> Path:
    """A model folder that keeps the answers to images whose classes are drawn from these answers."""
    images, _ = mock_galaxies(300, size=32, seed=8)
    probabilities_NK = classifier.probabilities(images.transpose(0, 3, 1, 2))
    rng = np.random.default_rng(0)
    labels_N = np.array([rng.choice(10, p=p_K / p_K.sum()) for p_K in probabilities_NK])
    held_out = HeldOut.of(np.log(probabilities_NK), labels_N, np.arange(300, dtype=np.uint64))
    classifier.trust = Trust.fitted_on(held_out)
    return classifier.save(tmp_path / "trusted")


def numbers(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(row[f"p:{name}"]) for name in CLASSES] for row in rows])


def test_sets_and_abstaining_are_columns_behind_the_error(
    run: Run, trusted: Path, classifier: Classifier, galaxy_folder: Path
) -> None:
    words = ["predict", trusted, galaxy_folder, "--quiet"]
    assert run(*words, "--out", "plain.csv").status == 0
    said = run(*words, "--coverage", "0.8", "--purity", "0.5", "--out", "p.csv")
    assert said.status == 0
    assert "sets that hold the true class of 80 % of images" in said.out
    assert "cuts for a purity of 50 %, by 300 calibration images" in said.out
    assert said.out.splitlines()[-1] == "predictions: p.csv"
    plain, rows = table(Path("plain.csv")), table(Path("p.csv"))
    assert list(rows[0]) == [*plain[0], "prediction_set", "abstain"]
    assert [{name: row[name] for name in plain[0]} for row in rows] == plain  # nothing else changes
    trust = classifier.trust
    assert trust.held_out is not None
    sets = ConformalSets.fit(trust.held_out.labels_N, trust.of_held_out(), 0.8)
    for row, held_K in zip(rows, sets.sets_NK(numbers(rows) / numbers(rows).sum(1, keepdims=True)), strict=True):
        assert row["prediction_set"] == "|".join(name for name, held in zip(CLASSES, held_K, strict=True) if held)
        assert row["abstain"] in ("true", "false")
    assert run(*words, "--coverage", "0.8", "--purity", "0.5", "--out", "p.parquet").status == 0
    written = pyarrow.parquet.read_table("p.parquet")
    assert [str(value).lower() for value in written["abstain"].to_pylist()] == [row["abstain"] for row in rows]


def test_sets_go_on_where_predictions_were_ended(
    run: Run, trusted: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", trusted, galaxy_folder, "--quiet", "--batch-size", "4", "--coverage", "0.8"]
    assert run(*words, "--out", "whole.csv").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(2, KeyboardInterrupt()))
        assert run(*words, "--out", "p.csv").status == 130
    assert "another value of 'coverage'" in run(*words[:-1], "0.7", "--out", "p.csv", "--resume").refusal()
    assert "another value of 'columns'" in run(*words[:-2], "--out", "p.csv", "--resume").refusal()
    said = run(*words, "--out", "p.csv", "--resume")
    assert "without the 8 rows that were there already" in said.out
    assert Path("p.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_rows_of_another_calibration_are_not_gone_on_from(
    run: Run, trusted: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", trusted, galaxy_folder, "--quiet", "--batch-size", "4", "--out", "p.csv"]
    for begun, resumed in ((["--calibration", "none"], []), ([], ["--calibration", "none"])):
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "iter_predict", interrupted_after(2, KeyboardInterrupt()))
            assert run(*words, *begun, "--overwrite").status == 130
        assert "another value of 'calibration'" in run(*words, *resumed, "--resume").refusal()


def test_stated_shares_change_the_probabilities(run: Run, trusted: Path, galaxy_folder: Path) -> None:
    words = ["predict", trusted, galaxy_folder, "--quiet"]
    assert run(*words, "--out", "plain.csv").status == 0
    said = run(*words, "--priors", SHARES, "--out", "p.csv")
    assert "probabilities for other shares of the classes" in said.out
    before_NK, after_NK = numbers(table(Path("plain.csv"))), numbers(table(Path("p.csv")))
    merging = CLASSES.index("merging")
    assert (after_NK[:, merging] > before_NK[:, merging]).all()
    np.testing.assert_allclose(after_NK.sum(1), 1, atol=1e-6)
    for row in table(Path("p.csv")):
        assert float(row["confidence"]) == max(float(row[f"p:{name}"]) for name in CLASSES)


def test_estimated_shares_are_counted(run: Run, trusted: Path, galaxy_folder: Path) -> None:
    words = ["predict", trusted, galaxy_folder, "--priors", "estimate", "--batch-size", "7"]
    said = run(*words, "--out", "p.csv", "--features", "f.parquet")
    assert said.status == 0
    assert "images of each class, estimated with 300 calibration images" in said.out
    assert said.err.count("predicting: 30 images") == 1
    assert len(table(Path("p.csv"))) == pyarrow.parquet.read_table("f.parquet").num_rows == 30
    assert run(*words[:-1], "30", "--out", "again.csv", "--quiet").status == 0
    np.testing.assert_allclose(numbers(table(Path("again.csv"))), numbers(table(Path("p.csv"))), atol=1e-5)


def test_what_is_stopped_before_the_shares_are_known_leaves_nothing(
    run: Run, trusted: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(Path().iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(2, KeyboardInterrupt()))
        said = run("predict", trusted, galaxy_folder, "--batch-size", "4", "--priors", "estimate", "--out", "p.csv")
    assert said.status == 130
    assert set(Path().iterdir()) == before


def test_an_unreadable_image_has_neither_set_nor_abstain(
    run: Run, trusted: Path, galaxy_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for i, file in enumerate(sorted(galaxy_folder.rglob("*.png"))[:3]):
        (folder / f"{i}.png").write_bytes(file.read_bytes() if i != 1 else b"no image")
    for words in (["--coverage", "0.8", "--purity", "0.5"], ["--priors", "estimate"]):
        name = f"{words[0].strip('-')}.csv"
        assert run("predict", trusted, folder, *words, "--out", name).status == 0
        row = table(Path(name))[1]
        assert [row.get(column, "") for column in ("prediction", "p:merging", "prediction_set", "abstain")] == [""] * 4
        assert "--strict" not in row["error"]
        said = run("predict", trusted, folder, *words, "--out", f"strict-{name}", "--strict")
        assert "strict refuses that" in said.refusal()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--coverage", "0.999"], "need at least 999 calibration images, and 300 are there"),
        (["--coverage", "90"], "--coverage is 90.0; a share between 0 and 1 is needed"),
        (["--coverage", "lots"], "--coverage can't be 'lots'; a number is needed"),
        (["--sets", "aps"], "--sets aps is of sets"),
        (["--coverage", "0.9", "--sets", "ars"], "unknown --sets 'ars'"),
        (["--purity", "0.9", "--priors", "estimate"], "--purity holds where"),
        (["--priors", "merging=1"], "--priors states no share of"),
        (["--priors", "estimate", "--resume", "--out", "p.csv"], "leave out one of the two"),
        (["--coverage", "0.9", "--symmetry", "shift+mirror"], "leave the symmetry out"),
    ],
)
def test_refusals(run: Run, trusted: Path, galaxy_folder: Path, words: list[str], says: str) -> None:
    before = set(Path().iterdir())
    assert says in run("predict", trusted, galaxy_folder, *words).refusal().splitlines()[-1]
    assert set(Path().iterdir()) == before


def test_a_model_without_held_out_images(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    said = run("predict", model_folder, galaxy_folder, "--coverage", "0.9").refusal()
    assert "need the answers to images that were held out of the training" in said
