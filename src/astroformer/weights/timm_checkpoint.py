"""`timm.create_model(…, checkpoint_path="runs/x/model/model.safetensors")`: weights of a model folder in timm.

timm reads a file and gives the network a mapping of tensors. That is too little: how a network is asked, what is
circular in it and which weights are tied leave no trace in names and shapes, so weights of one network would load into
another and answer otherwise. Therefore timm's reader is made to say which file the tensors are of, and where that is
part of a model folder, its config.json says what the network has to be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm.models import _helpers
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.files import read_json
from astroformer.model_config import ModelConfig
from astroformer.model_folder import ModelFolder
from astroformer.network import VARIANTS, AnswersConfig, AstroformerConfig
from astroformer.network.answers import answers_of
from astroformer.network.config import joined_words

_FREE = ("stochastic_depth", "head_dropout")  # settings of training, which decide no answer


class FromFile(dict[str, Tensor]):
    """A state dict that knows the file it was read from."""

    def __init__(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        super().__init__(tensors)
        self.file = file


def knowing_its_file(read: Callable[..., Mapping[str, Tensor]]) -> Callable[..., FromFile]:
    """timm's reader of checkpoints, with the file beside what it has read."""

    @functools.wraps(read)
    def load_state_dict(checkpoint_path: str | Path, *args: Any, **words: Any) -> FromFile:
        return FromFile(read(checkpoint_path, *args, **words), Path(checkpoint_path))

    return load_state_dict


_helpers.load_state_dict = knowing_its_file(_helpers.load_state_dict)  # the one place that all loading in timm goes by


def weights_for(network: nn.Module, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict, or in place of one that timm has read from a model folder what the folder holds, proved.

    Raises:
        UserError: the folder's network has other settings than `network`, or the folder is not whole.
    """
    if not isinstance(state_dict, FromFile) or not _in_model_folder(state_dict.file):
        return state_dict
    folder = ModelFolder(state_dict.file.parent)
    kept = folder.config()
    _check_settings(network, kept, state_dict.file)
    return folder.network(kept).state_dict()


def _in_model_folder(file: Path) -> bool:
    """Whether a file holds the weights of a model folder of ours; folders of others have a config.json too."""
    config = file.parent / "config.json"
    return file.name == "model.safetensors" and config.is_file() and "format" in read_json(config)


def _check_settings(network: Any, kept: ModelConfig, file: Path) -> None:
    if kept.members > 1:
        raise UserError(
            f"'{file}' holds an ensemble of {kept.members} networks, and timm's models are single ones; "
            f"astroformer.load('{file.parent}').network is the ensemble."
        )
    there = joined_words(kept.network, kept.answers)
    here = joined_words(network.config, answers_of(network))
    different = [word for word in there if word not in _FREE and there[word] != here[word]]
    if different:
        listed = ", ".join(f"{word} is {there[word]!r} there and {here[word]!r} here" for word in different)
        name = kept.record.name if kept.record.name in VARIANTS else network.pretrained_cfg["architecture"]
        words = "".join(f", {word}={value!r}" for word, value in _words_of(name, kept.network, kept.answers).items())
        raise UserError(
            f"'{file}' holds the weights of another network than this one: {listed}. To build that one: "
            f"timm.create_model('{name}'{words}, checkpoint_path='{file}')"
        )


def _words_of(name: str, config: AstroformerConfig, answers: AnswersConfig) -> dict[str, Any]:
    """The words that `timm.create_model` needs beside the variant's name."""
    usual = joined_words(VARIANTS[name], AnswersConfig())
    words = {
        word: value
        for word, value in joined_words(config, answers).items()
        if word not in _FREE and value != usual[word]
    }
    return {word: 0 if value is None else value for word, value in words.items()}  # timm drops what is None
