"""One survey in five bands, from FITS files, HDF5, Zarr and `.npz`: the same network, and one that sees colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import astroformer
from mock_survey import CLASSES, FILTERS, UNIT, Survey, survey, write_folder

N, SIZE = 150, 32


def by_class(made: Survey) -> Survey:
    """The galaxies in the order in which class folders are read, masked pixels without a value."""
    order = np.argsort(made.labels, kind="stable")
    images_NHWC = np.where(made.masks_NHW[..., None], np.nan, made.images_NHWC).astype(np.float32)
    return Survey(images_NHWC[order], made.masks_NHW[order], made.labels[order], made.ra[order], made.dec[order])


def write_each(root: Path, made: Survey) -> dict[str, Path]:
    """The same survey in each kind of file."""
    import h5py
    import zarr

    root.mkdir()
    arrays = {"images": made.images_NHWC, "labels": made.labels}
    words = {"classes": list(CLASSES), "bands": list(FILTERS), "units": [UNIT] * len(FILTERS)}
    np.savez(root / "set.npz", **arrays, **{name: np.array(word) for name, word in words.items()})
    with h5py.File(root / "set.h5", "w") as file:
        file.create_dataset("images", data=made.images_NHWC, chunks=(10, SIZE, SIZE, len(FILTERS)), compression="gzip")
        file["labels"] = made.labels
        file.attrs.update(words)
    group = zarr.open_group(root / "set.zarr", mode="w")
    for name, array in arrays.items():
        group.create_array(name, data=array)
    group.attrs.update(words)
    return {"fits": write_folder(root / "set", made), **{kind: root / f"set.{kind}" for kind in ("npz", "h5", "zarr")}}


@pytest.mark.slow
def test_the_same_survey_trains_to_the_same_bits_from_every_kind_of_file_and_needs_its_colours(tmp_path: Path) -> None:
    made = by_class(survey(N, SIZE))
    recipe = astroformer.Recipe(
        epochs=12, image_size=SIZE, crop=1.0, device="cpu", batch_size=16, missing="median", scaling="asinh"
    )
    new = by_class(survey(60, SIZE, seed=1))
    places = write_each(tmp_path / "sources", made)
    asked = write_each(tmp_path / "new", new)
    probabilities, weights = {}, {}
    for kind, source in places.items():
        trained = astroformer.train(source, recipe, out=tmp_path / kind, cache=tmp_path / f"{kind}-cache", quiet=True)
        weights[kind] = (trained.model / "model.safetensors").read_bytes()
        model = astroformer.load(trained.model)
        assert model.preprocessing.bands is not None
        assert model.preprocessing.bands.names == FILTERS
        probabilities[kind] = model.predict(asked[kind]).probabilities_NK
    for kind in places:
        assert weights[kind] == weights["fits"], kind
        np.testing.assert_array_equal(probabilities[kind], probabilities["fits"])
    right = (probabilities["fits"].argmax(1) == new.labels).mean()

    # Without its colours: the bands of each image in an order of its own.
    rng = np.random.default_rng(0)
    for name, some in (("places", made), ("asked", new)):
        shuffled = np.stack([image[:, :, rng.permutation(len(FILTERS))] for image in some.images_NHWC])
        np.savez(tmp_path / f"{name}.npz", images=shuffled, labels=some.labels, classes=np.array(CLASSES))
    blind = astroformer.train(tmp_path / "places.npz@layout=NHWC", recipe, out=tmp_path / "blind", quiet=True)
    answers = astroformer.load(blind.model).predict(tmp_path / "asked.npz@layout=NHWC").probabilities_NK
    assert right > 0.9
    blind_right = (answers.argmax(1) == new.labels).mean()
    assert blind_right < right - 0.15, (right, blind_right)
