"""The compiled update: the plain one's numbers, or a reason why not."""

import inspect
import math

import pyro
import pytest
import torch
from programs import binary_vae
from pyro import distributions as dist
from torch import nn

import ppl_vae as pv
from ppl_vae import capture
from ppl_vae._graphs import lifted
from ppl_vae.capture import CaptureError, pays
from ppl_vae.data import load_dataset
from ppl_vae.objectives import OBJECTIVES, Context
from ppl_vae.particles import Programs, count_evaluations
from ppl_vae.runs import RunConfig
from ppl_vae.training import (
    CompiledStep,
    NonFiniteError,
    SemiAmortisedStep,
    Snapshot,
    TorchStep,
    find_parameters,
)

from .helpers import VALID, X, same_state, train, without_seconds

DIGITS = load_dataset("digits").binarized("static", seed=0)
ARGUMENTS = {
    "num_particles": 3, "num_bounds": 2, "particles_each": 2, "num_terms": 3, "order": 2.0,
    "alpha": 0.5, "beta": 0.5, "weight": 10.0,
}  # fmt: skip
GUIDES = {
    "normal": {},
    "flow": {"guide": "flow"},
    "ladder": {"guide": "ladder", "latent": (3, 2)},
    "bernoulli": {"guide": "bernoulli", "prior": "bernoulli"},
}
SCORE = ("vimco", "reinforce", "rws", "tvo")
# Every objective, and every guide under each way to a gradient: of the path, of the path without
# the score (by leaves), and of the score.
PAIRS = [
    *((name, "normal") for name in OBJECTIVES),
    *((name, guide) for guide in ("flow", "ladder") for name in ("iwae", "gdreg", "rws")),
    *((name, "bernoulli") for name in SCORE),
]


@pytest.fixture
def recorded_once(recorded, monkeypatch):
    """Without the recorder's own comparisons, where the test makes the same."""

    def once(function, inputs, others, held, *, for_compiler):
        with capture._untouched(held):
            return lifted(capture._record(function, inputs, for_compiler))

    monkeypatch.setattr(capture, "_record_twice", once)
    monkeypatch.setattr(capture.Captured, "_require_same", lambda *arguments: None)


def objective_of(cls):
    names = inspect.signature(cls.__init__).parameters
    return cls(**{name: value for name, value in ARGUMENTS.items() if name in names})


def has_gradient(name, guide):
    """Whether an objective is for a guide: a discrete latent has no pathwise gradient."""
    if guide == "bernoulli":
        return name in SCORE
    # Beta-TC needs one site of independent dimensions.
    return name != "beta-tc" or guide == "normal"


def steps_of(build, objective, x, **settings):
    """A plain and a compiled step, each with programs of its own."""
    for cls in (TorchStep, CompiledStep):
        vae = build()
        vae.train()
        programs = Programs(vae.model, vae.guide).on(x)
        parameters = find_parameters(programs.modules(x))
        deep = objective().with_plate_nesting(programs.max_plate_nesting)
        yield cls(deep, vae.model, vae.guide, parameters, **settings)


def updates(step, batches, progress=0.0):
    """Records and gradients of some updates, and the next random number."""
    torch.manual_seed(4)
    step.objective.context = Context(progress, 1000, 10 * progress)
    found = [step.update(x, 0.01) for x in batches]
    flat = [t for each in found for t in (each.sums, each.bound, *each.gradients)]
    return [value.clone() for value in flat if value is not None], torch.rand(1)


def require_equal(build, objective, batches, **settings):
    plain, compiled = steps_of(build, objective, batches[0], **settings)
    (expected, after), (found, then) = (updates(s, batches) for s in (plain, compiled))
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))
    assert torch.equal(after, then)
    assert all(map(torch.equal, plain.parameters.values(), compiled.parameters.values()))


