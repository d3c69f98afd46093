"""One contract for every variant and setting.

Large variants are shrunk to one block a stage (two in the last) and an eighth of their widths: their blocks are all
alike, and the whole ones are compared with timm's in tests/weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from astroformer.errors import UserError
from astroformer.network import VARIANTS, Answers, AnswersConfig, Astroformer, AstroformerConfig
from astroformer.network.answers import answers_of
from astroformer.network.config import split_words
from helpers.lively import lively
from helpers.structures import SETTINGS

SMALL = ("astroformer_atto", "astroformer_pico", "astroformer_nano")
CASES = [(name, "plain") for name in VARIANTS]
CASES += [("astroformer_atto", setting) for setting in SETTINGS if setting != "plain"]


def config_of(name: str, setting: str, **others: Any) -> AstroformerConfig:
    """That of the network alone; see `network_of`."""
    config = VARIANTS[name]
    if name not in SMALL:
        widths = tuple(width // 8 for width in config.widths)
        config = dataclasses.replace(
            config,
            stem_width=config.stem_width // 8,
            widths=widths,
            depths=(1, 1, 1, 2),
            head_width=4,
            head_hidden=widths[-1],
            img_size=64,
        )
    return dataclasses.replace(config, **split_words(SETTINGS[setting])[0], **others)


def network_of(name: str, setting: str, **others: Any) -> Astroformer | Answers:
    """A network of the setting, asked as that says."""
    return lively(config_of(name, setting, **others), split_words(SETTINGS[setting])[1])


def fitting(network: Astroformer | Answers, size: tuple[int, int]) -> tuple[int, int]:
    """The nearest size from `size` up that the network takes."""
    multiple = network.config.size_multiple
    height, width = (-(-side // multiple) * multiple for side in size)
    return (max(height, width),) * 2 if answers_of(network).symmetry == "shift+d4" else (height, width)


@pytest.mark.parametrize(("name", "setting"), CASES)
class TestContract:
    def test_gradients_reach_every_parameter(self, name: str, setting: str) -> None:
        # In eval mode: in training, batch norms rightly cancel the gradient of a bias that comes before them.
        network = network_of(name, setting)
        network(torch.randn(2, 3, 64, 64)).square().sum().backward()
        dead = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert not dead
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)

    def test_any_size_and_any_channels(self, name: str, setting: str) -> None:
        for channels, size in ((1, (32, 32)), (3, (40, 56)), (5, (97, 65))):
            network = network_of(name, setting, in_chans=channels, num_classes=7)
            config, size = network.config, fitting(network, size)
            images = torch.randn(2, channels, *size)
            with torch.no_grad():
                maps = network.feature_maps(images)
                logits = network(images)
            widths = (config.stem_width, *config.widths)
            sizes = config.map_sizes(size)
            wanted = [(2, width, *shape) for width, shape in zip(widths, sizes, strict=True)]
            assert [tuple(m.shape) for m in maps] == wanted
            assert logits.shape == (2, 7)
            assert logits.isfinite().all()

    def test_other_images_of_the_batch_do_not_matter(self, name: str, setting: str) -> None:
        network = network_of(name, setting)
        images = torch.randn(5, 3, 64, 64)
        with torch.no_grad():
            together = network(images)
            alone = torch.cat([network(image[None]) for image in images])
            changed = network(torch.cat([images[:1], 9 * images[1:].flip(0)]))
        # Kernels may sum in another order for another batch size: a few units in the last place of float32.
        tolerance = 2e-5 * together.abs().max().item()
        torch.testing.assert_close(alone, together, rtol=0, atol=tolerance)
        torch.testing.assert_close(changed[:1], together[:1], rtol=0, atol=tolerance)
        assert (changed[1:] - together[1:]).abs().max() > 100 * tolerance

    def test_saved_and_loaded_equal_to_the_bit(self, name: str, setting: str, tmp_path: Path) -> None:
        network = network_of(name, setting)
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        config = AstroformerConfig.from_dict(network.config.to_dict())
        answers = AnswersConfig.from_dict(answers_of(network).to_dict())
        twin = Answers.around(Astroformer(config), answers).eval()
        twin.load_state_dict(load_file(tmp_path / "model.safetensors"))
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(network(images), twin(images))

    def test_training_gives_every_parameter_a_finite_gradient(self, name: str, setting: str) -> None:
        network = network_of(name, setting).train()
        logits = network(torch.randn(4, 3, 64, 64))
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def compiled_and_exported(network: Astroformer | Answers, size: tuple[int, int]) -> None:
    images = torch.randn(2, network.config.in_chans, *size)
    with torch.no_grad():
        eager = network(images)
        exported = torch.export.export(network, (images,)).module()(images)
        torch.testing.assert_close(exported, eager, rtol=0, atol=1e-5)
        torch._dynamo.reset()
        compiled = torch.compile(network, fullgraph=True)(images)
        torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-5)


def test_exports_alike_at_its_own_size_and_at_another() -> None:
    for size in ((64, 64), (48, 80)):
        network = lively(config_of("astroformer_atto", "CCTT"))
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            exported = torch.export.export(network, (images,)).module()(images)
            torch.testing.assert_close(exported, network(images), rtol=0, atol=1e-5)


def test_traces_as_one_graph() -> None:
    # Dynamo alone: the C++ compiler takes a minute, and is left to the slow tests below.
    torch._dynamo.reset()
    for size in ((64, 64), (48, 80)):
        network = lively(config_of("astroformer_atto", "CCTT", depths=(1, 1, 1, 1))).train()
        twin = lively(network.config).train()
        images = torch.randn(2, 3, *size)
        logits = torch.compile(network, fullgraph=True, backend="eager")(images)
        torch.testing.assert_close(logits, twin(images), rtol=0, atol=1e-5)
        logits.square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "setting"), CASES)
def test_compiles_and_exports_alike(name: str, setting: str) -> None:
    compiled_and_exported(network_of(name, setting), (64, 64))


@pytest.mark.slow
def test_compiles_and_exports_alike_at_another_size() -> None:
    compiled_and_exported(network_of("astroformer_atto", "CCTT"), (48, 80))


def test_wrong_images_are_refused_in_a_sentence() -> None:
    network = lively(config_of("astroformer_atto", "plain"))
    with pytest.raises(UserError, match=r"\(1, 1, 64, 64\).*takes \(batch, 3"):
        network(torch.zeros(1, 1, 64, 64))
    with pytest.raises(UserError, match="shape"):
        network(torch.zeros(3, 64, 64))
    with pytest.raises(UserError, match=r"16x64 pixels.*at least 25x25"):
        network(torch.zeros(1, 3, 16, 64))
    with pytest.raises(UserError, match=r"31x31 pixels.*at least 32x32"):
        lively(config_of("astroformer_0", "plain"))(torch.zeros(1, 3, 31, 31))
