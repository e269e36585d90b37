"""Steps by turns: alternating, aggressive, semi-amortised."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae, param_guide, param_model
from significance import mean_of
from torch import nn

from ppl_vae.data import binarize_batch
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.networks import MLP
from ppl_vae.objectives import CUBO, ELBO, IWAE, RWS, STL, VIMCO, Context, DReG, KLObjective
from ppl_vae.particles import Programs, cross_log_guide, draw_particles
from ppl_vae.priors import LearnedNormalPrior
from ppl_vae.refinement import Refinement
from ppl_vae.runs import RunConfig, open_run, train_run
from ppl_vae.schedules import Cosine
from ppl_vae.training import (
    STEPS,
    AggressiveStep,
    AlternatingStep,
    SemiAmortisedStep,
    TorchStep,
    find_parameters,
    fit,
)
from ppl_vae.training._aggressive import BLOCK, InformationTrend, batch_information
from ppl_vae.vae import VAE
from ppl_vae.weights import log_mean_exp

from .helpers import GREY, VALID, InterruptAt, X, same_state, state_of, train, without_seconds

NAMES = ["alternating:1", "alternating:3", "aggressive", "semi-amortised:2"]
GUIDE = "encoder"


def make_step(step, vae, objective=None, x=X, clip_norm=None):
    objective = objective or ELBO(2)
    parameters = find_parameters(Programs(vae.model, vae.guide).modules(x))
    make = STEPS.parse(step) if isinstance(step, str) else step
    return make(objective, vae.model, vae.guide, parameters, clip_norm)


class Counted(KLObjective):
    """The ELBO, keeping count of draws and of the parameters at each."""

    def __init__(self, vae, num_particles=1):
        super().__init__(num_particles)
        self.vae, self.states = vae, []

    def elbo_terms(self, particles):
        if torch.is_grad_enabled():
            self.states.append(state_of(self.vae))
        return particles.log_weight


def phase(before, after):
    """Which of a VAE's two programs changed."""
    changed = {n.startswith(GUIDE) for n in before if not torch.equal(before[n], after[n])}
    return {frozenset(): "none", frozenset([True]): "guide", frozenset([False]): "model"}.get(
        frozenset(changed), "joint"
    )


def phases(step, vae, updates=1, x=X):
    objective = Counted(vae)
    one = make_step(step, vae, objective, x)
    for _ in range(updates):
        one(x, 0.01)
    states = [*objective.states, state_of(vae)]
    return [phase(a, b) for a, b in pairwise(states)], one


