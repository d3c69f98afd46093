"""`astroformer symmetry`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from typing_extensions import Doc

from astroformer.cli.common import (
    Computing,
    OnlyKnown,
    Overwrite,
    Showing,
    count_of_files,
    first_imports,
    tell_beside,
    tell_ignored,
)
from astroformer.cli.options import NESTED, PLACE

_FILES = ("symmetry.json", "symmetry.png", "symmetry.pdf")


@dataclass
class Symmetry:
    """Measure how a MODEL's answers change when the image is shifted, cropped, flipped, turned or rotated.

    MODEL is a model folder (or its run folder), a variant by name or timm:NAME; networks by name have random weights.
    """

    model: Annotated[str, PLACE, Doc("model folder, variant, or timm:NAME (timm:resnet18)")]
    data: Annotated[
        str | None,
        Doc("images, as for evaluate; labelled for a model folder. Without it mock galaxies"),
    ] = None
    out: Annotated[Path | None, Doc("folder for symmetry.json, .png and .pdf; default symmetry-1, -2, ...")] = None
    overwrite: Overwrite = False
    only_known: OnlyKnown = False
    images: Annotated[int, Doc("images to measure on, at most; drawn with the seed")] = 256
    seed: Annotated[int, Doc("of all that is drawn")] = 0
    shifts: Annotated[int, Doc("circular shifts an image, the n of worst-of-n")] = 16
    max_shift: Annotated[int | None, Doc("largest circular shift in px; default every shift of the torus")] = None
    crops: Annotated[int, Doc("crops an image")] = 8
    rotations: Annotated[int, Doc("free rotations an image")] = 8
    padding: Annotated[
        Literal["reflection", "border", "zeros"],
        Doc("what a rotated image shows beyond its frame"),
    ] = "reflection"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16"],
        Doc("of weights and images; bfloat16 is autocast"),
    ] = "float32"
    image_size: Annotated[int | None, Doc("side in px, of a network by name")] = None
    num_classes: Annotated[
        int | None,
        Doc("classes of a network by name; default 10, of a pretrained one its own"),
    ] = None
    pretrained: Annotated[bool, Doc("load timm's weights, from the internet")] = False
    equivariance: Annotated[str | None, Doc("none, centre, anchor or input, of a variant by name")] = None
    symmetry: Annotated[
        str | None,
        Doc("shift, shift+mirror or shift+d4, of a variant or a model folder in place of its own"),
    ] = None
    computing: Annotated[Computing, NESTED] = field(default_factory=Computing)
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        with first_imports():
            from astroformer.evaluation.pictures import plot_symmetry
            from astroformer.evaluation.scores import seen_sentence
            from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry, shift_range
            from astroformer.evaluation.symmetry.measured import open_network, read_images
            from astroformer.evaluation.tables import symmetry_text, write_symmetry
            from astroformer.outputs import output_folder
            from astroformer.progress import Reporter
            from astroformer.system import pick_device

        settings = SymmetrySettings(
            seed=self.seed,
            shifts=self.shifts,
            max_shift=self.max_shift,
            crops=self.crops,
            rotations=self.rotations,
            padding=self.padding,
            dtype=self.dtype,
            batch_size=self.computing.batch_size,
        )
        device = pick_device(self.computing.device)
        measured = open_network(
            self.model,
            image_size=self.image_size,
            num_classes=self.num_classes,
            pretrained=self.pretrained,
            equivariance=self.equivariance,
            symmetry=self.symmetry,
            seed=self.seed,
            say=tell_beside,
        )
        shift_range(measured.preprocessing.image_size, self.max_shift)
        with (
            output_folder(
                self.out, "symmetry", names=_FILES, model=self.model, source=self.data, overwrite=self.overwrite
            ) as results,
            Reporter(quiet=self.showing.quiet) as reporter,
        ):
            words: Any = {"seed": self.seed, "only_known": self.only_known, "listener": reporter}
            inputs = read_images(measured, self.data, images=self.images, **words)
            tell_ignored(inputs)
            report = measure_symmetry(
                measured.network,
                inputs.images_NCHW,
                inputs.labels_N,
                seen_N=inputs.seen_N,
                frames_NCHW=inputs.frames_NCHW,
                settings=settings,
                device=device,
                progress=lambda done, total: reporter.count("measuring", done, total),
            )
            table, picture, _ = (results.folder / name for name in _FILES)
            write_symmetry(table, report, measured, inputs)
            if (failed := plot_symmetry({measured.label: report}, picture)) is not None:
                tell_beside(failed)
        print(f"{measured.name}: {measured.kind} {measured.symmetries}, {measured.weights} weights")
        print(f"{inputs.source}: {report.n:,} of {inputs.total:,} images, drawn with seed {self.seed}")
        print(f"{symmetry_text(report)}")
        if inputs.seen_N is not None and inputs.seen_N.any():
            print(f"\n{seen_sentence(int(inputs.seen_N.sum()), report.n)}")
        if inputs.left_out:
            print(f"\n{count_of_files(len(inputs.left_out))} could not be read, left out; symmetry.json says why")
        print(f"\nsymmetry: {results.place}")
