"""What graphs of bfloat16 and of 8 bits lose on real images, of models that were trained to the end.

    python benchmarks/precisions.py ../shared/data --work FOLDER    # models of trust.py that have no row yet
    python benchmarks/precisions.py --table

The models are those of `trust.py` (FOLDER is its --work, and those that it lacks are trained). Each is exported to
OpenVINO as `astroformer export` does it, on the images that were held out to calibrate it, and asked about test images,
which choose nothing. Where the export is refused, the row says why.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.export.exporting import export
from astroformer.images.labelled import LabelledImages
from astroformer.images.sources import open_source
from astroformer.kept_graphs import PRECISIONS
from astroformer.metrics import nll_N
from common.command import checked, data_or_table
from common.rows import RESULTS, Row, append_row, read_rows
from trust import OURS, SPLITS, Job, is_done, some_of, train_ours

OUT = RESULTS / "precisions.jsonl"
ASKED = {"bfloat16": "bf16", "int8": "int8"}


def scores(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    right = float((probabilities_NK.argmax(1) == labels_N).mean())
    return {"accuracy": round(right, 4), "nll": round(float(nll_N(labels_N, probabilities_NK).mean()), 4)}


def row_of(job: Job, precision: str, data: Path, work: Path) -> Row:
    _, valid, test = SPLITS[job.data].sources(data, job.seed)
    row: Row = {"data": job.data, "seed": job.seed, "precision": precision}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shutil.copytree(job.place(work) / "model", folder)
        by_torch = Classifier.load(folder, runtime="torch")
        held_out, tested = (open_source(source, classes=by_torch.classes) for source in (valid, test))
        tested = some_of(tested)
        started = time.monotonic()
        try:
            [written] = export(by_torch, held_out, to="openvino", precision=PRECISIONS[precision], takes="prepared")
        except UserError as error:
            return row | {"held_out_images": len(held_out), "refused": str(error)}
        row |= {"held_out_images": len(held_out), "seconds": round(time.monotonic() - started)}
        if written.scores is not None:
            row["held_out"] = dict(zip(("before", "after"), (s.to_dict() for s in written.scores), strict=True))
        by_graph = Classifier.load(folder, runtime="openvino", precision=precision)
        return row | _beside(by_torch, by_graph, tested)


def _beside(by_torch: Classifier, by_graph: Classifier, tested: LabelledImages) -> Row:
    before_NK, after_NK = (model.predict(tested, quiet=True).probabilities_NK for model in (by_torch, by_graph))
    assert tested.labels is not None
    return {
        "test_images": len(tested),
        "before": scores(before_NK, tested.labels),
        "after": scores(after_NK, tested.labels),
        "largest": round(float(np.abs(before_NK - after_NK).max()), 4),
        "agreement": round(float((before_NK.argmax(1) == after_NK.argmax(1)).mean()), 4),
    }


def table(rows: list[Row]) -> str:
    named = ["test images", "precision", "accuracy before, %", "after, %", "log loss before", "after"]
    named += ["same class, %", "models written"]
    lines = [f"| {' | '.join(named)} |", "|---" * len(named) + "|"]
    for data in dict.fromkeys(row["data"] for row in rows):
        for precision in ASKED:
            of = [row for row in rows if (row["data"], row["precision"]) == (data, precision)]
            good = [row for row in of if "refused" not in row]
            if not of:
                continue
            cells = [f"{good[0]['test_images']:,} of {data}" if good else data, precision]
            for what, scale in (("accuracy", 100), ("nll", 1)):
                cells += [_mean([scale * row[side][what] for row in good], scale) for side in ("before", "after")]
            cells += [_mean([100 * row["agreement"] for row in good], 100), f"{len(good)} of {len(of)}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: list[float], scale: int) -> str:
    return f"{np.mean(values):.{1 if scale > 1 else 3}f}" if values else ""


def main() -> None:
    parser = data_or_table(__doc__, "folder with galaxy-zoo2, cifar10 and mirabest")
    parser.add_argument("--work", type=Path, help="the folder of models of trust.py")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = checked(parser)
    if not arguments.table:
        known = {(row["data"], row["seed"], row["precision"]) for row in read_rows(OUT)}
        for seed in range(arguments.seeds):
            for data in SPLITS:
                job = Job(data, OURS, seed)
                if not is_done(job, arguments.work):
                    train_ours(job, arguments.data, arguments.work)
                for precision in ASKED:
                    if (data, seed, precision) not in known:
                        append_row(OUT, row_of(job, precision, arguments.data, arguments.work), whole=True)
                        print(f"{data}, seed {seed}, {precision}", flush=True)
    print(table(read_rows(OUT)))


if __name__ == "__main__":
    main()
