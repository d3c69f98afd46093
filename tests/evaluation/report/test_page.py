"""The page of a report: whole, self-contained, harmless whatever classes and files are called."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from astroformer.evaluation.report.facts import Facts
from astroformer.evaluation.report.page import Page, ShownImages
from astroformer.evaluation.report.selective import CalibrationImages
from astroformer.metrics import score

PIXEL = "data:image/webp;base64,UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
EVIL = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a'b & c </script>")
VOID = {"meta", "input", "br", "img", "link", "path", "circle", "rect"}


class Elements(HTMLParser):
    """The elements of a page, in order, each with its attributes; it proves that they are nested properly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.words.append(data)


def page(
    classes: tuple[str, ...],
    n: int = 60,
    *,
    right: bool | None = None,
    files: list[str] | None = None,
    calibrated: bool = False,
    votes: bool = False,
    novel: bool = False,
) -> str:
    """A page of random answers.

    Args:
        calibrated: the model keeps 40 calibration images and had less sure answers before calibration.
        votes: the labels are the majority of votes.
        novel: the model knows its training images, and the last image is the most novel one.
    """
    rng = np.random.default_rng(len(classes))
    labels_N = rng.integers(0, len(classes), n)
    probabilities_NK = rng.dirichlet(np.ones(len(classes)), n)
    if right is not None:
        probabilities_NK[np.arange(n), labels_N] = 9.0 if right else 0.0
        probabilities_NK /= probabilities_NK.sum(1, keepdims=True)
    evaluation = score(labels_N, probabilities_NK, classes, resamples=20)
    quantities: dict[str, Any] = {"z": rng.random(n).tolist(), EVIL[0]: [EVIL[1 + i % 2] for i in range(n)]}
    words: dict[str, Any] = {"quantities": quantities}
    if calibrated:
        words["own_NK"] = 0.5 * probabilities_NK + 0.5 / len(classes)
        own_RK = np.repeat(probabilities_NK, -(-40 // n), 0)[:40]
        words["calibration_images"] = CalibrationImages(
            np.repeat(labels_N, -(-40 // n))[:40], own_RK, np.arange(40) % 5
        )
    if votes:
        words["votes_NK"] = 0.7 * np.eye(len(classes))[labels_N] + 0.3 / len(classes)
        evaluation = score(labels_N, probabilities_NK, classes, votes_NK=words["votes_NK"], resamples=20)
    if novel:
        words["novelty_N"] = np.linspace(0.1, 2.0, n)
    facts = Facts.measured(evaluation, labels_N, probabilities_NK, **words)
    named = files or [f"{i}.png" for i in range(n)]
    shown = ShownImages(named, labels_N, probabilities_NK, None, dict.fromkeys(range(n), PIXEL), None)
    about = {"The images": {"source": EVIL[0]}}
    return Page(
        "A title", "A sentence.", None, facts, None, shown, "the network's own", None, about, f"name: {EVIL[0]}"
    ).html()


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, flags=re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def plain() -> str:
    return page(("disc", "ring", "spiral"))


def test_nothing_is_loaded_from_elsewhere(plain: str) -> None:
    for tag, attributes in Elements(plain).found:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    for address in re.findall(r"https?://[^\s\"'<]+|url\([^)]*\)|@import[^;]*", plain):
        raise AssertionError(address)


def test_only_the_script_of_the_page_may_run(plain: str) -> None:
    elements = Elements(plain).found
    [policy] = [a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    script = plain.rsplit("<script>", 1)[1].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for _, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")]


def test_novel_images_have_a_section_where_the_model_knows_its_training_images(plain: str) -> None:
    html = page(("disc", "ring", "spiral"), novel=True)
    [section] = re.findall(r'<section aria-labelledby="novel">.*?</section>', html, flags=re.S)
    assert "novel (its novelty is above 1)" in section
    assert re.findall(r'data-images="\[(\d+), (\d+),', section) == [("59", "58")]
    assert [row[6] for row in data_of(html)["images"]][-1] == 2.0
    assert '<option value="novel">' in html
    assert "novel" not in plain.partition("<script>")[0]


def test_names_are_text_whatever_they_are() -> None:
    html = page(EVIL, files=[f"{EVIL[i % 3]}{i}.png" for i in range(60)])
    elements = Elements(html)
    assert [tag for tag, _ in elements.found if tag == "script"] == ["script", "script"]
    assert not [a for tag, a in elements.found if tag == "img"]
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]
    data = data_of(html)
    assert data["classes"] == list(EVIL)
    assert data["images"][1][1] == f"{EVIL[1]}1.png"
    words = " ".join(elements.words)
    assert all(name in words for name in EVIL)


def test_every_id_is_there_once_and_every_reference_leads_to_one(plain: str) -> None:
    elements = Elements(plain).found
    ids = [a["id"] for _, a in elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        for name in ("aria-labelledby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids


def test_headings_go_down_one_by_one(plain: str) -> None:
    headings = Elements(plain).headings
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))


def test_every_chart_has_a_title_a_description_and_numbers(plain: str) -> None:
    every = page(("disc", "ring", "spiral"), calibrated=True, votes=True)
    of_page = re.findall(r"<figure[^>]*><svg.*?</figure>", plain, flags=re.S)
    charts = re.findall(r"<figure[^>]*><svg.*?</figure>", every, flags=re.S)
    assert len(of_page) == 3 + 3 * 3
    assert len(charts) == 5 + 3 * 3  # before calibration, and against votes
    for chart in charts:
        assert 'role="img"' in chart
        assert re.search(r"<title id=\"[^\"]+\">[^<]{10,}</title><desc id=\"[^\"]+\">[^<]{40,}</desc>", chart)
        assert "<table>" in chart


def test_the_matrix_has_the_counts(plain: str) -> None:
    data = data_of(plain)
    for k in range(3):
        for j in range(3):
            n = sum(image[2] == k and image[3] == j for image in data["images"])
            cell = re.search(rf'data-label="{k}" data-called="{j}" aria-pressed="false"[^>]*>(\d+)', plain)
            assert (0 if cell is None else int(cell[1])) == n


def test_probabilities_of_an_image_are_the_largest_in_order(plain: str) -> None:
    for picture, _, _, called, answers, seen, _ in data_of(plain)["images"]:
        assert picture == PIXEL
        assert seen == 0
        shares = [share for _, share in answers]
        assert shares == sorted(shares, reverse=True)
        assert answers[0][0] == called
        assert sum(shares) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(right: bool) -> None:
    words = " ".join(Elements(page(("disc", "ring"), right=right)).words)
    assert ("all images are called right" in words) == right


def test_a_page_says_what_calibration_did_and_what_cuts_and_sets_keep() -> None:
    words = " ".join(" ".join(Elements(page(("disc", "ring"), calibrated=True)).words).split())
    assert "Before calibration" in words
    assert "On these images calibration" in words
    assert "made of the 40 images that were held out of the training" in words
    assert "If you wish for a purity" in words
    assert "needs 99 images" in words  # for a purity of 99 %
    assert "How often sets hold each class" in words
    plain = " ".join(" ".join(Elements(page(("disc", "ring"))).words).split())
    assert "The model keeps no calibration images" in plain
    assert "Before calibration" not in plain
    assert "Sets of classes" not in plain


def test_a_page_of_votes_judges_against_votes() -> None:
    words = " ".join(" ".join(Elements(page(("disc", "ring"), votes=True, calibrated=True)).words).split())
    assert "The labels are votes, and the model learned classes" in words
    plain = " ".join(" ".join(Elements(page(("disc", "ring"), votes=True)).words).split())
    assert "The labels are votes. A model that learned votes" in plain
    assert "Votes Brier score" in words
    assert "Calibration error against votes" in words
    assert "Against votes: the mean share of votes" in words


def test_a_page_of_whatever_is_whole() -> None:
    for classes in (("disc", "ring"), ("disc", "ring", "spiral", "bar")):
        for n in (2, 7):
            for right in (None, True, False):
                for calibrated in (False, True):
                    html = page(classes, n, right=right, calibrated=calibrated, votes=calibrated)
                    assert not re.search(r"\bnan\b|\binf\b", html.rpartition('id="data"')[0], flags=re.I), (n, right)
                    Elements(html)


def test_two_images_and_absent_classes() -> None:
    for n, classes in ((2, ("disc", "ring")), (2, ("disc", "ring", "spiral", "bar"))):
        words = " ".join(Elements(page(classes, n)).words)
        assert "2 images" in words


def test_many_classes_have_no_matrix_and_the_worst_have_sections() -> None:
    html = page(tuple(f"class {k}" for k in range(250)), 1000)
    elements = Elements(html)
    assert "too many classes for a matrix" in " ".join(elements.words)
    sections = [a for tag, a in elements.found if tag == "section" and a.get("class") == "class"]
    assert len(sections) == 200
    assert len(html) < 4_000_000
