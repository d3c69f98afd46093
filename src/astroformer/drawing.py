"""The one style of every picture: how large it is printed, its type, its colours, and the files that it becomes.

A picture is drawn at the width that it is printed at, a column (8.5 cm) or a page (17.5 cm), in type of 7 and 8 points,
on white. Lines differ in colour, dashes and marks, so that they can be told apart in grey and by the colour-blind.
matplotlib is imported inside the functions: it takes long, and few commands draw.
"""

from __future__ import annotations

import contextlib
import functools
import io
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from astroformer.errors import explained
from astroformer.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")
COLUMN, PAGE = 8.5, 17.5  # cm, the widths of a picture
CM = 1 / 2.54  # inches
DPI = 300
SMALL, USUAL = 7, 8  # points

INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
BLUE, RED, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
# Okabe and Ito's palette, https://jfly.uni-koeln.de/color, without its yellow, which is too pale for a line.
_COLOURS = (BLUE, RED, GREEN, "#cc79a7", ORANGE, "#56b4e9", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1.5, 1.2, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Look(NamedTuple):
    """How one of several lines or points looks."""

    color: str
    linestyle: Any
    marker: str


def looks(n: int) -> list[Look]:
    """n looks, of which 49 differ from each other in colour or mark.

    Examples:
        >>> len({(look.color, look.marker) for look in looks(49)})
        49
    """
    return [Look(_COLOURS[i % 7], _DASHES[i % 4], _MARKERS[(i + i // 7) % 7]) for i in range(n)]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The style, while a figure is made and saved; whatever the user has set for matplotlib comes back afterwards."""
    import matplotlib
    from cycler import cycler

    settings: dict[Any, Any] = {
        "font.family": ["DejaVu Sans", *_other_fonts()],
        "font.size": USUAL,
        "axes.titlesize": USUAL,
        "axes.labelsize": USUAL,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "legend.fontsize": SMALL,
        "figure.titlesize": USUAL,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.6,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": PALE,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.3,
        "lines.markersize": 3,
        "legend.frameon": False,
        "legend.handlelength": 2.8,
        "axes.prop_cycle": cycler(color=_COLOURS),
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "pdf.fonttype": 42,  # letters stay letters, which journals ask for
        "image.composite_image": False,  # each image keeps its own pixels in a PDF
        # `$` in a class name begins no formula.
        "text.usetex": False,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        # That a font lacks a letter, for which it draws a box, is no news for the screen.
        warnings.simplefilter("ignore", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def picture(draw: Callable[Arguments, None]) -> Callable[Arguments, str | None]:
    """`draw` in the style. It gives back None, or why there is no picture as a sentence: a picture is a help beside the
    numbers and never costs them."""

    @functools.wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> str | None:
        try:
            with style():
                draw(*args, **kwargs)
        except Exception as error:
            said = explained(error) if isinstance(error, OSError) else None
            told = said or " ".join([type(error).__name__, *str(error).splitlines()[:1]])
            return f"there is no picture: {told}"
        return None

    return drawn


def new_figure(width: float, height: float, **more: Any) -> Figure:
    """An empty figure, its sides in cm; made within `style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * CM, height * CM), **({"layout": "constrained"} | more))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path, *more_pages: Figure) -> None:
    """Writes a PNG of the first figure, and beside it a PDF, whose pages are all of them; within `style`.

    Args:
        path: of the PNG; the PDF has the same name with another ending.
    """
    shown, printed = io.BytesIO(), io.BytesIO()
    figure.savefig(shown, format="png", dpi=DPI)
    if more_pages:
        from matplotlib.backends.backend_pdf import PdfPages

        with PdfPages(printed, metadata={"CreationDate": None}) as pages:
            for page in (figure, *more_pages):
                page.savefig(pages, format="pdf", dpi=DPI)
    else:  # without a date, so that the same picture is the same file
        figure.savefig(printed, format="pdf", dpi=DPI, metadata={"CreationDate": None})
    for place, drawn in ((path, shown), (path.with_suffix(".pdf"), printed)):
        with replacing(place) as part:
            part.write_bytes(drawn.getvalue())


def class_name(name: str, number: int) -> str:
    """A class as a picture names it: with spaces for underscores, and with its number in front where no font of this
    machine has all of its letters, so that two rows of boxes can be told apart.

    Args:
        number: of the class, from 1.

    Examples:
        >>> class_name("edge_on", 3)
        'edge on'
    """
    families = ("DejaVu Sans", *_other_fonts())
    known = all(any(ord(letter) in _letters(family) for family in families) for letter in name)
    spoken = name.replace("_", " ")
    return spoken if known else f"{number}: {spoken}"


def shortened(name: str, longest: int = 28) -> str:
    """A text that is not too long for its place; of a long one both ends, since names often differ in the last letters.

    Args:
        longest: how many letters may stand side by side; a Chinese, Japanese or Korean one takes the room of two.

    Examples:
        >>> shortened("a very long name of a class 2", 16)
        'a very l…class 2'
    """
    name = name.encode("utf-8", "replace").decode()  # what is no letter in a name can't be drawn
    if room(name) <= longest:
        return name
    start, end = 0, len(name)
    while room(name[: start + 1]) <= longest // 2:
        start += 1
    while room(name[end - 1 :]) <= longest - longest // 2 - 1:
        end -= 1
    return f"{name[:start]}…{name[end:]}"


def fitted(text: str, width: float, points: float = SMALL) -> str:
    """A text that is no wider than so many cm, in the type of the style; within `style`."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=points)
    for letters in range(room(text), 2, -1):
        short = shortened(text, letters)
        if text_to_path.get_text_width_height_descent(short, font, ismath=False)[0] / 72 <= width * CM:
            return short
    return shortened(text, 2)


def room(text: str) -> int:
    """How many usual letters are as wide as a text.

    Examples:
        >>> room("星系 2")
        6
    """
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def in_lines(name: str, longest: int, most: int = 2) -> str:
    """A name in at most so many lines of at most so many letters.

    Examples:
        >>> in_lines("edge on with bulge", 10)
        'edge on\\nwith bulge'
    """
    import textwrap

    for letters in range(most * longest, longest, -2):  # fewer, until words fit into their lines
        lines = textwrap.wrap(shortened(name, letters), longest)
        if len(lines) <= most and max(map(room, lines), default=0) <= longest:
            return "\n".join(lines)
    return shortened(name, longest)


@functools.cache
def _letters(family: str) -> frozenset[int]:
    """The letters that a font has, by their code points."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(family)).get_charmap())


@functools.cache
def _other_fonts() -> Sequence[str]:
    """Fonts on this machine, one after the other, for letters that DejaVu Sans lacks: of East and South Asia above all.

    What none of them has is drawn as a box.
    """
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    wanted = ("Noto Sans CJK", "Noto Sans", "Arial Unicode MS", "Hiragino Sans", "PingFang", "Microsoft YaHei",
              "Yu Gothic", "Malgun Gothic", "WenQuanYi", "Source Han Sans", "Droid Sans Fallback", "Nirmala UI",
              "Leelawadee", "Unifont")  # fmt: skip
    return [name for start in wanted for name in sorted(there) if name.startswith(start)]
