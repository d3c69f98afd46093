"""README and the pages under docs/: they stay short, their links lead somewhere, and what they tell a reader to type
works."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

import astroformer
import astroformer.evaluation.symmetry
import astroformer.images
import astroformer.network
import astroformer.weights
from helpers.command_line import Run
from helpers.pages import ROOT, anchor, blocks, links, prose, read

PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*.md"))
)
USER_PAGES = [page for page in PAGES if page.startswith("docs/") and not page.startswith("docs/lab/")]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if heading and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.M)
            assert heading in map(anchor, headings), f"{page} links to {link}"


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 200
    assert sum(len(re.findall(r"[A-Za-z][\w'-]*", paragraph)) for paragraph in prose("README.md")) <= 1000


@pytest.mark.parametrize("page", ["README.md", *USER_PAGES])
def test_no_paragraph_has_more_than_two_numbers(page: str) -> None:
    """More belong into a table, a picture or the laboratory."""
    for paragraph in prose(page):
        numbers = re.findall(r"(?<![\w.])\d[\d,.]*", paragraph)
        assert len(numbers) <= 2, f"{numbers} in: {paragraph}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_list_begins_after_an_empty_line(page: str) -> None:
    """Else GitHub shows a list, and the site a paragraph."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    assert not re.findall(r"^(?!- |\d+\. |\s|\||#).+\n(?:- |1\. ).*", text, flags=re.M)


def test_every_page_under_docs_is_in_the_navigation_of_the_site_once() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, dict):
            return [page for each in entry.values() for page in pages(each)]
        return [page for each in entry for page in pages(each)] if isinstance(entry, list) else [f"docs/{entry}"]

    nav = pages(yaml.safe_load(read("mkdocs.yml"))["nav"])
    assert sorted(nav) == [page for page in PAGES if page.startswith("docs/")]


@pytest.mark.parametrize(
    "module",
    [astroformer, astroformer.images, astroformer.network, astroformer.weights, astroformer.evaluation.symmetry],
    ids=lambda module: module.__name__,
)
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    shown = [line for page in PAGES for line in re.findall(r"^::: (.*)$", read(page), flags=re.M)]
    assert len(set(shown)) == len(shown)
    # A name may be public in two modules; one place in the reference is enough.
    there = {id(getattr(importlib.import_module(place), name)) for place, _, name in (s.rpartition(".") for s in shown)}
    assert not [name for name in module.__all__ if id(getattr(module, name)) not in there]
    assert "astroformer.AstroformerClassifier" in shown  # which needs an extra, so that __all__ leaves it out


def test_every_page_under_docs_is_reached_from_the_readme() -> None:
    reached, new = set[str](), {"README.md"}
    while new:
        reached |= new
        found = {str(((ROOT / page).parent / link.partition("#")[0]).resolve().relative_to(ROOT.resolve()))
                 for page in new for link in links(page)
                 if link.partition("#")[0].endswith(".md")}  # fmt: skip
        new = found - reached
    assert {page for page in PAGES if page.startswith("docs/")} <= reached


# -- people, who type what the pages say ------------------------------------------------------------------------

