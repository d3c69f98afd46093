"""How many turned and mirrored views `shift+d4` has to average: accuracy, NLL and time by the number of views.

    python benchmarks/views.py ../shared/data/galaxy-zoo2/valid RUN…
    python benchmarks/views.py --table

RUN are run folders of `benchmarks/equivariance.py` (Galaxy Zoo 2), `ARM-SEED` each. The images chose nothing: neither
the networks nor the views, whose choice is a formula. Processor time of one thread, all counts in turn, medians over
batches. One row a run is written to `results/views.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import astroformer
from astroformer.allocator import keep_freed_memory
from astroformer.cache import default_cache
from astroformer.fast_pass import fast_pass
from astroformer.images import ImageStore, open_source
from astroformer.metrics import score
from astroformer.network import Answers, AnswersConfig
from astroformer.network.config import VIEWS
from astroformer.system import versions
from common.rows import RESULTS

OUT = RESULTS / "views.jsonl"
BATCH = 64


def measure(run: Path, data: str) -> dict[str, object]:
    """Scores in percent and ms an image, by the number of views; 0 is the image as it is."""
    classifier = astroformer.load(run / "model")
    images = open_source(data, classes=classifier.classes)
    store = ImageStore.build(images, classifier.preprocessing, cache=default_cache())
    asked = classifier.network
    network = asked.network if isinstance(asked, Answers) else asked
    passes = {0: fast_pass(network)}
    for views in VIEWS:
        passes[views] = fast_pass(Answers(network, AnswersConfig(symmetry="shift+d4", views=views)))
    logits: dict[int, list[torch.Tensor]] = {views: [] for views in passes}
    seconds: dict[int, list[float]] = {views: [] for views in passes}
    for start in range(0, len(store), BATCH):
        x_BCHW = classifier.preprocessing.normalize(
            torch.from_numpy(store.take(np.arange(start, min(start + BATCH, len(store)))))
        )
        for views, answer in passes.items():
            began = time.process_time()
            logits[views].append(answer(x_BCHW))
            seconds[views].append((time.process_time() - began) / len(x_BCHW))
    row: dict[str, object] = {"run": run.name, "images": len(store), "versions": versions()}
    for views in passes:
        probabilities_NK = torch.cat(logits[views]).double().softmax(1).numpy()
        metrics = score(store.labels, probabilities_NK, store.classes).metrics
        row[f"views {views}"] = {
            "accuracy": round(metrics["top1"].value, 5),
            "balanced_accuracy": round(metrics["balanced_accuracy"].value, 5),
            "nll": round(metrics["nll"].value, 5),
            "ms": round(1000 * float(np.median(seconds[views])), 3),
        }
    return row


def table() -> str:
    """Mean ± standard deviation over the seeds of an arm; time as its ratio to that of the image as it is."""
    rows = [json.loads(line) for line in OUT.read_text(encoding="utf-8").splitlines()]
    lines = ["| network | views | n | accuracy | NLL | time |", "|---|---|---|---|---|---|"]
    for arm in dict.fromkeys(row["run"].rsplit("-", 1)[0] for row in rows):
        some = [row for row in rows if row["run"].rsplit("-", 1)[0] == arm]
        for views in (0, *VIEWS):
            of = [row[f"views {views}"] for row in some]
            accuracy, nll = 100 * np.array([v["accuracy"] for v in of]), np.array([v["nll"] for v in of])
            ratio = np.median([row[f"views {views}"]["ms"] / row["views 0"]["ms"] for row in some])
            spread = f" ± {accuracy.std(ddof=1):.1f}" if len(some) > 1 else ""
            lines.append(
                f"| {arm} | {views or 'as it is'} | {len(some)} | {accuracy.mean():.1f}{spread} | {nll.mean():.3f} "
                f"| {ratio:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="labelled images that the runs were not trained on")
    parser.add_argument("runs", nargs="*", type=Path, help="run folders named ARM-SEED")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for run in [] if arguments.table else arguments.runs:
        with OUT.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(measure(run, arguments.data)) + "\n")
    print(table())


if __name__ == "__main__":
    main()
