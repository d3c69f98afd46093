"""The low-data benchmark: peers are what their papers say, rows resume, figures come out as computed by hand."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astroformer.images.labelled import LabelledImages
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.network import VARIANTS, count_macs, count_parameters, create_network
from astroformer.training.recipe import Recipe, make_recipe
from helpers.tiny_sets import two_kinds_of_radio_sources

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
low_data: Any = importlib.import_module("low_data")
one_run: Any = importlib.import_module("common.low_data_run")
grid: Any = importlib.import_module("common.grid")
rows_module: Any = importlib.import_module("common.rows")
tables: Any = importlib.import_module("common.tables")
pictures: Any = importlib.import_module("common.pictures")
studies: Any = importlib.import_module("common.studies")
peers: Any = importlib.import_module("common.peers")
training: Any = importlib.import_module("common.training")


def galaxies_of(n: int) -> LabelledImages:
    images_NHWC, labels_N = mock_galaxies(n, size=64, seed=0)
    return LabelledImages("mock", [str(i) for i in range(n)], labels_N, CLASSES, images_NHWC.__getitem__)


# Peers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "channels"), [(32, 1), (32, 3), (64, 1), (64, 3)])
@pytest.mark.parametrize("model", ["astroformer", *peers.PEERS])
def test_every_network_takes_the_sizes_and_channels_of_the_grid(model: str, side: int, channels: int) -> None:
    recipe = Recipe(model="astroformer_atto", channels=channels)
    module = peers.network(model, recipe, 7, (side, side)).eval()
    with torch.no_grad():
        assert module(torch.randn(2, channels, side, side)).shape == (2, 7)
        if model in peers.PEERS and peers.PEERS[model].any_size and side == 64:
            assert module(torch.randn(2, channels, 48, 48)).shape == (2, 7)  # while a run is on smaller images


@pytest.mark.parametrize(
    ("model", "millions", "macs"),
    [
        ("WRN-16-8", 11.0, None),  # Zagoruyko & Komodakis, arXiv 1605.07146, table 5
        ("CCT-7/3x1", 3.76, 1.19e9),  # Hassani et al., arXiv 2104.05704, table 1
    ],
)
def test_peers_have_the_published_size(model: str, millions: float, macs: float | None) -> None:
    module = peers.network(model, Recipe(channels=3), 10, (32, 32))
    digits = len(str(millions).split(".")[1])
    assert round(count_parameters(module) / 1e6, digits) == millions
    if macs is not None:
        assert peers.macs(module, 3, (32, 32)) == pytest.approx(macs, rel=0.01)


def test_the_compact_transformer_weighs_its_tokens() -> None:
    """Sequence pooling by the formula, token by token."""
    torch.manual_seed(0)
    module = peers.network("CCT-4/3x2", Recipe(channels=3), 5, (32, 32)).eval()
    x_BCHW = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        tokens_ND = module.tokenizer(x_BCHW)[0].flatten(1).T + module.positions_1ND[0]
        tokens_ND = module.norm(module.blocks(tokens_ND[None]))[0]
        weights = [math.exp(float(module.pool(token_D))) for token_D in tokens_ND]
        pooled_D = sum(w * token_D for w, token_D in zip(weights, tokens_ND, strict=True)) / sum(weights)
        torch.testing.assert_close(module(x_BCHW)[0], module.head(pooled_D), rtol=1e-4, atol=1e-5)
    assert tokens_ND.shape == (64, 128)
    assert module.no_weight_decay() <= set(dict(module.named_parameters()))


def test_every_setting_makes_a_recipe_and_says_where_it_is_from() -> None:
    for model in peers.PEERS:
        for setting in peers.settings_of(model):
            job = made_job(model=model, setting=setting.name)
            recipe = make_recipe(one_run.recipe_words(job, "cpu"))
            assert recipe.learning_rate == setting.words["learning_rate"]
            assert recipe.augment.flip_vertical == 0.5  # the augmentation of the data set stays
            assert (recipe.progressive == 0) != peers.PEERS[model].any_size
            assert setting.source
            assert setting.name in peers.settings_table()


# Scores --------------------------------------------------------------------------------------------------------------


def test_a_run_of_so_many_epochs_is_decided_alike_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = galaxies_of(40)
    on_cpu = training.decided(make_recipe({"epochs": 3, "device": "cpu", "speed": "plain", "precision": "no"}), images)
    monkeypatch.setattr(training, "pick_device", lambda name: "cuda")
    on_gpu = training.decided(make_recipe({"epochs": 3}), images)
    assert (on_gpu.device, on_gpu.speed, on_gpu.precision) == ("cuda", "graph", "no")
    same = {"device": "cpu", "speed": "plain"}
    assert on_gpu.model_copy(update=same) == on_cpu
    assert on_cpu.model == "astroformer_atto"
    half = training.decided(make_recipe({"epochs": 3, "precision": "bf16", "optimizer": "muon"}), images)
    assert (half.speed, half.precision) == ("plain", "bf16")  # muon's steps can't be recorded


def test_views_are_the_eight_of_the_square_and_the_mirror_image() -> None:
    x_NCHW = np.arange(9).reshape(1, 1, 3, 3)
    views = one_run.views_of(x_NCHW, "sky")
    assert len({view.tobytes() for view in views}) == 8
    assert np.array_equal(views[0], x_NCHW)
    for view in views:  # a turn of a view is a view: they are the whole group
        assert any(np.array_equal(np.rot90(view, axes=(2, 3)), other) for other in views)
    plain, mirrored = one_run.views_of(x_NCHW, "photo")
    assert np.array_equal(plain, x_NCHW)
    assert mirrored[0, 0].tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]


def test_views_average_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 4, 5))  # views, images, classes

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    found = one_run.averaged([softmax(view) for view in logits])
    np.testing.assert_allclose(found, softmax(logits.mean(0)), rtol=1e-12)


def test_words_are_nested_and_typed() -> None:
    words = one_run.parsed("optimizer=muon augment.mixup=0.2 learning_rate=1e-3 clip=null precision=no seed=3")
    assert words == {
        "optimizer": "muon",
        "augment": {"mixup": 0.2},
        "learning_rate": 1e-3,
        "clip": None,
        "precision": "no",
        "seed": 3,
    }
    with pytest.raises(ValueError, match="'muon' is no setting"):
        one_run.parsed("muon")


# Rows ----------------------------------------------------------------------------------------------------------------


def made_job(**changes: Any) -> Any:
    job = grid.Job("run", "MiraBest", 25, 0, "astroformer", "default", "", 0, minutes=5.0)
    return dataclasses.replace(job, **changes)


def made_row(job: Any, accuracy: float = 0.5, **changes: Any) -> dict[str, Any]:
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy, "nll": 1 - accuracy, "ece": 0.1}
    return {
        **dataclasses.asdict(job),
        **scores,
        **{f"{name}_views": value for name, value in scores.items()},
        "parameters": 500_000,
        "macs": 36_000_000,
        "training_flops": 2e15,
        "images_per_second": 100.0,
        "epochs_done": 30,
        "s_cons": 0.9,
        "cpu_share": 1.0,
        "threads": 1,
        "processor": "P",
        "images": {"train": 50, "test": 224},
        **changes,
    }


def test_rows_that_are_there_are_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    jobs = [made_job(seed=seed, model=model) for seed in range(2) for model in ("astroformer", "CoAtNet")]
    ran = []

    def one(job: Any) -> dict[str, Any]:
        ran.append(job)
        if job == jobs[2] and len(ran) == 3:
            raise RuntimeError("out of memory")
        return made_row(job)

    assert low_data.run_all(jobs, path, one, together=1, processor="P") == ["out of memory"]
    assert ran == jobs  # the failed one held nobody up
    assert low_data.run_all(jobs, path, one, together=1, processor="P") == []
    assert ran[4:] == [jobs[2]]
    assert {grid.job_of(row) for row in rows_module.read_rows(path)} == set(jobs)
    other_length = dataclasses.replace(jobs[0], minutes=15.0)
    low_data.run_all([jobs[0], other_length], path, one, together=2, processor="P")
    assert ran[5:] == [other_length]
    # Minutes are worth what the processor is; epochs are the same everywhere.
    epochs = dataclasses.replace(jobs[0], minutes=None, epochs=3)
    low_data.run_all([epochs], path, one, together=1, processor="P")
    low_data.run_all([jobs[0], epochs], path, one, together=1, processor="Q")
    assert ran[6:] == [epochs, jobs[0]]


def test_no_run_begins_after_its_time(tmp_path: Path) -> None:
    jobs = [made_job(seed=seed) for seed in range(3)]
    low_data.run_all(jobs, tmp_path / "rows.jsonl", made_row, together=1, processor="P", minutes_total=0)
    assert rows_module.read_rows(tmp_path / "rows.jsonl") == []


def test_a_last_line_cut_short_is_mended_and_another_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    whole = json.dumps(made_row(made_job()))
    path.write_text(whole + "\n" + whole[:40], encoding="utf-8")
    assert len(rows_module.read_rows(path)) == 1
    assert "cut short" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == whole + "\n"
    path.write_text(whole, encoding="utf-8")  # a whole line without its end
    rows_module.append_row(path, made_row(made_job(seed=1)))
    assert [row["seed"] for row in rows_module.read_rows(path)] == [0, 1]
    path.write_text(whole[:40] + "\n" + whole + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1 of .*rows\.jsonl is no row"):
        rows_module.read_rows(path)


def test_the_grid_is_complete_and_most_telling_first() -> None:
    every = grid.grid(2, list(grid.CELLS_2), list(grid.TIER_2), range(3))
    assert len(every) == len(set(every)) == len(grid.CELLS_2) * len(grid.TIER_2) * 3
    first = every[: len(grid.CELLS_1) * len(grid.TIER_1) * 3]
    assert set(first) == set(grid.grid(1, list(grid.CELLS_1), list(grid.TIER_1), range(3)))
    assert [seed for _, _, seed in first] == sorted(seed for _, _, seed in first)


def test_splits_do_not_overlap_nor_meet_the_test_images() -> None:
    data = Path("data")
    job = made_job(data="CIFAR-10 (JPEG)", per_class=50)
    found = []
    for seed in range(3):
        split = job.cell.split(seed)
        train, test = one_run.source_of(dataclasses.replace(job, seed=seed, split=split), data)
        found.append(train)
        assert test.endswith("per-class=4000:4100")
    assert [train.split("=")[1] for train in found] == ["0:50", "50:100", "100:150"]
    for cell in grid.CELLS_2:
        some = grid.SETS[cell.data]
        assert cell.images <= some.room
        if "per-class" in some.test:
            assert some.room <= int(some.test.split("=")[1].split(":")[0])


def test_images_to_choose_by_are_in_no_split_and_no_test(tmp_path: Path) -> None:
    job = made_job(kind="develop", data="CIFAR-10 (JPEG)", per_class=50, split=1)
    train, images = one_run.source_of(job, tmp_path)
    assert (train, images) == tuple(
        str(tmp_path / "cifar10" / f"train.npz@per-class={part}") for part in ("50:100", "4500:5000")
    )
    for some in grid.SETS.values():
        if some.develop is not None and some.test.split("@")[0] in some.train:  # they share a source
            test = [int(bound) for bound in some.test.split("=")[1].split(":")]
            assert some.develop[1] <= test[0] or some.develop[0] >= test[1]
    arguments = ["--develop", "--models", "astroformer", "--seeds", "3"]
    jobs = low_data.jobs_of(low_data.parser().parse_args(["DATA", *arguments]), [])
    assert {(str(job.cell), job.split) for job in jobs} == {
        (name, split) for name in ("Galaxy Zoo 2, 50 a class", "CIFAR-10 (JPEG), 50 a class") for split in range(3)
    }
    arguments += ["--sets", "Galaxy Zoo 2, 200 a class", "Galaxy Zoo 2, 400 a class", "Galaxy Zoo 2, 100 a class"]
    jobs = low_data.jobs_of(low_data.parser().parse_args(["DATA", *arguments]), [])
    found = {(job.per_class, job.split, job.seed) for job in jobs}
    # 200 a class are left: one split of 200, two of 100.
    assert found == {(200, 0, 0), (200, 0, 1), (200, 0, 2), (100, 0, 0), (100, 1, 1), (100, 0, 2)}
    rows = [made_row(made_job(kind="develop", seed=seed), 0.5) for seed in range(3)]
    assert tables.table(rows) == ""
    assert "224 images to choose by" in tables.table(rows, "develop")


def test_studies_ask_what_they_say() -> None:
    """Arms of equal parameters or MACs are so to one percent, and only the arms of a study have its names."""
    base = VARIANTS["astroformer_atto"]

    def sizes(words: str) -> tuple[int, int]:
        network = create_network("astroformer_atto", **one_run.parsed(words).get("network", {}))
        return count_parameters(network), count_macs(network, (64, 64))

    parameters, macs = sizes("")
    for name, words in studies.STUDIES["layouts"].arms.items():
        layout = name.split(",")[0]
        assert (one_run.parsed(words).get("network", {}).get("layout", base.layout)) == layout
        found = sizes(words)
        if "parameters" in name:
            assert found[0] == pytest.approx(parameters, rel=0.01)
        if "MACs" in name:
            assert found[1] == pytest.approx(macs, rel=0.01)
    arguments = ["--study", "scale", "--sets", "MiraBest, all", "--seeds", "1"]
    jobs = low_data.jobs_of(low_data.parser().parse_args(["DATA", *arguments]), [])
    study = studies.STUDIES["scale"]
    assert [job.words for job in jobs if job.model == "astroformer"] == list(study.arms.values())
    assert {job.model for job in jobs if not job.words} == set(study.peers)
    assert {job.flops for job in jobs} == {studies.TRAINING_FLOPS}
    low_data.check([dataclasses.replace(job, data="Fashion-MNIST") for job in jobs], Path("none"), "cpu")  # all recipes
    row = made_row(made_job(words=study.arms["nano"], flops=1e13, minutes=None))
    assert "| astroformer (nano) |" in tables.table([row])


# Tables and plots ----------------------------------------------------------------------------------------------------

OURS = (0.80, 0.84, 0.85)
THEIRS = (0.78, 0.80, 0.82)


def made_rows() -> list[dict[str, Any]]:
    rows = []
    for seed in range(3):
        rows.append(made_row(made_job(seed=seed, split=seed), OURS[seed]))
        rows.append(made_row(made_job(seed=seed, split=seed, model="CoAtNet", setting="AdamW 4e-3"), THEIRS[seed]))
    rows.append(made_row(made_job(model="ResNet-18", setting="AdamW 1e-3"), 0.60, s_cons=None))
    return rows


def test_the_table_is_what_one_computes_by_hand() -> None:
    lines = tables.table(made_rows()).splitlines()
    assert lines[0] == "**MiraBest, 25 a class**, 5 minutes a run on P, 224 test images"
    ours, theirs, third = (line.split(" | ") for line in lines[4:7])
    assert (ours[0], theirs[0], third[0]) == ("| astroformer", "| CoAtNet (AdamW 4e-3)", "| ResNet-18 (AdamW 1e-3)")
    # Mean 83; squares of the differences 9 + 1 + 4 over 2; t of two degrees of freedom 4.30.
    sd = math.sqrt(14 / 2)
    reach = 4.30 * sd / math.sqrt(3)
    assert ours[6] == f"83.0 ± {sd:.1f} ({83 - reach:.1f} to {83 + reach:.1f})" == "83.0 ± 2.6 (76.4 to 89.6)"
    # Differences 2, 4 and 3: mean 3, sd 1.
    assert ours[-1] == f"+3.0 ({3 - 4.30 / math.sqrt(3):+.1f} to {3 + 4.30 / math.sqrt(3):+.1f}) |"
    assert ours[-1] == "+3.0 (+0.5 to +5.5) |"
    assert theirs[-1] == "– |"  # the best peer itself
    assert third[-1] == "-18.0 |"  # one seed: no interval; paired with the same seed
    assert third[6] == "60.0"
    assert third[13] == "–"
    assert [row[14] for row in (ours, theirs, third)] == ["3", "3", "1"]
    assert len({line.count("|") for line in lines[2:7]}) == 1


def test_lengths_and_words_stay_apart_and_a_starved_run_is_said() -> None:
    rows = made_rows()
    rows.append(made_row(made_job(minutes=None, flops=1e15), 0.9))
    rows.append(made_row(made_job(words="optimizer=muon"), 0.7, cpu_share=0.4))
    rows.append(made_row(made_job(), 0.2, processor="Q"))
    rows.append(made_row(made_job(), 0.2, processor="R", threads=2, cpu_share=1.7))
    rows.append(made_row(made_job(), 0.1, images={"train": 50, "test": 9}))
    text = tables.table(rows)
    assert "5 minutes a run on P, 224" in text
    assert "5 minutes a run on Q, 224" in text
    assert "1 of 1 runs had less than 90% of a core" in text.partition("a run on R")[2]
    assert "5 minutes a run on P, 9 test images" in text
    assert "**MiraBest, 25 a class**, 1e+15 FLOPs a run" in text
    assert "| astroformer (optimizer=muon) |" in text
    assert "1 of 8 runs had less than 90% of a core" in text


def test_arms_are_paired_by_their_images_in_each_cell_and_over_all() -> None:
    flops = {"kind": "develop", "minutes": None, "flops": 1e12}
    first = [made_row(made_job(seed=s, **flops), (80 + 2 * s) / 100) for s in range(3)]
    arm = [made_row(made_job(seed=s, words="sam=1", **flops), (83 + s) / 100) for s in range(3)]  # +3, +2, +1
    other = {**flops, "data": "Galaxy Zoo 2", "per_class": 50}
    first += [made_row(made_job(seed=0, **other), 0.8)]
    arm += [made_row(made_job(seed=s, words="sam=1", **other), 0.78) for s in (0, 1)]  # -2, and one that has no pair
    alone = [made_row(made_job(words="sam=1", epochs=3, minutes=None), 0.1)]  # nothing to compare it with
    shown = tables.against_table(first + arm + alone, "")
    lines = [line for line in shown.splitlines() if "(sam=1)" in line]
    # Mean 2, standard deviation 1: 4.30 / √3 = 2.48 either way.
    assert "| 84.0 ± 1.0 |" in lines[1]
    assert lines[1].endswith("| 3 | +2.0 (-0.5 to +4.5) | -0.020 (-0.045 to +0.005) |")
    assert lines[0].endswith("| 2 | -2.0 | +0.020 |")
    # Over all four pairs the mean is 1, the standard deviation √(14/3) = 2.16, t of three degrees of freedom 3.18.
    assert lines[2].endswith("| 4 | +1.0 (-2.4 to +4.4) | 3 | -0.010 (-0.044 to +0.024) | 3 |")
    assert len(lines) == 3
    assert tables.against_table(alone, "") == (
        "no arm of ours has the words '' in a cell and length that has another arm."
    )


def test_tuning_chooses_by_the_nearest_size_and_the_table_shows_it() -> None:
    cell = grid.Cell("CIFAR-10 (JPEG)", 50)
    names = [setting.name for setting in peers.settings_of("CoAtNet")]
    assert grid.chosen_setting([], cell, "CoAtNet", names) == names[0]

    def tuned(per_class: int, name: str, accuracy: float) -> dict[str, Any]:
        job = made_job(kind="tune", data=cell.data, per_class=per_class, model="CoAtNet", setting=name)
        return made_row(job, accuracy)

    rows = [tuned(10, names[0], 0.9), tuned(10, names[1], 0.1), tuned(100, names[0], 0.5), tuned(100, names[2], 0.6)]
    assert grid.chosen_setting(rows, cell, "CoAtNet", names) == names[2]
    assert grid.chosen_setting(rows, grid.Cell(cell.data, 10), "CoAtNet", names) == names[0]
    assert grid.chosen_setting(rows, grid.Cell("MiraBest", 25), "CoAtNet", names) == names[0]
    lines = tables.tune_table(rows).splitlines()
    assert [line.split(" | ")[3] for line in lines if line.endswith("chosen |")] == [names[2], names[0]]
    assert tables.table(rows) == ""  # tuning is no result


def test_plots_are_drawn(tmp_path: Path) -> None:
    rows = made_rows() + [made_row(made_job(per_class=None, seed=seed), 0.9) for seed in range(3)]
    made = pictures.plots(rows, tmp_path)
    assert [path.name for path in made] == [
        f"low-data-{name}-5-minutes-on-P.png" for name in ("scores", "images-a-class", "cost")
    ]
    arms = list(studies.STUDIES["layouts"].arms.values())[:3]
    rows = [made_row(made_job(words=words, minutes=None, flops=4e12, seed=s), 0.5) for words in arms for s in range(3)]
    made += pictures.plots(rows, tmp_path)
    assert made[-1].name == "low-data-layouts-4e12-FLOPs.png"
    assert pictures.plots(rows[:6], tmp_path) == []  # two arms are a pair and no study
    arms = list(studies.STUDIES["scale"].arms.values())
    rows = [made_row(made_job(words=words, minutes=None, flops=4e12), 0.5) for words in arms]
    peer = made_row(made_job(model="ResNet-18", setting="AdamW 1e-3", minutes=None, flops=4e12), 0.4, macs=1_000_000)
    made += [path for path in pictures.plots([*rows, peer], tmp_path) if "scale" in path.name]
    assert made[-1].name == "low-data-scale-4e12-FLOPs.png"
    assert all(path.stat().st_size > 10_000 for path in made)


def test_attention_is_drawn_against_convolutions_of_the_same_splits(tmp_path: Path) -> None:
    convolutions, hybrid = "network.layout=CCCC", "network.layout=CCCT network.transformer=hybrid"
    assert studies.kind_of_network(convolutions) == "C-C-C-C"
    assert studies.kind_of_network(hybrid) == "C-C-C-T, hybrid"
    assert studies.kind_of_network("network.layout=CCTT") == "C-C-T-T"
    assert studies.kind_of_network(f"{convolutions} network.widths=[8,8,8,8]") is None
    assert studies.kind_of_network("optimizer=muon") is None

    def rows(words: str, score: float, seeds: range, per_class: int) -> list[dict[str, Any]]:
        flops = {"minutes": None, "flops": 4e12, "data": "Galaxy Zoo 2", "per_class": per_class}
        return [made_row(made_job(words=words, seed=seed, **flops), score + 0.01 * seed) for seed in seeds]

    made = [row for n in (10, 50) for row in rows(convolutions, 0.5, range(3), n)]
    assert pictures.plots(made, tmp_path) == []
    made += [row for n in (10, 50) for row in rows(hybrid, 0.52, range(1, 4), n)]
    (path,) = pictures.plots(made, tmp_path)
    assert path.name == "low-data-attention-images-a-class.png"
    (axis,) = pictures._draw_attention(made).axes
    (line,) = (drawn for drawn in axis.get_lines() if len(drawn.get_xdata()) == 2 and drawn.get_marker() == "o")
    assert line.get_ydata() == pytest.approx([2, 2])  # of the two seeds that both have


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radio sources of two kinds, one blob or two, as `mirabest/train.npz` holds them."""
    return two_kinds_of_radio_sources(tmp_path_factory.mktemp("data"))


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["low_data.py", *map(str, words)])
    low_data.main()


