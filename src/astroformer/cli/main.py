"""The words a user types: `astroformer train | predict | evaluate | symmetry | info`.

Exit status: 0 done; 2 an error the user can mend, one sentence on stderr; 1 ours; 130 or 143 stopped by a signal.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from astroformer.cli.arguments import given_options, parse
from astroformer.errors import UserError, unknown_name
from astroformer.training.recipe import Recipe, load_recipe
from astroformer.training.task import TaskWords

if TYPE_CHECKING:
    from astroformer.training.ensemble import TrainedEnsemble
    from astroformer.training.single import Trained
    from astroformer.training.study import TrainedStudy


@contextlib.contextmanager
def _first_imports() -> Iterator[None]:
    """Around a command's imports: what they make stays, so Python's collector looks at it neither now nor at the end.

    A third of what torch costs at the start and at the exit goes into that. A program that has imported torch already
    is left as it is.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass
class Train:
    """Train a classifier from a SOURCE of labelled images and write a run folder with the model in it.

    A SOURCE is a folder of class folders, an .npz file, a CSV or Parquet catalog, mock-galaxies, or a published set by
    name (astroformer info --data).
    """

    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = None
    """what to train on"""
    valid: str | None = None
    """what to validate on; without it a share of each class of SOURCE is held out"""
    out: Path | None = None
    """run folder, new or empty; default runs/NAME-1, -2, ..."""
    recipe: str | None = None
    """recipe file (YAML), or sky (the default) or photo"""
    seeds: int = 1
    """so many runs at once, with the seeds from --seed on; OUT then holds a run folder each"""
    all_folds: bool = False
    """a run for each of the --folds (times --seeds)"""
    ensemble: int | None = None
    """so many networks with the seeds from --seed on, on one split, kept as one model that answers with the mean of
    their probabilities; --minutes is the length of each, side by side on a CPU with a share of its cores"""
    together: Literal["auto", "processes", "in-turn", "stacked"] = "auto"
    """how several runs share the device: side by side as processes (auto on a CPU), or one after the other (auto on a
    GPU); stacked is no longer there"""
    resume: Path | None = None
    """run folder, of one run, of several or of an ensemble, to continue as it was"""
    init_from: Path | None = None
    """model folder whose weights start this run"""
    distil: Path | None = None
    """folder of a finished run, above all of an ensemble: one network learns what its model answers, on the same images
    and split, for as long as a member (or for the --epochs or --minutes given)"""
    strict: bool = False
    """make an unreadable file an error instead of leaving it out"""
    cache: Path | None = None
    """where decoded images are kept"""
    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""
    settings: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)

    def run(self, given: set[str]) -> None:
        self._check_alone(given)
        if self.distil is not None:
            self._distil(given)
            return
        if self.resume is None and self.source is None:
            raise UserError("no SOURCE given: a folder of class folders, an .npz, a catalog, or a set by name.")
        self._check_ensemble(given)
        with _first_imports():
            from astroformer.progress import Reporter
            from astroformer.training.ensemble import train_ensemble
            from astroformer.training.study import TrainedStudy, seeds_and_folds, train_many
            from astroformer.training.train import resume, train

        reporter = Reporter(quiet=self.quiet)
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

    def _check_alone(self, given: set[str]) -> None:
        """--resume and --distil bring source and settings with them."""
        said = {"quiet", "debug", "no-quiet", "no-debug"}
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
        with _first_imports():
            from astroformer.progress import Reporter
            from astroformer.training.distil import distil

        words = {name: getattr(self.settings, name) for name in ("epochs", "minutes", "seed") if name in given}
        with Reporter(quiet=self.quiet) as reporter:
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

        from astroformer.training.ensemble import TrainedEnsemble

        if not PartialState().is_main_process:
            return
        if isinstance(trained, TrainedEnsemble):
            print(trained.members.table())
            print(f"ensemble of {len(trained.members.models)}:")
        n = trained.validation.n
        for name, words in (("top1", "top-1"), ("balanced_accuracy", "balanced accuracy")):
            m = trained.validation.metrics[name]
            print(f"validation {words:<18}{m.value:6.1%}   (95 % interval {m.low:.1%} to {m.high:.1%}, n = {n:,})")
        print(f"try next: astroformer predict {trained.model} IMAGES --out predictions.csv")
        if isinstance(trained, TrainedEnsemble):
            print(f"      or: astroformer train --distil {trained.run}   (one network of its answers, faster to ask)")
        print(f"model: {trained.model}")


