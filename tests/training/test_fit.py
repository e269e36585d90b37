import dataclasses
import inspect
import math
import re

import numpy as np
import pyro
import pytest
import torch
from programs import LinearChain, binary_data, binary_vae
from torch import nn

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder, NormalDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.schedules import Burda, Cosine, Exponential
from ppl_vae.training import Budget, FitSettings, History, TorchStep, fit
from ppl_vae.training._divergence import Climb
from ppl_vae.training._validation import Score, Validation
from ppl_vae.vae import VAE

from .helpers import GREY, STEPS, VALID, InterruptAt, X, same_state, state_of, train


class TestBatches:
    @pytest.mark.parametrize("batch_size", [1, 7, 16, 40, 1_000])
    def test_every_datum_once_an_epoch_in_near_equal_batches(self, batch_size):
        batches = []

        def spy(batch):
            batches.append(batch)
            return batch

        # Rows that can be told apart: binary numbers.
        x = torch.tensor([[i >> b & 1 for b in range(6)] for i in range(40)]).float()
        train(x=x, batch_size=batch_size, transform=spy, epochs=2)
        batches = batches[2:]  # the first calls look for parameters, and take a sample
        count = math.ceil(40 / batch_size)
        assert len(batches) == 2 * count
        sizes = [len(b) for b in batches]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size
        epochs = torch.cat(batches[:count]), torch.cat(batches[count:])
        for epoch in epochs:
            assert torch.equal(torch.unique(epoch, dim=0), torch.unique(x, dim=0))
            assert len(epoch) == 40
        assert not torch.equal(*epochs)

    def test_dynamic_binarisation_is_fresh_each_epoch(self):
        seen = []

        def spy(batch):
            seen.append(torch.bernoulli(batch))
            return seen[-1]

        train(x=torch.full((40, 6), 0.5), batch_size=40, transform=spy, epochs=3)
        assert not torch.equal(seen[2], seen[3])
        assert not torch.equal(seen[3], seen[4])


class TestHistory:
    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("batch_size", [13, 40])
    def test_the_bound_is_the_epochs_mean_of_the_true_bound(self, step, batch_size):
        """At the posterior every bound is log p(x), for any draws and any parameters."""
        chain = LinearChain()
        x = chain.simulate(40)
        expected = []

        class Spy(TorchStep):
            def __call__(self, batch, learning_rate):
                expected.append(chain.log_evidence(batch).detach())
                return super().__call__(batch, learning_rate)

        for objective in (ELBO(2), IWAE(3), AnalyticELBO(2)):
            expected.clear()
            result = fit(
                chain.model, chain.top_down, objective, x, epochs=2, batch_size=batch_size,
                learning_rate=0.05, step=Spy if step == "torch" else step, progress=False,
            )  # fmt: skip
            record = result.history.records[-1]
            if step == "torch":
                last = torch.cat(expected)[-40:]
                assert record.bound == pytest.approx(last.mean().item())
            assert record.log_likelihood - sum(record.kl.values()) == pytest.approx(record.bound)
            assert set(record.kl) == {"u", "v"}

    def test_log_likelihood_minus_kl_is_the_elbo_whatever_is_maximised(self):
        for objective, equal in ((ELBO(3), True), (IWAE(3), False)):
            _, result = train(objective=objective)
            for record in result.history.records:
                elbo = record.log_likelihood - sum(record.kl.values())
                assert (record.bound == pytest.approx(elbo, rel=1e-5)) == equal
                assert record.bound > elbo - 1e-4

    def test_the_scale_of_the_loss_is_not_in_the_record(self):
        vae, other = binary_vae(), binary_vae()
        _, plain = train(vae, objective=ELBO())

        def scaled(program):
            return pyro.poutine.scale(program, scale=7.0)

        # The modules behind a handler of Pyro's are found.
        model, guide = scaled(other.model), scaled(other.guide)
        result = fit(
            model, guide, ELBO(), X, epochs=3, batch_size=16, progress=False, learning_rate=1e-3
        )
        first, again = (r.history.records[0].bound for r in (plain, result))
        assert again == pytest.approx(first, rel=1e-2)

    def test_epochs_rates_and_times(self):
        _, result = train(epochs=4, learning_rate=0.3)
        assert result.history.column("epoch") == [1, 2, 3, 4]
        assert result.history.column("learning_rate") == [0.3] * 4
        assert min(result.history.column("seconds")) > 0
        assert (result.kept_epoch, result.stopped_early, len(result.history)) == (4, False, 4)

    def test_json_and_csv(self):
        _, result = train(valid=VALID)
        again = History.from_json(result.history.to_json())
        assert again == result.history
        lines = result.history.to_csv().splitlines()
        assert len(lines) == 4
        assert lines[0].split(",")[-1] == "kl/z"
        assert float(lines[2].split(",")[1]) == result.history.records[1].bound
        assert History().to_csv() == ""

    def test_validation_is_the_many_sample_bound_on_fixed_draws(self):
        vae, result = train(valid=VALID, validation_particles=20, epochs=2, validate_every=1)
        record = result.history.records[result.kept_epoch - 1]
        values = [
            ImportanceSampling(20)(vae.model, vae.guide, VALID, seed=seed).mean
            for seed in range(30)
        ]
        # A mean over 30 repetitions: the recorded one is another draw of the same.
        spread = float(np.std(values))
        assert abs(record.validation - np.mean(values)) < 6 * spread
        assert record.validation_error > 0

    def test_validation_size_and_frequency(self):
        seen = []
        vae = binary_vae()

        def guide(x):
            seen.append((len(x), torch.is_grad_enabled()))
            vae.guide(x)

        def model(x):
            pyro.module("vae", vae)
            vae.model(x)

        result = fit(
            model, guide, ELBO(), X, valid=VALID, epochs=5, batch_size=40, validate_every=2,
            validation_size=11, progress=False,
        )  # fmt: skip
        validated = [r.epoch for r in result.history.records if r.validation is not None]
        assert validated == [2, 4]
        # Three times to see what the programs are, in the first validation alone; in each, once on
        # one datum for the densities that tell them from others, once for the bound.
        sizes = [size for size, grad in seen if not grad and size != 2]
        assert sizes == [11, 11, 11, 1, 11, 1, 11]


