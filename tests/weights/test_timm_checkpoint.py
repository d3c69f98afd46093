"""`timm.create_model(…, checkpoint_path=…)`: the network that weights are of, or a sentence that says what to do."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import load_checkpoint

import astroformer
import astroformer.timm
from astroformer.classifier import Classifier
from astroformer.errors import UserError
from astroformer.images.preprocessing import Preprocessing
from astroformer.model_config import ModelConfig, ModelRecord
from astroformer.model_folder import ModelFolder
from astroformer.network import VARIANTS, Ensemble
from astroformer.network.answers import answers_of
from astroformer.network.config import split_words
from helpers.lively import lively

WORDS: dict[str, dict[str, Any]] = {
    "as the variant": {},
    "other weights": {
        "num_classes": 3,
        "layout": "CCCC",
        "head_hidden": 40,
        "channel_attention": "none",
        "widths": (16, 32, 48, 64),
    },
    "hybrid": {"transformer": "hybrid", "head_width": 8, "img_size": (32, 48), "in_chans": 1},
    # What leaves no trace in the names and shapes of weights:
    "tied": {"layout": "CCCC", "group": "d4", "stem_width": 16, "widths": (16, 32, 48, 64), "head_hidden": 64},
    "anchor": {"layout": "CCCC", "equivariance": "anchor"},
    "centre": {"equivariance": "centre"},
    "frame": {"equivariance": "frame"},
    "views": {"symmetry": "shift+d4", "views": 2},
    "strides": {"layout": "CCCC", "strides": (1, 2, 2, 1, 2)},
    "heads": {"relative_bias": False, "head_width": 8},
}


def folder_of(words: dict[str, Any], path: Path, *, name: str = "astroformer_atto") -> Path:
    """A model folder with a network of these words, whose answers depend on all of its parts."""
    settings, answers = split_words(words)
    config = astroformer.create_model("astroformer_atto", **settings).config
    network = lively(config, answers)
    classes = tuple(map(str, range(config.num_classes)))
    made = ModelConfig(
        network=config,
        answers=answers,
        input=Preprocessing(config.img_size, config.in_chans),
        classes=classes,
        record=ModelRecord(name=name),
    )
    ModelFolder(path).write(network, made)
    return path


def said_call(error: UserError) -> str:
    """The call that a refusal asks for."""
    found = re.search(r"To build that one: (timm\.create_model\(.*\))$", str(error))
    assert found is not None
    return found[1]


@pytest.mark.parametrize("structure", WORDS)
def test_weights_of_a_model_folder_give_its_network_or_the_call_that_does(structure: str, tmp_path: Path) -> None:
    folder = folder_of(WORDS[structure], tmp_path / "model")
    kept = ModelFolder(folder)
    expected = kept.network(kept.config())
    file = folder / "model.safetensors"
    if structure == "as the variant":
        network = timm.create_model("astroformer_atto", checkpoint_path=file)
    else:
        with pytest.raises(UserError, match="holds the weights of another network than this one") as refused:
            timm.create_model("astroformer_atto", checkpoint_path=str(file))
        network = eval(said_call(refused.value), {"timm": timm})
    assert (network.config, answers_of(network)) == (expected.config, answers_of(expected))
    images = torch.randn(2, network.in_chans, *network.config.img_size)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), expected(images))


def test_a_refusal_names_each_setting_and_both_values(tmp_path: Path) -> None:
    file = folder_of({"symmetry": "shift+mirror", "num_classes": 3}, tmp_path / "model") / "model.safetensors"
    with pytest.raises(UserError) as refused:
        timm.create_model("astroformer_atto", views=8, checkpoint_path=file)
    assert str(refused.value) == (
        f"'{file}' holds the weights of another network than this one: num_classes is 3 there and 10 here, symmetry is "
        f"'shift+mirror' there and 'shift' here. To build that one: timm.create_model('astroformer_atto', "
        f"num_classes=3, symmetry='shift+mirror', checkpoint_path='{file}')"
    )
    # timm leaves words out whose value is None.
    large = folder_of({}, tmp_path / "large", name="astroformer_0") / "model.safetensors"
    with pytest.raises(UserError, match=r"create_model\('astroformer_0', stem_width=16, .*head_hidden=0,") as refused:
        timm.create_model("astroformer_pico", checkpoint_path=large)
    assert eval(said_call(refused.value), {"timm": timm}).config == VARIANTS["astroformer_atto"]


def test_dropping_in_training_is_free_to_choose(tmp_path: Path) -> None:
    file = folder_of({"stochastic_depth": 0.2}, tmp_path / "model") / "model.safetensors"
    network = timm.create_model("astroformer_atto", drop_rate=0.3, checkpoint_path=file)
    assert (network.config.head_dropout, network.config.stochastic_depth) == (0.3, 0.0)


def test_ensembles_and_maps_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    ensemble = Classifier.ensemble([classifier, copy.deepcopy(classifier)]).save(tmp_path / "ensemble")
    file = ensemble / "model.safetensors"
    with pytest.raises(UserError, match=r"an ensemble of 2 networks.*astroformer\.load\('.*ensemble'\)\.network") as no:
        timm.create_model("astroformer_atto", img_size=32, checkpoint_path=file)
    said = re.search(r"astroformer\.load\('.*?'\)\.network", str(no.value))
    assert said is not None
    assert isinstance(eval(said[0], {"astroformer": astroformer}), Ensemble)
    single = folder_of({}, tmp_path / "model") / "model.safetensors"
    with pytest.raises(UserError, match=r"features_only=True: .*forward_intermediates"):
        timm.create_model("astroformer_atto", features_only=True, checkpoint_path=single)


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    for name, says in (("one", "is not the one that the model was written with"), ("two", "its SHA-256 differs")):
        folder = folder_of({}, tmp_path / name)
        if name == "one":
            content = json.loads((folder / "config.json").read_text())
            content["network"]["equivariance"] = "centre"
            (folder / "config.json").write_text(json.dumps(content))
        else:
            file = folder / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        with pytest.raises(UserError, match=says):
            timm.create_model("astroformer_atto", checkpoint_path=folder / "model.safetensors")


@pytest.mark.parametrize("words", [{"layout": "CCTT"}, {"symmetry": "shift+mirror"}])
def test_a_state_dict_that_torch_saved_is_loaded(words: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("astroformer_atto", **words).eval()
    images = torch.randn(2, 3, 64, 64)
    for wrapped in (network.state_dict(), {"state_dict": network.state_dict(), "epoch": 3}):
        torch.save(wrapped, tmp_path / "weights.pt")
        twin = timm.create_model("astroformer_atto", checkpoint_path=tmp_path / "weights.pt", **words).eval()
        with torch.no_grad():
            assert torch.equal(twin(images), network(images))
    with pytest.raises(UserError, match=r"of another shape: .*Give the variant, layout, img_size, num_classes"):
        timm.create_model("astroformer_atto", num_classes=3, checkpoint_path=tmp_path / "weights.pt", **words)
    with pytest.raises(UserError, match=r"missing: .*unexpected: "):
        timm.create_model("astroformer_atto", layout="TTTT", checkpoint_path=tmp_path / "weights.pt")


def test_folders_of_others_and_their_models_load_as_before(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "theirs"}))
    for name in ("astroformer_atto", "test_resnet"):
        network, twin = timm.create_model(name, num_classes=3), timm.create_model(name, num_classes=3)
        save_file(network.state_dict(), file)
        assert not load_checkpoint(twin, file).missing_keys
        assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in twin.state_dict().items())
    with pytest.raises(RuntimeError, match="size mismatch"):
        timm.create_model("test_resnet", num_classes=4, checkpoint_path=file)
