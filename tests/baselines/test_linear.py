"""Linear generators against closed forms, scikit-learn, and estimators that know no exactness."""

import math

import pytest
import torch
from sklearn import decomposition

import ppl_vae as pv
from ppl_vae.baselines import RBM, FactorAnalysis, LinearGenerator, train
from ppl_vae.baselines._linear import moments
from ppl_vae.evidence import paired_difference
from ppl_vae.linear_gaussian import LinearGaussian


@pytest.fixture(scope="module")
def x():
    """Data with factors and a noise of each feature's own, of means and scales that differ."""
    source = torch.Generator().manual_seed(2)

    def normal(*shape):
        return torch.randn(shape, generator=source, dtype=torch.float64)

    loadings = normal(7, 2)
    noise = 0.3 + torch.rand(7, generator=source, dtype=torch.float64)
    return normal(400, 2) @ loadings.T + normal(400, 7) * noise + 5 * normal(7)


def fitted(baseline, x, epochs=1, **options):
    return train(baseline, x, epochs=epochs, device="cpu", progress=False, **options)


def bounds(result):
    return torch.tensor(result.history.column("bound"), dtype=torch.float64)


def test_moments_are_those_of_the_data(x):
    mean, covariance = moments(x)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(covariance, torch.cov(x.T, correction=0))


def test_the_closed_form_is_a_maximum_and_the_bound_is_the_mean_of_log_p(x):
    pca = LinearGenerator(7, 2)
    result = fitted(pca, x)
    exact = pca.evidence(x)
    assert exact.direction == "exact"
    assert exact.warning is None
    assert bounds(result).item() == pytest.approx(exact.mean, abs=1e-10)
    # The gradient is 0 there, of the noise and the mean too.
    pca.linear.requires_grad_(True)
    gradients = torch.autograd.grad(
        pca.linear.log_evidence(x).mean(), list(pca.linear.parameters())
    )
    assert len(gradients) == 3
    assert all(g.abs().max() < 1e-9 for g in gradients)


def test_log_p_is_that_of_the_normal_with_covariance_c(x):
    analysis = FactorAnalysis(7, 2)
    fitted(analysis, x, 20)
    linear = analysis.linear
    covariance = linear.weight @ linear.weight.T + linear.noise_scale.square().diag()
    normal = torch.distributions.MultivariateNormal(linear.bias, covariance)
    torch.testing.assert_close(analysis.score(x), normal.log_prob(x))


def test_em_rises_at_every_update_to_the_closed_form(x):
    closed, em = LinearGenerator(7, 2), LinearGenerator(7, 2, "em")
    maximum = bounds(fitted(closed, x)).item()
    rising = bounds(fitted(em, x, 300))
    assert (rising.diff() > -1e-12).all()
    assert rising[0] < maximum - 0.1
    assert rising[-1].item() == pytest.approx(maximum, abs=1e-9)
    # The same density: W up to a rotation.
    weights = [each.linear.weight for each in (closed, em)]
    torch.testing.assert_close(weights[0] @ weights[0].T, weights[1] @ weights[1].T)
    torch.testing.assert_close(closed.linear.noise_scale, em.linear.noise_scale)


def test_factor_analysis_rises_at_every_update_above_principal_components(x):
    rising = bounds(fitted(FactorAnalysis(7, 2), x, 100))
    assert (rising.diff() > -1e-12).all()
    # The shared noise is a special case of the noises.
    assert rising[-1] > bounds(fitted(LinearGenerator(7, 2), x)).item() + 0.05


def test_an_em_step_that_forgets_the_posterior_variance_does_not_rise_to_the_maximum(x):
    """The test of EM above can fail."""
    em = LinearGenerator(7, 2, "em")

    def wrong(covariance):
        gain = em.linear.gain
        shared = covariance @ gain.T
        em.linear.weight.data = torch.linalg.solve(gain @ shared, shared.T).T
        em._set_noise((covariance - em.linear.weight @ shared.T).diagonal())

    em._em_step = wrong
    maximum = bounds(fitted(LinearGenerator(7, 2), x)).item()
    assert bounds(fitted(em, x, 300))[-1] < maximum - 1e-3


