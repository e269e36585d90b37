"""VampPrior: the guide averaged over pseudo-inputs, with the guide's own parameters."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from scipy.stats import chi2
from significance import mean_of
from torch import nn

from ppl_vae.guides import DiagonalNormalEncoder, FlowEncoder, FullCovarianceEncoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, STL, DReG, GeneralizedDReG
from ppl_vae.particles import Programs
from ppl_vae.priors import PRIORS, StandardNormalPrior, VampPrior
from ppl_vae.training import Snapshot, find_parameters
from ppl_vae.vae import VAE, BottomUp, HierarchicalVAE

from .latent_mixtures import (
    ESTIMATORS,
    ROWS,
    LinearEncoder,
    binary_digits,
    digits_vae,
    evidence_ratio,
    train,
    wide,
)

WEIGHTED = pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])


def vamp(encoder, components=4, weighted=False):
    """Over the rows of the linear-Gaussian model, with weights away from each other."""
    prior = VampPrior(encoder, ROWS, components, weighted)
    if weighted:
        with torch.no_grad():
            prior.logits += torch.randn_like(prior.logits)
    return prior


def vamp_digits(components=20, weighted=False):
    return digits_vae(lambda encoder, data: VampPrior(encoder, data, components, weighted))


class TestPseudoInputs:
    def test_start_at_different_training_rows(self):
        inputs = VampPrior(LinearEncoder(), ROWS, len(ROWS)).pseudo_inputs
        match = (inputs.unsqueeze(1) == ROWS).all(-1)
        assert match.sum(0).tolist() == match.sum(1).tolist() == [1] * len(ROWS)
        assert not torch.equal(inputs, ROWS)

    def test_stay_where_the_data_are(self):
        """Pixels move, but none leaves [0, 1]; those at the border are not stuck there."""
        vae, data = vamp_digits()
        start = vae.prior.pseudo_inputs.detach().clone()
        train(vae, data)
        vae.prior()
        inputs = vae.prior.pseudo_inputs
        assert inputs.min() >= 0
        assert inputs.max() <= 1
        assert set(start.unique().tolist()) == {0, 1}
        assert ((inputs - start).abs() > 0.01).float().mean() > 0.2

    def test_go_anywhere_where_the_data_do(self):
        prior = vamp(LinearEncoder())
        with torch.no_grad():
            prior.pseudo_inputs.fill_(-7.0)
        prior()
        assert prior.pseudo_inputs.eq(-7.0).all()

    def test_a_second_use_before_the_gradient_is_no_modification(self):
        vae, _ = vamp_digits()
        with torch.no_grad():
            vae.prior.pseudo_inputs += 0.5
        z = torch.randn(3, 4)
        (vae.prior().log_prob(z) + vae.prior().log_prob(z)).sum().backward()
        assert vae.prior.pseudo_inputs.grad.isfinite().all()

    def test_missing_cells_start_at_column_means(self):
        data = torch.tensor([[1.0, torch.nan, torch.nan], [3.0, 4.0, torch.nan]])
        inputs = VampPrior(LinearEncoder(3), data, 2).pseudo_inputs
        order = inputs[:, 0].argsort()
        assert inputs[order].tolist() == [[1.0, 4.0, 0.0], [3.0, 4.0, 0.0]]

    @pytest.mark.parametrize(
        ("components", "message"),
        [(0, "components must be 1 or more, got 0"), (13, "13 components need as many, got 12")],
    )
    def test_impossible_numbers(self, components, message):
        with pytest.raises(ValueError, match=message):
            VampPrior(LinearEncoder(), ROWS, components)


class Encoders:
    """Guides of every kind that a mixture can be made of."""

    @staticmethod
    def diagonal():
        return DiagonalNormalEncoder(MLP(4, [5], 4))

    @staticmethod
    def full():
        return FullCovarianceEncoder(MLP(4, [5], FullCovarianceEncoder.num_outputs(2)))

    @staticmethod
    def flow():
        outputs = FlowEncoder.num_outputs(2, 3)
        return FlowEncoder(MLP(4, [5], outputs), 2, "spline", 3, layers=2, hidden_sizes=(8,))


@pytest.fixture(params=["diagonal", "full", "flow"])
def encoder(request):
    return getattr(Encoders, request.param)().double()


class TestDensity:
    @WEIGHTED
    def test_is_the_guides_average(self, encoder, weighted):
        prior, z = vamp(encoder, weighted=weighted), torch.randn(3, 5, 2, dtype=torch.float64)
        each = [
            encoder(u.unsqueeze(0)).expand((3, 5)).log_prob(z).exp() for u in prior.pseudo_inputs
        ]
        weights = prior.logits.softmax(0)
        expected = sum(w * density for w, density in zip(weights, each, strict=True)).log()
        torch.testing.assert_close(prior().log_prob(z), expected)
        assert prior().expand((3, 5)).sample().shape == (3, 5, 2)

    @WEIGHTED
    @pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
    def test_evidence_is_exact(self, weighted, estimator, significance):
        encoder = LinearEncoder()
        prior = vamp(encoder, weighted=weighted)
        q = encoder(prior.pseudo_inputs)
        weights = prior.logits.softmax(0)
        found = evidence_ratio(estimator, prior, wide, weights, q.mean, q.variance)
        significance.require_equal(found, 1.0)

    def test_of_the_test_other_weights(self, significance):
        encoder = LinearEncoder()
        prior = vamp(encoder, weighted=True)
        q = encoder(prior.pseudo_inputs)
        equal = torch.full((4,), 0.25).double()
        estimator = ESTIMATORS["importance sampling"]
        found = evidence_ratio(estimator, prior, wide, equal, q.mean, q.variance)
        with pytest.raises(AssertionError):
            significance.require_equal(found, 1.0)


class Near(nn.Module):
    """A guide so narrow that every draw tells its datum."""

    def forward(self, x):
        return dist.Normal(x[:, :2], 1e-3, validate_args=False).to_event(1)


def chi_square(prior, count=20_000):
    """Pearson's statistic of the components of draws."""
    draws = prior().sample((count,))
    index = torch.cdist(draws, prior.pseudo_inputs[:, :2]).argmin(1)
    expected = count * prior.logits.softmax(0)
    found = torch.bincount(index, minlength=len(expected))
    return ((found - expected).square() / expected).sum().item()


