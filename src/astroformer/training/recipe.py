"""`Recipe`: every setting of a training run, as one model that YAML, the command line and Python share.

What a recipe leaves open (`null`, or `auto`) is decided by the rules of `training/defaults.py` when the data are known.
The run folder keeps the decided recipe, so that the run can be repeated exactly.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from astroformer.augmentation.settings import PRESETS, Augment
from astroformer.errors import UserError, brief, unknown_name
from astroformer.network import VARIANTS, AnswersConfig
from astroformer.network.config import MOST, split_words
from astroformer.other_names import instead
from astroformer.training.defaults import FIRST_SHARE, FIRST_SIDE, LEAST_SIDE, RULES, help_of
from astroformer.training.recipe_file import read_settings

MOST_RUNS = 1000  # of one study
_MILLION = 1_000_000  # more than any of these settings was ever meant to be; what is beyond is a slip


class NetworkSettings(BaseModel):
    """Settings of the network that differ from those of its variant.

    `null` keeps the variant's own or, where a rule decides the setting, what the rule says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    layout: str | None = Field(
        None,
        description=help_of("vertical layout: four of C (convolution) and T (Transformer)", "layout", word="not given"),
    )
    widths: tuple[int, int, int, int] | None = Field(None, description="channels of the stages S1 to S4")
    depths: tuple[int, int, int, int] | None = Field(None, description="number of blocks of the stages S1 to S4")
    strides: tuple[int, int, int, int, int] | None = Field(
        None,
        description=help_of(
            "1 or 2 for the stem and the four stages: finer maps take longer and see small images better",
            "strides",
            word="not given",
        ),
    )
    channel_attention: Literal["se", "cbam", "none"] | None = Field(
        None, description=help_of("in the convolution blocks", "layout", word="not given")
    )
    transformer: Literal["paper", "hybrid"] | None = Field(
        None,
        description=help_of(
            "Transformer stages: blocks of attention and an MLP (paper), or convolution blocks and attention after the "
            "last of them (hybrid)",
            "layout",
            word="not given",
        ),
    )
    head_width: int | None = Field(
        None, ge=1, description=help_of("channels of an attention head", "layout", word="not given")
    )
    relative_bias: bool | None = Field(None, description="position bias in the Transformer blocks")
    group: Literal["none", "mirror", "d4"] | None = Field(
        None,
        description=help_of(
            "flips and turns that the maps follow, by weights that are tied to each other",
            "tied weights",
            word="not given",
        ),
    )
    equivariance: Literal["none", "frame", "centre", "anchor", "input"] | None = Field(
        None,
        description="to circular shifts, exactly: by moving the image to where its frame was (frame), or what is "
        "brightest to the middle (centre), or by chosen phases before every stride (anchor); input: no longer trained",
    )
    symmetry: Literal["shift", "shift+mirror", "shift+d4"] | None = Field(
        None,
        description=help_of(
            "of answers: averaged over turned and mirrored views (shift+d4), over the image and its mirror image "
            "(shift+mirror), of the image alone (shift)",
            "answers",
        ),
    )
    views: Literal[1, 2, 4, 8] | None = Field(
        None, description="turned and mirrored views that shift+d4 averages, each at the cost of one; 4 if not given"
    )
    stochastic_depth: float = Field(0.05, ge=0, lt=1, description="rate of dropping the deepest block")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the last linear layer")

    def changes(self) -> dict[str, Any]:
        """How the network that is trained differs from its variant, as keywords of `create_network`.

        How the trained network is asked is not among them; see `answers`.
        """
        return split_words(self._given())[0]

    def answers(self) -> AnswersConfig:
        """How the trained network is asked; what is left open means the image alone, and 4 views for `shift+d4`."""
        return split_words(self._given())[1]

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Recipe(BaseModel):
    """All that a run needs beside its images.

    Settings that are left open are decided by rules, which see the training images and the device alone
    (docs/defaults.md). A recipe can't be changed; `model_copy(update=...)` makes another one.

    Raises:
        UserError: a setting is unknown, of a wrong type or impossible, or does not go with another.

    Examples:
        >>> from astroformer import Recipe
        >>> recipe = Recipe(epochs=20, augment="photo")
        >>> recipe.epochs, recipe.minutes, recipe.augment.flip_vertical
        (20, None, 0.0)
        >>> print(recipe.to_yaml().splitlines()[0])
        model: auto
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # a type checker knows the fields as keywords

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise UserError(explain(error)) from None

    # network
    model: str = Field("auto", description=help_of("variant, astroformer_atto … astroformer_5", "model", word="auto"))
    network: NetworkSettings = Field(NetworkSettings(), description="changes to the variant")

    # images
    image_size: int | tuple[int, int] | None = Field(
        None, description=help_of("height and width in px of what the network sees", "image size")
    )
    crop: float | None = Field(None, gt=0, le=1, description=help_of("central share of each side that is kept", "crop"))
    fit: Literal["crop", "pad", "stretch"] = Field("crop", description="how an image of another shape is made to fit")
    channels: int | None = Field(None, ge=1, le=MOST["in_chans"], description=help_of("1 grey, 3 RGB", "channels"))
    pixels: Literal["uint8", "uint16", "float"] | None = Field(
        None, description=help_of("type of the images' pixels", "pixels")
    )
    white: float | None = Field(
        None,
        gt=0,
        description="of uint16 images, the value that is white, such as 4095 for 12 bits: then a model takes images of "
        "another type too",
    )
    missing: Literal["refuse", "median", "zero"] | None = Field(
        None,
        description=help_of(
            "pixels without a value (NaN): filled with the median of their band, with 0, or left out with their image",
            "missing pixels",
            word="not given",
        ),
    )
    scaling: Literal["none", "linear", "log", "asinh", "asinh-sky", "zscale", "percentile"] | None = Field(
        None,
        description=help_of(
            "how values are stretched; asinh is linear in noise, then logarithmic; asinh-sky subtracts each sky before",
            "scaling",
            word="not given",
        ),
    )
    storage: Literal["uint8", "float16", "float32"] | None = Field(
        None, description=help_of("how decoded images are kept; float32 keeps all digits", "storage", word="not given")
    )
    valid_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of each class that is held out when --valid is not given"
    )
    split_seed: int | None = Field(
        None, ge=0, lt=2**31, description="seed of what a source draws and of which images are held out; none: seed"
    )
    folds: int | None = Field(
        None, ge=2, le=MOST_RUNS, description="cross-validation: split into so many folds, hold one of them out"
    )
    fold: int = Field(0, ge=0, lt=MOST_RUNS, description="which of the folds is held out, from 0")

    # length
    epochs: int | None = Field(None, ge=1, le=_MILLION, description="passes over the images; none: by the clock")
    minutes: float | None = Field(None, gt=0, le=_MILLION, description=help_of("length by the clock", "length"))

    # optimisation
    optimizer: Literal["adamw", "sgd", "muon"] = Field("adamw", description="what turns gradients into updates")
    learning_rate: float | None = Field(None, gt=0, description=help_of("peak", "learning rate"))
    weight_decay: float | None = Field(
        None,
        ge=0,
        description=help_of("of all weights but norms, biases and position-bias tables", "weight decay"),
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and muon")
    batch_size: int | None = Field(
        None,
        ge=1,
        le=_MILLION,
        description=help_of("images a step, over all processes and parts", "batch size")
        + "; auto: as many as the recipe says, accumulate: none",
    )
    accumulate: int | None = Field(
        None, ge=1, le=_MILLION, description=help_of("parts that a batch is computed in", "parts of a batch")
    )
    checkpointing: bool = Field(
        False, description="keep no activations within a block but compute them again: less memory, more time"
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the run with rising learning rate")
    final_learning_rate: float = Field(0.001, ge=0, le=1, description="share of the peak that the cosine ends at")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; none: no clipping")
    progressive: float = Field(
        FIRST_SHARE,
        ge=0,
        le=1,
        description=f"first share of the run, on images of {100 * FIRST_SIDE:g} % of each side if that leaves "
        f"{LEAST_SIDE} px: more epochs in the same time",
    )
    label_smoothing: float | None = Field(
        None, ge=0, lt=1, description=help_of("share of each target spread evenly over the classes", "label smoothing")
    )
    ema: float = Field(
        0.02, ge=0, lt=1, description="memory of the averaged weights as a share of the run; 0: the raw weights"
    )
    class_weights: Literal["none", "auto"] | dict[str, float] = Field(
        "none", description="of the loss: none, auto (inverse frequency), or a weight by class name"
    )
    balanced_sampling: bool = Field(False, description="draw every class equally often (no class_weights with it)")

    # images on the way to the network
    augment: Augment = Field(
        PRESETS["sky"], description="random changes to training images (--recipe photo: those for photographs)"
    )

    # running
    seed: int = Field(0, ge=0, lt=2**31, description="of all that is random: split, first weights, augmentation")
    precision: Literal["auto", "no", "bf16", "fp16"] = Field("auto", description=f"auto: {RULES['precision'].short}")
    speed: Literal["auto", "plain", "fused", "graph", "compiled"] = Field(
        "auto",
        description="how a training step is computed: plain torch, fused (kernels for the CPU), graph (recorded as a "
        f"CUDA graph) or compiled (torch.compile: minutes before the first step); auto: {RULES['speed'].short}",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description=f"auto: {RULES['device'].short}")
    evaluations: int = Field(
        20, ge=1, le=_MILLION, description="validations a run, evenly spread; at most one an epoch"
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="at least so much time between two checkpoints")
    track: Literal["none", "tensorboard"] = Field(
        "none", description="where to show the history too; needs the extra [track]"
    )

    @property
    def images_seed(self) -> int:
        """Seed of what a source draws and of the split; runs that share it train on the same images."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def batch(self) -> int:
        """`batch_size` of a decided recipe."""
        assert self.batch_size is not None, "the recipe is not decided"
        return self.batch_size

    @property
    def sides(self) -> tuple[int, int]:
        """`image_size` of a decided recipe, height and width in px."""
        assert self.image_size is not None, "the recipe is not decided"
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def parts(self) -> int:
        """In how many parts a process computes its share of a batch."""
        return self.accumulate or 1

    @model_validator(mode="before")
    @classmethod
    def _batch_size_auto(cls, settings: Any) -> Any:
        """Takes `batch_size: auto`, which keeps the size and leaves the parts to the memory."""
        if isinstance(settings, dict) and settings.get("batch_size") == "auto":
            if settings.get("accumulate") is not None:
                raise UserError(f"batch_size auto chooses accumulate; leave out accumulate: {settings['accumulate']}.")
            settings = {k: v for k, v in settings.items() if k != "batch_size"}
        return settings

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        if name != "auto" and name not in VARIANTS:
            raise unknown_name("model", name, ["auto", *VARIANTS])
        return name

    @field_validator("augment", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        """Takes `augment: photo` for the preset, and `augment: {preset: photo, rotation: 5}` for changes to it."""
        if isinstance(value, str):
            value = {"preset": value}
        if isinstance(value, dict) and "preset" in value:
            rest = {k: v for k, v in value.items() if k != "preset"}
            if value["preset"] not in PRESETS:
                raise unknown_name("augmentation preset", value["preset"], PRESETS)
            return {**PRESETS[value["preset"]].asked_for(rest).model_dump(), **rest}
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.epochs is not None and self.minutes is not None:
            raise UserError(f"epochs ({self.epochs}) and minutes ({self.minutes:g}) exclude each other; give one.")
        if self.fold >= (self.folds or 1):
            raise UserError(f"fold is {self.fold}; with folds {self.folds} it may be 0 to {(self.folds or 1) - 1}.")
        if self.balanced_sampling and self.class_weights != "none":
            raise UserError("balanced_sampling and class_weights both even out the classes; choose one of them.")
        size = self.image_size
        sides: tuple[int, ...] = (size,) if isinstance(size, int) else size or ()
        if any(side < LEAST_SIDE for side in sides):
            raise UserError(f"image_size {self.image_size} is too small; each side needs at least {LEAST_SIDE} px.")
        if any(side > MOST["img_size"] for side in sides):
            raise UserError(f"image_size {self.image_size} is too large; each side has at most {MOST['img_size']} px.")
        if self.augment.quarter_turns and len(set(sides)) > 1:
            raise UserError(
                f"image_size {sides[0]} × {sides[1]} is not square, and augment.quarter_turns needs square images; set "
                "it to false or choose one side."
            )
        if isinstance(self.class_weights, dict) and any(not 0 <= w <= _MILLION for w in self.class_weights.values()):
            raise UserError(
                f"class_weights {brief(self.class_weights)} can't be; each weight is a number of at least 0 and at "
                f"most {_MILLION:,}."
            )
        if self.batch_size is not None and self.parts > self.batch_size:
            raise UserError(f"accumulate ({self.accumulate}) can't exceed batch_size ({self.batch_size}).")
        return self

    def undecided(self) -> list[str]:
        """The settings that are still open, of those which a rule decides before a run begins."""
        needed = ("image_size", "crop", "channels", "storage", "learning_rate", "batch_size", "label_smoothing")
        found = [name for name in needed if getattr(self, name) is None]
        found += [name for name in ("model", "precision", "speed") if getattr(self, name) == "auto"]
        return found + ["the length"] * (self.epochs is None and self.minutes is None)

    def to_yaml(self) -> str:
        """The recipe as a YAML file holds it, with every setting; `load_recipe` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _described(defaults: BaseModel, prefix: str = "") -> Iterator[str]:
    """A paragraph for each setting: its name, default and description; for a part those of its settings."""
    for name, setting in type(defaults).model_fields.items():
        default = getattr(defaults, name)
        if isinstance(default, BaseModel):
            yield from _described(default, f"{name}.")
        else:
            text = f"{prefix}{name} = {default!r}: {setting.description}"
            yield textwrap.fill(text, 84, initial_indent=" " * 8, subsequent_indent=" " * 12)


if Recipe.__doc__ is not None:  # Python leaves it out with -OO
    Recipe.__doc__ = f"{Recipe.__doc__}\n    Settings, with their defaults:\n" + "\n".join(_described(Recipe())) + "\n"


# Recipes by name, for `--recipe NAME`: how they differ from the defaults, which suit cutouts of the sky.
BUILT_IN: dict[str, dict[str, Any]] = {
    "sky": {},
    "photo": {"augment": "photo"},
}


def make_recipe(settings: dict[str, Any]) -> Recipe:
    """A recipe from plain settings, as YAML holds them.

    Raises:
        UserError: a setting is unknown (with the nearest valid name), of a wrong type, or impossible.
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise UserError(explain(error)) from None


def load_recipe(name: str | Path) -> Recipe:
    """A recipe file (YAML), or one of the built-in recipes by name.

    Raises:
        UserError: there is no such file or recipe, the file is no YAML, or a setting is wrong (see `make_recipe`).
    """
    if str(name) in BUILT_IN:
        return make_recipe(BUILT_IN[str(name)])
    path = Path(name)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise UserError(f"there is no recipe file '{path}'.")
        raise unknown_name("recipe", name, BUILT_IN)
    return make_recipe(read_settings(path))


def as_recipe(given: Recipe | str | Path | None) -> Recipe:
    """What a door to training takes for a recipe: one, the name of one or the path of its file; None for the defaults.

    Raises:
        UserError: as `load_recipe`; or it is nothing of the kind.

    Examples:
        >>> as_recipe("photo").augment.flip_vertical
        0.0
    """
    if isinstance(given, str | Path):
        return load_recipe(given)
    if given is not None and not isinstance(given, Recipe):
        raise UserError(
            f"recipe can't be {brief(given)}; give a Recipe, the path of a recipe file (YAML), or a name: "
            f"{', '.join(BUILT_IN)}."
        )
    return given or Recipe()


_PARTS: dict[str, type[BaseModel]] = {"network": NetworkSettings, "augment": Augment}


def explain(error: ValidationError) -> str:
    """One sentence for the first thing wrong in a recipe, naming the setting, its value and what is allowed."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: type[BaseModel] = Recipe
        for part in where[:-1]:
            annotation = model.model_fields[part].annotation
            model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else model
        prefix = "".join(f"{part}." for part in where[:-1])
        fields = [prefix + name for name in model.model_fields]
        names = list(fields)
        if not prefix:
            names += [f"{part}.{name}" for part in ("network", "augment") for name in _PARTS[part].model_fields]
        known = {name.replace("_", "-"): name for name in names}
        if (said := instead(prefix + where[-1], known, known.__getitem__)) is not None:
            return f"there is no setting '{prefix + where[-1]}'. {said}"
        return str(unknown_name("setting", prefix + where[-1], fields, near=0.8))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return str(cause)
    # Where a setting allows several kinds of value, pydantic lists the objection of each kind, under its name.
    setting = where[:2] if where[0] in ("augment", "network") else where[:1]
    messages = [
        e["msg"].removeprefix("Value error, ")
        for e in error.errors()
        if [str(p) for p in e["loc"]][: len(setting)] == setting
    ]
    allowed = ", or ".join(dict.fromkeys(f"{message[:1].lower()}{message[1:]}" for message in messages))
    return f"setting '{'.'.join(setting)}' can't be {brief(first['input'])}: {allowed}."
