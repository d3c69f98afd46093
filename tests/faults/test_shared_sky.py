"""Given validation images that show what is trained on are refused: pixels of one mosaic, the same sky, one group."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from astroformer.errors import UserError
from astroformer.images.labelled import Boxes, LabelledImages, Whereabouts
from astroformer.images.shared import shared_with
from astroformer.images.sources import open_source
from astroformer.training.prepare import prepare
from astroformer.training.recipe import Recipe
from astroformer.training.splitting import check_shared, split_images
from astroformer.training.task import Task
from helpers.command_line import TINY, Run, table
from helpers.listening import Listening
from helpers.tiny_sets import write_picture
from mock_survey import CLASSES, Field, field, sky_of, tan_header, write_catalog, write_fits

RNG = np.random.default_rng(12)
RECIPE = Recipe(epochs=1, image_size=32, crop=1.0, device="cpu", speed="plain", precision="no")


def said_of(source: str | Path, valid: str | Path, **words: Any) -> list[str]:
    """What `train` says of both sources before it decodes anything."""
    task = Task(source, valid=valid, **words)
    return check_shared(split_images(task, RECIPE, Listening()), task)


# Mosaics ----------------------------------------------------------------------------------------------------


def places(path: Path, header: dict[str, Any], x: Any, y: Any) -> Path:
    """A catalog of galaxies around pixels, the classes in turn."""
    ra, dec = sky_of(header, np.asarray(x, float), np.asarray(y, float))
    rows = [(f"{path.stem}{i}", *at, CLASSES[i % 3]) for i, at in enumerate(zip(ra, dec, strict=True))]
    return write_catalog(path, ("id", "ra", "dec", "label"), rows)


@pytest.fixture(scope="module")
def made() -> Field:
    return field(6, side=160, size=16)


@pytest.fixture
def mosaic(tmp_path: Path, made: Field) -> Path:
    pytest.importorskip("astropy")
    return write_fits(tmp_path / "field.fits", made.image_HWC, "extensions", made.header)


def test_cutouts_that_share_pixels_with_training_cutouts(tmp_path: Path, mosaic: Path, made: Field) -> None:
    train = places(tmp_path / "t.csv", made.header, [20, 60, 100, 140, 20, 60], [20, 20, 20, 20, 60, 60])
    # Of these the first overlaps by its corner, the third lies beside one, and the last outside the mosaic.
    valid = places(tmp_path / "v.csv", made.header, [35, 100, 36, 60, 500, 140], [35, 100, 20, 58, 20, 100])
    words = f"@mosaic={mosaic}@size=16"
    why = r"2 of 6 images of .*v\.csv.* share pixels of the mosaic with training images \(the first: v0 and t0\)"
    with pytest.raises(UserError, match=why + r", so they would say little.*or go on with --allow-shared\."):
        said_of(f"{train}{words}", f"{valid}{words}")
    link = tmp_path / "other.fits"
    os.symlink(mosaic, link)
    for bands in ("@hdu=1,2", "@hdu=2,3"):  # one of both is the same
        with pytest.raises(UserError, match="2 of 6 images"):
            said_of(f"{train}{words}@hdu=1,2", f"{valid}@mosaic={link}@size=16{bands}")
    with pytest.raises(UserError, match="3 of 6 images"):
        said_of(f"{train}{words}", f"{valid}@mosaic={mosaic}@size=18")


def test_they_are_counted_in_a_run_that_allows_them(tmp_path: Path, mosaic: Path, made: Field) -> None:
    train = places(tmp_path / "t.csv", made.header, np.arange(20, 140, 10), np.full(12, 40))
    valid = places(tmp_path / "v.csv", made.header, [40, 40, 80], [54, 100, 110])
    sources = [f"{catalog}@mosaic={mosaic}@size=16" for catalog in (train, valid)]
    out, listening = tmp_path / "run", Listening()
    with pytest.raises(UserError, match=r"1 of 3 images of .* share pixels"):
        prepare(Task(sources[0], valid=sources[1]), RECIPE, out=out, reporter=listening)
    assert not out.exists()
    setup = prepare(Task(sources[0], valid=sources[1], allow_shared=True), RECIPE, out=out, reporter=listening)
    [said] = [sentence for sentence in listening.said if "share pixels of the mosaic with training images" in sentence]
    assert said.startswith("1 of 3 images")
    assert said in setup.record.decisions


def test_the_parts_of_a_split_share_nothing(tmp_path: Path, mosaic: Path, made: Field) -> None:
    catalog = places(tmp_path / "t.csv", made.header, *RNG.uniform(10, 150, (2, 24)))
    listening = Listening()
    setup = prepare(Task(f"{catalog}@mosaic={mosaic}@size=16"), RECIPE, out=tmp_path / "run", reporter=listening)
    assert said_of(setup.run.splits / "train.csv", setup.run.splits / "valid.csv") == []


def test_overlapping_mosaics_show_the_same_galaxies(tmp_path: Path, mosaic: Path, made: Field) -> None:
    """Two fields of a survey have a margin in common: here columns 120 to 159 of the one are 0 to 39 of the other."""
    header = {**made.header, "CRPIX1": made.header["CRPIX1"] - 120}
    other = write_fits(tmp_path / "beside.fits", made.image_HWC[:, ::-1], "extensions", header)
    here, there = np.array([20, 50, 80, 110, 140, 150]), np.array([15, 25, 60, 90, 120, 150])
    train = places(tmp_path / "t.csv", made.header, here, np.full(6, 40))
    valid = places(tmp_path / "v.csv", header, there, [40, 60, 40, 40, 40, 40])
    words = f"{train}@mosaic={mosaic}@size=16", f"{valid}@mosaic={other}@size=16"
    with pytest.raises(UserError, match=r"1 of 6 images of .* lie within 3\.93 arcsec of training images .*v0 and t4"):
        said_of(*words)
    # Cutouts that touch share nothing, and nor do those of one catalog of which each mosaic shows a part.
    valid = places(tmp_path / "w.csv", header, [46, 70, 100], [40, 40, 40])
    assert said_of(words[0], f"{valid}@mosaic={other}@size=16") == []
    x, y = np.array([20, 60, 100, 300, 340, 380]), np.full(6, 80)
    both, far = places(tmp_path / "b.csv", made.header, x, y), {**made.header, "CRPIX1": made.header["CRPIX1"] - 260}
    other = write_fits(tmp_path / "far.fits", made.image_HWC, "extensions", far)
    assert said_of(f"{both}@mosaic={mosaic}@size=16", f"{both}@mosaic={other}@size=16") == []


def test_boxes_of_any_two_sides_against_all_pairs() -> None:
    sources = []
    for n, side in ((80, 9), (60, 25)):
        boxes = Boxes(frozenset({("m.fits", 1)}), RNG.integers(-20, 400, (n, 2)), side, 0.0, RNG.random(n) < 0.9)
        files = [str(i) for i in range(n)]
        sources.append(LabelledImages("m", files, None, (), {}.__getitem__, whereabouts=Whereabouts(boxes)))
    a, b = (images.whereabouts.boxes for images in sources)
    assert a is not None
    assert b is not None
    ahead = b.corner_N2[None] - a.corner_N2[:, None]
    expected = ((ahead < a.side) & (-ahead < b.side)).all(axis=2) & a.placed_N[:, None] & b.placed_N
    [shared] = shared_with(*sources)
    np.testing.assert_array_equal(shared.rows, np.flatnonzero(expected.any(axis=1)))
    assert expected[shared.rows[0], shared.example]
    some = np.flatnonzero(~expected.any(axis=1))
    assert shared_with(sources[0].subset(some), sources[1]) == []


# Catalogs ---------------------------------------------------------------------------------------------------


def catalog_of(folder: Path, name: str, rows: list[str]) -> Path:
    """A catalog of pictures that are all different; `rows` have ra, dec and plate."""
    lines = ["file,label,ra,dec,plate"]
    for i, row in enumerate(rows):
        file = f"{name}{i}.png"
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(folder / file)
        lines.append(f"{file},{'ab'[i % 2]},{row}")
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.csv"


def test_catalogs_of_the_same_sky_and_of_the_same_groups(tmp_path: Path) -> None:
    train = catalog_of(tmp_path, "t", ["0.001,5,p1", "10,5,p1", "20,5,p2", "30,-5,p3"])
    valid = catalog_of(tmp_path, "v", ["359.999,5,p2", "10.1,5,p4", "30,-5.001,p5", ",,p9"])
    assert said_of(train, valid) == []  # nobody says what is the same
    why = r"2 of 4 images of .* lie within 10 arcsec of training images \(the first: v0\.png and t0\.png\)"
    for words in (("@same-sky=10", "@same-sky=10"), ("@same-sky=10", ""), ("", "@same-sky=10")):
        with pytest.raises(UserError, match=why):
            said_of(f"{train}{words[0]}", f"{valid}{words[1]}")
    with pytest.raises(UserError, match=r"2 of 4 images of .* lie within 8 arcsec"):  # the mean, as within a source
        said_of(f"{train}@same-sky=10", f"{valid}@same-sky=6")
    assert said_of(f"{train}@same-sky=1", f"{valid}@same-sky=2") == []
    with pytest.raises(UserError, match=r"1 of 4 .* have the same 'plate' as training images .*v0\.png and t2\.png"):
        said_of(f"{train}@group=plate", f"{valid}@group=plate")
    assert said_of(f"{train}@group=plate", valid) == []
    assert said_of(f"{train}@group=plate", f"{valid}@group=label") == []
    both = [f"{catalog}@same-sky=10@group=plate" for catalog in (train, valid)]
    said = said_of(*both, allow_shared=True)  # each image is counted once
    assert [sentence.partition(" (")[0] for sentence in said] == [
        f"2 of 4 images of '{both[1]}' lie within 10 arcsec of training images"
    ]


def test_a_cutout_of_a_mosaic_beside_pictures_of_the_same_sky(tmp_path: Path, mosaic: Path, made: Field) -> None:
    train = places(tmp_path / "t.csv", made.header, [20, 60, 100], [20, 20, 20])
    near, off = sky_of(tan_header(150.1, 2.2, 160), [25, 20], [20, 60])
    valid = catalog_of(tmp_path, "v", [f"{near[i]:.9f},{off[i]:.9f},p" for i in range(2)])
    images = open_source(f"{valid}", labelled=False), open_source(f"{train}@mosaic={mosaic}@size=16", labelled=False)
    [shared] = shared_with(*images)
    assert (shared.how, shared.rows.tolist(), shared.example) == ("lie within 3.93 arcsec of", [0], 0)


def test_objects_at_the_same_place_are_the_same_though_nobody_says_so(tmp_path: Path) -> None:
    """Cutouts of another size or survey have other pixels, and show the galaxies that were trained on."""
    sources = []
    for name, shift in (("train", 0.0), ("valid", 0.5 / 3600)):
        rows = []
        for i in range(8):
            write_picture(tmp_path / name / f"{i}.png", i + 8 * (name == "valid"))
            ra, dec = (0.0, 0.0) if i > 5 else (10.0 + i + (90 if name == "valid" and i > 1 else 0), 20.0 + shift)
            rows.append((f"{i}.png", ra, dec, CLASSES[i % 2]))
        sources.append(write_catalog(tmp_path / name / "c.csv", ("file", "ra", "dec", "label"), rows))
    with pytest.raises(UserError, match=r"2 of 8 images of .* lie within 1 arcsec of training images .*--allow-shared"):
        said_of(*sources)
    assert len(said_of(*sources, allow_shared=True)) == 1


def test_an_evaluation_says_which_cutouts_show_what_was_trained_on(
    run: Run, tmp_path: Path, mosaic: Path, made: Field
) -> None:
    catalog = places(tmp_path / "t.csv", made.header, [20, 60, 100, 140] * 3, [20] * 4 + [60] * 4 + [100] * 4)
    trained = run("train", f"{catalog}@mosaic={mosaic}@size=16", *TINY, "--out", "r")
    assert trained.status == 0, trained.err
    for model in ("r", "r/model"):
        measured = run("evaluate", model, f"{catalog}@mosaic={mosaic}@size=18", "--out", f"e-{Path(model).name}")
        assert measured.status == 0, measured.err
        n = len(table(Path("r/splits/train.csv")))
        assert f"{n} of 12 images of" in measured.err
        assert "share pixels of the mosaic with training images" in measured.err
        assert f"the model was trained on {n} of these 12 images" in measured.out
        assert "without them:" in measured.out
    reported = run("report", "r", f"{catalog}@mosaic={mosaic}@size=18", "--out", "page", "--symmetry-images", "0")
    assert reported.status == 0, reported.err
    assert f"{n} of 12 images of" in reported.err
    content = json.loads(Path("page/report.json").read_text())
    assert (content["seen"], content["new"]["n"]) == (n, 12 - n)
    assert f"The model was trained on {n} of these 12 images" in content["warning"]
    assert sum(row["trained_on"] == "true" for row in table(Path("page/images.csv"))) == n
    held_out = run("evaluate", "r", "r/splits/valid.csv", "--out", "v")
    assert held_out.status == 0, held_out.err
    assert "share pixels" not in held_out.err
    same = run("evaluate", "r", f"{catalog}@mosaic={mosaic}@size=16", "--out", "s")
    assert "share pixels" not in same.err  # that they are the same pixels says more
    assert f"the model was trained on {n} of these 12 images" in same.out
    catalog.rename("moved.csv")
    measured = run("evaluate", "r", f"moved.csv@mosaic={mosaic}@size=18", "--out", "m")
    assert measured.status == 0, measured.err
    assert "whether these images show what the model was trained on is not known" in measured.err