@pytest.mark.usefixtures("recorded")
class TestEqualsThePlainUpdate:
    @pytest.mark.parametrize(("name", "guide"), PAIRS)
    def test_for_every_objective_and_guide(self, name, guide, recorded_once):
        config = RunConfig.of(**{"hidden": (5,), "latent": 2, **GUIDES[guide]})
        require_equal(
            lambda: config.build_vae(DIGITS),
            lambda: objective_of(OBJECTIVES[name]),
            [DIGITS.train[:8]],
        )

    @pytest.mark.parametrize(("clip_norm", "precision"), [(None, "bf16"), (0.1, "single")])
    def test_with_two_batch_shapes_and_clipping(self, clip_norm, precision):
        batches = [X[:20], X[20:37], X[5:25], X[:17]]
        settings = {"clip_norm": clip_norm, "precision": precision}
        require_equal(binary_vae, lambda: pv.IWAE(3), batches, **settings)

    @pytest.mark.parametrize(
        "shaping",
        [
            pv.objectives.LinearAnnealing(0.5),
            pv.objectives.WarmUp(7),
            pv.objectives.CyclicalAnnealing(3),
            pv.objectives.Capacity(2.0),
            pv.objectives.FreeBits(0.1),
        ],
        ids=repr,
    )
    def test_at_any_progress_whatever_it_was_recorded_at(self, shaping, recorded_once):
        # The graph is recorded at a progress of its own: a number held fixed would show.
        plain, compiled = steps_of(binary_vae, lambda: pv.ELBO(2, kl=shaping), X)
        for progress in (0.1, 0.3, 1.0):
            expected, found = (updates(step, [X], progress)[0] for step in (plain, compiled))
            assert all(map(torch.equal, found, expected))

    def test_with_a_batch_norm_in_either_mode(self):
        def build():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
            decoder = pv.BernoulliDecoder(pv.MLP(2, [4], 6))
            encoder = pv.DiagonalNormalEncoder(network)
            return pv.VAE(pv.StandardNormalPrior(2), decoder, encoder)

        plain, compiled = steps_of(build, lambda: pv.ELBO(1), X)
        for training in (True, False, True):
            for step in (plain, compiled):
                step.model.__self__.train(training)
            assert all(map(torch.equal, updates(plain, [X])[0], updates(compiled, [X])[0]))
        states = (step.model.__self__.state_dict() for step in (plain, compiled))
        assert same_state(*states)

    def test_in_training_by_turns_and_at_a_refined_guide(self, recorded_once):
        for step, sign in (("alternating:2", ","), ("aggressive", ":"), ("semi-amortised:3", ",")):
            plain, compiled = (
                train(step=f"{step}{sign}compiled={value}", epochs=2, batch_size=20)
                for value in ("false", "true")
            )
            assert same_state(plain[0], compiled[0])
            assert without_seconds(plain[1].history) == [
                record | {"compiled": 0.0} for record in without_seconds(compiled[1].history)
            ]

    @pytest.mark.parametrize(("guide", "clip_norm"), [("normal", 0.1), ("ladder", None)])
    def test_of_a_semi_amortised_step(self, guide, clip_norm, recorded_once):
        config = RunConfig.of(**{"hidden": (5,), "latent": 2, **GUIDES[guide]})
        batches = [DIGITS.train[:8], DIGITS.train[8:15], DIGITS.train[15:23]]
        outcomes = []
        for compiled in (False, True):
            vae = config.build_vae(DIGITS)
            vae.train()
            parameters = find_parameters(Programs(vae.model, vae.guide).modules(batches[0][:2]))
            step = SemiAmortisedStep(
                pv.DReG(3), vae.model, vae.guide, parameters, clip_norm, 4, compiled=compiled
            )
            torch.manual_seed(4)
            with count_evaluations() as count:
                sums = [step(x, 0.01) for x in batches]
            outcomes.append((step, sums, torch.rand(1), count.rows))
        (plain, sums, after, rows), (replayed, found, then, counted) = outcomes
        assert all(map(torch.equal, sums, found))
        assert torch.equal(after, then)
        assert rows == counted == 5 * 3 * 23
        assert all(map(torch.equal, plain.parameters.values(), replayed.parameters.values()))
        assert (plain.taken_compiled, replayed.taken_compiled) == (0, 3)
        # Two batch shapes: each has a graph of the refinement and one of the update.
        assert (len(replayed.replays._ascents), len(replayed.replays._recorded)) == (2, 2)

    def test_counts_decoder_evaluations_at_every_replay(self):
        _, compiled = steps_of(binary_vae, lambda: pv.IWAE(3), X)
        for _ in range(3):
            with count_evaluations() as count:
                compiled(X, 0.01)
            assert count.rows == 3 * len(X)


def test_compiled_in_earnest_it_is_the_plain_update_up_to_rounding():
    plain, compiled = steps_of(binary_vae, lambda: pv.DReG(5), X, clip_norm=0.5)
    (expected, after), (found, then) = (updates(step, [X] * 3) for step in (plain, compiled))
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(after, then)


@pytest.mark.usefixtures("recorded")
def test_rounding_of_its_precision_is_no_other_number(monkeypatch):
    """Sums in another order end at the next number of 8 bits, which one datum does not average."""

    def rounds(graph, inputs):
        return lambda *given: [value * (1 + 2.0**-8) for value in graph(*given)]

    monkeypatch.setattr(capture, "compile_graph", rounds)
    vae = binary_vae()
    settings = (
        pv.ELBO(),
        vae.model,
        vae.guide,
        find_parameters(Programs(vae.model, vae.guide).modules(X)),
    )
    CompiledStep(*settings, precision="bf16").update(X[:1], 0.01)
    with pytest.raises(CaptureError, match=r"differs from the programs by 3\.9e-03"):
        CompiledStep(*settings).update(X[:1], 0.01)


