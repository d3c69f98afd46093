from __future__ import annotations

import copy
import io
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import astroformer
from astroformer.classifier import Classifier
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.images import open_source, read_image
from astroformer.images.bands import Bands
from astroformer.images.given import as_images
from astroformer.intervals import Interval
from astroformer.model_config import ModelRecord, ValidationScores
from astroformer.network import Astroformer, create_network
from astroformer.system import pick_device


def paths_of(folder: Path) -> list[Path]:
    return [folder / name for name in open_source(folder).files]


def test_save_and_load_give_the_same_probabilities_to_the_bit(
    classifier: Classifier, model_folder: Path, galaxy_folder: Path
) -> None:
    loaded = astroformer.load(model_folder)
    assert loaded.classes == classifier.classes
    assert loaded.preprocessing == classifier.preprocessing
    assert loaded.info == classifier.info
    before, after = (c.predict(galaxy_folder).probabilities_NK for c in (classifier, loaded))
    np.testing.assert_array_equal(before, after)
    assert len(np.unique(before.argmax(1))) > 1  # or the comparison would say little
    np.testing.assert_allclose(before.sum(1), 1, atol=1e-12)
    again = astroformer.load(loaded.save(model_folder.parent / "again"))
    np.testing.assert_array_equal(again.predict(galaxy_folder).probabilities_NK, before)


