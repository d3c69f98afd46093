from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from astroformer.classifier import Classifier
from astroformer.drawing import COLUMN, DPI, PAGE, class_name, in_lines, looks, room, shortened, style
from astroformer.evaluation.mistakes import plot_mistakes, worst_mistakes
from astroformer.evaluation.pictures import MOST_IN_A_MATRIX, plot_confusion, plot_history, plot_symmetry
from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry
from astroformer.images.labelled import LabelledImages
from astroformer.images.sets.mock_galaxies import CLASSES, mock_galaxies
from astroformer.metrics import Evaluation, score
from astroformer.predictions import Predictions

pytestmark = pytest.mark.usefixtures("fine_pictures")


def evaluation(k: int, name: str = "class") -> Evaluation:
    rng = np.random.default_rng(k)
    labels_N = rng.integers(0, k, 40 * k)
    probabilities_NK = rng.dirichlet(np.ones(k), 40 * k)
    probabilities_NK[np.arange(len(labels_N)), labels_N] += 1
    names = tuple(f"{name}_{i}" for i in range(k))
    return score(labels_N, probabilities_NK / probabilities_NK.sum(1, keepdims=True), names, resamples=20)


def history(n: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": (i + 1) / 2,
            "progress": (i + 1) / n,
            "train_loss": 2.0 / (i + 1),
            "valid_nll": 1.8 / (i + 1),
            "valid_top1": 1 - 0.5 / (i + 1),
            "valid_balanced_accuracy": 0.98 - 0.5 / (i + 1),
        }
        for i in range(n)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a test saves."""
    figures: list[Figure] = []
    save = Figure.savefig

    def kept(self: Figure, *words: Any, **more: Any) -> None:
        if self not in figures:
            figures.append(self)
        save(self, *words, **more)

    monkeypatch.setattr(Figure, "savefig", kept)
    return figures


def pixels(path: Path) -> np.ndarray:
    """The picture, whole and as wide as a column or a page, with a PDF beside it; nothing is drawn over its rim."""
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB")).astype(int)
    assert array.shape[1] in {int(width / 2.54 * DPI) for width in (COLUMN, PAGE)}
    assert 350 <= array.shape[0] <= 25 / 2.54 * DPI
    rim = [array[0], array[-1], array[:, 0], array[:, -1]]
    assert all((line == 255).all() for line in rim)
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    return array


def share_of(array: np.ndarray, colour: str) -> int:
    """How many pixels have just this colour."""
    return int((array == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(2).sum())


def words(figure: Figure) -> str:
    """All that is written in a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


# -- the style -------------------------------------------------------------------------------------------------------


