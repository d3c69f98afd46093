"""`AstroformerClassifier`: what scikit-learn asks of a classifier, and images in all the ways that it takes them."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.utils.estimator_checks import check_estimator

from astroformer import AstroformerClassifier
from astroformer.errors import UserError

QUICK: dict[str, Any] = {"epochs": 2, "image_size": 32, "augment": "none"}
EXPECTED = {
    "check_methods_sample_order_invariance": "images that are computed together change the last digit of float32",
    "check_methods_subset_invariance": "images that are computed together change the last digit of float32",
}


def squares(n: int = 40, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Light and dark images, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(n) % 2, "light", "dark")
    shape = (n, 20, 20) if channels is None else (n, 20, 20, channels)
    images = rng.integers(0, 60, shape, dtype=np.uint8) + (labels == "light").astype(np.uint8).reshape(
        -1, *(1,) * (len(shape) - 1)
    ) * np.uint8(150)
    return images, labels


@pytest.fixture(scope="module")
def fitted() -> AstroformerClassifier:
    images, labels = squares(channels=3)
    return AstroformerClassifier(**{**QUICK, "epochs": 12, "learning_rate": 0.002}).fit(images, labels)


def test_it_learns_and_answers(fitted: AstroformerClassifier) -> None:
    images, labels = squares(channels=3)
    assert fitted.classes_.tolist() == ["dark", "light"]
    assert fitted.score(images, labels) == 1
    probabilities_NK = fitted.predict_proba(images)
    np.testing.assert_allclose(probabilities_NK.sum(1), 1, atol=1e-6)
    assert (fitted.classes_[probabilities_NK.argmax(1)] == fitted.predict(images)).all()
    # Images of another size are images as well.
    assert fitted.predict(np.full((2, 31, 40, 3), 200, np.uint8)).tolist() == ["light", "light"]


def test_a_pickle_holds_the_model_folder(fitted: AstroformerClassifier) -> None:
    images, _ = squares(6, channels=3)
    kept = fitted.__getstate__()["model_"]
    assert {"config.json", "model.safetensors"} <= set(kept)
    assert all(isinstance(content, bytes) for content in kept.values())
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    assert fitted.model_.folder is None
    weights = kept["model.safetensors"]
    kept["model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    with pytest.raises(UserError, match=r"is not the one that config\.json names"):
        AstroformerClassifier().__setstate__({**fitted.__getstate__(), "model_": kept})


def test_paths_are_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = squares()
    monkeypatch.chdir(tmp_path)
    files = [f"{i:02d}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    numbers = np.where(labels == "light", 10, 2)
    estimator = AstroformerClassifier(**QUICK).fit(files, numbers)
    assert estimator.classes_.tolist() == [2, 10]
    same = AstroformerClassifier(**QUICK).fit(np.array(files), numbers)
    np.testing.assert_array_equal(estimator.predict_proba(files[:4]), same.predict_proba([Path(f) for f in files[:4]]))
    assert not list(tmp_path.glob("*run*"))
    Path("00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"00\.png"):
        estimator.predict(files)
    with pytest.raises(
        UserError, match=r"^1 of 40 images of X cannot be read \(.*00\.png: .*\)\. Mend or remove them\.$"
    ):
        estimator.fit(files, numbers)


def test_rows_are_images_of_a_shape() -> None:
    images, labels = squares()
    rows_NF = images.reshape(len(images), -1)
    estimator = AstroformerClassifier(**QUICK, image_shape=(20, 20)).fit(rows_NF, labels)
    direct = AstroformerClassifier(**QUICK).fit(images, labels)
    np.testing.assert_array_equal(estimator.predict_proba(rows_NF), direct.predict_proba(images))
    for shape in ((8, 8), 12, "ab"):
        with pytest.raises(UserError, match=rf"image_shape is {re.escape(repr(shape))}, and a row of X has 400 values"):
            AstroformerClassifier(image_shape=shape).fit(rows_NF, labels)  # type: ignore[arg-type]


def test_columns_of_a_table_are_taken(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    images, labels = squares()
    files = [str(tmp_path / f"{i:02d}.png") for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    table = pandas.DataFrame({"file": files, "kind": labels})
    first = AstroformerClassifier(**QUICK).fit(table["file"], table["kind"])
    again = AstroformerClassifier(**QUICK).fit(files, labels)
    np.testing.assert_array_equal(first.predict_proba(table[["file"]]), again.predict_proba(files))
    rows = pandas.DataFrame(images.reshape(len(images), -1).astype(np.float32)).rename(columns=str)
    first.set_params(image_shape=(20, 20)).fit(rows, table["kind"])
    assert first.n_features_in_ == 400
    bytes_ = pandas.DataFrame(images.reshape(len(images), -1)).rename(columns=str)
    with pytest.raises(UserError, match="uint8"):  # the type of pixels is part of what was learned
        first.predict(bytes_)
    assert first.fit(bytes_, labels).model_.preprocessing.dtype == "uint8"
    assert not hasattr(first.fit(table["file"], table["kind"]), "n_features_in_")


@pytest.mark.parametrize(
    ("X", "says"),
    [
        ("00.png", "X is the path '00.png' alone"),
        (["00.png", 3], "X has 3 among its paths"),
        (["00.png", "00.png"], "X names '00.png' more than once"),
    ],
)
def test_paths_that_can_not_be_are_refused(X: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        AstroformerClassifier().fit(X, ["a", "b"])


def test_labels_that_look_alike_stay_apart() -> None:
    images, _ = squares()
    labels = np.array([1, "1"] * 20, dtype=object)
    with pytest.raises(ValueError, match="Unknown label type"):  # scikit-learn takes no mixture
        AstroformerClassifier(**QUICK).fit(images, labels)
    texts = np.array(["1.0", "1"] * 20)
    assert AstroformerClassifier(**QUICK).fit(images, texts).classes_.tolist() == ["1", "1.0"]


def test_tools_of_scikit_learn_take_it() -> None:
    images, labels = squares(48)
    estimator = AstroformerClassifier(**QUICK)
    assert cross_val_predict(estimator, images, labels, cv=2, method="predict_proba").shape == (48, 2)
    search = GridSearchCV(estimator, {"learning_rate": [0.001, 0.004]}, cv=2).fit(images, labels)
    assert search.best_params_["learning_rate"] in (0.001, 0.004)
    assert CalibratedClassifierCV(estimator, cv=2).fit(images, labels).predict_proba(images).shape == (48, 2)


def test_settings_are_those_of_the_recipe() -> None:
    estimator = AstroformerClassifier("photo", minutes=0.5, random_state=3)
    images = np.zeros((4, 8, 8, 1), np.uint8)
    recipe = estimator._recipe(images)
    assert (recipe.augment.flip_vertical, recipe.minutes) == (0.0, 0.5)
    assert recipe == clone(estimator)._recipe(images)
    assert recipe.seed != AstroformerClassifier("photo", minutes=0.5, random_state=4)._recipe(images).seed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"recipe": "photos"}, "photo"),
        ({"epochs": 0}, "epochs"),
        ({"augment": "phto"}, "phto"),
    ],
)
def test_what_can_not_be_is_refused(words: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        AstroformerClassifier(**words).fit(*squares())


def test_one_class_is_refused() -> None:
    images, _ = squares()
    with pytest.raises(UserError, match="y holds one class alone"):
        AstroformerClassifier(**QUICK).fit(images, ["a"] * len(images))


def test_it_has_to_be_fitted() -> None:
    with pytest.raises(NotFittedError):
        AstroformerClassifier().predict(squares()[0])


@pytest.mark.slow
def test_the_contract_of_scikit_learn() -> None:
    found = check_estimator(AstroformerClassifier(**QUICK), expected_failed_checks=EXPECTED, on_fail=None, on_skip=None)
    failed = {check["check_name"]: repr(check["exception"]) for check in found if check["status"] == "failed"}
    assert not failed
    assert sum(check["status"] == "passed" for check in found) > 45
