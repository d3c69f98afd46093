"""`Teacher`: a model whose answers a run learns in place of labels (`distil.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.model_folder import ModelFolder
from astroformer.training.recipe import Recipe
from astroformer.training.run_record import TeacherRecord


@dataclass(frozen=True)
class Teacher:
    """A model and where it lies.

    Attributes:
        record: its folder and the hash of its weights, as `run.json` keeps them.
        classifier: that is asked.
    """

    record: TeacherRecord
    classifier: Classifier

    @classmethod
    def of(cls, model: str | Path) -> Teacher:
        """That of a model folder. Raises `UserError` where none can be loaded from it."""
        path = Path(model).absolute()
        classifier = Classifier.load(path)
        return cls(TeacherRecord(str(path), ModelFolder(path).config().weights_sha256), classifier)

    @classmethod
    def from_record(cls, record: TeacherRecord) -> Teacher:
        """That of a run's record. Raises `UserError` where it is no more, or is another one by now."""
        teacher = cls.of(record.model)
        if teacher.record != record:
            raise UserError(
                f"the model '{record.model}' has other weights than when this run began to learn from it; bring the "
                "old one back, or start a new run."
            )
        return teacher

    @property
    def run_name(self) -> str:
        """The name of the run that made the model."""
        return Path(self.record.model).parent.name


def ready_to_teach(
    classifier: Classifier, preprocessing: Preprocessing, classes: tuple[str, ...], recipe: Recipe, device: torch.device
) -> Classifier:
    """A classifier as a run asks it: on the device that trains, in the precision that the network is trained in.

    Raises:
        UserError: its preprocessing or classes are not those of the run.
    """
    if (classifier.preprocessing, classifier.classes) != (preprocessing, classes):
        raise UserError("the model to learn from has another preprocessing or other classes than this run.")
    return replace(classifier.to(device), precision="bfloat16" if recipe.precision == "bf16" else "float32")