@dataclass
class Predict:
    """Classify images with a trained MODEL: one row a file; unreadable files are rows with a reason."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """model folder, or the run folder that holds it"""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """image, folder, .npz, catalog, or a set by name: mock-galaxies, cifar10:test"""
    out: Path
    """file to write, .csv or .parquet"""
    batch_size: int = 64
    """images a forward pass, at most"""
    device: str = "auto"
    """auto, cpu or cuda"""
    precision: str = "float32"
    """float32, bfloat16 (may be faster; probabilities differ in the third digit) or auto (what is faster here)"""
    symmetry: str | None = None
    """shift: of the image alone, the fastest; shift+mirror, shift+d4: averaged over its mirror image, over turned and
    mirrored views; none: as the model says"""
    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""

    def run(self, given: set[str]) -> None:
        with _first_imports():
            from astroformer.classifier import load
            from astroformer.evaluation.tables import PredictionWriter
            from astroformer.images.sources import open_source
            from astroformer.progress import Reporter

        classifier = load(self.model, self.device, precision=self.precision, symmetry=self.symmetry)
        failed = done = 0
        with contextlib.ExitStack() as stack:
            reporter = stack.enter_context(Reporter(quiet=self.quiet))
            images = open_source(self.source, labelled=False, listener=reporter)
            writer = stack.enter_context(PredictionWriter(self.out, classifier.classes))
            for part in classifier.iter_predict(images, batch_size=self.batch_size):
                writer.write(part)
                done += len(part)
                failed += int((~part.readable_N).sum())
                reporter.count("predicting", done, len(images))
        print(
            f"{done - failed:,} predictions"
            + (f", {_files(failed)} could not be read (column error says why)" if failed else "")
        )
        print(f"predictions: {self.out}")


@dataclass
class Evaluate:
    """Measure a trained MODEL on labelled images: metrics with 95 % intervals and the confusion matrix."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """model folder, or the run folder that holds it"""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """labelled images: class folders, .npz, catalog, or a set by name: mock-galaxies, cifar10:test"""
    out: Path
    """folder for metrics.json, confusion.txt, confusion.png, predictions.csv"""
    batch_size: int = 64
    """images a forward pass, at most"""
    device: str = "auto"
    """auto, cpu or cuda"""
    precision: str = "float32"
    """float32, bfloat16 (may be faster; probabilities differ in the third digit) or auto (what is faster here)"""
    symmetry: str | None = None
    """shift: of the image alone, the fastest; shift+mirror, shift+d4: averaged over its mirror image, over turned and
    mirrored views; none: as the model says"""
    strict: bool = False
    """make an unreadable file an error instead of leaving it out"""
    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""

    def run(self, given: set[str]) -> None:
        with _first_imports():
            from astroformer.classifier import load
            from astroformer.evaluation.pictures import plot_confusion
            from astroformer.evaluation.tables import PredictionWriter, confusion_text, metrics_text, write_metrics
            from astroformer.images.sources import open_source
            from astroformer.progress import Reporter

        classifier = load(self.model, self.device, precision=self.precision, symmetry=self.symmetry)
        with Reporter(quiet=self.quiet) as reporter:
            images = open_source(self.source, classes=classifier.classes, listener=reporter)
            _make_folder(self.out)
            evaluation, predictions = classifier.evaluate(
                images,
                batch_size=self.batch_size,
                strict=self.strict,
                progress=lambda done, total: reporter.count("evaluating", done, total),
            )
        left_out = int((~predictions.readable_N).sum())
        write_metrics(self.out / "metrics.json", evaluation, {"source": self.source, "left_out": left_out})
        with PredictionWriter(self.out / "predictions.csv", classifier.classes) as writer:
            writer.write(predictions)
        text = f"{metrics_text(evaluation)}\n\n{confusion_text(evaluation)}"
        (self.out / "confusion.txt").write_text(confusion_text(evaluation) + "\n", encoding="utf-8")
        plot_confusion(evaluation, self.out / "confusion.png")
        print(text)
        if left_out:
            print(f"\n{_files(left_out)} could not be read, left out; {self.out / 'predictions.csv'} says why")
        print(f"\nevaluation: {self.out}")


@dataclass
class Symmetry:
    """Measure how a MODEL's answers change when the image is shifted, cropped, flipped, turned or rotated.

    MODEL is a model folder (or its run folder), a variant by name or timm:NAME; networks by name have random weights.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """model folder, variant, or timm:NAME (timm:resnet18)"""
    data: str | None = None
    """images: class folders, .npz, catalog; labelled for a model folder. Without it mock galaxies"""
    out: Path = Path("symmetry")
    """folder for symmetry.json and symmetry.png"""
    images: int = 256
    """images to measure on, at most; drawn with the seed"""
    seed: int = 0
    """of all that is drawn"""
    shifts: int = 16
    """circular shifts an image, the n of worst-of-n"""
    max_shift: int | None = None
    """largest circular shift in px; default every shift of the torus"""
    crops: int = 8
    """crops an image"""
    rotations: int = 8
    """free rotations an image"""
    padding: Literal["reflection", "border", "zeros"] = "reflection"
    """what a rotated image shows beyond its frame"""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """of weights and images; bfloat16 is autocast"""
    image_size: int | None = None
    """side in px, of a network by name"""
    num_classes: int | None = None
    """classes of a network by name; default 10, of a pretrained one its own"""
    pretrained: bool = False
    """load timm's weights, from the internet"""
    equivariance: str | None = None
    """none, centre, anchor or input, of a variant by name"""
    symmetry: str | None = None
    """shift, shift+mirror or shift+d4, of a variant or a model folder in place of its own"""
    batch_size: int = 64
    """images a forward pass"""
    device: str = "auto"
    """auto, cpu or cuda"""
    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""

    def run(self, given: set[str]) -> None:
        from astroformer.evaluation.pictures import plot_symmetry
        from astroformer.evaluation.subjects import open_subject, read_inputs
        from astroformer.evaluation.symmetry import SymmetrySettings, measure_symmetry, shift_range
        from astroformer.evaluation.tables import symmetry_text, write_symmetry
        from astroformer.network import Astroformer, Ensemble
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
            batch_size=self.batch_size,
        )
        device = pick_device(self.device)
        subject = open_subject(
            self.model,
            image_size=self.image_size,
            num_classes=self.num_classes,
            pretrained=self.pretrained,
            equivariance=self.equivariance,
            symmetry=self.symmetry,
            seed=self.seed,
        )
        shift_range(subject.preprocessing.image_size, self.max_shift)
        with Reporter(quiet=self.quiet) as reporter:
            inputs = read_inputs(subject, self.data, images=self.images, seed=self.seed, listener=reporter)
            _make_folder(self.out)
            report = measure_symmetry(
                subject.network,
                inputs.images_NCHW,
                inputs.labels_N,
                frames_NCHW=inputs.frames_NCHW,
                settings=settings,
                device=device,
                progress=lambda done, total: reporter.count("measuring", done, total),
            )
        about = {
            "model": subject.name,
            "network": type(subject.network).__name__,
            "weights": subject.weights,
            "source": inputs.source,
            "total": inputs.total,
            "left_out": dict(inputs.left_out),
            "preprocessing": subject.preprocessing.to_dict(),
            "frame_preprocessing": inputs.frame_preprocessing.to_dict(),
        }
        write_symmetry(self.out / "symmetry.json", report, about)
        place = Path(subject.name)  # of a folder's path the end is what tells
        label = place.resolve().parent.name if place.name == "model" else place.name
        plot_symmetry({label: report}, self.out / "symmetry.png")
        how = "as it is"
        if isinstance(subject.network, Astroformer | Ensemble):
            config = subject.network.config
            if (config.group, config.equivariance, config.symmetry) != ("none", "none", "shift"):
                how = f"(group {config.group}, equivariance {config.equivariance}, symmetry {config.symmetry})"
        print(f"{subject.name}: {type(subject.network).__name__} {how}, {subject.weights} weights")
        print(f"{inputs.source}: {report.n:,} of {inputs.total:,} images, drawn with seed {self.seed}")
        print(f"{symmetry_text(report)}")
        if inputs.left_out:
            print(f"\n{_files(len(inputs.left_out))} could not be read, left out; symmetry.json says why")
        print(f"\nsymmetry: {self.out}")


