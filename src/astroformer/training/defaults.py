"""The rules that decide what a recipe leaves open, as a table: what each decides, how, why, and who overrules it.

The decisions of a run and the sentences that it prints (`rules.py`), the help of the command line (`recipe.py`) and
`docs/defaults.md` are made from this table and from the numbers here:

    python -m astroformer.training.defaults > docs/defaults.md

Nothing here imports torch: help and mistyped words are answered without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from astroformer.augmentation.settings import PRESETS
from astroformer.network.config import VARIANTS

MINUTES = 10.0
LEAST_CROP, CROP_SHARE = 0.5, 0.9
LARGEST_SIDE = {"cpu": 64, "cuda": 128}  # px
MODELS = {"cpu": "astroformer_atto", "cuda": "astroformer_nano"}
CONVOLUTIONAL_IMAGES = 5_000  # up to so many to train on, all stages are convolutional
TIED_IMAGES = 1_000  # up to so many, weights are tied
SMALL_SIDE = 48  # px; images below it are halved later
# Seconds of training an image from which later strides pay, and these strides.
LATE_STRIDES = ((1.0, (1, 2, 2, 2, 1)), (0.5, (2, 1, 2, 2, 1)))
BATCH_SHARE, LEAST_BATCH, LARGEST_BATCH = 64, 16, 64  # a 64th of the images, within these bounds
LEARNING_RATES = {"adamw": 4e-3, "sgd": 0.05, "muon": 2e-3}  # with LARGEST_BATCH; adamw: for the width of atto
REFERENCE_WIDTH = VARIANTS["astroformer_atto"].widths[-1]
WORTHWHILE_BFLOAT16 = 1.3  # times as fast as float32 its products have to be on a CPU
SMALL_STEP_PIXELS = 2**17  # of a batch on a GPU, below which bfloat16 only adds operations
_NOTES = "experiments.md"


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: which it is known by.
        settings: names of the settings of a recipe that it decides; nested ones with dots.
        title: its heading.
        short: what help says of it, after `none:` or `auto:`.
        text: the rule in one sentence.
        why: the reason, in one or two sentences.
        overruled_by: what a user gives instead.
        said: what a run prints where the rule decides something that is worth a line; with names in braces.
        where: the part of the code that decides.
    """

    name: str
    settings: tuple[str, ...]
    title: str
    short: str
    text: str
    why: str
    overruled_by: str
    said: str = ""
    where: str = "training/rules.py"


