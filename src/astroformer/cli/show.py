"""`astroformer show`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from typing_extensions import Doc

from astroformer.cli.common import SOURCE_OPTIONS, Overwrite, Showing, first_imports, refuse_missing
from astroformer.cli.help import Pages
from astroformer.cli.options import NESTED, PLACE
from astroformer.errors import UserError
from astroformer.training.recipe import Recipe


@dataclass
class Show:
    """Show images of a SOURCE as a network that is trained on them will see them, by class, before it is trained.

    It takes the settings of `astroformer train` and decides what they leave open as that does.
    """

    source: Annotated[str | None, PLACE, Doc(f"labelled images, as for train; {SOURCE_OPTIONS}")] = None
    out: Annotated[Path | None, Doc("picture, .png, with a .pdf beside it; default show-1.png, -2, ...")] = None
    overwrite: Overwrite = False
    per_class: Annotated[int, Doc("images of each class, 1 to 12")] = 8
    augmented: Annotated[bool, Doc("show under each row what training makes of these images")] = False
    recipe: Annotated[str | None, Doc("recipe file (YAML), or sky (the default) or photo")] = None
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)
    settings: Annotated[Recipe, NESTED] = field(default_factory=Recipe)

    pages: ClassVar[Pages] = Pages(
        (
            *("out", "overwrite", "per-class", "augmented", "recipe", "image-size", "crop", "fit", "channels"),
            *("pixels", "white", "missing", "scaling", "seed", "quiet", "debug"),
        ),
        {},
    )

    def run(self, given: set[str]) -> None:
        if self.source is None:
            raise UserError("no SOURCE given whose images are to be shown. See `astroformer show --help`.")
        refuse_missing(self.source)
        with first_imports():
            from astroformer.outputs import output_file, refuse_inside
            from astroformer.progress import Reporter
            from astroformer.training.show import show

        if self.out is not None and self.out.suffix.lower() != ".png":
            raise UserError(f"the picture can't be '{self.out}': its name must end in .png; a .pdf comes beside it.")
        with contextlib.ExitStack() as stack:
            refuse_inside(self.out or Path("show.png"), [self.source])
            words: Any = {"inputs": (self.source,), "overwrite": self.overwrite}
            out = stack.enter_context(output_file(self.out, "show.png", **words))
            # The PDF has an owner and rules of its own: it is none of the inputs and there is none, or it may go.
            stack.enter_context(output_file(out.with_suffix(".pdf"), "show.pdf", **words))
            reporter = stack.enter_context(Reporter(quiet=self.showing.quiet, verbose=self.showing.verbose))
            shown = show(
                self.source, self.settings, per_class=self.per_class, augmented=self.augmented, reporter=reporter
            )
            shown.save(out)
        for sentence in shown.sentences:
            print(sentence)
        if shown.sheet.pages > 1:
            print(f"'{out}' is the first of {shown.sheet.pages} pages; '{out.with_suffix('.pdf')}' has all")
        print(f"picture: {out}")