@dataclass
class Info:
    """Describe a MODEL folder or a variant by name (layers, parameters, multiply-accumulates), or this machine."""

    model: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = None
    """model folder or variant; without it a table of all variants"""
    image_size: int | None = None
    """side in px to count multiply-accumulates at"""
    num_classes: int = 10
    """classes of a variant's head"""
    system: bool = False
    """describe this machine instead: processor, measured speed, native kernels, CUDA devices"""
    data: bool = False
    """list the published data sets that are known by name"""
    json: bool = False
    """print JSON"""
    debug: bool = False
    """show tracebacks"""

    def run(self, given: set[str]) -> None:
        if self.system:
            self._tell_system(given)
            return
        if self.data:
            self._tell_data(given)
            return
        with _first_imports():
            from astroformer.classifier import load
            from astroformer.network import VARIANTS, Astroformer, Ensemble
            from astroformer.network.counting import describe

        size = None if self.image_size is None else (self.image_size, self.image_size)
        rows: list[dict[str, Any]]
        if self.model is None or self.model in VARIANTS:
            names = list(VARIANTS) if self.model is None else [self.model]
            rows = [describe(name, size=size, num_classes=self.num_classes) for name in names]
        elif Path(self.model).exists():
            classifier = load(self.model)
            network = classifier.network
            assert isinstance(network, Astroformer | Ensemble)
            described = describe(str(classifier.info.get("name", "model")), config=network.config, size=size)
            if isinstance(network, Ensemble):
                described["members"] = members = len(network.members)
                described |= {name: members * described[name] for name in ("parameters", "macs")}
            rows = [
                {
                    **described,
                    "classes": list(classifier.classes),
                    "preprocessing": classifier.preprocessing.to_dict(),
                    **{k: v for k, v in classifier.info.items() if k not in ("name", "parameters")},
                }
            ]
        else:
            raise unknown_name("model folder or variant", self.model, VARIANTS)
        if self.json:
            print(json.dumps(rows if len(rows) > 1 else rows[0], indent=2))
        elif self.model is None:
            print(f"{'variant':<18}{'layout':>7}{'size':>6}{'params M':>10}{'GMAC':>9}   widths, depths")
            for row in rows:
                print(
                    f"{row['name']:<18}{row['layout']:>7}{row['image_size'][0]:>6}{row['parameters'] / 1e6:>10.2f}"
                    f"{row['macs'] / 1e9:>9.3f}   {row['widths']}, {row['depths']}"
                )
        else:
            for line in _lines(rows[0]):
                print(line)

    def _alone(self, given: set[str], flag: str, does: str) -> None:
        extra = given - {flag, "json", "debug"}
        if self.model is not None or extra:
            what = f"'{self.model}'" if self.model is not None else f"--{min(extra)}"
            raise UserError(f"--{flag} {does}; leave out {what}.")

    def _tell_data(self, given: set[str]) -> None:
        self._alone(given, "data", "lists the published data sets")
        from astroformer.images.sets import NAMED_SETS

        rows = [declared.to_dict() for declared in NAMED_SETS.values()]
        if self.json:
            print(json.dumps(rows, indent=2))
            return
        print(f"{'name':<17}{'images':<29}{'classes':>7}{'MB':>7}   licence")
        for row in rows:
            images = ", ".join(f"{name} {n:,}" for name, n in row["images"].items())
            print(f"{row['name']:<17}{images:<29}{row['classes']:>7}{row['bytes'] / 1e6:>7,.0f}   {row['licence']}")

    def _tell_system(self, given: set[str]) -> None:
        self._alone(given, "system", "describes this machine")
        with _first_imports():
            from astroformer.system import describe_system

        row = describe_system()
        print(json.dumps(row, indent=2) if self.json else "\n".join(_lines(row)))