_sky, _photo = PRESETS["sky"], PRESETS["photo"]

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "length",
            ("minutes",),
            "Length",
            f"{MINUTES:g} when epochs is not given either",
            f"A run takes {MINUTES:g} minutes.",
            "The schedule follows the clock, so a run ends when you expect it, on any machine.",
            "`--minutes` or `--epochs`",
            "{minutes:g} minutes (--minutes or --epochs to change)",
        ),
        Rule(
            "channels",
            ("channels",),
            "Channels",
            "as the images are",
            "1 channel if all images are grey, else 3, or as many as all of them have.",
            "Three equal channels cost time and say nothing.",
            "`--channels`",
        ),
        Rule(
            "storage",
            ("storage",),
            "Storage",
            "uint8 when all are 8-bit, else float16",
            "Decoded images are kept as uint8 if all files have 8 bits, else as float16.",
            "Eight bits lose nothing of eight-bit files; of others they would lose what is faint.",
            "`--storage`",
        ),
        Rule(
            "crop",
            ("crop",),
            "Crop",
            "measured on the training images",
            f"The central share of each side, at least {LEAST_CROP:g}, in which a square that holds "
            f"{CROP_SHARE:.0%} of "
            "what differs between the training images can turn.",
            "Cutouts get closer to their source and leave empty sky out; photographs stay whole.",
            "`--crop 1` keeps all",
            "the images vary in the central {crop:.0%} of each side: cropped to it (--crop 1 to keep all)",
        ),
        Rule(
            "model",
            ("model",),
            "Network",
            "by device and data",
            f"`{MODELS['cpu']}` on a CPU, `{MODELS['cuda']}` on a GPU.",
            "Larger networks make fewer epochs in the same time.",
            "`--model`; a model that you name is taken as it is",
        ),
        Rule(
            "convolutions",
            ("network.layout", "network.channel_attention"),
            "Convolutions alone for few images",
            "by the number of images",
            f"Up to {CONVOLUTIONAL_IMAGES:,} images are learned by convolutions in all stages, without channel "
            "attention; "
            "more by the paper's C-C-C-T.",
            "With few images that is level with the paper's network or ahead of it "
            f"([figures]({_NOTES}#convolutions-alone-for-few-images)).",
            "`--network.layout CCCT`, or a `--model`",
            "{images:,} images: convolutions in all stages, without channel attention (--network.layout CCCT for the "
            "paper's network)",
        ),
        Rule(
            "tied weights",
            ("network.group",),
            "Weights tied for very few images",
            "by the number of images and the augmentation",
            f"Up to {TIED_IMAGES:,} images the weights are tied so that maps turn and flip with the image, under the "
            "turns and flips of the augmentation.",
            "Such a network learns from an image what others learn from all its views "
            f"([figures]({_NOTES}#weights-tied-under-flips-and-turns)).",
            "`--network.group none`",
            "weights: tied so that maps {follow} with the image (--network.group none: free)",
        ),
        Rule(
            "strides",
            ("network.strides",),
            "Small images halved late",
            "by the size of the images and the time an image",
            f"Images of less than {SMALL_SIDE} px are halved later in the network: on a GPU, and on a CPU in runs "
            "of at "
            f"least {LATE_STRIDES[-1][0]:g} s an image by the clock.",
            f"Finer maps see small images better and cost more time ([figures]({_NOTES}#small-images-halved-late)).",
            f"`--network.strides {' '.join(map(str, VARIANTS[MODELS['cpu']].strides))}`",
            "images of {side:.0f} px: halved late (--network.strides {usual} for the usual maps)",
        ),
        Rule(
            "image size",
            ("image_size",),
            "Image size",
            "by the images and the device",
            f"The side that the crop leaves, at most {LARGEST_SIDE['cpu']} px on a CPU and {LARGEST_SIDE['cuda']} "
            "px on a "
            "GPU, in steps of 8; 57 and 121 px where tied weights are exact there.",
            "Larger images cost more time than they gain where the data are few.",
            "`--image-size`",
        ),
        Rule(
            "answers",
            ("network.symmetry",),
            "Answers averaged over views",
            "by the turns and flips of the augmentation",
            "Where tied weights do not make them alike, answers are averaged over four turned and mirrored views "
            "(sky), "
            "or over the image and its mirror image (photographs).",
            "The augmentation takes the views for the same image "
            f"([figures]({_NOTES}#answers-averaged-over-views)); an "
            "answer takes as many times as long.",
            "`--network.symmetry shift` in training, `--symmetry shift` when a model is asked",
            "answers: {how} (--network.symmetry shift for the image alone)",
        ),
        Rule(
            "batch size",
            ("batch_size",),
            "Batch size",
            f"by the number of images, {LEAST_BATCH} to {LARGEST_BATCH}",
            f"A {BATCH_SHARE}th of the images, at least {LEAST_BATCH} and at most {LARGEST_BATCH}.",
            "Few images need many small steps; more than that brings nothing on a large set.",
            "`--batch-size`",
        ),
        Rule(
            "learning rate",
            ("learning_rate",),
            "Learning rate",
            "by optimizer, width and batch size, adamw "
            f"{LEARNING_RATES['adamw'] * (LEAST_BATCH / LARGEST_BATCH) ** 0.5:.0e}".replace("e-0", "e-")
            + f" for atto and batches of {LEAST_BATCH}",
            f"AdamW {LEARNING_RATES['adamw']:g}, SGD {LEARNING_RATES['sgd']:g}, Muon {LEARNING_RATES['muon']:g} for "
            f"batches of {LARGEST_BATCH}; below as the root of the batch size, and AdamW's as 1 / width of wider "
            "networks.",
            "The root follows Malladi et al. ([arXiv 2205.10287](https://arxiv.org/abs/2205.10287)), the width Yang et "
            "al. ([arXiv 2203.03466](https://arxiv.org/abs/2203.03466)).",
            "`--learning-rate`",
        ),
        Rule(
            "step",
            ("speed", "precision"),
            "How a step is computed",
            "by the machine",
            "On a CPU with a C++ compiler by native kernels, in bfloat16 where its matrix products are at least "
            f"{WORTHWHILE_BFLOAT16:g} times as fast; on a GPU as recorded CUDA graphs, in bfloat16 but for small "
            "steps; "
            "else by plain torch, and the run says why.",
            "Native and recorded steps are the same but for rounding, and faster ([figures](performance.md)).",
            "`--speed`, `--precision`",
            "speed: {speed} training steps in {precision}{why}",
        ),
        Rule(
            "parts of a batch",
            ("accumulate",),
            "Parts of a batch",
            "as few as fit the memory, mostly 1",
            "A batch is computed in as few parts as fit the free memory, mostly one.",
            "The size of a batch stays the recipe's, whatever the machine.",
            "`--accumulate`; `--checkpointing` takes less memory and more time",
            where="training/memory.py",
        ),
        Rule(
            "weight decay",
            ("weight_decay",),
            "Weight decay",
            "by the length of the run, so that weights remember 30 % of it",
            "The weights remember 30 % of the run, and at least 400 steps.",
            "That share is what carries over from one length to another (Wang & Aitchison, "
            "[arXiv 2405.13698](https://arxiv.org/abs/2405.13698)).",
            "`--weight-decay`",
            where="training/pace.py, at every step",
        ),
        Rule(
            "policy and mixing",
            ("augment.policy_epochs", "augment.mix_epochs"),
            "Stronger augmentation in long runs",
            "by the length of the run",
            f"TrivialAugment is applied to the sky in runs of at least {_sky.policy_epochs} epochs and to "
            "photographs in "
            f"runs of at least {_photo.policy_epochs}, where half of the photographs are mixed too.",
            "Both make learning slower and overfitting rarer "
            f"([policy]({_NOTES}#trivialaugment-where-a-run-is-long-enough"
            f"), [mixing]({_NOTES}#mixing-in-long-runs-of-photographs)).",
            "`--augment.policy`, `--augment.mixup`, `--augment.cutmix`: what you ask for is applied at any length",
            where="training/batches.py, when the length is foreseen",
        ),
        Rule(
            "device",
            ("device",),
            "Device",
            "CUDA when torch finds it, else the CPU",
            "CUDA where torch finds a device, else the CPU.",
            "It is the faster one.",
            "`--device`",
            where="system.py",
        ),
    )
}
"""The rules in the order in which they decide."""


def help_of(what: str, rule: str, *, word: str = "none") -> str:
    """The help of a setting that a rule decides where it is `word`."""
    return f"{what}; {word}: {RULES[rule].short}"


def page() -> str:
    """`docs/defaults.md`."""
    lines = [
        "# What is decided for you",
        "",
        "A recipe leaves open what follows from your images and your machine. Rules fill it in before a run "
        "begins, from",
        "the training images and the device alone: never from labels, never from validation images. A run prints "
        "what was",
        "decided and keeps the complete recipe in its folder, so it can be repeated exactly. What you set yourself is",
        "taken as it is.",
        "",
        "This page is made from the table that decides "
        "([`training/defaults.py`](../src/astroformer/training/defaults.py)).",
        "",
        "| setting | rule | instead |",
        "|---|---|---|",
        *(f"| [{rule.title}](#{_anchor(rule.title)}) | {rule.text} | {rule.overruled_by} |" for rule in RULES.values()),
        "",
        "## Why",
    ]
    for rule in RULES.values():
        settings = ", ".join(f"`{name}`" for name in rule.settings)
        lines += ["", f"### {rule.title}", "", f"{rule.why} Settings: {settings}. Decided in {rule.where}."]
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    print(page(), end="")