class TestAlternating:
    @pytest.mark.parametrize("N", [1, 2, 5])
    def test_turns(self, N):
        found, _ = phases(f"alternating:{N}", binary_vae(learned_prior=True), updates=2)
        assert found == (["guide"] * N + ["model"]) * 2

    def test_one_and_one_is_the_joint_step_for_the_guide_and_not_for_the_model(self):
        gradients = {}
        for step in ("torch", "alternating:1"):
            one = make_step(step, binary_vae())
            torch.manual_seed(1)
            one(X, 0.01)
            # After one update Adam's first moment is a tenth of the gradient.
            gradients[step] = {n: v for n, v in one.state().items() if n.startswith("exp_avg/")}
        joint, turns = gradients.values()
        for name in joint:
            expected = name.startswith(f"exp_avg/{GUIDE}")
            assert torch.equal(joint[name], turns[name]) == expected, name

    def test_by_hand(self):
        """Each update is Adam's on the gradient of its own draws, at the parameters so far."""
        vae, hand = binary_vae().double(), binary_vae().double()
        x = X.double()
        torch.manual_seed(2)
        make_step("alternating:2", vae, STL(2), x)(x, 0.01)
        torch.manual_seed(2)
        optimizers = {
            name: torch.optim.Adam(getattr(hand, name).parameters(), lr=0.01)
            for name in ("encoder", "decoder")
        }
        for name in ("encoder", "encoder", "decoder"):
            hand.zero_grad()
            (STL(2).differentiable_loss(hand.model, hand.guide, x) / len(x)).backward()
            optimizers[name].step()
        torch.testing.assert_close(state_of(vae), state_of(hand))

    def test_shared_parameters_are_updated_in_both_phases(self):
        """The guide is the model's exact posterior: A and B are theta and phi."""
        chain = LinearChain()
        parameters = dict(chain.named_parameters())
        one = AlternatingStep(ELBO(4), chain.model, chain.rough, parameters, guide_updates=3)
        one(chain.simulate(20), 0.01)
        assert {one.state()[f"step/{name}"].item() for name in "AB"} == {4}

    def test_draws_of_an_update_are_fresh(self):
        draws = []

        class Spy(KLObjective):
            def elbo_terms(self, particles):
                draws.append(particles.latents["z"].detach())
                return particles.log_weight

        vae = binary_vae()
        one = make_step("alternating:2", vae, Spy(1))
        draws.clear()
        one(X, 1e-12)
        assert len(draws) == 3
        assert not any(torch.allclose(a, b) for a, b in pairwise(draws))

    def test_clipping_is_by_the_norm_of_the_phase(self):
        vae = binary_vae().double()
        one = make_step("alternating:1", vae, x=X.double(), clip_norm=1e-3)
        one(X.double(), 1e-3)
        for guide in (True, False):
            moments = [
                value.flatten()
                for name, value in one.state().items()
                if name.startswith("exp_avg/") and name.split("/")[1].startswith(GUIDE) == guide
            ]
            # After one update Adam's first moment is a tenth of the gradient.
            assert 10 * torch.cat(moments).norm().item() == pytest.approx(1e-3, rel=1e-4)

    @pytest.mark.parametrize("N", [1, 4])
    def test_decoder_evaluations(self, N):
        assert count_decodings(f"alternating:{N}") == (N + 1) * count_decodings("torch")


def count_decodings(step, updates=1, x=X):
    """Rows decoded by one call of a step, after the first (which looks for the parameters)."""
    rows = []
    vae = binary_vae()
    vae.decoder.register_forward_hook(lambda _, __, out: rows.append(out.batch_shape.numel()))
    one = make_step(step, vae)
    for _ in range(updates + 1):
        rows.clear()
        one(x, 1e-3)
    return sum(rows)