def test_the_style_is_gone_when_a_picture_is_done(tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 9, "figure.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        plot_history(history(3), tmp_path / "h.png", classes=10)
        assert dict(matplotlib.rcParams) == before
        theirs = (tmp_path / "h.png").read_bytes()
    plot_history(history(3), tmp_path / "h.png", classes=10)
    assert (tmp_path / "h.png").read_bytes() == theirs  # what a user has set changes no picture


def test_type_is_of_7_and_8_points(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_history(history(3), tmp_path / "h.png", classes=10, whole_from=0.5)
    plot_confusion(evaluation(10), tmp_path / "c.png")
    plot_confusion(evaluation(MOST_IN_A_MATRIX + 1), tmp_path / "d.png")
    sizes = {text.get_fontsize() for figure in drawn for text in figure.findobj(matplotlib.text.Text)}
    assert {7, 8} <= sizes <= {7, 8, 10}  # 10: of texts that are empty


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plot_confusion(evaluation(3), tmp_path / f"{name}.png")
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_lines_can_be_told_apart_without_colour() -> None:
    without = [(look.linestyle, look.marker) for look in looks(4)]
    assert len(set(without)) == 4
    assert len({(look.color, look.marker) for look in looks(49)}) == 49


def test_a_class_whose_letters_no_font_has_is_numbered() -> None:
    assert class_name("edge_on", 2) == "edge on"
    assert class_name("галактика $x$", 2) == "галактика $x$"
    assert class_name("\U000f1234\U000f1235", 2) == "2: \U000f1234\U000f1235"  # of private use: in no font


def test_long_names_keep_both_ends() -> None:
    assert shortened("short_name") == "short_name"
    assert shortened("a_name_longer_than_others_1", 16) != shortened("a_name_longer_than_others_2", 16)
    assert in_lines("edge on with bulge", 10) == "edge on\nwith bulge"
    for name in ("edge_on_without_bulge", "x" * 100, "a b c d e f g h i j k l m n o p", "星" * 50):
        lines = in_lines(name, 10).split("\n")
        assert len(lines) <= 2
        assert max(map(room, lines)) <= 10


# -- history ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 20])
def test_history(tmp_path: Path, n: int, drawn: list[Figure]) -> None:
    plot_history(history(n), tmp_path / "h.png", classes=4, whole_from=0.5)
    array = pixels(tmp_path / "h.png")
    assert share_of(array, "#0072b2") > 100
    assert share_of(array, "#d55e00") > 100
    losses, scores = drawn[0].axes
    bottom, top = scores.get_ylim()
    assert 0.22 < bottom < 0.25
    assert top == 1
    said = words(drawn[0])
    assert f"end: {100 * history(n)[-1]['valid_balanced_accuracy']:.1f} %" in said
    assert "chance, 25 %" in said
    assert "negative log-likelihood (nats)" in said
    assert "full image size" in said
    assert "NLL" not in said
    for axes in (losses, scores):
        one, other = axes.lines[:2]
        assert one.get_linestyle() != other.get_linestyle()
        assert one.get_marker() != other.get_marker()


def test_the_change_of_size_stands_at_its_epoch(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_history(history(20), tmp_path / "h.png", classes=4, whole_from=0.6)
    marks = [line.get_xdata()[0] for line in drawn[0].axes[0].lines if line.get_label().startswith("full image size")]
    assert marks == [pytest.approx(6.0)]  # of 10 epochs
    plot_history(history(20), tmp_path / "h.png", classes=4)
    assert "full image size" not in words(drawn[1])


def test_worse_than_chance_is_inside_the_frame(tmp_path: Path, drawn: list[Figure]) -> None:
    row = history(1)[0] | {"valid_balanced_accuracy": 0.1, "valid_top1": 0.2}
    plot_history([row], tmp_path / "h.png", classes=2)
    assert drawn[0].axes[1].get_ylim()[0] < 0.1


def test_no_history_no_picture(tmp_path: Path) -> None:
    plot_history([], tmp_path / "h.png")
    assert not (tmp_path / "h.png").exists()


# -- confusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "name"),
    [(2, "c"), (3, "a_name_longer_than_what_anyone_would_give_a_class"), (12, "quite_a_long_name"), (30, "星系")],
)
def test_confusion(tmp_path: Path, k: int, name: str, drawn: list[Figure]) -> None:
    measured = evaluation(k, name)
    assert plot_confusion(measured, tmp_path / "c.png") is None
    pixels(tmp_path / "c.png")
    (axes,) = drawn[0].axes
    # However long the names, the matrix takes the larger part of what they leave.
    assert axes.get_window_extent().width > 0.4 * drawn[0].bbox.width
    counts_KK = measured.confusion_KK
    cells = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert cells.keys() == set(zip(*np.nonzero(counts_KK), strict=True))
    for (i, j), text in cells.items():
        count, percent = text.split("\n")
        assert int(count) == counts_KK[i, j]
        assert percent == f"{100 * counts_KK[i, j] / counts_KK[i].sum():.0f} %"


def test_two_percent_of_errors_can_be_told_from_none(tmp_path: Path, drawn: list[Figure]) -> None:
    labels_N = np.repeat([0, 1], 50)
    said_N = labels_N.copy()
    said_N[0] = 1  # 2 % of class 0
    plot_confusion(score(labels_N, np.eye(2)[said_N], ("a", "b"), resamples=10), tmp_path / "c.png")
    colours_KK4 = drawn[0].axes[0].images[0].get_array()
    assert (colours_KK4[1, 0] == 1).all()
    assert np.abs(colours_KK4[0, 1, :3] - 1).max() > 0.12
    assert colours_KK4[0, 0, :3].min() > 0.5  # what is right is paler than an error of half a class


def test_many_classes_are_the_worst_and_the_commonest_confusions(tmp_path: Path, drawn: list[Figure]) -> None:
    k = 60
    labels_N = np.repeat(np.arange(k), 20)
    said_N = labels_N.copy()
    said_N[:14] = 7  # class 0: 30 % right
    said_N[20:28] = 9  # class 1: 60 %
    names = tuple(f"kind_{i}" for i in range(k))
    plot_confusion(score(labels_N, np.eye(k)[said_N], names, resamples=10), tmp_path / "c.png")
    pixels(tmp_path / "c.png")
    left, right = drawn[0].axes
    assert [text.get_text() for text in left.get_yticklabels()[:2]] == ["kind 0", "kind 1"]
    assert [text.get_text() for text in right.get_yticklabels()] == ["kind 0 → kind 7", "kind 1 → kind 9"]
    said = words(drawn[0])
    assert "30 % of 20" in said
    assert "14 of 20" in said
    assert "the other 40 have 100 % or more" in said


def test_many_classes_without_a_mistake(tmp_path: Path) -> None:
    names = tuple(f"{'a long name ' * 4}{i}" for i in range(200))
    assert plot_confusion(score(np.arange(200), np.eye(200), names, resamples=5), tmp_path / "c.png") is None
    pixels(tmp_path / "c.png")


def test_confusion_of_the_built_in_classes(tmp_path: Path) -> None:
    labels_N = np.arange(40) % len(CLASSES)
    measured = score(labels_N, np.eye(len(CLASSES))[labels_N], CLASSES, resamples=10)
    plot_confusion(measured, tmp_path / "c.png")
    pixels(tmp_path / "c.png")


def test_confusion_with_a_class_without_images(tmp_path: Path) -> None:
    probabilities_NK = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    plot_confusion(score(np.array([0, 1]), probabilities_NK, ("a", "b", "c"), resamples=10), tmp_path / "c.png")
    pixels(tmp_path / "c.png")


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_the_surest_mistakes_leave_room_for_others() -> None:
    labels_N = np.array([0, 0, 0, 0, 1, 2])
    probabilities_NK = np.array(
        [[0, 0.99, 0.01], [0, 0.98, 0.02], [0, 0.97, 0.03], [0.9, 0.1, 0], [0.3, 0.1, 0.6], [np.nan] * 3]
    )
    assert [m.image for m in worst_mistakes(labels_N, probabilities_NK, most=3)] == [0, 1, 4]
    everything = worst_mistakes(labels_N, probabilities_NK)
    assert [m.image for m in everything] == [0, 1, 2, 4]  # the surest first, whoever was taken first
    assert everything[3] == (4, 1, 2, 0.6)


def asked(classifier: Classifier, n: int = 40) -> tuple[LabelledImages, Predictions]:
    pictures, labels_N = mock_galaxies(n, size=40, seed=8)
    files = [f"folder/{i:03d}.png" for i in range(n)]
    images = LabelledImages("some", files, labels_N.astype(np.int64), CLASSES, pictures.__getitem__)
    return images, classifier.predict(images)


def test_mistakes(tmp_path: Path, classifier: Classifier, drawn: list[Figure]) -> None:
    images, predictions = asked(classifier)
    assert plot_mistakes(classifier, images, predictions, tmp_path / "m.png") is None
    pixels(tmp_path / "m.png")
    assert images.labels is not None
    worst, *_ = worst_mistakes(images.labels, predictions.probabilities_NK)
    texts = words(drawn[0])
    assert f"said, {100 * worst.confidence:.1f} % sure" in texts
    assert images.files[worst.image] in texts
    assert "mistakes among 40 images" in texts
    shown = drawn[0].axes[0].images
    assert len(shown) == min(24, int((predictions.probabilities_NK.argmax(1) != images.labels).sum()))
    seen_CHW = classifier.preprocessing.apply(images.read(worst.image))
    np.testing.assert_array_equal(shown[0].get_array(), seen_CHW.transpose(1, 2, 0))


def test_no_mistake_no_picture(tmp_path: Path, classifier: Classifier) -> None:
    images, predictions = asked(classifier, 10)
    right = Predictions(predictions.files, CLASSES, np.eye(10)[images.labels], [""] * 10)
    assert plot_mistakes(classifier, images, right, tmp_path / "m.png") is None
    assert not (tmp_path / "m.png").exists()


# -- symmetry --------------------------------------------------------------------------------------------------------


def test_symmetry(tmp_path: Path, drawn: list[Figure]) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW.mean((2, 3))

    class Pixel(torch.nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return x_BCHW[:, :, 3, 3]

    images_NCHW = torch.randn(20, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    settings = SymmetrySettings(shifts=2, crops=2, rotations=1)
    reports = {
        "runs/a_folder_with_a_long_name_that_someone_chose/model": measure_symmetry(
            Mean(), images_NCHW, settings=settings
        ),
        "Pixel": measure_symmetry(Pixel(), images_NCHW, settings=settings),
    }
    plot_symmetry(reports, tmp_path / "s.png")
    array = pixels(tmp_path / "s.png")
    rows = [
        np.flatnonzero((array[: len(array) // 2] == colour).all(2).any(1)) for colour in ([0, 114, 178], [213, 94, 0])
    ]
    assert rows[0].min() < rows[1].min()  # the line at 100 % lies above the other, inside the frame
    assert share_of(array, "#0072b2") > 300
    assert share_of(array, "#d55e00") > 300
    assert "consistency under circular shifts" in words(drawn[0])
    assert "C-Cons" not in words(drawn[0])


def test_the_style_is_a_context() -> None:
    with style():
        assert matplotlib.rcParams["font.size"] == 8
        assert not matplotlib.rcParams["text.parse_math"]
