"""KL shaping: what is differentiated is shaped, what is reported is the ELBO."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae

from ppl_vae.objectives import (
    ELBO,
    STL,
    AnalyticELBO,
    Beta,
    Capacity,
    Context,
    CyclicalAnnealing,
    FreeBits,
    KLShaping,
    LinearAnnealing,
    Reinforce,
    WarmUp,
)
from ppl_vae.training import fit
from ppl_vae.training._divergence import Climb

from .linear import NOISE, X, draw_once
from .replicated import COPIED, exact_gradient, mild_parameters, replicates, require_gradient, x

KINDS = [ELBO, AnalyticELBO, STL, Reinforce]
SHAPINGS = [
    Beta(0.0),
    Beta(4.0),
    LinearAnnealing(),
    WarmUp(),
    CyclicalAnnealing(),
    FreeBits(0.3),
    FreeBits(0.3, per_dimension=False),
    Capacity(1.0),
]
COUNT = 20_000


def factor(shaping, progress, kl=1.0):
    return shaping.factors({"z": torch.tensor(kl)}, progress)["z"].item()


class TestSchedules:
    @pytest.mark.parametrize(
        ("progress", "expected"), [(0, 0.2), (0.2, 1.1), (0.4, 2.0), (0.7, 2.0), (1.0, 2.0)]
    )
    def test_linear(self, progress, expected):
        assert factor(LinearAnnealing(0.4, 0.2, 2.0), progress) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("epochs", "expected"),
        [(0, 0.2), (5, 0.4), (10, 0.6), (20, 1.0), (1e6, 1.0), (math.inf, 1)],
    )
    def test_warm_up_counts_epochs(self, epochs, expected):
        assert factor(WarmUp(20, 0.2), epochs) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("progress", "expected"),
        [
            (0.0, 0.0), (0.125, 1.5), (0.25, 3.0), (0.499, 3.0),
            (0.5, 0.0), (0.625, 1.5), (0.75, 3.0), (0.999, 3.0), (1.0, 3.0),
        ],
    )  # fmt: skip
    def test_cyclical(self, progress, expected):
        found = factor(CyclicalAnnealing(2, 0.5, 3.0), progress)
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize("cycles", [3, 7, 10])
    def test_every_cycle_begins_at_zero(self, cycles):
        """Progress is a quotient of updates, and not always a whole share of a cycle."""
        shaping = CyclicalAnnealing(cycles)
        starts = [factor(shaping, 100 * k / (100 * cycles)) for k in range(cycles)]
        assert starts == pytest.approx([0.0] * cycles, abs=1e-9)
        assert factor(shaping, 1.0) == 1.0

    @pytest.mark.parametrize(
        ("progress", "kl", "expected"),
        [(0.0, 0.1, 5), (0.25, 0.9, -5), (0.25, 1.1, 5), (0.5, 1.9, -5), (1.0, 2.1, 5)],
    )
    def test_capacity_is_approached_from_either_side(self, progress, kl, expected):
        assert factor(Capacity(2.0, 5.0), progress, kl) == expected

    def test_capacity_is_of_the_whole_kl(self):
        kl = {"u": torch.tensor(1.5), "v": torch.tensor(1.0)}
        assert set(map(float, Capacity(2.0, 3.0).factors(kl, 1.0).values())) == {3.0}
        assert set(map(float, Capacity(3.0, 3.0).factors(kl, 1.0).values())) == {-3.0}

    def test_free_bits_are_of_each_group(self):
        kl = {"u": torch.tensor([0.1, 0.6]), "v": torch.tensor(0.2)}
        found = FreeBits(0.3).factors(kl, 0.5)
        assert (found["u"].tolist(), found["v"].item()) == ([0.0, 1.0], 0.0)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Beta(-1.0), "beta must be 0 or more and finite, got -1"),
            (lambda: Beta(math.nan), "beta must be"),
            (lambda: LinearAnnealing(0.0), "ramp is a fraction of training"),
            (lambda: LinearAnnealing(end=-1.0), "end must be"),
            (lambda: WarmUp(0.0), "epochs must be positive and finite"),
            (lambda: WarmUp(math.inf), "epochs must be positive and finite"),
            (lambda: WarmUp(start=-1.0), "start must be"),
            (lambda: CyclicalAnnealing(0), "cycles must be a whole number"),
            (lambda: CyclicalAnnealing(2, 1.5), "ramp is a fraction"),
            (lambda: FreeBits(-0.1), "free nats must be"),
            (lambda: Capacity(math.inf), "capacity must be"),
            (lambda: Capacity(1.0, -1.0), "gamma must be"),
        ],
    )
    def test_arguments(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("shaping", SHAPINGS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_reported_bound_is_the_elbo(kind, shaping):
    torch.testing.assert_close(draw_once(kind(4, kl=shaping)).bound, draw_once(kind(4)).bound)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_linear_in_beta(kind):
    at = {beta: draw_once(kind(4, kl=Beta(beta))).gradient for beta in (0.0, 1.0, 3.5)}
    plain = draw_once(kind(4)).gradient
    torch.testing.assert_close(at[1.0], plain)
    expected = {name: at[0.0][name] + 3.5 * (plain[name] - at[0.0][name]) for name in plain}
    torch.testing.assert_close(at[3.5], expected)
    # Without the KL nothing trains the prior.
    assert all(not at[0.0][name].any() for name in ("m", "t"))


def shaped_elbo(values, factors):
    """E log p(x|z) minus factors times the KL of each dimension, in closed form."""
    W, b, m, t, c, s = (values[name] for name in ("W", "b", "m", "t", "c", "s"))
    variance = (2 * s).exp()
    residual = (x[0] - c @ W - b).square().sum() + (variance @ W.square()).sum()
    kl = t - s + (variance + (c - m).square()) * (-2 * t).exp() / 2 - 0.5
    return -residual / (2 * NOISE**2) - (torch.as_tensor(factors) * kl).sum()


def dimension_kl():
    """Of each dimension, under the replicated guide."""
    values = mild_parameters()
    guide = dist.Normal(values["c"], values["s"].exp())
    return torch.distributions.kl_divergence(guide, dist.Normal(values["m"], values["t"].exp()))


MIDDLE = dimension_kl().mean().item()
TOTAL = dimension_kl().sum().item()
EXPECTED = [
    (Beta(3.0), (3.0, 3.0)),
    (FreeBits(MIDDLE), tuple((dimension_kl() > MIDDLE).double().tolist())),
    (FreeBits(0.9 * TOTAL, per_dimension=False), (1.0, 1.0)),
    (FreeBits(1.1 * TOTAL, per_dimension=False), (0.0, 0.0)),
    (Capacity(1.1 * TOTAL, 2.0), (-2.0, -2.0)),
    (Capacity(0.9 * TOTAL, 2.0), (2.0, 2.0)),
]


def shaped_replicates(kind, shaping):
    objective = kind(2, kl=shaping)
    objective.context = Context(progress=1.0)
    return replicates(objective, COUNT, seed=1)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_unbiased_for_the_shaped_elbo(kind, significance):
    significance = significance.split(len(EXPECTED))
    for shaping, factors in EXPECTED:
        exact = exact_gradient(lambda values, f=factors: shaped_elbo(values, f))
        require_gradient(significance, shaped_replicates(kind, shaping), exact, COPIED)


def test_of_the_test(significance):
    assert dimension_kl().max() > 1.5 * dimension_kl().min()
    exact = exact_gradient(lambda values: shaped_elbo(values, (3.0, 3.0)))
    with pytest.raises(AssertionError):
        require_gradient(significance, shaped_replicates(ELBO, Beta(2.8)), exact, COPIED)


class Watched(KLShaping):
    """Every factor 1, and the KLs remembered."""

    def __init__(self, per_dimension):
        self.per_dimension = per_dimension

    def factors(self, kl, progress):
        self.seen = kl
        return {name: torch.ones_like(value) for name, value in kl.items()}


class TestSites:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_site_below_its_free_nats_has_no_kl_gradient(self, kind):
        """A is a parameter of p(v|u) alone."""
        chain = LinearChain()
        data = chain.simulate(50)

        def guide(rows):
            with pyro.plate("data", len(rows)):
                pyro.sample("u", dist.Normal(rows[:, :2], 0.7).to_event(1))
                pyro.sample("v", dist.Normal(rows[:, :3], 0.7).to_event(1))

        def gradient(shaping):
            torch.manual_seed(0)
            loss = kind(2, kl=shaping).differentiable_loss(chain.model, guide, data)
            return torch.autograd.grad(loss, [chain.A])[0]

        watched = Watched(per_dimension=False)
        plain = gradient(watched)
        kl = {name: value.item() for name, value in watched.seen.items()}
        assert kl["u"] < kl["v"]
        torch.testing.assert_close(plain, gradient(None))
        for nats, expected in [
            (0.99 * kl["u"], plain),
            (0.99 * kl["v"], plain),
            (1.01 * kl["v"], torch.zeros_like(plain)),
        ]:
            torch.testing.assert_close(gradient(FreeBits(nats, per_dimension=False)), expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_guide_that_does_not_factorise_is_refused_by_name(self, kind):
        chain = LinearChain()
        data = chain.simulate(3)
        with pytest.raises(ValueError, match="latent site 'u' has no KL per dimension"):
            kind(2, kl=FreeBits(0.1)).differentiable_loss(chain.model, chain.top_down, data)
        # Whole sites need no dimensions.
        whole = kind(2, kl=FreeBits(0.1, per_dimension=False))
        whole.differentiable_loss(chain.model, chain.top_down, data)

    @pytest.mark.parametrize("kind", [ELBO, AnalyticELBO])
    def test_dimensions_under_inner_plates_stay_with_their_datum(self, kind):
        def model(rows):
            with pyro.plate("data", len(rows), dim=-1), pyro.plate("inner", 3, dim=-2):
                w = pyro.sample("w", dist.Normal(rows.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(w.sum(-1), 1.0), obs=rows.T)

        def guide(rows):
            with pyro.plate("data", len(rows), dim=-1), pyro.plate("inner", 3, dim=-2):
                loc = rows.T.unsqueeze(-1) * torch.tensor([1.0, 2.0])
                pyro.sample("w", dist.Normal(loc, 1.0).to_event(1))

        rows = X[:, :3]
        objective = kind(2, kl=Watched(per_dimension=True))
        particles = objective.draw(model, guide, rows)
        objective.loss_of(particles)
        seen = objective.kl.seen["w"]
        if kind is AnalyticELBO:
            expected = (
                rows.square().mean(0).unsqueeze(-1) * torch.tensor([1.0, 4.0])
            ).flatten() / 2
        else:
            z = particles.latents["w"]
            terms = particles.guide["w"].base_dist.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
            expected = terms.mean((0, 2)).flatten()
        torch.testing.assert_close(seen, expected.double())


class StoppedError(Exception):
    """Stops a run."""


def run(vae, shaping, path=None, epochs=6, stop_at=math.inf):
    """A short annealed fit, which may be stopped at an update."""
    calls = itertools.count()

    def transform(batch):
        if next(calls) == stop_at:
            raise StoppedError
        return batch

    return fit(
        vae.model, vae.guide, ELBO(2, kl=shaping), binary_data(), epochs=epochs, batch_size=10,
        transform=transform, learning_rate=0.05, progress=False, device="cpu", checkpoint=path,
        checkpoint_seconds=0.0,
    )  # fmt: skip


def state(vae):
    return [value.clone() for value in vae.state_dict().values()]


ANNEALED = [LinearAnnealing(0.8), WarmUp(3.0), CyclicalAnnealing(2), Capacity(2.0, 5.0)]


@pytest.fixture(scope="module")
def of_a_constant_beta():
    """State after the fit that every annealed one must differ from."""
    vae = binary_vae()
    run(vae, Beta(1.0))
    return state(vae)


@pytest.mark.usefixtures("unchecked_types")
class TestTraining:
    @pytest.mark.parametrize("shaping", ANNEALED, ids=lambda s: type(s).__name__)
    def test_a_resumed_fit_is_the_one_never_stopped(self, shaping, tmp_path, of_a_constant_beta):
        uninterrupted, resumed = binary_vae(), binary_vae()
        expected = run(uninterrupted, shaping)
        with pytest.raises(StoppedError):
            run(resumed, shaping, tmp_path / "run", stop_at=14)
        other = binary_vae(seed=5)
        result = run(other, shaping, tmp_path / "run")
        assert all(map(torch.equal, state(uninterrupted), state(other)))
        bounds = [[r.bound for r in each.history.records] for each in (expected, result)]
        assert bounds[0] == bounds[1]
        # It matters where in training one is.
        assert not all(map(torch.equal, state(uninterrupted), of_a_constant_beta))

    @pytest.mark.parametrize("shaping", ANNEALED, ids=lambda s: type(s).__name__)
    def test_a_checkpoint_of_other_epochs_is_refused(self, shaping, tmp_path):
        run(binary_vae(), shaping, tmp_path / "run", epochs=2)
        with pytest.raises(ValueError, match="other settings: epochs 2 there, 4 here"):
            run(binary_vae(), shaping, tmp_path / "run", epochs=4)

    @pytest.mark.parametrize("shaping", [Beta(2.0), FreeBits(0.2)], ids=repr)
    def test_without_annealing_a_run_may_be_made_longer(self, shaping, tmp_path):
        whole, parts = binary_vae(), binary_vae()
        run(whole, shaping, epochs=4)
        for epochs in (2, 4):
            run(parts, shaping, tmp_path / "run", epochs=epochs)
        assert all(map(torch.equal, state(whole), state(parts)))

    def test_a_checkpoint_of_another_shaping_is_refused(self, tmp_path):
        run(binary_vae(), Beta(2.0), tmp_path / "run", epochs=2)
        with pytest.raises(ValueError, match=r"objective ELBO.*Beta\(beta=2.0\).* there"):
            run(binary_vae(), Beta(3.0), tmp_path / "run", epochs=2)

    @pytest.fixture
    def updates_alone(self, monkeypatch):
        """Shapings are asked for in updates, and not before and after them for what is told."""
        monkeypatch.setattr(Climb, "__call__", lambda _: torch.zeros(1, 2))
        monkeypatch.setattr("ppl_vae.training._trainer.warn_of_strays", lambda *_: None)

    def test_a_warm_up_is_the_same_for_every_length_of_training(self, updates_alone):
        """Four batches an epoch: after 5 updates of a warm-up of 2 epochs beta is 5/8."""
        seen = []

        class Seen(KLShaping):
            in_epochs = True

            def factors(self, kl, progress):
                seen.append(progress)
                return WarmUp(2.0).factors(kl, progress)

        for epochs in (2, 5):
            run(binary_vae(), Seen(), epochs=epochs)
        assert seen == pytest.approx([u / 4 for epochs in (2, 5) for u in range(4 * epochs)])
        assert factor(WarmUp(2.0), seen[5]) == pytest.approx(5 / 8)

    @pytest.mark.parametrize("kind", [ELBO, AnalyticELBO, STL])
    def test_a_warm_up_is_a_constant_beta_at_its_point(self, kind):
        gradients = []
        for shaping in (WarmUp(10.0), Beta(0.3)):
            vae, objective = binary_vae(), kind(2, kl=shaping)
            objective.context = Context(progress=0.9, epochs=3.0)
            torch.manual_seed(1)
            objective(vae.model, vae.guide)(binary_data()).backward()
            gradients.append([p.grad for p in vae.parameters()])
        for a, b in zip(*gradients, strict=True):
            assert torch.allclose(a, b)

    def test_progress_goes_from_zero_to_the_last_update(self, updates_alone):
        seen = []

        class Seen(KLShaping):
            def factors(self, kl, progress):
                seen.append(progress)
                return {name: torch.ones_like(value) for name, value in kl.items()}

        run(binary_vae(), Seen(), epochs=3)
        assert seen == pytest.approx([update / 12 for update in range(12)])
