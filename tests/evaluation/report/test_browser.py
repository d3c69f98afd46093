"""The page of a report in a browser: it is clicked, filtered, steered by keys, changed in theme, and looked at by axe.

`pytest -m browser` needs chromium and chromedriver, and npm, by which axe-core is fetched. `ASTROFORMER_SCREENSHOTS`
names a folder for pictures of the page at two widths, light and dark.
"""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import astroformer
from astroformer.classifier import Classifier
from astroformer.images.labelled import LabelledImages
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sets.mock_galaxies import mock_galaxies
from astroformer.network import create_network
from astroformer.trust.calibration import Calibration
from astroformer.trust.held_out import HeldOut
from astroformer.trust.trust import Trust

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which("chromium") is None or shutil.which("chromedriver") is None,
        reason="chromium or chromedriver is not installed",
    ),
]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
CLASSES = ("disc", "edge_on", "merger", "<b>ring</b>")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of an untrained network on 120 galaxies with votes and a catalog's columns, whose calibration images it
    keeps as a trained one does."""
    pixels, labels = mock_galaxies(120, size=32, seed=2)
    torch.manual_seed(0)
    network = create_network("astroformer_atto", num_classes=4, img_size=32)
    classifier = Classifier(network.eval(), Preprocessing((32, 32), 3), CLASSES)
    rng = np.random.default_rng(0)
    held_out = HeldOut.of(rng.normal(size=(60, 4)), np.arange(60) % 4, np.arange(60).astype(np.uint64))
    classifier.trust = Trust(Calibration("temperature", (2.0,)), 60, held_out)
    votes_NK = 0.6 * np.eye(4)[labels % 4] + 0.1
    columns = {"z": rng.random(120).tolist(), "telescope": [["A", "B"][i % 2] for i in range(120)]}
    files = [f"<i>{i}</i>.png" for i in range(120)]
    images = LabelledImages("mock", files, labels % 4, CLASSES, pixels.__getitem__, votes_NK=votes_NK, columns=columns)
    out = tmp_path_factory.mktemp("report")
    return astroformer.report(classifier, images, out=out, quiet=True, symmetry_images=2).page


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
                 "--disable-component-update"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(shutil.which("chromedriver"))
    opened = selenium.Chrome(options=options, service=service)
    yield opened
    opened.quit()


@pytest.fixture
def browser(driver: Any, page: Path) -> Any:
    sized(driver, "desktop")
    driver.get(page.as_uri())
    driver.execute_script("localStorage.clear()")
    driver.get_log("browser")
    driver.get(page.as_uri())
    return driver


def sized(driver: Any, name: str) -> None:
    width, height = SIZES[name]
    settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": name == "phone"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def every(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def press(browser: Any, *keys: str) -> Any:
    """Presses keys, and gives the element that has the focus then."""
    from selenium.webdriver.common.action_chains import ActionChains

    chain = ActionChains(browser)
    for key in keys:
        chain = chain.send_keys(key)
    chain.perform()
    return browser.switch_to.active_element


def count(browser: Any) -> int:
    return int(one(browser, "#found").text.split()[0])


def choose(browser: Any, which: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(one(browser, f"#{which}")).select_by_value(value)


def test_it_opens_without_a_complaint_and_asks_for_nothing(browser: Any, page: Path) -> None:
    assert browser.get_log("browser") == []
    sent = [entry["message"] for entry in browser.get_log("performance") if 'requestWillBeSent"' in entry["message"]]
    assert sent
    assert all(page.as_uri() in message or '"url":"data:' in message for message in sent)


def test_a_cell_opens_its_images(browser: Any) -> None:
    cell = one(browser, ".matrix button:not(.right)")
    expected = int(cell.text.split()[0])
    assert expected > 0
    cell.click()
    assert count(browser) == expected
    assert cell.get_attribute("aria-pressed") == "true"
    assert len(every(browser, '.matrix button[aria-pressed="true"]')) == 1
    assert len(every(browser, "#tiles li")) == min(60, expected)
    assert browser.switch_to.active_element.get_attribute("id") == "images-heading"
    label, called = (CLASSES[int(cell.get_attribute(f"data-{word}"))] for word in ("label", "called"))
    first = one(browser, "#tiles li")
    assert f"✗ {called}" in first.text
    assert f"label: {label}" in first.text
    loaded = "return [...document.querySelectorAll('#tiles img')].every((i) => i.complete && i.naturalWidth === 32)"
    assert browser.execute_script(loaded)


def test_filters_count_what_they_show(browser: Any) -> None:
    choose(browser, "which", "all")
    assert count(browser) == 120
    assert len(every(browser, "#tiles li")) == 60
    one(browser, "#more").click()
    assert len(every(browser, "#tiles li")) == 120
    assert not one(browser, "#more").is_displayed()
    assert browser.switch_to.active_element.get_attribute("class") == "tile"
    counts = []
    for which in ("right", "wrong"):
        choose(browser, "which", which)
        counts.append(count(browser))
    assert sum(counts) == 120
    choose(browser, "which", "all")
    by_class = []
    for k in range(4):
        choose(browser, "label", str(k))
        by_class.append(count(browser))
    assert sum(by_class) == 120
    choose(browser, "label", "")
    choose(browser, "order", "doubtful")
    sure = [float(tile.text.split("\n")[1].split()[0]) for tile in every(browser, "#tiles li")]
    assert sure == sorted(sure)


def test_an_image_is_shown_larger_and_closed_by_escape(browser: Any) -> None:
    tile = one(browser, "#tiles button")
    tile.click()
    dialog = one(browser, "#zoom")
    assert dialog.is_displayed()
    assert "<i>" in one(browser, "#zoom-file").text
    answers = [row.text.split("\n") for row in every(browser, "#zoom-answers li")]
    assert len(answers) == 4
    assert sum(float(share.split()[0]) for _, share in answers) == pytest.approx(100, abs=0.3)
    assert {name for name, _ in answers} == set(CLASSES)
    assert press(browser, "\ue00c") == tile  # Escape, and the focus is where it was
    assert not dialog.is_displayed()


def test_arrow_keys_go_from_cell_to_cell(browser: Any) -> None:
    cells = every(browser, ".matrix button")
    places = [(int(cell.get_attribute("data-label")), int(cell.get_attribute("data-called"))) for cell in cells]
    assert [cell.get_attribute("tabindex") for cell in cells] == ["0", *["-1"] * (len(cells) - 1)]
    i = next(i for i, (before, after) in enumerate(itertools.pairwise(places)) if before[0] == after[0])
    browser.execute_script("arguments[0].focus()", cells[i])
    assert press(browser, "\ue014") == cells[i + 1]
    assert press(browser, "\ue012") == cells[i]
    column = [cell for cell, place in zip(cells, places, strict=True) if place[1] == places[i][1]]
    assert press(browser, *["\ue013"] * 5) == column[0]  # there is none above
    assert column[0].get_attribute("tabindex") == "0"
    expected = int(column[0].text.split()[0])
    focused = press(browser, "\ue007")  # Enter
    assert count(browser) == expected
    assert focused.get_attribute("id") == "images-heading"
    assert column[0].get_attribute("aria-pressed") == "true"


def test_the_theme_is_changed_and_remembered(browser: Any, page: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    colours = {}
    for theme in ("light", "dark"):
        one(browser, f'label:has(input[value="{theme}"])').click()
        colours[theme] = browser.execute_script(paper)
    assert colours["light"] == "rgb(255, 255, 255)"
    assert colours["dark"] != colours["light"]
    browser.get(page.as_uri())
    assert browser.execute_script(paper) == colours["dark"]
    one(browser, 'label:has(input[value="auto"])').click()
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        assert browser.execute_script(paper) == colours[scheme]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_on_paper_there_is_nothing_to_click_and_it_is_light(browser: Any) -> None:
    one(browser, 'label:has(input[value="dark"])').click()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for selector in ("nav", ".theme", "#images", ".filters"):
            assert not one(browser, selector).is_displayed()
        for selector in ("#scores", "#classes", ".matrix", "#mistakes", "#calibration", "#holding", "#sets", "#where"):
            assert one(browser, selector).is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_no_wider_than_the_screen(browser: Any, size: str) -> None:
    sized(browser, size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= SIZES[size][0]


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core, as npm has it."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("npm, which fetches axe-core, is not installed")
    packed = subprocess.run(["npm", "pack", "axe-core@4", "--silent"], cwd=folder, capture_output=True, check=False)
    found = sorted(folder.glob("axe-core-*.tgz"))
    if packed.returncode or not found:
        pytest.skip("axe-core can't be fetched here")
    with tarfile.open(found[0]) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing(browser: Any, axe: str, theme: str, size: str) -> None:
    sized(browser, size)
    one(browser, f'label:has(input[value="{theme}"])').click()
    browser.execute_script(axe)
    asked = "const done = arguments[0]; axe.run().then((r) => done(r.violations), (e) => done([String(e)]))"
    browser.set_script_timeout(120)
    found = browser.execute_async_script(asked)
    told = [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found]
    assert told == []


@pytest.mark.skipif("ASTROFORMER_SCREENSHOTS" not in os.environ, reason="nobody asked for screenshots")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_screenshots(browser: Any, theme: str, size: str) -> None:
    folder = Path(os.environ["ASTROFORMER_SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    sized(browser, size)
    one(browser, f'label:has(input[value="{theme}"])').click()
    browser.execute_script("document.querySelector('.matrix button:not(.right)').click(); scrollTo(0, 0)")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": SIZES[size][0], "height": height, "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    (folder / f"report-{size}-{theme}.png").write_bytes(base64.b64decode(taken["data"]))
