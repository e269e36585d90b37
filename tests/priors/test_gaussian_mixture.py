"""Mixtures of Gaussians: components apart at the start, and at clusters where asked for."""

import pyro.distributions as dist
import pytest
import torch
from significance import mean_of, variance_of

from ppl_vae.objectives import MMD, DReG
from ppl_vae.priors import PRIORS, GaussianMixturePrior

from .latent_mixtures import ESTIMATORS, MODEL, X, digits_vae, evidence_ratio, train, wide

KINDS = ["diagonal", "full"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def moved(covariance, components=4):
    prior = GaussianMixturePrior(2, components, covariance).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return prior


def covariances(prior):
    parts = prior().components
    return parts.covariance_matrix if prior.root.dim() == 3 else parts.variance


def test_is_the_mixture_of_its_normals(kind):
    prior, z = moved(kind), torch.randn(6, 2, dtype=torch.float64)
    matrices = covariances(prior) if kind == "full" else covariances(prior).diag_embed()
    expected = dist.MixtureSameFamily(
        dist.Categorical(logits=prior.logits),
        dist.MultivariateNormal(prior.loc, matrices),
    )
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (2,))
    torch.testing.assert_close(p.log_prob(z), expected.log_prob(z))


@pytest.mark.parametrize(("latent", "spread"), [(2, 0.5), (8, 0.25)])
def test_starts_with_components_apart_and_moments_of_the_standard_normal(
    kind, latent, spread, significance
):
    prior = GaussianMixturePrior(latent, 400, kind)
    assert len(prior.loc.unique(dim=0)) == 400
    torch.testing.assert_close(prior().log_weights, torch.full((400,), 1 / 400).log())
    # Of 400 components' means: their spread about 0 is what is drawn.
    significance.split(2).require_equal(mean_of(prior.loc.detach()), 0.0)
    significance.split(2).require_equal(variance_of(prior.loc.detach()), spread)
    diagonal = covariances(prior) if kind == "diagonal" else covariances(prior).diagonal(0, 1, 2)
    torch.testing.assert_close(diagonal, torch.full((400, latent), 1 - spread))


def clusters(sizes=(600, 300, 100)):
    """Latent points in three clusters, two of them elongated."""
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    root = torch.tensor([[1.0, 0.0], [0.8, 0.5]])
    parts = [c + torch.randn(n, 2) @ root.T for c, n in zip(centres, sizes, strict=True)]
    return torch.cat(parts), centres, root @ root.T


def test_initialize_finds_clusters(kind, significance):
    z, centres, covariance = clusters()
    prior = GaussianMixturePrior(2, 3, kind)
    prior.initialize(z[torch.randperm(len(z))])
    order = torch.cdist(centres, prior.loc.detach()).argmin(1)
    weights = prior().log_weights.exp()[order]
    torch.testing.assert_close(weights, torch.tensor([601.0, 301.0, 101.0]) / 1003)
    members = z.split([600, 300, 100])
    torch.testing.assert_close(prior.loc[order], torch.stack([m.mean(0) for m in members]))
    found = covariances(prior)[order].detach()
    for i in range(2):
        variance = variance_of(members[0][:, i])
        entry = found[0, i, i] if kind == "full" else found[0, i]
        # Shrunk by 3 of 603 towards the mean variance, which is the same in expectation.
        assert abs(entry.item() - variance.value) < 0.01
        significance.split(2).require_equal(variance, covariance[i, i].item())
    if kind == "full":
        assert found[0, 0, 1] > 0.5


def test_initialize_makes_the_points_likelier(kind):
    z, _, _ = clusters()
    prior = GaussianMixturePrior(2, 5, kind)
    before = prior().log_prob(z).mean()
    prior.initialize(z)
    assert prior().log_prob(z).mean() > before + 10


def test_initialize_leaves_equal_weights_alone():
    z, _, _ = clusters()
    prior = GaussianMixturePrior(2, 3, learn_weights=False)
    prior.initialize(z)
    assert prior.logits.tolist() == [0, 0, 0]
    assert "logits" not in dict(prior.named_parameters())


def test_points_that_coincide(kind):
    """Fewer places than components: the rest have no members, and nothing is infinite."""
    prior = GaussianMixturePrior(2, 5, kind)
    z = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(10, 1)
    prior.initialize(z)
    assert prior().log_prob(z).isfinite().all()