class TestLearning:
    @pytest.mark.parametrize("objective", [ELBO(1), AnalyticELBO(1), IWAE(5)], ids=repr)
    def test_the_evidence_improves(self, objective):
        vae = binary_vae()
        estimate = ImportanceSampling(300)
        before = estimate(vae.model, vae.guide, VALID)
        train(vae, binary_data(400), objective, epochs=25, batch_size=50, learning_rate=0.02)
        after = estimate(vae.model, vae.guide, VALID)
        assert after.mean > before.mean + 5 * after.monte_carlo_error + 0.5

    def test_a_schedule_is_applied(self):
        rates = []

        class Spy(TorchStep):
            def __call__(self, batch, learning_rate):
                rates.append(learning_rate)
                return super().__call__(batch, learning_rate)

        for schedule in (Exponential(1e-2, 1e-3), Cosine(1e-2, 0.3), Burda(1e-2)):
            rates.clear()
            _, result = train(learning_rate=schedule, step=Spy, epochs=4)
            expected = [schedule(i / 12) for i in range(12)]
            assert rates == pytest.approx(expected)
            assert result.history.column("learning_rate") == pytest.approx(expected[2::3])

    @pytest.mark.parametrize("step", STEPS)
    def test_the_rate_reaches_the_optimiser(self, step):
        vae = binary_vae()
        start = state_of(vae)
        train(vae, step=step, learning_rate=1e-9, epochs=1)
        moved = max((state_of(vae)[name] - start[name]).abs().max().item() for name in start)
        assert moved < 1e-6


class TestEarlyStopping:
    class Scripted:
        """Validation bounds by epoch, in place of the estimator's."""

        def __init__(self, monkeypatch, values):
            values = iter(values)
            monkeypatch.setattr(Validation, "__call__", lambda *_: Score(float(next(values)), 0.1))

    @pytest.mark.parametrize("step", STEPS)
    def test_keeps_the_best_epoch(self, step, monkeypatch):
        states = []
        self.Scripted(monkeypatch, [-9, -5, -7, -6, -8, -1])
        vae = binary_vae()

        def transform(batch):
            states.append(state_of(vae))
            return batch

        _, result = train(
            vae, valid=VALID, epochs=6, patience=3, batch_size=40, transform=transform, step=step
        )
        assert (result.kept_epoch, len(result.history), result.stopped_early) == (2, 5, True)
        # The parameters after epoch 2 are those before epoch 3's only batch; two calls are before.
        assert same_state(vae, states[4])
        assert not same_state(vae, states[5])

    def test_without_patience_the_best_is_kept_all_the_same(self, monkeypatch):
        self.Scripted(monkeypatch, [-9, -5, -7])
        _, result = train(valid=VALID, epochs=3)
        assert (result.kept_epoch, len(result.history), result.stopped_early) == (2, 3, False)

    def test_the_first_of_equals_is_kept(self, monkeypatch):
        self.Scripted(monkeypatch, [-5.0, -5.0])
        _, result = train(valid=VALID, epochs=2)
        assert result.kept_epoch in (1, 2)

    def test_patience_counts_from_the_best(self, monkeypatch):
        self.Scripted(monkeypatch, [-9, -8, -7, -7.5, -6, -6.5, -6.6, -1])
        _, result = train(valid=VALID, epochs=8, patience=2)
        assert (result.kept_epoch, len(result.history)) == (5, 7)


