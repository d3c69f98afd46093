"""`astroformer predict`: a model is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import astroformer
from astroformer.classifier import Classifier
from astroformer.cli.common import tell_ignored
from astroformer.images.labelled import LabelledImages
from astroformer.images.sets.mock_galaxies import CLASSES
from helpers.command_line import Run, table
from helpers.interrupting import interrupted_after


def test_predict_gives_every_file_a_row(run: Run, model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(galaxy_folder.rglob("*.png"))[:5]):
        (flat / f"{i}.png").write_bytes(file.read_bytes())
    (flat / "2.png").write_bytes(b"no image")
    said = run("predict", model_folder, flat, "--out", "p.csv", "--batch-size", "2")
    assert said.status == 0
    first, title, *classes, last = said.out.splitlines()
    assert (first, last) == ("4 predictions", "predictions: p.csv")
    assert title.split() == ["class", "images", "share", "mean", "confidence"]
    assert sum(int(line.replace(" more", "").split()[1]) for line in classes) == 4
    assert said.err.splitlines() == [
        "predicting: 5 images",
        "1 of 5 images can't be taken; column error of 'p.csv' says why",
    ]
    rows = table(tmp_path / "p.csv")
    assert list(rows[0]) == ["file", "prediction", "confidence", *(f"p:{name}" for name in CLASSES), "error"]
    assert [row["file"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [bool(row["error"]) for row in rows] == [False, False, True, False, False]
    assert "not a JPEG" in rows[2]["error"]
    assert rows[2]["prediction"] == rows[2]["confidence"] == rows[2]["p:merging"] == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "M", "G", "--out", "p.txt"], "must end in .csv or .parquet"),
        (["predict", "M", "G", "--out", "no/p.csv"], "folder 'no' does not exist"),
        (["predict", "M", "G", "--out", "p.csv", "--batch-size", "0"], "batch_size is 0"),
        (["predict", "M", "G", "--out", "p.csv", "--device", "gpu"], "unknown device 'gpu'"),
        (["predict", "M", "nowhere", "--out", "p.csv"], "'nowhere' is neither a file or folder"),
        (["predict", "G", "G", "--out", "p.csv"], "is no model folder: it has no config.json"),
        (["predict", "M", "G", "G/merging"], "is named twice"),
        (["predict", "M", "x*.png"], "'x*.png' stands for no file or folder"),
        (["predict", "M", "G", "--root", "."], "--root says where the images of a catalog lie, and"),
        (["predict", "M", "G", "--columns", "ra"], "has no column 'ra': a catalog has columns"),
        (["predict", "M", "G", "--columns", "ra,,dec"], "--columns 'ra,,dec' names an empty column"),
        (["predict", "M", "G", "--features", "f.csv"], "must end in .parquet"),
        (["predict", "M", "G", "--features", "file"], "'file' exists already"),
        (["predict", "M", "G", "--out", "p.parquet", "--features", "p.parquet"], "are both 'p.parquet'"),
        (["predict", "M", "G", "--out", "p.csv", "--resume", "--features", "f.parquet"], "leave out one of the two"),
        (["predict", "M"], "missing SOURCE (what to classify"),
    ],
)
def test_predict_refuses_with_one_sentence(
    run: Run, model_folder: Path, galaxy_folder: Path, words: list[str], says: str
) -> None:
    Path("file").write_text("x")
    before = set(Path().iterdir())
    named = {"M": str(model_folder), "G": str(galaxy_folder), "G/merging": str(galaxy_folder / "merging")}
    assert says in run(*(named.get(word, word) for word in words)).refusal()
    assert set(Path().iterdir()) == before  # nothing half-made is left


def galaxies_by_name(galaxy_folder: Path) -> list[str]:
    """Paths of six galaxies, as words of a command."""
    return [str(file) for file in sorted(galaxy_folder.rglob("*.png"))[:6]]


def test_several_sources_are_one_table(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    one, two, *_ = galaxies_by_name(galaxy_folder)
    folder = galaxy_folder / "merging"
    said = run("predict", model_folder, one, two, f"{galaxy_folder}/edge_on*/*.png", folder, "--out", "p.csv")
    assert said.status == 0
    rows = {row["file"]: row for row in table(Path("p.csv"))}
    edges = sorted(str(file) for file in galaxy_folder.glob("edge_on*/*.png"))
    assert list(rows)[:2] == [one, two]
    assert sorted(rows) == sorted([one, two, *edges, *map(str, folder.glob("*.png"))])
    assert all(Path(file).is_file() for file in rows)  # each name leads to its image
    assert run("predict", model_folder, two, "--out", "alone.csv").status == 0
    [alone] = table(Path("alone.csv"))
    assert (alone["file"], alone["prediction"]) == (two, rows[two]["prediction"])
    assert float(alone["confidence"]) == pytest.approx(float(rows[two]["confidence"]), abs=1e-5)


def test_several_sources_go_on_where_they_were_ended(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", model_folder, *galaxies_by_name(galaxy_folder)[:2], galaxy_folder / "merging", "--quiet"]
    words += ["--batch-size", "2"]
    whole = run(*words, "--out", "whole.csv")
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(2, KeyboardInterrupt()))
        assert run(*words, "--out", "p.csv").status == 130
    assert "another value of 'images'" in run(*words[:3], *words[4:], "--out", "p.csv", "--resume").refusal()
    said = run(*words, "--out", "p.csv", "--resume")
    assert said.err == "4 of 5 rows are there already\n"
    assert Path("p.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert said.out == whole.out.replace("whole.csv", "p.csv")  # the summary counts the rows of before too


@pytest.fixture
def catalog(galaxy_folder: Path, tmp_path: Path) -> Path:
    """A catalog whose images lie elsewhere, with a column that is called as one of the predictions."""
    folder = tmp_path / "catalogs"
    folder.mkdir()
    names = [Path(file).relative_to(galaxy_folder) for file in galaxies_by_name(galaxy_folder)]
    lines = [f"{name},{i + 0.5},{name.parent},old {i}" for i, name in enumerate(names)]
    (folder / "cat.csv").write_text("\n".join(["file,ra,label,prediction", *lines]) + "\n")
    return folder / "cat.csv"


def test_root_and_columns_of_a_catalog(run: Run, model_folder: Path, galaxy_folder: Path, catalog: Path) -> None:
    words = ["predict", model_folder, catalog, "--root", galaxy_folder, "--quiet"]
    assert "Say where they lie with" in run("predict", model_folder, catalog).refusal()
    assert run(*words, "--out", "p.csv").status == 0
    columns = ["file", "prediction", "confidence", *(f"p:{name}" for name in CLASSES), "error"]
    assert list(table(Path("p.csv"))[0]) == columns
    assert run(*words, "--columns", "ra", "--out", "ra.csv").status == 0
    rows = table(Path("ra.csv"))
    assert list(rows[0]) == [*columns, "ra"]
    assert [row["ra"] for row in rows] == [f"{i}.5" for i in range(6)]
    assert run(*words, "--columns", "all", "--out", "all.csv").status == 0
    rows = table(Path("all.csv"))
    assert list(rows[0]) == [*columns, "ra", "label", "catalog:prediction"]
    assert [row["catalog:prediction"] for row in rows] == [f"old {i}" for i in range(6)]
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in table(Path("p.csv"))]
    said = run(*words, "--columns", "dec", "--out", "dec.csv").refusal()
    assert "unknown column" in said
    assert "ra" in said


def test_columns_go_on_where_predictions_were_ended(
    run: Run, model_folder: Path, galaxy_folder: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", model_folder, catalog, "--root", galaxy_folder, "--quiet", "--batch-size", "2"]
    assert run(*words, "--columns", "all", "--out", "whole.csv").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(1, KeyboardInterrupt()))
        assert run(*words, "--columns", "all", "--out", "p.csv").status == 130
    assert "another value of 'columns'" in run(*words, "--out", "p.csv", "--resume").refusal()
    assert run(*words, "--columns", "all", "--out", "p.csv", "--resume").status == 0
    assert Path("p.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_parquet_keeps_the_types_of_columns(run: Run, model_folder: Path, galaxy_folder: Path) -> None:
    files = galaxies_by_name(galaxy_folder)
    columns = {"file": files, "ra": np.arange(6) / 3, "id": np.arange(6), "note": ["a", None, "", "d", "e", "f"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), "cat.parquet")
    words = ["predict", model_folder, "cat.parquet", "--columns", "note,ra,id", "--batch-size", "4", "--quiet"]
    assert run(*words, "--out", "p.parquet").status == 0
    written = pyarrow.parquet.read_table("p.parquet")
    assert written.column_names[-3:] == ["note", "ra", "id"]
    for name in ("note", "ra", "id"):
        assert written[name].to_pylist() == pyarrow.parquet.read_table("cat.parquet")[name].to_pylist()
    assert run(*words, "--out", "p.csv").status == 0
    assert [float(row["ra"]) for row in table(Path("p.csv"))] == columns["ra"].tolist()
    assert [row["note"] for row in table(Path("p.csv"))] == ["a", "", "", "d", "e", "f"]


def test_features_as_parquet(run: Run, model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate(galaxies_by_name(galaxy_folder)):
        (flat / f"{i}.png").write_bytes(Path(file).read_bytes())
    (flat / "3.png").write_bytes(b"no image")
    words = ["predict", model_folder, flat, "--batch-size", "2", "--quiet"]
    said = run(*words, "--out", "p.csv", "--features", "f.parquet")
    assert said.out.splitlines()[-2:] == ["features: f.parquet", "predictions: p.csv"]
    found = pyarrow.parquet.read_table("f.parquet")
    assert found.column_names == ["file", "features"]
    assert found["file"].to_pylist() == [f"{i}.png" for i in range(6)]
    model = astroformer.load(model_folder)
    expected = model.features(flat, batch_size=2)
    for i, row in enumerate(found["features"].to_pylist()):
        if i == 3:
            assert row is None
            assert np.isnan(expected[3]).all()
        else:
            np.testing.assert_array_equal(np.array(row, np.float32), expected[i])
    assert run(*words, "--out", "plain.csv").status == 0
    assert Path("plain.csv").read_bytes() == Path("p.csv").read_bytes()  # features change no prediction


def test_what_is_stopped_with_features_leaves_rows_alone(
    run: Run, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", model_folder, galaxy_folder, "--batch-size", "4", "--quiet", "--out", "p.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "iter_predict", interrupted_after(3, KeyboardInterrupt()))
        said = run(*words, "--features", "f.parquet")
    assert said.status == 130
    assert "--out p.csv --resume, without --features" in said.err
    assert {file.name for file in Path().iterdir()} == {"model", "p.csv.part", "p.csv.part.json"}
    assert run(*words, "--resume").status == 0


def test_what_a_reader_notes_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    notes = ["FITS: bands g, r of HDU 1, 2", "of 3 cutouts that were looked at, 2 lack pixels"]
    tell_ignored(LabelledImages("cutouts", [], None, (), {}.__getitem__, ignored=["a.txt (a .txt file)"], notes=notes))
    assert capsys.readouterr().err.splitlines() == [*notes, "not taken for images: 1 (a .txt file: 1)"]
