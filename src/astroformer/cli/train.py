"""`astroformer train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from typing_extensions import Doc

from astroformer.cli.common import SOURCE_OPTIONS, Root, Showing, Strict, first_imports, refuse_missing, with_root
from astroformer.cli.help import Pages
from astroformer.cli.options import NESTED, PLACE
from astroformer.errors import UserError
from astroformer.training.recipe import Recipe, load_recipe
from astroformer.training.task import TaskWords

if TYPE_CHECKING:
    from astroformer.training.ensemble import TrainedEnsemble
    from astroformer.training.single import Trained
    from astroformer.training.study import TrainedStudy


_PAGES = Pages(
    usual=(
        *("minutes", "epochs", "valid", "out", "recipe", "class-weights", "image-size", "seeds", "ensemble", "resume"),
        "verbose",
    ),
    groups={
        "runs": (
            "several runs, ensembles, cross-validation, and runs that go on from others",
            ("out", "resume", "init-from", "seed", "seeds", "all-folds", "ensemble", "together", "distil"),
        ),
        "images": (
            "size, crop, channels and units of the images, how they are split, and what may be left out",
            (
                *(
                    "valid",
                    "root",
                    "valid-fraction",
                    "split-seed",
                    "folds",
                    "fold",
                    "image-size",
                    "crop",
                    "fit",
                    "channels",
                ),
                *("pixels", "white", "missing", "scaling", "storage", "cache", "strict", "only-known", "allow-shared"),
            ),
        ),
        "learning": (
            "length, optimizer, learning rate, batch size, regularization, class weights",
            (
                *("recipe", "epochs", "minutes", "optimizer", "learning-rate", "weight-decay", "momentum"),
                *("batch-size", "warmup", "final-learning-rate", "clip", "progressive", "label-smoothing", "ema"),
                *("class-weights", "balanced-sampling"),
            ),
        ),
        "machine": (
            "device, precision, memory, checkpoints, progress and tracking",
            (
                *("device", "precision", "speed", "accumulate", "checkpointing", "evaluations", "checkpoint-seconds"),
                *("track", "quiet", "verbose", "debug"),
            ),
        ),
        "network": ("layout, widths, attention and equivariance of the network", ("model", "network.")),
        "augment": ("random changes to training images", ("augment.",)),
    },
)


@dataclass
class Train:
    """Train a classifier from a SOURCE of labelled images and write a run folder with the model in it.

    A SOURCE is a folder with a folder for each class, a catalog (CSV, Parquet, FITS table) of files and labels or
    votes, an .npz, HDF5 or Zarr file with images and labels, mock-galaxies, a published set by name (astroformer info
    --data), or hf:OWNER/NAME of Hugging Face. Files are pictures or FITS.
    """

    pages: ClassVar[Pages] = _PAGES

    source: Annotated[str | None, PLACE, Doc(f"what to train on; {SOURCE_OPTIONS}")] = None
    valid: Annotated[
        str | None,
        Doc("what to validate on; without it a share of each class of SOURCE is held out"),
    ] = None
    out: Annotated[Path | None, Doc("run folder, new or empty; default runs/NAME-1, -2, ...")] = None
    recipe: Annotated[str | None, Doc("recipe file (YAML), or sky (the default) or photo")] = None
    seeds: Annotated[
        int,
        Doc("so many runs at once, with the seeds from --seed on; OUT then holds a run folder each"),
    ] = 1
    all_folds: Annotated[bool, Doc("a run for each of the --folds (times --seeds)")] = False
    ensemble: Annotated[
        int | None,
        Doc(
            "so many networks with the seeds from --seed on, on one split, kept as one model that answers with the "
            "mean of their probabilities; --minutes is the length of each, side by side on a CPU with a share of its "
            "cores"
        ),
    ] = None
    together: Annotated[
        str,
        Doc(
            "how several runs share the devices: processes (side by side; auto on a CPU, and on several GPUs, one run "
            "on each) or in-turn (one after the other; auto on one GPU)"
        ),
    ] = "auto"
    resume: Annotated[
        Path | None,
        Doc("run folder, of one run, of several or of an ensemble, to continue as it was"),
    ] = None
    init_from: Annotated[Path | None, Doc("model folder whose weights start this run")] = None
    distil: Annotated[
        Path | None,
        Doc(
            "folder of a finished run, above all of an ensemble: one network learns what its model answers, on "
            "the same images and split, for as long as a member (or for the --epochs or --minutes given)"
        ),
    ] = None
    root: Root = None
    strict: Strict = False
    only_known: Annotated[bool, Doc("leave images of --valid out whose class SOURCE does not have")] = False
    allow_shared: Annotated[
        bool, Doc("go on where images of --valid, or the sky that they show, are trained on as well")
    ] = False
    cache: Annotated[Path | None, Doc("where decoded images are kept")] = None
    showing: Annotated[Showing, NESTED] = field(default_factory=Showing)
    settings: Annotated[Recipe, NESTED] = field(default_factory=Recipe)

    def run(self, given: set[str]) -> None:
        self._check_alone(given)
        if self.distil is not None:
            self._distil(given)
            return
        if self.resume is None and self.source is None:
            raise UserError("no SOURCE given: a folder of class folders, an .npz, a catalog, or a set by name.")
        self._check_ensemble(given)
        refuse_missing(self.source, self.valid)
        if self.root is not None and self.source is not None:
            self._look_in_root()
        with first_imports():
            from astroformer.progress import Reporter
            from astroformer.training.ensemble import train_ensemble
            from astroformer.training.study import TrainedStudy, seeds_and_folds, train_many
            from astroformer.training.train import resume, train

        reporter = Reporter(quiet=self.showing.quiet, verbose=self.showing.verbose, warns=True)
        if self.source is None:
            assert self.resume is not None
            with reporter:
                result = resume(self.resume, reporter=reporter)
            if isinstance(result, TrainedStudy):
                self._tell_study(result)
            else:
                self._tell(result)
            return
        task: TaskWords = {
            "valid": self.valid,
            "init_from": self.init_from,
            "strict": self.strict,
            "only_known": self.only_known,
            "allow_shared": self.allow_shared,
            "cache": self.cache,
        }
        several: Any = {"out": self.out, "together": self.together, "reporter": reporter, **task}
        recipes = seeds_and_folds(self.settings, seeds=self.seeds, all_folds=self.all_folds)
        if self.ensemble is not None:
            with reporter:
                ensemble = train_ensemble(self.source, self.settings, members=self.ensemble, **several)
            self._tell(ensemble)
        elif len(recipes) > 1:
            with reporter:
                study = train_many(self.source, recipes, **several)
            self._tell_study(study)
        else:
            if self.together != "auto":
                raise UserError(
                    f"--together {self.together} is for several runs; give --seeds, --all-folds or --ensemble with it."
                )
            with reporter:
                trained = train(self.source, self.settings, out=self.out, reporter=reporter, **task)
            self._tell(trained)

    def _look_in_root(self) -> None:
        """Catalogs, to train on and to validate on, say from now on where their images lie."""
        sources = [source for source in (self.source, self.valid) if source is not None]
        self.source, *valid = with_root(sources, self.root)
        self.valid = valid[0] if valid else None

    def _check_alone(self, given: set[str]) -> None:
        """--resume and --distil bring source and settings with them."""
        said = {"quiet", "verbose", "debug", "no-quiet", "no-verbose", "no-debug"}
        ways = {
            "resume": ("continues a run as it was, with its own source and settings", said),
            "distil": (
                "learns from a run by its images, split and settings (but --out, --epochs, --minutes, --seed)",
                said | {"out", "epochs", "minutes", "seed"},
            ),
        }
        for word, (does, own) in ways.items():
            extra = given - own - {word}
            if getattr(self, word) is not None and (extra or self.source is not None):
                what = f"--{min(extra)}" if extra else f"the source '{self.source}'"
                raise UserError(f"--{word} {does}; leave out {what}.")

    def _distil(self, given: set[str]) -> None:
        assert self.distil is not None
        with first_imports():
            from astroformer.progress import Reporter
            from astroformer.training.distil import distil

        words = {name: getattr(self.settings, name) for name in ("epochs", "minutes", "seed") if name in given}
        with Reporter(quiet=self.showing.quiet, verbose=self.showing.verbose, warns=True) as reporter:
            self._tell(distil(self.distil, out=self.out, reporter=reporter, **words))

    def _check_ensemble(self, given: set[str]) -> None:
        if self.ensemble is None:
            return
        if self.seeds != 1 or "seeds" in given:
            raise UserError(
                "--ensemble makes one model of several seeds on one split, --seeds a model of each, on splits of "
                "their own; choose one."
            )
        if self.all_folds:
            raise UserError(
                "--ensemble trains all its members on one split, --all-folds a run on each; choose one, or give "
                "--fold for an ensemble on one of the folds."
            )
        if self.ensemble < 2:
            raise UserError(
                f"--ensemble {self.ensemble} can't be; give 2 members or more, or leave it out for a single network."
            )

    def _tell_study(self, study: TrainedStudy) -> None:
        print(study.table())
        print(f"summary: {study.run / 'summary.json'}")
        if study.errors:
            raise UserError(
                f"{len(study.errors)} of {len(study.rows)} runs failed ({', '.join(study.errors)}); "
                f"astroformer train --resume {study.run} tries them again."
            )

    def _tell(self, trained: Trained | TrainedEnsemble) -> None:
        from accelerate import PartialState

        from astroformer.evaluation.scores import confusions_text, metric_lines
        from astroformer.training.ensemble import TrainedEnsemble

        if not PartialState().is_main_process:
            return
        validation, run = trained.validation, trained.run
        if isinstance(trained, TrainedEnsemble):
            print(trained.members.table())
            print(f"ensemble of {len(trained.members.models)}:")
        shown = ("top1", "balanced_accuracy", "votes_cross_entropy")
        lines = metric_lines({name: m for name, m in validation.metrics.items() if name in shown})
        print("\n".join([f"{'validation images':<18} {validation.n:>8,}", *lines]))
        if confusions := confusions_text(validation, 3):
            print(confusions)
        if isinstance(trained, TrainedEnsemble):
            print(f"try next: astroformer evaluate {run}   (what it calls wrong, in pictures)")
            print(f"      or: astroformer train --distil {run}   (one network of its answers, faster to ask)")
        else:
            print(f"picture: {run / 'history.png'}")
            print("kept: the average of the last weights, not the best evaluation on the way")
            print(f"try next: astroformer evaluate {run}   (what it calls wrong, in pictures)")
        print(f"model: {trained.model}")


def batch_size_auto(words: list[str], given: set[str]) -> list[str]:
    """`--batch-size auto` keeps the recipe's size and leaves the parts that it is computed in to the memory."""
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        taken = 1 if value else 2
        if name.replace("_", "-") == "--batch-size" and (value or words[i + 1 : i + 2]) in ("auto", ["auto"]):
            if "accumulate" in given:
                raise UserError("--batch-size auto chooses accumulate; leave out --accumulate.")
            return [*words[:i], "--accumulate", "none", *words[i + taken :]]
    return words


def starting_recipe(rest: list[str], given: set[str]) -> Recipe:
    """The recipe that flags then change: the one that `--recipe` names, or the defaults."""
    recipe = Recipe()
    for i, word in enumerate(rest):
        if word == "--recipe" and i + 1 < len(rest):
            recipe = load_recipe(rest[i + 1])
        elif word.startswith("--recipe="):
            recipe = load_recipe(word.removeprefix("--recipe="))
    # A length on the command line replaces the recipe's, of whichever kind that was.
    if "minutes" in given and "epochs" not in given:
        recipe = recipe.model_copy(update={"epochs": None})
    if "epochs" in given and "minutes" not in given:
        recipe = recipe.model_copy(update={"minutes": None})
    named = (word.partition("=")[0].replace("-", "_").partition("__augment.") for word in rest)
    augment = recipe.augment.asked_for([name for before, flag, name in named if flag and not before])
    return recipe.model_copy(update={"augment": augment})
