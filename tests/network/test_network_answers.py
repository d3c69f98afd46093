"""How a network is asked is a module around it: what it does to images, in eval mode alone, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from astroformer.errors import UserError
from astroformer.fast_pass import fast_pass
from astroformer.network import VARIANTS, Answers, AnswersConfig, Astroformer, create_answers
from astroformer.network.answers import answers_of
from astroformer.network.config import joined_words, split_words
from astroformer.network.framing import Frame
from astroformer.network.views import d4_views
from helpers.lively import lively

CONFIG = dataclasses.replace(VARIANTS["astroformer_atto"], img_size=32, depths=(1, 1, 1, 1))
FRAMED = AnswersConfig(frame=True, symmetry="shift+d4", views=4)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def answers(config: AnswersConfig = FRAMED) -> Answers:
    made = lively(CONFIG, config)
    assert isinstance(made, Answers)
    return made


@torch.no_grad()
def test_logits_are_the_mean_over_views_that_are_moved_each_to_its_frame() -> None:
    asked, x = answers(AnswersConfig(frame=True, symmetry="shift+d4", views=8)), images()
    assert asked.frame is not None
    expected = torch.stack([asked.network(asked.frame(view)[0]) for view in d4_views(x)]).mean(0)
    for ask in (asked, fast_pass(asked)):
        torch.testing.assert_close(ask(x), expected, rtol=0, atol=2e-5 * expected.abs().max().item())
    # Each part of that matters.
    for part in (asked.network(x), asked.network(asked.frame(x)[0])):
        assert (part - expected).abs().max() > 1e-2


def test_training_sees_the_images_as_they_are() -> None:
    asked, x = answers().train(), images()
    assert asked.network.training
    torch.manual_seed(0)
    logits = asked(x)
    torch.manual_seed(0)
    assert torch.equal(logits, asked.network(x))


def test_a_graph_holds_the_network_once() -> None:
    asked, x = answers(), images()
    exported = torch.export.export(asked, (x,))
    operations = [str(node.target) for node in exported.graph.nodes]
    alone = [str(node.target) for node in torch.export.export(asked.network, (x,)).graph.nodes]
    products = "aten.linear.default"
    assert operations.count(products) == alone.count(products) > 0
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), asked(x), rtol=0, atol=1e-5)


def test_who_is_asked_of_the_image_alone_stays_as_it_is() -> None:
    network = Astroformer(CONFIG)
    assert Answers.around(network, AnswersConfig(views=8)) is network
    assert answers_of(network) == AnswersConfig()
    assert answers_of(Answers.around(network, FRAMED)) == FRAMED
    assert answers_of(torch.nn.Identity()) == AnswersConfig()


def test_a_frame_that_has_learned_is_kept() -> None:
    frame = Frame()
    frame.weights_2K.random_(-100, 100)
    network = Astroformer(CONFIG).eval()
    asked = Answers(network, AnswersConfig(frame=True), frame)
    assert asked.frame is frame
    assert asked.network is network
    assert not asked.training
    assert Answers(network, AnswersConfig(symmetry="shift+mirror"), frame).frame is None


def test_words_are_split_and_joined_again() -> None:
    words = {**CONFIG.to_dict(), "equivariance": "frame", "symmetry": "shift+mirror", "views": 2}
    settings, how = split_words(words)
    assert how == AnswersConfig(frame=True, symmetry="shift+mirror", views=2)
    assert joined_words(type(CONFIG).from_dict(settings), how) == words
    assert split_words({"equivariance": "anchor"}) == ({"equivariance": "anchor"}, AnswersConfig())
    assert AnswersConfig.from_dict(json.loads(json.dumps(how.to_dict()))) == how


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"symmetry": "d4"}, r"unknown symmetry 'd4'.*shift\+d4"),
        ({"views": 3}, "views is 3: choose 1, 2, 4 or 8"),
        ({"views": True}, "views is True"),
        ({"frame": 1}, "frame is 1: give true or false"),
        ({"view": 4}, "unknown setting of the answers 'view'.*Did you mean 'views'"),
    ],
)
def test_what_can_not_be_asked_is_refused_in_a_sentence(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        AnswersConfig.from_dict(settings)


def test_answers_that_do_not_go_with_the_network_are_refused() -> None:
    with pytest.raises(UserError, match="has equivariance 'centre' already"):
        Answers(Astroformer(dataclasses.replace(CONFIG, equivariance="centre")), AnswersConfig(frame=True))
    with pytest.raises(UserError, match=r"img_size is 32x48 pixels.*square"):
        create_answers("astroformer_atto", img_size=(32, 48), symmetry="shift+d4")
    for ask in (answers(), fast_pass(answers()), answers().feature_maps):
        with pytest.raises(UserError, match=r"images are of 32x48 pixels.*square"):
            ask(torch.zeros(1, 3, 32, 48))
    with pytest.raises(UserError, match=r"\(1, 1, 32, 32\).*takes \(batch, 3"):
        answers()(torch.zeros(1, 1, 32, 32))
    with pytest.raises(UserError, match=r"symmetry 'shift\+d4': the maps of turned views do not lie on each other"):
        answers().reset_classifier(2, "")
    with pytest.raises(UserError, match=r"equivariance is 'frame'.*Answers\(network, AnswersConfig\(frame=True\)\)"):
        dataclasses.replace(CONFIG, equivariance="frame")
