"""What several commands share: fields of the command line, and small things that they do alike."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import Doc

from astroformer.cli.options import NESTED, PLACE
from astroformer.cli.signals import imports_are_done
from astroformer.errors import UserError
from astroformer.files import is_url

if TYPE_CHECKING:
    from astroformer.classifier import Classifier
    from astroformer.evaluation.symmetry.measured import MeasuredImages
    from astroformer.images.labelled import LabelledImages
    from astroformer.progress import Reporter

Model = Annotated[Path, PLACE, Doc("model folder, or the run folder that holds it")]
Quiet = Annotated[bool, Doc("no progress")]
Debug = Annotated[bool, Doc("show tracebacks")]
Overwrite = Annotated[bool, Doc("replace what OUT holds of an earlier command")]
Strict = Annotated[bool, Doc("make an unreadable file an error instead of leaving it out")]
Root = Annotated[
    str | None, Doc("folder, or its URL, in which the images of a catalog lie; without it the folder of the catalog")
]
SOURCE_OPTIONS = (
    "a catalog may be followed by @file=COLUMN, or @id=COLUMN@pattern=images/{id}.jpg, and @label=COLUMN, or "
    "@votes=COLUMN+COLUMN+... (what people voted, a column a class; shares, or @votes-as=counts; also @weight, @group, "
    "@same-sky, @ra, @dec, @table), and by @cube=STACK.fits or "
    "@mosaic=FIELD.fits@size=64 (cutouts around ra and dec); FITS files by @hdu=SCI, @bands=g,r,i and @blank=-9999 "
    "(values that stand for none); any labelled "
    "source by @per-class=0:50 (the first 50 images of each class); files and folders elsewhere are named by their URL "
    "(https://, s3://, gs://, ...) and copied once"
)
LabelledSource = Annotated[
    str | None,
    PLACE,
    Doc(
        "labelled images: class folders, .npz, catalog, or a set by name: mock-galaxies, cifar10:test; "
        f"{SOURCE_OPTIONS}; without it, the images that the model's run has held out"
    ),
]
OnlyKnown = Annotated[bool, Doc("leave images of classes out that the model does not know, in place of an error")]


@dataclass
class Computing:
    """Where a network computes, and how much at once."""

    batch_size: Annotated[int, Doc("images a forward pass, at most")] = 64
    device: Annotated[str, Doc("auto, cpu or cuda")] = "auto"


@dataclass
class Asking:
    """How a model is asked."""

    computing: Annotated[Computing, NESTED] = field(default_factory=Computing)
    precision: Annotated[
        str,
        Doc(
            "float32, bfloat16 (may be faster; probabilities differ in the third digit), auto (what is faster here) or "
            "int8 (of a graph that astroformer export made)"
        ),
    ] = "float32"
    runtime: Annotated[
        Literal["auto", "torch", "onnxruntime", "openvino"],
        Doc(
            "what computes: torch, or a graph in the model folder that astroformer export made; auto: the graph that "
            "was fastest then, if it is within 0.00001 of torch and was faster"
        ),
    ] = "auto"
    symmetry: Annotated[
        str | None,
        Doc(
            "shift: of the image alone, the fastest; shift+mirror, shift+d4: averaged over its mirror image, over "
            "turned and mirrored views; none: as the model says"
        ),
    ] = None
    calibration: Annotated[
        str, Doc("auto: probabilities as the held-out images of the training say; none: the network's own")
    ] = "auto"
    white: Annotated[
        float | None,
        Doc(
            "value that is white in the images, where they are uint16 and the model learned from uint8, or the reverse"
        ),
    ] = None

    def load(self, model: Path) -> Classifier:
        """The model of a folder, which will be asked in this way."""
        from astroformer.classifier import load

        computing = self.computing
        return load(
            model,
            computing.device,
            precision=self.precision,
            symmetry=self.symmetry,
            calibration=self.calibration,
            white=self.white,
            runtime=self.runtime,
            say=tell_beside,
        )


@dataclass
class Showing:
    """What a person sees of the work."""

    quiet: Quiet = False
    verbose: Annotated[bool, Doc("say all that was decided")] = False
    debug: Debug = False


@contextlib.contextmanager
def first_imports() -> Iterator[None]:
    """Keeps Python's garbage collector away from what a command imports, while it is imported and afterwards. Until it
    ends, a signal ends the process at once (`signals.py`).

    torch makes hundreds of thousands of objects that live until the process ends. The collector would look at them
    again and again while they are made, and once more at the exit. Without this, `astroformer info astroformer_atto`
    takes 1.38 times as long (2.59 s against 1.83 s, medians of 20 pairs of processes in turn, on two shared cores).

    A program that has imported torch already, and calls the command line as a function, is left as it is.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        imports_are_done()
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
    imports_are_done()