def batch_norm_vae():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    decoder = BernoulliDecoder(MLP(2, [8], 6))
    return VAE(StandardNormalPrior(2), decoder, DiagonalNormalEncoder(body))


class TestBuffersAndModes:
    @pytest.mark.parametrize("step", STEPS)
    def test_batch_norm_buffers_are_those_of_the_kept_epoch(self, step, monkeypatch):
        TestEarlyStopping.Scripted(monkeypatch, [-9, -5, -7, -8])
        vae = batch_norm_vae()
        states = []

        def transform(batch):
            states.append(state_of(vae))
            return batch

        train(vae, valid=VALID, epochs=4, batch_size=40, transform=transform, step=step)
        assert same_state(vae, states[4])

    def test_running_means_are_of_training_batches_only(self):
        """Neither validation nor the look for parameters may move them."""
        vae = batch_norm_vae()
        train(vae, valid=VALID, epochs=1, batch_size=10)
        assert vae.encoder.network[1].num_batches_tracked.item() == 4

    def test_train_mode_in_training_eval_mode_after_and_in_validation(self, monkeypatch):
        modes = []
        vae = binary_vae()
        # What tells divergence looks at training data in evaluation mode.
        monkeypatch.setattr(Climb, "rows", lambda *_: 30)

        class Spy(nn.Module):
            def forward(self, x):
                modes.append((len(x), self.training))
                return vae.encoder(x)

        spied = VAE(vae.prior, vae.decoder, Spy())
        spied.inner = vae
        train(spied, valid=VALID[:29], epochs=2, batch_size=40)
        assert {mode for size, mode in modes if size == 40} == {True}
        assert {mode for size, mode in modes if size == 29} == {False}
        assert not spied.training


class TestRandomness:
    @pytest.mark.parametrize("step", STEPS)
    def test_the_callers_random_state_is_left_alone(self, step):
        state, array = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        vae = binary_vae()
        torch.set_rng_state(state)
        train(vae, GREY, transform=InterruptAt(-1), step=step, valid=VALID)
        assert torch.equal(state, torch.get_rng_state())
        assert array == np.random.get_state()[1].tolist()  # noqa: NPY002

    def test_and_has_no_influence(self):
        results = []
        for seed in (1, 2):
            vae = binary_vae()
            torch.manual_seed(seed)
            results.append(train(vae, GREY, transform=InterruptAt(-1), valid=VALID)[0])
        assert same_state(*results)

    def test_seeds_differ(self):
        first, again, other = (train(seed=seed)[0] for seed in (1, 1, 2))
        assert same_state(first, again)
        assert not same_state(first, other)

    def test_validation_does_not_change_training(self):
        alone, _ = train(epochs=1)
        watched, _ = train(epochs=1, valid=VALID)
        assert same_state(alone, watched)

    @pytest.mark.parametrize("on", [True, False])
    def test_validation_of_arguments_is_as_it_was(self, on):
        with pyro.validation_enabled(on):
            train()
            assert torch.distributions.Distribution._validate_args == on


