"""What a report says of its numbers in sentences: what a figure means, and what to conclude from it."""

from __future__ import annotations

import math

from astroformer.evaluation.report.facts import Facts
from astroformer.evaluation.report.selective import Selective, Sets
from astroformer.intervals import Interval
from astroformer.summaries import METRICS, metric_name, percent
from astroformer.trust.thresholds import wish_text

_TAIL = 0.025  # of a distribution on each side, beyond which a figure is no chance
_SAME = 0.01  # difference of confidence and accuracy that nobody would mind


def meanings(facts: Facts) -> str:
    """What the scores are."""
    votes = (
        " Votes cross-entropy and votes Brier score compare the probabilities with the shares of votes, calibration "
        "error against votes the confidence with the share of votes for the class that is called."
    )
    return (
        "Accuracy is the share that is called right, balanced accuracy its mean over the classes. Log loss (nats) and "
        "Brier score (0 to 2) judge the probabilities: less is better. Calibration error is how far confidence is from "
        "accuracy on average. The risk–coverage area is the share of errors among the surest images, averaged over how "
        f"many are kept: less is better.{votes if 'votes_brier' in facts.metrics else ''}"
    )


def calibration_said(facts: Facts) -> str:
    """Whether the model is as sure as it is right."""
    bins = [each for each in facts.calibration if each.images.confidence is not None]
    mean = sum(each.images.n * (each.images.confidence or 0.0) for each in bins) / facts.n
    accuracy = facts.metrics["top1"].value
    if abs(mean - accuracy) < _SAME:
        leaning = "about as sure as it is right"
    else:
        leaning = "surer than it is right" if mean > accuracy else "less sure than it is right"
    said = (
        f"On average the model is {leaning}: its mean confidence is {percent(mean)}, its accuracy {percent(accuracy)}. "
        f"The expected calibration error is {facts.said('ece')}; in bins of an equal number of images it is "
        f"{facts.said('adaptive_ece')}. Both lie above 0 by chance alone where bins hold few images."
    )
    if facts.calibration_by_votes is None:
        return said
    error = facts.said("votes_ece")
    if facts.selective.learned_votes is False:
        said += (
            " The labels are votes, and the model learned classes: its confidence says how often it meets the "
            "majority, not which share of the people would agree with it, from which it differs by "
            f"{error} on average."
        )
    else:
        said += (
            " The labels are votes. A model that learned votes says which share of the people would agree with it, and "
            "that is less than how often it meets the majority. So judge it against the votes: there the calibration "
            f"error is {error}."
        )
    return said


def change_said(facts: Facts) -> str | None:
    """What calibration did; None where the network's own probabilities are not known."""
    if facts.own is None:
        return None
    of_votes = facts.selective.learned_votes and facts.calibration_by_votes is not None
    names = ("votes_cross_entropy", "votes_ece") if of_votes else ("nll", "ece")
    found, same, raised = [], [], False
    for name in names:
        change = facts.own.changes[name]
        if change.high < 0 or change.low > 0:
            verb = "lowered" if change.high < 0 else "raised"
            found.append(f"{verb} the {metric_name(name)} by {_amount(name, change)}")
            raised |= change.low > 0
        else:
            same.append(f"the {metric_name(name)}")
    if same:
        found.append(f"changed {' and '.join(same)} by no more than chance")
    said = f"On these images calibration {' and '.join(found)}."
    return f"{said} Where it raised a score, these images are unlike those that it was fitted on." if raised else said


def change_text(value: float, metric: str, *, signed: bool = True) -> str:
    """A difference of two values of a metric: of shares in percentage points.

    Examples:
        >>> change_text(-0.0921, "ece"), change_text(0.0734, "nll", signed=False)
        ('−9.2 points', '0.073')
    """
    share = METRICS[metric].share
    text = f"{100 * abs(value):.1f}" if share else f"{abs(value):.3f}"
    sign = "−" if value < 0 else "+"
    return f"{sign if signed and float(text) else ''}{text}{' points' if share else ''}"


def _amount(name: str, change: Interval) -> str:
    low, high = sorted((abs(change.low), abs(change.high)))
    value, low_text, high_text = (change_text(each, name, signed=False) for each in (abs(change.value), low, high))
    return f"{value} (95 % interval {low_text} to {high_text})"


