from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.images.sets import NAMED_SETS, NamedSet
from astroformer.images.sets.declared import Content
from astroformer.images.sets.download import Resource
from astroformer.images.sources import open_source
from helpers.serving import Server
from helpers.tiny_sets import (
    cifar10_members,
    fashion_files,
    serve,
    tar,
    tiny_imagenet_members,
    zipped,
)


@pytest.mark.parametrize("name", NAMED_SETS)
def test_declarations_are_complete(name: str) -> None:
    declared = NAMED_SETS[name]
    assert declared.name == name
    assert list(declared.images) in (["train", "test"], ["train", "val", "test"])
    assert declared.licence
    assert declared.citation
    assert declared.homepage.startswith("http")
    assert declared.classes == () or len(set(declared.classes)) == declared.number_of_classes
    for resource in declared.resources:
        assert resource.urls
        assert all(re.fullmatch(rf"https?://\S+/{re.escape(resource.name)}", url) for url in resource.urls)
        assert resource.sha256 or resource.md5  # whichever its publisher gives
        assert re.fullmatch("[0-9a-f]{64}", resource.sha256 or "0" * 64)
        assert re.fullmatch("[0-9a-f]{32}", resource.md5 or "0" * 32)
    assert json.loads(json.dumps(declared.to_dict()))["class_names"] == list(declared.classes)


def test_the_part_must_be_said_where_one_does_not_train(served: Callable[..., NamedSet]) -> None:
    served("cifar10", tar(cifar10_members(), "x"))
    with pytest.raises(UserError, match="'cifar10' has several parts; write cifar10:train or cifar10:test"):
        open_source("cifar10")
    assert len(open_source("cifar10", part="train")) == 250
    with pytest.raises(UserError, match=r"unknown part of cifar10 'tets'. Did you mean 'test'"):
        open_source("cifar10:tets")
    with pytest.raises(UserError, match=r"'cifra10:test' is neither .* Did you mean 'cifar10'"):
        open_source("cifra10:test")


class Dots(NamedSet):
    """The least that a set has to say."""

    name = "dots"
    title = "Dots"
    resources = (Resource("dots.bin", (), 4, md5="08d6c05a21512a79a1dfeb9d2a8f262f"),)
    licence = "none"
    citation = "nobody"
    homepage = "https://example.org/dots"
    classes = ("dark", "bright")
    number_of_classes = 2
    images: ClassVar[Mapping[str, int]] = {"train": 2, "test": 2}

    def read(self, files: Sequence[Path], part: str, digest: str) -> Content:
        values = np.frombuffer(files[0].read_bytes(), np.uint8)[:2] + (part == "test")
        return Content(values.reshape(2, 1, 1), np.array([0, 1]), self.classes, ["a", "b"])


def test_a_set_of_a_few_lines(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dots = Dots()
    monkeypatch.setitem(NAMED_SETS, dots.name, dots)
    dots.folder().mkdir(parents=True)
    (dots.folder() / "dots.bin").write_bytes(b"\x01\x02\x03\x04")
    images = open_source("dots:test")
    assert [int(images.read(i)[0, 0, 0]) for i in range(2)] == [2, 3]
    assert images.about["split"] == "official"
    dots.plot(tmp_path / "dots.png")
    assert (tmp_path / "dots.png").is_file()


@pytest.mark.usefixtures("fine_pictures")
def test_plot_shows_an_image_a_class(served: Callable[..., NamedSet], tmp_path: Path) -> None:
    served("cifar10", tar(cifar10_members(), "x")).plot(tmp_path / "cifar10.png")
    served("tiny-imagenet", zipped(tiny_imagenet_members())).plot(tmp_path / "tiny.png")
    served("fashion-mnist", *fashion_files().values()).plot(tmp_path / "fashion.png")
    with Image.open(tmp_path / "cifar10.png") as picture:
        first = open_source("cifar10:train").read(0)
        colours = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
        assert colours >= {tuple(pixel) for pixel in first.reshape(-1, 3)}  # the pixels of a small image as they are
        assert picture.width == 2066  # 17.5 cm
    assert (tmp_path / "cifar10.pdf").is_file()
    with Image.open(tmp_path / "fashion.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 50


PROGRAM = """
import json, sys
from dataclasses import replace
from astroformer.cli.main import main
from astroformer.images.sets import NAMED_SETS
from helpers.tiny_sets import with_resources
url, size, sha256, commands = sys.argv[1:]
declared = NAMED_SETS["cifar10"]
resource = replace(declared.resources[0], urls=(url,), size=int(size), sha256=sha256)
NAMED_SETS["cifar10"] = with_resources(declared, resource)
print(*[main(words.split()) for words in json.loads(commands)])
"""


def test_train_and_evaluate_cifar10_by_name(server: Server, tmp_path: Path) -> None:
    served = serve(server, "cifar10", tar(cifar10_members(), "cifar-10-batches-bin"), etag='"1"')
    server.answers["/cifar-10-binary.tar.gz"].breaks_after = 100_000
    server.answers["/cifar-10-binary.tar.gz"].breaks = 1
    file = served.resources[0]
    commands = [
        "train cifar10 --epochs 1 --recipe photo --image-size 32",
        "evaluate runs/cifar10-1 cifar10 --out e",
        "evaluate runs/cifar10-1 cifar10:test --out e",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, file.urls[0], str(file.size), str(file.sha256), json.dumps(commands)],
        cwd=tmp_path,
        # No kernels are built for this cache.
        env={**os.environ, "ASTROFORMER_NATIVE": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.endswith("\n0 2 0\n"), ran.stderr
    assert "Licence: none stated. Cite: A. Krizhevsky" in ran.stderr
    assert "downloading cifar-10-binary.tar.gz: " in ran.stderr
    assert "\nerror: 'cifar10' has several parts; write cifar10:train or cifar10:test.\n" in ran.stderr
    assert [status for *_, status in server.asked] == [200, 206]
    record = json.loads((tmp_path / "runs" / "cifar10-1" / "run.json").read_text())
    assert record["data_sets"][0]["sha256"] == {"cifar-10-binary.tar.gz": file.sha256}
    assert record["data_sets"][0]["citation"].startswith("A. Krizhevsky")
    held_out = (tmp_path / "runs" / "cifar10-1" / "splits" / "valid.csv").read_text().splitlines()[1:]
    assert len(held_out) == 50
    assert all(row.startswith("cifar10-train-") for row in held_out)  # no test image was looked at
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["n"] == 20


def test_info_lists_the_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *NAMED_SETS]
    assert lines[2].split() == ["cifar10", "train", "50,000,", "test", "10,000", "10", "170", "none", "stated"]
    assert main(["info", "--data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["files"][0]["bytes"] == 170_052_171
    assert main(["info", "--data", "--system"]) == 2
    assert main(["info", "astroformer_1", "--data"]) == 2
    assert "--data lists the published data sets; leave out 'astroformer_1'" in capsys.readouterr().err
