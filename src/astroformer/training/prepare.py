"""What comes before the first step: `prepare` makes a run folder, `reopen` takes one up again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from astroformer import ownership
from astroformer.augmentation.settings import PRESETS
from astroformer.classifier import Classifier
from astroformer.errors import UserError, unknown_name
from astroformer.images import ImageStore, Preprocessing, measure_statistics, write_split
from astroformer.images.units import measured
from astroformer.network import (
    VARIANTS,
    Answers,
    AnswersConfig,
    Astroformer,
    Ensemble,
    count_parameters,
)
from astroformer.network.framing import FRAME_IMAGES, Frame
from astroformer.progress import Reporter, trackers
from astroformer.system import pick_device
from astroformer.training.checkpoint import check_network
from astroformer.training.measuring import preprocessing_of, unmeasured
from astroformer.training.memory import check_weights_fit, decide_parts
from astroformer.training.objective import class_weights, image_weights
from astroformer.training.recipe import Recipe
from astroformer.training.rules import decide
from astroformer.training.run import RunFolder
from astroformer.training.run_record import Parts, RunRecord
from astroformer.training.splitting import (
    check_copies,
    check_shared,
    decode,
    describe_filled,
    describe_ignored,
    describe_images,
    describe_unvalidated,
    descriptions,
    split_images,
    split_of,
    without_parted_copies,
)
from astroformer.training.task import Task
from astroformer.training.teacher import Teacher

Found = TypeVar("Found")
_SHOWN_FAILURES = 5  # files that can't be read and are named at once; all are in left_out.csv


@dataclass(frozen=True)
class Setup:
    """All that a run starts from, new or resumed."""

    run: RunFolder
    recipe: Recipe  # a decided one
    record: RunRecord
    train: ImageStore
    valid: ImageStore
    preprocessing: Preprocessing
    network: Astroformer
    frame: Frame | None = None  # where the frame of an image begins, if the network is to be asked so
    teacher: Teacher | None = None
    fresh: bool = False  # this process has made the run, which has no checkpoint then


def prepare(
    task: Task, recipe: Recipe, *, out: str | Path | None, reporter: Reporter, augmentation: str | None = None
) -> Setup:
    """Decides, decodes and writes a run folder that `reopen` takes up.

    Args:
        task: what to train on.
        recipe: settings; what it leaves open is decided.
        out: run folder, new or empty; default `runs/NAME-1`, `-2`, …
        reporter: what shows the progress.
        augmentation: the name of a function of a program that will change batches too.

    Raises:
        UserError: anything about the input that the user can mend. What is impossible is said before the work, and
            before there is a run folder.
    """
    # 1. The images and their split.
    trackers(recipe.track)  # a missing extra is said before the work, not after
    split = split_images(task, recipe, reporter)
    train_images = split.images.subset(split.train_rows)
    assert train_images.labels is not None
    shared = check_shared(split, task)

    # 2. What the recipe leaves open, from the training images and the device.
    initial = None
    if task.init_from is not None:
        initial = Classifier.load(task.init_from, say=reporter.say)
        recipe = _inherited(recipe, initial)
    learned = None if initial is None else initial.preprocessing
    warnings = [] if learned is None else learned.check_source(train_images)
    recipe, decisions = decide(recipe, train_images)
    class_weights(recipe.class_weights, train_images.labels, train_images.classes)
    image_weights(train_images.weights_N)
    preprocessing = unmeasured(recipe, train_images, learned)
    if task.valid is not None:
        words = ("the run learns from", f"those of --valid '{task.valid}'")
        warnings += preprocessing.check_source(split.valid_images, *words)

    # 3. The network as it starts, and in how many parts of a batch it fits the memory.
    network, frame = _starting_network(recipe, preprocessing, split.images.classes, initial)
    network.config.check_size(*preprocessing.image_size)
    final_answers(recipe, frame).check_size(*preprocessing.image_size)
    device = pick_device(recipe.device)
    processes = PartialState(cpu=device == "cpu")  # one, unless torchrun started several
    if not processes.is_main_process:
        reporter = Reporter(quiet=True)
    if recipe.accumulate is None:
        found: list[tuple[int, str | None] | None] = [None]
        if processes.is_main_process:
            size, several = preprocessing.image_size, processes.num_processes
            found = [decide_parts(recipe, network.config, size, device, processes=several)]
        parts, sentence = _said_by_the_first(found, processes)
        recipe = recipe.model_copy(update={"accumulate": parts})
        decisions += [sentence] if sentence else []
    storage = torch.uint8 if recipe.storage == "uint8" else torch.float16
    without_effect = recipe.augment.without_effect(recipe.channels or 1, storage, rgb=preprocessing.rgb)
    if without_effect and recipe.augment not in PRESETS.values():  # of what nobody asked for there is nothing to say
        warnings.append(f"no meaning for these images, so without effect: {', '.join(without_effect)}")

    # 4. The run folder, made by the first process, which owns it until `complete` is done.
    created = RunFolder.create(out, str(task.source), task.valid) if processes.is_main_process else None
    path = _said_by_the_first([None if created is None else str(created.path)], processes)
    run = created or RunFolder(path)
    with run.begun_or_removed():
        for sentence in describe_images(split, recipe):
            reporter.say(sentence)
        lacking = describe_unvalidated(split)
        decisions += lacking + shared
        for sentence in describe_ignored(split) + lacking + shared:
            reporter.warn(sentence)
        if initial is not None:
            reporter.say(_taken_over(task, recipe, initial, split.images.classes))
        for sentence in decisions:
            reporter.detail(sentence)
        for sentence in warnings:
            reporter.say(sentence)
            decisions.append(sentence)
        lasting, task = task.lasting(), task.with_usable_cache(reporter.warn)

        # 5. The decoded images, whose copies stay on one side of the split.
        with processes.main_process_first():
            unsuited: list[str] = []
            preprocessing = preprocessing_of(recipe, train_images, learned, unsuited.append)
            train, valid = decode(split, preprocessing, task, reporter)
            parted = without_parted_copies(split, train, valid, recipe)
            if parted is not None:
                split = parted
                train_images = split.images.subset(split.train_rows)
                preprocessing = preprocessing_of(recipe, train_images, learned)
                train, valid = decode(split, preprocessing, task, reporter)
        if (scaled := preprocessing.described()) is not None:
            decisions.append(scaled)
            reporter.detail(scaled)
        for sentence in unsuited + describe_filled(train, valid):
            decisions.append(sentence)
            reporter.say(sentence)
        copies = check_copies(train, valid, task)
        decisions += copies
        for sentence in copies:
            reporter.warn(sentence)
        failures = train.failures + valid.failures
        for file, reason in failures[:_SHOWN_FAILURES]:
            reporter.say(f"left out: {file}: {reason}")
        if failures:
            left, are = (f"{len(failures):,} files", "are") if len(failures) > 1 else ("1 file", "is")
            reporter.warn(f"{left} can't be read and {are} left out; all in {run.left_out}")

        # 6. What is measured on the decoded training images.
        if preprocessing.scaling is not None:
            if learned is not None:
                learned.check_brightness(train_images.read, len(train_images))
            if task.valid is not None:
                valid_images = split.valid_images.subset(split.valid_rows)
                preprocessing.check_brightness(valid_images.read, len(valid_images))
        elif preprocessing.units is not None and preprocessing.units.pixels != "uint8":
            padded = preprocessing.fit == "pad"
            if learned is not None and learned.units is not None:
                each = (train.take([i])[0] for i in range(len(train)))
                learned.units.check_brightness(each, padded=padded)
            units = measured(preprocessing.units, train.base, train.rows, padded=padded)
            if task.valid is not None:
                units.check_brightness((valid.take([i])[0] for i in range(len(valid))), padded=padded)
            preprocessing = replace(preprocessing, units=units)
        if learned is not None:
            mean, std = learned.mean, learned.std
        else:
            mean, std = measure_statistics(train.base, train.rows)
        preprocessing = replace(preprocessing, mean=mean, std=std)
        if initial is None:
            _learn_frame(frame, train, preprocessing)

        # 7. The record.
        record = RunRecord(
            task=lasting,
            images=Parts(len(train), len(valid)),
            content=Parts(train.folder.name, valid.folder.name),
            left_out=len(failures),
            data_sets=[about for about in descriptions(split) if about],
            ignored=split.images.ignored,
            counts=split.images.counts(),
            decisions=decisions,
            parameters=count_parameters(network),
            network=network.config,
            preprocessing=preprocessing,
            answers=AnswersConfig(frame=frame is not None),
            augmentation=augmentation,
        )
        if processes.is_main_process:
            run.write_left_out(failures)
            write_split(run.splits / "train.csv", split.images, split.train_rows)
            write_split(run.splits / "valid.csv", split.valid_images, split.valid_rows)
            run.write_recipe(recipe)
            run.write_record(record)
        return Setup(run, recipe, record, train, valid, preprocessing, network, frame, fresh=True)


def reopen(path: str | Path, reporter: Reporter, *, finished: bool = False, patience: float = 0.0) -> Setup:
    """What a run starts from, as its folder records it: an unfinished one, which this process then owns until
    `complete` is done; or, with `finished`, any, which is only read.

    Args:
        path: of the run folder.
        reporter: what shows the progress.
        finished: whether the run may be finished.
        patience: seconds to wait for another owner that is about to end.

    Raises:
        UserError: `path` holds no run, or a finished one; another process owns it; a record is damaged; or the images
            have changed.
    """
    run = RunFolder.open(path)
    if finished:
        return _reopened(run, reporter, finished=True)
    _refuse_finished(run)
    run.own(patience=patience)
    try:
        _refuse_finished(run)  # by the owner that was waited for
        return _reopened(run, reporter, finished=False)
    except BaseException:
        ownership.release(run.path)
        raise


def _refuse_finished(run: RunFolder) -> None:
    if run.finished:
        raise UserError(f"run '{run.path}' is finished, its model is {run.model}; a new run may start --init-from it.")


def _reopened(run: RunFolder, reporter: Reporter, *, finished: bool) -> Setup:
    # 1. The records.
    run.check_files(reporter.say)
    recipe, record = run.read_recipe(), run.read_record()
    task = record.task
    if recipe.undecided():
        raise UserError(
            f"the recipe of run '{run.path}' leaves {recipe.undecided()[0]} open, which a run decides before it "
            "begins; bring it back from a copy, or start a new run."
        )

    # 2. The images, which must be those that the run began with.
    split = split_of(run, record, recipe, reporter)
    images = split.images
    processes = PartialState(cpu=pick_device(recipe.device) == "cpu")
    if not processes.is_main_process:
        reporter = Reporter(quiet=True)
    task = task.with_usable_cache(reporter.warn)
    with processes.main_process_first():
        train, valid = decode(split, record.preprocessing, task, reporter)
    for part, store in (("train", train), ("valid", valid)):
        # The name of a store is a hash of what its images contain.
        began_with = getattr(record.images, part)
        if store.folder.name != getattr(record.content, part) or len(store) != began_with:
            source = task.valid if part == "valid" and task.valid is not None else task.source
            raise UserError(
                f"the images of '{source}' have changed since run '{run.path}' began with {began_with} readable ones "
                f"to {part} on. Bring them back or start a new run."
            )

    # 3. The network, whose weights the checkpoint brings if there is one.
    if run.checkpoint.is_file():
        check_network(run.checkpoint, record.network)
        network, frame = Astroformer(record.network), Frame() if record.answers.frame else None
    else:
        if run.history.is_file():
            reporter.say(f"run '{run.path}' has no checkpoint by now, so it begins again")
        initial = None if task.init_from is None else Classifier.load(task.init_from)
        network, frame = _starting_network(recipe, record.preprocessing, images.classes, initial)
        if initial is None:
            _learn_frame(frame, train, record.preprocessing)
    # Of a finished run nobody asks the teacher.
    teacher = None if finished or record.teacher is None else Teacher.from_record(record.teacher)
    return Setup(run, recipe, record, train, valid, record.preprocessing, network, frame, teacher)


def _taken_over(task: Task, recipe: Recipe, initial: Classifier, classes: tuple[str, ...]) -> str:
    """What a run takes over from the model that it starts from."""
    height, width = recipe.sides
    head = "its classes are the same, so its head stays" if classes == initial.classes else "the head begins afresh"
    return (
        f"starts from '{task.init_from}': its weights, its preprocessing ({height} × {width} px, crop "
        f"{recipe.crop:g}) and its statistics; {head}"
    )


def final_answers(recipe: Recipe, frame: Frame | None) -> AnswersConfig:
    """How the trained network is asked: as the decided recipe says, whatever was said of a model that the run started
    from, and with a frame where there is one.

    A run that began before the rules decided the symmetry goes on with answers of the image alone.
    """
    return replace(recipe.network.answers(), frame=frame is not None)


def _starting_network(
    recipe: Recipe, preprocessing: Preprocessing, classes: tuple[str, ...], initial: Classifier | None
) -> tuple[Astroformer, Frame | None]:
    """A fresh network, which is a function of the seed, or that of `initial`, with a fresh head if the classes differ.

    Beside it stands the frame that the network is to be asked with: that of `initial`, or one that has yet to learn.
    """
    torch.manual_seed(recipe.seed)
    if initial is not None:
        given = initial.network
        inherited = given.network if isinstance(given, Answers) else given
        assert isinstance(inherited, Astroformer)
        if classes != initial.classes:
            inherited.reset_classifier(len(classes))
        return inherited, given.frame if isinstance(given, Answers) else None
    if recipe.model not in VARIANTS:
        raise unknown_name("model", recipe.model, VARIANTS)
    config = replace(
        VARIANTS[recipe.model],
        num_classes=len(classes),
        in_chans=preprocessing.channels,
        img_size=preprocessing.image_size,
        **recipe.network.changes(),
    )
    check_weights_fit(config, pick_device(recipe.device))
    network = Astroformer(config)
    return network, Frame() if recipe.network.answers().frame else None


def _learn_frame(frame: Frame | None, store: ImageStore, preprocessing: Preprocessing) -> None:
    """Teaches the frame, if there is one, where the frames of the images to train on begin."""
    if frame is not None:
        some = np.unique(np.linspace(0, len(store) - 1, FRAME_IMAGES).astype(int))
        frame.fit(preprocessing.normalize(torch.from_numpy(store.take(some))))


def _inherited(recipe: Recipe, initial: Classifier) -> Recipe:
    """The recipe with the network and, where it leaves them open, the preprocessing of a model to start from."""
    if isinstance(initial.network, Ensemble):
        raise UserError(
            f"the model of --init-from is an ensemble of {len(initial.network.members)} networks, and a run starts "
            "from one; give one of its members, which the run folder that made it keeps: RUN/seed-0/model."
        )
    assert isinstance(initial.network, Astroformer | Answers)
    if recipe.model != "auto" or recipe.network.changes() != Recipe().network.changes():
        raise UserError("--init-from brings its own network; give no model or network setting with it.")
    name, same = initial.info.name, initial.preprocessing
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
        "missing": recipe.missing or (None if same.missing == "refuse" else same.missing),
        "scaling": "none" if same.scaling is None else same.scaling.kind,
    }
    if recipe.scaling not in (None, inherited["scaling"]):
        raise UserError(
            f"scaling is {recipe.scaling}, but the model of --init-from has {inherited['scaling']}, with the limits "
            "that it has learned with; leave --scaling out."
        )
    if same.units is not None:
        inherited |= {"pixels": same.units.pixels}
        if same.units.pixels == "uint16":
            inherited |= {"white": recipe.white or same.units.white}
    return recipe.model_copy(update=inherited)


def _said_by_the_first(found: list[Found | None], processes: PartialState) -> Found:
    """What the first process found, on all of them."""
    if processes.num_processes > 1:
        broadcast_object_list(found)
    assert found[0] is not None
    return found[0]