@WEIGHTED
def test_draws_take_pseudo_inputs_by_their_weights(weighted, significance):
    """At this test's share of the suite's false-alarm rate."""
    assert chi_square(vamp(Near(), weighted=weighted)) < chi2.isf(significance.rate, 3)


def test_of_the_test_of_weights(significance):
    """The first pseudo-inputs again and again, whatever their weights."""
    prior = vamp(Near(), weighted=True)
    right = prior()

    class First:
        def sample(self, shape):
            index = torch.arange(shape[0]) % 4
            return right.components.mean[index]

    prior.forward = First
    assert chi_square(prior) > chi2.isf(significance.rate, 3)


class TestParameters:
    @WEIGHTED
    def test_stand_once_in_the_model(self, weighted):
        vae, data = vamp_digits(weighted=weighted)
        own = {"pseudo_inputs", "logits"} if weighted else {"pseudo_inputs"}
        assert set(vae.prior.state_dict()) == own
        assert set(dict(vae.prior.named_parameters())) == own
        names = [name for name, _ in vae.named_parameters(remove_duplicate=False)]
        assert len(names) == len({id(p) for p in vae.parameters()})
        assert sorted(names) == sorted(vae.state_dict())
        assert Programs(vae.model, vae.guide).modules().buffers == {}
        found = find_parameters(Programs(vae.model, vae.guide).modules(data[:3]))
        assert sorted(found) == sorted(names)

    @WEIGHTED
    def test_all_get_a_gradient_from_the_prior_alone(self, weighted):
        vae, _ = vamp_digits(weighted=weighted)
        vae.prior().log_prob(torch.randn(6, 4)).sum().backward()
        for parameter in [*vae.prior.parameters(), *vae.encoder.parameters()]:
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().sum() > 0

    def test_a_copy_has_an_encoder_of_its_own(self):
        vae, _ = vamp_digits()
        z = torch.randn(3, 4)
        for other in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
            torch.testing.assert_close(other.prior().log_prob(z), vae.prior().log_prob(z))
            with torch.no_grad():
                other.encoder.network.output.bias += 1.0
            assert not torch.allclose(other.prior().log_prob(z), vae.prior().log_prob(z))

    def test_a_hierarchy_takes_one_on_top(self):
        lower, upper = (DiagonalNormalEncoder(MLP(n, [5], 4)) for n in (64, 2))
        inference, data = BottomUp([lower, upper]), binary_digits()
        prior = VampPrior(inference.top, data, 5)
        conditional = DiagonalNormalEncoder(MLP(2, [5], 4))
        decoder = digits_vae(lambda encoder, data: StandardNormalPrior(2), latent=2)[0].decoder
        vae = HierarchicalVAE(prior, [conditional], decoder, inference)
        assert len(list(vae.parameters())) == len(vae.state_dict())
        DReG(3).differentiable_loss(vae.model, vae.guide, data[:10]).backward()
        assert all(p.grad is not None for p in vae.parameters())

    def test_by_name_and_in_order(self):
        part = PRIORS.parse("ppl_vae.priors:VampPrior:3,true")
        prior = part(latent=2, features=4, data=ROWS, encoder=LinearEncoder())
        assert prior.pseudo_inputs.shape == (3, 4)
        assert "logits" in dict(prior.named_parameters())


