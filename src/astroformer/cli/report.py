"""`astroformer report`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from typing_extensions import Doc

from astroformer.cli.common import (
    Asking,
    LabelledSource,
    Model,
    OnlyKnown,
    Overwrite,
    Root,
    Showing,
    Strict,
    first_imports,
    labelled_images,
    refuse_missing,
    tell_beside,
)
from astroformer.cli.options import NESTED
from astroformer.errors import check_installed


@dataclass
class Report:
    """Write how far to trust a MODEL, by labelled images: one HTML file, and the facts as JSON and CSV."""

    model: Model
    source: LabelledSource = None
    out: Annotated[
        Path | None,
        Doc("folder for the page, report.json and tables; default report-1, -2, ..."),
    ] = None
    overwrite: Overwrite = False
    root: Root = None
    figures: Annotated[
        Literal["none", "pdf"],
        Doc("pdf: draw the charts for papers too, as PDF and PNG"),
    ] = "none"
    symmetry_images: Annotated[
        int,
        Doc("images that are shifted and turned to see whether answers hold; each costs as much as 30 to classify"),
    ] = 30
    asking: Annotated[Asking, NESTED] = field(default_factory=Asking)
    strict: Strict = False
    only_known: OnlyKnown = False
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)

    def run(self, given: set[str]) -> None:
        check_installed("jinja2", "report", "a report")
        refuse_missing(self.source, model=self.model)
        with first_imports():
            from astroformer.progress import Reporter
            from astroformer.training.report import report

        with Reporter(quiet=self.showing.quiet) as reporter:
            classifier = self.asking.load(self.model)
            images = labelled_images(
                classifier, self.model, self.source, self.root, only_known=self.only_known, reporter=reporter
            )
            made = report(
                classifier,
                images,
                out=self.out,
                overwrite=self.overwrite,
                strict=self.strict,
                batch_size=self.asking.computing.batch_size,
                symmetry_images=self.symmetry_images,
                figures=self.figures,
                reporter=reporter,
            )
        kept = made.sentence.replace(" %", "\u00a0%")  # a line does not begin with the sign
        print(textwrap.fill(kept, 80).replace("\u00a0", " "))
        for sentence in made.said:
            tell_beside(sentence)
        print(f"\nreport: {made.page}")
