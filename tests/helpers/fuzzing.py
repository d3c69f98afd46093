"""What is damaged at random, and what must come of it: a right answer, or one sentence.

A `Kind` makes sound inputs once and then a case from a seed: it damages one of them, uses it as a user does, and says
what came of it, "right" or "refused". Anything else that it raises is a fault. `figures_here` runs cases in this
process, `figures_apart` in another one, which a crash may end and whose memory is measured:

    python -m helpers.fuzzing KIND FIRST COUNT FOLDER RESULTS
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file

from astroformer.classifier import Classifier
from astroformer.classifier import load as load_classifier
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.evaluation.symmetry.measured import read_images
from astroformer.images.preprocessing import Preprocessing
from astroformer.images.sources import open_source
from astroformer.network import create_network
from astroformer.training import ensemble, study, train
from astroformer.training.loop import Loop
from astroformer.training.recipe import BUILT_IN, Recipe, load_recipe, make_recipe
from astroformer.training.stopping import Interrupted
from astroformer.training.train import resume
from helpers.fuzz_kind import Kind, refused
from helpers.fuzz_science import Arrays, Fits, Mosaics, Tables
from helpers.mutations import NASTY_TEXT, change_file, changed_bytes, changed_text, fresh_copy, replace_file

SECONDS = 60  # that a case may take
MEMORY = 2 * 2**30  # bytes that all cases of a process may take beside what its libraries do


@dataclass
class Figures:
    """What came of some cases.

    Attributes:
        tried: number of cases.
        right: that gave a right answer.
        refused: that gave one sentence.
        failed: the others, each with its number and what happened.
        peak_bytes: memory beside the libraries', of the largest process; 0 where it was not measured.
        slowest: seconds of the slowest case.
    """

    tried: int = 0
    right: int = 0
    refused: int = 0
    failed: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    slowest: float = 0.0

    def count(self, outcome: str, seconds: float) -> None:
        self.tried += 1
        self.right += outcome == "right"
        self.refused += outcome == "refused"
        self.slowest = max(self.slowest, seconds)
        if outcome not in ("right", "refused"):
            self.failed.append(outcome)

    def write(self, kind: str) -> None:
        """Adds the figures to the JSON file that ASTROFORMER_FUZZ_FIGURES names, if it names one."""
        name = os.environ.get("ASTROFORMER_FUZZ_FIGURES")
        if name is None:
            return
        file = Path(name)
        figures = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**figures, kind: dataclasses.asdict(self)}, indent=2, sort_keys=True) + "\n")


def pictures(folder: Path) -> Path:
    """Two classes of six small pictures."""
    generator = np.random.default_rng(0)
    for i in range(12):
        place = folder / ("disc" if i < 6 else "ring")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(place / f"{i:02d}.png")
    return folder


def small_model() -> Classifier:
    torch.manual_seed(0)
    network = create_network(
        "astroformer_atto", num_classes=2, img_size=32, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), head_width=8
    )
    return Classifier(network.eval(), Preprocessing((32, 32), 3), ("disc", "ring"))


class Images(Kind):
    """A damaged image file beside a sound one."""

    name = "images"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pixels = np.random.default_rng(1).integers(0, 256, (40, 36, 4)).astype(np.uint8)
        rgb, stream = Image.fromarray(pixels[:, :, :3]), io.BytesIO()
        self.files: dict[str, bytes] = {}
        for extension, image, settings in (
            ("png", rgb, {}),
            ("png", Image.fromarray(pixels), {}),
            ("png", Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), {}),
            ("jpg", rgb, {}),
            ("jpg", rgb, {"progressive": True}),
            ("webp", rgb, {"lossless": True}),
            ("bmp", rgb, {}),
            ("gif", rgb.quantize(32), {}),
            ("tif", rgb, {}),
            ("tif", rgb, {"compression": "tiff_deflate"}),
            ("tif", rgb, {"compression": "tiff_lzw"}),
            ("tif", Image.fromarray(pixels[:, :, 0].astype(np.float32)), {}),
        ):
            stream = io.BytesIO()
            kinds = {"jpg": "JPEG", "tif": "TIFF"}
            image.save(stream, kinds.get(extension, extension.upper()), **settings)
            self.files[f"{len(self.files)}.{extension}"] = stream.getvalue()
        stream = io.BytesIO()
        np.savez(stream, images=pixels[None, :, :, :3], labels=np.zeros(1, int))
        self.files["set.npz"] = stream.getvalue()
        self.model = small_model()
        rgb.save(self.folder / "sound.png")
        self.sound = self.model.predict(self.folder / "sound.png").probabilities_NK

    def case(self, rng: random.Random) -> str:
        name = rng.choice(list(self.files))
        file = self.folder / name
        file.write_bytes(changed_bytes(rng, self.files[name]))
        try:
            source = file if name == "set.npz" else self.folder
            found = self.model.predict(source)
        except UserError as error:
            return refused(error)
        finally:
            file.unlink()
        for row, reason, p_K in zip(found.files, found.errors, found.probabilities_NK, strict=True):
            if row.endswith("sound.png"):
                np.testing.assert_allclose(p_K, self.sound[0], rtol=0, atol=1e-5, err_msg="of the sound image")
            elif not reason:
                assert np.isfinite(p_K).all(), "probabilities that are not finite"
                assert abs(p_K.sum() - 1) < 1e-6, "probabilities that do not sum to 1"
        assert len(found) == (len(found.files) if source == file else 2), f"{len(found)} rows for two images"
        return "refused" if any(found.errors) else "right"


class Models(Kind):
    """A damaged model folder: a network, an ensemble, or one of format 1, whose weights alone are covered."""

    name = "model folders"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        one = small_model()
        one.save(folder / "one")
        other = dataclasses.replace(small_model(), seen=np.arange(3, dtype=np.uint64))
        Classifier.ensemble([one, other]).save(folder / "several")
        other.save(folder / "seen")
        old = Path(__file__).parents[1] / "old_folders" / "model"
        fresh_copy(old, folder / "old")
        self.pixels = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
        self.expected = {name: self._answers(folder / name) for name in ("one", "several", "seen", "old")}

    def _answers(self, model: Path) -> Any:
        classifier = load_classifier(model)
        return classifier.classes, classifier.predict(self.pixels).probabilities_NK

    def case(self, rng: random.Random) -> str:
        name = rng.choice(list(self.expected))
        model = fresh_copy(self.folder / name, self.folder / "damaged")
        file = rng.choice(sorted(model.iterdir()))
        file = model / "config.json" if rng.random() < 0.4 else file
        how = change_file(rng, file)
        try:
            classes, probabilities_NK = self._answers(model)
        except UserError as error:
            return refused(error)
        if name == "old" and file.name == "config.json":
            return "right"  # nothing can tell
        assert classes == self.expected[name][0], f"{how}: other classes"
        assert np.array_equal(probabilities_NK, self.expected[name][1]), f"{how}: other answers"
        return "right"


class Runs(Kind):
    """A damaged folder of a stopped run, with a checkpoint, that is resumed."""

    name = "run folders"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        source = pictures(folder / "set")
        network = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layout": "CCCC", "channel_attention": "none"}
        recipe = {"model": "astroformer_atto", "network": network, "epochs": 2, "image_size": 32, "crop": 1.0}
        recipe |= {"batch_size": 4, "device": "cpu", "speed": "plain", "precision": "no", "evaluations": 1}
        words: Any = {"cache": folder / "cache"}
        for seed, name in enumerate(("stopped", "other")):
            with (
                mock.patch.object(Loop, "_asked_to_stop", lambda self: bool(self.state.updates == 3)),
                contextlib.suppress(Interrupted),
            ):
                train.train(source, make_recipe({**recipe, "seed": seed}), out=folder / name, **words)
        for name in ("stopped", "other"):
            # The words for places are not covered, so that a cache may move; no case shall make one somewhere else.
            record = json.loads((folder / name / "run.json").read_text())
            (folder / name / "run.json").write_text(json.dumps({**record, "cache": None}))
        self.expected = self._weights(fresh_copy(folder / "stopped", folder / "whole"))

    def _weights(self, run: Path) -> dict[str, torch.Tensor]:
        with mock.patch.dict(os.environ, ASTROFORMER_CACHE=str(self.folder / "cache")):
            resume(run)
        return load_file(run / "model" / "model.safetensors")

    def case(self, rng: random.Random) -> str:
        run = fresh_copy(self.folder / "stopped", self.folder / "damaged")
        covered = rng.random() < 0.75
        names = ["run.json", "splits/train.csv", "splits/valid.csv", "checkpoint.safetensors", "history.csv"]
        if covered:
            names += ["recipe.yaml", "recipe.yaml", "run.json"]
        else:
            record = json.loads((run / "run.json").read_text())
            del record["hashes"]
            (run / "run.json").write_text(json.dumps(record))
        kind = rng.random()
        if kind < 0.04:
            how = "a model that is none"
            (run / "model").mkdir()
            (run / "model" / "config.json").write_text("{}")
            (run / "model" / "config.json").chmod(0o644)
            replace_file(rng, run / "model" / "config.json")
        elif kind < 0.08:
            how, file = "a file in the place of a folder", run / rng.choice(("model", "history.csv", "left_out.csv"))
            file.unlink(missing_ok=True)
            file.write_bytes(b"x")
        elif kind < 0.12:
            name = rng.choice(names)
            how = f"{name} of another run"
            (run / name).unlink(missing_ok=True)
            if (self.folder / "other" / name).exists():
                (run / name).write_bytes((self.folder / "other" / name).read_bytes())
        else:
            name = rng.choice(names)
            (run / name).touch()
            how = change_file(rng, run / name)
        try:
            weights = self._weights(run)
        except UserError as error:
            return refused(error)
        if not covered:
            return "right"  # nothing can tell
        same = weights.keys() == self.expected.keys()
        assert same, f"{how}: another network"
        assert all(torch.equal(weights[k], self.expected[k]) for k in weights), f"{how}: other weights"
        return "right"


class Recipes(Kind):
    """A damaged recipe file."""

    name = "recipes"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        short = "model: astroformer_nano\naugment: {preset: photo, rotation: 5}\nclass_weights: {a: 2, b: 0.5}\n"
        self.texts = [Recipe().to_yaml(), *(make_recipe(b).to_yaml() for b in BUILT_IN.values()), short]

    def case(self, rng: random.Random) -> str:
        text = rng.choice(self.texts)
        for _ in range(rng.choice((1, 1, 2, 4))):
            text = changed_text(rng, text)
        data = text.encode(errors="surrogatepass")
        if rng.random() < 0.3:
            data = changed_bytes(rng, data)
        file = self.folder / "damaged.yaml"
        file.write_bytes(data)
        try:
            recipe = load_recipe(file)
        except UserError as error:
            return refused(error)
        file.write_text(recipe.to_yaml())
        assert load_recipe(file) == recipe, "a recipe that does not come back"
        return "right"


class Catalogs(Kind):
    """A damaged catalog, of each kind."""

    name = "catalogs"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        files = sorted(pictures(folder / "set").rglob("*.png"))
        rows = [(str(file.relative_to(folder)), file.parent.name, str(i)) for i, file in enumerate(files)]
        self.texts: dict[str, bytes] = {}
        for mark, extension in ((",", "csv"), (";", "csv"), ("\t", "tsv")):
            lines = [mark.join(row) for row in [("file", "label", "number"), *rows]]
            self.texts[f"{len(self.texts)}.{extension}"] = ("\n".join(lines) + "\n").encode()
        columns = dict(zip(("file", "label", "number"), map(list, zip(*rows, strict=True)), strict=True))
        stream = io.BytesIO()
        parquet.write_table(pa.table(columns), stream)
        self.texts["3.parquet"] = stream.getvalue()

    def case(self, rng: random.Random) -> str:
        name = rng.choice(list(self.texts))
        data = self.texts[name]
        if not name.endswith("parquet") and rng.random() < 0.5:
            data = changed_text(rng, data.decode()).encode(errors="surrogatepass")
        if data == self.texts[name]:
            data = changed_bytes(rng, data)
        file = self.folder / name
        file.write_bytes(data)
        try:
            images = open_source(file, labelled=rng.random() < 0.7)
            read = 0
            for i in range(len(images)):
                with contextlib.suppress(UserError):
                    read += images.read(i).ndim > 0
        except UserError as error:
            return refused(error)
        assert images.labels is None or len(images.labels) == len(images.files), "files without labels"
        return "right" if read == len(images) else "refused"


class Done(Exception):
    """A command got to its work."""


def _got_there(*_: Any, **__: Any) -> Any:
    raise Done


def _read_few(*arguments: Any, images: int, **words: Any) -> Any:
    """`read_images`, of fewer images where so many can be: drawing 100,000 is no fault, and takes minutes."""
    return read_images(*arguments, images=min(images, 20) if images < 10**6 else images, **words)


class Commands(Kind):
    """Command lines of words that exist, with values that do not fit. Where training would begin they end."""

    name = "command lines"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pictures(folder / "set")
        small_model().save(folder / "model")
        (folder / "recipe.yaml").write_text(Recipe().to_yaml())
        (folder / "text.txt").write_text("text")
        self.values = ["set", "model", "recipe.yaml", "text.txt", "new", "set/disc/00.png", "mock-galaxies:20x32"]
        self.values += ["mock-galaxies:99999999999x32", "mock-galaxies:20x99999", "cifar10@x", "set@per-class=0:2"]
        self.values += [
            "-1",
            "0",
            "1",
            "2",
            "3",
            "0.5",
            "64",
            "100",
            "4096",
            "99999",
            "999999999",
            "nan",
            "inf",
            "1e999",
            "true",
            "none",
            "auto",
            "cpu",
            "photo",
            "sky",
        ]
        self.values += ["", "\udce9.png", "~nobody/x", "９", "x" * 5000]
        self.values += [value for value in NASTY_TEXT if "/" not in value]

    def case(self, rng: random.Random) -> str:
        from astroformer.cli.evaluate import Evaluate
        from astroformer.cli.info import Info
        from astroformer.cli.options import options_of
        from astroformer.cli.predict import Predict
        from astroformer.cli.symmetry import Symmetry
        from astroformer.cli.train import Train

        out_of_reach = {"system", "debug", "no-debug"}  # what is measured takes long; a traceback is what was asked for
        commands: dict[str, Any] = {"train": Train, "predict": Predict, "evaluate": Evaluate, "info": Info}
        commands["symmetry"] = Symmetry
        name = rng.choice([*commands, "train", "train"])
        usual = {"train": ["set"], "predict": ["model", "set"], "evaluate": ["model", "set"], "symmetry": ["model"]}
        words = [name, *usual.get(name, [])]
        if rng.random() < 0.2 and len(words) > 1:
            words[rng.randrange(1, len(words))] = rng.choice(self.values)
        words += ["--device", "cpu"] if name == "train" else []
        options = [
            option for option in options_of(commands[name]) if not option.place and option.name not in out_of_reach
        ]
        for option in rng.sample(options, rng.choice((1, 1, 2, 3))):
            words.append(f"--{option.name}")
            if option.meaning is None:
                words += rng.choices(self.values, k=rng.choice((1, 1, 1, 2, 0)))
        out, said = io.StringIO(), io.StringIO()
        here = Path.cwd()
        os.chdir(self.folder)
        try:
            with (
                mock.patch.object(train, "complete", _got_there),
                mock.patch.object(study.Study, "complete", _got_there),
                mock.patch.object(ensemble, "complete_ensemble", _got_there),
                mock.patch("astroformer.evaluation.symmetry.measure_symmetry", _got_there),
                mock.patch("astroformer.evaluation.symmetry.measured.read_images", _read_few),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(said),
            ):
                status = main(words)
        finally:
            os.chdir(here)
            _remove_new(self.folder, {"set", "model", "recipe.yaml", "text.txt"})
        if status == 1 and "error: Done" in said.getvalue():
            return "right"
        shown = [word if len(word) < 60 else f"{word[:60]}…" for word in words]
        assert status in (0, 2), f"{shown}: status {status}, {said.getvalue()[-500:]}"
        assert "Traceback" not in said.getvalue(), f"{shown}: a traceback"
        if status == 2:
            return refused(said.getvalue().splitlines()[-1])
        return "right"


def _remove_new(folder: Path, kept: set[str]) -> None:
    import shutil

    for entry in folder.iterdir():
        if entry.name not in kept:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


_ALL = (Images, Models, Runs, Recipes, Catalogs, Commands, Fits, Mosaics, Tables, Arrays)
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in _ALL}


class TooLong(BaseException):
    """A case took longer than it may."""


def run_here(kind: Kind, first: int, count: int, *, apart: bool = False) -> Iterator[tuple[int, str, float]]:
    """Runs cases and gives of each its number, what came of it and the seconds that it took.

    A process of its own (`apart`) ends where a case does not.
    """

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, too_long)
    try:
        for number in range(first, first + count):
            begin = time.monotonic()
            signal.alarm(SECONDS)
            if apart:  # a library in C may never see the signal
                faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
            try:
                outcome = kind.case(random.Random(f"{kind.name} {number}"))
            except TooLong:
                outcome = f"case {number}: more than {SECONDS} s"
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__}: {error}"
                outcome = f"case {number}: {what[:600]} ({Path(place.filename).name}:{place.lineno})"
            finally:
                signal.alarm(0)
            yield number, outcome, time.monotonic() - begin
    finally:
        signal.signal(signal.SIGALRM, before)


def figures_here(kind: Kind, count: int) -> Figures:
    """What comes of the first cases, in this process."""
    figures = Figures()
    for _, outcome, seconds in run_here(kind, 0, count):
        figures.count(outcome, seconds)
    return figures


def figures_apart(name: str, count: int, folder: Path) -> Figures:
    """What comes of the first cases, in a process of its own; after a crash another one goes on behind that case."""
    figures, first, rounds = Figures(), 0, 0
    while first < count:
        results = folder / f"results-{rounds}"
        rounds += 1
        words = [name, str(first), str(count - first), str(folder / f"work-{rounds}"), str(results)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.run(
            [sys.executable, "-m", "helpers.fuzzing", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        for line in results.read_text().splitlines() if results.is_file() else []:
            number, outcome, seconds = json.loads(line)
            if number is None:
                figures.peak_bytes = max(figures.peak_bytes, outcome)
            else:
                figures.count(outcome, seconds)
                first = number + 1
        if process.returncode:
            figures.count(f"case {first}: the process ended with {process.returncode}: {process.stderr[-500:]}", 0.0)
            first += 1
    return figures


def _apart(name: str, first: str, count: str, folder: str, results: str) -> None:
    torch.set_num_threads(1)
    kind = KINDS[name](Path(folder))
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open(results, "w", encoding="utf-8") as stream:
        for found in run_here(kind, int(first), int(count), apart=True):
            stream.write(json.dumps(found) + "\n")
            stream.flush()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - begin
        stream.write(json.dumps((None, peak, 0.0)) + "\n")


if __name__ == "__main__":
    _apart(*sys.argv[1:])
