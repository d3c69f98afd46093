"""One run of `low_data.py`: trains once, and asks once about the test images."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from astroformer.classifier import Classifier
from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry
from astroformer.evaluation.symmetry.measured import MeasuredNetwork, read_images
from astroformer.images import holdout, open_source
from astroformer.metrics import balanced_accuracy, expected_calibration_error, nll_N
from astroformer.system import pick_device
from astroformer.training.recipe import make_recipe
from astroformer.training.validation import predict_store
from common.grid import SETS, Job
from common.machine import code_version
from common.peers import PLAIN, peer_of, settings_of
from common.rows import Row
from common.training import trained

SYMMETRY_IMAGES = 100


def views_of(stored_NCHW: np.ndarray, recipe: str) -> list[np.ndarray]:
    """What the answers are averaged over, the images themselves first: turns and flips, or the mirror image."""
    flipped_NCHW = stored_NCHW[..., ::-1]
    if recipe == "photo":
        return [stored_NCHW, flipped_NCHW]
    turned = [np.rot90(x_NCHW, turns, axes=(2, 3)) for x_NCHW in (stored_NCHW, flipped_NCHW) for turns in range(4)]
    return turned if stored_NCHW.shape[2] == stored_NCHW.shape[3] else [turned[i] for i in (0, 2, 4, 6)]


def averaged(probabilities: list[np.ndarray]) -> np.ndarray:
    """(N, K) probabilities of the logits averaged over the views: the normalised geometric mean."""
    logits_NK = np.mean([np.log(np.maximum(p_NK, 1e-300)) for p_NK in probabilities], axis=0)
    raised_NK = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
    return raised_NK / raised_NK.sum(1, keepdims=True)


def scores_of(labels_N: np.ndarray, probabilities_NK: np.ndarray) -> dict[str, float]:
    called_N = probabilities_NK.argmax(1)
    found = {
        "accuracy": float((called_N == labels_N).mean()),
        "balanced_accuracy": balanced_accuracy(labels_N, called_N, probabilities_NK.shape[1]),
        "nll": float(nll_N(labels_N, probabilities_NK).mean()),
        "ece": expected_calibration_error(labels_N, probabilities_NK),
    }
    return {name: round(value, 6) for name, value in found.items()}


def parsed(words: str) -> dict[str, Any]:
    """`optimizer=muon augment.mixup=0.2` as nested settings; values as in YAML.

    Raises:
        ValueError: a word without `=`.
    """
    made: dict[str, Any] = {}
    for word in words.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"'{word}' is no setting; write name=value, such as optimizer=muon.")
        *outer, last = name.split(".")
        inner = made
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = _typed(value)
    return made


def _typed(text: str) -> Any:
    """A value as in YAML, but `no` stays a word (precision=no) and 1e-3, which YAML takes for one, is a number."""
    value = text if text in ("no", "yes", "on", "off") else yaml.safe_load(text)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def merged(*settings: dict[str, Any]) -> dict[str, Any]:
    """Later ones win, word by word within nested ones."""
    made: dict[str, Any] = {}
    for some in settings:
        for name, value in some.items():
            both = isinstance(value, dict) and isinstance(made.get(name), dict)
            made[name] = merged(made[name], value) if both else value
    return made


def recipe_words(job: Job, device: str, member: int = 0) -> dict[str, Any]:
    """The settings of a run, or of a member of an ensemble, that are not left to the rules."""
    setting = next(s for s in settings_of(job.model) if s.name == job.setting)
    seed = job.seed + 1000 * member  # no seed of another run
    base: dict[str, Any] = {"augment": {"preset": SETS[job.data].recipe}, "seed": seed, "device": device}
    minutes = None if job.minutes is None else job.minutes / job.networks
    epochs = None if job.epochs is None else job.epochs // job.networks
    base |= {"evaluations": 1, "minutes": minutes, "epochs": epochs}
    peer = peer_of(job.model)
    if peer is not None:
        base |= PLAIN if pick_device(device) == "cpu" else {}
        base |= {} if peer.any_size else {"progressive": 0.0}
        base |= {"network": {"group": "none"}}  # whose images are of another size
    return merged(base, setting.words, parsed(job.words))


def source_of(job: Job, data: Path) -> tuple[str, str]:
    """The sources to train and to test on."""
    some, n = SETS[job.data], job.cell.images
    train, test = some.train.format(a=job.split * n, b=(job.split + 1) * n), some.test
    if job.kind == "develop" and some.develop is not None:
        test = some.train.format(a=some.develop[0], b=some.develop[1])
    return (train, test) if some.named else (str(data / train), str(data / test))


def run(job: Job, data: Path, device: str = "auto", symmetry_images: int = SYMMETRY_IMAGES) -> Row:
    """Trains once, and asks once about the test images; in tuning about a part of the training images."""
    code = code_version()  # of the code that is about to run, not of what is there when it ends
    train_source, test_source = source_of(job, data)
    train = open_source(train_source)
    if job.kind == "tune":
        fraction = 0.4 if job.cell.images < 100 else 0.2
        fitted, held_out = holdout(train.labels, fraction, job.seed, groups=train.groups)
        train, test = train.subset(fitted), train.subset(held_out)
    else:
        test = open_source(test_source, classes=train.classes)
    flops = None if job.flops is None else job.flops / job.networks
    members = [
        trained(job.model, make_recipe(recipe_words(job, device, k)), train, test, flops=flops)
        for k in range(job.members)
    ]
    made = members[0]
    classifier, labels_N = made.classifier, made.valid.labels
    if job.members > 1:
        classifier = Classifier.ensemble([member.classifier for member in members])
    if job.distilled:
        words = merged(recipe_words(job, device, job.members), {"label_smoothing": 0.0})  # as `astroformer.distil`
        made = trained(job.model, make_recipe(words), train, test, flops=flops, teacher=classifier)
        members, classifier = [*members, made], made.classifier
    views = [
        np.concatenate([classifier.probabilities(np.ascontiguousarray(part)) for part in _parts(view)])
        for view in views_of(made.valid.take(np.arange(len(labels_N))), SETS[job.data].recipe)[1:]
    ]
    plain_NK = predict_store(classifier, made.valid)
    scores = scores_of(labels_N, plain_NK)
    with_views = scores_of(labels_N, averaged([plain_NK, *views]))
    s_cons = None
    if job.kind == "run" and symmetry_images:
        measured = MeasuredNetwork(
            job.model, classifier.network, "trained", classifier.preprocessing, classifier.classes
        )
        inputs = read_images(measured, test_source, images=symmetry_images)
        report = measure_symmetry(
            classifier.network,
            inputs.images_NCHW,
            frames_NCHW=inputs.frames_NCHW,
            settings=SymmetrySettings(shifts=2, rotations=1),  # crops are what is asked for
            features=None,
        )
        s_cons = None if report.s_cons is None else round(report.s_cons.value, 6)
    rows = [member.row for member in members]
    asked = rows[-1:] if job.distilled else rows
    together = {name: sum(row[name] for row in rows) for name in ("training_flops", "images_seen", "minutes_taken")}
    together |= {name: sum(row[name] for row in asked) for name in ("parameters", "macs")}
    row = {**made.row, **together, "cpu_share": min(row["cpu_share"] for row in rows), **asdict(job)}
    seconds = 60 * row["minutes_taken"]
    return {
        **row,
        "images": {"train": len(train), "test": len(labels_N)},
        "epochs_done": round(row["images_seen"] / len(train), 3),
        **scores,
        **{f"{name}_views": value for name, value in with_views.items()},
        "views": 1 + len(views),
        "s_cons": s_cons,
        "images_per_second": round(row["images_seen"] / max(seconds, 1e-9), 1),
        "recipe": members[0].recipe.model_dump(mode="json"),
        "code": code,
    }


def _parts(array_NCHW: np.ndarray, size: int = 128) -> list[np.ndarray]:
    return [array_NCHW[start : start + size] for start in range(0, len(array_NCHW), size)]