class TestErrors:
    """One clear line each."""

    @pytest.mark.parametrize("name", ["epochs", "batch_size", "validate_every", "validation_size"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_counts_below_one(self, name, value):
        with pytest.raises(ValueError, match=f"^{name} must be 1 or more, got {value}.$"):
            train(**{name: value, "valid": VALID})

    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
    def test_clip_norm(self, value):
        with pytest.raises(ValueError, match="clip_norm must be positive"):
            train(clip_norm=value)

    @pytest.mark.parametrize("rate", [0.0, -1e-3, math.nan, math.inf])
    def test_learning_rate(self, rate):
        with pytest.raises(ValueError, match="learning rate must be positive and finite"):
            train(learning_rate=rate)

    def test_patience(self):
        with pytest.raises(ValueError, match="patience needs validation data"):
            train(patience=3)
        with pytest.raises(ValueError, match="patience must be 1 or more"):
            train(patience=0, valid=VALID)

    def test_step_and_device(self):
        with pytest.raises(ValueError, match=r"^unknown step 'sgd': known: auto, compiled, "):
            train(step="sgd")
        with pytest.raises(ValueError, match="unknown device 'gpu'"):
            train(device="gpu")

    def test_negative_seed(self):
        with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
            train(seed=-1)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("where", ["train", "valid"])
    def test_data_that_are_not_finite(self, where, bad):
        broken = X.clone()
        broken[3, 2] = broken[7, 0] = bad
        data = {"train": X, "valid": VALID} | {where: broken}
        message = f"{where} has 2 rows with NaN or infinite values, the first at row 3"
        with pytest.raises(ValueError, match=message):
            train(x=data["train"], valid=data["valid"])

    def test_no_data(self):
        with pytest.raises(ValueError, match="train holds no data"):
            train(x=X[:0])
        with pytest.raises(ValueError, match="valid holds no data"):
            train(valid=X[:0])

    @pytest.mark.parametrize("step", STEPS)
    def test_grey_data_under_a_bernoulli(self, step):
        start = state_of(vae := binary_vae())
        with pytest.raises(ValueError, match=r"a Bernoulli likelihood takes data in \{0, 1\}"):
            train(vae, GREY, step=step)
        assert same_state(vae, start)

    @pytest.mark.parametrize("step", STEPS)
    def test_one_grey_pixel_somewhere_in_the_first_epoch(self, step):
        x = X.clone()
        x[37, 5] = 0.5
        with pytest.raises(ValueError, match=r"got 0\.5: binarise the data"):
            train(x=x, step=step)

    @pytest.mark.parametrize("step", STEPS)
    def test_a_diverging_run_names_the_site(self, step):
        with pytest.raises(ValueError, match=r"site '[xz]'.* diverged parameters"):
            train(learning_rate=1e30, epochs=30, step=step)

    def test_messages_are_one_line(self):
        for kwargs in ({"epochs": 0}, {"x": X[:0]}, {"step": "x"}, {"x": GREY}, {"seed": -1}):
            with pytest.raises(ValueError, match=re.compile(r"^[^\n]+$")):
                train(**kwargs)

    def test_one_datum(self):
        _, result = train(x=X[:1], valid=VALID[:1])
        assert math.isfinite(result.history.records[-1].bound)
        assert math.isnan(result.history.records[-1].validation_error)

    def test_quiet_when_not_on_a_terminal(self, capsys):
        train(progress=True)
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("learn_scale", [True, False])
def test_a_normal_likelihood_trains_without_warning(step, learn_scale):
    torch.manual_seed(0)
    decoder = NormalDecoder(MLP(2, [8], 6), 0.5, learn_scale=learn_scale)
    vae = VAE(StandardNormalPrior(2), decoder, DiagonalNormalEncoder(MLP(6, [8], 4)))
    train(vae, torch.randn(40, 6), step=step, valid=torch.randn(10, 6))
    assert (vae.decoder.scale().item() != pytest.approx(0.5)) == learn_scale


def test_validation_that_would_never_come_is_refused():
    vae = binary_vae()
    with pytest.raises(ValueError, match="validate_every"):
        fit(vae.model, vae.guide, ELBO(), X, valid=VALID, epochs=3, validate_every=4)


class TestSettings:
    def test_are_shown_by_fit(self):
        """The signature and the documentation of fit have each, with its default and its text."""
        shown = inspect.signature(fit).parameters
        text = inspect.getdoc(fit)
        for field in dataclasses.fields(FitSettings):
            assert shown[field.name].default == field.default
            assert f"\n    {field.name}: " in text
        assert "settings" not in shown
        assert "**settings" not in text

    def test_an_unknown_one_is_named(self):
        with pytest.raises(TypeError, match=r"^unknown setting 'epoch': did you mean 'epochs'\?"):
            train(epoch=3)

    def test_a_schedule_by_name_is_the_schedule(self):
        by_name, _ = train(schedule="cosine", learning_rate=0.01)
        assert same_state(by_name, train(learning_rate=Cosine(0.01))[0])
        with pytest.raises(ValueError, match=r"^learning_rate Cosine\(.* is a schedule[^\n]*$"):
            train(schedule="burda", learning_rate=Cosine(0.01))
        with pytest.raises(ValueError, match="unknown schedule 'cosin': did you mean 'cosine'"):
            train(schedule="cosin")

    def test_limits_exclude_each_other(self):
        assert FitSettings().budget == Budget(epochs=100)
        assert same_state(train(epochs=None, updates=5)[0], train(budget=Budget(updates=5))[0])
        with pytest.raises(ValueError, match=r"^a budget has exactly one limit of [^\n]*\.$"):
            train(updates=5)


class TestParametersOfNoModule:
    """A guide that computes with a parameter of its surroundings."""

    def programs(self, weight):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", pyro.distributions.Normal(x @ weight, 1.0).to_event(1))

        vae = binary_vae()
        vae.encoder.requires_grad_(False)
        return vae.model, guide

    @pytest.mark.parametrize("objective", [ELBO(2), IWAE(3)], ids=repr)
    def test_they_are_told(self, objective):
        weight = nn.Parameter(torch.zeros(6, 2))
        with pytest.warns(UserWarning, match=r"1 parameter of shape \(6, 2\) that no module"):
            fit(*self.programs(weight), objective, X, epochs=1, progress=False)
        assert not weight.any()

    def test_frozen_ones_are_meant_so(self):
        """Any warning is an error here."""
        weight = nn.Parameter(torch.zeros(6, 2), requires_grad=False)
        fit(*self.programs(weight), ELBO(), X, epochs=1, progress=False)
