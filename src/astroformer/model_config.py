"""`ModelConfig`: what the `config.json` of a model folder says, typed, and the hashes of its blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Self

from astroformer.errors import UserError, unknown_name
from astroformer.images.preprocessing import Preprocessing
from astroformer.intervals import Interval
from astroformer.metrics import Evaluation
from astroformer.network import AnswersConfig, AstroformerConfig
from astroformer.network.config import split_words
from astroformer.trust.trust import Trust

FORMAT = 3
CONFIG, WEIGHTS, CARD, EXTRA = "config.json", "model.safetensors", "README.md", "extra.safetensors"
_BLOCKS = ("network", "answers", "input", "classes", "trust", "training")


@dataclass(frozen=True)
class ValidationScores:
    """What a model reached on `n` validation images: each metric with its 95 % interval."""

    n: int
    intervals: Mapping[str, Interval]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        """Those of an evaluation."""
        return cls(evaluation.n, evaluation.metrics)

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps them; `from_dict` reads them back."""
        return {"n": self.n, **{name: interval.to_dict() for name, interval in self.intervals.items()}}

    @classmethod
    def from_dict(cls, scores: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(int(scores["n"]), {name: Interval(**value) for name, value in scores.items() if name != "n"})


@dataclass(frozen=True)
class Spread:
    """A metric over `n` networks or runs: mean, and standard deviation, None of a single one."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class ModelRecord:
    """What a model was made from, and what it reached.

    Attributes:
        name: of the variant.
        parameters: number of weights, over all members.
        training: on what, how long and with which seed, in words.
        validation: which images the metrics were measured on, in words.
        metrics: on those images; None where they were not measured.
        member_metrics: of an ensemble's single members on those images, by metric.

    Examples:
        >>> ModelRecord(name="astroformer_atto", training="20 images").to_dict()
        {'name': 'astroformer_atto', 'training': '20 images'}
    """

    name: str | None = None
    parameters: int | None = None
    training: str | None = None
    validation: str | None = None
    metrics: ValidationScores | None = None
    member_metrics: Mapping[str, Spread] = field(default_factory=dict)

    def without_metrics(self) -> ModelRecord:
        """What is known of a model that answers in another way than the one that was measured."""
        return replace(self, metrics=None, member_metrics={})

    def to_dict(self) -> dict[str, Any]:
        """What is known, as JSON keeps it; `from_dict` reads it back."""
        words = vars(self) | {
            "metrics": None if self.metrics is None else self.metrics.to_dict(),
            "member_metrics": {name: vars(spread) for name, spread in self.member_metrics.items()} or None,
        }
        return {word: value for word, value in words.items() if value is not None}

    @classmethod
    def from_dict(cls, words: Mapping[str, Any]) -> ModelRecord:
        """The inverse of `to_dict`. Words that decide no answer and that this version does not know are left out."""
        parameters, metrics = words.get("parameters"), words.get("metrics")
        if isinstance(parameters, str):  # formats 1 and 2: "1,234,567"
            parameters = int(parameters.replace(",", ""))
        return cls(
            name=words.get("name"),
            parameters=parameters,
            training=words.get("training"),
            validation=words.get("validation"),
            metrics=ValidationScores.from_dict(metrics) if metrics else None,
            member_metrics={name: Spread(**spread) for name, spread in words.get("member_metrics", {}).items()},
        )


@dataclass(frozen=True)
class ModelConfig:
    """All that a model folder says beside its weights.

    Attributes:
        network: what the network is made of, each member's of an ensemble.
        answers: how it is asked.
        input: how an image becomes what the network sees.
        classes: their names, in the order of the logits.
        trust: what makes probabilities of logits; its arrays are in `extra`.
        record: what the model was made from.
        members: number of networks; more than 1 for an ensemble.
        versions: of the packages that wrote the folder; empty before it is written.
        hashes: SHA-256 by file and block, as config.json has them; empty before the folder is written.
        exports: SHA-256 of the files in exports/, by their names there.
        format: of the folder that this was read from.
    """

    network: AstroformerConfig
    answers: AnswersConfig
    input: Preprocessing
    classes: tuple[str, ...]
    trust: Trust = field(default_factory=Trust)
    record: ModelRecord = field(default_factory=ModelRecord)
    members: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if isinstance(self.members, bool) or not isinstance(self.members, int) or self.members < 1:
            raise ValueError(f"members is {self.members!r}")

    @property
    def weights_sha256(self) -> str:
        """The hash of `model.safetensors`, by which a model is known."""
        return self.hashes[WEIGHTS]

    def blocks(self) -> dict[str, Any]:
        """The blocks of config.json that hashes are taken of, as JSON values."""
        return {
            "network": {"members": self.members, **self.network.to_dict()},
            "answers": self.answers.to_dict(),
            "input": self.input.to_dict(),
            "classes": list(self.classes),
            "trust": self.trust.to_dict(),
            "training": {**self.record.to_dict(), "versions": dict(self.versions)},
        }

    @classmethod
    def from_blocks(cls, content: Mapping[str, Any]) -> ModelConfig:
        """What the content of a config.json of format 3 says.

        Raises:
            UserError: a block has a word that is unknown or impossible, or was changed since the model was written.
            KeyError, TypeError, ValueError, AttributeError: the content is damaged.
        """
        for name in content.keys() - {"format", "hashes", "exports"}:
            if name not in _BLOCKS:
                raise unknown_name("block of config.json", name, _BLOCKS)
        blocks, hashes = {name: content[name] for name in _BLOCKS}, dict(content["hashes"])
        for name in hashes.keys() - {WEIGHTS, CARD, EXTRA, *_BLOCKS}:
            raise unknown_name("hash in config.json", name, (WEIGHTS, CARD, EXTRA, *_BLOCKS))
        if not isinstance(hashes.get(WEIGHTS), str):
            raise KeyError(f"hashes.{WEIGHTS}")
        for name, block in blocks.items():
            if hashes[name] != block_hash(block):
                raise UserError(
                    f"block '{name}' of config.json is not the one that the model was written with (its SHA-256 "
                    "differs); copy the folder again."
                )
        exports = dict(content.get("exports", {}))
        for name in exports:
            if PurePath(name).name != name or name in ("", "..") or "\0" in name:
                raise ValueError(f"'{name}' is no name of a file in exports/")
        settings = dict(blocks["network"])
        return cls(
            members=settings.pop("members"),
            network=AstroformerConfig.from_dict(settings),
            answers=AnswersConfig.from_dict(blocks["answers"]),
            input=Preprocessing.from_dict(blocks["input"]),
            classes=tuple(map(str, blocks["classes"])),
            trust=Trust.from_dict(blocks["trust"]),
            record=ModelRecord.from_dict(blocks["training"]),
            versions=blocks["training"]["versions"],
            hashes=hashes,
            exports=exports,
        )

    @classmethod
    def from_first_formats(cls, content: Mapping[str, Any], written: int) -> ModelConfig:
        """The same of format 1 (one network) or 2 (an ensemble), which has a hash of its weights alone."""
        settings, answers = split_words(content["network"])
        return cls(
            network=AstroformerConfig.from_dict(settings),
            members=content.get("members", 1),
            answers=answers,
            input=Preprocessing.from_dict(content["preprocessing"]),
            classes=tuple(map(str, content["classes"])),
            record=ModelRecord.from_dict(content),
            versions=content.get("versions", {}),
            hashes={WEIGHTS: content["weights_sha256"]},
            format=written,
        )


def block_hash(block: object) -> str:
    """SHA-256 of a block of config.json: of its JSON with sorted names, without white space, in ASCII."""
    text = json.dumps(block, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
