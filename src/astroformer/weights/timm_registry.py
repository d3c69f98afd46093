"""Every variant under its name in timm: `timm.create_model("astroformer_1", img_size=64)`.

Importing this module registers them; `import astroformer.timm` does that. timm's own words are understood too:
`drop_rate`, `drop_path_rate`, `global_pool`, `device` and `dtype`, `features_only` with `out_indices` and
`feature_cls`, `pretrained_cfg` and `pretrained_cfg_overlay`. What becomes of `checkpoint_path` is
`timm_checkpoint.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from astroformer.errors import UserError, unknown_name
from astroformer.network import VARIANTS, Answers, AnswersConfig, Astroformer, AstroformerConfig
from astroformer.network.config import check_settings, split_words
from astroformer.weights.timm_network import TimmAnswers, TimmAstroformer, TimmMaps

_TIMM_WORDS = {"drop_rate": "head_dropout", "drop_path_rate": "stochastic_depth"}
_MAPS = {"getter": TimmMaps, "hook": "hook", "fx": "fx"}  # timm's others take apart networks that are rows of modules


class UnknownWord(UserError, TypeError):
    """A word that no network knows. timm's models raise a TypeError then, as every function of Python does."""


def create_model(name: str, *, pretrained: bool = False, **settings: Any) -> Astroformer | Answers:
    """A variant with some of its settings changed: the network that `timm.create_model` builds with the same words.

    Args:
        name: one of `astroformer.network.VARIANTS`.
        pretrained: refused, because no weights are published yet.
        settings: fields of `AstroformerConfig`, and `symmetry`, `views` and `equivariance="frame"` of `AnswersConfig`.
            `img_size` may be a number or a pair. `head_hidden=0` means no hidden layer. Of timm's words, `drop_rate`
            and `drop_path_rate` stand for `head_dropout` and `stochastic_depth`; `global_pool=""` gives logits at each
            place of the map; `device` and `dtype` are those of the weights.

    Returns:
        an `Astroformer`, or `Answers` around one if the settings say that it is asked in another way than about the
        image alone.

    Raises:
        UserError: the name or a word is unknown, a value is impossible, or `pretrained` is asked for.

    Examples:
        >>> import torch
        >>> network = create_model("astroformer_atto", num_classes=5, img_size=32)
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """
    if pretrained:
        raise UserError(
            f"pretrained=True: no weights of {name} are published yet; leave it out and train from scratch, "
            "or load a checkpoint of the released code with astroformer.weights.from_released."
        )
    return _created(name, settings, {})


def _created(name: str, settings: dict[str, Any], for_timm: dict[str, Any]) -> Any:
    """What timm's own builder makes of a variant: the network, or its maps where `for_timm` asks for these."""
    if name not in VARIANTS:
        raise unknown_name("network", name, VARIANTS)
    for timm_word, word in _TIMM_WORDS.items():
        if timm_word in settings:
            if word in settings:
                raise UserError(f"{timm_word} and {word} name the same setting: give one of the two.")
            settings[word] = settings.pop(timm_word)
    how = {word: settings.pop(word) for word in ("global_pool", "device", "dtype") if word in settings}
    words, answers = split_words(settings)
    try:
        check_settings(words)
    except UserError as error:
        raise UnknownWord(error) from None
    config = dataclasses.replace(VARIANTS[name], **words)
    maps = for_timm.get("feature_cls", TimmMaps)
    if maps is not TimmMaps and answers.symmetry != "shift":
        raise UserError(
            f"feature_cls {maps!r} would give the maps of every view of symmetry '{answers.symmetry}'; leave "
            "feature_cls out, which gives those of the image itself."
        )
    for_timm.setdefault("pretrained_cfg", _data_config(config, "" if answers.changes_nothing else "network."))
    return build_model_with_cfg(
        _built,
        name,
        False,
        feature_cfg={"feature_cls": TimmMaps},
        kwargs_filter=("num_classes", "in_chans"),  # which timm adds, and the config has
        config=config,
        answers=answers,
        **how,
        **for_timm,
    )


def _built(
    config: AstroformerConfig,
    answers: AnswersConfig,
    global_pool: str = "avg",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TimmAstroformer | TimmAnswers:
    with contextlib.nullcontext() if device is None else torch.device(device):
        network = TimmAstroformer(config)
        whole = network if answers.changes_nothing else TimmAnswers(network, answers)
    if global_pool != "avg":
        whole.reset_classifier(config.num_classes, global_pool)
    return whole if dtype is None else whole.to(dtype)


def _data_config(config: AstroformerConfig, within: str = "") -> dict[str, Any]:
    """What timm wants to know of a model's input and layers, whose names begin with `within`."""
    colour = config.in_chans == 3
    return {
        "num_classes": config.num_classes,
        "input_size": (config.in_chans, *config.img_size),
        "min_input_size": (config.in_chans, config.min_size, config.min_size),
        "pool_size": config.map_sizes()[-1],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": IMAGENET_DEFAULT_MEAN if colour else (0.5,) * config.in_chans,
        "std": IMAGENET_DEFAULT_STD if colour else (0.5,) * config.in_chans,
        "first_conv": f"{within}stem.conv1",
        "classifier": f"{within}head.classifier",
        "license": "apache-2.0",
        "paper_name": "Astroformer: More Data Might not Be All You Need for Classification",
        "paper_ids": "arXiv:2304.05350",
    }


def _entrypoint(name: str) -> Callable[..., Any]:
    """The function that timm calls to build the variant `name`."""

    def build(
        pretrained: bool = False,
        pretrained_cfg: object = None,
        pretrained_cfg_overlay: object = None,
        cache_dir: object = None,  # of weights to download; there are none
        features_only: bool = False,
        **settings: Any,
    ) -> Any:
        if pretrained:
            return create_model(name, pretrained=True)
        given = {"pretrained_cfg": pretrained_cfg, "pretrained_cfg_overlay": pretrained_cfg_overlay}
        for_timm: dict[str, Any] = {word: value for word, value in given.items() if value}
        if features_only:
            for_timm["features_only"] = True
            for_timm |= {word: settings.pop(word) for word in ("out_indices", "feature_cls") if word in settings}
            maps = for_timm.get("feature_cls")
            if isinstance(maps, str):
                if maps not in _MAPS:
                    raise unknown_name("feature_cls", maps, _MAPS)
                for_timm["feature_cls"] = _MAPS[maps]
        return _created(name, settings, for_timm)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"The network {name} of `astroformer.network.VARIANTS`, with some of its settings changed."
    return build


default_cfgs = generate_default_cfgs({name: _data_config(config) for name, config in VARIANTS.items()})  # timm reads it

for _name in VARIANTS:
    register_model(_entrypoint(_name))

__all__ = ["create_model"]
