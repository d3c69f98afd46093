"""What a network answers of the validation images, on the way and at the end of a run.

Legend: N images, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroformer.classifier import Classifier
from astroformer.images.store import ImageStore
from astroformer.metrics import balanced_accuracy, nll_N, votes_cross_entropy_N
from astroformer.trust.held_out import HeldOut
from astroformer.trust.novelty import Novelty, chosen
from astroformer.trust.trust import Trust

PREDICT_BATCH = 128  # images of a forward pass, where the memory allows it


def predict_batch(batch: int, parts: int) -> int:
    """Images a forward pass over the validation images: as many as fit where a part of a batch trains."""
    return min(PREDICT_BATCH, 2 * math.ceil(batch / parts))


def predict_store(classifier: Classifier, store: ImageStore, batch_size: int = PREDICT_BATCH) -> NDArray[Any]:
    """(N, K) probabilities of a whole store through the one predict path; images that calibrated the classifier are
    answered by what was fitted without them."""
    return classifier.trust.probabilities(store_logits(classifier, store, batch_size), store.digests)


def store_logits(classifier: Classifier, store: ImageStore, batch_size: int = PREDICT_BATCH) -> NDArray[Any]:
    """(N, K) logits of a whole store through the one predict path."""
    parts = [
        classifier.logits(store.take(np.arange(start, min(start + batch_size, len(store)))))
        for start in range(0, len(store), batch_size)
    ]
    return np.concatenate(parts)


def trust_of(classifier: Classifier, valid: ImageStore, train: ImageStore, batch_size: int) -> Trust:
    """What the validation images tell of a classifier's answers, and the training images of what is new to it."""

    def traces(store: ImageStore) -> NDArray[Any]:
        """Of some images, so that neither time nor memory grows with the set."""
        rows_N = chosen(store.labels)
        parts = np.split(rows_N, range(batch_size, len(rows_N), batch_size))
        return np.concatenate([classifier.traces(store.take(some)) for some in parts])

    logits_NK = store_logits(classifier, valid, batch_size)
    held_out = HeldOut.of(logits_NK, valid.labels, valid.digests, valid.votes_NK)
    return Trust.fitted_on(held_out, Novelty.fit(traces(train), traces(valid)))


def scores(classifier: Classifier, store: ImageStore, batch_size: int) -> dict[str, float]:
    """The scores of a row of the history."""
    probabilities_NK = predict_store(classifier, store, batch_size)
    predicted_N = probabilities_NK.argmax(1)
    measured = {
        "valid_top1": float((predicted_N == store.labels).mean()),
        "valid_balanced_accuracy": balanced_accuracy(store.labels, predicted_N, len(store.classes)),
        "valid_nll": float(nll_N(store.labels, probabilities_NK).mean()),
    }
    if store.votes_NK is not None:
        measured["valid_votes_cross_entropy"] = float(votes_cross_entropy_N(store.votes_NK, probabilities_NK).mean())
    return measured