class TestRuns:
    def test_going_on_is_the_run_that_was_never_stopped(self, tmp_path, recorded_once):
        settings = {"step": "compiled", "valid": VALID, "batch_size": 20, "clip_norm": 1.0}
        whole, _ = train(epochs=6, **settings)
        train(epochs=2, checkpoint=tmp_path / "run.safetensors", **settings)
        resumed, result = train(epochs=6, checkpoint=tmp_path / "run.safetensors", **settings)
        assert same_state(whole, resumed)
        assert {record.compiled for record in result.history.records} == {1.0}

    def test_a_step_takes_up_the_other_s_state(self):
        plain, compiled = steps_of(binary_vae, lambda: pv.ELBO(2), X)
        updates(plain, [X] * 3)
        compiled.load_state({name: value.clone() for name, value in plain.state().items()})
        assert updates(compiled, [X])[0][0].isfinite().all()
        moments = compiled.state()
        plain.load_state({n: v for n, v in moments.items() if not n.startswith("compiled/")})
        assert plain.state().keys() == {n for n in moments if not n.startswith("compiled/")}

    def test_auto_compiles_where_it_pays_and_goes_on_as_it_began(
        self, monkeypatch, tmp_path, recorded_once
    ):
        monkeypatch.setattr("ppl_vae._kernels._COST", 0.1)
        # 40 data in 3 batches, of 14 and twice 13: the sizes are decided apart.
        settings = {"batch_size": 16, "checkpoint": tmp_path / "run.safetensors"}
        assert not pays(30, 28, 130)
        assert pays(60, 26, 130)
        _, result = train(epochs=30, **settings)
        assert {record.compiled for record in result.history.records} == {2 / 3}
        # At 60 epochs both would pay from the start; what was begun is kept.
        _, longer = train(epochs=60, **settings)
        assert {record.compiled for record in longer.history.records} == {2 / 3}

    def test_auto_leaves_a_batch_that_comes_once_an_epoch_as_it_is(self, monkeypatch):
        monkeypatch.setattr("ppl_vae._kernels._COST", 0.1)
        # 40 data in batches of 10 are of one size; 41 are one of 9 and four of 8.
        x = torch.cat([X, X[:1]])
        assert not pays(20, 2 * 9, 130)
        assert pays(80, 2 * 8, 130)
        _, result = train(x=x, batch_size=9, epochs=20)
        assert {record.compiled for record in result.history.records} == {4 / 5}
        # So long that it pays on its own.
        assert pays(60, 2 * 9, 130)
        _, longer = train(x=x, batch_size=9, epochs=60)
        assert {record.compiled for record in longer.history.records} == {1.0}

    def test_what_is_not_finite_is_found_and_named(self):
        class Grows(pv.StandardNormalPrior):
            def __init__(self):
                super().__init__(2)
                self.register_buffer("calls", torch.zeros(()))

            def forward(self):
                self.calls += 1
                scale = torch.where(self.calls > 8, math.inf, 1.0)
                return dist.Normal(torch.zeros(2), scale.expand(2)).to_event(1)

        vae = binary_vae()
        vae.prior = Grows()
        with pytest.raises(NonFiniteError, match="site 'z' of the model"):
            train(vae, step="compiled", epochs=4)


class Plates(nn.Module):
    """A latent site in a plate of its own, left of the data's."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3, 1))

    def model(self, x):
        with pyro.plate("data", len(x)), pyro.plate("inner", 3):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.sum(-2, keepdim=True), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)), pyro.plate("inner", 3):
            pyro.sample("z", dist.Normal(x / 4 + self.loc, 0.5))


@pytest.mark.parametrize("cls", [TorchStep, CompiledStep])
def test_a_step_in_a_loop_of_ones_own_finds_the_plates(cls, recorded):
    programs, x = Plates(), torch.linspace(-1, 1, 6)
    step = cls(pv.ELBO(2), programs.model, programs.guide, dict(programs.named_parameters()))
    sums = step(x, 0.01)
    assert sums.isfinite().all()
    assert step.objective.max_plate_nesting == 2


class Rolls(nn.Module):
    """A decoder's network that reads its weights as numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 6)

    def forward(self, z):
        return self.layer(z) * self.layer.weight.abs().max().item()


class TestProgramsThatCannotBeCompiled:
    def build(self):
        vae = binary_vae()
        vae.decoder = pv.BernoulliDecoder(Rolls())
        return vae

    def test_are_refused_where_it_is_asked_for(self):
        with pytest.raises(CaptureError, match=r"^step='compiled': .* Take step='torch'\.$"):
            train(self.build(), step="compiled")

    def test_are_left_as_they_are_where_it_is_not(self, monkeypatch, tmp_path):
        monkeypatch.setattr("ppl_vae._kernels._COST", 0.0)
        plain, _ = train(self.build(), step="torch")
        with pytest.warns(UserWarning, match="updates are not compiled: the programs"):
            auto, result = train(self.build(), checkpoint=tmp_path / "run")
        # On a machine where it may be compiled, a run that goes on stays as it began.
        kept = Snapshot.load(tmp_path / "run").optimizer
        assert {name: value.item() for name, value in kept.items() if "compiled" in name} == {
            "compiled/14": 0.0, "compiled/13": 0.0
        }  # fmt: skip
        assert same_state(plain, auto)
        assert {record.compiled for record in result.history.records} == {0.0}


def test_data_outside_of_the_support_are_named(recorded):
    with pytest.raises(ValueError, match=r"Bernoulli likelihood takes data in \{0, 1\}, got 0.5"):
        train(x=torch.where(torch.arange(40)[:, None] == 33, 0.5, X), step="compiled")
