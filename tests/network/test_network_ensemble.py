"""An ensemble is a network: the mean of its members' probabilities, whatever their order, plain, fast and exported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from astroformer.errors import UserError
from astroformer.fast_pass import fast_pass
from astroformer.network import Answers, Astroformer, Ensemble, create_answers
from astroformer.network.ensemble import log_mean_probabilities


def members(n: int = 3, **settings: object) -> list[Astroformer | Answers]:
    """Untrained networks whose answers differ clearly."""
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        network = create_answers("astroformer_atto", img_size=32, **settings).eval()
        with torch.no_grad():
            network.get_classifier().weight *= 20
        made.append(network)
    return made


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def mean_of(networks: list[Astroformer | Answers], x_BCHW: Tensor) -> Tensor:
    return torch.stack([torch.softmax(network(x_BCHW).double(), 1) for network in networks]).mean(0)


@pytest.mark.parametrize("symmetry", ["shift", "shift+d4"])
def test_the_softmax_of_its_logits_is_the_mean_of_the_probabilities(symmetry: str) -> None:
    networks, x = members(symmetry=symmetry), images()
    ensemble, expected = Ensemble(networks).eval(), mean_of(networks, x)
    for ask in (ensemble, fast_pass(ensemble)):
        with torch.no_grad():
            got = torch.softmax(ask(x).double(), 1)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6 if ask is ensemble else 1e-5)
    # Or the mean would say little: members disagree.
    assert (mean_of(networks[:1], x) - expected).abs().max() > 0.05


def test_the_order_of_members_does_not_matter() -> None:
    networks, x = members(), images()
    with torch.no_grad():
        torch.testing.assert_close(Ensemble(networks)(x), Ensemble(networks[::-1])(x), rtol=0, atol=1e-6)


def test_certain_members_leave_small_probabilities_above_zero() -> None:
    sure, surer = torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([[0.0, 400.0, 0.0]])
    logs = log_mean_probabilities([sure, surer])
    # ln of (1/2, 1/2, e^-200 / 2), though e^-200 is 0 in float32.
    torch.testing.assert_close(logs, torch.tensor([[0.5, 0.5, 1.0]]).log() + torch.tensor([[0.0, 0.0, -200.6931472]]))
    torch.testing.assert_close(log_mean_probabilities([sure, sure]), torch.log_softmax(sure, 1))


def test_turned_and_flipped_images_get_the_same_answer() -> None:
    ensemble, x = Ensemble(members(symmetry="shift+d4")).eval(), images()
    with torch.no_grad():
        logits = ensemble(x)
        for other in (x.rot90(1, (2, 3)), x.flip(3)):
            torch.testing.assert_close(ensemble(other), logits, rtol=0, atol=1e-4)
    assert not torch.allclose(Ensemble(members())(x), Ensemble(members())(x.flip(3)), atol=1e-2)


def test_exports_alike() -> None:
    ensemble, x = Ensemble(members(2)).eval(), images(2)
    with torch.no_grad():
        exported = torch.export.export(ensemble, (x,)).module()(x)
        torch.testing.assert_close(exported, ensemble(x), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_exact_in_onnxruntime() -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    ensemble, x = Ensemble(members(2)).eval(), images(3)
    batch = torch.export.Dim("batch", min=1, max=1024)
    with sdpa_kernel(SDPBackend.MATH):
        program = torch.onnx.export(ensemble, (x,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: x[:1].numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), ensemble(x[:1]), rtol=0, atol=1e-4)


def test_what_is_no_ensemble_is_refused() -> None:
    with pytest.raises(UserError, match="an ensemble of 1 can't be; 2 members or more"):
        Ensemble(members(1))
    with pytest.raises(UserError, match=r"num_classes of member 1 is 4, of member 0 10"):
        Ensemble([*members(1), *members(1, num_classes=4)])
    with pytest.raises(UserError, match="channel_attention of member 2 is none, of member 0 se"):
        Ensemble([*members(2), *members(1, channel_attention="none")])
    with pytest.raises(UserError, match=r"symmetry of member 1 is shift, of member 0 shift\+mirror"):
        Ensemble([*members(1, symmetry="shift+mirror"), *members(1)])
    with pytest.raises(UserError, match=r"\(1, 1, 32, 32\).*takes \(batch, 3"):
        Ensemble(members(2))(torch.zeros(1, 1, 32, 32))