def test_one_predict_path_for_every_kind_of_input(
    classifier: Classifier, model_folder: Path, galaxy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = paths_of(galaxy_folder)
    by_folder = classifier.predict(galaxy_folder)
    by_source = classifier.predict(open_source(galaxy_folder))
    by_paths = classifier.predict([str(path) for path in paths])
    by_array = classifier.predict(np.stack([read_image(path) for path in paths]))
    for other in (by_source, by_paths, by_array):
        np.testing.assert_array_equal(other.probabilities_NK, by_folder.probabilities_NK)
        assert other.names == by_folder.names
    assert by_folder.files == [str(path.relative_to(galaxy_folder)) for path in paths]
    assert by_paths.files == [str(path) for path in paths]
    # One at a time, as a path or an array.
    one = classifier.predict(paths[3])
    np.testing.assert_allclose(one.probabilities_NK[0], by_folder.probabilities_NK[3], atol=1e-6)
    np.testing.assert_allclose(
        classifier.predict(read_image(paths[3])).probabilities_NK, one.probabilities_NK, atol=1e-12
    )
    out = tmp_path / "p.csv"
    assert main(["predict", str(model_folder), str(galaxy_folder), "--out", str(out), "--quiet"]) == 0
    rows = [line.split(",") for line in out.read_text().splitlines()][1:]
    assert [row[0] for row in rows] == by_folder.files
    assert [row[1] for row in rows] == by_folder.names
    np.testing.assert_allclose(np.array([row[3:-1] for row in rows], float), by_folder.probabilities_NK, rtol=1e-7)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_batch_size_does_not_matter(classifier: Classifier, galaxy_folder: Path, batch_size: int) -> None:
    calls: list[tuple[int, int]] = []
    got = classifier.predict(galaxy_folder, batch_size=batch_size, progress=lambda *now: calls.append(now))
    np.testing.assert_allclose(got.probabilities_NK, classifier.predict(galaxy_folder).probabilities_NK, atol=1e-6)
    assert calls == [(min(end, 30), 30) for end in range(batch_size, 30 + batch_size, batch_size)]


def test_training_mode_is_left_before_predicting(classifier: Classifier, galaxy_folder: Path) -> None:
    expected = classifier.predict(galaxy_folder).probabilities_NK
    classifier.network.train()
    np.testing.assert_array_equal(classifier.predict(galaxy_folder).probabilities_NK, expected)


def test_probabilities_are_those_of_the_plain_network(classifier: Classifier, galaxy_folder: Path) -> None:
    stored_BCHW = np.stack([classifier.preprocessing.apply(read_image(path)) for path in paths_of(galaxy_folder)])
    with torch.no_grad():
        logits_BK = classifier.network(classifier.preprocessing.normalize(torch.from_numpy(stored_BCHW)))
    plain_BK = torch.softmax(logits_BK.double(), 1).numpy()
    np.testing.assert_allclose(classifier.probabilities(stored_BCHW), plain_BK, atol=1e-5)
    np.testing.assert_allclose(classifier.predict(galaxy_folder).probabilities_NK, plain_BK, atol=1e-5)


def test_weights_that_change_change_the_answers(classifier: Classifier, galaxy_folder: Path, tmp_path: Path) -> None:
    before = classifier.predict(galaxy_folder).probabilities_NK
    twin = copy.deepcopy(classifier)
    with torch.no_grad():
        for parameter in classifier.network.parameters():
            parameter.mul_(1.1)
    after = classifier.predict(galaxy_folder).probabilities_NK
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(twin.predict(galaxy_folder).probabilities_NK, before)
    saved = astroformer.load(classifier.save(tmp_path / "changed"))
    np.testing.assert_array_equal(saved.predict(galaxy_folder).probabilities_NK, after)
    classifier.network.load_state_dict(twin.network.state_dict())
    np.testing.assert_array_equal(classifier.predict(galaxy_folder).probabilities_NK, before)
    classifier.to("cpu")
    np.testing.assert_array_equal(classifier.predict(galaxy_folder).probabilities_NK, before)


def test_precision_is_a_choice(
    classifier: Classifier, model_folder: Path, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = classifier.predict(galaxy_folder).probabilities_NK
    rough = astroformer.load(model_folder, precision="bfloat16")
    got = rough.predict(galaxy_folder).probabilities_NK
    assert 1e-5 < np.abs(got - exact).max() < 0.05
    rough.precision = "float32"
    np.testing.assert_array_equal(rough.predict(galaxy_folder).probabilities_NK, exact)
    for instructions, choice in ((None, "float32"), ("AMX bf16", "bfloat16")):
        monkeypatch.setattr("astroformer.system.bfloat16_instructions", lambda found=instructions: found)
        assert astroformer.load(model_folder, precision="auto").precision == choice
    with pytest.raises(UserError, match="unknown precision 'float16'"):
        astroformer.load(model_folder, precision="float16")


def test_symmetry_is_a_choice(classifier: Classifier, model_folder: Path, galaxy_folder: Path, tmp_path: Path) -> None:
    averaged = astroformer.load(model_folder, symmetry="shift+d4")
    # What was measured of the single view is not claimed for the average.
    measured = astroformer.load(model_folder)
    measured.info = ModelRecord(metrics=ValidationScores(20, {"top1": Interval(0.5, 0.4, 0.6)}))
    folder = measured.save(tmp_path / "measured")
    assert astroformer.load(folder, symmetry="shift").info == measured.info
    assert astroformer.load(folder, symmetry="shift+d4").info.metrics is None
    stored_BCHW = np.stack([classifier.preprocessing.apply(read_image(path)) for path in paths_of(galaxy_folder)])
    turned = [np.rot90(stored_BCHW, k, (2, 3)) for k in range(4)]
    views = [np.ascontiguousarray(view) for v in turned for view in (v, v[..., ::-1])]
    probabilities = [averaged.probabilities(view) for view in views]
    for other in probabilities[1:]:
        np.testing.assert_allclose(other, probabilities[0], atol=1e-5)
    # The mean of the logits is, but for a constant an image, that of the logarithms of the probabilities: over the four
    # turns of the image, or over those of its mirror image.
    off = []
    for four in (views[0::2], views[1::2]):
        mean_BK = np.mean([np.log(classifier.probabilities(view)) for view in four], 0)
        expected_BK = np.exp(mean_BK) / np.exp(mean_BK).sum(1, keepdims=True)
        off.append(np.abs(probabilities[0] - expected_BK).max(1))
        assert np.abs(expected_BK - classifier.probabilities(stored_BCHW)).max() > 1e-4
    assert np.minimum(*off).max() < 1e-5
    saved = astroformer.load(averaged.save(tmp_path / "averaged"))
    np.testing.assert_array_equal(
        saved.predict(galaxy_folder).probabilities_NK, averaged.predict(galaxy_folder).probabilities_NK
    )
    assert "Unchanged by: quarter turns and flips." in (tmp_path / "averaged" / "README.md").read_text()
    mirrored = astroformer.load(model_folder, symmetry="shift+mirror")
    pair = [mirrored.probabilities(np.ascontiguousarray(view)) for view in (stored_BCHW, stored_BCHW[..., ::-1])]
    np.testing.assert_array_equal(*pair)
    assert np.abs(pair[0] - classifier.probabilities(stored_BCHW)).max() > 1e-4
    mirrored.save(tmp_path / "mirrored")
    assert "Unchanged by: left-right flips." in (tmp_path / "mirrored" / "README.md").read_text()
    with pytest.raises(UserError, match=r"unknown symmetry 'd4'.*shift\+d4"):
        astroformer.load(model_folder, symmetry="d4")


def test_a_framed_classifier_is_unchanged_by_circular_shifts(
    classifier: Classifier, galaxy_folder: Path, tmp_path: Path
) -> None:
    framed = classifier.framed(galaxy_folder)
    stored_BCHW = np.stack([classifier.preprocessing.apply(read_image(path)) for path in paths_of(galaxy_folder)])
    answers = framed.probabilities(stored_BCHW)
    for shift in ((1, 0), (0, 1), (13, 22)):
        np.testing.assert_array_equal(framed.probabilities(np.roll(stored_BCHW, shift, (2, 3))), answers)
        assert np.abs(classifier.probabilities(np.roll(stored_BCHW, shift, (2, 3))) - answers).max() > 1e-3
    assert classifier.info.metrics is not None  # which are not those of the framed one
    assert framed.info.metrics is None
    assert isinstance(classifier.network, Astroformer)  # which it was made from is left as it was
    loaded = astroformer.load(framed.save(tmp_path / "framed"))
    np.testing.assert_array_equal(loaded.probabilities(stored_BCHW), answers)
    assert "Unchanged by: circular shifts by whole pixels." in (tmp_path / "framed" / "README.md").read_text()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png"):
        classifier.framed([*paths_of(galaxy_folder), broken])
    again = framed.framed(galaxy_folder)  # from other images it would learn anew
    np.testing.assert_array_equal(again.probabilities(stored_BCHW), answers)
    anchored = create_network("astroformer_atto", img_size=32, equivariance="anchor")
    with pytest.raises(UserError, match="has equivariance 'anchor' already"):
        Classifier(anchored, classifier.preprocessing, classifier.classes).framed(galaxy_folder)
    with pytest.raises(UserError, match="Ensemble can't be framed"):
        Classifier.ensemble([classifier, classifier]).framed(galaxy_folder)


def test_predicting_leaves_torchs_threads_alone(classifier: Classifier, galaxy_folder: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in classifier.iter_predict(open_source(galaxy_folder), batch_size=4):
            break  # also when it is not read to its end
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_unreadable_images_are_rows_with_a_reason_in_their_place(
    classifier: Classifier, galaxy_folder: Path, tmp_path: Path
) -> None:
    good = paths_of(galaxy_folder)[:4]
    text, missing, deep = tmp_path / "text.png", tmp_path / "missing.png", tmp_path / "deep.png"
    text.write_text("no image")
    Image.fromarray(np.full((40, 40), 9000, np.uint16)).save(deep)  # 16 bits, and this model takes 8
    files = [text, good[0], missing, good[1], deep, good[2], good[3]]
    for batch_size in (1, 2, 64):
        got = classifier.predict(files, batch_size=batch_size)
        assert got.files == [str(file) for file in files]
        assert [bool(error) for error in got.errors] == [True, False, True, False, True, False, False]
        assert got.readable_N.tolist() == [not error for error in got.errors]
        assert "not a JPEG" in got.errors[0]
        assert "uint16" in got.errors[4]
        assert [name == "" for name in got.names] == [True, False, True, False, True, False, False]
        assert np.isnan(got.probabilities_NK[[0, 2, 4]]).all()
        assert np.isnan(got.confidence_N[[0, 2, 4]]).all()
        np.testing.assert_allclose(
            got.probabilities_NK[[1, 3, 5, 6]], classifier.predict(good).probabilities_NK, atol=1e-6
        )


def test_names_and_confidence_belong_to_the_largest_probability(classifier: Classifier, galaxy_folder: Path) -> None:
    got = classifier.predict(galaxy_folder)
    best = got.probabilities_NK.argmax(1)
    assert got.names == [classifier.classes[k] for k in best]
    np.testing.assert_array_equal(got.confidence_N, got.probabilities_NK[np.arange(30), best])


def test_no_images_give_no_rows(classifier: Classifier) -> None:
    for nothing in ([], iter(()), np.zeros((0, 32, 32, 3), np.uint8)):
        got = classifier.predict(nothing)
        assert len(got) == 0
        assert got.probabilities_NK.shape == (0, 10)


def test_evaluate_leaves_unreadable_images_out(classifier: Classifier, galaxy_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(galaxy_folder, tmp_path / "set"))
    whole, predictions = classifier.evaluate(folder)
    labels = open_source(folder).labels
    # A folder sorts its classes; the model's own order is the one that counts.
    own = np.array([classifier.classes.index(Path(file).parent.name) for file in predictions.files])
    assert not np.array_equal(labels, own)
    assert whole["top1"] == pytest.approx((predictions.probabilities_NK.argmax(1) == own).mean())
    bad = folder / predictions.files[0]
    bad.write_bytes(bad.read_bytes()[:60])
    fewer, rows = classifier.evaluate(folder)
    assert (fewer.n, len(rows)) == (29, 30)
    assert rows.errors[0]
    with pytest.raises(UserError, match=r"1 image can't be read.*" + bad.name):
        classifier.evaluate(folder, strict=True)


def test_evaluate_knows_classes_by_name_also_when_some_are_missing(
    classifier: Classifier, galaxy_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(galaxy_folder / "merging", tmp_path / "set" / "merging")
    result, _ = classifier.evaluate(tmp_path / "set")
    assert result.confusion_KK.sum(1).tolist() == [3 if name == "merging" else 0 for name in classifier.classes]
    shutil.copytree(galaxy_folder / "merging", tmp_path / "set" / "mergin")
    with pytest.raises(UserError, match="Did you mean 'merging'"):
        classifier.evaluate(tmp_path / "set")


def test_requests_that_cannot_be_met(classifier: Classifier, galaxy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labels"):
        classifier.evaluate(open_source(galaxy_folder, labelled=False))
    with pytest.raises(UserError, match="labelled source"):
        classifier.evaluate([tmp_path / "x.png"])
    with pytest.raises(UserError, match="is no image"):
        classifier.predict(np.zeros((1, 1, 1, 1, 1), np.uint8))
    with pytest.raises(UserError, match="a list of images holds int"):
        classifier.predict([np.zeros((4, 4), np.uint8), 3])  # type: ignore[list-item]
    with pytest.raises(UserError, match="batch_size is 0"):
        classifier.predict(galaxy_folder, batch_size=0)
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        pick_device("gpu")
    with pytest.raises(UserError, match="a Linear can't be kept"):
        Classifier(torch.nn.Linear(2, 2), classifier.preprocessing, ("a", "b")).save(tmp_path / "linear")


def test_a_run_folder_stands_for_its_model(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "run" / "model")
    assert astroformer.load(tmp_path / "run").classes == classifier.classes


def test_the_network_of_a_loaded_model_is_an_astroformer_of_the_same_config(
    model_folder: Path, classifier: Classifier
) -> None:
    network = astroformer.load(model_folder, "auto").network
    assert isinstance(network, Astroformer)
    assert network.config == classifier.network.config
    assert not network.training


def test_bytes_are_taken_in_every_form_and_opened_files_are_not(classifier: Classifier, galaxy_folder: Path) -> None:
    path = paths_of(galaxy_folder)[0]
    read = path.read_bytes()
    expected = classifier.predict(path).probabilities_NK
    for given in (read, bytearray(read), memoryview(read), [memoryview(read)], Image.open(path), [Image.open(path)]):
        np.testing.assert_allclose(classifier.predict(given).probabilities_NK, expected, atol=1e-12)
    for opened in (io.BytesIO(read), path.open("rb")):
        with opened, pytest.raises(UserError, match=r"an opened file \(B.*\) is no image; give what its read"):
            classifier.predict(opened)


def test_without_the_fast_path_hooks_fire_batch_after_batch(model_folder: Path, galaxy_folder: Path) -> None:
    fast, plain = astroformer.load(model_folder), astroformer.load(model_folder, fast=False)
    seen: list[int] = []
    for model in (fast, plain):
        model.network.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    quick = fast.predict(galaxy_folder, batch_size=20)
    assert seen == []
    slow = plain.predict(galaxy_folder, batch_size=20)
    assert seen == [20, 10]
    np.testing.assert_allclose(slow.probabilities_NK, quick.probabilities_NK, atol=1e-5)
    assert slow.files == quick.files


def test_without_the_fast_path_there_is_float32_alone(model_folder: Path) -> None:
    assert astroformer.load(model_folder, precision="auto", fast=False).precision == "float32"
    with pytest.raises(UserError, match="precision bfloat16 is a part of the fast path"):
        astroformer.load(model_folder, precision="bfloat16", fast=False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_progress_where_there_are_several_batches(
    classifier: Classifier, galaxy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")

    def shown(stream: io.StringIO, **words: Any) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        classifier.predict(galaxy_folder, **words)
        if words.get("batch_size") == 8:
            classifier.evaluate(galaxy_folder, **words)
        return stream.getvalue()

    assert shown(Terminal()) == ""
    assert shown(Terminal(), batch_size=8, quiet=True) == ""
    assert shown(io.StringIO(), batch_size=8) == ""
    said = shown(Terminal(), batch_size=8)
    assert "predicting" in said
    assert "evaluating" in said
    assert "30 of 30 images" in said
    told: list[tuple[int, int]] = []
    assert shown(Terminal(), batch_size=16, progress=lambda *counts: told.append(counts)) == ""
    assert told == [(16, 30), (30, 30)]


def test_whoever_hands_over_arrays_may_say_what_their_bands_are(classifier: Classifier) -> None:
    known = copy.copy(classifier)
    bands = Bands(("g", "r", "z"), ("nJy",) * 3)
    known.preprocessing = replace(classifier.preprocessing, bands=bands)
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    plain = classifier.predict(images).probabilities_NK
    with pytest.warns(UserWarning, match="do not state the unit of their values"):
        known.predict(images, bands=["g", "r", "z"])
    with pytest.warns(UserWarning, match="do not state the unit of their values"):
        known.predict(images, bands="g, r,z")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(known.predict(images, bands=bands).probabilities_NK, plain)
        assert known.features(images, bands=bands).shape[0] == 2
    for other in (("z", "r", "g"), ("g", "r"), "grz"):
        with pytest.raises(UserError, match="learned from the bands g, r, z"):
            known.predict(images[..., ::-1], bands=other)
    with pytest.raises(UserError, match="you have named the bands z, r, g, and those of 'images in memory' have g, r"):
        known.predict(replace(as_images(images), bands=bands), bands=("z", "r", "g"))
