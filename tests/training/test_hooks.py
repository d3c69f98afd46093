"""Functions of a program that a run calls: what they are given, and how a run goes on with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import astroformer
from astroformer.errors import UserError
from astroformer.training.hooks import Hooks, augmented
from astroformer.training.recipe import Recipe, make_recipe
from astroformer.training.run import RunFolder
from astroformer.training.study import Study
from helpers.command_line import Run

SOURCE = "mock-galaxies:40x32"
STEPS = 8  # an epoch


def recipe(**changes: Any) -> Recipe:
    network = {"widths": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layout": "CCCC", "channel_attention": "none"}
    settings = {"model": "astroformer_atto", "network": network, "image_size": 32, "crop": 1.0, "device": "cpu"}
    length = {"epochs": 2, "batch_size": 4, "evaluations": 2, "checkpoint_seconds": 0}
    return make_recipe({**settings, **length, **changes})


def noisy(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    return x_BCHW + 0.1 * torch.randn(x_BCHW.shape, generator=generator)


def unchanged(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    return x_BCHW


class StopError(Exception):
    """Ends a run in the middle."""


class Stopping:
    """`noisy`, but for a call that ends the run."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise StopError
        return noisy(x_BCHW, generator)


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def with_noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return astroformer.train(SOURCE, recipe(), out=tmp_path_factory.mktemp("hooks") / "noise", augment=noisy).run


