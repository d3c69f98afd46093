"""The instrument: exact networks measure as exact, variant ones as an independent loop says, and nothing is hidden."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from astroformer.errors import UserError
from astroformer.evaluation.symmetry import (
    SymmetryReport,
    SymmetrySettings,
    distances,
    draw_shifts,
    frame_size,
    measure_symmetry,
    share,
    shift_range,
)
from astroformer.evaluation.symmetry.measured import MeasuredImages, MeasuredNetwork
from astroformer.evaluation.symmetry.transformations import rotate
from astroformer.evaluation.tables import symmetry_text, write_symmetry
from astroformer.images.preprocessing import Preprocessing

FAST = SymmetrySettings(shifts=6, crops=4, rotations=2, batch_size=4)


class OnTheTorus(nn.Module):
    """Stride 1, circular padding, global mean: exactly invariant to circular shifts."""

    def __init__(self, stride: int = 1, padding_mode: str = "circular") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, 8, 3, stride, 1, bias=False, padding_mode=padding_mode),
                nn.Conv2d(8, 8, 3, 1, 1, bias=False, padding_mode=padding_mode),
            ]
        )
        self.head = nn.Linear(8, 4, bias=False)

    def feature_maps(self, x_BCHW: Tensor) -> list[Tensor]:
        maps = []
        for conv in self.convs:
            x_BCHW = torch.sin(4 * conv(x_BCHW))
            maps.append(x_BCHW)
        return maps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(20 * self.feature_maps(x_BCHW)[-1].mean((2, 3)))


class OnePixel(nn.Module):
    """The channels of the pixel at the top left are the logits: as variant as can be, and easy to foresee."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW[:, :, 0, 0]