def test_scores_are_those_of_scikit_learn(x):
    theirs = decomposition.PCA(2).fit(x.numpy())
    pca = LinearGenerator(7, 2)
    # It divides by N - 1 in place of N: the maximum for data that are so much wider.
    wider = (x - x.mean(0)) * (400 / 399) ** 0.5 + x.mean(0)
    fitted(pca, wider)
    assert pca.evidence(x).mean == pytest.approx(theirs.score(x.numpy()), abs=1e-6)
    theirs = decomposition.FactorAnalysis(2, tol=1e-12, max_iter=5000, svd_method="lapack")
    analysis = FactorAnalysis(7, 2)
    fitted(analysis, x, 2000)
    assert analysis.evidence(x).mean == pytest.approx(
        theirs.fit(x.numpy()).score(x.numpy()), abs=1e-6
    )


@pytest.mark.parametrize("kind", [LinearGenerator, FactorAnalysis])
def test_the_guide_is_the_exact_posterior(kind, x):
    baseline = kind(7, 2)
    fitted(baseline, x, 50)
    exact = baseline.evidence(x[:20])
    weighed = pv.ImportanceSampling(3)(baseline.model, baseline.guide, x[:20])
    torch.testing.assert_close(weighed.log_prob, exact.log_prob)
    torch.testing.assert_close(weighed.effective_sample_size, torch.full_like(exact.log_prob, 3.0))


@pytest.mark.parametrize("kind", [LinearGenerator, FactorAnalysis])
def test_annealing_without_a_guide_agrees_with_the_exact_value(kind, x):
    baseline = kind(7, 2)
    fitted(baseline, x, 50)
    annealing = pv.AnnealedImportanceSampling(60, 1000, 3, rows=10_000)
    found = annealing(baseline.model, None, x[:10])
    exact = baseline.evidence(x[:10])
    assert found.mean == pytest.approx(exact.mean, abs=0.05)
    assert found.monte_carlo_error < 0.02


def test_without_noise_reconstruction_is_the_orthogonal_projection(x):
    """As s goes to 0: principal components, and log p(x) without a lower end."""
    pca = LinearGenerator(7, 2)
    fitted(pca, x)
    weight, bias = pca.linear.weight.detach(), pca.linear.bias.detach()
    q, _ = torch.linalg.qr(weight)
    projected = bias + (x - bias) @ q @ q.T
    log_probs = []
    for noise in (1e-2, 1e-4):
        linear = LinearGaussian(weight, bias, noise)
        reconstructed = bias + linear.posterior(x).mean @ weight.T
        assert (reconstructed - projected).abs().max() < 10 * noise
        log_probs.append(linear.log_evidence(x).mean().item())
    assert log_probs[1] < log_probs[0] < -1e3


@pytest.mark.parametrize("learned", [torch.tensor(0.7), torch.tensor([0.5, 0.7, 0.9])])
def test_the_noise_of_a_linear_gaussian_can_be_learned(learned):
    known = LinearGaussian.random(3, 2, 0.7)
    model = LinearGaussian(known.weight.detach(), known.bias.detach(), learned.double())
    x = known.simulate(4)
    covariance = known.weight @ known.weight.T + learned.double().expand(3).square().diag()
    normal = torch.distributions.MultivariateNormal(known.bias, covariance)
    torch.testing.assert_close(model.log_evidence(x), normal.log_prob(x))
    weighed = pv.ImportanceSampling(3)(model.vae().model, model.vae().guide, x)
    torch.testing.assert_close(weighed.log_prob, normal.log_prob(x).detach())
    (gradient,) = torch.autograd.grad(model.log_evidence(x).sum(), [model.log_noise])
    assert gradient.shape == learned.shape
    assert gradient.abs().sum() > 0


