from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import astroformer
from astroformer.images import open_source
from astroformer.images.bands import Bands
from astroformer.images.contact_sheet import ContactSheet, Row, Tile, in_title, visible
from astroformer.images.scaling import measured_scaling
from astroformer.images.sets.mock_galaxies import CLASSES
from astroformer.progress import Reporter
from astroformer.training.measuring import preprocessing_of
from astroformer.training.recipe import Recipe
from astroformer.training.rules import decide
from astroformer.training.show import show
from astroformer.training.splitting import split_images
from astroformer.training.task import Task
from helpers.command_line import Run


def words(figure: Figure) -> list[str]:
    """All that is written in a figure."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def folder_of(root: Path, classes: dict[str, int], size: tuple[int, int] = (40, 32)) -> Path:
    rng = np.random.default_rng(0)
    for name, n in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fine_pictures")
def test_show_writes_a_sheet_and_says_what_is_there(run: Run, galaxy_folder: Path) -> None:
    said = run("show", galaxy_folder, "--quiet", "--device", "cpu")
    assert said.status == 0, said.err
    assert said.err == ""
    with Image.open("show-1.png") as picture:
        assert picture.width == 2066  # 17.5 cm
    assert Path("show-1.pdf").read_bytes().startswith(b"%PDF")
    assert all(name in said.out for name in CLASSES)
    assert "the 30 images shown, as they are: 40 × 40 px; bands and type: 3 × uint8" in said.out
    assert "as the network sees them: " in said.out
    assert said.out.splitlines()[-1] == "picture: show-1.png"
    assert run("show", galaxy_folder, "--quiet", "--device", "cpu").out.splitlines()[-1] == "picture: show-2.png"


def test_the_words_of_train_change_what_is_seen(run: Run, galaxy_folder: Path) -> None:
    words = ["--image-size", "33", "--crop", "0.5", "--channels", "1", "--recipe", "photo", "--minutes", "1"]
    said = run("show", galaxy_folder, "--out", "sheet.png", "--per-class", "2", "--augmented", "--quiet", *words)
    assert said.status == 0, said.err
    assert "the 20 images shown" in said.out
    assert "as the network sees them: 33 × 33 px, grey, the middle 50 % of each side" in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no SOURCE given"),
        (["no-such-folder"], "no-such-folder"),
        (["G", "--out", "sheet.jpg"], "its name must end in .png"),
        (["G", "--per-class", "0"], "per_class is 0; a row has room for 1 to 12 images of a class"),
        (["G", "--per-class", "13"], "per_class is 13"),
        (["G", "--crop", "2"], "crop"),
        (["G", "--recipe", "skye"], "Did you mean 'sky'?"),
        (["G", "--out", "G/sheet.png"], "choose an --out elsewhere"),
        (["G", "--out", "taken.png"], "'taken.png' exists already"),
        (["G", "--out", "beside.png"], "'beside.pdf' exists already"),
    ],
)
def test_what_cannot_be_shown_is_said(run: Run, galaxy_folder: Path, words: list[str], says: str) -> None:
    Path("G").symlink_to(galaxy_folder)
    for name in ("taken.png", "beside.pdf"):
        Path(name).write_text("mine")
    assert says in run("show", *words, "--quiet").refusal()
    assert {path.name for path in Path().iterdir()} == {"G", "taken.png", "beside.pdf"}
    assert Path("beside.pdf").read_text() == "mine"


def test_show_replaces_a_sheet_when_that_is_said(run: Run, galaxy_folder: Path) -> None:
    for name in ("sheet.png", "sheet.pdf"):
        Path(name).write_text("old")
    said = run("show", galaxy_folder, "--out", "sheet.png", "--overwrite", "--quiet")
    assert said.status == 0, said.err
    assert all(len(Path(name).read_bytes()) > 1000 for name in ("sheet.png", "sheet.pdf"))


def test_show_is_in_the_help(run: Run) -> None:
    assert "show      " in run("--help").out
    said = run("show", "--help").out
    for word in ("--out", "--per-class", "--augmented", "--recipe", "--image-size", "--crop", "--white"):
        assert word in said
    assert "--learning-rate" not in said
    assert "--learning-rate" in run("show", "--help", "all").out


# -- in Python -------------------------------------------------------------------------------------------------------


def test_images_are_shown_as_train_would_prepare_them(tmp_path: Path) -> None:
    source, recipe = "mock-galaxies:60x64", Recipe(device="cpu", seed=3)
    shown = astroformer.show(source, recipe, per_class=2)
    split = split_images(Task(source), recipe, Reporter(quiet=True))
    decided, _ = decide(recipe, split.images.subset(split.train_rows))
    assert shown.recipe == decided
    preprocessing = preprocessing_of(decided, split.images.subset(split.train_rows))
    images = split.images
    assert images.labels is not None
    for k, row in enumerate(shown.sheet.rows):
        of_class = np.flatnonzero(images.labels == k)
        assert (row.name, row.about) == (CLASSES[k].replace("_", " "), f"n = {len(of_class)}")
        for tile, i in zip(row.tiles, of_class[[0, -1]], strict=True):
            np.testing.assert_array_equal(tile.image, preprocessing.apply(images.read(int(i))).transpose(1, 2, 0))
    assert repr(shown) == "\n".join(shown.sentences)
    assert shown._repr_png_().startswith(b"\x89PNG")


def test_augmented_rows_stand_under_the_images(tmp_path: Path) -> None:
    recipe = Recipe(device="cpu", image_size=32, crop=1.0)
    shown = show("mock-galaxies:20x32", recipe, per_class=2, augmented=True)
    assert [row.about for row in shown.sheet.rows[:2]] == ["n = 2", "augmented"]
    plain, made = (row.tiles[0].image for row in shown.sheet.rows[:2])
    assert plain is not None
    assert made is not None
    assert made.shape == plain.shape
    assert (made != plain).any()


def test_no_augmentation_changes_nothing() -> None:
    recipe = astroformer.Recipe(device="cpu", image_size=32, crop=1.0, augment="none")
    shown = show("mock-galaxies:20x32", recipe, per_class=2, augmented=True)
    for plain, made in zip(shown.sheet.rows[::2], shown.sheet.rows[1::2], strict=True):
        for one, other in zip(plain.tiles, made.tiles, strict=True):
            np.testing.assert_array_equal(one.image, other.image)


def test_an_image_that_cannot_be_read_is_an_empty_place_and_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", {"a": 4, "b": 4})
    (folder / "a" / "0.png").write_bytes(b"no image")
    shown = show(folder, Recipe(device="cpu"))
    assert [tile.image is None for tile in shown.sheet.rows[0].tiles] == [True, False, False, False]
    assert "1 of the 8 images looked at can't be read and is not shown" in shown.sentences
    assert sum("cannot read the image" in sentence for sentence in shown.sentences) == 1
    folder_of(tmp_path / "set", {"c": 8})
    for image in (folder / "c").rglob("*.png"):
        image.write_bytes(b"no image")
    sentences = show(folder, Recipe(device="cpu")).sentences
    assert "9 of the 16 images looked at can't be read and are not shown" in sentences
    assert sum("cannot read the image" in sentence for sentence in sentences) == 5
    assert "  and 4 more" in sentences
    shown.save(tmp_path / "sheet.png")
    for image in folder.rglob("*.png"):
        image.write_bytes(b"no image")
    with pytest.raises(astroformer.UserError, match="none of"):
        show(folder, Recipe(device="cpu"))


def test_several_sizes_are_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", {"a": 4}, (40, 32))
    folder_of(tmp_path / "set", {"b": 4}, (64, 48))
    said = show(folder, Recipe(device="cpu")).sentences
    assert any("40 × 32 px (4), 64 × 48 px (4)" in sentence for sentence in said)


def test_many_classes_take_several_pages_or_are_a_sample_that_is_said(tmp_path: Path) -> None:
    pixels = np.zeros((420, 8, 8), np.uint8)
    np.savez(tmp_path / "many.npz", images=pixels, labels=np.arange(420) % 210)
    source = f"{tmp_path / 'many.npz'}"
    assert len(open_source(source).classes) == 210
    shown = show(source, Recipe(device="cpu", image_size=32), per_class=2)
    assert len(shown.sheet.rows) == 200
    assert "the sheet shows 200 of 210 classes, spread evenly over them" in shown.sentences
    assert shown.sheet.pages > 10


# -- the sheet -------------------------------------------------------------------------------------------------------


def test_all_pages_are_in_the_pdf(tmp_path: Path) -> None:
    rows = [Row([Tile(np.full((8, 8), 40, np.uint8))] * 4, f"class {k}", "n = 4") for k in range(30)]
    sheet = ContactSheet("thirty", rows, columns=4)
    assert sheet.pages == -(-30 // sheet.rows_per_page) > 1
    sheet.save(tmp_path / "sheet.png")
    pages = re.findall(rb"/Type /Page\b(?!s)", (tmp_path / "sheet.pdf").read_bytes())
    assert len(pages) == sheet.pages
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.height <= 25 / 2.54 * 300


def test_what_a_screen_can_show() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(100, 10, (5, 6, 6)).astype(np.float16) for _ in range(3)]
    shown, said = visible(images)
    assert said is not None
    assert said.startswith("bands 1, 2 and 3 of 5 are shown as red, green and blue; black to white: ")
    assert all(image.shape == (6, 6, 3) for image in shown)
    assert {0, 255} <= set(np.stack(shown).ravel().tolist())
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    grey, said = visible([levels])
    np.testing.assert_array_equal(grey[0], levels[0])
    assert said is None
    both, said = visible([np.array([[[0]], [[200]]], np.uint8)])
    assert (both[0].tolist(), said) == ([[100]], "the mean of both bands is shown")
    assert visible([np.full((1, 2, 2), 7.0)])[0][0].tolist() == [[0, 0], [0, 0]]  # of one value
    assert visible([]) == ([], None)


@pytest.mark.parametrize("astropy", [True, False])
def test_named_bands_are_shown_in_the_colours_of_three(astropy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest wavelength is red, whatever the order of the bands and however they are scaled."""
    if not astropy:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    elif importlib.util.find_spec("astropy") is None:
        pytest.skip("astropy is not installed")
    rng = np.random.default_rng(0)
    linear = [rng.normal(100, 1, (5, 16, 16)).astype(np.float32) for _ in range(3)]
    linear[0][2, 4:8, 4:8] += 500  # in y alone
    linear[1][0, 4:8, 4:8] += 500  # in g alone
    linear[2][3, 4:8, 4:8] += 500  # in i alone
    linear[2][1] += 500  # r is not shown
    bands = Bands(("g", "r", "y", "i", "z"), ("nJy",) * 5)
    scaling = measured_scaling("asinh", linear)
    for images, scaled in ((linear, None), ([scaling.apply(image) for image in linear], scaling)):
        shown, said = visible(images, bands, scaled)
        method, bright = (" (Lupton et al. 2004)", "bright") if astropy else ("", "white")
        assert said is not None
        assert said.startswith(f"the bands y, i and g are shown as red, green and blue{method}; black to {bright}: y 1")
        colours = np.array([image[4:8, 4:8].mean((0, 1)) for image in shown])
        assert colours.argmax(1).tolist() == [0, 2, 1]
        assert colours.max(1).min() > 100
        assert all(image.dtype == np.uint8 for image in shown)
    rgb = [image[:3] for image in linear]
    assert "black to white" in str(visible(rgb, Bands(("R", "G", "B")))[1])