def holding_said(facts: Facts) -> str:
    """What is gained where the doubtful images are left out."""
    risk = facts.selective.risk
    if risk.errors in (0.0, 1.0):
        which = "All images are called right" if risk.errors == 0 else "All images are called wrong"
        return f"{which}, so leaving out the doubtful ones changes nothing."
    half = risk.at(0.5)
    gained = (risk.errors - risk.area.value) / (risk.errors - risk.best)
    if gained < 0:
        worth = "The order by confidence is no better than none: do not choose images by it."
    else:
        worth = f"Leaving out by confidence gains {percent(gained, 0)} of what the best order would gain."
    area, excess = facts.said("aurc"), risk.excess
    return (
        f"Of all images {percent(risk.errors)} are called wrong; of the surest {percent(half[0], 0)} it is "
        f"{percent(half[1].value)}. {worth} The area under the curve (AURC) is {area}: an order that says nothing "
        f"would have {risk.errors:.3f}, the best one, with all wrong images last, {risk.best:.3f}. The excess over the "
        f"best (E-AURC) is {excess.value:.3f} (95 % interval {excess.low:.3f} to {excess.high:.3f})."
    )


def measured_said(selective: Selective) -> str:
    """Of which images cuts and sets are made, as the end of a sentence; where there are none, why, as a whole one."""
    n, among = selective.calibration_images, selective.among_them
    if not n:
        return (
            "The model keeps no calibration images for the way in which it is asked, so there are no cuts and no sets. "
            "Train it with images held out, and ask it without --symmetry."
        )
    said = f"are made of the {n:,} images that were held out of the training and are kept with the model"
    if among:
        return (
            f"{said}; {among:,} of the images of this page are among them, and each of these is measured by what the "
            "others say."
        )
    return f"{said}, and measured on the images of this page."


def sets_said(selective: Selective) -> str | None:
    """Whether sets hold what they promise; None where there are none."""
    found = [(each, promise(each, selective.calibration_images)) for each in selective.sets if each.scores is not None]
    if not found:
        return None
    broken = [(each, verdict) for each, verdict in found if verdict]
    if not broken:
        return "The sets keep their promise on these images: no difference is larger than chance allows."
    words = "; ".join(f"of {wish_text(each.wish)} they hold it {verdict}" for each, verdict in broken)
    return (
        f"Sets do not hold the true class as often as promised: {words}. So these images are unlike those that were "
        "held out, or have other shares of the classes."
    )


def promise(sets: Sets, calibration_images: int) -> str:
    """ "less often" or "more often" where the coverage is off the wish by more than chance allows, else "".

    Chance is of both kinds of images: of m new ones whose sets are made of n others, the number that is held has the
    beta-binomial distribution with a = ceil((n + 1) w) and b = n + 1 − a (Angelopoulos & Bates 2023, arXiv 2107.07511,
    section 3.2), where no two scores are equal. A tail of less than 2.5 % is too small.
    """
    assert sets.scores is not None
    m = sets.alone
    hits = round(sets.scores.coverage.value * m)
    a = math.ceil((calibration_images + 1) * sets.wish - 1e-9)
    probability = beta_binomial(m, a, calibration_images + 1 - a)
    if sum(probability[: hits + 1]) < _TAIL:
        return "less often"
    return "more often" if sum(probability[hits:]) < _TAIL else ""


def beta_binomial(m: int, a: float, b: float) -> list[float]:
    """The probabilities of 0 to m hits of m, where their share has a beta distribution with a > 0; b may be 0.

    Examples:
        >>> [round(p, 3) for p in beta_binomial(2, 1, 1)]  # all shares alike
        [0.333, 0.333, 0.333]
    """
    if b <= 0:
        return [0.0] * m + [1.0]
    whole = math.lgamma(m + 1) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - math.lgamma(m + a + b)
    return [
        math.exp(whole - math.lgamma(h + 1) - math.lgamma(m - h + 1) + math.lgamma(h + a) + math.lgamma(m - h + b))
        for h in range(m + 1)
    ]
