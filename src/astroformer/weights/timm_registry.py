"""Every variant under its name in timm: `timm.create_model("astroformer_1", img_size=64)`.

Importing this module registers them; `import astroformer.timm` does that. timm's own words `drop_rate`,
`drop_path_rate` and `global_pool` are understood too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from astroformer.errors import UserError, unknown_name
from astroformer.network import VARIANTS, Answers, Astroformer, AstroformerConfig, create_answers

_TIMM_WORDS = {"drop_rate": "head_dropout", "drop_path_rate": "stochastic_depth"}


def create_model(name: str, *, pretrained: bool = False, **settings: Any) -> Astroformer | Answers:
    """A variant with some of its settings changed; the same as `timm.create_model` with the same words.

    Args:
        name: one of `astroformer.network.VARIANTS`.
        pretrained: refused, because no weights are published yet.
        settings: fields of `AstroformerConfig`, and `symmetry`, `views` and `equivariance="frame"` of `AnswersConfig`.
            `drop_rate` and `drop_path_rate` stand for `head_dropout` and `stochastic_depth`. `img_size` may be a number
            or a pair. `head_hidden=0` means no hidden layer.

    Returns:
        an `Astroformer`, or `Answers` around one if the settings say that it is asked in another way than about the
        image alone.

    Raises:
        UserError: the name or a word is unknown, a value is impossible, or `pretrained` is asked for.

    Example:
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
    for timm_word, word in _TIMM_WORDS.items():
        if timm_word in settings:
            if word in settings:
                raise UserError(f"{timm_word} and {word} name the same setting: give one of the two.")
            settings[word] = settings.pop(timm_word)
    global_pool = settings.pop("global_pool", "avg")
    if global_pool != "avg":
        raise unknown_name("global_pool", global_pool, ["avg"])
    network = create_answers(name, **settings)
    within = "network." if isinstance(network, Answers) else ""
    # timm.data.resolve_model_data_config reads the first; the second is its older name.
    for attribute in ("pretrained_cfg", "default_cfg"):
        setattr(network, attribute, {"architecture": name, **_data_config(network.config, within)})
    return network


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
        "paper_name": "Astroformer: More Data Might Not be All You Need for Classification",
        "paper_ids": "arXiv:2304.05350",
    }


def _entrypoint(name: str) -> Callable[..., Astroformer | Answers]:
    """The function that timm calls to build the variant `name`."""

    def build(
        pretrained: bool = False,
        pretrained_cfg: object = None,  # these three say where pretrained weights are; there are none
        pretrained_cfg_overlay: object = None,
        cache_dir: object = None,
        **settings: Any,
    ) -> Astroformer | Answers:
        return create_model(name, pretrained=pretrained, **settings)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"The network {name} of `astroformer.network.VARIANTS`, with some of its settings changed."
    return build


default_cfgs = generate_default_cfgs({name: _data_config(config) for name, config in VARIANTS.items()})  # timm reads it

for _name in VARIANTS:
    register_model(_entrypoint(_name))

__all__ = ["create_model"]