def _make_folder(folder: Path) -> None:
    """Before the work, so that it can't be in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder '{folder}' can't be made: {error.strerror}.") from None


def _files(n: int) -> str:
    return f"{n:,} file" + ("s" if n != 1 else "")


def _lines(row: dict[str, Any], indent: str = "") -> list[str]:
    """A description as aligned lines; groups are indented, a measured value stands with its interval or deviation."""
    lines = []
    for key, value in row.items():
        head = f"{indent + key:<20} "
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
            lines.append(f"{head}{value['value']:.4f} (95 % interval {value['low']:.4f} to {value['high']:.4f})")
        elif isinstance(value, dict) and value.keys() == {"mean", "sd", "n"}:
            lines.append(f"{head}{value['mean']:.4f} ± {value['sd']:.4f} (mean ± sd, n = {value['n']})")
        elif isinstance(value, dict):
            lines += [head.rstrip(), *_lines(value, indent + "  ")]
        elif isinstance(value, list):
            words = (f"{v:.4g}" if isinstance(v, float) else "×".join(map(str, v)) if isinstance(v, list) else str(v)
                     for v in value)  # fmt: skip
            lines.append(head + ", ".join(words))
        elif isinstance(value, int) and not isinstance(value, bool):
            lines.append(f"{head}{value:,}")
        else:
            lines.append(f"{head}{'-' if value is None else value}")
    return lines


_COMMANDS: dict[str, tuple[type[Any], str]] = {
    "train": (Train, "train a classifier from a folder of labelled images"),
    "predict": (Predict, "classify images with a trained model"),
    "evaluate": (Evaluate, "measure a trained model on labelled images"),
    "symmetry": (Symmetry, "measure what shifts, crops, flips and turns do to a model's answers"),
    "info": (Info, "describe a model folder, the network variants, the data sets by name or this machine"),
}


_NO_ROOM_OR_RIGHT = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        command, given = _parse(arguments)
        if command is not None:
            command.run(given)
        return 0
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM_OR_RIGHT:
            if debug:
                traceback.print_exc()
            print(f"error: '{error.filename or 'the output'}' can't be written: {error.strerror}.", file=sys.stderr)
            return 2
        from astroformer.training.stopping import Interrupted

        if isinstance(error, Interrupted):
            print(error, file=sys.stderr)
            return 128 + error.number
        if debug:
            traceback.print_exc()
        else:
            print(
                f"error: {type(error).__name__}: {error}. This is a fault of astroformer, not yours; "
                "run again with --debug and report what it prints.",
                file=sys.stderr,
            )
        return 1


def _parse(arguments: list[str]) -> tuple[Any, set[str]]:
    """The command that `arguments` spell, and the names of the flags that were given."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("Astroformer: train an image classifier from scratch on the few labelled images you have.\n")
        for name, (_, what) in _COMMANDS.items():
            print(f"  astroformer {name:<9} {what}")
        print("\nastroformer COMMAND --help lists the words of a command.")
        return None, set()
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("astroformer"))
        return None, set()
    if arguments[0] not in _COMMANDS:
        raise unknown_name("command", arguments[0], _COMMANDS)
    name, words = arguments[0], arguments[1:]
    given = given_options(words)
    if name == "train":
        words = _batch_size_auto(words, given)
    if name == "train":
        return parse(Train, words, name, Train(settings=_starting_recipe(words, given))), given
    return parse(_COMMANDS[name][0], words, name), given


def _batch_size_auto(words: list[str], given: set[str]) -> list[str]:
    """`--batch-size auto` keeps the recipe's size and leaves the parts that it is computed in to the memory."""
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        taken = 1 if value else 2
        if name.replace("_", "-") == "--batch-size" and (value or words[i + 1 : i + 2]) in ("auto", ["auto"]):
            if "accumulate" in given:
                raise UserError("--batch-size auto chooses accumulate; leave out --accumulate.")
            return [*words[:i], "--accumulate", "none", *words[i + taken :]]
    return words


def _starting_recipe(rest: list[str], given: set[str]) -> Recipe:
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


if __name__ == "__main__":
    sys.exit(main())
