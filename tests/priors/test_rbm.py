"""The restricted Boltzmann machine as a prior: exact where small, honest where large."""

import copy

import pytest
import torch
from significance import Estimate, mean_of

from ppl_vae.distributions import log_total, smaller_layer, state_log_weights
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.guides import BernoulliEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import VIMCO
from ppl_vae.priors import RBMPrior
from ppl_vae.training import fit
from ppl_vae.vae import VAE

BLOCKS, SIDE = 5, 5


def machine_of_blocks(**options):
    """Five small machines side by side, too large to be summed as one."""
    torch.manual_seed(1)
    prior = RBMPrior(BLOCKS * SIDE, BLOCKS * SIDE, **options).double()
    with torch.no_grad():
        for bias in (prior.visible, prior.hidden):
            bias.copy_(0.5 * torch.randn_like(bias))
        parts = 0.8 * torch.randn(BLOCKS, SIDE, SIDE, dtype=torch.float64)
        prior.weight.copy_(torch.block_diag(*parts))
    return prior


def small_machines(prior):
    """The blocks, each by itself."""
    parts = []
    for first in range(0, BLOCKS * SIDE, SIDE):
        block = slice(first, first + SIDE)
        small = RBMPrior(SIDE, SIDE).double()
        with torch.no_grad():
            small.visible.copy_(prior.visible[block])
            small.hidden.copy_(prior.hidden[block])
            small.weight.copy_(prior.weight[block, block])
        parts.append(small)
    return parts


def exact_log_partition(prior):
    parts = [small.log_partition().value for small in small_machines(prior)]
    return torch.stack(parts).sum().item()


def exact_draws(prior, number):
    return torch.cat([small().sample((number,)) for small in small_machines(prior)], -1)


class TestLogPartition:
    @pytest.mark.parametrize("units", [3, 14])
    def test_is_exact_where_it_can_be(self, units):
        prior = RBMPrior(units + 2, units).double().eval()
        found = prior.log_partition()
        exact = log_total(state_log_weights(smaller_layer(prior.couplings)))
        torch.testing.assert_close(found.value, exact.detach())
        assert (found.exact, found.standard_error.item()) == (True, 0)

    def test_is_annealed_where_it_is_large(self, significance):
        prior = machine_of_blocks().eval()
        found = prior.log_partition()
        assert not found.exact
        assert 0 < found.standard_error.item() < 0.1
        estimate = Estimate(found.value.item(), found.standard_error.item())
        significance.require_equal(estimate, exact_log_partition(prior))

    def test_is_one_number_for_one_state_of_the_parameters(self):
        prior = machine_of_blocks(temperatures=20).eval()
        first = prior.log_partition().value
        random_state = torch.get_rng_state()
        again = copy.deepcopy(prior)
        again._known = None
        assert torch.equal(again.log_partition().value, first)
        assert torch.equal(torch.get_rng_state(), random_state)
        with torch.no_grad():
            # As a checkpoint is loaded, which torch's version counters do not see.
            prior.visible.data.add_(0.1)
        assert not torch.equal(prior.log_partition().value, first)

    def test_is_part_of_every_density(self):
        prior = machine_of_blocks(temperatures=20).eval()
        z = exact_draws(prior, 3)
        expected = prior.couplings.log_unnormalised(z) - prior.log_partition().value
        torch.testing.assert_close(prior().log_prob(z), expected)

    def test_costs_less_in_training(self):
        """Fresh chains at each update, and fewer temperatures: the same up to its larger error."""
        prior = machine_of_blocks()
        values = torch.stack([-prior().log_prob(torch.zeros(25).double()) for _ in range(20)])
        assert len(values.unique()) == 20
        assert values.std() > prior.log_partition().standard_error
        # log Z = -log p(0) + what is left of the sum at z = 0.
        exact = exact_log_partition(prior) - prior.couplings.log_unnormalised(
            torch.zeros(25).double()
        )
        assert (values - exact).abs().max() < 10 * values.std()


