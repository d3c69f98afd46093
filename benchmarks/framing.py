"""How often `frame` finds where the frame of an image begins, on images that it has not learned from.

    python benchmarks/framing.py ../shared/data
    python benchmarks/framing.py --table

Images as the network sees them, sources and settings those of `equivariance.py` at seed 0. No network is involved.
Which place is found does not depend on where a rolled image is begun (that is what is exact), so the images are taken
as they are, and how far from (0, 0) the place is that is found is how far off it is. `noise` adds white noise of a
twentieth of the standard deviation of the images, and asks how many places stay. Results are kept in
`results/framing.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from astroformer.cache import default_cache
from astroformer.images import ImageStore, measure_statistics, open_source
from astroformer.network.framing import FRAME_IMAGES, Frame
from astroformer.system import versions
from astroformer.training.measuring import preprocessing_of
from astroformer.training.recipe import load_recipe
from astroformer.training.rules import decide
from common.equivariance_studies import STUDIES
from common.rows import RESULTS

OUT = RESULTS / "framing.json"
WITHIN = (0, 1, 2, 4)  # px, along either axis
NOISE = 0.05


def measure(name: str, data: Path) -> dict[str, object]:
    study = STUDIES[name]
    source = open_source(str(data / study.train.format(a=0, b=study.per_class)))
    recipe, _ = decide(load_recipe("photo" if "photo" in study.words else "sky"), source)
    preprocessing = preprocessing_of(recipe, source)
    train = ImageStore.build(source, preprocessing, cache=default_cache())
    test = ImageStore.build(open_source(str(data / study.valid)), preprocessing, cache=default_cache())
    mean, std = measure_statistics(train.base, train.rows)

    def seen(store: ImageStore, some: np.ndarray) -> torch.Tensor:
        x_BCHW = torch.from_numpy(store.take(some)).float() / (255 if store.base.dtype == np.uint8 else 1)
        return (x_BCHW - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)

    frame = Frame()
    learned_from = np.unique(np.linspace(0, len(train) - 1, FRAME_IMAGES).astype(int))
    frame.fit(seen(train, learned_from))
    x_BCHW = seen(test, np.arange(len(test)))
    _, first_B2 = frame(x_BCHW)
    size_2 = torch.tensor(x_BCHW.shape[2:])
    off_B = torch.minimum(first_B2, size_2 - first_B2).amax(1)
    noise_BCHW = torch.randn(x_BCHW.shape, generator=torch.Generator().manual_seed(0)) * NOISE
    same_B = (frame(x_BCHW + noise_BCHW)[1] == first_B2).all(1)
    return {
        "size": list(x_BCHW.shape[2:]),
        "crop": preprocessing.crop,
        "learned from": len(learned_from),
        "images": len(test),
        "within px": {px: round((off_B <= px).float().mean().item(), 4) for px in WITHIN},
        "same under noise": round(same_B.float().mean().item(), 4),
        "versions": versions(),
    }


def table(results: dict[str, dict[str, object]]) -> str:
    lines = [
        "| data | px | learned from | asked about "
        f"| {' | '.join(f'within {px} px' for px in WITHIN)} | same with noise |",
        "|---|---|---|---|" + "---|" * (len(WITHIN) + 1),
    ]
    for name, found in results.items():
        shares = " | ".join(f"{100 * share:.1f}" for share in [*found["within px"].values(), found["same under noise"]])
        lines.append(f"| {name} | {found['size'][0]} | {found['learned from']} | {found['images']} | {shares} |")
    return "\n".join(lines).replace("within 0 px", "exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with galaxy-zoo2, cifar10 and mirabest")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        results = {name: measure(name, arguments.data) for name in STUDIES}
        OUT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(json.loads(OUT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