def test_impossible_points(kind):
    prior = GaussianMixturePrior(2, 5, kind)
    with pytest.raises(ValueError, match=r"5 components need as many latent points .* got 4"):
        prior.initialize(torch.randn(4, 2))
    with pytest.raises(ValueError, match="must be finite"):
        prior.initialize(torch.full((6, 2), torch.nan))


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_evidence_is_exact(kind, estimator, significance):
    prior = moved(kind)
    weights = prior().log_weights.exp()
    found = evidence_ratio(estimator, prior, wide, weights, prior.loc, covariances(prior))
    significance.require_equal(found, 1.0)


def test_gradients_reach_every_parameter(kind):
    prior = moved(kind)
    prior().log_prob(torch.randn(5, 2, dtype=torch.float64)).sum().backward()
    for parameter in prior.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_draws_are_differentiable_where_weights_are_fixed(kind):
    fixed, learned = (GaussianMixturePrior(2, 4, kind, learn_weights=w) for w in (False, True))
    assert fixed().has_rsample
    assert not learned().has_rsample
    for prior, refused in ((fixed, False), (learned, True)):
        vae, data = digits_vae(lambda encoder, data, prior=prior: prior, latent=2)
        loss = MMD(weight=10.0)
        if refused:
            with pytest.raises(ValueError, match="no reparameterised sampler"):
                loss.differentiable_loss(vae.model, vae.guide, data[:20])
        else:
            loss.differentiable_loss(vae.model, vae.guide, data[:20]).backward()
            assert prior.loc.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", [None, DReG(3)], ids=["elbo", "dreg"])
def test_trains_on_digits(kind, objective):
    vae, data = digits_vae(lambda encoder, data: GaussianMixturePrior(4, 10, kind))
    before = {name: value.clone() for name, value in vae.prior.named_parameters()}
    history = train(vae, data, objective).history.records
    assert history[-1].bound > history[0].bound
    for name, value in vae.prior.named_parameters():
        assert value.isfinite().all()
        assert not torch.equal(value, before[name])


def test_by_name_and_in_order():
    part = PRIORS.parse("ppl_vae.priors:GaussianMixturePrior:7,full")
    prior = part(latent=3, features=4, data=X, encoder=MODEL.posterior)
    assert prior.root.shape == (7, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "latent must be 1 or more, got 0"),
        ((2, 0), "components must be 1 or more, got 0"),
    ],
)
def test_impossible_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixturePrior(*arguments)


def test_unknown_covariance(unchecked_types):
    with pytest.raises(ValueError, match="'diagonal' or 'full', got 'round'"):
        GaussianMixturePrior(2, 3, "round")


def test_one_normal_is_fitted_in_closed_form(kind):
    torch.manual_seed(0)
    z = torch.randn(500, 3).double() @ torch.randn(3, 3).double() + 2
    prior = GaussianMixturePrior(3, 1, kind).double()
    assert prior.fit(z) is None
    # Without held-out points 1/1000 of the mean variance is added to every direction.
    centred = z - z.mean(0)
    expected = centred.mT @ centred / 500 + 1e-3 * z.var(0, correction=0).mean() * torch.eye(3)
    torch.testing.assert_close(prior.loc[0].detach(), z.mean(0))
    found = covariances(prior)[0].detach()
    torch.testing.assert_close(found, expected if kind == "full" else expected.diagonal())


def test_a_fit_returns_the_density_of_held_out_points_and_is_better_for_it(kind):
    torch.manual_seed(0)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0]]).double()
    z = centres[torch.arange(300) % 2] + 0.3 * torch.randn(300, 2).double()
    prior = GaussianMixturePrior(2, 2, kind).double()
    score = prior.fit(z[:200], z[200:])
    torch.testing.assert_close(prior().log_prob(z[200:]).mean().item(), score)
    # The true density, but for what 200 points leave open.
    parts = dist.Normal(centres, 0.3).to_event(1)
    true = dist.MixtureSameFamily(dist.Categorical(torch.ones(2).double()), parts)
    assert abs(score - true.log_prob(z[200:]).mean().item()) < 0.1
    assert sorted(prior.loc[:, 0].round().tolist()) == [-4.0, 4.0]


@pytest.mark.parametrize("z", [torch.zeros(1, 2), torch.full((9, 2), torch.nan)])
def test_points_that_cannot_be_fitted(z):
    with pytest.raises(ValueError, match="need as many finite latent points"):
        GaussianMixturePrior(2, 2).fit(z)