def test_an_own_augmentation_is_given_every_batch_as_the_network_sees_it(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watched(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(x_BCHW.clone())
        return x_BCHW

    settings = recipe(epochs=1, augment="none", progressive=0)
    watching = astroformer.train(SOURCE, settings, out=tmp_path / "watched", augment=watched)
    assert len(seen) == STEPS
    assert {x_BCHW.shape[1:] for x_BCHW in seen} == {(3, 32, 32)}
    whole = torch.cat(seen)
    assert whole.dtype == torch.float32
    assert whole.mean().abs() < 0.1
    assert (whole.std() - 1).abs() < 0.1  # normalised
    # One that changes nothing changes nothing, and what another one gives is what is learned.
    assert same(watching.run, astroformer.train(SOURCE, settings, out=tmp_path / "plain").run)
    assert not same(watching.run, astroformer.train(SOURCE, settings, out=tmp_path / "noise", augment=noisy).run)


def test_what_it_draws_follows_from_seed_epoch_and_step() -> None:
    def drawn(**address: int) -> Tensor:
        address = {"seed": 3, "epoch": 1, "step": 5, "rank": 0, **address}
        return augmented(noisy, torch.zeros(2, 1, 4, 4), **address)

    assert torch.equal(drawn(), drawn())
    for other in ({"seed": 4}, {"epoch": 2}, {"step": 6}, {"rank": 1}):
        assert not torch.equal(drawn(), drawn(**other))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (lambda x, g: None, "augment gave a NoneType"),
        (lambda x, g: x[:, :, 1:], r"a batch of shape \(2, 1, 3, 4\); it was given \(2, 1, 4, 4\)"),
        (lambda x, g: x.double(), "type torch.float64; it was given torch.float32"),
    ],
)
def test_what_is_no_such_batch_is_refused(augment: Callable[..., Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        augmented(augment, torch.zeros(2, 1, 4, 4), seed=0, epoch=0, step=0, rank=0)


def test_layout_in_memory_is_kept() -> None:
    x_BCHW = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    made = augmented(lambda x, g: x.contiguous(), x_BCHW, seed=0, epoch=0, step=0, rank=0)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_stopped_run_goes_on_with_the_same_function_alone(with_noise: Path, tmp_path: Path, run: Run) -> None:
    stopped = tmp_path / "stopped"
    stopping = Stopping(STEPS + 3)
    stopping.__qualname__ = noisy.__qualname__  # type: ignore[attr-defined]
    with pytest.raises(StopError):
        astroformer.train(SOURCE, recipe(), out=stopped, augment=stopping)
    assert RunFolder.open(stopped).read_record().augmentation == f"{__name__}:noisy"

    needed = rf"began with the augmentation {__name__}:noisy, which its folder can't keep; .*augment=noisy\)"
    with pytest.raises(UserError, match=needed):
        astroformer.resume(stopped)
    with pytest.raises(UserError, match=rf"{__name__}:noisy, and not with {__name__}:unchanged"):
        astroformer.resume(stopped, augment=unchanged)
    said = run("train", "--resume", stopped, "--quiet")
    assert said.status == 2
    assert f"astroformer.resume('{stopped}', augment=noisy)" in said.err

    assert same(astroformer.resume(stopped, augment=noisy).run, with_noise)
    assert f"augmented by {__name__}:noisy" in str(astroformer.load(with_noise).info.training)


def test_a_run_without_one_goes_on_without_one() -> None:
    with pytest.raises(UserError, match="began without an augmentation of its own; leave out augment"):
        Hooks(noisy).check_same(None, Path("run"))
    Hooks().check_same(None, Path("run"))
    Hooks(noisy).check_same("moved.to:noisy", Path("run"))


@pytest.mark.parametrize(("word", "value"), [("augment", "photo"), ("on_evaluation", 3)])
def test_what_is_no_function_is_refused(word: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{word} can't be {value!r}: a function is needed"):
        astroformer.train(SOURCE, **{word: value})  # type: ignore[arg-type]


def test_each_evaluation_is_told(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    made = astroformer.train(SOURCE, recipe(), out=tmp_path / "run", on_evaluation=told.append)
    assert [{name: round(value, 6) for name, value in row.items()} for row in told] == made.history
    assert [row["epoch"] for row in told] == [1, 2]
    assert set(told[0]) == {
        *("epoch", "updates", "minutes", "progress", "learning_rate", "train_loss"),
        *("valid_top1", "valid_balanced_accuracy", "valid_nll", "images_per_second"),
    }
    told[0].clear()  # what is told is the listener's own
    assert len(made.history[0]) == 10


def test_an_error_of_a_listener_ends_the_run_which_goes_on_later(tmp_path: Path) -> None:
    def failing(row: dict[str, float]) -> None:
        raise StopError

    with pytest.raises(StopError):
        astroformer.train(SOURCE, recipe(), out=tmp_path / "run", on_evaluation=failing)
    told: list[dict[str, float]] = []
    astroformer.resume(tmp_path / "run", on_evaluation=told.append)
    assert told[-1]["progress"] == 1


def test_several_runs_call_functions_in_turn_and_never_in_other_processes(tmp_path: Path) -> None:
    recipes = [recipe(epochs=1, seed=seed) for seed in (0, 1)]
    with pytest.raises(UserError, match=r"runs in processes of their own can't call; .*together='in-turn'"):
        astroformer.train_many(SOURCE, recipes, out=tmp_path / "no", together="processes", augment=noisy)
    assert not (tmp_path / "no").exists()
    told: list[dict[str, float]] = []
    study = astroformer.train_many(
        SOURCE, recipes, out=tmp_path / "two", augment=noisy, on_evaluation=told.append, quiet=True
    )
    assert not study.errors
    assert Study.open(study.run).together == "in-turn"
    assert [row["progress"] for row in told] == [1, 1]


def test_an_ensemble_and_its_pupil_have_them_too(tmp_path: Path) -> None:
    stopped = tmp_path / "ensemble"
    stopping = Stopping(STEPS + 3)
    stopping.__qualname__ = noisy.__qualname__  # type: ignore[attr-defined]
    with pytest.raises(StopError):
        astroformer.train_ensemble(SOURCE, recipe(epochs=1), members=2, out=stopped, augment=stopping)
    with pytest.raises(UserError, match="which its folder can't keep"):
        astroformer.resume(stopped)
    told: list[dict[str, float]] = []
    ensemble = astroformer.resume(stopped, augment=noisy, on_evaluation=told.append)
    assert len(told) == 1  # the first member was done
    with pytest.raises(UserError, match="which its folder can't keep"):
        astroformer.distil(ensemble.run, out=tmp_path / "pupil")
    pupil = astroformer.distil(ensemble.run, out=tmp_path / "pupil", augment=noisy, on_evaluation=told.append)
    assert len(told) == 2
    assert RunFolder.open(pupil.run).read_record().augmentation == f"{__name__}:noisy"
