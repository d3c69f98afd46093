"""`astroformer export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from typing_extensions import Doc

from astroformer.cli.common import (
    Model,
    Overwrite,
    Showing,
    first_imports,
    refuse_missing,
    tell_beside,
    tell_differences,
    tell_ignored,
)
from astroformer.cli.options import NESTED
from astroformer.errors import UserError


@dataclass
class Export:
    """Write a trained MODEL as a graph that answers faster, and that other programs run: pixels in, probabilities out.

    The graph is compared with predict at once, and is not written where it answers otherwise. Without --out it is kept
    in the model folder, where predict asks it from then on if it is faster.
    """

    model: Model
    to: Annotated[
        Literal["onnx", "openvino", "torch"],
        Doc("onnx: a .onnx file; openvino: .xml and .bin; torch: a .pt2 file of torch.export"),
    ] = "onnx"
    precision: Annotated[
        Literal["float32", "bf16", "int8"],
        Doc(
            "float32: probabilities differ by 0.0001 at most; bf16 (openvino, torch): by 0.03; int8 (openvino): half a "
            "point of accuracy and 0.02 of log loss are lost at most, measured on 300 labelled images or more"
        ),
    ] = "float32"
    images: Annotated[
        str | None,
        Doc(
            "images to compare on, as for predict, or for int8 as for evaluate; without it, those that the model's run "
            "has held out"
        ),
    ] = None
    takes: Annotated[
        Literal["auto", "pixels", "prepared"],
        Doc(
            "what the graph is given. pixels: raw images of any size; prepared: images that are cut and resized "
            "already, as the model keeps them; auto: pixels, or where that can't be held, prepared; in the model "
            "folder both, since predict asks graphs of prepared images"
        ),
    ] = "auto"
    out: Annotated[Path | None, Doc("file to write; default: in exports/ of the model folder")] = None
    overwrite: Overwrite = False
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        refuse_missing(self.images, model=self.model)
        with first_imports():
            from astroformer.classifier import load
            from astroformer.export.exporting import check_words, export
            from astroformer.images.sources import open_source
            from astroformer.kept_graphs import EQUAL, PRECISIONS
            from astroformer.progress import Reporter
            from astroformer.runtimes import RUNTIMES
            from astroformer.training.train import held_out_images, run_of

        check_words(self.to, self.precision, self.takes)
        with Reporter(quiet=self.showing.quiet) as reporter:
            classifier = load(self.model, runtime="torch", say=tell_beside)
            if self.images is not None:
                labelled = self.precision == "int8"
                known = classifier.classes if labelled else None
                images = open_source(self.images, classes=known, labelled=labelled, listener=reporter)
            elif run_of(self.model) is not None:
                images = held_out_images(self.model, reporter=reporter)
            else:
                raise UserError(
                    f"'{self.model}' lies in no run folder, so nothing is known of images that were held out, and a "
                    "graph is compared on real ones; name some with --images."
                )
            tell_ignored(images)
            tell_differences(classifier, images)
            graphs = export(
                classifier,
                images,
                to=self.to,
                precision=self.precision,
                takes=self.takes,
                out=self.out,
                overwrite=self.overwrite,
                say=tell_beside,
            )
        for written in graphs:
            print(f"takes: {written}\ncheck: {written.check}")
            if written.scores is not None:
                before, after = written.scores
                print(f"before: {before}\nafter: {after}")
            if written.speed is not None:
                print(f"speed: {written.speed}")
            print(f"kept in: {written.record}\ngraph: {written.file}")
        if self.out is None:
            if self.precision != "float32":
                named = {graph: ours for ours, graph in PRECISIONS.items()}[self.precision]
                print(f"predict asks it with --runtime {RUNTIMES[self.to]} --precision {named}")
            elif (runtime := load(self.model).runtime) == "torch":
                print(f"predict goes on asking torch: no graph of the model is faster and within {EQUAL:g} of it")
            else:
                print(f"on the CPU predict asks {runtime} from now on")