@pytest.mark.slow
def test_one_command_runs_resumes_and_shows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    words = [data, "--sets", "MiraBest, 25 a class", "--models", "astroformer", "--seeds", 1, "--epochs", 2]
    words += ["--rows", rows, "--symmetry-images", 4, "--device", "cpu"]
    words += ["--words", "speed=plain  precision=no"]  # no kernels to build in the cache of the tests
    command(monkeypatch, *words)
    (row,) = rows_module.read_rows(rows)
    assert "**MiraBest, 25 a class**, 2 epochs a run, 224 test images" in capsys.readouterr().out
    command(monkeypatch, *words)
    assert rows_module.read_rows(rows) == [row]
    assert row["words"] == "speed=plain precision=no"
    assert row["images"] == {"train": 50, "test": 224}
    assert (row["members"], row["views"], row["threads"], row["epochs_done"]) == (1, 8, 1, 2)
    assert row["images_seen"] == 100
    assert row["training_flops"] == 6 * row["macs"] * row["images_seen"]  # 32 px: no smaller images at the beginning
    assert 0 <= row["s_cons"] <= 1
    assert {"commit", "dirty"} == set(row["code"])
    for name in low_data.SCORES:
        assert {name, f"{name}_views"} <= set(row)


def test_a_flop_budget_is_kept_and_tuning_sees_training_images_alone(data: Path) -> None:
    job = made_job(kind="tune", model="CoAtNet", setting="AdamW 2e-3", minutes=None, flops=1e10)
    row = one_run.run(job, data, "cpu")
    assert row["images"] == {"train": 30, "test": 20}  # of the 50 to train on
    one_epoch = 6 * row["macs"] * 30
    assert abs(row["training_flops"] - 1e10) <= one_epoch / 2 + 1
    assert (row["flops"], row["epochs"], row["minutes"]) == (1e10, None, None)
    assert row["s_cons"] is None


