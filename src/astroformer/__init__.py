"""Astroformer: train an image classifier from scratch on the few labelled images you have.

>>> import astroformer
>>> model = astroformer.load("runs/mock-galaxies-1/model")
>>> model.predict("images/").names
"""

from __future__ import annotations

from importlib.metadata import version

from astroformer.classifier import Classifier, Predictions, load
from astroformer.errors import UserError
from astroformer.images.sources import LabelledImages, open_source
from astroformer.metrics import Evaluation, evaluate
from astroformer.network import Astroformer, AstroformerConfig
from astroformer.weights.timm_registry import create_model

__version__ = version("astroformer")

__all__ = [
    "Astroformer",
    "AstroformerConfig",
    "Classifier",
    "Evaluation",
    "LabelledImages",
    "Predictions",
    "Recipe",
    "UserError",
    "create_model",
    "evaluate",
    "load",
    "open_source",
    "resume",
    "train",
    "train_many",
]


def __getattr__(name: str) -> object:
    # Training brings in accelerate and the augmentation; someone who only predicts should not wait for them.
    if name in ("train", "resume", "Recipe"):
        from astroformer.training import recipe, train

        return recipe.Recipe if name == "Recipe" else getattr(train, name)
    if name == "train_many":
        from astroformer.training.many import train_many

        return train_many
    raise AttributeError(f"module 'astroformer' has no attribute '{name}'")