class TestTraining:
    @WEIGHTED
    @pytest.mark.parametrize("step", ["torch", "svi"])
    def test_improves_and_stays_finite(self, weighted, step):
        vae, data = vamp_digits(weighted=weighted)
        before = {name: value.clone() for name, value in vae.named_parameters()}
        records = train(vae, data, step=step).history.records
        assert records[-1].bound > records[0].bound
        for name, value in vae.named_parameters():
            assert value.isfinite().all()
            assert not torch.equal(value, before[name])

    def test_pyros_svi_and_fit_train_alike(self):
        """Through Pyro's store the encoder is one and the same in model and guide."""
        trained = []
        for step in ("torch", "svi"):
            vae, data = vamp_digits(5)
            train(vae, data[:100], step=step, epochs=2)
            trained.append(dict(vae.named_parameters()))
            pyro.clear_param_store()
        torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)

    def test_trace_elbo_has_the_same_gradient(self):
        vae, data = vamp_digits(5, weighted=True)
        gradients = []
        for loss in (ELBO(), Trace_ELBO()):
            vae.zero_grad()
            torch.manual_seed(3)
            loss.loss_and_grads(vae.model, vae.guide, data[:20])
            gradients.append({name: p.grad.clone() for name, p in vae.named_parameters()})
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)

    def test_svi_trains_the_pseudo_inputs(self):
        vae, data = vamp_digits(5)
        before = vae.prior.pseudo_inputs.detach().clone()
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), loss=DReG(3)).step(data[:20])
        assert not torch.equal(vae.prior.pseudo_inputs, before)

    def test_survives_a_checkpoint(self, tmp_path):
        path = tmp_path / "run.safetensors"
        first, data = vamp_digits(weighted=True)
        kwargs = {"valid": data[:50], "validation_particles": 5, "checkpoint_seconds": 0.0}
        whole = train(first, data, epochs=3, **kwargs)
        half, _ = vamp_digits(weighted=True)
        train(half, data, epochs=2, checkpoint=path, **kwargs)
        second, _ = vamp_digits(weighted=True)
        rest = train(second, data, epochs=3, checkpoint=path, **kwargs)
        assert [r.bound for r in rest.history.records] == [r.bound for r in whole.history.records]
        for name, value in first.state_dict().items():
            assert torch.equal(second.state_dict()[name], value)
        names = [name for name in Snapshot.load(path).parameter if name.startswith("prior.")]
        assert sorted(names) == ["prior.logits", "prior.pseudo_inputs"]


U, ROW = torch.tensor([[-1.0], [1.5]]).double(), torch.tensor([[0.7]]).double()


class Scalar(nn.Module):
    """q(z|x) = Normal(a x + b, exp(c x + d)^2), one latent; a guide of four parameters."""

    def __init__(self):
        super().__init__()
        self.phi = nn.Parameter(torch.tensor([0.6, 0.1, 0.2, -0.4]).double())

    def forward(self, x):
        a, b, c, d = self.phi
        return dist.Normal(a * x + b, (c * x + d).exp(), validate_args=False).to_event(1)