class Anchored(nn.Module):
    """Every second pixel, from the phase with the most energy on: exact, with an offset that follows the image."""

    def feature_maps_with_offsets(self, x_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        maps, offsets = [], []
        for x_CHW in x_BCHW:
            phases = {(i, j): x_CHW[:, i::2, j::2] for i in (0, 1) for j in (0, 1)}
            best = max(phases, key=lambda p: float(phases[p].double().square().sum()))
            maps.append(phases[best])
            offsets.append(best)
        return [torch.stack(maps)], [torch.tensor(offsets)]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.feature_maps_with_offsets(x_BCHW)[0][0].mean((2, 3))


def images(n: int = 7, channels: int = 3, size: tuple[int, int] = (16, 16), seed: int = 0) -> Tensor:
    """Noise about a colour of its own an image."""
    generator = torch.Generator().manual_seed(seed)
    colour_NC11 = torch.randn(n, channels, 1, 1, generator=generator)
    return torch.randn(n, channels, *size, generator=generator) + colour_NC11


def figures(report: SymmetryReport) -> str:
    return json.dumps({k: v for k, v in report.to_dict().items() if k != "settings"})


# -- what is exact measures as exact ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("size", [(16, 16), (12, 9)])
def test_an_invariant_network_is_found_invariant(dtype: str, bound: float, size: tuple[int, int]) -> None:
    report = measure_symmetry(OnTheTorus(), images(size=size), settings=dataclasses.replace(FAST, dtype=dtype))  # type: ignore[arg-type]
    shifts = report.changes["circular shifts"]
    assert report.classes_called > 1
    assert report.c_cons.value == report.c_cons.high == shifts.consistency.value == 1
    assert shifts.largest < bound
    assert shifts.relative is not None
    assert shifts.relative < bound
    assert all(m.value == 1 for m in report.distance.values())
    assert all(stage.largest < bound for stage in report.features["circular shifts"])
    assert report.features["circular shifts"][0].map == (8, *size)
    # Its kernels have an orientation, so it is not invariant to the rest.
    assert report.changes["flips"].largest > 0.1
    assert report.changes["rotations"].largest > 0.1
    assert ("quarter turns" in report.changes) == (size[0] == size[1])


@pytest.mark.parametrize("network", [OnTheTorus(stride=2), OnTheTorus(padding_mode="zeros")])
def test_stride_and_zero_padding_are_found_out(network: nn.Module) -> None:
    report = measure_symmetry(network, images(40), settings=FAST)
    assert report.c_cons.value < 0.98
    assert report.changes["circular shifts"].largest > 0.1
    assert report.features["circular shifts"][-1].mean > 0.05
    assert min(m.value for m in report.distance.values()) < 1


def test_offsets_make_the_features_of_an_anchored_network_exact() -> None:
    report = measure_symmetry(Anchored(), images(), settings=FAST)
    for name in ("circular shifts", "flips", "quarter turns"):
        assert report.features[name][0].largest == 0, name
    assert report.changes["circular shifts"].largest < 1e-6


def test_a_symmetric_kernel_is_equivariant_to_flips_and_turns_at_its_own_stride() -> None:
    class Patches(nn.Module):
        def feature_maps(self, x_BCHW: Tensor) -> list[Tensor]:
            return [nn.functional.avg_pool2d(x_BCHW, 4)]

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return self.feature_maps(x_BCHW)[0].mean((2, 3))

    report = measure_symmetry(Patches(), images(), settings=FAST)
    assert report.features["flips"][0].largest < 1e-6
    assert report.features["quarter turns"][0].largest < 1e-6
    assert report.features["circular shifts"][0].mean > 0.1


def test_a_free_rotation_by_quarter_turns_is_a_quarter_turn() -> None:
    x = images(3)
    turned = rotate(x, torch.tensor([0.5, 1.0, -0.5], dtype=torch.float64) * torch.pi, "zeros")
    for i, turns in enumerate((1, 2, -1)):
        torch.testing.assert_close(turned[i], torch.rot90(x[i], turns, (1, 2)), rtol=0, atol=1e-4)
    wide = images(1, size=(8, 16))  # isotropic in pixels: the square in the middle turns as it would alone
    middle = rotate(wide, torch.tensor([torch.pi / 2], dtype=torch.float64), "zeros")[..., 4:12]
    torch.testing.assert_close(middle, torch.rot90(wide[..., 4:12], 1, (2, 3)), rtol=0, atol=1e-4)


# -- against an independent loop -------------------------------------------------------------------------------------


def test_shares_and_changes_are_those_of_a_loop_in_numpy() -> None:
    n, size, frame = 9, (8, 6), (12, 9)
    wide = images(n, 3, frame, seed=2).numpy()
    x = wide[:, :, 2:10, 1:7]
    labels = np.array([0, 1, 2] * 3)
    settings = SymmetrySettings(shifts=4, crops=2, rotations=1, max_shift=2, batch_size=4, seed=5)
    report = measure_symmetry(OnePixel(), torch.from_numpy(x), labels, frames_NCHW=wide, settings=settings)

    shifts = draw_shifts(5, n, 4, *shift_range(size, 2))
    called = np.array([[x[i, :, -r % 8, -c % 6].argmax() for r, c in shifts[i]] for i in range(n)])
    plain = x[:, :, 0, 0].argmax(1)
    pairs = [called[i, k] == called[i, k + 1] for i in range(n) for k in (0, 2)]
    assert report.c_cons.value == pytest.approx(np.mean(pairs))
    assert report.accuracy["plain"].value == pytest.approx(np.mean(plain == labels))
    assert report.accuracy["shifted"].value == pytest.approx(np.mean(called == labels[:, None]))
    worst = [all(called[i] == labels[i]) for i in range(n)]
    assert report.accuracy["worst"].value == pytest.approx(np.mean(worst))
    moved = np.array([[x[i, :, -r % 8, -c % 6] for r, c in shifts[i]] for i in range(n)])
    largest = np.abs(moved - x[:, None, :, 0, 0]).max()
    change = report.changes["circular shifts"]
    assert change.consistency.value == pytest.approx(np.mean(called == plain[:, None]))
    assert change.largest == pytest.approx(largest)
    assert change.relative == pytest.approx(largest / x[:, :, 0, 0].std())
    corners = np.stack([x[:, :, 0, -1], x[:, :, -1, 0]])
    assert report.changes["flips"].consistency.value == pytest.approx(np.mean(corners.argmax(2) == plain))
    for px, m in report.distance.items():
        agree = [[x[i, :, -r % 8, -c % 6].argmax() == plain[i] for r, c in ((px, 0), (-px, 0), (0, px), (0, -px))]
                 for i in range(n)]  # fmt: skip
        assert np.mean(np.all(agree, 1)) <= m.value <= np.mean(np.any(agree, 1))
    # Crops: offsets lie in [0, margin − 1], and a pair of equal ones agrees.
    assert report.crop_offsets == ((0, 3), (0, 2))
    assert report.s_cons is not None
    assert 0 < report.s_cons.value < 1
    reachable = wide[:, :, :4, :3]
    assert report.changes["crops"].largest <= np.abs(reachable - wide[:, :, 2, 1][:, :, None, None]).max()


def test_share_is_the_mean_with_its_interval() -> None:
    values = np.random.default_rng(1).integers(0, 9, 400) / 8
    measured = share(values)
    assert measured.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert measured.high - measured.low == pytest.approx(2 * half, rel=0.1)
    for value in (0.0, 1.0):  # Jeffreys' interval of 5 of 5 begins at 0.62
        alike = share(np.full(5, value), resamples=20_000)
        assert alike.value == (alike.high if value else alike.low) == value
        assert (alike.low if value else 1 - alike.high) == pytest.approx(0.621, abs=0.02)


# -- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "most"), [((4, 4), None), ((5, 3), None), ((8, 8), 2)])
def test_every_shift_but_the_identity_is_drawn(size: tuple[int, int], most: int | None) -> None:
    rows, columns = shift_range(size, most)
    drawn = draw_shifts(3, 60, 100, rows, columns).reshape(-1, 2)
    expected = {(r, c) for r in range(rows[0], rows[1] + 1) for c in range(columns[0], columns[1] + 1)} - {(0, 0)}
    if most is None:
        assert {(r % size[0], c % size[1]) for r, c in expected} | {(0, 0)} == set(np.ndindex(size))
    counted = np.unique(drawn, axis=0, return_counts=True)
    assert set(map(tuple, counted[0].tolist())) == expected
    mean = 6000 / len(expected)
    assert np.abs(counted[1] - mean).max() < 5 * np.sqrt(mean)


def test_a_draw_depends_on_seed_image_and_view_alone() -> None:
    some, more = (draw_shifts(0, n, 4, (-32, 31), (-32, 31)) for n in (5, 50))
    np.testing.assert_array_equal(some, more[:5])
    assert (draw_shifts(1, 5, 4, (-32, 31), (-32, 31)) != some).any()


def test_the_same_whatever_the_batch_and_again_with_the_same_seed() -> None:
    x, wide = images(9), images(9, size=(20, 20))
    labels = np.arange(9) % 4
    reports = [
        measure_symmetry(
            OnTheTorus(stride=2), x, labels, frames_NCHW=wide, settings=dataclasses.replace(FAST, batch_size=b, seed=s)
        )
        for b, s in ((9, 0), (9, 0), (2, 0), (9, 1))
    ]
    assert figures(reports[0]) == figures(reports[1])
    for name in ("c_cons", "s_cons", "accuracy", "distance"):
        assert getattr(reports[0], name) == getattr(reports[2], name)
    for name, change in reports[0].changes.items():
        assert reports[2].changes[name].largest == pytest.approx(change.largest, rel=1e-4)
    assert figures(reports[0]) != figures(reports[3])


@pytest.mark.parametrize("side", [2, 9, 17, 32, 48, 50, 64, 65, 96, 224, 1000])
def test_distances_are_odd_and_even_up_to_half_a_side(side: int) -> None:
    found = distances((side, side + 3))
    assert (found[0], found[-1]) == (1, side // 2)
    assert sorted(set(found)) == found
    assert len(found) <= 24
    assert sum(px % 2 for px in found) >= len(found) / 3
    assert sum(px % 2 == 0 for px in found) >= len(found) // 3


def test_the_papers_crops() -> None:
    assert frame_size((224, 224)) == (256, 256)
    assert frame_size((64, 32)) == (73, 37)
    assert frame_size((4, 4)) == (6, 6)


# -- how it is computed ----------------------------------------------------------------------------------------------


def test_it_measures_in_evaluation_mode_and_restores_what_it_found() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9), OnTheTorus())
    network.train()
    network[2].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for dtype in ("float32", "float64", "bfloat16"):
        report = measure_symmetry(network, images(), settings=dataclasses.replace(FAST, dtype=dtype))  # type: ignore[arg-type]
        assert report.c_cons.value > (0.8 if dtype == "bfloat16" else 0.99)
        assert "feature errors" in report.not_measured
    assert [part.training for part in network] == [True, True, False]
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_mode_is_restored_after_an_error() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).train()
    with pytest.raises(RuntimeError):
        measure_symmetry(network, images())
    assert network.training


