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


def page(classes: tuple[str, ...], n: int = 60, *, right: bool | None = None, files: list[str] | None = None) -> str:
    rng = np.random.default_rng(len(classes))
    labels_N = rng.integers(0, len(classes), n)
    probabilities_NK = rng.dirichlet(np.ones(len(classes)), n)
    if right is not None:
        probabilities_NK[np.arange(n), labels_N] = 9.0 if right else 0.0
        probabilities_NK /= probabilities_NK.sum(1, keepdims=True)
    evaluation = score(labels_N, probabilities_NK, classes, resamples=20)
    quantities: dict[str, Any] = {"z": rng.random(n).tolist(), EVIL[0]: [EVIL[1], EVIL[2]] * (n // 2)}
    facts = Facts.measured(evaluation, labels_N, probabilities_NK, quantities=quantities)
    named = files or [f"{i}.png" for i in range(n)]
    shown = ShownImages(named, labels_N, probabilities_NK, None, dict.fromkeys(range(n), PIXEL), None)
    about = {"The images": {"source": EVIL[0]}}
    return Page("A title", "A sentence.", None, facts, None, shown, None, about, f"name: {EVIL[0]}").html()


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
    charts = re.findall(r"<figure><svg.*?</figure>", plain, flags=re.S)
    assert len(charts) == 2 + 2 * 3
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
    for picture, _, _, called, answers, seen in data_of(plain)["images"]:
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
