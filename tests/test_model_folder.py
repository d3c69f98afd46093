"""What a model folder says, that it is whole, and what is refused: every block and file that was changed."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import astroformer
from astroformer.classifier import Classifier
from astroformer.cli.main import main
from astroformer.errors import UserError
from astroformer.intervals import Interval
from astroformer.model_config import ModelConfig, ModelRecord, Spread, ValidationScores, block_hash
from astroformer.model_folder import FORMAT, ModelFolder
from astroformer.network import AnswersConfig, Astroformer, create_answers, create_network
from astroformer.network.config import joined_words
from astroformer.summaries import metric_text
from astroformer.system import versions

BLOCKS = ("network", "answers", "input", "classes", "trust", "training")


def content_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


def write(folder: Path, content: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(content))


def edit(folder: Path, *, signed: bool = True, **changes: object) -> None:
    """Changes blocks, or with None takes them out; `signed` makes their hashes anew, as one who wrote them would."""
    content = {name: value for name, value in {**content_of(folder), **changes}.items() if value is not None}
    if signed:
        content["hashes"] |= {name: block_hash(content[name]) for name in BLOCKS if name in content}
    write(folder, content)


def edit_block(folder: Path, name: str, /, *, signed: bool = True, **changes: object) -> None:
    edit(folder, signed=signed, **{name: {**content_of(folder)[name], **changes}})


def as_first_format(folder: Path) -> None:
    """Rewrites config.json as versions before 0.2 wrote it."""
    content, config = content_of(folder), ModelFolder(folder).config()
    members = {"members": config.members} if config.members > 1 else {}
    old = {
        "format": 2 if members else 1,
        "network": joined_words(config.network, config.answers),
        **members,
        "preprocessing": content["input"],
        "classes": content["classes"],
        "weights_sha256": config.weights_sha256,
        **config.record.to_dict(),
        "versions": content["training"]["versions"],
    }
    write(folder, old)


@pytest.fixture
def ensemble_folder(classifier: Classifier, tmp_path: Path) -> Path:
    """The model folder of three members whose answers differ."""
    members = []
    for seed in range(3):
        member = copy.deepcopy(classifier)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in member.network.parameters():
                parameter += 0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
        members.append(member)
    return Classifier.ensemble(members).save(tmp_path / "ensemble")


# -- what a folder says ----------------------------------------------------------------------------------------------

RECORD = ModelRecord(
    name="astroformer_atto",
    parameters=1234,
    training="20 images",
    validation="given",
    metrics=ValidationScores(9, {"top1": Interval(0.5, 0.25, 0.75)}),
    member_metrics={"top1": Spread(0.5, 0.1, 2)},
)


def test_a_record_and_a_config_survive_json(classifier: Classifier) -> None:
    assert ModelRecord.from_dict(json.loads(json.dumps(RECORD.to_dict()))) == RECORD
    assert all(getattr(RECORD, field.name) for field in dataclasses.fields(ModelRecord))  # so nothing is lost unnoticed
    assert ModelRecord.from_dict({}) == ModelRecord()
    assert RECORD.without_metrics() == dataclasses.replace(RECORD, metrics=None, member_metrics={})


def test_a_config_is_read_as_it_was_written_and_without_a_network(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = create_answers("astroformer_atto", img_size=32, symmetry="shift+d4", views=2, equivariance="frame")
    written = ModelConfig(
        network=network.config,
        answers=network.answers,
        input=classifier.preprocessing,
        classes=classifier.classes,
        record=RECORD,
    )
    folder = ModelFolder(tmp_path / "model")
    folder.write(network, written)

    def refuse(*_: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(Astroformer, "__init__", refuse)
    read = folder.config()
    assert dataclasses.replace(read, versions={}, hashes={}) == written
    assert read.answers == AnswersConfig(frame=True, symmetry="shift+d4", views=2)
    assert read.versions == versions()
    assert folder.caveat(read) is None


def test_the_blocks_of_a_folder_and_what_its_hashes_cover(model_folder: Path, classifier: Classifier) -> None:
    content = content_of(model_folder)
    assert list(content) == ["format", *BLOCKS, "hashes"]
    assert content["format"] == FORMAT == 3
    assert set(content["hashes"]) == {*BLOCKS, "model.safetensors", "README.md"}
    assert content["trust"] == {}
    assert load_file(model_folder / "model.safetensors").keys() == classifier.network.state_dict().keys()


def test_tensors_have_the_names_that_they_have_without_answers(classifier: Classifier, tmp_path: Path) -> None:
    network = create_answers("astroformer_atto", img_size=32, equivariance="frame", symmetry="shift+d4")
    folder = Classifier(network, classifier.preprocessing, classifier.classes).save(tmp_path / "framed")
    plain = create_network("astroformer_atto", img_size=32).state_dict().keys()
    assert load_file(folder / "model.safetensors").keys() == plain | {"frame.weights_2K"}
    both = [Classifier(copy.deepcopy(network), classifier.preprocessing, classifier.classes) for _ in range(2)]
    folder = Classifier.ensemble(both).save(tmp_path / "both")
    expected = {f"members.{k}.{name}" for k in range(2) for name in plain | {"frame.weights_2K"}}
    assert load_file(folder / "model.safetensors").keys() == expected


def test_the_folder_holds_only_whole_files_and_is_made_again_in_place(model_folder: Path) -> None:
    names = ["README.md", "config.json", "model.safetensors"]
    assert sorted(file.name for file in model_folder.iterdir()) == names
    astroformer.load(model_folder).save(model_folder)
    assert sorted(file.name for file in model_folder.iterdir()) == names
    astroformer.load(model_folder)


def test_extra_arrays_are_covered_too(model_folder: Path) -> None:
    folder = ModelFolder(model_folder)
    config = folder.config()
    extra = {"features": torch.arange(6.0)}
    folder.write(folder.network(config), config, extra=extra)
    assert torch.equal(load_file(model_folder / "extra.safetensors")["features"], extra["features"])
    assert "extra.safetensors" in folder.config().hashes
    astroformer.load(model_folder)
    save_file({"features": torch.zeros(6)}, model_folder / "extra.safetensors")
    with pytest.raises(UserError, match=r"extra\.safetensors' is not the one that config\.json names"):
        astroformer.load(model_folder)
    (model_folder / "extra.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks extra\.safetensors, which config\.json names"):
        astroformer.load(model_folder)
    folder.write(folder.network(dataclasses.replace(config, format=1)), config)
    astroformer.load(model_folder)
    save_file(extra, model_folder / "extra.safetensors")
    with pytest.raises(UserError, match=r"names no extra\.safetensors, and the folder has one"):
        astroformer.load(model_folder)


def test_model_card(model_folder: Path, classifier: Classifier) -> None:
    card = (model_folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: astroformer")
    for name in classifier.classes:
        assert name in card
    assert classifier.info.metrics is not None
    for metric in ("top1", "balanced_accuracy", "macro_f1", "nll"):
        found = classifier.info.metrics.intervals[metric]
        value, low, high = (metric_text(metric, each) for each in (found.value, found.low, found.high))
        assert f"| {metric} | {value} | {low} – {high} |" in card
    assert "Measured on 50 validation images" in card
    assert "32 × 32 px" in card
    assert "Unchanged by: nothing; a shift by a pixel may change a class" in card
    assert "\n\nAn Astroformer (arXiv 2304.05350), vertical layout C-C-C-T, ? parameters,\ntrained from scratch" in card
    assert "ensemble" not in card


def test_the_card_of_a_model_without_metrics_says_so(classifier: Classifier, tmp_path: Path) -> None:
    classifier.info = ModelRecord()
    card = (classifier.save(tmp_path / "bare") / "README.md").read_text()
    assert "Not evaluated." in card


def test_a_model_of_an_equivariance_that_is_no_longer_trained_still_answers(
    classifier: Classifier, tmp_path: Path
) -> None:
    network = create_network("astroformer_atto", img_size=32, equivariance="input")
    folder = Classifier(network, classifier.preprocessing, classifier.classes).save(tmp_path / "input")
    stored_BCHW = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    answers = astroformer.load(folder).probabilities(stored_BCHW)
    moved = astroformer.load(folder).probabilities(np.roll(stored_BCHW, (3, 5), (2, 3)))
    np.testing.assert_allclose(moved, answers, rtol=0, atol=1e-5)


# -- formats 1 and 2 -------------------------------------------------------------------------------------------------


def test_the_first_formats_are_read_and_whoever_loads_one_is_told(
    model_folder: Path, ensemble_folder: Path, galaxy_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for folder, old_format in ((model_folder, 1), (ensemble_folder, 2)):
        expected, config = astroformer.load(folder), ModelFolder(folder).config()
        as_first_format(folder)
        said: list[str] = []
        loaded = astroformer.load(folder, say=said.append)
        assert len(said) == 1
        assert f"'{folder}' has format {old_format}: only its weights have a hash" in said[0]
        assert loaded.info == expected.info
        np.testing.assert_array_equal(
            loaded.predict(galaxy_folder).probabilities_NK, expected.predict(galaxy_folder).probabilities_NK
        )
        assert ModelFolder(folder).config().weights_sha256 == config.weights_sha256
        assert (
            main(
                ["predict", str(folder), str(galaxy_folder), "--out", str(tmp_path / "p.csv"), "--quiet", "--overwrite"]
            )
            == 0
        )
        assert capsys.readouterr().err.splitlines() == said
        loaded.save(folder)
        astroformer.load(folder, say=said.append)
        assert len(said) == 1


def test_parameters_were_a_text_with_commas(model_folder: Path) -> None:
    as_first_format(model_folder)
    write(model_folder, {**content_of(model_folder), "parameters": "1,234,567"})
    assert ModelFolder(model_folder).config().record.parameters == 1_234_567


# -- model folders that must be refused ------------------------------------------------------------------------------


def newer(folder: Path) -> None:
    edit(folder, signed=False, format=FORMAT + 1, training={"versions": {"astroformer": "9.9.9"}}, something_new=[1])


def flip_byte(folder: Path, place: float = 0.5) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[int(len(data) * place)] ^= 1
    file.write_bytes(data)


def flip_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[12] ^= 1
    file.write_bytes(data)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def append_to_card(folder: Path) -> None:
    with (folder / "README.md").open("a") as stream:
        stream.write("More.")


def lack(folder: Path, name: str) -> None:
    edit(folder, **{name: None})


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "newer format": (newer, r"format 4 \(made by astroformer 9.9.9\), and this version reads up to 3; upgrade"),
    "truncated weights": (truncate, "model.safetensors' is damaged or truncated"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged or truncated"),
    "flipped byte": (flip_byte, "SHA-256"),
    "flipped byte in the header": (flip_header, "damaged|does not fit"),
    "changed network": (lambda f: edit_block(f, "network", signed=False, mlp_ratio=2), "block 'network'.*SHA-256"),
    "changed answers": (
        lambda f: edit_block(f, "answers", signed=False, symmetry="shift+d4"),
        "block 'answers' of config.json is not the one that the model was written with",
    ),
    "changed input": (lambda f: edit_block(f, "input", signed=False, mean=[0.1, 0.2, 0.3]), "block 'input'.*SHA-256"),
    "classes in another order": (
        lambda f: edit(f, signed=False, classes=content_of(f)["classes"][::-1]),
        "block 'classes'.*SHA-256",
    ),
    "changed trust": (lambda f: edit_block(f, "trust", signed=False, temperature=2), "block 'trust'.*SHA-256"),
    "changed training": (lambda f: edit_block(f, "training", signed=False, name="x"), "block 'training'.*SHA-256"),
    "changed card": (append_to_card, "README.md' is not the one that config.json names"),
    "no card": (lambda f: (f / "README.md").unlink(), "lacks README.md, which config.json names"),
    "config of other weights": (
        lambda f: edit_block(f, "network", widths=[32, 48, 80, 128]),
        r"does not fit its weights: \d+ tensors differ, e\.g\. '",
    ),
    "a class too few": (lambda f: edit(f, classes=["a", "b"]), "2 class names"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "damaged JSON": (lambda f: (f / "config.json").write_text('{"format": 1,'), "config.json' is damaged"),
    "empty JSON": (lambda f: (f / "config.json").write_text(""), "config.json' is damaged"),
    "JSON of a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json' is damaged"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json' is damaged"),
    "format is no number": (lambda f: edit(f, format="new"), "config.json' is damaged"),
    "lacks classes": (lambda f: lack(f, "classes"), "lacks 'classes'"),
    "lacks input": (lambda f: lack(f, "input"), "lacks 'input'"),
    "lacks hashes": (lambda f: edit(f, signed=False, hashes=None), "lacks 'hashes'"),
    "lacks a hash": (lambda f: edit(f, signed=False, hashes={}), r"lacks 'hashes\.model\.safetensors'"),
    "a block that nobody knows": (lambda f: edit(f, trusted={}), "unknown block of config.json 'trusted'.*'trust'"),
    "unknown network word": (lambda f: edit_block(f, "network", widht=[1]), "config.json': unknown network.*'widht'"),
    "unknown word of the answers": (
        lambda f: edit_block(f, "answers", view=2),
        "setting of the answers 'view'",
    ),
    "trust that a newer version wrote": (
        lambda f: edit_block(f, "trust", temperature=2),
        "has 'temperature', which this version does not know; upgrade",
    ),
    "impossible input": (lambda f: edit(f, input={"image_size": [0, 0], "channels": 3}), "image_size"),
}
FIRST_FORMAT_DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped byte": (flip_byte, "SHA-256"),
    "config of other weights": (
        lambda f: write(f, {**content_of(f), "network": {**content_of(f)["network"], "widths": [32, 48, 80, 128]}}),
        r"does not fit its weights: \d+ tensors differ, e\.g\. '",
    ),
    "a class too few": (lambda f: write(f, {**content_of(f), "classes": ["a", "b"]}), "2 class names"),
    "lacks preprocessing": (
        lambda f: write(f, {k: v for k, v in content_of(f).items() if k != "preprocessing"}),
        "lacks 'preprocessing'",
    ),
    "unknown network word": (
        lambda f: write(f, {**content_of(f), "network": {**content_of(f)["network"], "widht": [1]}}),
        "widht",
    ),
    "no number of members": (lambda f: write(f, {**content_of(f), "members": "three"}), "members is 'three'"),
}


def refused(folder: Path, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=says):
        Classifier.load(folder)
    assert main(["info", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_folder_is_refused_with_a_sentence(
    model_folder: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, says = DAMAGES[damage]
    harm(model_folder)
    refused(model_folder, says, capsys)


@pytest.mark.parametrize("damage", FIRST_FORMAT_DAMAGES)
def test_a_damaged_folder_of_the_first_format_too(
    model_folder: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    as_first_format(model_folder)
    harm, says = FIRST_FORMAT_DAMAGES[damage]
    harm(model_folder)
    refused(model_folder, says, capsys)


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, says in (("file", "is a file"), ("nowhere", "does not exist"), ("", "no config.json")):
        with pytest.raises(UserError, match=says):
            astroformer.load(tmp_path / name)


# -- ensembles -------------------------------------------------------------------------------------------------------


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def without_a_member(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if name.startswith("members.1.")]:
        del state[name]


def with_a_wider_member(state: dict[str, torch.Tensor]) -> None:
    wide = create_network("astroformer_pico", num_classes=10, img_size=32).state_dict()
    state.update({f"members.1.{name}": value for name, value in wide.items()})


def with_a_member_of_other_classes(state: dict[str, torch.Tensor]) -> None:
    few = create_network("astroformer_atto", num_classes=4, img_size=32).state_dict()
    state.update({f"members.2.{name}": value for name, value in few.items()})


ENSEMBLE_DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing member": (
        lambda f: change_weights(f, without_a_member),
        r"config.json names 3 members, and the weights hold 2 \(0, 2\)",
    ),
    "another member swapped in": (
        lambda f: change_weights(f, lambda state: state["members.1.stem.conv1.weight"].add_(1)),
        "SHA-256",
    ),
    "altered byte": (lambda f: flip_byte(f, 0.999), "SHA-256"),
    "member of another shape": (
        lambda f: change_weights(f, with_a_wider_member),
        r"tensors differ, e\.g\. 'members\.1",
    ),
    "member of other classes": (
        lambda f: change_weights(f, with_a_member_of_other_classes),
        r"2 tensors differ, e\.g\. 'members\.2\.head",
    ),
    "too many members named": (
        lambda f: edit_block(f, "network", members=10**12),
        "names 1000000000000 members",
    ),
    "no number of members": (lambda f: edit_block(f, "network", members="three"), "members is 'three'"),
    "no members named": (lambda f: edit_block(f, "network", members=1), "tensors differ"),
    "weights of one network": (
        lambda f: save_file(create_network("astroformer_atto", img_size=32).state_dict(), f / "model.safetensors"),
        r"the weights hold 0 \(none\)",
    ),
    "newer format": (lambda f: edit(f, format=FORMAT + 1), "format 4.*reads up to 3; upgrade"),
}


@pytest.mark.parametrize("damage", ENSEMBLE_DAMAGES)
def test_a_damaged_folder_of_an_ensemble_is_refused_with_a_sentence(
    ensemble_folder: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, says = ENSEMBLE_DAMAGES[damage]
    harm(ensemble_folder)
    refused(ensemble_folder, says, capsys)