class TestGradient:
    def test_of_small_machines_is_exact(self):
        prior = RBMPrior(4, 3).double()
        z = torch.tensor([[1.0, 0, 0, 1], [0.0, 1, 1, 1]]).double()

        def log_prob(*parameters):
            names = [name for name, _ in prior.named_parameters()]
            named = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(prior, named, ()).log_prob(z)

        assert torch.autograd.gradcheck(log_prob, tuple(prior.parameters()))

    def test_of_large_ones_is_the_mean_over_the_chains(self, significance):
        """With chains from the machine itself: of log Z, an unbiased estimate."""
        prior = machine_of_blocks(chains=20_000, temperatures=2).eval()
        prior.chains.copy_(exact_draws(prior, 20_000))
        log_partition = -prior().log_prob(torch.zeros(25).double())
        log_partition = log_partition + prior.couplings.log_unnormalised(torch.zeros(25).double())
        (found,) = torch.autograd.grad(log_partition, prior.visible)
        torch.testing.assert_close(found, prior.chains.mean(0))
        each = significance.split(25)
        first = 0
        for small in small_machines(prior):
            values = log_total(state_log_weights(small.couplings))
            (exact,) = torch.autograd.grad(values, small.visible)
            for column in range(SIDE):
                estimate = mean_of(prior.chains[:, first + column])
                each.require_equal(estimate, exact[column].item())
            first += SIDE

    def test_chains_move_in_training_only_and_once_a_run(self):
        prior = machine_of_blocks(temperatures=2)
        z = torch.zeros(25).double()
        before = prior.chains.clone()
        prior.eval()
        prior().log_prob(z)
        assert torch.equal(prior.chains, before)
        prior.train()
        with torch.no_grad():
            prior().log_prob(z)
            prior().sample((3,))
        assert torch.equal(prior.chains, before)
        law = prior()
        first = law.log_prob(z)
        moved = prior.chains.clone()
        assert not torch.equal(moved, before)
        assert torch.equal(law.expand([2]).log_prob(z)[0], first)
        assert torch.equal(prior.chains, moved)

    def test_two_runs_before_one_backward_pass(self):
        prior = machine_of_blocks(temperatures=2)
        z = torch.zeros(25).double()
        (prior().log_prob(z) + prior().log_prob(z)).backward()
        assert prior.weight.grad.isfinite().all()

    def test_persistent_chains_learn(self):
        """Of 14 units a side, which evaluation sums: near the machine that the data are from."""
        torch.manual_seed(2)
        truth = RBMPrior(14, 14).eval()
        with torch.no_grad():
            truth.weight.copy_(1.2 * torch.randn(14, 14))
            # As likely on as off.
            truth.visible.copy_(-truth.weight.sum(1) / 2)
            truth.hidden.copy_(-truth.weight.sum(0) / 2)
            z = truth().sample((500,))
        learned = RBMPrior(14, 14, sweeps=10, temperatures=20)
        optimizer = torch.optim.Adam(learned.parameters(), lr=0.03)
        for _ in range(120):
            optimizer.zero_grad()
            (-learned().log_prob(z).mean()).backward()
            optimizer.step()
        with torch.no_grad():
            reached, best = (p.eval()().log_prob(z).mean() for p in (learned, truth))
        mean = z.mean(0).clamp(0.01, 0.99)
        independent = torch.distributions.Bernoulli(mean).log_prob(z).sum(-1).mean()
        assert best > independent + 1
        assert reached > (independent + best) / 2


class TestDraws:
    def test_are_exact_in_evaluation_up_to_twenty_units(self, significance):
        torch.manual_seed(4)
        prior = RBMPrior(13, 13).double().eval()
        with torch.no_grad():
            prior.weight.copy_(torch.randn(13, 13))
        leaf = prior.visible.detach().clone().requires_grad_()
        couplings = prior.couplings._replace(visible=leaf)
        log_total(state_log_weights(couplings)).backward()
        z = prior().sample((20_000,))
        for column, mean in zip(z.unbind(-1), leaf.grad.tolist(), strict=True):
            significance.split(13).require_equal(mean_of(column), mean)

    def test_are_moved_on_from_the_chains(self, significance):
        """Without couplings a sweep forgets where it came from."""
        prior = machine_of_blocks()
        with torch.no_grad():
            prior.weight.zero_()
            z = prior().sample((5000,))
        assert z.shape == (5000, 25)
        means = torch.sigmoid(prior.visible).tolist()
        for column, mean in zip(z.unbind(-1), means, strict=True):
            significance.split(25).require_equal(mean_of(column), mean)


def large_vae():
    torch.manual_seed(0)
    prior = RBMPrior(13, 14, chains=16, temperatures=20)
    encoder = BernoulliEncoder(MLP(6, [], 13))
    return VAE(prior, BernoulliDecoder(MLP(13, [], 6)), encoder)


X = torch.bernoulli(torch.full((40, 6), 0.4), generator=torch.Generator().manual_seed(1))


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    """The chains are part of what a checkpoint holds."""
    runs = []
    for stops in ((4,), (2, 4)):
        vae = large_vae()
        for epochs in stops:
            fit(
                vae.model,
                vae.guide,
                VIMCO(2),
                X,
                epochs=epochs,
                batch_size=20,
                seed=3,
                checkpoint=tmp_path / f"run-{len(stops)}",
                progress=False,
            )
        runs.append(vae.state_dict())
    assert "prior.chains" in runs[0]
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name


def test_evidence_by_importance_sampling():
    vae = large_vae().eval()
    evidence = ImportanceSampling(200)(vae.model, vae.guide, X[:4])
    assert evidence.log_prob.isfinite().all()


@pytest.mark.parametrize("name", ["latent", "hidden", "chains", "sweeps", "temperatures"])
def test_sizes(name):
    sizes = {"latent": 3, "hidden": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, got 0"):
        RBMPrior(**sizes)