def test_what_is_asked_can_be_another_callable() -> None:
    def mean_over_all_shifts(network: nn.Module):  # type: ignore[no-untyped-def]
        every = [(r, c) for r in range(4) for c in range(4)]
        return lambda x: torch.stack([network(x.roll(t, (2, 3))) for t in every]).mean(0)

    x = images(size=(4, 4))
    plain = measure_symmetry(OnePixel(), x, settings=FAST)
    averaged = measure_symmetry(OnePixel(), x, settings=FAST, asked=mean_over_all_shifts)
    assert plain.c_cons.value < 1
    assert averaged.c_cons.value == 1
    assert averaged.changes["circular shifts"].largest < 1e-6


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shifts": 1}, "shifts is 1; at least 2 an image"),
        ({"crops": 0}, "crops is 0; at least 2 an image"),
        ({"rotations": 0}, "rotations is 0"),
        ({"batch_size": 0}, "batch_size is 0; at least 1 a forward pass"),
        ({"max_shift": 0}, "max_shift is 0"),
        ({"max_shift": 9}, "max_shift is 9; images of 16 × 16 px take 1 to 8"),
        ({"padding": "reflect"}, "Did you mean 'reflection'"),
        ({"dtype": "float46"}, "Did you mean 'float64'"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        measure_symmetry(OnePixel(), images(), settings=SymmetrySettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"images_NCHW": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "images are torch.uint8"),
        ({"images_NCHW": torch.zeros(0, 3, 8, 8)}, "with N of 1 or more"),
        ({"images_NCHW": torch.zeros(2, 3, 1, 8)}, "images are 1 × 8 px"),
        ({"labels_N": np.zeros(3, int)}, "labels are int64 of shape .* 2 whole numbers"),
        ({"labels_N": np.array([0, 3])}, "labels run from 0 to 3; the network's 3 classes are 0 to 2"),
        ({"frames_NCHW": torch.zeros(2, 3, 9, 10)}, "frames have shape .* 10 or more"),
        ({"images_NCHW": torch.full((2, 3, 8, 8), torch.nan)}, "are not all finite"),
        ({"module": nn.Identity()}, "have shape .* finite logits"),
    ],
)
def test_wrong_input_is_one_sentence(words: dict[str, object], says: str) -> None:
    given = {"module": OnePixel(), "images_NCHW": torch.zeros(2, 3, 8, 8)} | words
    with pytest.raises(UserError, match=says):
        measure_symmetry(**given)  # type: ignore[arg-type]