def test_an_ensemble_shares_the_length_and_stands_apart(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "speed=plain precision=no"
    job = made_job(minutes=None, epochs=3, members=2, words=words)
    row = one_run.run(job, data, "cpu", 0)
    single = one_run.run(dataclasses.replace(job, epochs=1, members=1), data, "cpu", 0)
    assert grid.job_of(row) == job
    assert row["images_seen"] == 100 == 2 * single["images_seen"]  # two members of one epoch of 50 images each
    assert (row["parameters"], row["macs"]) == (2 * single["parameters"], 2 * single["macs"])
    # Members are ordinary runs; the answers are the mean of their probabilities.
    images = [one_run.open_source(source) for source in one_run.source_of(job, data)]
    members = [
        training.trained("astroformer", make_recipe(one_run.recipe_words(job, "cpu", k)), *images) for k in range(2)
    ]
    mean_NK = np.mean([one_run.predict_store(m.classifier, m.valid) for m in members], axis=0)
    expected = one_run.scores_of(members[0].valid.labels, mean_NK)
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=2e-5)
    text = tables.table([row, {**row, "members": 1}])
    assert "| astroformer (speed=plain precision=no; ensemble of 2) |" in text
    assert "| astroformer (speed=plain precision=no) |" in text
    with pytest.raises(SystemExit, match="--members 5 can't be"):
        command(monkeypatch, data, "--models", "astroformer", "--epochs", 3, "--members", 5, "--rows", data / "none")