class TestAggressive:
    def test_turns_while_aggressive(self):
        found, one = phases("aggressive", binary_vae())
        assert one.aggressive
        assert found == ["guide"] * (len(found) - 1) + ["model"]
        assert (len(found) - 1) % BLOCK == 0
        assert 2 * BLOCK <= len(found) - 1 <= 100

    @pytest.mark.parametrize(
        ("bounds", "blocks"),
        [([-5, -4, -3, -3.5, 0], 4), ([-5, -6], 2), ([-5, -5], 2), (range(-50, 0), 10)],
    )
    def test_the_guide_is_updated_until_the_mean_bound_is_no_better(self, bounds, blocks):
        class Scripted:
            calls = 0

            def __call__(self, x, learning_rate, whose):
                assert (whose, learning_rate) == ("guide", 0.1)
                # The mean over a block decides, not its last value.
                noise = 30.0 if self.calls % 2 else -30.0
                bound = float(bounds[self.calls // BLOCK]) + noise
                self.calls += 1
                return SimpleNamespace(bound=torch.full((3,), bound))

        one = make_step("aggressive", binary_vae())
        one.update = Scripted()
        one._fit_guide(X, 0.1)
        assert one.update.calls == blocks * BLOCK

    def test_ends_when_the_information_no_longer_climbs(self):
        watch = InformationTrend()
        for information, climbing in ((1.0, True), (2.0, True), (2.5, True), (2.5, False)):
            for _ in range(4):
                assert watch.climbing
                watch.add(information, 10, num_data=40)
            assert watch.climbing == climbing

    def test_a_pass_is_so_many_data_or_a_hundred_batches(self):
        """The first pass has none to be compared with, and may find no information at all."""
        watch = InformationTrend()
        for _ in range(199):
            watch.add(0.0, 10, num_data=None)
        assert watch.climbing
        watch.add(0.0, 10, num_data=None)
        assert not watch.climbing

    def test_once_over_it_is_the_torch_step(self):
        vaes = [binary_vae(), binary_vae()]
        results = []
        for step, vae in zip((AggressiveStep, TorchStep), vaes, strict=True):
            one = make_step(step, vae, clip_norm=0.5)
            if step is AggressiveStep:
                one._information.climbing = False
            torch.manual_seed(3)
            results.append(torch.stack([one(X, 0.01) for _ in range(5)]))
        assert torch.equal(*results)
        assert same_state(*vaes)
        assert count_decodings_of_a_calm_step() == count_decodings("torch")

    def test_fit_ends_it(self):
        steps = []

        def spy(*args):
            steps.append(AggressiveStep(*args))
            return steps[-1]

        train(x=X[:20], epochs=15, batch_size=10, step=spy, learning_rate=0.01)
        assert not steps[0].aggressive


def count_decodings_of_a_calm_step():
    def calm(*args):
        one = AggressiveStep(*args)
        one._information.climbing = False
        return one

    return count_decodings(calm)


class TestInformation:
    @staticmethod
    def guide(scale):
        def run(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, scale).to_event(1))

        return run

    def programs(self, scale):
        return Programs(self.guide(scale), self.guide(scale))

    def test_none_where_all_data_are_alike(self):
        assert batch_information(self.programs(1.0), torch.ones(9, 2)) == pytest.approx(0, abs=1e-6)

    def test_log_of_the_batch_where_all_are_told_apart(self):
        x = 1e3 * torch.arange(9.0).unsqueeze(1)
        assert batch_information(self.programs(1.0), x) == pytest.approx(math.log(9))

    def test_rows_are_draws_and_columns_data(self):
        x = torch.randn(5, 2, dtype=torch.float64)
        torch.manual_seed(1)
        crossed = cross_log_guide(Programs(self.guide(0.5), self.guide(0.5)), x)
        torch.manual_seed(1)
        z = draw_particles(model_of, self.guide(0.5), x).latents["z"][0]
        expected = dist.Normal(x, 0.5).to_event(1).log_prob(z.unsqueeze(1))
        torch.testing.assert_close(crossed, expected)

    def test_each_draw_is_held_against_the_guides_of_all_data(self):
        x = torch.randn(5, 2, dtype=torch.float64)
        guide = self.guide(0.1 + x.square())
        torch.manual_seed(1)
        crossed = cross_log_guide(Programs(guide, guide), x)
        torch.manual_seed(1)
        expected = [crossed[j, j] - crossed[j].exp().mean().log() for j in range(5)]
        assert batch_information(Programs(guide, guide), x) == pytest.approx(
            torch.stack(expected).mean().item()
        )

    @pytest.mark.parametrize("order", ["top_down", "bottom_up"])
    def test_several_sites(self, order):
        """At the posterior, log q(z_j|x_i) = log p(z_j) + log p(x_i|z_j) - log p(x_i)."""
        chain = LinearChain()
        x = chain.simulate(4)
        guide = getattr(chain, order)
        torch.manual_seed(2)
        crossed = cross_log_guide(Programs(guide, guide), x)
        torch.manual_seed(2)
        drawn = draw_particles(chain.model, guide, x).latents
        for j in range(4):
            given = {name: z[:, j : j + 1].expand(-1, 4, -1) for name, z in drawn.items()}
            joint = pyro.poutine.trace(pyro.poutine.condition(chain.model, given)).get_trace(x)
            joint.compute_log_prob()
            log_joint = sum(joint.nodes[n]["log_prob"] for n in "uvx").squeeze(0)
            torch.testing.assert_close(crossed[j], log_joint - chain.log_evidence(x))


def model_of(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Blind(nn.Module):
    """A linear model and a guide that does not look at x: all of its gap is amortisation."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = 0.1 * torch.randn(6, 2, dtype=torch.float64, generator=generator)
        self.exact = LinearGaussian(weight, noise_scale=0.5)
        self.loc = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def model(self, x):
        self.exact.vae().model(x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))


TRUTH = LinearGaussian.random(6, 2, 0.5, seed=4)


class TestSemiAmortised:
    def test_learns_where_the_encoder_cannot(self, significance):
        """log p(x) of new data under the model, exact, against training at the blind guide."""
        x, new = TRUTH.simulate(200), TRUTH.simulate(500, seed=1)
        evidence = {}
        for step in ("torch", "semi-amortised:10"):
            blind = Blind()
            start = blind.exact.log_evidence(new).detach()
            result = fit(
                blind.model, blind.guide, ELBO(2), x, epochs=25, batch_size=100,
                learning_rate=0.05, step=step, progress=False,
            )  # fmt: skip
            evidence[step] = blind.exact.log_evidence(new).detach()
            bounds = result.history.column("bound")
            assert bounds[-1] > bounds[0]
        significance = significance.split(2)
        semi = evidence["semi-amortised:10"]
        significance.require_less(mean_of(evidence["torch"] - semi), 0.0)
        significance.require_less(mean_of(start - semi), 0.0)

    def test_gradients_are_those_at_the_refined_guide_by_hand(self):
        vae = binary_vae().double()
        x = X.double()
        objective = IWAE(3)
        step = make_step("semi-amortised:4", vae, objective, x)
        torch.manual_seed(5)
        refined = Refinement(4, num_particles=3)(Programs(vae.model, vae.guide), x, seed=None)
        loss = objective.differentiable_loss(vae.model, refined, x) / len(x)
        gradients = torch.autograd.grad(loss, list(step.parameters.values()))
        torch.manual_seed(5)
        step(x, 1e-3)
        state = step.state()
        for name, gradient in zip(step.parameters, gradients, strict=True):
            torch.testing.assert_close(10 * state[f"exp_avg/{name}"], gradient)

    @pytest.mark.parametrize("N", [1, 5])
    def test_decoder_evaluations(self, N):
        assert count_decodings(f"semi-amortised:{N}") == (N + 1) * count_decodings("torch")

    def test_an_objective_that_simulates_data_is_refused(self):
        with pytest.raises(ValueError, match=r"^step .*: RWS\(.*simulated data[^\n]*$"):
            train(step="semi-amortised:2", objective=RWS(2, phi="both"))

    def test_a_guide_site_of_another_kind_is_named(self):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Laplace(pyro.param("a", torch.zeros(6)), 1.0).to_event(1))

        with pytest.raises(ValueError, match="guide site 'z' is a Laplace"):
            fit(model_of, guide, ELBO(), X, step="semi-amortised:2", progress=False)


@pytest.mark.parametrize("name", NAMES)
class TestEveryStep:
    @pytest.mark.parametrize(
        "objective", [IWAE(3), DReG(3), VIMCO(3), RWS(3), CUBO(3, order=2.0)], ids=repr
    )
    def test_any_objective(self, name, objective):
        vae = binary_vae()
        start = state_of(vae)
        _, result = train(vae, objective=objective, step=name, epochs=1)
        assert all(math.isfinite(bound) for bound in result.history.column("bound"))
        changed = {
            n.split(".")[0] for n, v in state_of(vae).items() if not torch.equal(v, start[n])
        }
        assert changed == {"encoder", "decoder"}

    def test_any_way_to_declare_parameters(self, name):
        x = LinearChain().simulate(40).float()
        param_model(x), param_guide(x)
        start = {n: v.detach().clone() for n, v in pyro.get_param_store().items()}
        result = fit(
            param_model, param_guide, ELBO(3), x, epochs=20, batch_size=40, learning_rate=0.05,
            step=name, progress=False,
        )  # fmt: skip
        for key, value in pyro.get_param_store().items():
            assert not torch.equal(value, start[key]), f"{key} did not train"
        bounds = result.history.column("bound")
        assert sum(bounds[-5:]) > sum(bounds[:5])

    def test_seeds(self, name):
        settings = {"step": name, "epochs": 1, "batch_size": 40}
        first, again, other = (train(seed=seed, **settings)[0] for seed in (1, 1, 2))
        assert same_state(first, again)
        assert not same_state(first, other)

    def test_the_rate_reaches_the_optimiser(self, name):
        vae = binary_vae()
        start = state_of(vae)
        train(vae, step=name, learning_rate=1e-9, epochs=1, batch_size=40)
        moved = max((state_of(vae)[n] - start[n]).abs().max().item() for n in start)
        assert 0 < moved < 1e-6


@pytest.mark.parametrize("name", ["alternating:1", "alternating:3", "aggressive"])
def test_the_bound_is_that_of_the_models_update(name):
    """At the posterior every bound is log p(x), whatever is drawn."""
    chain = LinearChain()
    x = chain.simulate(40)
    result = fit(
        chain.model, chain.top_down, ELBO(2), x, epochs=1, batch_size=40, step=name,
        learning_rate=1e-9, progress=False,
    )  # fmt: skip
    record = result.history.records[0]
    assert record.bound == pytest.approx(chain.log_evidence(x).mean().item(), rel=1e-6)
    assert record.log_likelihood - sum(record.kl.values()) == pytest.approx(record.bound)


def make(seed=0):
    """A VAE with a batch norm, whose buffers must be resumed too."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    decoder = BernoulliDecoder(MLP(2, [8], 6))
    return VAE(LearnedNormalPrior(2), decoder, DiagonalNormalEncoder(body))


def run(vae, path=None, x=GREY, **kwargs):
    defaults = {
        "transform": binarize_batch, "valid": VALID, "epochs": 4, "validation_particles": 10,
        "checkpoint": path, "checkpoint_seconds": 0.0, "learning_rate": Cosine(0.02),
        "clip_norm": 1.0, "objective": IWAE(3),
    }  # fmt: skip
    return train(vae, x, **(defaults | kwargs))[1]


# At the start of the third epoch, and in the fourth.
@pytest.mark.parametrize(("name", "call"), [*zip(NAMES, [8, 12, 8, 12], strict=True)])
def test_a_resumed_run_is_the_run_never_stopped(name, call, tmp_path):
    whole, resumed = make(), make(seed=7)
    expected = run(whole, step=name)
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(make(), path, transform=InterruptAt(call), step=name)
    torch.manual_seed(4321)
    result = run(resumed, path, step=name)
    assert same_state(whole, resumed)
    assert without_seconds(result.history) == without_seconds(expected.history)


def test_the_end_of_aggression_is_resumed(tmp_path):
    """Two epochs at a time: what was remembered of the information decides what comes next."""
    calm = []

    def spy(*args):
        calm.append(AggressiveStep(*args))
        return calm[-1]

    spy.__name__ = "spy"
    whole, parts = make(), make()
    settings = {"x": GREY[:20], "batch_size": 10, "step": spy, "learning_rate": 0.02}
    run(whole, epochs=8, **settings)
    assert not calm[0].aggressive, "the test needs a run in which it ends"
    for epochs in (2, 4, 6, 8):
        run(parts, tmp_path / "run", epochs=epochs, **settings)
    assert same_state(whole, parts)
    assert calm[0].state().keys() == calm[-1].state().keys()
    assert all(torch.equal(v, calm[-1].state()[k]) for k, v in calm[0].state().items())


def test_a_run_is_not_resumed_with_another_number(tmp_path):
    train(checkpoint=tmp_path / "run", step="alternating:2", epochs=1)
    with pytest.raises(
        ValueError,
        match=r"step .*AlternatingStep:guide_updates=2,.* there, .*:guide_updates=3,.* here",
    ):
        train(checkpoint=tmp_path / "run", step="alternating:3", epochs=2)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "cls"),
        [
            ("alternating:3", AlternatingStep),
            ("aggressive", AggressiveStep),
            ("semi-amortised:7", SemiAmortisedStep),
        ],
    )
    def test_known(self, name, cls):
        assert isinstance(make_step(name, binary_vae()), cls)

    @pytest.mark.parametrize("name", ["agressive", "alternate:3", "", "semi-amortized:3"])
    def test_unknown(self, name):
        expected = (
            rf"^unknown step '{name}':( did you mean '[\w:-]+'\?)? known: auto, compiled, "
            r"torch, svi, alternating, aggressive, semi-amortised\.$"
        )
        with pytest.raises(ValueError, match=expected):
            train(step=name)

    @pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "²", "1:2"])
    @pytest.mark.parametrize(
        ("name", "own"), [("alternating", "guide_updates"), ("semi-amortised", "refinements")]
    )
    def test_numbers(self, name, own, number):
        with pytest.raises(ValueError, match=rf"^step '{name}:{number}': ({own} cannot|.*N >= 1)"):
            train(step=f"{name}:{number}")

    @pytest.mark.parametrize("name", ["torch:1", "svi:2", "auto:1", "compiled:3"])
    def test_no_number(self, name):
        with pytest.raises(ValueError, match=f"^step '{name}': .* takes no arguments.$"):
            train(step=name)

    @pytest.mark.parametrize("step", [AlternatingStep, SemiAmortisedStep])
    def test_classes_check_their_number(self, step):
        name = {AlternatingStep: "guide_updates", SemiAmortisedStep: "refinements"}[step]
        vae = binary_vae()
        with pytest.raises(ValueError, match=":N needs N >= 1, got 0"):
            step(ELBO(), vae.model, vae.guide, dict(vae.named_parameters()), **{name: 0})


