"""`train`: from labelled images to a run folder with a model folder in it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from numpy.typing import NDArray

from astroformer.augmentation.settings import PRESETS
from astroformer.cache import default_cache
from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.evaluation.pictures import plot_history
from astroformer.files import read_json
from astroformer.images import (
    ImageStore,
    LabelledImages,
    Preprocessing,
    holdout,
    kfold,
    measure_statistics,
    open_source,
    read_split,
    write_split,
)
from astroformer.metrics import Evaluation, evaluate
from astroformer.network import (
    VARIANTS,
    Astroformer,
    AstroformerConfig,
    Ensemble,
    Tie,
    count_parameters,
    create_network,
)
from astroformer.network.framing import FRAME_IMAGES
from astroformer.progress import Reporter, trackers
from astroformer.system import pick_device
from astroformer.training.loop import Fit, Interrupted, Loop, class_weights, predict_batch, predict_store
from astroformer.training.memory import decide_parts
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


@dataclass(frozen=True)
class Teacher:
    """A model whose answers a run learns in place of labels (`training/distil.py`)."""

    model: Path
    sha256: str  # of its weights
    classifier: Classifier

    @classmethod
    def of(cls, model: str | Path) -> Teacher:
        """That of a model folder. Raises `UserError` where none can be loaded from it."""
        path = Path(model).absolute()
        classifier = Classifier.load(path)
        return cls(path, read_json(path / "config.json")["weights_sha256"], classifier)

    def record(self) -> dict[str, str]:
        """As `run.json` keeps it."""
        return {"model": str(self.model), "weights_sha256": self.sha256}

    @classmethod
    def from_record(cls, record: dict[str, str]) -> Teacher:
        """That of `record`. Raises `UserError` where it is no more, or is another one by now."""
        teacher = cls.of(record["model"])
        if teacher.record() != record:
            raise UserError(
                f"the model '{teacher.model}' has other weights than when this run began to learn from it; bring the "
                "old one back, or start a new run."
            )
        return teacher


@dataclass(frozen=True)
class Setup:
    """All that a run starts from, new or resumed."""

    run: RunFolder
    recipe: Recipe
    record: dict[str, Any]  # run.json
    train: ImageStore
    valid: ImageStore
    preprocessing: Preprocessing
    network: Astroformer
    teacher: Teacher | None = None


def train(
    source: str | Path,
    recipe: Recipe | None = None,
    *,
    valid: str | Path | None = None,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Trained:
    """Trains a classifier and writes a run folder.

    Args:
        source: folder of class folders, `.npz`, catalog (CSV, Parquet) or named set; see `open_source`.
        recipe: settings; what it leaves open is decided by `rules.decide`.
        valid: validation source; without it `recipe.valid_fraction` of each class, or one of `recipe.folds`, is held
            out.
        out: run folder, new or empty; default `runs/NAME-1`, `-2`, …
        init_from: model folder whose weights start this run; it brings its network with it.
        strict: make a file that can't be read an error instead of leaving it out.
        cache: where decoded images are kept; default `default_cache()`.
        reporter: what shows the progress.

    Raises:
        UserError: anything about the input that the user can mend.
        Interrupted: SIGINT or SIGTERM came; the state is saved in the run folder.
    """
    reporter = reporter or Reporter(quiet=True)
    setup = prepare(
        source,
        recipe,
        valid=valid,
        out=out,
        init_from=init_from,
        strict=strict,
        cache=cache,
        reporter=reporter,
    )
    return _fit(setup, reporter)


def prepare(
    source: str | Path,
    recipe: Recipe | None = None,
    *,
    valid: str | Path | None = None,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    strict: bool = False,
    cache: str | Path | None = None,
    reporter: Reporter,
) -> Setup:
    """All of `train` that comes before the first step: decides, decodes and writes a run folder that `resume` takes up.

    Arguments and errors as for `train`.
    """
    recipe = recipe or Recipe()
    trackers(recipe.track)  # a missing extra is said before the work, not after
    cache = Path(cache) if cache is not None else default_cache()
    images = open_source(source, seed=recipe.images_seed, part="train", listener=reporter)
    if valid is not None:
        if recipe.folds is not None:
            raise UserError(f"folds ({recipe.folds}) hold images of the source out, --valid gives others; choose one.")
        valid_source = open_source(valid, classes=images.classes, seed=recipe.images_seed, listener=reporter)
        rows = np.arange(len(images)), np.arange(len(valid_source))
    else:
        valid_source = images
        assert images.labels is not None
        if recipe.folds is not None:
            folds = kfold(images.labels, recipe.folds, recipe.images_seed, classes=images.classes, groups=images.groups)
            rows = folds[recipe.fold]
        else:
            rows = holdout(
                images.labels, recipe.valid_fraction, recipe.images_seed, classes=images.classes, groups=images.groups
            )
    train_images = images.subset(rows[0])

    initial = None
    if init_from is not None:
        initial = Classifier.load(init_from)
        recipe = _inherit(recipe, initial)
    recipe, decisions = decide(recipe, train_images)
    assert train_images.labels is not None
    # What is impossible is said before the work, and before there is a run folder.
    class_weights(recipe, train_images.labels, train_images.classes)
    preprocessing = preprocessing_of(recipe)
    network = _starting_network(recipe, preprocessing, images.classes, initial)
    _answering(network, recipe).check_size(*preprocessing.image_size)
    processes = _processes(recipe)
    if not processes.is_main_process:
        reporter = Reporter(quiet=True)
    if recipe.accumulate is None:
        parts, sentence = _decide_parts(recipe, network, preprocessing, processes)
        recipe = recipe.model_copy(update={"accumulate": parts})
        decisions += [sentence] if sentence else []
    run = _new_run(out, str(source), processes)
    storage = torch.uint8 if recipe.storage == "uint8" else torch.float16
    without_effect = recipe.augment.without_effect(recipe.channels or 1, storage)
    if without_effect and recipe.augment not in PRESETS.values():  # of what nobody asked for there is nothing to say
        decisions.append(f"no meaning for these images, so without effect: {', '.join(without_effect)}")
    for sentence in decisions:
        reporter.say(sentence)

    with processes.main_process_first():
        stores = _decode(images, valid_source, rows, preprocessing, cache, strict, reporter)
    train_store, valid_store = stores
    failures = train_store.failures + valid_store.failures
    for file, reason in failures[:5]:
        reporter.say(f"left out: {file}: {reason}")
    if failures:
        reporter.say(f"{len(failures)} files can't be read and are left out; all in {run.path / 'left_out.csv'}")

    if initial is not None:
        mean, std = initial.preprocessing.mean, initial.preprocessing.std
    else:
        mean, std = measure_statistics(train_store.base, train_store.rows)
    preprocessing = replace(preprocessing, mean=mean, std=std)
    if initial is None:
        _learn_frame(network, train_store, preprocessing)

    record = {
        "source": _lasting(source),
        "valid": None if valid is None else _lasting(valid),
        "init_from": None if init_from is None else _lasting(init_from),
        "strict": strict,
        "cache": _lasting(cache),
        "images": {"train": len(train_store), "valid": len(valid_store)},
        "content": {"train": train_store.folder.name, "valid": valid_store.folder.name},
        "left_out": len(failures),
        "data_sets": [about for about in (images.about, {} if valid is None else valid_source.about) if about],
        "ignored": images.ignored,
        "counts": images.counts(),
        "decisions": decisions,
        "parameters": count_parameters(network),
        "network": network.config.to_dict(),
        "preprocessing": preprocessing.to_dict(),
    }
    if processes.is_main_process:
        run.write_left_out(failures)
        write_split(run.path / "splits" / "train.csv", images, rows[0])
        write_split(run.path / "splits" / "valid.csv", valid_source, rows[1])
        run.write_recipe(recipe)
        run.write_record(record)
    return Setup(run, recipe, record, train_store, valid_store, preprocessing, network)


def resume(run: str | Path, *, reporter: Reporter | None = None) -> Trained:
    """Continues an interrupted run at its last checkpoint, with its own sources, splits and recipe.

    On CPU the result has the same weights, to the bit, as the uninterrupted run (with a length in epochs; by the
    clock, the time that had passed counts). A run that was stopped before its first checkpoint begins.

    Raises:
        UserError: `run` is no run folder, is finished, or its images have changed.
        Interrupted: as `train`.
    """
    reporter = reporter or Reporter(quiet=True)
    return _fit(reopen(run, reporter), reporter)


def reopen(run: str | Path, reporter: Reporter, *, finished: bool = False) -> Setup:
    """What a run starts from, as its folder records it: an unfinished one or, with `finished`, any. Errors as in
    `resume`."""
    folder = RunFolder.open(run)
    recipe, record = folder.read_recipe(), folder.read_record()
    if not finished and (folder.model / "config.json").is_file():
        raise UserError(f"run '{run}' is finished, its model is {folder.model}; a new run may start --init-from it.")
    images = open_source(record["source"], seed=recipe.images_seed, part="train", listener=reporter)
    given = record["valid"]
    valid_source = images
    if given is not None:
        valid_source = open_source(given, classes=images.classes, seed=recipe.images_seed, listener=reporter)
    rows = (
        read_split(folder.path / "splits" / "train.csv", images),
        read_split(folder.path / "splits" / "valid.csv", valid_source),
    )
    preprocessing = Preprocessing.from_dict(record["preprocessing"])
    processes = _processes(recipe)
    if not processes.is_main_process:
        reporter = Reporter(quiet=True)
    with processes.main_process_first():
        stores = _decode(images, valid_source, rows, preprocessing, Path(record["cache"]), record["strict"], reporter)
    for part, store in zip(("train", "valid"), stores, strict=True):
        # The name of a store is a hash of what its images contain.
        if store.folder.name != record["content"][part] or len(store) != record["images"][part]:
            raise UserError(
                f"the images of '{record[part] if part == 'valid' and given is not None else record['source']}' have "
                f"changed since run '{run}' began with {record['images'][part]} readable ones to {part} on. Bring "
                "them back or start a new run."
            )
    if folder.checkpoint.is_file():
        network = Astroformer(AstroformerConfig.from_dict(record["network"]))
    else:
        initial = None if record["init_from"] is None else Classifier.load(record["init_from"])
        network = _starting_network(recipe, preprocessing, images.classes, initial)
        if initial is None:
            _learn_frame(network, stores[0], preprocessing)
    # Runs of before know of no teacher; of a finished one nobody asks for it.
    given = None if finished else record.get("teacher")
    teacher = None if given is None else Teacher.from_record(given)
    return Setup(folder, recipe, record, *stores, preprocessing, network, teacher)


def _fit(setup: Setup, reporter: Reporter) -> Trained:
    """Trains to the end, from the checkpoint if there is one, and writes the model folder."""
    describe(setup, reporter)
    accelerator = create_accelerator(setup)
    with stop_requests() as stop:
        loop = create_loop(setup, accelerator, reporter, stop)
        if setup.run.checkpoint.is_file():
            loop.restore()
            reporter.say(f"resumed at epoch {loop.state.epoch}, step {loop.state.step}")
        try:
            fit = loop.fit()
        except Interrupted:
            how = f"stopped and saved; continue with: astroformer train --resume {setup.run.path}"
            raise Interrupted(how, stop.number or signal.SIGINT) from None
        finally:
            accelerator.end_training()
    return finish(setup, fit, loop.steps_per_epoch, write=accelerator.is_main_process)


def describe(setup: Setup, reporter: Reporter) -> None:
    """Says in a line what is about to be trained."""
    height, width = setup.preprocessing.image_size
    group = setup.network.config.group
    tied = "" if group == "none" else f" ({Tie(setup.network, group).free:,} free)"
    reporter.say(
        f"{setup.recipe.model}, {count_parameters(setup.network):,} parameters{tied}, {height} × {width} px, "
        f"{len(setup.train.classes)} classes; {len(setup.train):,} images to train on, {len(setup.valid):,} to "
        f"validate on, {pick_device(setup.recipe.device)}"
    )


def create_accelerator(setup: Setup) -> Accelerator:
    """The device, precision and processes of a run."""
    recipe, folder = setup.recipe, str(setup.run.path)
    if _processes(recipe).num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # else the first run's device and precision would stay
        GradientState._reset_state()
    accelerator = Accelerator(
        cpu=pick_device(recipe.device) == "cpu",
        mixed_precision=recipe.precision,
        gradient_accumulation_steps=recipe.parts,
        log_with=trackers(recipe.track),
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder),
    )
    if recipe.track != "none":
        accelerator.init_trackers(recipe.track)
    return accelerator


def create_loop(setup: Setup, accelerator: Accelerator, reporter: Reporter, stop: Callable[[], bool]) -> Loop:
    """The loop of a run, at its first step."""
    return Loop(
        setup.network,
        setup.train,
        setup.valid,
        setup.preprocessing,
        setup.recipe,
        accelerator=accelerator,
        run=setup.run,
        teacher=None if setup.teacher is None else setup.teacher.classifier,
        reporter=reporter,
        stop=stop,
    )


def finish(setup: Setup, fit: Fit, steps_per_epoch: int, *, write: bool = True) -> Trained:
    """Measures a finished run on its validation images and, with `write`, writes its model folder."""
    recipe, run, record, classes = setup.recipe, setup.run, setup.record, setup.train.classes
    assert isinstance(fit.network, Astroformer)
    fit.network.config = _answering(fit.network, recipe)
    classifier = Classifier(fit.network.cpu(), setup.preprocessing, classes)
    validation = evaluate(setup.valid.labels, predict_store(classifier, setup.valid, predict_batch(recipe)), classes)
    if record["valid"] is not None:
        held_out = "given"
    elif recipe.folds is not None:
        held_out = f"fold {recipe.fold} of 0 to {recipe.folds - 1}, held out"
    else:
        held_out = f"{recipe.valid_fraction:.0%} held out of each class"
    epochs = fit.state.epoch + fit.state.step / steps_per_epoch
    taught = f", on the answers of '{setup.teacher.model.parent.name}'" if setup.teacher else ""
    classifier.info = {
        "name": recipe.model,
        "parameters": f"{count_parameters(setup.network):,}",
        "training": f"{len(setup.train):,} images of '{Path(record['source']).name}', {epochs:.3g} epochs, "
        f"{fit.state.elapsed / 60:.1f} minutes, seed {recipe.seed}{taught}",
        "validation": held_out,
        "metrics": {"n": validation.n, **{k: v.to_dict() for k, v in validation.metrics.items()}},
    }
    if write:
        plot_history(fit.state.history, run.path / "history.png")
        classifier.save(run.model)  # last: its presence says that the run is finished
    return Trained(classifier, run.path, run.model, validation, fit.state.history)


def _lasting(source: str | Path) -> str:
    """A source by its absolute path, so that a run can be resumed from another folder; a named set by its name."""
    exists = Path(source).exists() or Path(str(source).split("@")[0]).exists()
    return str(Path(source).absolute()) if exists else str(source)


def _starting_network(
    recipe: Recipe, preprocessing: Preprocessing, classes: tuple[str, ...], initial: Classifier | None
) -> Astroformer:
    """A fresh network, a function of the seed; or that of `initial`, with a fresh head if the classes differ.

    It answers of an image alone (`NetworkSettings.words`).
    """
    torch.manual_seed(recipe.seed)
    if initial is not None:
        assert isinstance(initial.network, Astroformer)
        network = initial.network
        network.config = replace(network.config, symmetry="shift")
        if classes != initial.classes:
            network.reset_classifier(len(classes))
        return network
    return create_network(
        recipe.model,
        num_classes=len(classes),
        in_chans=preprocessing.channels,
        img_size=preprocessing.image_size,
        **recipe.network.words(),
    )


def _answering(network: Astroformer, recipe: Recipe) -> AstroformerConfig:
    """The config of a trained network, with the symmetry that the decided recipe gives its answers, whatever that of a
    model was that the run started from.

    (A run that began before the rules decided it goes on with answers of the image alone.)
    """
    views = recipe.network.views or VARIANTS[recipe.model].views
    return replace(network.config, symmetry=recipe.network.symmetry or "shift", views=views)


def _learn_frame(network: Astroformer, store: ImageStore, preprocessing: Preprocessing) -> None:
    """Where the frame of an image begins, from the images to train on, if the network asks for it."""
    if network.config.equivariance == "frame":
        some = np.unique(np.linspace(0, len(store) - 1, FRAME_IMAGES).astype(int))
        network.frame.fit(preprocessing.normalize(torch.from_numpy(store.take(some))))


def _inherit(recipe: Recipe, initial: Classifier) -> Recipe:
    """The recipe with the network and, where it leaves them open, the preprocessing of a model to start from."""
    if isinstance(initial.network, Ensemble):
        raise UserError(
            f"the model of --init-from is an ensemble of {len(initial.network.members)} networks, and a run starts "
            "from one; give one of its members, which the run folder that made it keeps: RUN/seed-0/model."
        )
    assert isinstance(initial.network, Astroformer)
    if recipe.model != "auto" or recipe.network.words() != Recipe().network.words():
        raise UserError("--init-from brings its own network; give no model or network setting with it.")
    name, same = initial.info.get("name"), initial.preprocessing
    if name not in VARIANTS:
        raise UserError(
            f"config.json of the model of --init-from gives '{name}' as its name; one of {', '.join(VARIANTS)} is "
            "needed."
        )
    if recipe.channels not in (None, same.channels):
        raise UserError(f"channels is {recipe.channels}, but the model of --init-from has {same.channels}.")
    inherited = {
        "model": name,
        "network": recipe.network.model_copy(update={"group": initial.network.config.group}),
        "channels": same.channels,
        "crop": recipe.crop or same.crop,
        "image_size": recipe.image_size or same.image_size,
        "fit": same.fit,
        "storage": recipe.storage or same.dtype,
    }
    return recipe.model_copy(update=inherited)


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """The part of the preprocessing that decoding depends on; mean and deviation follow from the decoded store."""
    crop, channels, storage = recipe.crop, recipe.channels, recipe.storage
    assert crop is not None, "the recipe is not decided"
    assert channels is not None, "the recipe is not decided"
    assert storage is not None, "the recipe is not decided"
    return Preprocessing(
        image_size=recipe.sides,
        channels=channels,
        crop=crop,
        fit=recipe.fit,
        dtype=storage,
    )


def _decode(
    images: LabelledImages,
    valid_source: LabelledImages,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    preprocessing: Preprocessing,
    cache: Path,
    strict: bool,
    reporter: Reporter,
) -> tuple[ImageStore, ImageStore]:
    """The images to train on and to validate on, `rows` of each source.

    Where both come from one source they share one store, and so does every other split of it.
    """

    def build(some: LabelledImages, name: str) -> ImageStore:
        def progress(done: int, total: int) -> None:
            reporter.count(f"decoding {name}", done, total)

        return ImageStore.build(some, preprocessing, cache=cache, strict=strict, progress=progress)

    if valid_source is not images:
        return (
            build(images.subset(rows[0]), "training images"),
            build(valid_source.subset(rows[1]), "validation images"),
        )
    # Of a resumed run the source may have more images by now than were split.
    both = np.union1d(*rows)
    split = images.subset(both)
    whole = build(split, "images")
    train, valid = (whole.part(split, np.searchsorted(both, part), strict=strict) for part in rows)
    return train, valid


def _processes(recipe: Recipe) -> PartialState:
    """The processes of this run: one, unless `accelerate launch` or `torchrun` started several."""
    return PartialState(cpu=pick_device(recipe.device) == "cpu")


def _decide_parts(
    recipe: Recipe, network: Astroformer, preprocessing: Preprocessing, processes: PartialState
) -> tuple[int, str | None]:
    """`decide_parts` by the first process, for all."""
    size, device, several = preprocessing.image_size, pick_device(recipe.device), processes.num_processes
    found: list[tuple[int, str | None] | None] = [None]
    if processes.is_main_process:
        found = [decide_parts(recipe, network.config, size, device, processes=several)]
    if several > 1:
        broadcast_object_list(found)
    assert found[0] is not None
    return found[0]


def _new_run(out: str | Path | None, source: str, processes: PartialState) -> RunFolder:
    """A new run folder, made by the first process; the others are told its path."""
    paths = [str(RunFolder.create(out, source).path) if processes.is_main_process else ""]
    if processes.num_processes > 1:
        broadcast_object_list(paths)
    return RunFolder(paths[0])


@dataclass
class _Asked:
    """Whether a signal has asked to stop, and which."""

    number: int = 0

    def __call__(self) -> bool:
        return self.number != 0


@contextmanager
def stop_requests() -> Iterator[_Asked]:
    """Within it, the first SIGINT or SIGTERM asks the loop to save and stop; a second one stops at once."""
    asked = _Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return

    def ask(number: int, frame: Any) -> None:
        if asked():
            raise KeyboardInterrupt
        asked.number = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
