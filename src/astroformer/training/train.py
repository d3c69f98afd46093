"""`train`: from labelled images to a run folder with a model folder in it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from astroformer.classifier import Classifier, pick_device
from astroformer.errors import UserError
from astroformer.evaluation.pictures import plot_history
from astroformer.images.preprocessing import Preprocessing, measure_statistics
from astroformer.images.sources import LabelledImages, open_source
from astroformer.images.splits import holdout, read_split, write_split
from astroformer.images.store import ImageStore, default_cache
from astroformer.metrics import Evaluation, evaluate
from astroformer.network import Astroformer, AstroformerConfig, count_parameters, create_network
from astroformer.training.loop import Interrupted, Loop, predict_store
from astroformer.training.progress import Reporter, tensorboard_tracker
from astroformer.training.recipe import Recipe
from astroformer.training.rules import decide
from astroformer.training.run import RunFolder


@dataclass(frozen=True)
class Trained:
    """What `train` gives back: the classifier, where it lies, and how well it does on the validation images."""

    classifier: Classifier
    run: Path
    model: Path
    validation: Evaluation
    history: list[dict[str, float]]


def train(
    source: str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    valid: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    init_from: str | Path | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Trained:
    """Trains a classifier and writes a run folder.

    Args:
        source: folder of class folders, `.npz`, catalog (CSV, Parquet) or named set; see `open_source`.
        recipe: settings; what it leaves open is decided by `rules.decide`.
        valid: validation source; without it `recipe.valid_fraction` of each class is held out.
        out: run folder, new or empty; default `runs/NAME-1`, `-2`, …
        resume: run folder to continue; its own sources and recipe hold, so nothing else may be given.
        init_from: model folder whose weights start a new run.
        strict: make a file that can't be read an error instead of leaving it out.
        cache: where decoded images are kept; default `default_cache()`.
        reporter: what shows the progress.

    Raises:
        UserError: anything about the input that the user can mend.
        Interrupted: SIGINT or SIGTERM came; the state is saved in the run folder.
    """
    reporter = reporter or Reporter(quiet=True)
    if resume is not None:
        if source is not None or recipe is not None or valid is not None or out is not None or init_from is not None:
            raise UserError("--resume continues a run as it was; give no source and no other setting with it.")
        run = RunFolder.open(resume)
        record = run.read_record()
        recipe, decided = run.read_recipe(), True
        source, valid, strict = record["source"], record["valid"], record["strict"]
        cache = cache or record["cache"]
        if (run.model / "config.json").is_file():
            raise UserError(f"run '{resume}' is finished; its model is {run.model}. Start a new one with --init-from.")
    else:
        if source is None:
            raise UserError("no SOURCE given: a folder of class folders, an .npz, a catalog, or mock-galaxies.")
        recipe, decided, record, run = recipe or Recipe(), False, {}, None
    device = pick_device(recipe.device)
    cache = Path(cache) if cache is not None else default_cache()

    # 1. The images and their split.
    images = open_source(source, seed=recipe.seed)
    valid_images = open_source(valid, classes=images.classes, seed=recipe.seed) if valid is not None else images
    everything = np.arange(len(images))
    if run is not None:
        train_rows = read_split(run.path / "splits" / "train.csv", images)
        valid_rows = read_split(run.path / "splits" / "valid.csv", valid_images)
    elif valid is not None:
        train_rows, valid_rows = everything, np.arange(len(valid_images))
    else:
        train_rows, valid_rows = holdout(_labels(images), recipe.valid_fraction, recipe.seed)
    train_images, valid_images = images.subset(train_rows), valid_images.subset(valid_rows)

    # 2. What the recipe leaves open.
    initial = Classifier.load(init_from) if init_from is not None else None
    if initial is not None:
        if recipe.model != "auto" or recipe.network != Recipe().network:
            raise UserError("--init-from brings its own network; give no model or network setting with it.")
        same = initial.preprocessing
        recipe = recipe.model_copy(
            update={
                "model": initial.info["name"],
                "channels": same.channels,
                "crop": recipe.crop or same.crop,
                "image_size": recipe.image_size or same.image_size,
            }
        )
    if not decided:
        recipe, said = decide(recipe, train_images)
        run = RunFolder.create(out, str(source))
        for sentence in said:
            reporter.say(sentence)
    assert run is not None

    # 3. Decode once.
    preprocessing = Preprocessing.from_dict(record["preprocessing"]) if decided else _preprocessing(recipe)
    stores = {
        name: ImageStore.build(
            some,
            preprocessing,
            cache=cache,
            strict=strict,
            progress=lambda done, total, name=name: reporter.count(f"decoding {name}", done, total),
        )
        for name, some in (("train", train_images), ("valid", valid_images))
    }
    if initial is not None:
        preprocessing = replace(preprocessing, mean=initial.preprocessing.mean, std=initial.preprocessing.std)
    elif not decided:
        mean, std = measure_statistics(stores["train"].base, stores["train"].rows)
        preprocessing = replace(preprocessing, mean=mean, std=std)
    failures = stores["train"].failures + stores["valid"].failures
    for file, reason in failures[:5]:
        reporter.say(f"left out: {file}: {reason}")
    if failures:
        reporter.say(f"{len(failures)} files can't be read and are left out; all of them in {run.path / 'left_out.csv'}")

    # 4. The network.
    if decided:
        network = Astroformer(AstroformerConfig.from_dict(record["network"]))
    elif initial is not None:
        assert isinstance(initial.network, Astroformer)
        network = initial.network
        if images.classes != initial.classes:
            network.reset_classifier(len(images.classes))
    else:
        network = _seeded_network(recipe, len(images.classes))
    if not decided:
        write_split(run.path / "splits" / "train.csv", train_images, np.arange(len(train_images)))
        write_split(run.path / "splits" / "valid.csv", valid_images, np.arange(len(valid_images)))
        run.write_recipe(recipe)
        run.write_left_out(failures)
        record = {
            "source": str(source),
            "valid": None if valid is None else str(valid),
            "init_from": None if init_from is None else str(init_from),
            "strict": strict,
            "cache": str(cache),
            "images": {"train": len(stores["train"]), "valid": len(stores["valid"])},
            "left_out": len(failures),
            "classes": images.counts(),
            "parameters": count_parameters(network),
            "network": network.config.to_dict(),
            "preprocessing": preprocessing.to_dict(),
        }
        run.write_record(record)
    reporter.say(
        f"{recipe.model}, {count_parameters(network):,} parameters, {preprocessing.image_size[0]} × "
        f"{preprocessing.image_size[1]} px, {len(stores['train']):,} images to train on and "
        f"{len(stores['valid']):,} to validate, {len(images.classes)} classes, on {device}"
    )

    # 5. Train.
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.accumulate,
        log_with=tensorboard_tracker(recipe.track) or None,
        project_config=ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path)),
    )
    if recipe.track != "none":
        accelerator.init_trackers("tensorboard")
    with _stop_requests() as stop:
        loop = Loop(
            network,
            stores["train"],
            stores["valid"],
            preprocessing,
            recipe,
            accelerator=accelerator,
            run=run,
            reporter=reporter,
            stop=stop,
        )
        if resume is not None:
            loop.restore()
            reporter.say(f"resumed at epoch {loop.state.epoch}, step {loop.state.step}")
        try:
            fit = loop.fit()
        except Interrupted:
            raise Interrupted(f"stopped and saved; continue with: astroformer train --resume {run.path}") from None
        finally:
            accelerator.end_training()

    # 6. Keep.
    classifier = Classifier(fit.network.cpu(), preprocessing, images.classes)
    validation = evaluate(stores["valid"].labels, predict_store(classifier, stores["valid"]), images.classes)
    classifier.info = {
        "name": recipe.model,
        "parameters": f"{count_parameters(network):,}",
        "training": f"{len(stores['train']):,} images of '{Path(str(source)).name}', "
        f"{fit.state.epoch} epochs, {fit.state.elapsed / 60:.1f} minutes, seed {recipe.seed}",
        "validation": "given" if valid is not None else f"{recipe.valid_fraction:.0%} held out of each class",
        "metrics": {"n": validation.n, **{k: v.to_dict() for k, v in validation.metrics.items()}},
    }
    classifier.save(run.model)
    plot_history(fit.state.history, run.path / "history.png")
    return Trained(classifier, run.path, run.model, validation, fit.state.history)


def _labels(images: LabelledImages) -> np.ndarray[Any, Any]:
    assert images.labels is not None
    return images.labels


def _preprocessing(recipe: Recipe) -> Preprocessing:
    """The part of the preprocessing that decoding depends on; mean and deviation follow from the decoded store."""
    size, crop, channels, storage = recipe.image_size, recipe.crop, recipe.channels, recipe.storage
    assert size is not None and crop is not None and channels is not None and storage is not None, "not decided"
    return Preprocessing(
        image_size=(size, size) if isinstance(size, int) else size,
        channels=channels,
        crop=crop,
        fit=recipe.fit,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        dtype=storage,
    )


def _seeded_network(recipe: Recipe, num_classes: int) -> Astroformer:
    torch.manual_seed(recipe.seed)
    return create_network(
        recipe.model,
        num_classes=num_classes,
        in_chans=recipe.channels,
        img_size=recipe.image_size,
        **recipe.network.words(),
    )


@contextmanager
def _stop_requests() -> Iterator[Any]:
    """Within it, the first SIGINT or SIGTERM asks the loop to save and stop; a second SIGINT stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
