"""Our defaults before they went by the number of images and the length of a run."""

from __future__ import annotations

from typing import Any

# Studies that compare ways of one training, and have rows made so, keep them. (A model that is named keeps its own
# layout.)
FIRST_DEFAULTS: dict[str, Any] = {
    "model": "astroformer_atto",
    "batch_size": 64,
    "learning_rate": 4e-3,
    "weight_decay": 0.05,
}
FIRST_WORDS = [word for k, v in FIRST_DEFAULTS.items() for word in (f"--{k.replace('_', '-')}", str(v))]
FIRST_WORDS += ["--network.symmetry", "shift"]  # answers of the image alone
