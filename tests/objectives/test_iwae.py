"""Per-datum IWAE by hand, in plain torch; and what fails to equal it."""

import pyro
import pytest
import torch
from programs import binary_data, binary_vae
from pyro import poutine
from torch import nn

from ppl_vae.objectives import IWAE

from .wrong_variants import WRONG_IWAE

K = 5
X = binary_data().double()


def by_hand(vae, x, scale):
    """-scale * sum_i log (1/K) sum_k p(x_i, z_ik) / q(z_ik | x_i), without Pyro."""
    normal = torch.distributions.Normal
    loc, unconstrained = vae.encoder.network(x).chunk(2, -1)
    q = normal(loc, nn.functional.softplus(unconstrained) + 1e-6)
    z = q.rsample((K,))
    logits = vae.decoder.network(z)
    likelihood = -nn.functional.binary_cross_entropy_with_logits(
        logits, x.expand_as(logits), reduction="none"
    )
    log_weight = likelihood.sum(-1) + (normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)
    weight = torch.softmax(log_weight, 0).detach()
    value = -scale * log_weight.exp().mean(0).log().sum()
    # The gradient as Burda et al. write it: sum_k v_k grad log w_k, v held fixed.
    (-scale * (weight * log_weight).sum()).backward()
    return value.item(), [parameter.grad for parameter in vae.parameters()]


def check_equals_hand(objective, scale):
    hand, ours = binary_vae().double(), binary_vae().double()
    torch.manual_seed(2)
    value, gradient = by_hand(hand, X, scale)
    torch.manual_seed(2)
    model, guide = (poutine.scale(p, scale=scale) for p in (ours.model, ours.guide))
    assert objective.loss_and_grads(model, guide, X) == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close([p.grad for p in ours.parameters()], gradient)


@pytest.mark.parametrize("scale", [1.0, 0.3, 25.0])
def test_value_and_gradient_by_hand(scale):
    check_equals_hand(IWAE(K), scale)


@pytest.mark.parametrize("wrong", WRONG_IWAE)
def test_of_the_test(wrong):
    with pytest.raises(AssertionError):
        check_equals_hand(wrong(K), 0.3)


def test_a_subsampled_plate_scales_after_the_logarithm():
    vae = binary_vae().double()

    def plate(x):
        return pyro.plate("data", len(x), subsample_size=8)

    def model(x):
        with plate(x) as rows:
            z = pyro.sample("z", vae.prior())
            pyro.sample("x", vae.decoder(z), obs=x[rows])

    def guide(x):
        with plate(x) as rows:
            pyro.sample("z", vae.encoder(x[rows]))

    objective = IWAE(K)
    particles = objective.draw(model, guide, X)
    loss, bound = objective.loss_of(particles)
    assert bound.shape == (8,)
    torch.testing.assert_close(bound, particles.log_weight.exp().mean(0).log().detach())
    assert loss.item() == pytest.approx(-len(X) / 8 * bound.sum().item())


def test_a_datum_does_not_depend_on_its_batch():
    vae = binary_vae().double()
    particles = IWAE(K).draw(vae.model, vae.guide, X)
    bound = IWAE(K).bound(particles)
    for i in (0, 7):
        alone = particles.log_weight[:, i : i + 1].exp().mean(0).log()
        torch.testing.assert_close(bound[i : i + 1], alone)
