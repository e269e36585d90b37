"""Products in bfloat16: what is rounded, and what is not."""

import pytest
import torch
from programs import binary_vae
from torch import nn

import ppl_vae as pv
from ppl_vae.training import SVIStep
from ppl_vae.training._precision import HalfProducts

from .helpers import VALID, same_state, train


def rounded(value):
    return value.to(torch.bfloat16).to(value.dtype)


def test_a_layer_rounds_its_factors_and_its_product_and_not_its_bias():
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 2), torch.randn(5, 3, requires_grad=True)
    with HalfProducts():
        out = layer(x)
        (out.sum(1) @ torch.arange(5.0)).backward()
    product = rounded(rounded(x) @ rounded(layer.weight).T)
    # The sums of three products are exact enough in single precision for any order.
    torch.testing.assert_close(out, product + layer.bias, rtol=1e-2, atol=0)
    assert (out - layer.bias - rounded(out - layer.bias)).abs().max() < 1e-6
    cotangent = torch.arange(5.0)[:, None].expand(5, 2)
    torch.testing.assert_close(
        layer.weight.grad, rounded(cotangent.T @ rounded(x)), rtol=1e-2, atol=1e-2
    )
    # A sum is no product: the bias has its gradient exactly.
    assert torch.equal(layer.bias.grad, torch.full((2,), 10.0))


def test_double_precision_stays_as_it_is():
    layer, x = nn.Linear(3, 2).double(), torch.randn(5, 3, dtype=torch.float64)
    with HalfProducts():
        out = layer(x)
    assert torch.equal(out, layer(x))


@pytest.mark.parametrize("step", ["torch", "svi", "alternating:1"])
def test_training_rounds(step):
    single, half = (train(step=step, precision=each)[0] for each in ("single", "bf16"))
    for name, value in single.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], value, rtol=0.1, atol=0.02)
    assert not same_state(single, half)
    assert all(value.dtype is torch.float32 for value in half.parameters())


def test_validation_does_not():
    # At a rate that moves no parameter, so that both runs validate the same model.
    settings = {"learning_rate": 1e-30, "valid": VALID, "validation_particles": 20, "epochs": 1}
    records = [
        train(precision=each, **settings)[1].history.records[0] for each in ("single", "bf16")
    ]
    assert records[0].validation == records[1].validation
    assert records[0].bound != records[1].bound
    assert records[0].bound == pytest.approx(records[1].bound, rel=1e-2)


def test_a_run_says_its_precision_and_goes_on_with_the_same(tmp_path):
    path = tmp_path / "run.safetensors"
    train(checkpoint=path, epochs=1, precision="bf16")
    with pytest.raises(ValueError, match="precision bf16 there"):
        train(checkpoint=path, epochs=2)
    whole, _ = train(epochs=2, precision="bf16")
    resumed, _ = train(checkpoint=path, epochs=2, precision="bf16")
    assert same_state(whole, resumed)


def test_an_unknown_precision_is_refused(unchecked_types):
    with pytest.raises(ValueError, match="precision is single or bf16, got 'half'"):
        train(precision="half")


def test_svi_takes_it_too():
    vae = binary_vae()
    parameters = dict(vae.named_parameters())
    step = SVIStep(pv.ELBO(), vae.model, vae.guide, parameters, precision="bf16")
    assert step(VALID, 0.01).isfinite().all()