class WithoutItsPart(VampPrior.__mro__[1]):
    """Wrong: a prior whose gradient does not reach the encoder."""

    def __init__(self, encoder, *arguments):
        super().__init__()
        self.right = VampPrior(encoder, *arguments)
        self.frozen = (encoder,)

    def forward(self):
        with torch.no_grad():
            return self.right()


class TestSharedParameters:
    """phi is in the guide and in the prior: every objective's gradient has both parts."""

    COUNT, BLOCKS = 400, 80

    @staticmethod
    def decoder(z):
        return dist.Normal(1.2 * z, 0.8, validate_args=False).to_event(1)

    def gradients(self, objective, make=VampPrior):
        """Independent estimates of phi's gradient of the expected bound, one in each row."""
        encoder = Scalar()
        vae = VAE(make(encoder, U, 2), self.decoder, encoder)
        found, x = [], ROW.expand(self.COUNT, 1)
        for seed in range(self.BLOCKS):
            torch.manual_seed(seed + 1000 * objective.num_particles)
            loss = objective.differentiable_loss(vae.model, vae.guide, x) / self.COUNT
            found.append(-torch.autograd.grad(loss, encoder.phi)[0])
        return torch.stack(found)

    def exact(self):
        """Of the ELBO, by a sum over a grid."""
        encoder = Scalar()
        prior = VampPrior(encoder, U, 2)
        z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(-1)
        q = encoder(ROW).log_prob(z)
        integrand = self.decoder(z).log_prob(ROW) + prior().log_prob(z) - q
        elbo = (q.exp() * integrand).sum() * 0.006
        return torch.autograd.grad(elbo, encoder.phi)[0]

    def check_exact(self, objective, significance, make=VampPrior):
        found, exact = self.gradients(objective, make), self.exact()
        for column, value in zip(found.T, exact.tolist(), strict=True):
            significance.split(len(exact)).require_equal(mean_of(column), value)

    @pytest.mark.parametrize(
        "objective", [ELBO(), STL(), IWAE(1), DReG(1), GeneralizedDReG(1)], ids=repr
    )
    def test_one_particle_against_the_exact_gradient(self, objective, significance):
        self.check_exact(objective, significance)

    @pytest.mark.parametrize("objective", [ELBO(), DReG(1)], ids=repr)
    def test_of_the_test_a_prior_without_its_part(self, objective, significance):
        with pytest.raises(AssertionError):
            self.check_exact(objective, significance, WithoutItsPart)

    @pytest.mark.parametrize("objective", [DReG(4), GeneralizedDReG(4)], ids=repr)
    def test_more_particles_against_the_plain_gradient(self, objective, significance):
        plain = self.gradients(IWAE(4))
        torch.manual_seed(5)
        for ours, other in zip(self.gradients(objective).T, plain.T, strict=True):
            significance.split(4).require_equal(mean_of(ours), mean_of(other))

    def test_at_the_posterior_only_the_priors_part_is_left(self):
        """phi = (a, b, c, d) with one pseudo-input u = 0: a and c are the guide's alone."""
        weight, noise, m, s = 1.2, 0.8, 0.3, 0.7
        precision = 1 / s**2 + weight**2 / noise**2
        mean = (m / s**2 + weight * ROW.item() / noise**2) / precision
        slope = (mean - m) / ROW.item()
        log_scale = torch.tensor(s).log().item()
        stretch = (-0.5 * torch.tensor(precision).log().item() - log_scale) / ROW.item()
        encoder = Scalar()
        encoder.phi.data = torch.tensor([slope, m, stretch, log_scale]).double()
        vae = VAE(VampPrior(encoder, 0 * ROW, 1), self.decoder, encoder)
        loss = DReG(5).differentiable_loss(vae.model, vae.guide, ROW)
        (gradient,) = torch.autograd.grad(loss, encoder.phi)
        assert gradient[[0, 2]].abs().max() < 1e-6
        assert gradient[[1, 3]].abs().min() > 1e-3
