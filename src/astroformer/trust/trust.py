"""`Trust`: all that a model folder keeps about how far to trust its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from astroformer.errors import UserError
from astroformer.trust.calibration import Calibration
from astroformer.trust.held_out import HeldOut
from astroformer.trust.novelty import Novelty

Array = NDArray[Any]
CALIBRATIONS = ("auto", "none")  # how a model is asked
_WORDS = ("calibration", "images")


@dataclass(frozen=True)
class Trust:
    """What is known of a model's answers beside the answers.

    Attributes:
        calibration: from logits to probabilities; by default softmax, as nothing is known.
        images: how many held-out images it was chosen by, 0 where there were none.
        held_out: these images; None where only config.json was read.
        novelty: how unlike the training images an image is; None where it is not known, or only config.json was read.

    Examples:
        >>> Trust().calibration.method
        'none'
    """

    calibration: Calibration = field(default_factory=Calibration)
    images: int = 0
    held_out: HeldOut | None = field(default=None, compare=False)
    novelty: Novelty | None = field(default=None, compare=False)

    @classmethod
    def fitted_on(cls, held_out: HeldOut, novelty: Novelty | None = None) -> Trust:
        """What images that a model was not trained on tell of it, and the images that it was trained on."""
        return cls(held_out.fitted.calibration, len(held_out), held_out, novelty)

    def of_held_out(self) -> Array:
        """(N, K) probabilities of the held-out images, each by what was fitted without it."""
        assert self.held_out is not None
        return self.probabilities(self.held_out.logs_NK, self.held_out.digests_N)

    def raw(self) -> Trust:
        """The same without a calibration: the network's own probabilities."""
        return replace(self, calibration=Calibration(), images=0)

    def probabilities(self, logits_NK: Array, digests_N: Array | None = None) -> Array:
        """(N, K) float64 probabilities.

        Args:
            logits_NK: of the network.
            digests_N: the `pixel_digest` of each image, if they are known. An image that the calibration was fitted on
                is answered by what was fitted without it, so that scores on such images are honest.
        """
        if self.held_out is None or digests_N is None or self.calibration.method == "none":
            return self.calibration.apply(logits_NK)
        fold_N = self.held_out.folds_by_digest(digests_N)
        if (fold_N < 0).all():
            return self.calibration.apply(logits_NK)
        return self.held_out.crossed(self.calibration).cross_fitted(logits_NK, fold_N)

    def __str__(self) -> str:
        """How the probabilities were made, in words."""
        if not self.images:
            return "the network's own, not calibrated"
        return f"{self.calibration}, as {self.images:,} held-out images say"

    # -- keeping -----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The `trust` block of config.json; empty where nothing is known."""
        return {"calibration": self.calibration.to_dict(), "images": self.images} if self.images else {}

    def tensors(self) -> dict[str, Tensor]:
        """What `extra.safetensors` keeps of it."""
        known = (self.held_out, self.novelty)
        return {name: tensor for part in known if part is not None for name, tensor in part.tensors().items()}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> Trust:
        """What the block says; `with_tensors` adds the rest.

        Raises:
            UserError: it has a word that this version does not know.
        """
        for word in words.keys() - set(_WORDS):
            raise UserError(
                f"block 'trust' of config.json has '{word}', which this version does not know; upgrade it: "
                "`git pull` in your clone, then `pip install .`."
            )
        return cls(Calibration.from_dict(words["calibration"]), int(words["images"])) if words else cls()

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Trust:
        """The same with what `extra.safetensors` holds."""
        return replace(self, held_out=HeldOut.from_tensors(tensors), novelty=Novelty.from_tensors(tensors))
