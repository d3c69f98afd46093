"""The bands of images: which are red, green and blue in a picture, and which others a model takes."""

from __future__ import annotations

import pytest

from astroformer.errors import UserError
from astroformer.images.bands import Bands


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("g r i", "i r g"),
        ("i r g", "i r g"),
        ("u g r i z", "z r u"),
        ("Y J H K", "K H Y"),
        ("HSC-G HSC-R HSC-I", "HSC-I HSC-R HSC-G"),
        ("sdss_z sdss_g sdss_r", "sdss_z sdss_r sdss_g"),
        ("VIS NIR_Y NIR_J NIR_H", "NIR_H NIR_J VIS"),  # Euclid
        ("DECam-g DECam-r DECam-z", "DECam-z DECam-r DECam-g"),
        ("F444W F115W F200W", "F444W F200W F115W"),
        ("B02 B8A B11", "B11 B8A B02"),
        ("depth height flow", "depth height flow"),  # nobody knows their wavelengths
    ],
)
def test_the_longest_wavelength_is_red(names: str, shown: str) -> None:
    bands = Bands(tuple(names.split()))
    assert " ".join(bands.names[c] for c in bands.red_green_blue()) == shown


def test_names_order_and_units_are_those_that_were_learned() -> None:
    learned = Bands(("g", "r"), ("nJy", "nJy"))
    assert learned.check(learned) is None
    assert Bands(("g", "r")).check(Bands(("g", "r"))) is None
    assert learned.check(None) == "these images do not say what their bands are; they are taken for g, r (nJy)"
    for other in (Bands(("r", "g")), Bands(("g",)), Bands(("g", "r", "i")), Bands(("g", "r"), ("nJy", "adu"))):
        with pytest.raises(UserError, match=r"learned from the bands g, r \(nJy\), and these images have ") as refused:
            learned.check(other)
        among = other.names in (("r", "g"), ("g", "r", "i"))
        assert ("units (of FITS files by @bands=g,r), or train" in str(refused.value)) == among


def test_units_that_one_side_alone_states_are_said() -> None:
    stated, half, silent = (Bands(("g", "r"), units) for units in (("nJy", "nJy"), ("nJy", ""), ()))
    words = "these images do not state the unit of "
    assert stated.check(silent) == f"{words}their values; it is taken for nJy"
    assert stated.check(half) == f"{words}r; it is taken for nJy"
    assert silent.check(stated) == (
        "these images have nJy as the unit of their values, and the model learned from images that state none"
    )
    said = half.check(stated, "the run learns from", "those of --valid 'x'")
    assert said == "those of --valid 'x' have nJy as the unit of r, and the run learns from images that state none"


@pytest.mark.parametrize(
    ("unit", "magnitudes"),
    [("mag", True), ("mag/arcsec2", True), ("ABmag", True), ("mag(AB)", True)]
    + [(unit, False) for unit in ("", "nJy", "nanomaggy", "nmgy", "maggies", "adu", "dex")],
)
def test_magnitudes_are_known_by_their_unit(unit: str, magnitudes: bool) -> None:
    assert Bands(("g", "r"), ("", unit)).magnitudes == (unit if magnitudes else None)