def test_a_distilled_network_learns_the_answers_and_is_asked(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "speed=plain precision=no"
    job = made_job(minutes=None, epochs=3, members=2, distilled=True, words=words)
    row = one_run.run(job, data, "cpu", 0)
    single = one_run.run(dataclasses.replace(job, epochs=1, members=1, distilled=False), data, "cpu", 0)
    assert grid.job_of(row) == job
    assert grid.job_of({k: v for k, v in single.items() if k != "distilled"}).distilled is False
    assert row["images_seen"] == 150 == 3 * single["images_seen"]
    assert row["training_flops"] == 3 * single["training_flops"]
    assert (row["parameters"], row["macs"]) == (single["parameters"], single["macs"])
    assert row["recipe"]["label_smoothing"] == 0.1  # of the members
    images = [one_run.open_source(source) for source in one_run.source_of(job, data)]
    members = [
        training.trained("astroformer", make_recipe(one_run.recipe_words(job, "cpu", k)), *images) for k in range(3)
    ]
    teacher = one_run.Classifier.ensemble([m.classifier for m in members[:2]])
    student_words = {**one_run.recipe_words(job, "cpu", 2), "label_smoothing": 0.0}
    student = training.trained("astroformer", make_recipe(student_words), *images, teacher=teacher)
    expected = one_run.scores_of(student.valid.labels, one_run.predict_store(student.classifier, student.valid))
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=2e-5)
    text = tables.table([row, {**row, "members": 1}, {**row, "distilled": False}])
    assert "| astroformer (speed=plain precision=no; distilled from ensemble of 2) |" in text
    assert "| astroformer (speed=plain precision=no; distilled from one network) |" in text
    assert "| astroformer (speed=plain precision=no; ensemble of 2) |" in text
    with pytest.raises(SystemExit, match="--members 1 can't be"):
        command(monkeypatch, data, "--models", "astroformer", "--epochs", 1, "--distil", "--rows", data / "none")