# -- what is told ----------------------------------------------------------------------------------------------------


def test_json_and_table_hold_all_that_the_figures_depend_on(tmp_path: Path) -> None:
    x, wide = images(5), images(5, size=(19, 19))
    report = measure_symmetry(OnTheTorus(), x, np.arange(5) % 4, frames_NCHW=wide, settings=FAST)
    assert report.not_measured == {}
    plain = Preprocessing((16, 16), 3)
    measured = MeasuredNetwork("a network", OnTheTorus(), "random (seed 0)", plain)
    asked = MeasuredImages("somewhere", x, wide, None, plain, 7, [("bad.png", "truncated")])
    write_symmetry(tmp_path / "s.json", report, measured, asked)
    content = json.loads((tmp_path / "s.json").read_text())
    about = {"model", "network", "weights", "preprocessing", "source", "total", "left_out", "seen"}
    assert {*about, "frame_preprocessing", *(f.name for f in dataclasses.fields(SymmetryReport))} == content.keys()
    assert (content["network"], content["total"], content["left_out"]) == ("OnTheTorus", 7, {"bad.png": "truncated"})
    assert content["settings"] == {
        **dataclasses.asdict(FAST),
        "shift_range": [[-8, 7], [-8, 7]],
        "shift_padding": "circular",
        "identity_excluded": True,
        "crop_offsets": [[0, 2], [0, 2]],
        "angles": [-180, 180],
    }
    assert content["changes"].keys() == {"circular shifts", "crops", "flips", "quarter turns", "rotations"}
    assert list(content["distance"]) == [str(px) for px in range(1, 9)]
    text = symmetry_text(report)
    for part in ("float32 on cpu, seed 0", "[−8, 7]", "(0, 0) excluded", "circular", "16 × 16 of 19 × 19 px", "[0, 2]",
                 "padding reflection", "C-Cons", "S-Cons", "worst of 6", "quarter turns"):  # fmt: skip
        assert part in text
    assert "100.00 %" in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_is_not_measured_is_said() -> None:
    report = measure_symmetry(OnePixel(), images(3, size=(8, 6)) * 0 + torch.tensor([1.0, 2, 3])[:, None, None])
    assert report.not_measured.keys() == {"accuracy", "S-Cons", "quarter turns", "feature errors"}
    text = symmetry_text(report)
    assert text.count("not measured:") == 4
    assert "called 1 of 3 classes" in text
    assert "consistency says little" in text