def test_land_is_not_shown_as_if_it_were_a_dark_sky() -> None:
    """Half of the pixels of land lie below the median, and none of them is black for that."""
    rng = np.random.default_rng(0)
    names = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
    land = [rng.uniform(200, 3000, (13, 16, 16)).astype(np.float32) for _ in range(3)]
    shown, said = visible(land, Bands(names))
    assert said is not None
    assert said.startswith("the bands B04, B03 and B02 are shown as red, green and blue; black to white: B04 2")
    pixels = np.concatenate([image.reshape(-1, 3) for image in shown])
    assert 110 < pixels.mean() < 145
    assert (pixels == 0).mean() < 0.01
    of_band = np.concatenate([image[3].ravel() for image in land])
    assert np.corrcoef(pixels[:, 0], of_band)[0, 1] > 0.999
    assert "," in said.partition("B04 ")[2].split()[2]  # 2,990 and not 2.99e+03


def test_a_long_title_breaks_where_a_reader_pauses() -> None:
    words = (
        "the bands z, r and u are shown as red, green and blue (Lupton et al. 2004)",
        "black to bright: " + "z 0 to 1, " * 5,
    )
    assert in_title("short; and whole", None, "; ".join(words)).splitlines() == [
        "short; and whole",
        f"{words[0]};",
        words[1].strip(),
    ]
    assert [len(line) <= 115 for line in in_title("word " * 60).splitlines()] == [True] * 3