def test_a_resumed_run_is_the_undisturbed_one(x, tmp_path):
    one, two = LinearGenerator(7, 2, "em"), LinearGenerator(7, 2, "em")
    file = tmp_path / "checkpoint.safetensors"
    fitted(one, x, 6)

    def stop(record):
        if record.epoch == 3:
            raise KeyboardInterrupt

    options = {"checkpoint": file, "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        fitted(two, x, 6, on_epoch=stop, **options)
    two = LinearGenerator(7, 2, "em")
    assert len(fitted(two, x, 6, **options).history) == 6
    assert torch.equal(one.linear.weight, two.linear.weight)
    assert torch.equal(one.linear.noise_scale, two.linear.noise_scale)


def test_the_face_of_a_vae(x):
    baseline = LinearGenerator(7, 2)
    fitted(baseline, x)
    assert baseline.generate(3).batch_shape == (3,)
    assert baseline.reconstruct(x[:4]).event_shape == (7,)
    assert baseline.encoder(x[:4]).event_shape == (2,)
    assert baseline.bottom == "z"
    assert baseline.decoder(baseline.prior().sample((5,))).batch_shape == (5,)


def test_a_constant_column_is_named_and_a_least_noise_takes_it(x):
    flat = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    with pytest.raises(ValueError, match=r"column 7 of train is constant \(1 are\).*least_noise"):
        fitted(FactorAnalysis(8, 2), flat)
    analysis = FactorAnalysis(8, 2, least_noise=0.1)
    fitted(analysis, flat, 50)
    assert analysis.linear.noise_scale[7].item() == pytest.approx(0.1)
    # A column that is its mean adds the density of a normal of that noise.
    without = FactorAnalysis(7, 2, least_noise=0.1)
    fitted(without, x, 50)
    assert analysis.evidence(flat).mean == pytest.approx(
        without.evidence(x).mean - 0.5 * torch.log(torch.tensor(2 * torch.pi * 0.01)).item(),
        abs=1e-4,
    )


def test_two_models_in_double_and_single_precision_are_paired(x):
    pca, given = LinearGenerator(7, 2), x.float()
    fitted(pca, given)
    rbm = RBM(7, 3, "normal")
    train(rbm, given, epochs=1, progress=False)
    found = paired_difference(pca.evidence(given), rbm.evidence(given))
    assert math.isfinite(found.mean)
    with pytest.raises(ValueError, match="same data in the same order"):
        paired_difference(pca.evidence(given), rbm.evidence(given.flip(0)))


@pytest.mark.parametrize("rows", [2, 3])
def test_rows_in_a_plane_of_the_latents_are_refused(rows, x):
    # Three rows lie in a plane of two dimensions, and the noise round it would be 0.
    with pytest.raises(ValueError, match="log p\\(x\\) has no maximum; give 4 rows or more"):
        fitted(LinearGenerator(7, 2), x[:rows])


@pytest.mark.parametrize("change", [lambda x: x[:, :5], lambda x: x[0]])
def test_rows_of_another_shape_have_no_evidence(change, x):
    pca = LinearGenerator(7, 2)
    fitted(pca, x)
    with pytest.raises(ValueError, match=r"takes rows of shape \(7,\), got x of shape"):
        pca.evidence(change(x))


def test_wrong_use_is_one_line(x):
    with pytest.raises(ValueError, match="fewer latents than features, got 7 and 7"):
        LinearGenerator(7, 7)
    with pytest.raises(ValueError, match="rule closed or em, got 'svd'"):
        LinearGenerator.__init__.__wrapped__(LinearGenerator(7, 2), 7, 2, "svd")
    with pytest.raises(ValueError, match=r"takes rows of 6 numbers, got shape \(7,\)"):
        fitted(LinearGenerator(6, 2), x)
    with pytest.raises(ValueError, match=r"train it by pv\.baselines\.train"):
        LinearGenerator(7, 2).update(x, 0.0)
    with pytest.raises(ValueError, match=r"shape \(\) or \(features,\), got \(2,\) with 3"):
        LinearGaussian(torch.ones(3, 1), noise_scale=torch.ones(2))
    with pytest.raises(ValueError, match="noise_scale must be positive"):
        LinearGaussian(torch.ones(3, 1), noise_scale=torch.zeros(3))