@pytest.mark.slow
def test_a_plan_is_the_runs_of_its_lines_in_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, rows = tmp_path / "plan.txt", tmp_path / "rows.jsonl"
    plan.write_text(
        "# first what tells most\n"
        '--develop --epochs 1 --seeds 1 --sets "MiraBest, 25 a class" --models astroformer --words learning_rate=1e-3\n'
        "\n"
        '--epochs 2 --seeds 1 --sets "MiraBest, 25 a class" --models astroformer  # and again\n'
        '--epochs 2 --seeds 2 --sets "MiraBest, 25 a class" --models astroformer\n'
    )
    made = low_data.planned(plan, [])
    told = [(job.kind, job.words, job.epochs, job.minutes, job.seed) for job in made]
    assert told == [("develop", "learning_rate=1e-3", 1, None, 0), ("run", "", 2, None, 0), ("run", "", 2, None, 1)]
    words = ["--rows", rows, "--symmetry-images", 0, "--device", "cpu", "--together", 2]
    command(monkeypatch, data, "--plan", plan, *words)
    assert {grid.job_of(row) for row in rows_module.read_rows(rows)} == set(made)
    assert {row["threads"] for row in rows_module.read_rows(rows)} == {1}
    by_clock = ("--minutes", 0.01, "--seeds", 1, "--sets", "MiraBest, 25 a class", "--models", "astroformer")
    command(monkeypatch, data, *by_clock, "--threads", 2, *words)
    last = rows_module.read_rows(rows)[-1]
    assert last["threads"] == 2
    assert last["processor"].endswith(", 2 threads")
    plan.write_text("--epochs 1\n--epoch 1 --modles astroformer\n")
    with pytest.raises(SystemExit):
        command(monkeypatch, data, "--plan", plan, *words)
    assert f"{plan}, line 2: error: unrecognized arguments: --modles" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="leave --models, --epochs out"):
        command(monkeypatch, data, "--plan", plan, "--models", "astroformer", "--epochs", 1, *words)
    with pytest.raises(SystemExit, match="a file that is there"):
        command(monkeypatch, data, "--plan", tmp_path / "none.txt", *words)


