"""Exemplar priors: all training data in evaluation, some of the others in training."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from significance import mean_of
from torch import nn
from torch.nn import functional

from ppl_vae.guides import FlowEncoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, DReG
from ppl_vae.particles import Programs
from ppl_vae.priors import PRIORS, ExemplarPrior
from ppl_vae.priors._encoded import EncodedMeans, RowIndex
from ppl_vae.vae import VAE, BottomUp, HierarchicalVAE

from .latent_mixtures import (
    ESTIMATORS,
    MODEL,
    ROWS,
    LinearEncoder,
    X,
    digits_vae,
    evidence_ratio,
    train,
    wide,
)

N = len(ROWS)
Z = torch.randn(5, N, 2, generator=torch.Generator().manual_seed(7)).double()


def exemplar(encoder=None, exemplars=N, evaluation=None, training=True):
    prior = ExemplarPrior(encoder or LinearEncoder(), ROWS, exemplars, evaluation).double()
    with torch.no_grad():
        prior.log_scale.fill_(-0.4)
    return prior.train(training)


def kernels(prior, z, rows=ROWS, encoder=None):
    """log Normal(z; m(x_n), s^2 I) of every row, in the last dimension."""
    means = (encoder or LinearEncoder())(rows).mean
    scale = prior.log_scale.exp()
    return dist.Normal(means, scale).log_prob(z.unsqueeze(-2)).sum(-1)


class TestEvaluation:
    def test_is_the_average_over_all_exemplars(self):
        prior = exemplar(exemplars=3, training=False)
        expected = torch.logsumexp(kernels(prior, Z), -1) - math.log(N)
        torch.testing.assert_close(prior().log_prob(Z), expected)
        torch.testing.assert_close(prior.without(ROWS).log_prob(Z), expected)

    def test_over_a_fixed_number_it_is_the_same_each_time(self):
        priors = [exemplar(exemplars=3, evaluation=4, training=False) for _ in range(2)]
        assert priors[0]().components.batch_shape == (4,)
        values = [prior().log_prob(Z) for prior in [*priors, priors[0]]]
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])
        matches = (priors[0].evaluated.unsqueeze(1) == ROWS).all(-1)
        assert matches.sum(1).tolist() == [1] * 4

    @pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
    def test_evidence_is_exact(self, estimator, significance):
        encoder = LinearEncoder()
        prior = exemplar(encoder, exemplars=3, training=False)
        weights = torch.full((N,), 1 / N).double()
        variances = torch.full((N, 2), math.exp(-0.8)).double()
        means = encoder(ROWS).mean
        found = evidence_ratio(estimator, prior, wide, weights, means, variances)
        significance.require_equal(found, 1.0)


class TestTraining:
    def test_a_subset_is_unbiased_for_all_and_its_logarithm_low(self, significance):
        prior, z = exemplar(exemplars=2), 2 * Z[0, 0]
        with torch.no_grad():
            exact = torch.logsumexp(kernels(prior, z), -1) - math.log(N)
            log_prob = torch.stack([prior().log_prob(z) for _ in range(800)])
        significance.split(2).require_equal(mean_of(log_prob.exp()), exact.exp().item())
        significance.split(2).require_less(mean_of(log_prob), exact.item())

    def test_each_datum_is_left_out_of_its_own_prior(self):
        """With all exemplars taken, the density is that of all others."""
        prior = exemplar()
        own = torch.eye(N, dtype=torch.bool)
        others = kernels(prior, Z).masked_fill(own, -math.inf)
        expected = torch.logsumexp(others, -1) - math.log(N - 1)
        p = prior.without(ROWS)
        assert p.batch_shape == (N,)
        torch.testing.assert_close(p.log_prob(Z), expected)
        torch.testing.assert_close(p.expand((5, N)).log_prob(Z), expected)

    def test_of_the_test_with_itself(self):
        prior = exemplar()
        with_own = torch.logsumexp(kernels(prior, Z), -1) - math.log(N)
        assert (prior.without(ROWS).log_prob(Z) - with_own).abs().max() > 0.01

    def test_a_subset_of_the_others_is_unbiased_for_them(self, significance):
        prior, z = exemplar(exemplars=3), Z[0, :1]
        with torch.no_grad():
            others = kernels(prior, z[0])[1:]
            exact = (torch.logsumexp(others, -1) - math.log(N - 1)).exp().item()
            found = [prior.without(ROWS[:1]).log_prob(z).exp() for _ in range(500)]
        significance.require_equal(mean_of(torch.cat(found)), exact)

    def test_up_to_a_constant_all_exemplars_give_more(self):
        """``log p_all >= log p_others + log(1 - 1/N)``: evaluation is above training."""
        prior = exemplar()
        others = prior.without(ROWS).log_prob(Z)
        assert (prior.eval()().log_prob(Z) >= others + math.log(1 - 1 / N)).all()

    def test_rows_that_are_no_exemplars_lose_none(self):
        prior = exemplar()
        x = torch.cat([ROWS[:2], X])
        expected = torch.logsumexp(kernels(prior, Z[:, 2:5]), -1) - math.log(N)
        torch.testing.assert_close(prior.without(x).log_prob(Z[:, :5])[:, 2:], expected)

    def test_rows_that_are_never_exemplars_are_said_to_be_so_once(self):
        prior = exemplar()
        with pytest.warns(
            UserWarning, match=r"no row of this batch is an exemplar.*binarise them once"
        ):
            prior.without(X)
        prior.without(X)

    def test_one_copy_of_a_repeated_row_is_left_out(self):
        rows = torch.cat([ROWS[:3], ROWS[:1]])
        prior = ExemplarPrior(LinearEncoder(), rows, 4).double()
        left = kernels(prior, Z[:, :1], rows)[..., 1:]
        expected = torch.logsumexp(left, -1) - math.log(3)
        torch.testing.assert_close(prior.without(rows[:1]).log_prob(Z[:, :1]), expected)

    def test_the_model_leaves_them_out_in_training_alone(self):
        encoder = LinearEncoder()
        prior = exemplar(encoder)
        vae = VAE(prior, MODEL.decoder, encoder)
        densities = []
        for mode in (True, False):
            vae.train(mode)
            conditioned = poutine.condition(vae.model, {"z": Z[0]})
            trace = poutine.trace(conditioned).get_trace(ROWS)
            densities.append(trace.nodes["z"]["fn"].log_prob(Z[0]))
        torch.testing.assert_close(densities[0], prior.train().without(ROWS).log_prob(Z[0]))
        torch.testing.assert_close(densities[1], prior.eval()().log_prob(Z[0]))

    def test_a_hierarchy_leaves_them_out_too(self):
        lower, upper = LinearEncoder(), LinearEncoder(2, seed=1)
        inference = BottomUp([lower, upper])
        prior = exemplar(inference.top)
        vae = HierarchicalVAE(prior, [LinearEncoder(2, seed=2)], MODEL.decoder, inference)
        conditioned = poutine.condition(vae.model, {"z1": Z[0], "z2": Z[0]})
        found = poutine.trace(conditioned).get_trace(ROWS).nodes["z2"]["fn"].log_prob(Z[0])
        torch.testing.assert_close(found, prior.without(ROWS).log_prob(Z[0]))

    def test_draws_have_the_shape_of_the_batch(self):
        assert exemplar().without(ROWS).sample().shape == (N, 2)
        assert exemplar()().sample((3,)).shape == (3, 2)

    @pytest.mark.parametrize("objective", [ELBO(), IWAE(5), DReG(5)], ids=repr)
    def test_improves_on_digits_and_stays_finite(self, objective):
        vae, data = digits_vae(lambda encoder, data: ExemplarPrior(encoder, data, 50))
        before = vae.prior.log_scale.item()
        records = train(vae, data, objective, valid=data[:50], validation_particles=5)
        records = records.history.records
        assert records[-1].bound > records[0].bound
        assert all(p.isfinite().all() for p in vae.parameters())
        assert vae.prior.log_scale.item() != before
        assert not vae.prior.training

    def test_survives_a_checkpoint(self, tmp_path):
        path, states = tmp_path / "run.safetensors", []
        for plan in ([3], [1, 3]):
            for epochs in plan:
                make = lambda encoder, data: ExemplarPrior(encoder, data, 50, 80)  # noqa: E731
                vae, data = digits_vae(make)
                train(vae, data[:100], epochs=epochs, checkpoint=path)
            states.append({**vae.state_dict(), "density": vae.prior().log_prob(torch.ones(4))})
            path.unlink()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class TestParameters:
    def test_hold_neither_the_encoder_nor_the_data(self):
        vae, _ = digits_vae(lambda encoder, data: ExemplarPrior(encoder, data, 50))
        assert list(vae.prior.state_dict()) == ["log_scale"]
        assert len(list(vae.parameters())) == len(vae.state_dict())
        assert Programs(vae.model, vae.guide).modules().buffers == {}

    @pytest.mark.parametrize("training", [True, False])
    def test_all_get_the_gradient_of_the_density(self, training):
        encoder = LinearEncoder()
        prior = exemplar(encoder, training=training)
        for _ in range(2):  # the second time from memory
            encoder.zero_grad()
            prior().log_prob(Z).sum().backward()
        found = [encoder.weight.grad.clone(), encoder.bias.grad[:2].clone()]
        encoder.zero_grad()
        torch.logsumexp(kernels(prior, Z, encoder=encoder), -1).sum().backward()
        torch.testing.assert_close(found, [encoder.weight.grad, encoder.bias.grad[:2]])
        assert prior.log_scale.grad.abs() > 0

    def test_a_copy_has_an_encoder_of_its_own(self):
        vae, _ = digits_vae(lambda encoder, data: ExemplarPrior(encoder, data, 50))
        z = torch.randn(3, 4)
        vae.eval()
        before = vae.prior().log_prob(z)
        other = copy.deepcopy(vae)
        with torch.no_grad():
            other.encoder.network.output.bias += 1.0
        assert not torch.allclose(other.prior().log_prob(z), before)
        assert torch.equal(vae.prior().log_prob(z), before)

    def test_by_name_and_in_order(self):
        part = PRIORS.parse("ppl_vae.priors:ExemplarPrior:3,evaluation_exemplars=5")
        prior = part(latent=2, features=4, data=ROWS, encoder=LinearEncoder())
        assert prior().components.batch_shape == (3,)
        assert prior.eval()().components.batch_shape == (5,)

    @pytest.mark.parametrize(
        "arguments", [(1,), (N + 1,), (3, N + 1)], ids=["one", "too many", "too many to evaluate"]
    )
    def test_impossible_numbers(self, arguments):
        with pytest.raises(ValueError, match="from 2 to as many exemplars as training rows"):
            ExemplarPrior(LinearEncoder(), ROWS, *arguments)

    def test_an_encoder_without_a_mean(self):
        outputs = FlowEncoder.num_outputs(2, 3)
        flow = FlowEncoder(MLP(4, [5], outputs), 2, "spline", 3, layers=1, hidden_sizes=(8,))
        with pytest.raises(ValueError, match="whose distribution has a mean"):
            ExemplarPrior(flow.double(), ROWS, 3)()


class Counting(nn.Module):
    """An encoder that counts the rows it has seen."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2).double()
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return dist.Normal(self.linear(x), 1.0).to_event(1)


