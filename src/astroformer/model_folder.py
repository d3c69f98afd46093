"""`ModelFolder`: a trained model on the disk.

```
MODEL/
  model.safetensors   the weights
  config.json         format, network, answers, input, classes, trust, training, hashes, exports
  README.md           the model card
  extra.safetensors   arrays that are no weights: `seen`, the digests of the images that were trained on, and what
                      `Trust` keeps of the images that were held out; optional
  exports/            graphs that `astroformer export` made of the model; optional
```

`hashes` in config.json holds the SHA-256 of each file and of each other block (`block_hash`), and `exports` that of
each file in exports/, so nothing that decides an answer changes unnoticed. Formats 1 and 2, of versions before 0.2,
have a hash of the weights alone; whoever loads one is told so. A later version adds words to a block, and this one
refuses words that it does not know.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from astroformer import ownership
from astroformer.errors import UserError
from astroformer.files import (
    check_is_path,
    check_model_is_folder,
    check_readable,
    read_json,
    replacing,
    sha256_of,
    write_json,
)
from astroformer.model_card import model_card
from astroformer.model_config import CARD, CONFIG, EXTRA, FORMAT, WEIGHTS, ModelConfig, block_hash
from astroformer.network import Answers, AnswersConfig, Astroformer, AstroformerConfig, Ensemble
from astroformer.network.counting import WithoutValues
from astroformer.system import versions

KeptNetwork = Astroformer | Answers | Ensemble


class ModelFolder:
    """The model folder at a path; what lies in it stands at the top of this file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.exports = self.path / "exports"

    @classmethod
    def find(cls, path: str | Path) -> ModelFolder:
        """The model folder at `path`, or in the run folder at `path`."""
        check_is_path(path, "a model folder")
        within = Path(path) / "model"
        return cls(within if not (Path(path) / CONFIG).is_file() and (within / CONFIG).is_file() else path)

    def config(self) -> ModelConfig:
        """What config.json says. No network is built, and no file but this one is read.

        Raises:
            UserError: this is no model folder, it was made by a newer version, or config.json is damaged or changed.
        """
        self._check_files()
        file = self.path / CONFIG
        content = read_json(file)
        try:
            written = content["format"]
            if isinstance(written, bool) or not isinstance(written, int) or written < 1:
                raise ValueError(f"its format is {written!r}")
            if written > FORMAT:
                of = content.get("versions") or content.get("training", {}).get("versions", {})
                raise UserError(
                    f"model folder '{self.path}' has format {written} (made by astroformer "
                    f"{of.get('astroformer', 'a newer version')}), and this version reads up to {FORMAT}; upgrade it: "
                    "`git pull` in your clone, then `pip install .`."
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
        weights = self.path / WEIGHTS
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
        file = self.path / EXTRA
        return load_file(file) if EXTRA in config.hashes else {}

    def write(self, network: KeptNetwork, config: ModelConfig, *, extra: Mapping[str, Tensor] | None = None) -> None:
        """Writes the folder. config.json is written last, since its presence says that the folder is whole.

        Args:
            config: its versions and hashes are those of now, whatever they are.
            extra: arrays that are no weights, for `extra.safetensors`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._remove_exports()
        _write_tensors(self.path / WEIGHTS, kept_tensors(network))
        if extra is None:
            (self.path / EXTRA).unlink(missing_ok=True)  # of a model that lay here before
        else:
            _write_tensors(self.path / EXTRA, extra)
        config = replace(config, versions=versions())
        with replacing(self.path / CARD) as part:
            part.write_text(model_card(config), encoding="utf-8")
        files = [WEIGHTS, CARD] + [EXTRA] * (extra is not None)
        blocks = config.blocks()
        hashes = {name: sha256_of(self.path / name) for name in files}
        hashes |= {name: block_hash(block) for name, block in blocks.items()}
        write_json(self.path / CONFIG, {"format": FORMAT, **blocks, "hashes": hashes})

    def exported(self, config: ModelConfig, name: str) -> Path:
        """A file of exports/ that config.json names, proved to be that one.

        Raises:
            UserError: it is missing, or another one.
        """
        file = self.exports / name
        if not file.is_file():
            raise UserError(
                f"model folder '{self.path}' lacks exports/{name}, which config.json names; export it again."
            )
        if sha256_of(file) != config.exports[name]:
            raise UserError(
                f"'{file}' is not the one that config.json names (its SHA-256 differs); export it again with "
                "--overwrite."
            )
        return file

    def check_keeps_exports(self) -> None:
        """Raises a `UserError` unless the folder is of a format that has exports."""
        config = self.config()
        if config.format < 3:
            raise UserError(
                f"model folder '{self.path}' has format {config.format}, which keeps no exports; save the model again, "
                "or name a file with --out."
            )

    def keep_exports(self, files: Iterable[Path], *, of: ModelConfig) -> None:
        """Moves files, which lie on the same disk, to exports/, and records their hashes. Those of the same names are
        replaced.

        Args:
            of: the config of the model that they were made of.

        Raises:
            UserError: another model lies here by now, another process writes its config, or as `check_keeps_exports`.
        """
        self.check_keeps_exports()
        file, files = self.path / CONFIG, list(files)
        hashes = {part.name: sha256_of(part) for part in files}
        with ownership.owned(file):
            content = read_json(file)
            if content["hashes"] != of.hashes:
                raise UserError(f"'{self.path}' holds another model by now, so it keeps no graph of the one before.")
            kept = {name: value for name, value in content.get("exports", {}).items() if name not in hashes}
            # At no time config.json names a file that is another one.
            write_json(file, {**content, "exports": kept})
            for part in files:
                os.replace(part, self.exports / part.name)
            write_json(file, {**content, "exports": dict(sorted({**kept, **hashes}.items()))})

    def _remove_exports(self) -> None:
        """Removes the exports of a model that lay here before."""
        if not (self.path / CONFIG).is_file():
            return
        with contextlib.suppress(UserError):  # a folder that can't be read is written anew
            for name in self.config().exports:
                (self.exports / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # none there, or files of somebody else
            self.exports.rmdir()

    def _check_files(self) -> None:
        check_model_is_folder(self.path)
        for name in (CONFIG, WEIGHTS):
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
        if sha256_of(self.path / WEIGHTS) != config.weights_sha256:
            raise UserError(
                f"weight file '{self.path / WEIGHTS}' is not the one that config.json names (its SHA-256 differs)."
            )
        if config.format < 3:
            return
        for name in (CARD, EXTRA):
            file, expected = self.path / name, config.hashes.get(name)
            if expected is None:
                if file.exists():
                    raise UserError(f"config.json of '{self.path}' names no {name}, and the folder has one; remove it.")
            elif not file.is_file():
                raise UserError(f"model folder '{self.path}' lacks {name}, which config.json names; copy it again.")
            elif sha256_of(file) != expected:
                raise UserError(f"'{file}' is not the one that config.json names (its SHA-256 differs); copy it again.")


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
