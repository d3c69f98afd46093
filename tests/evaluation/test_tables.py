from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from astroformer.errors import UserError
from astroformer.evaluation.scores import confusion_text, metrics_text
from astroformer.evaluation.tables import PredictionWriter, write_metrics
from astroformer.metrics import Evaluation, score
from astroformer.predictions import Predictions
from astroformer.summaries import percent

CLASSES = ("spiral, barred", "file", 'a "quoted" one')
METRICS = ["accuracy", "balanced accuracy", "macro F1", "log loss"]
COLUMNS = ["file", "prediction", "confidence", *(f"p:{name}" for name in CLASSES), "error"]


def predictions(seed: int, first: int) -> Predictions:
    probabilities_NK = np.random.default_rng(seed).dirichlet(np.ones(3), 4)
    probabilities_NK[2] = np.nan
    errors = ["", "", 'cannot read it: a comma, a "quote" and\na new line', ""]
    return Predictions([f"Bild ü {first + i}.png" for i in range(4)], CLASSES, probabilities_NK, errors)


PARTS = [predictions(0, 0), predictions(1, 4)]


def written(path: Path) -> Path:
    with PredictionWriter(path, CLASSES) as writer:
        for part in PARTS:
            writer.write(part)
    return path


def rows_of(path: Path) -> tuple[list[str], list[list[object]]]:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return table.column_names, [list(row.values()) for row in table.to_pylist()]
    with path.open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    numbers = range(2, len(header) - 1)
    return header, [[(float(v) if i in numbers else v) if v else None for i, v in enumerate(row)] for row in rows]


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.PARQUET", "p.CSV"])
def test_columns_and_round_trip(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name)
    header, rows = rows_of(path if path.suffix.islower() else path.rename(path.with_suffix(path.suffix.lower())))
    assert header == COLUMNS
    assert len(rows) == 8
    for k, part in enumerate(PARTS):
        for i in range(4):
            file, prediction, confidence, *p_K, error = rows[4 * k + i]
            assert file == part.files[i]
            if part.errors[i]:
                assert (prediction, confidence, p_K, error) == (None, None, [None] * 3, part.errors[i])
            else:
                assert error is None
                assert prediction == CLASSES[part.probabilities_NK[i].argmax()]
                assert confidence == pytest.approx(part.probabilities_NK[i].max(), rel=1e-7)
                np.testing.assert_allclose(np.array(p_K, float), part.probabilities_NK[i], rtol=1e-7)


def test_parquet_keeps_every_digit_and_has_typed_columns(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path / "p.parquet"))
    assert [str(field.type) for field in table.schema] == ["string", "string", *["double"] * 4, "string"]
    np.testing.assert_array_equal(table["p:file"].to_numpy()[:2], PARTS[0].probabilities_NK[:2, 1])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_crash_leaves_no_half_file_and_the_old_one_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"

    def crash(part: Predictions, before: bytes | None) -> None:
        with PredictionWriter(path, CLASSES) as writer:
            writer.write(part)
            # Until the new file is whole, the name holds what it held.
            assert (path.read_bytes() if path.exists() else None) == before
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash(PARTS[0], None)
    assert list(tmp_path.iterdir()) == []
    before = written(path).read_bytes()
    with pytest.raises(RuntimeError, match="crash"):
        crash(PARTS[1], before)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_no_images_make_an_empty_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    with PredictionWriter(path, CLASSES) as writer:
        writer.write(Predictions([], CLASSES, np.empty((0, 3)), []))
    assert rows_of(path) == (COLUMNS, [])


def test_refused_names(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, says in (
        ("p.txt", "must end in .csv or .parquet"),
        ("p", "must end in .csv or .parquet"),
        ("nowhere/p.csv", "nowhere' does not exist"),
        ("folder.csv", "it is a folder"),
    ):
        with pytest.raises(UserError, match=says):
            PredictionWriter(tmp_path / name, CLASSES)


@pytest.fixture
def evaluation() -> Evaluation:
    rng = np.random.default_rng(0)
    labels_N = rng.choice([0, 1, 3], 2000)
    probabilities_NK = rng.dirichlet(np.ones(4), 2000)
    probabilities_NK[np.arange(2000), labels_N] += 0.5
    names = ("a", "a_class_with_a_long_name", "absent", "d")
    return score(labels_N, probabilities_NK / probabilities_NK.sum(1, keepdims=True), names)


def test_metrics_json(tmp_path: Path, evaluation: Evaluation) -> None:
    write_metrics(tmp_path / "metrics.json", evaluation, source="somewhere", left_out=3, seen=4, new=None)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["n"] == 2000
    for metric in ("top1", "balanced_accuracy", "macro_f1", "nll"):
        assert set(content[metric]) == {"value", "low", "high"}
        assert content[metric]["low"] <= content[metric]["value"] <= content[metric]["high"]
    assert np.sum(content["confusion"]) == 2000
    assert content["classes"]["absent"] == {"n": 0, "precision": 0.0, "recall": None, "f1": 0.0}
    assert content["classes"]["a"]["recall"] == evaluation.confusion_KK[0, 0] / evaluation.confusion_KK[0].sum()
    assert [content[word] for word in ("source", "left_out", "seen", "new")] == ["somewhere", 3, 4, None]


def test_metrics_text_is_aligned(evaluation: Evaluation) -> None:
    lines = metrics_text(evaluation).splitlines()
    assert [line[:18].rstrip() for line in lines] == ["images", *METRICS]
    assert lines[0].endswith("2,000")
    assert len({line.index("95 %") for line in lines[1:]}) == 1
    assert percent(evaluation["top1"]) in lines[1]
    assert f"{evaluation['nll']:.3f}" in lines[4]


def test_confusion_text_is_aligned_and_complete(evaluation: Evaluation) -> None:
    header, *rows = confusion_text(evaluation).splitlines()
    assert len({len(line) for line in [header, *rows]}) == 1
    columns = [header.index(f" {k} ") + 1 for k in range(4)]
    for k, row in enumerate(rows):
        number, name, *counts = row[:-9].split()
        recall = row[-9:].strip()
        assert (number, name) == (str(k), evaluation.classes[k])
        assert [int(n) for n in counts] == evaluation.confusion_KK[k].tolist()
        for column, n in zip(columns, counts, strict=True):
            assert row[: column + 1].endswith(n)  # a count ends below its column's number
        assert recall == ("–" if k == 2 else percent(evaluation.confusion_KK[k, k] / evaluation.confusion_KK[k].sum()))