class TestMemory:
    def test_encodes_once_while_nothing_changes(self):
        encoder = Counting()
        prior = exemplar(encoder, training=False)
        vae = VAE(prior, MODEL.decoder, wide)
        ESTIMATORS["annealing"](vae.model, vae.guide, X[:1])
        assert encoder.seen == N

    @pytest.mark.parametrize("how", ["in place", "through data", "by loading", "by type"])
    def test_notices_every_change_of_the_encoder(self, how):
        encoder = Counting()
        prior = exemplar(encoder, training=False)
        before = prior().mean
        with torch.no_grad():
            if how == "in place":
                encoder.linear.bias += 1.0
            elif how == "through data":
                encoder.linear.bias.data.add_(1.0)
            elif how == "by loading":
                state = encoder.state_dict()
                encoder.load_state_dict({n: v + 1.0 for n, v in state.items()})
            else:
                encoder.linear.weight.data = encoder.linear.weight.data.float().double() + 1.0
        assert (prior().mean - before).abs().min() > 0.1

    def test_of_other_rows_than_last_time(self):
        means = EncodedMeans(encoder := LinearEncoder())
        for rows in (ROWS, X, ROWS.clone()):
            torch.testing.assert_close(means.remembered(rows), encoder(rows).mean)

    def test_a_function_is_asked_each_time(self):
        shift = [0.0]

        def encoder(x):
            return dist.Normal(x[:, :2] + shift[0], 1.0).to_event(1)

        prior = exemplar(encoder, training=False)
        before = prior().mean
        shift[0] = 1.0
        torch.testing.assert_close(prior().mean, before + 1.0)

    def test_a_method_has_the_parameters_of_its_owner(self):
        model = copy.deepcopy(MODEL)
        prior = exemplar(model.posterior, training=False)
        before = prior().mean
        with torch.no_grad():
            model.bias += 1.0
        assert (prior().mean - before).abs().max() > 0.1
        prior().log_prob(Z).sum().backward()
        assert model.bias.grad.abs().sum() > 0


class TestRowIndex:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_finds_rows_and_no_others(self, dtype):
        table = functional.one_hot(torch.arange(40), 40).to(dtype).cumsum(0)
        index, order = RowIndex(table), torch.randperm(40)
        assert torch.equal(index(table[order]), order)
        assert torch.equal(index(table[order].double()), order)
        assert index(table[:5] + 0.5).tolist() == [-1] * 5

    def test_every_binary_row_has_a_key_of_its_own(self):
        rows = (torch.arange(2**14).unsqueeze(1) >> torch.arange(14) & 1).float()
        assert len(RowIndex(rows).keys.unique()) == 2**14

    def test_the_first_of_equal_rows(self):
        table = torch.tensor([[1.0, 0.0], [2.0, 3.0], [1.0, -0.0], [2.0, 3.0]])
        assert RowIndex(table)(table).tolist() == [0, 1, 0, 1]

    def test_missing_cells_are_values(self):
        table = torch.tensor([[1.0, math.nan], [1.0, 0.0], [math.nan, 1.0]])
        assert RowIndex(table)(table).tolist() == [0, 1, 2]