def test_a_package_that_is_only_on_the_path_is_told_before_anything_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise low_data.PackageNotFoundError(name)

    monkeypatch.setattr(low_data, "version", missing)
    with pytest.raises(SystemExit, match="not installed"):
        low_data.check([made_job()], Path("data"), "cpu")


@pytest.mark.parametrize(("plan", "members"), [("low_data_gpu.txt", {1, 3}), ("hybrid.txt", {1})])
def test_a_plan_asks_for_what_can_be(plan: str, members: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = low_data.planned(Path(low_data.__file__).with_name(plan), [])
    assert {"run", "develop"} == {job.kind for job in jobs}
    assert members == {job.members for job in jobs}
    monkeypatch.setattr(Path, "exists", lambda path: True)  # the data, which need not be here
    low_data.check(jobs, Path("data"), "cpu")


def test_seeds_may_begin_later_and_test_images_are_not_trained_on() -> None:
    words = ["--flops", "1e12", "--models", "astroformer", "--sets", "CIFAR-10 (JPEG), 2000 a class"]
    jobs = low_data.jobs_of(
        low_data.asking().parse_args([*words, "CIFAR-10 (JPEG), 4500 a class", "--seeds", "4:6"]), []
    )
    assert [(job.per_class, job.seed, job.split) for job in jobs] == [(2000, 4, 0), (2000, 5, 1)]  # of 4,000 a class
    jobs = low_data.jobs_of(
        low_data.asking().parse_args(["--develop", *words[:-1], "CIFAR-10 (JPEG), 4500 a class"]), []
    )
    assert [(job.per_class, job.seed, job.split) for job in jobs] == [(4500, seed, 0) for seed in range(3)]


@pytest.mark.slow
def test_a_worker_stays_and_runs_one_job_after_the_other(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a worker sets it for good; here it is put back
    job = made_job(minutes=None, epochs=1, words="speed=plain precision=no")
    start = low_data.Workers(1)
    first, with_other_words, again = (
        start(dataclasses.replace(job, words=words), data, "cpu", 0)
        for words in (job.words, f"{job.words} learning_rate=1e-5", job.words)
    )
    assert grid.job_of(first) == job
    assert first["nll"] == again["nll"] != with_other_words["nll"]  # nothing stays of the run before
    with pytest.raises(RuntimeError, match=r"MiraBest, 25 a class.*WRN-16-2 .*none"):
        start(dataclasses.replace(job, model="WRN-16-2", setting="none"), data, "cpu", 0)


def test_what_cannot_be_is_said_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"setting 'learning_rat'.*learning_rate"):
        command(monkeypatch, data, "--words", "learning_rat=1", "--rows", tmp_path / "rows.jsonl")
    for words in (["--table"], ["--against", "network.group=none"]):
        with pytest.raises(SystemExit, match="leave the data out"):
            command(monkeypatch, data, *words, "--rows", tmp_path / "rows.jsonl")
    with pytest.raises(SystemExit, match="which MiraBest is read from"):
        command(monkeypatch, tmp_path, "--sets", "MiraBest, all", "--rows", tmp_path / "rows.jsonl")
