"""`ModelFolder`: a trained model on the disk, and what its `config.json` says, typed.

```
MODEL/
  model.safetensors   the weights
  config.json         format, network, answers, input, classes, trust, training, hashes
  README.md           the model card
  extra.safetensors   arrays that are no weights: `seen`, the digests of the images that were trained on, and what
                      `Trust` keeps of the images that were held out; optional
```

`hashes` in config.json holds the SHA-256 of each file and of each other block (`block_hash`), so nothing that decides
an answer changes unnoticed. Formats 1 and 2, of versions before 0.2, have a hash of the weights alone; whoever loads
one is told so. A later version adds words to a block, and this one refuses words that it does not know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from astroformer.errors import UserError, unknown_name
from astroformer.files import (
    check_is_path,
    check_model_is_folder,
    check_readable,
    read_json,
    replacing,
    sha256_of,
    write_json,
)
from astroformer.images.preprocessing import Preprocessing
from astroformer.intervals import Interval
from astroformer.metrics import Evaluation
from astroformer.model_card import model_card
from astroformer.network import Answers, AnswersConfig, Astroformer, AstroformerConfig, Ensemble
from astroformer.network.config import split_words
from astroformer.network.counting import WithoutValues
from astroformer.system import versions
from astroformer.trust.trust import Trust

FORMAT = 3
KeptNetwork = Astroformer | Answers | Ensemble
_BLOCKS = ("network", "answers", "input", "classes", "trust", "training")
_CONFIG, _WEIGHTS, _CARD, _EXTRA = "config.json", "model.safetensors", "README.md", "extra.safetensors"


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

    Example:
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
    format: int = FORMAT

    def __post_init__(self) -> None:
        if isinstance(self.members, bool) or not isinstance(self.members, int) or self.members < 1:
            raise ValueError(f"members is {self.members!r}")

    @property
    def weights_sha256(self) -> str:
        """The hash of `model.safetensors`, by which a model is known."""
        return self.hashes[_WEIGHTS]

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
        for name in content.keys() - {"format", "hashes"}:
            if name not in _BLOCKS:
                raise unknown_name("block of config.json", name, _BLOCKS)
        blocks, hashes = {name: content[name] for name in _BLOCKS}, dict(content["hashes"])
        for name in hashes.keys() - {_WEIGHTS, _CARD, _EXTRA, *_BLOCKS}:
            raise unknown_name("hash in config.json", name, (_WEIGHTS, _CARD, _EXTRA, *_BLOCKS))
        if not isinstance(hashes.get(_WEIGHTS), str):
            raise KeyError(f"hashes.{_WEIGHTS}")
        for name, block in blocks.items():
            if hashes[name] != block_hash(block):
                raise UserError(
                    f"block '{name}' of config.json is not the one that the model was written with (its SHA-256 "
                    "differs); copy the folder again."
                )
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
            hashes={_WEIGHTS: content["weights_sha256"]},
            format=written,
        )


class ModelFolder:
    """The model folder at a path; what lies in it stands at the top of this file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def find(cls, path: str | Path) -> ModelFolder:
        """The model folder at `path`, or in the run folder at `path`."""
        check_is_path(path, "a model folder")
        within = Path(path) / "model"
        return cls(within if not (Path(path) / _CONFIG).is_file() and (within / _CONFIG).is_file() else path)

    def config(self) -> ModelConfig:
        """What config.json says. No network is built, and no file but this one is read.

        Raises:
            UserError: this is no model folder, it was made by a newer version, or config.json is damaged or changed.
        """
        self._check_files()
        file = self.path / _CONFIG
        content = read_json(file)
        try:
            written = content["format"]
            if isinstance(written, bool) or not isinstance(written, int) or written < 1:
                raise ValueError(f"its format is {written!r}")
            if written > FORMAT:
                of = content.get("versions") or content.get("training", {}).get("versions", {})
                raise UserError(
                    f"model folder '{self.path}' has format {written} (made by astroformer "
                    f"{of.get('astroformer', 'a newer version')}), and this version reads up to {FORMAT}; upgrade with "
                    "`pip install -U astroformer`."
                )
            if written < 3:
                return ModelConfig.from_first_formats(content, written)
            return ModelConfig.from_blocks(content)
        except UserError as error:
            raise UserError(str(error) if str(self.path) in str(error) else f"'{file}': {error}") from None
        except KeyError as error:
            raise UserError(f"'{file}' is damaged: it lacks {error}; copy the folder again.") from None
        except (TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
            raise UserError(f"'{file}' is damaged ({error}); copy the folder again.") from None

    def caveat(self, config: ModelConfig) -> str | None:
        """What whoever loads the folder should know: that an old format covers the weights alone."""
        if config.format >= 3:
            return None
        return (
            f"model folder '{self.path}' has format {config.format}: only its weights have a hash, so a change of its "
            "config.json would not show; save the model again to have all of it covered."
        )

    def network(self, config: ModelConfig) -> KeptNetwork:
        """The network that the folder holds, in eval mode, asked as `config.answers` says.

        Args:
            config: that of the folder; its answers may be changed.

        Raises:
            UserError: a file is missing or not the one that config.json names, or the weights do not fit the config.
        """
        weights = self.path / _WEIGHTS
        check_readable(weights)
        try:
            # Nothing as large as config.json says is made before the header of the weights has proved it.
            self._check_shapes(config, shapes_in(weights))
            self._check_hashes(config)
            state = load_file(weights)
        except (SafetensorError, OSError) as error:
            raise UserError(f"weight file '{weights}' is damaged or truncated ({error}); copy it again.") from None
        networks = [Answers.around(Astroformer(config.network), config.answers) for _ in range(config.members)]
        network = Ensemble(networks) if config.members > 1 else networks[0]
        own = kept_tensors(network)
        bad = next((name for name in own if not torch.isfinite(state[name]).all()), None)
        if bad is not None:
            raise UserError(
                f"the weights of '{self.path}' hold NaN or infinite values (the first in '{bad}'), so it would answer "
                "alike whatever the image; train the model again."
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        return network.eval()

    def extra(self, config: ModelConfig) -> dict[str, Tensor]:
        """The arrays of extra.safetensors, whose hash `network` has proved; none where there is no such file."""
        file = self.path / _EXTRA
        return load_file(file) if _EXTRA in config.hashes else {}

    def write(self, network: KeptNetwork, config: ModelConfig, *, extra: Mapping[str, Tensor] | None = None) -> None:
        """Writes the folder. config.json is written last, since its presence says that the folder is whole.

        Args:
            config: its versions and hashes are those of now, whatever they are.
            extra: arrays that are no weights, for `extra.safetensors`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        _write_tensors(self.path / _WEIGHTS, kept_tensors(network))
        if extra is None:
            (self.path / _EXTRA).unlink(missing_ok=True)  # of a model that lay here before
        else:
            _write_tensors(self.path / _EXTRA, extra)
        config = replace(config, versions=versions())
        with replacing(self.path / _CARD) as part:
            part.write_text(model_card(config), encoding="utf-8")
        files = [_WEIGHTS, _CARD] + [_EXTRA] * (extra is not None)
        blocks = config.blocks()
        hashes = {name: sha256_of(self.path / name) for name in files}
        hashes |= {name: block_hash(block) for name, block in blocks.items()}
        write_json(self.path / _CONFIG, {"format": FORMAT, **blocks, "hashes": hashes})

    def _check_files(self) -> None:
        check_model_is_folder(self.path)
        for name in (_CONFIG, _WEIGHTS):
            if not (self.path / name).is_file():
                raise UserError(f"'{self.path}' is no model folder: it has no {name}. `astroformer train` makes one.")

    def _check_shapes(self, config: ModelConfig, held: Mapping[str, tuple[int, ...]]) -> None:
        """Raises a UserError unless the weights have the names and shapes that config.json implies."""
        if config.members > 1:
            members = {name.split(".")[1] for name in held if name.startswith("members.")}
            if len(members) != config.members or members != set(map(str, range(config.members))):
                raise UserError(
                    f"in '{self.path}' config.json names {config.members} members, and the weights hold "
                    f"{len(members)} ({', '.join(sorted(members)[:20]) or 'none'}). Copy the two files together."
                )
        wrong = different_shapes(config.network, config.answers, config.members, held)
        if wrong or len(config.classes) != config.network.num_classes:
            names = f"{len(config.classes)} class names"
            what = f"{len(wrong)} tensors differ, e.g. '{min(wrong)}'" if wrong else names
            raise UserError(
                f"in '{self.path}' config.json does not fit its weights: {what}. Copy the two files together."
            )

    def _check_hashes(self, config: ModelConfig) -> None:
        """Raises a UserError unless each file is the one that config.json names."""
        if sha256_of(self.path / _WEIGHTS) != config.weights_sha256:
            raise UserError(
                f"weight file '{self.path / _WEIGHTS}' is not the one that config.json names (its SHA-256 differs)."
            )
        if config.format < 3:
            return
        for name in (_CARD, _EXTRA):
            file, expected = self.path / name, config.hashes.get(name)
            if expected is None:
                if file.exists():
                    raise UserError(f"config.json of '{self.path}' names no {name}, and the folder has one; remove it.")
            elif not file.is_file():
                raise UserError(f"model folder '{self.path}' lacks {name}, which config.json names; copy it again.")
            elif sha256_of(file) != expected:
                raise UserError(f"'{file}' is not the one that config.json names (its SHA-256 differs); copy it again.")


def block_hash(block: object) -> str:
    """SHA-256 of a block of config.json: of its JSON with sorted names, without white space, in ASCII."""
    text = json.dumps(block, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def kept_tensors(network: KeptNetwork) -> dict[str, Tensor]:
    """The tensors of a network by their names in a model folder, which are those that it has without `Answers`."""
    if isinstance(network, Ensemble):
        members = enumerate(network.networks)
        return {f"members.{k}.{name}": t for k, member in members for name, t in kept_tensors(member).items()}
    if isinstance(network, Answers):
        frame = {} if network.frame is None else network.frame.state_dict(prefix="frame.")
        return {**frame, **network.network.state_dict()}
    return network.state_dict()


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file by their names, from its header alone."""
    with safe_open(file, framework="pt") as stream:
        return {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}  # noqa: SIM118 (no mapping)


def different_shapes(
    network: AstroformerConfig, answers: AnswersConfig, members: int, held: Mapping[str, tuple[int, ...]]
) -> set[str]:
    """The names of tensors that `members` networks have and `held` lacks, or the reverse, or in another shape.

    It takes a second at most, and no memory, whatever the config says.
    """
    if members * sum(network.depths) > len(held):  # each block has some
        return {"stages"}
    with torch.device("meta"), WithoutValues():
        one = kept_tensors(Answers.around(Astroformer(network), answers))
    prefixes = [f"members.{k}." for k in range(members)] if members > 1 else [""]
    own = {prefix + name: tuple(tensor.shape) for prefix in prefixes for name, tensor in one.items()}
    return {name for name in own.keys() | held.keys() if own.get(name) != held.get(name)}


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(file) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part)