class TestNothingToAlternate:
    @pytest.mark.parametrize("step", ["alternating:2", "aggressive"])
    @pytest.mark.parametrize(("frozen", "whose"), [("decoder", "model"), ("encoder", "guide")])
    def test_is_an_error(self, step, frozen, whose):
        vae = binary_vae()
        getattr(vae, frozen).requires_grad_(False)
        with pytest.raises(ValueError, match=f"^the {whose} has no parameters to train"):
            train(vae, step=step)

    @pytest.mark.parametrize("step", ["alternating:2", "aggressive"])
    def test_a_parameter_of_neither_is_named(self, step):
        vae = binary_vae()
        vae.idle = nn.Linear(2, 2)
        start = vae.idle.weight.clone()
        with pytest.warns(UserWarning, match="gives no gradient to idle.weight, idle.bias"):
            train(vae, step=step, epochs=1)
        assert torch.equal(vae.idle.weight, start)


def test_aggression_in_your_own_loop():
    """Without fit there is no number of data: the context says so, and batches are counted."""
    vae = binary_vae()
    objective = ELBO()
    objective.context = Context(num_data=None)
    one = make_step("aggressive", vae, objective)
    one(X[:2], 1e-3)
    assert one.aggressive


@pytest.mark.parametrize("name", ["alternating:2", "aggressive"])
def test_learns(name, significance):
    """The evidence of new data improves."""
    x, new, vae = binary_data(100), binary_data(300, seed=9), binary_vae()

    def evidence():
        torch.manual_seed(0)
        with torch.no_grad():
            return log_mean_exp(draw_particles(vae.model, vae.guide, new, 200).log_weight)

    start = evidence()
    train(vae, x, step=name, epochs=15, batch_size=50, learning_rate=0.01)
    significance.require_less(mean_of(start - evidence()), 0.0)


class TestRuns:
    def test_a_typo_is_found_before_anything_is_written(self, tmp_path):
        for name in ("agressive", "alternating:0", "torch:2"):
            with pytest.raises(ValueError, match=rf"^[^\n]*step '{name}'[^\n]*$"):
                train_run(RunConfig.of(step=name), tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("name", ["alternating:2", "semi-amortised:1"])
    def test_by_name(self, name, tmp_path):
        config = RunConfig.of(step=name, epochs=1, hidden=(4,), latent=2, batch_size=500)
        run, _ = train_run(config, tmp_path, device="cpu", progress=False)
        assert math.isfinite(run.history.records[0].bound)
        assert open_run(tmp_path, device="cpu").config.training.step == name