PEOPLE = {
    "a newcomer": ("docs/index.md", "docs/train.md", "docs/published-sets.md"),
    "an astronomer": ("README.md", "docs/your-images.md", "docs/reading-a-run.md", "docs/more-accuracy.md"),
    "an astronomer with FITS files": ("docs/fits-tutorial.md",),
    "a referee who doubts": ("docs/trust.md", "docs/report.md", "docs/results.md", "docs/speed.md"),
    "a student who compares": ("docs/paper.md", "docs/network.md", "docs/python.md", "docs/equivariance.md"),
    "an engineer who serves": ("docs/serve.md", "docs/python.md"),
}
ELSEWHERE = (  # what only a download brings, or a package that no test needs
    *("cifar10", "galaxy-zoo2", "mirabest", "galaxy10", "tiny-imagenet"),
    "tensorboard",
)
SHORT = ["--epochs", "1", "--image-size", "32"]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """What the pages suppose that a reader has: folders of images, a catalog, arrays."""
    rng = np.random.default_rng(0)

    def image(level: int) -> np.ndarray:
        return rng.integers(0, 60 + 60 * level, (48, 48, 3), dtype=np.uint8)

    classes = ("disc", "merger", "smooth")
    for root in ("galaxies", "other_galaxies", "labelled_images", "photos"):
        for level, name in enumerate(classes):
            (tmp_path / root / name).mkdir(parents=True)
            for i in range(12):
                Image.fromarray(image(level)).save(tmp_path / root / name / f"{i}.png")
    for root in ("new_images", "more_images"):
        (tmp_path / root).mkdir()
        for i in range(3):
            Image.fromarray(image(i)).save(tmp_path / root / f"{root}-{i}.png")
    files = [(f"{name}/{i}.png", name) for name in classes for i in range(12)]
    for catalog, folder in (("galaxies.csv", "galaxies/"), ("catalog.csv", "")):
        rows = "".join(f"{folder}{file},{name}\n" for file, name in files)
        (tmp_path / catalog).write_text(f"file,label\n{rows}")
    labels = np.repeat(np.arange(3), 12)
    images = np.stack([image(label) for label in labels])
    np.savez(tmp_path / "galaxies.npz", images=images, labels=labels, classes=np.array(classes))
    np.savez(tmp_path / "twelve_bit.npz", images=images.astype(np.uint16) * 16, labels=labels)
    return tmp_path


def test_somebody_types_what_every_page_says() -> None:
    typed = {page for pages in PEOPLE.values() for page in pages}
    typed |= {"docs/tracking.md"}  # its programs are run by test_tracking.py, with modules that stand in for others
    for page in ("README.md", *USER_PAGES):
        commands = "".join(content for _, content in blocks(page, "sh", "bash", "python"))
        assert page in typed or not commands, page


def shortened(words: list[str]) -> list[str]:
    """A command of a page, as short as a run can be."""
    if words[0] != "train" or "--resume" in words:
        return words
    for option in ("--minutes", "--epochs", "--image-size"):
        if option in words:
            place = words.index(option)
            words = words[:place] + words[place + 2 :]
    return words + (SHORT[:2] if "--distil" in words else SHORT)


def type_in(command: str, run: Run, page: str = "") -> None:
    words = shlex.split(command, comments=True)[1:]
    if any(name in word for word in words for name in ELSEWHERE):
        return
    if "--resume" in words and words[0] == "train":  # it was stopped, says the page
        shutil.rmtree(Path(words[words.index("--resume") + 1]) / "model")
    said = run(*shortened(words))
    if command.endswith("# is refused"):
        assert said.refusal() in " ".join(read(page).split())
        return
    assert said.status == 0, f"{command}\n{said.err}"


@pytest.mark.pages
@pytest.mark.parametrize("person", PEOPLE)
def test_what_the_pages_tell_a_reader_to_type_works(
    person: str, desk: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("astroformer.training.rules.MINUTES", 0.02)  # of a recipe that gives no length
    typed = 0
    type_in("astroformer train galaxies/", run)  # runs/galaxies-1, which every page speaks of
    for page in PEOPLE[person]:
        for _, recipe in blocks(page, "yaml"):
            (desk / "mine.yaml").write_text(recipe)
        shared: dict[str, object] = {"__name__": "__main__"}
        for language, content in blocks(page, "sh", "bash", "python"):
            if language == "python":
                program = re.sub(r"minutes=[\d.]+", "epochs=1, image_size=32", content)
                exec(compile(program, page, "exec"), shared)
                typed += 1
                continue
            for command in content.splitlines():
                if command.startswith("astroformer "):
                    type_in(command, run, page)
                    typed += 1
                if command.startswith("python examples/"):
                    here = command.replace(
                        "python examples", f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT))}/examples"
                    )
                    subprocess.run(here, shell=True, check=True, timeout=120)  # a shell, for patterns and >
                    typed += 1
    assert typed >= 3
    assert not [name for name in os.listdir(desk) if name.endswith(".part")]
