"""Does a model see that a galaxy is of a class that it was never taught?

    python benchmarks/left_out_class.py ../shared/data
    python benchmarks/left_out_class.py --table

Each class of Galaxy Zoo 2 is left out in turn: a model learns the other four by `astroformer train`, and is asked about
the test images of all five. AUROC: how often the score of an image of the unknown class is higher than that of one of
the known classes. Beside novelty stand the usual scores. One row a class, in `results/left_out_class.jsonl`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from astroformer.classifier import Classifier
from astroformer.images import open_source
from common.command import checked, data_or_table
from common.machine import code_version, processor
from common.rows import RESULTS, Row, append_row, read_rows
from common.trust_scores import auroc, energy, heads, least_sure, logits_of

OUT = RESULTS / "left_out_class.jsonl"
EPOCHS = 18


def measure(left_out: str, data: Path) -> Row:
    """Trains on all classes but one."""
    galaxies = data / "galaxy-zoo2"
    with tempfile.TemporaryDirectory() as place:
        known = Path(place) / "train"
        known.mkdir()
        for folder in (galaxies / "train").iterdir():
            if folder.is_dir() and folder.name != left_out:
                (known / folder.name).symlink_to(folder.resolve())
        run = Path(place) / "run"
        words = [str(known), "--epochs", str(EPOCHS), "--out", str(run)]
        done = subprocess.run(
            ["astroformer", "train", *words],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise RuntimeError(f"astroformer train {' '.join(words)}: {done.stderr[-1500:]}")
        model, tested = Classifier.load(run), open_source(galaxies / "valid")
        raw = Classifier.load(run, calibration="none")
        logits_NK = logits_of(raw, [tested.read(i) for i in range(len(tested))])
        novelty_N = model.predict(tested, quiet=True).novelty_N
        assert novelty_N is not None
        scores = {"novelty": novelty_N, "confidence": least_sure(logits_NK), "energy": energy(logits_NK)}
    unknown_N = tested.labels == tested.classes.index(left_out)
    return {
        "left_out": left_out,
        "epochs": EPOCHS,
        "unknown_images": int(unknown_N.sum()),
        "known_images": int((~unknown_N).sum()),
        **{name: auroc(score_N[~unknown_N], score_N[unknown_N]) for name, score_N in scores.items()},
        "beyond": round(float((novelty_N[unknown_N] > 1).mean()), 4),
        "known_beyond": round(float((novelty_N[~unknown_N] > 1).mean()), 4),
        "processor": processor("cpu"),
        "code": code_version(),
    }


def table(rows: list[Row]) -> str:
    lines = heads("class that was left out", "AUROC of novelty", "beyond 1, %", "of the confidence", "of the energy")
    for row in rows:
        cells = [row["left_out"], f"{row['novelty']:.3f}", f"{100 * row['beyond']:.0f}"]
        cells += [f"{row[name]:.3f}" for name in ("confidence", "energy")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    arguments = checked(data_or_table(__doc__, "folder with galaxy-zoo2"))
    if not arguments.table:
        done = {row["left_out"] for row in read_rows(OUT)}
        for name in open_source(arguments.data / "galaxy-zoo2" / "train").classes:
            if name not in done:
                append_row(OUT, measure(name, arguments.data), whole=True)
    print(table(read_rows(OUT)))


if __name__ == "__main__":
    main()
