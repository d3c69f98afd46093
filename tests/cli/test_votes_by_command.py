"""Votes through the command line, as Galaxy Zoo publishes them: a table of ids and fractions beside a folder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from astroformer.images.sets.mock_galaxies import mock_galaxies
from helpers.command_line import TINY, Run, table

QUESTION = ("Class1.1", "Class1.2", "Class1.3")


@pytest.fixture
def source(tmp_path: Path) -> str:
    """What is typed for 20 galaxies, on each of which some people voted."""
    folder = tmp_path / "zoo" / "images_training_rev1"
    folder.mkdir(parents=True)
    images, labels = mock_galaxies(20, size=40, seed=5)
    generator = np.random.default_rng(1)
    rows = [",".join(["GalaxyID", *QUESTION])]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / f"{100_008 + i}.jpg")
        votes = generator.multinomial(20, 0.1 + 0.7 * np.eye(3)[label % 3])
        rows.append(",".join([str(100_008 + i), *(f"{share:.6f}" for share in votes / 20)]))
    (tmp_path / "zoo" / "solutions.csv").write_text("\n".join(rows) + "\n")
    return f"zoo/solutions.csv@id=GalaxyID@pattern=images_training_rev1/{{id}}.jpg@votes={'+'.join(QUESTION)}"


def test_votes_from_the_table_to_the_figures(run: Run, source: str) -> None:
    trained = run("train", source, *TINY, "--out", "r")
    assert trained.status == 0, trained.err
    assert "votes cross-entropy" in trained.out
    assert "without label smoothing (--label-smoothing 0.1" in Path("r/run.json").read_text()
    assert "label_smoothing: 0.0" in Path("r/recipe.yaml").read_text()
    card = Path("r/model/README.md").read_text()
    assert "images of 'solutions.csv' by the votes of people" in card
    assert "| votes_cross_entropy |" in card
    assert "valid_votes_cross_entropy" in table(Path("r/history.csv"))[0]

    measured = run("evaluate", "r", "r/splits/valid.csv", "--out", "e")
    assert measured.status == 0, measured.err
    held_out = run("evaluate", "r", "--out", "f")
    assert held_out.status == 0
    without = table(Path("f/predictions.csv"))
    assert [{name: row[name] for name in without[0]} for row in table(Path("e/predictions.csv"))] == without
    found = json.loads(Path("e/metrics.json").read_text())
    rows = table(Path("e/predictions.csv"))
    columns = ["label", "correct", *(f"votes:{name}" for name in QUESTION)]
    assert list(rows[0])[7:] == [*columns, "GalaxyID", *QUESTION]  # behind ours those of the catalog
    assert [row["file"] for row in rows] == [f"images_training_rev1/{row['GalaxyID']}.jpg" for row in rows]
    shares = np.array([[float(row[f"votes:{name}"]) for name in QUESTION] for row in rows])
    answers = np.array([[float(row[f"p:{name}"]) for name in QUESTION] for row in rows])
    expected = float(-(shares * np.log(answers)).sum(1).mean())
    assert found["votes_cross_entropy"]["value"] == pytest.approx(expected, rel=1e-5)
    assert max(map(len, measured.out.splitlines()[:-1])) <= 80

    reported = run("report", "r", "r/splits/valid.csv", "--out", "page", "--symmetry-images", "2")
    assert reported.status == 0, reported.err
    content = json.loads(Path("page/report.json").read_text())
    assert content["votes_brier"] == found["votes_brier"]
    confidence, called = answers.max(1), shares[np.arange(len(rows)), answers.argmax(1)]
    edges = np.linspace(0, 1, 16)
    bins = [(confidence > low) & (confidence <= high) for low, high in itertools.pairwise(edges)]
    error = sum(abs((called - confidence)[inside].sum()) for inside in bins) / len(rows)
    assert content["votes_ece"]["value"] == pytest.approx(error, rel=1e-4)
    assert "The labels are votes." in Path("page/report.html").read_text()

    Path("zoo/solutions.csv").write_text(Path("zoo/solutions.csv").read_text().replace("0.100000", "0.110000"))
    changed = run("evaluate", "r", "r/splits/valid.csv")
    assert changed.status == 2
    assert "other votes or another weight" in changed.err or "the label" in changed.err


def test_classes_are_called_as_somebody_says_and_a_model_of_labels_is_judged_by_votes(run: Run, source: str) -> None:
    named = f"{source}@classes=smooth+featured+star"
    assert run("train", named, *TINY, "--out", "r").status == 0
    for words in (["r"], ["r", "r/splits/valid.csv"], ["r", named]):
        measured = run("evaluate", *words, "--out", f"e{len(words[-1])}")
        assert measured.status == 0, measured.err
        assert "votes:featured" in table(Path(f"e{len(words[-1])}/predictions.csv"))[0]
    assert run("predict", "r", source, "--out", "p.csv").status == 0
    assert "p:star" in table(Path("p.csv"))[0]
    assert "smooth" in Path("r/splits/valid.csv").read_text()

    rows = table(Path("zoo/solutions.csv"))
    labels = [f"{row['GalaxyID']},{('smooth', 'featured', 'star')[i % 3]}" for i, row in enumerate(rows)]
    Path("zoo/labels.csv").write_text("\n".join(["GalaxyID,label", *labels]) + "\n")
    by_label = source.replace("solutions", "labels").partition("@votes")[0]
    assert run("train", by_label, *TINY, "--out", "s").status == 0
    refused = run("evaluate", "s", source).refusal()
    assert "unknown class in the votes" in refused
    assert "with @classes how the model calls them" in refused
    measured = run("evaluate", "s", named, "--out", "f")
    assert measured.status == 0, measured.err
    assert "votes_cross_entropy" in Path("f/metrics.json").read_text()


@pytest.mark.slow
def test_a_split_is_trained_on_again(run: Run, galaxy_folder: Path) -> None:
    assert run("train", galaxy_folder, *TINY, "--out", "first").status == 0
    again = run("train", "first/splits/train.csv", "--valid", "first/splits/valid.csv", *TINY, "--out", "second")
    assert again.status == 0, again.err
    for part in ("train.csv", "valid.csv"):
        assert Path("second/splits", part).read_bytes() == Path("first/splits", part).read_bytes()
    weights = "model/model.safetensors"
    assert Path("second", weights).read_bytes() == Path("first", weights).read_bytes()
    assert run("evaluate", "second", "--out", "e").status == 0
