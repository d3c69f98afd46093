"""Astroformer: train an image classifier from scratch on the few labelled images you have.

    import astroformer

    trained = astroformer.train("galaxies/")
    model = astroformer.load(trained.model)
    model.predict("images/").names

`import astroformer.timm` makes the networks known to timm.
"""

from __future__ import annotations

import importlib

from astroformer.errors import UserError

TYPE_CHECKING = False  # typing is the longest import of all that a command needs before Ctrl-C can end it quietly
if TYPE_CHECKING:
    from importlib.metadata import version

    from astroformer.classifier import Classifier, load
    from astroformer.estimator import AstroformerClassifier as AstroformerClassifier
    from astroformer.evaluation.judge import judge
    from astroformer.images.labelled import LabelledImages
    from astroformer.images.sources import open_source
    from astroformer.metrics import Evaluation, score
    from astroformer.network import Astroformer, AstroformerConfig
    from astroformer.predictions import Predictions
    from astroformer.training.distil import distil
    from astroformer.training.ensemble import train_ensemble
    from astroformer.training.folds import train_folds
    from astroformer.training.recipe import Recipe
    from astroformer.training.report import report
    from astroformer.training.show import show
    from astroformer.training.single import train_network
    from astroformer.training.study import train_many
    from astroformer.training.train import resume, train
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
    "distil",
    "judge",
    "load",
    "open_source",
    "report",
    "resume",
    "score",
    "show",
    "train",
    "train_ensemble",
    "train_folds",
    "train_many",
    "train_network",
]

# A public name that needs an extra is not in __all__, so that `from astroformer import *` needs none.
# Where each name lies. It is imported when it is asked for: torch takes two seconds and timm as many again, and
# `astroformer --version` or a mistyped word should be answered at once.
_PLACES = {
    "Astroformer": "network",
    "AstroformerClassifier": "estimator",
    "AstroformerConfig": "network",
    "Classifier": "classifier",
    "Evaluation": "metrics",
    "LabelledImages": "images.labelled",
    "Predictions": "predictions",
    "Recipe": "training.recipe",
    "create_model": "weights.timm_registry",
    "distil": "training.distil",
    "judge": "evaluation.judge",
    "load": "classifier",
    "open_source": "images.sources",
    "report": "training.report",
    "resume": "training.train",
    "score": "metrics",
    "show": "training.show",
    "train": "training.train",
    "train_ensemble": "training.ensemble",
    "train_folds": "training.folds",
    "train_many": "training.study",
    "train_network": "training.single",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("astroformer")
    if name == "evaluate":
        raise AttributeError(
            "astroformer.evaluate is called astroformer.score(labels, probabilities, classes) now; a model measures "
            "itself with model.evaluate(images)."
        )
    if name not in _PLACES:
        raise AttributeError(f"module 'astroformer' has no attribute '{name}'")
    import warnings

    # A package that ours need warns in notebooks that its own progress bars lack a widget. We show none of them.
    warnings.filterwarnings("ignore", "IProgress not found")
    return getattr(importlib.import_module(f"astroformer.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
