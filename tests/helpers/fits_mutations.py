"""Damage that FITS files meet, drawn by a seed: of cards, blocks, parts, pixels and bytes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from helpers.mutations import changed_bytes

BLOCK, CARD = 2880, 80
_WORDS = [
    "''",
    "'x'",
    "'MASK'",
    "'SCI'",
    f"'{'x' * 66}'",
    "'g,r'",
    "T",
    "F",
    "",
    "NaN",
    "INF",
    "'it''s'",
    "(1, 2)",
    "'open",
]
_NUMBERS = ["0", "1", "2", "3", "-1", "7", "16", "40", "255", "999", "1000", "2880", "32768", "99999999", "-32768"]
_NUMBERS += ["2147483647", "2147483648", "9223372036854775807", "9" * 19, "9" * 60, "1.5", "1E400", "1D2", "-1E-300"]
_NUMBERS += ["1.", ".5", "0.0", "1E300", "1e5", "+3", "00002", "1 000"]

# What stands in headers, with values that mean something there. Others get words and numbers.
CARDS: dict[str, Sequence[str]] = {
    "SIMPLE": ("T", "F"),
    "XTENSION": ("'IMAGE   '", "'BINTABLE'", "'TABLE   '", "'A3DTABLE'", "'FOREIGN '"),
    "BITPIX": ("8", "16", "32", "64", "-32", "-64", "-8", "0"),
    "NAXIS": ("0", "1", "2", "3", "4", "999", "1000", "-1"),
    **{f"NAXIS{i}": ("0", "1", "2", "20", "41", "1000000", "99999999999") for i in (1, 2, 3, 4)},
    "PCOUNT": ("0", "1", "2880", "-1", "99999999999"),
    "GCOUNT": ("0", "1", "2", "-1", "99999999999"),
    "GROUPS": ("T", "F"),
    "BSCALE": ("0", "1", "2.0", "-1.0", "1E-300", "1E300", "1D400", "0.001"),
    "BZERO": ("0", "32768", "2147483648", "-128", "9223372036854775808", "1E300", "0.5"),
    "BLANK": ("0", "1", "255", "-32768", "-2147483648", "99999999999999999999", "1.5", "1.0"),
    **{"EXTNAME": (), "EXTVER": (), "EXTTYPE": (), "FILTER": (), "BAND": (), "BUNIT": (), "EXTEND": ("T", "F")},
    **{"BANDS": ("'gr'", "'g,r'", "'g'", "'gg'"), "BAND0": (), "BAND1": (), "CHECKSUM": (), "DATASUM": ()},
    **{"ZIMAGE": ("T", "F"), "ZNAXIS": ("1", "2", "3"), "ZNAXIS1": ("40", "20", "99999999"), "ZNAXIS2": ("40", "20")},
    **{
        "ZTILE1": ("40", "20", "1", "0", "99999999"),
        "ZTILE2": ("1", "40", "0"),
        "ZBITPIX": ("8", "16", "32", "-32", "-64"),
    },
    "ZCMPTYPE": ("'RICE_1'", "'GZIP_1'", "'GZIP_2'", "'PLIO_1'", "'HCOMPRESS_1'", "'NOCOMPRESS'", "'LZMA_1'"),
    **{"ZQUANTIZ": ("'NO_DITHER'", "'SUBTRACTIVE_DITHER_2'", "'x'"), "ZDITHER0": ("0", "1", "-1", "10001", "1.5")},
    **{
        "ZNAME1": ("'BLOCKSIZE'", "'BYTEPIX'", "'SCALE'", "'SMOOTH'"),
        "ZVAL1": ("0", "-1", "1", "2", "3", "16", "33", "999999999"),
    },
    **{"ZNAME2": ("'BYTEPIX'",), "ZVAL2": ("0", "1", "2", "3", "4", "8", "16"), "ZBLANK": ("0", "-2147483648")},
    **{"ZSCALE": (), "ZZERO": (), "THEAP": ("0", "80", "99999999999", "-1")},
    "TFIELDS": ("0", "1", "2", "999", "1000", "-1"),
    **{
        f"TFORM{i}": ("'J'", "'0J'", "'9999999J'", "'10A'", "'0A'", "'99999999999A'", "'1PE(5)'", "'1QD(9)'")
        for i in (1, 2)
    },
    **{
        f"TFORM{i}": ("'L'", "'16X'", "'K'", "'C'", "'M'", "'D'", "'-5A'", "'10A3'", "'I4'", "'1PA(10)'")
        for i in (3, 4, 5)
    },
    **{f"TTYPE{i}": ("'file'", "'label'", "'ra'", "'dec'", "''", "'COMPRESSED_DATA'") for i in (1, 2, 3, 4)},
    **{f"TSCAL{i}": ("0", "2.0", "1E300") for i in (3, 5)},
    **{f"TZERO{i}": ("32768", "0.5", "-1E300") for i in (3, 5)},
    **{f"TNULL{i}": ("0", "1", "-32768", "1.5", "'x'") for i in (3, 5)},
    **{f"TDIM{i}": ("'(2,2)'", "'(99999,99999)'", "'()'", "'(0)'") for i in (1, 3)},
    **{"TBCOL1": ("0", "1", "99999"), "TBCOL2": ("1", "3")},
    **{
        f"CTYPE{i}": ("'RA---TAN'", "'DEC--TAN'", "'RA---XYZ'", "'GLON-TAN'", "'GLAT-TAN'", "'STOKES'", "'FREQ'")
        for i in (1, 2, 3)
    },
    **{f"CRPIX{i}": ("0", "20.5", "-5", "1E9", "1E300") for i in (1, 2, 3)},
    **{f"CRVAL{i}": ("0", "90", "-90", "10", "359.9999", "360", "1E9") for i in (1, 2, 3)},
    **dict.fromkeys(
        ("CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1", "PC1_1"), ("0", "1E-30", "-7.3E-5", "7.3E-5", "1E10", "1")
    ),
    **{
        "CUNIT1": ("'deg'", "'arcsec'", "'m'", "'x'"),
        "LONPOLE": ("0", "180"),
        "LATPOLE": ("0", "90"),
        "EQUINOX": ("1950", "2000"),
    },
    **{
        "RADESYS": ("'ICRS'", "'FK4'", "'FK5'", "'GAPPT'", "'x'"),
        "WCSAXES": ("0", "1", "2", "3", "99"),
        "PV2_1": (),
        "A_ORDER": ("2", "99"),
    },
    **{"CPDIS1": ("'LOOKUP'",), "DP1": (), "DATE-OBS": (), "MJD-OBS": (), "OBSGEO-X": ()},
}


class _Header(NamedTuple):
    """Where the cards of a header lie: from the first to the one that is END, which is not counted."""

    start: int
    end: int

    @property
    def data(self) -> int:
        return self.start + -(-(self.end + CARD - self.start) // BLOCK) * BLOCK


def _headers(data: bytes) -> list[_Header]:
    found = []
    for start in range(0, len(data), BLOCK):
        if data[start : start + 9] in (b"SIMPLE  =", b"XTENSION="):
            ends = (at for at in range(start, len(data), CARD) if data[at : at + CARD].rstrip() == b"END")
            found += [_Header(start, end) for end in ends][:1]
    return found


def _card(keyword: str, value: str) -> bytes:
    return f"{keyword:8}= {value:>20}".ljust(CARD).encode("latin-1")[:CARD]


def _value(rng: random.Random, keyword: str) -> str:
    known = CARDS.get(keyword, ())
    if known and rng.random() < 0.6:
        return rng.choice(known)
    return rng.choice(_NUMBERS if rng.random() < 0.5 else _WORDS)


def _with_card(data: bytes, header: _Header, card: bytes) -> bytes:
    """Data with one more card at the end of a header, and one more block where it has no place."""
    rest = data[header.end : header.data]
    cards = data[header.start : header.end] + card + b"END".ljust(CARD)
    cards += b" " * (-len(cards) % BLOCK)
    assert rest.startswith(b"END")
    return data[: header.start] + cards + data[header.data :]


def _change_card(rng: random.Random, data: bytes, header: _Header) -> bytes:
    at = rng.randrange(header.start, header.end + 1, CARD)
    keyword = data[at : at + 8].decode("latin-1").rstrip()
    kind = rng.randrange(8)
    if kind == 0:
        card = rng.choice((b" " * CARD, b"COMMENT".ljust(CARD), b"END".ljust(CARD), b"\xff" * CARD, b"\0" * CARD))
    elif kind == 1:
        card = f"HIERARCH ESO {keyword} = {_value(rng, keyword)}".ljust(CARD).encode()[:CARD]
    elif kind == 2:
        card = f"CONTINUE  '{'x' * rng.choice((0, 3, 60))}'".ljust(CARD).encode()[:CARD]
    else:
        card = _card(keyword, _value(rng, keyword))
    return data[:at] + card + data[at + CARD :]


def _add_card(rng: random.Random, data: bytes, header: _Header) -> bytes:
    keyword = rng.choice(list(CARDS))
    if rng.random() < 0.3:  # one that is there already
        at = rng.randrange(header.start, header.end + 1, CARD)
        keyword = data[at : at + 8].decode("latin-1").rstrip()
    return _with_card(data, header, _card(keyword, _value(rng, keyword)))


def _change_value_of_known(rng: random.Random, data: bytes, header: _Header) -> bytes:
    """A card that means something gets another value, where there is one."""
    places = [
        at for at in range(header.start, header.end, CARD) if data[at : at + 8].decode("latin-1").rstrip() in CARDS
    ]
    if not places:
        return _add_card(rng, data, header)
    at = rng.choice(places)
    keyword = data[at : at + 8].decode("latin-1").rstrip()
    return data[:at] + _card(keyword, _value(rng, keyword)) + data[at + CARD :]


def _swap_cards(rng: random.Random, data: bytes, header: _Header) -> bytes:
    cards = [data[at : at + CARD] for at in range(header.start, header.end, CARD)]
    i, j = rng.randrange(len(cards)), rng.randrange(len(cards))
    cards[i], cards[j] = cards[j], cards[i]
    return data[: header.start] + b"".join(cards) + data[header.end :]


def _parts(rng: random.Random, data: bytes, header: _Header) -> bytes:
    """A part is there twice, is lost, or changes places with another one."""
    starts = [one.start for one in _headers(data)] + [len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(starts)]
    i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(3)
    if kind == 0:
        parts.insert(j, parts[i])
    elif kind == 1:
        del parts[i]
    else:
        parts[i], parts[j] = parts[j], parts[i]
    return b"".join(parts)


def _blocks(rng: random.Random, data: bytes, header: _Header) -> bytes:
    """The file ends near the edge of a block; or a block is lost, is there twice, or holds something else."""
    at = rng.randrange(0, len(data) + BLOCK, BLOCK)
    kind = rng.randrange(6)
    if kind <= 2:
        return data[: max(0, at + rng.choice((0, 0, -1, 1, -CARD, CARD, -BLOCK // 2)))]
    block = data[at : at + BLOCK]
    other = (b"", block * 2, rng.choice((b"\0", b" ", b"\xff", b"x")) * len(block))[kind - 3]
    return data[:at] + other + data[at + BLOCK :]


def _pixels(rng: random.Random, data: bytes, header: _Header) -> bytes:
    """Values that floats or whole numbers have at their ends: NaN with a payload, infinities, the smallest."""
    if header.data + 8 >= len(data):
        return data
    at = rng.randrange(header.data, len(data) - 8) // 4 * 4
    words = [b"\x7f\xc0\x00\x01", b"\x7f\x80\x00\x00", b"\xff\x80\x00\x00", b"\x00\x00\x00\x01", b"\xff\xff\xff\xff"]
    words += [b"\x7f\xf8" + bytes(6), b"\x7f\xef" + b"\xff" * 6, b"\x80\x00\x00\x00", b"\x7f\xa0\x00\x00"]
    word = rng.choice(words) * rng.choice((1, 1, 8, 400))
    return data[:at] + word[: len(data) - at] + data[at + len(word) :]


def _bytes(rng: random.Random, data: bytes, header: _Header) -> bytes:
    return changed_bytes(rng, data)


_WAYS: tuple[Callable[[random.Random, bytes, _Header], bytes], ...] = (
    *(_change_value_of_known,) * 5,
    *(_add_card,) * 4,
    *(_change_card,) * 3,
    *(_swap_cards, _parts, _blocks, _blocks, _pixels, _bytes, _bytes),
)


def changed_fits(rng: random.Random, data: bytes) -> bytes:
    """A FITS file with one damage or a few of them; never `data` itself."""
    made = data
    while made == data:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            headers = _headers(made)
            made = rng.choice(_WAYS)(rng, made, rng.choice(headers)) if headers else changed_bytes(rng, made)
    return made