def refuse_missing(*sources: str | None, model: Path | None = None) -> None:
    """Raises `UserError` where a model or a source is not there, before torch is imported, which takes seconds."""
    from astroformer.files import check_model_is_folder
    from astroformer.images.sources import check_there

    if model is not None:
        check_model_is_folder(model)
    for source in sources:
        if source is not None:
            check_there(source)


def with_root(sources: Sequence[str], root: str | None) -> list[str]:
    """The sources, of which catalogs say in which folder their images lie.

    Raises:
        UserError: there is a folder and no catalog.
    """
    if root is None:
        return list(sources)
    from astroformer.images.formats.tables import is_table
    from astroformer.images.sources import split_options

    names = [split_options(source)[0] for source in sources]
    catalogs = [is_table(Path(name)) or is_url(name) for name in names]  # what a URL leads to is not known yet
    if not any(catalogs):
        raise UserError(f"--root says where the images of a catalog lie, and '{sources[0]}' is none; leave it out.")
    place = lasting_root(root)
    return [f"{source}@root={place}" if is_one else source for source, is_one in zip(sources, catalogs, strict=True)]


def lasting_root(root: str) -> str:
    """The folder of a catalog's images, wherever this is said: a URL, or an absolute path."""
    return root if is_url(root) else str(Path(root).expanduser().absolute())


def labelled_images(
    classifier: Classifier,
    model: Path,
    source: str | None,
    root: str | None,
    *,
    only_known: bool,
    reporter: Reporter,
) -> LabelledImages:
    """The images of a source, with all columns of a catalog; without a source those that were held out of the run that
    made the model. What a person should know of them is said.

    Raises:
        UserError: there are none, or they have other classes than the model.
    """
    from astroformer.images.sources import open_source

    if source is not None:
        [opened] = with_root([source], root)
        images = open_source(
            opened, classes=classifier.classes, only_known=only_known, columns="all", listener=reporter
        )
    else:
        from astroformer.training.train import held_out_images

        if root is not None:
            raise UserError(f"--root {root} says where the images of a catalog lie; name the catalog as SOURCE.")
        images = held_out_images(model, reporter=reporter)
        if images.classes != classifier.classes:
            raise UserError(f"the run of '{model}' has other classes than this model; name a SOURCE.")
    tell_ignored(images)
    tell_differences(classifier, images)
    return images


def tell_beside(sentence: str) -> None:
    """Prints a sentence beside the results, which are on stdout."""
    print(sentence, file=sys.stderr)


def tell_ignored(images: LabelledImages | MeasuredImages) -> None:
    """Says beside the results how many files of a source are not taken for images, and of which kinds they are; and
    what its reader notes."""
    for note in images.notes:
        tell_beside(note)
    if images.ignored:
        from astroformer.images.names import ignored_kinds

        tell_beside(ignored_kinds(images.ignored))


def tell_differences(classifier: Classifier, images: LabelledImages) -> None:
    """Says beside the results what a source states otherwise than that of the training images did, or not at all.

    Raises `UserError` where their bands or units are others.
    """
    for sentence in classifier.preprocessing.check_source(images):
        tell_beside(sentence)


def count_of_files(n: int) -> str:
    """ "1 file", "1,234 files"."""
    return f"{n:,} file" + ("s" if n != 1 else "")
