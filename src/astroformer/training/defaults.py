"""The rules that decide what a recipe leaves open, as a table: what each decides, how, why, and what overrules it.

The decisions of a run (`rules.py`), the sentences that it prints, the help of the command line (`recipe.py`) and
`docs/defaults.md` (`defaults_page.py`) are made from this table and from the numbers here.

Nothing here imports torch: help and mistyped words are answered without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from astroformer.augmentation.settings import PRESETS
from astroformer.network.config import VARIANTS, AnswersConfig
from astroformer.training.pace import LEAST_MEMORY, MEMORY

MINUTES = 10.0
LEAST_CROP, CROP_CONTENT = 0.5, 0.9  # of each side; share of what differs between images that a crop holds
MODELS = {"cpu": "astroformer_atto", "cuda": "astroformer_nano"}
CONVOLUTIONAL_IMAGES = 5_000  # up to so many to train on, all stages are convolutional
ATTENTION_IMAGES, HYBRID_HEAD_WIDTH = 200, 8  # least images for attention after convolutions; channels of its heads
TIED_IMAGES = 1_000  # up to so many, weights are tied
LATE_SIDE = 48  # px; images of a smaller side are halved late
# Seconds of training an image from which strides pay that halve it later, and these strides. Any run on a GPU has the
# first ones.
LATE_STRIDES = ((1.0, (1, 2, 2, 2, 1)), (0.5, (2, 1, 2, 2, 1)))
LEAST_SIDE, SIDE_STEP = 32, 8  # px
LARGEST_SIDE = {"cpu": 64, "cuda": 128}  # px
LEAST_BATCH, LARGEST_BATCH, BATCH_DIVISOR = 16, 64, 64  # a 64th of the images, within these bounds
LEARNING_RATES = {"adamw": 4e-3, "sgd": 0.05, "muon": 2e-3}  # for batches of LARGEST_BATCH and more
REFERENCE_WIDTH = VARIANTS["astroformer_atto"].widths[-1]  # of the network that adamw's rate is for
SMOOTHING = 0.1  # share of a label that is spread over all classes
SMALL_STEP_PIXELS = 2**17  # of a batch on a GPU, below which bfloat16 only adds operations
PLANNED_MEMORY = 0.7  # of the free memory, share that training plans with
FIRST_SHARE, FIRST_SIDE = 0.65, 0.75  # first share of a run on smaller images, and their share of each side


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: which the code knows it by.
        settings: names of the settings of a recipe that it decides; nested ones with dots.
        title: its heading.
        short: what help says of it, after `none:`, `auto:` or `not given:`.
        text: what it decides, in a sentence or two.
        why: the reason, with a link to the evidence where there is some.
        overruled_by: what a user gives instead.
        said: what a run prints where the rule decides something that is worth a line; with names in braces.
        where: the file that decides, and a condition after a comma where it decides on the way.
        figures: the numbers that `text` has no place for, as rows (case, value) under the names of the two columns.
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
    figures: tuple[tuple[str, str], ...] = ()


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _strides(strides: tuple[int, ...]) -> str:
    return " ".join(map(str, strides))


def _exact_side(device: str) -> int:
    """The largest side, in px, at which a network of tied weights has its symmetry exactly."""
    stride = VARIANTS[MODELS[device]].total_stride
    return (LARGEST_SIDE[device] - 1) // stride * stride + 1


_sky, _photo = PRESETS["sky"], PRESETS["photo"]
_LONGER_RUN, _SHORTER_RUN = LATE_STRIDES
_NOTES = "lab/experiments.md"

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "device",
            ("device",),
            "Device",
            "CUDA when torch finds it, else the CPU",
            "A run is on a GPU where torch finds CUDA, else on the CPU.",
            "A GPU trains a larger network in the same time.",
            "`--device cpu`",
            where="system.py",
        ),
        Rule(
            "length",
            ("minutes",),
            "Length of a run",
            f"{MINUTES:g} where epochs is not given either",
            f"A run takes {MINUTES:g} minutes.",
            "The schedule follows the clock, so a run ends when you expect it, on any machine.",
            "`--minutes` or `--epochs`",
            "{minutes:g} minutes (--minutes or --epochs to change)",
        ),
        Rule(
            "channels",
            ("channels",),
            "Channels",
            "1 where all images are grey, else 3, or as many as all of them have",
            "Images have one channel where all of them are grey, else three, or as many as all of them have. Where "
            "their numbers differ in another way than by colour, the run asks for yours. What a file declares as "
            "transparency is laid over black; arrays keep all of their bands. Bands with names are never made from "
            "each other.",
            "Three equal channels cost time and tell the network nothing.",
            "`--channels`",
            "{channels}, all kept",
        ),
        Rule(
            "pixels",
            ("pixels",),
            "Type of the pixels",
            "that of the images",
            "All images have pixels of one type, uint8, uint16 or floats, and a model takes images in the units that "
            "it learned from. uint16 counts as shares of 65,535, or of the value that `--white` states.",
            "The same picture in other units is another picture to a network.",
            "`--pixels` leaves images of another type out; `--white` brings uint8 and uint16 together",
            "pixels: uint16, white not stated (--white N states it, so that the model takes 8-bit images too)",
        ),
        Rule(
            "missing pixels",
            ("missing",),
            "Pixels without a value",
            "median where the source marks such pixels, else refuse",
            "Where a source marks pixels that have no value, as FITS files do, these are filled with the median of "
            "their band in the image. Elsewhere an image with NaN is left out. An image that lacks more than half of a "
            "band is always left out, and infinite values are never taken.",
            "The median of a cutout is the sky in most of them, which says nothing. NaN that nobody speaks of is a "
            "fault more often than a mask.",
            "`--missing median`, `--missing zero` or `--missing refuse`",
            "pixels without a value: filled with the median of their band (--missing zero or refuse)",
        ),
        Rule(
            "scaling",
            ("scaling",),
            "Scaling",
            "asinh for floats whose source names their bands or marks missing pixels, else none",
            "Floats are stretched by asinh, each band for itself, where the source names the bands or marks missing "
            "pixels, as FITS files do: linear within the noise, logarithmic above it. Sky, noise and upper limit are "
            "measured on the training images and kept in the model. All other images stay as they are.",
            "Fluxes of the sky reach over many powers of ten, and faint sources lie near the noise. Floats from an "
            "`.npz` or a TIFF may be stretched already.",
            "`--scaling none` keeps values as they are; `asinh-sky` subtracts the sky of each image before; `linear`, "
            "`log`, `zscale` and `percentile` stretch otherwise",
            "scaling: asinh in each band, by sky and noise of the training images (--scaling none: values as they are)",
        ),
        Rule(
            "storage",
            ("storage",),
            "Storage of decoded images",
            "uint8 where pixels are, else float16",
            "Decoded images are kept as uint8 where their pixels are, else as float16.",
            "8 bits take half the memory. Of images with more bits they would lose what is faint.",
            "`--storage`; `float32` keeps every bit in twice the memory, `uint8` takes floats that are scaled",
        ),
        Rule(
            "crop",
            ("crop",),
            "Crop",
            "measured on the training images",
            f"Images are cropped around their middle. A square that holds {_percent(CROP_CONTENT)} of what differs "
            "between the training images still fits into the crop when it is turned, and at least "
            f"{_percent(LEAST_CROP)} of each side is kept.",
            "Cutouts that are centred on a source get closer to it, and empty sky is left out. Photographs differ "
            f"everywhere and stay whole ([figures]({_NOTES}#first-choices)).",
            "`--crop 1` keeps images whole",
            "the images vary in the central {crop:.0%} of each side: cropped to it (--crop 1 to keep all)",
        ),
        Rule(
            "model",
            ("model",),
            "Network",
            f"{MODELS['cpu']} on a CPU, {MODELS['cuda']} on a GPU",
            f"The network is `{MODELS['cpu']}` on a CPU and `{MODELS['cuda']}` on a GPU.",
            "On a CPU a larger network makes far fewer epochs in the same time. On a GPU the time of a small step goes "
            f"by the number of its operations, so that a wider network costs little ([figures]({_NOTES}"
            "#on-a-gpu-by-the-clock)).",
            "`--model`; a model that you name is taken as it is, and the next three rules leave it alone",
        ),
        Rule(
            "tied weights",
            ("network.group",),
            "Weights tied for very few images",
            f"as the augmentation turns and flips for up to {TIED_IMAGES:,} images if nothing else is asked of the "
            "network, else none",
            f"Up to {TIED_IMAGES:,} images the weights are tied to each other so that the maps of the network turn and "
            "flip with the image, as far as the augmentation turns and flips it.",
            "One pass over an image then does what several over its turned and mirrored views would do. With few "
            "images that gains much or costs nothing, with many it loses "
            f"([figures]({_NOTES}#weights-tied-under-flips-and-turns)).",
            "`--network.group none`; any word on the model, the layout, the channel attention, the Transformer stages, "
            "their heads, the position bias or widths, and the equivariances `anchor` and `input`, leave the rule out",
            "weights: tied so that maps {follow} with the image (--network.group none: free)",
        ),
        Rule(
            "layout",
            ("network.layout", "network.channel_attention", "network.transformer", "network.head_width"),
            "Convolutions and attention for few images",
            f"for up to {CONVOLUTIONAL_IMAGES:,} images convolutions, and attention after them where weights are tied "
            f"under turns and images are at least {ATTENTION_IMAGES}, if nothing else is asked of the network; else "
            "the variant's own",
            f"Up to {CONVOLUTIONAL_IMAGES:,} images are learned by convolutions in all stages, without channel "
            f"attention. From {ATTENTION_IMAGES} on, where weights are tied under quarter turns and flips, attention "
            "follows the last convolutions of S4. More images are learned by the paper's C-C-C-T.",
            "With few images convolutions are level with the paper's network or ahead of it "
            f"([figures]({_NOTES}#convolutions-alone-for-few-images)). Attention after them gains a point where its "
            f"heads turn with the image, and nothing elsewhere ([figures]({_NOTES}#attention-after-the-convolutions)).",
            "`--network.layout CCCT`; any word on the model, the layout, the channel attention, the Transformer "
            "stages, their heads or the position bias leaves the rule out",
            "{images:,} images: convolutions in all stages{attention}, without channel attention (--network.layout "
            "CCCT for the paper's network)",
        ),
        Rule(
            "strides",
            ("network.strides",),
            "Small images halved late",
            f"late for images of less than {LATE_SIDE} px if model is auto and the run is long enough, else the "
            "variant's own",
            f"Images of less than {LATE_SIDE} px a side are halved later in the network, if the run is long enough for "
            "that. On a CPU this goes by the seconds of training that a run by the clock has for each image.",
            "Finer first maps see small images better, and a step takes longer "
            f"([figures]({_NOTES}#small-images-halved-late)).",
            f"`--network.strides {_strides(VARIANTS[MODELS['cpu']].strides)}`",
            "images of {side:.0f} px: halved late (--network.strides {usual} for the usual maps)",
            figures=(
                ("run", "strides of stem and stages"),
                ("on a GPU", _strides(_LONGER_RUN[1])),
                (f"on a CPU, at least {_LONGER_RUN[0]:g} s an image", _strides(_LONGER_RUN[1])),
                (f"on a CPU, at least {_SHORTER_RUN[0]:g} s an image", _strides(_SHORTER_RUN[1])),
                ("any other", _strides(VARIANTS[MODELS["cpu"]].strides)),
            ),
        ),
        Rule(
            "image size",
            ("image_size",),
            "Image size",
            f"what the crop leaves, at most {LARGEST_SIDE['cpu']} px on a CPU and {LARGEST_SIDE['cuda']} px on a GPU",
            "The network sees images of the side that the crop leaves, rounded down and within limits. Where weights "
            "are tied, the side is one more than a multiple of the product of the strides, if the least side allows "
            "it: then the network turns exactly with the image.",
            "Larger images take longer, so that a run of the same length has fewer epochs. Other limits were not "
            f"compared. [The notes]({_NOTES}#weights-tied-under-flips-and-turns) have the figures of tied weights.",
            "`--image-size`",
            figures=(
                ("side", "px"),
                ("at least", f"{LEAST_SIDE}"),
                ("in steps of", f"{SIDE_STEP}"),
                ("at most, on a CPU", f"{LARGEST_SIDE['cpu']}; {_exact_side('cpu')} with tied weights"),
                ("at most, on a GPU", f"{LARGEST_SIDE['cuda']}; {_exact_side('cuda')} with tied weights"),
            ),
        ),
        Rule(
            "answers",
            ("network.symmetry",),
            "Answers averaged over views",
            "by the turns and flips of the augmentation",
            "A trained model averages its answers over what the augmentation takes for the same image: "
            f"{AnswersConfig().views} turned and mirrored views of the sky, a photograph and its mirror image. Where "
            "tied weights make these answers alike, it is asked about the image alone.",
            "The average is more often right and has better probabilities. It takes about as many times as long as "
            f"there are views ([figures]({_NOTES}#answers-averaged-over-views)).",
            "`--network.symmetry shift` in training, or `--symmetry shift` when a model is asked",
            "answers: {how} (--network.symmetry shift for the image alone)",
        ),
        Rule(
            "batch size",
            ("batch_size",),
            "Batch size",
            f"a {BATCH_DIVISOR}th of the images, {LEAST_BATCH} to {LARGEST_BATCH}",
            "A batch grows with the number of images, between two limits.",
            f"Few images are learned better in many small steps ([figures]({_NOTES}#the-recipe-for-few-images)).",
            "`--batch-size`",
            figures=(
                ("images to train on", "images a batch"),
                (f"up to {LEAST_BATCH * BATCH_DIVISOR:,}", f"{LEAST_BATCH}"),
                ("more", f"a {BATCH_DIVISOR}th of them"),
                (f"from {LARGEST_BATCH * BATCH_DIVISOR:,} on", f"{LARGEST_BATCH}"),
            ),
        ),
        Rule(
            "learning rate",
            ("learning_rate",),
            "Learning rate",
            "by optimizer, batch size and width, adamw "
            f"{LEARNING_RATES['adamw'] * (LEAST_BATCH / LARGEST_BATCH) ** 0.5:g} for {MODELS['cpu']} and batches "
            f"of {LEAST_BATCH}",
            "The peak follows from the optimizer. For smaller batches than those of the table it falls as the root of "
            "their size; that of AdamW falls as 1 / width of the last stage in wider networks.",
            "Both are how the best rate is known to change: with the batch by Malladi et al. "
            "([arXiv 2205.10287](https://arxiv.org/abs/2205.10287)), with the width by Yang et al. "
            "([arXiv 2203.03466](https://arxiv.org/abs/2203.03466)).",
            "`--learning-rate`",
            figures=(
                ("optimizer", f"peak, for batches of {LARGEST_BATCH} and more"),
                (f"AdamW, `{MODELS['cpu']}`", f"{LEARNING_RATES['adamw']:g}"),
                ("SGD", f"{LEARNING_RATES['sgd']:g}"),
                ("Muon", f"{LEARNING_RATES['muon']:g}"),
            ),
        ),
        Rule(
            "label smoothing",
            ("label_smoothing",),
            "Label smoothing",
            f"{SMOOTHING:g}, of votes 0",
            f"A share of {SMOOTHING:g} of each target is spread evenly over the classes. Targets that are votes are "
            "learned as they are.",
            "A label is surer than people are, and smoothing takes that back (Szegedy et al., "
            "[arXiv 1512.00567](https://arxiv.org/abs/1512.00567)). Votes say themselves how sure people are.",
            "`--label-smoothing`",
            "targets are shares of votes, without label smoothing (--label-smoothing {smoothing:g} for that of labels)",
        ),
        Rule(
            "speed",
            ("speed",),
            "How a step is computed",
            "fused on a CPU with a C++ compiler, graph on a GPU, else plain",
            "A training step is computed by native kernels (`fused`) on a CPU with a C++ compiler, and as a recorded "
            "CUDA graph on a GPU. Where neither can be, plain torch computes it, and the run says why.",
            "All compute the same but for rounding. Kernels and graphs are faster ([figures](lab/performance.md)).",
            "`--speed`",
        ),
        Rule(
            "precision",
            ("precision",),
            "Precision of a step",
            "bf16 on a device that has instructions for it",
            "Fused steps are in bfloat16 where the CPU has instructions that multiply such matrices (AMX bf16, AVX-512 "
            "bf16, on ARM bf16). So are steps on a GPU that has bfloat16, but for those of the default network on "
            f"batches of less than {SMALL_STEP_PIXELS:,} pixels. All others are in float32.",
            f"No difference in accuracy was seen ([photographs]({_NOTES}#small-parts-of-the-recipe), "
            f"[galaxies]({_NOTES}#first-choices)), and a small one is not excluded. Nothing is timed, so that a busy "
            "machine decides as an idle one. A small step on a GPU is bound by the number of its operations, and "
            "bfloat16 adds some.",
            "`--precision no` for float32",
            "speed: {speed} training steps in {precision}{why}",
        ),
        Rule(
            "parts of a batch",
            ("accumulate",),
            "Parts of a batch",
            "as few as fit the memory, mostly 1",
            "A batch is computed in as few parts as are expected to fit the free memory, of which "
            f"{_percent(PLANNED_MEMORY)} are planned with. Mostly it is one.",
            "So the size of a batch is the recipe's, whatever the machine ([figures](lab/performance.md#memory)).",
            "`--accumulate`; `--batch-size auto` chooses anew for a recipe that says otherwise; `--checkpointing` "
            "takes less memory and more time",
            "batches of {batch} in {parts} parts, about {taken:.1f} GiB of the {free:.1f} free{advice}",
            where="training/memory.py",
        ),
        Rule(
            "weight decay",
            ("weight_decay",),
            "Weight decay",
            f"by the length of the run, so that weights remember {_percent(MEMORY)} of it",
            f"The decay is such that weights are an average of their updates over the last {_percent(MEMORY)} of the "
            f"run, and over at least {LEAST_MEMORY} steps.",
            "That share is what carries over from one length of a run to another (Wang & Aitchison, "
            f"[arXiv 2405.13698](https://arxiv.org/abs/2405.13698); [figures]({_NOTES}#the-recipe-for-few-images)).",
            "`--weight-decay`",
            where="training/pace.py, at every step",
        ),
        Rule(
            "smaller first images",
            ("progressive",),
            "Smaller images first",
            f"the first {_percent(FIRST_SHARE)} of the run",
            f"The first {_percent(FIRST_SHARE)} of a run are on images of {_percent(FIRST_SIDE)} of each side, rounded "
            "to a size that suits the network. Where they would be smaller than the least image size, a run is on "
            "whole images from the start.",
            f"The same time then has more epochs ([figures]({_NOTES}#first-choices)).",
            "`--progressive 0`",
            where="training/batches.py",
        ),
        Rule(
            "augmentation",
            ("augment",),
            "Augmentation",
            "that of the sky",
            "Training images are flipped, turned by any angle, zoomed and shifted. With `--recipe photo` they are "
            "cropped at random, flipped left to right, and changed in brightness, contrast and saturation.",
            "No direction of the sky is special, while photographs have an up and a down. Which of the "
            "two your images are is not guessed.",
            "`--recipe photo`, or single words such as `--augment.rotation 10`",
            where="training/recipe.py",
            figures=(
                ("the sky", "by default"),
                ("zoom", f"{_sky.scale[0]:g} to {_sky.scale[1]:g}"),
                ("shift along each axis", f"up to {_percent(_sky.shift)} of the frame"),
            ),
        ),
        Rule(
            "policy and mixing",
            ("augment.policy", "augment.mixup", "augment.cutmix"),
            "Stronger augmentation in long runs",
            "by the length of the run",
            "Long runs have stronger augmentation, as soon as they are seen to be long enough: a random operation on "
            "each image (TrivialAugment), and of photographs a share is mixed in pairs too (mixup, CutMix).",
            "Both make learning slower and overfitting rarer "
            f"([TrivialAugment]({_NOTES}#trivialaugment-where-a-run-is-long-enough), "
            f"[mixing]({_NOTES}#mixing-in-long-runs-of-photographs)).",
            "`--augment.policy`, `--augment.mixup`, `--augment.cutmix`: what you ask for is applied at any length",
            "{what}: on, since the run has some {epochs:.0f} epochs",
            where="training/batches.py, when the length is foreseen",
            figures=(
                ("augmentation", "epochs of the run, at least"),
                ("the sky: TrivialAugment", f"{_sky.policy_epochs}"),
                ("photographs: TrivialAugment", f"{_photo.policy_epochs}"),
                (f"photographs: {_percent(_photo.mix_probability)} of them mixed", f"{_photo.mix_epochs}"),
            ),
        ),
    )
}
"""The rules in the order in which they decide."""


def help_of(what: str, rule: str, *, word: str = "none") -> str:
    """The help of a setting that a rule decides where it is `word`."""
    return f"{what}; {word}: {RULES[rule].short}"
