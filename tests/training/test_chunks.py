"""Batches in chunks: the gradient of the whole, from fewer rows at a time."""

import math
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import binary_data, binary_vae
from torch import nn

import ppl_vae as pv
from ppl_vae.objectives import OBJECTIVES, Context, Objective
from ppl_vae.particles import (
    NonFiniteDensityError,
    Programs,
    Share,
    count_evaluations,
    shared_draws,
    zero_offsets,
)
from ppl_vae.training import (
    AlternatingStep,
    CompiledStep,
    NonFiniteError,
    SemiAmortisedStep,
    SVIStep,
    TorchStep,
    find_parameters,
)
from ppl_vae.training import _chunks as chunking
from ppl_vae.training._chunks import even_slices
from ppl_vae.weights import log_mean_exp

from .helpers import same_state, train, without_seconds
from .test_compiled import objective_of, updates

COUPLED = ("mmd", "info-vae", "beta-tc")
"""Objectives whose gradient compares the data of a batch with each other."""
X = binary_data(24).double()


class GivenNoise(dist.Normal):
    """A normal whose draws are a function of a datum and the particle, whatever is drawn with it.

    The noise of a batch and of its chunks is the same then, so that gradients must be, too.
    """

    def __init__(self, loc, scale, datum):
        self.datum = datum
        super().__init__(loc, scale, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        values = (value.expand(batch_shape) for value in (self.loc, self.scale, self.datum))
        return GivenNoise(*values)

    def rsample(self, sample_shape=()):
        particle = torch.arange(1, 1 + len(self.loc), dtype=self.loc.dtype)
        angle = self.datum * particle.reshape(-1, *[1] * (self.loc.dim() - 1))
        return self.loc + self.scale * 1.4 * torch.sin(angle)

    def sample(self, sample_shape=()):
        return self.rsample().detach()


class GivenNoiseEncoder(nn.Module):
    """An encoder with noise of each datum's own, by its pixels."""

    def __init__(self, features, latent):
        super().__init__()
        self.network = pv.MLP(features, (8,), 2 * latent)
        self.register_buffer("key", torch.linspace(1, 97, features * latent).reshape(features, -1))

    def forward(self, x):
        loc, scale = self.network(x).chunk(2, -1)
        return GivenNoise(loc, scale.exp(), x @ self.key).to_event(1)


def given_noise_vae():
    torch.manual_seed(0)
    prior, decoder = pv.LearnedNormalPrior(2), pv.BernoulliDecoder(pv.MLP(2, (8,), 6))
    return pv.VAE(prior, decoder, GivenNoiseEncoder(6, 2)).double().train()


def step_of(cls, objective, vae=None, x=X, **settings):
    vae = vae or given_noise_vae()
    parameters = find_parameters(Programs(vae.model, vae.guide).modules(x[:2]))
    return cls(objective, vae.model, vae.guide, parameters, **settings)


@pytest.fixture
def tight(monkeypatch):
    """Memory for the graph of a few data only."""

    def limit(count=6):
        monkeypatch.setattr(chunking.ChunkSize, "rows_for", lambda self, x, device: 1)
        monkeypatch.setattr(chunking, "BUDGET", count)
        monkeypatch.setattr(chunking, "_bytes_per_datum", per_datum)

    measure = chunking._bytes_per_datum

    def per_datum(*arguments):
        # In the unit of a datum; 0 is of programs that are not divided.
        return min(1.0, measure(*arguments))

    return limit


def gradient_of(step, x=X):
    step.objective.context = Context(0.3, 1000, 3.0)
    torch.manual_seed(0)
    return step.differentiate(x, step.parameters, step.guide)


def require_same(found, expected):
    torch.testing.assert_close(found.sums, expected.sums, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.bound, expected.bound, rtol=1e-10, atol=1e-10)
    for value, wanted in zip(found.gradients, expected.gradients, strict=True):
        assert (value is None) == (wanted is None)
        if value is not None:
            assert (value - wanted).norm() <= 1e-6 * wanted.norm()


class TestTheGradient:
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_of_every_objective_is_that_of_the_batch_at_once(self, name, tight):
        expected = gradient_of(step_of(TorchStep, objective_of(OBJECTIVES[name])))
        tight(4)
        step = step_of(TorchStep, objective_of(OBJECTIVES[name]))
        assert len(step.chunks(X)) == (1 if name in COUPLED else 6)
        require_same(gradient_of(step), expected)

    @pytest.mark.parametrize("name", COUPLED)
    def test_of_coupled_data_would_be_another(self, name, tight):
        objective = objective_of(OBJECTIVES[name])
        expected = gradient_of(step_of(TorchStep, objective))
        tight(4)
        objective.couples = None
        with pytest.raises(AssertionError):
            require_same(gradient_of(step_of(TorchStep, objective)), expected)

    @pytest.mark.parametrize(
        ("kl", "chunks"),
        [
            (pv.objectives.LinearAnnealing(0.5), 6),
            (pv.objectives.WarmUp(7), 6),
            (pv.objectives.FreeBits(0.1), 1),
            (pv.objectives.Capacity(2.0), 1),
        ],
        ids=repr,
    )
    def test_with_shaped_kl_terms_and_clipped(self, kl, chunks, tight):
        expected = gradient_of(step_of(TorchStep, pv.ELBO(3, kl=kl), clip_norm=0.01))
        tight(4)
        step = step_of(TorchStep, pv.ELBO(3, kl=kl), clip_norm=0.01)
        assert len(step.chunks(X)) == chunks
        found = gradient_of(step)
        require_same(found, expected)
        norm = torch.stack([value.norm() for value in found.gradients]).norm()
        torch.testing.assert_close(norm.item(), 0.01, rtol=1e-3, atol=0)

    def test_in_chunks_of_two_sizes(self, tight):
        x = X[:23]
        expected = gradient_of(step_of(TorchStep, pv.DReG(5)), x)
        tight(4)
        step = step_of(TorchStep, pv.DReG(5))
        sizes = {rows.stop - rows.start for rows in step.chunks(x)}
        assert sizes == {3, 4}
        require_same(gradient_of(step, x), expected)

    def test_at_a_guide_of_the_batch(self, tight):
        vae = given_noise_vae()
        guide = zero_offsets(vae.guide, X)
        offsets = [0.3 * torch.randn_like(value) for value in guide.tensors]
        guide = guide.with_tensors(offsets)

        step = step_of(TorchStep, pv.IWAE(4), vae)
        tight(4)
        rows = step.chunks(X, guide)
        assert len(rows) == 6
        torch.manual_seed(3)
        found = step.differentiate(X, step.parameters, guide)
        torch.manual_seed(3)
        total = [torch.zeros_like(value) for value in step.parameters.values()]
        for chunk in rows:
            programs = Programs(vae.model, guide.rows(chunk))
            loss = pv.IWAE(4).differentiable_loss(programs.model, programs.guide, X[chunk])
            for value, grad in zip(
                total, torch.autograd.grad(loss, list(step.parameters.values())), strict=True
            ):
                value += grad / len(X)
        for value, wanted in zip(found.gradients, total, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("cls", [TorchStep, CompiledStep, SVIStep])
    def test_is_what_steps_take(self, cls, tight, recorded):
        whole, divided = (step_of(cls, pv.IWAE(4)) for _ in range(2))
        whole(X, 0.01)
        tight(4)
        with count_evaluations() as count:
            divided(X, 0.01)
        assert count.rows == 4 * len(X)
        for value, wanted in zip(
            divided.parameters.values(), whole.parameters.values(), strict=True
        ):
            torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("recorded")
class TestCompiled:
    @pytest.mark.parametrize("precision", ["single", "bf16"])
    def test_is_the_plain_one_in_chunks(self, precision, tight):
        tight(4)
        x = X.float()
        results = []
        for cls in (TorchStep, CompiledStep):
            vae = binary_vae().train()
            step = step_of(cls, pv.DReG(5), vae, x, clip_norm=0.5, precision=precision)
            results.append((*updates(step, [x, x[:20], x]), step))
        (expected, after, plain), (found, then, compiled) = results
        assert all(map(torch.equal, found, expected))
        assert torch.equal(after, then)
        assert len(plain.chunks(x)) == 6
        # Chunks of one size are one graph, of whichever batch.
        assert len(compiled.replays._recorded) == 1

    def test_alternating_takes_one_graph_a_phase(self, tight):
        tight(4)
        vae = binary_vae().train()
        x = X.float()
        step = step_of(AlternatingStep, pv.IWAE(3), vae, x, compiled=True)
        step(x, 0.01)
        assert len(step.replays._recorded) == 2
        assert step.taken_compiled == 2


class TestRows:
    @pytest.mark.parametrize("objective", [pv.IWAE(7), pv.DReG(7)], ids=repr)
    def test_alive_at_once_are_those_of_a_chunk(self, objective, tight):
        """Decoder rows in the autograd graphs that are there, whenever the decoder runs."""
        alive, most = [0], [0]

        class Node(torch.autograd.Function):
            @staticmethod
            def forward(ctx, z):
                rows = z.shape[:-1].numel()
                alive[0] += rows
                # As long as the node is, its graph is.
                weakref.finalize(ctx, lambda: alive.__setitem__(0, alive[0] - rows))
                most[0] = max(most[0], alive[0])
                return z.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient

        class Counting(pv.BernoulliDecoder):
            def forward(self, z):
                return super().forward(Node.apply(z))

        def rows():
            vae = given_noise_vae()
            vae.decoder = Counting(pv.MLP(2, (8,), 6)).double()
            step = step_of(TorchStep, objective, vae)
            step.chunks(X)
            assert alive == [0]
            most[0] = 0
            gradient_of(step)
            return most[0]

        assert rows() == 7 * len(X)
        tight(4)
        assert rows() == 7 * 4


class TestSizes:
    def test_bytes_are_those_of_the_activations(self):
        # tanh keeps its output, a product its input: a row of 2 latents and 8 hidden units keeps
        # some hundreds of bytes, in proportion to K; a datum 6 pixels and the encoder's 8 more.
        vae = binary_vae()
        programs = Programs(vae.model, vae.guide)
        one, many = (chunking._bytes_per_datum(pv.ELBO(k), programs, X.float()) for k in (1, 1001))
        row = (many - one) / 1000
        assert 4 * (2 + 8 + 6) <= row <= 4 * (2 + 8 + 6) * 6

    def test_follow_from_sizes_alone(self):
        first, second = (step_of(TorchStep, pv.IWAE(500), x=X) for _ in range(2))
        torch.manual_seed(1)
        assert first.chunks(X) == second.chunks(X)

    def test_looking_leaves_everything_as_it_was(self, tight):
        vae = binary_vae().train()
        vae.decoder = pv.BernoulliDecoder(nn.Sequential(pv.MLP(2, (8,), 6), nn.Dropout())).train()
        step = step_of(TorchStep, pv.IWAE(3), vae, X.float())
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        torch.manual_seed(2)
        expected = torch.rand(1)
        torch.manual_seed(2)
        tight(4)
        with count_evaluations() as count:
            assert len(step.chunks(X.float())) == 6
        assert torch.equal(torch.rand(1), expected)
        assert count.rows == 0
        assert same_state(before, vae.state_dict())
        assert all(module.training for module in vae.modules())

    @pytest.mark.parametrize(
        ("size", "count", "sizes"),
        [
            (100, 1, [100]),
            (100, 3, [25] * 4),
            (100, 7, [10] * 10),
            (97, 3, [32, 32, 33]),
            (5, 9, [1] * 5),
            (4, 0, [4]),
        ],
    )
    def test_are_alike_where_they_can_be(self, size, count, sizes):
        slices = even_slices(size, count)
        assert [rows.stop - rows.start for rows in slices] == sizes
        assert [row for rows in slices for row in range(size)[rows]] == list(range(size))

    def test_of_few_rows_are_not_looked_at(self, monkeypatch):
        monkeypatch.setattr(chunking, "_bytes_per_datum", None)
        assert step_of(TorchStep, pv.ELBO(10)).chunks(X) == [slice(0, 24)]


class BatchMean(nn.Module):
    """Centres by the batch's mean, kept in no buffer, as a batch norm without statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x):
        return self.norm(x)


def normed(layer):
    def build():
        vae = binary_vae().train()
        vae.encoder = pv.DiagonalNormalEncoder(nn.Sequential(layer(), nn.Linear(6, 4)))
        return vae.train()

    return build


class TestDataThatDependOnEachOther:
    @pytest.mark.parametrize(
        "layer",
        [
            lambda: nn.BatchNorm1d(6),
            BatchMean,
            lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
        ],
        ids=["batch norm", "without statistics", "spectral norm"],
    )
    def test_by_a_module_stay_together(self, layer, tight):
        tight(4)
        x = X.float()
        step = step_of(TorchStep, pv.IWAE(3), normed(layer)(), x)
        assert step.chunks(x) == [slice(0, 24)]

    def test_by_a_plate_stay_together(self, tight):
        tight(4)
        vae = given_noise_vae()

        def of_many(program):
            def scaled(x):
                with pyro.poutine.scale(scale=100 / len(x)):
                    return program(x)

            return scaled

        parameters = dict(vae.named_parameters())
        step = TorchStep(pv.IWAE(3), of_many(vae.model), of_many(vae.guide), parameters)
        assert step.chunks(X) == [slice(0, 24)]
        fixed = pyro.poutine.scale(vae.model, scale=0.1), pyro.poutine.scale(vae.guide, scale=0.1)
        assert len(TorchStep(pv.IWAE(3), *fixed, parameters).chunks(X)) == 6

    def test_by_an_objective_of_ones_own_stay_together_if_it_says_so(self, tight):
        class Own(Objective):
            def bound(self, particles):
                return log_mean_exp(particles.log_weight)

        tight(4)
        assert len(step_of(TorchStep, Own(3)).chunks(X)) == 6
        Own.couples = "pairs of data"
        assert step_of(TorchStep, Own(3)).chunks(X) == [slice(0, 24)]

    def test_a_worker_s_share_stays_together(self, tight):
        """Its draws are those that its rows have among the draws of the whole batch, at once."""
        tight(4)
        step = step_of(TorchStep, pv.IWAE(3))
        assert len(step.chunks(X)) == 6
        with shared_draws(Share(1, 2, 2 * len(X)), []):
            assert step.chunks(X) == [slice(0, 24)]

    def test_programs_that_take_full_batches_alone_get_them(self, tight):
        tight(4)
        vae = given_noise_vae()

        def model(x):
            if len(x) != 24:
                raise ValueError("24 rows, please")
            return vae.model(x)

        step = TorchStep(pv.IWAE(3), model, vae.guide, dict(vae.named_parameters()))
        assert step.chunks(X) == [slice(0, 24)]


class TestRuns:
    def test_going_on_is_the_run_that_was_never_stopped(self, tight, tmp_path):
        tight(4)
        settings = {"step": "torch", "batch_size": 20, "objective": pv.IWAE(3)}
        whole, result = train(epochs=4, **settings)
        train(epochs=2, checkpoint=tmp_path / "run", **settings)
        resumed, again = train(epochs=4, checkpoint=tmp_path / "run", **settings)
        assert same_state(whole, resumed)
        assert without_seconds(result.history) == without_seconds(again.history)

    @pytest.mark.parametrize("step", ["torch", "compiled", "semi-amortised:2"])
    def test_a_datum_that_is_not_finite_is_named_by_its_row(self, step, tight, recorded):
        x, row = binary_data(41), 30
        x[:, 0] = 1.0
        x[row] = 0.0
        vae = binary_vae()
        tight(4)

        class Explodes(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                empty = x.sum(-1, keepdim=True) == 0
                return self.inner(x) + torch.where(empty, math.inf, 0.0)

        vae.encoder = pv.DiagonalNormalEncoder(Explodes(vae.encoder.network))
        with pytest.raises((NonFiniteError, NonFiniteDensityError)) as caught:
            train(vae, x, pv.IWAE(2), step=step, batch_size=41)
        assert caught.value.row == row

    def test_semi_amortised_updates_are_refined_in_chunks(self, tight):
        most = [0]
        vae = binary_vae().train()
        vae.decoder.register_forward_pre_hook(
            lambda module, given: most.__setitem__(0, max(most[0], given[0].shape[:-1].numel()))
        )
        x = X.float()
        step = step_of(SemiAmortisedStep, pv.IWAE(5), vae, x, refinements=2)
        tight(4)
        step.chunks(x)
        most[0] = 0
        with count_evaluations() as count:
            step(x, 0.01)
        assert most[0] == 5 * 4
        assert count.rows == 3 * 5 * len(x)
