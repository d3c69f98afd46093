"""The paper's own questions as arms of `low_data.py --study NAME`: what each changes, and what stays equal.

An arm is a few words of the recipe of our network (or a peer of the grid); all else is the default. Where words say
something of the network, what they leave open is as in the paper (squeeze and excitation, position bias): no arm starts
from convolutions alone without channel attention, the default for few images but for some of the sky. Runs of a study
are equally long in training FLOPs, unless another length is asked for: an arm that costs more sees fewer images.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.peers import OURS


@dataclass(frozen=True)
class Study:
    """What is asked, the arms by the name that tables give them, and peers that are shown beside them."""

    question: str
    arms: dict[str, str]
    peers: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        return (OURS, *self.peers)


# Without what long runs alone have: arms of equal FLOPs differ in epochs (143 to 166 on CIFAR-10), some would have it.
_AT_ANY_LENGTH = "augment.policy=none augment.mix_probability=0"


def _widths(layout: str, *widths: int) -> str:
    return f"network.layout={layout} network.widths=[{','.join(map(str, widths))}] {_AT_ANY_LENGTH}"


TRAINING_FLOPS = 1e13  # of a run: with atto 260 epochs of 250 images of 64 px

STUDIES = {
    # Widths nearest to atto's (in the ratios of the stages) that have its 0.494 M parameters, or its 36.0 MMAC at
    # 64 px, to within 1 % of it; those of a Transformer stage are multiples of the heads' 16 channels.
    "layouts": Study(
        "Which stages should be convolutions (C) and which Transformers (T)?",
        {
            "CCCT": f"network.layout=CCCT {_AT_ANY_LENGTH}",
            "CCCC, equal parameters": _widths("CCCC", 32, 48, 84, 100),
            "CCTT, equal parameters": _widths("CCTT", 24, 36, 80, 96),
            "CTTT, equal parameters": _widths("CTTT", 28, 32, 80, 96),
            "CCCC, equal MACs": _widths("CCCC", 36, 52, 88, 108),
            "CCTT, equal MACs": _widths("CCTT", 28, 40, 80, 80),
            "CTTT, equal MACs": _widths("CTTT", 24, 48, 64, 96),
            "TTTT, equal parameters": _widths("TTTT", 32, 64, 64, 96),
        },
    ),
    "parts": Study(
        "What are the position bias and the attention of channels worth?",
        {
            "CCCT": f"network.layout=CCCT {_AT_ANY_LENGTH}",
            "no relative bias": f"network.relative_bias=false {_AT_ANY_LENGTH}",
            "no channel attention": f"network.channel_attention=none {_AT_ANY_LENGTH}",
            "CBAM": f"network.channel_attention=cbam {_AT_ANY_LENGTH}",
        },
    ),
    "scale": Study(
        "How does accuracy grow with parameters and FLOPs?",
        {
            "atto / 2": _widths("CCCT", 16, 24, 40, 48),
            "atto": f"model=astroformer_atto {_AT_ANY_LENGTH}",
            "pico": f"model=astroformer_pico {_AT_ANY_LENGTH}",
            "nano": f"model=astroformer_nano {_AT_ANY_LENGTH}",
        },
        peers=("ResNet-18", "WRN-16-2", "WRN-16-4", "CCT-4/3x2", "CCT-7/3x1", "CoAtNet", "ConvNeXt-atto"),
    ),
}


CONVOLUTIONS = "C-C-C-C"


def kind_of_network(words: str) -> str | None:
    """What `hybrid.txt` compares, by the words of an arm; None for an arm of other widths."""
    settings = dict(word.split("=", 1) for word in words.split())
    if "network.widths" in settings or "network.layout" not in settings:
        return None
    layout = "-".join(settings["network.layout"])
    return f"{layout}, hybrid" if settings.get("network.transformer") == "hybrid" else layout


def arm_name(words: str) -> str | None:
    """What a study calls an arm of these words; None if it is in no study."""
    for study in STUDIES.values():
        for name, some in study.arms.items():
            if some and some == words:
                return name
    return None
