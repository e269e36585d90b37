"""What published recipes ask of training beside the optimiser: averages, warm-up, order, last."""

import json
from typing import ClassVar

import pyro
import pytest
import torch
from programs import binary_vae

from ppl_vae.data import binarize_batch
from ppl_vae.objectives import ELBO
from ppl_vae.schedules import Exponential
from ppl_vae.training import Adam, FitSettings, OptimizerSettings, Snapshot

from .helpers import GREY, VALID, InterruptAt, X, same_state, state_of, train, without_seconds


class Recorder(OptimizerSettings):
    """Adam that keeps the parameters and its rate after every update."""

    def __init__(self):
        self.values, self.rates = [], []

    def build(self, parameters):
        def record(optimizer, *_):
            self.rates.append(optimizer.param_groups[0]["lr"])
            self.values.append([p.detach().clone() for p in parameters])

        optimizer = Adam().build(parameters)
        optimizer.register_step_post_hook(record)
        return optimizer


def trajectory(**settings):
    """Parameters before training and after every update, and what was kept."""
    recorder, vae = Recorder(), binary_vae().double()
    names, start = zip(*((n, p.detach().clone()) for n, p in vae.named_parameters()), strict=True)
    _, result = train(vae, X.double(), step="torch", optimizer=recorder, **settings)
    values = [dict(zip(names, each, strict=True)) for each in [start, *recorder.values]]
    return values, vae, result, recorder.rates


@pytest.fixture(scope="module", params=["torch", "svi"])
def step(request):
    return request.param


@pytest.fixture(scope="module", params=[VALID, None], ids=["validated", "not validated"])
def undisturbed(request, step):
    """Settings of an averaged run, its model and its result."""
    settings = {
        "step": step, "epochs": 5, "valid": request.param, "learning_rate": 0.05,
        "ema_decay": 0.9, "validation_particles": 5, "checkpoint_seconds": 0.0,
    }  # fmt: skip
    found = settings, *train(x=GREY, transform=binarize_batch, **settings)
    pyro.clear_param_store()
    return found


class TestAverage:
    def test_closed_form(self):
        """theta_0 weighs d^t, theta_i weighs (1 - d) d^(t - i)."""
        decay = 0.9
        values, vae, _, _ = trajectory(ema_decay=decay, learning_rate=0.05, epochs=4)
        updates = len(values) - 1
        assert updates == 12
        for name, kept in vae.named_parameters():
            expected = decay**updates * values[0][name]
            for i in range(1, updates + 1):
                expected = expected + (1 - decay) * decay ** (updates - i) * values[i][name]
            assert torch.allclose(kept, expected, rtol=1e-12, atol=1e-14)
            assert not torch.allclose(kept, values[-1][name])

    def test_training_does_not_see_it(self):
        plain, averaged = (
            trajectory(ema_decay=decay, valid=VALID.double(), validation_particles=5)
            for decay in (None, 0.9)
        )
        for a, b in zip(plain[0], averaged[0], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
        bounds = [[r.bound for r in each[2].history.records] for each in (plain, averaged)]
        assert bounds[0] == bounds[1]

    def test_it_is_what_is_validated_and_kept(self):
        """The validation bound of an epoch is that of a model with the averaged parameters."""
        settings = {"valid": VALID.double(), "validation_particles": 5, "learning_rate": 0.05}
        values, vae, result, _ = trajectory(ema_decay=0.9, keep="last", **settings)
        average = values[0]
        for value in values[1:]:
            average = {n: 0.9 * average[n] + 0.1 * value[n] for n in average}
        other = binary_vae().double()
        other.load_state_dict(average, strict=False)
        # A rate of nearly 0 leaves the parameters there.
        _, frozen = train(other, X.double(), epochs=1, **settings | {"learning_rate": 1e-300})
        assert frozen.history.records[0].validation == pytest.approx(
            result.history.records[-1].validation, abs=1e-9
        )
        for name, kept in vae.named_parameters():
            assert torch.allclose(kept, average[name], rtol=1e-12, atol=1e-14)

    def test_a_decay_of_zero_is_no_average(self):
        settings = {"valid": VALID, "validation_particles": 5}
        plain, _ = train(**settings)
        other, _ = train(ema_decay=0.0, **settings)
        for name, value in state_of(plain).items():
            assert torch.allclose(value, other.state_dict()[name], rtol=1e-6)

    @pytest.mark.parametrize("call", [3, 8, 12])
    def test_resumes_bit_for_bit(self, undisturbed, call, tmp_path):
        settings, whole, expected = undisturbed
        path = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            train(x=GREY, transform=InterruptAt(call), checkpoint=path, **settings)
        pyro.clear_param_store()
        resumed = binary_vae() if call == 3 else binary_vae(seed=3)
        _, result = train(resumed, GREY, transform=binarize_batch, checkpoint=path, **settings)
        assert same_state(whole, resumed)
        assert without_seconds(result.history) == without_seconds(expected.history)
        assert Snapshot.load(path).average.keys() == dict(whole.named_parameters()).keys()

    def test_a_longer_budget_goes_on_from_before_what_was_cut_short(self, tmp_path):
        settings = {"ema_decay": 0.9, "valid": VALID, "validation_particles": 5, "epochs": None}
        whole, _ = train(updates=9, **settings)
        parts = binary_vae()
        for updates in (4, 9):
            train(parts, updates=updates, checkpoint=tmp_path / "run", **settings)
        assert same_state(whole, parts)

    @pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
    def test_impossible_decays(self, decay):
        with pytest.raises(ValueError, match=r"ema_decay must be in \[0, 1\)"):
            FitSettings(ema_decay=decay)


class TestWarmUp:
    def test_rises_in_updates_then_follows_the_schedule(self):
        """Three batches an epoch: a warm-up of two epochs is one of six updates."""
        schedule = Exponential(0.1, 0.001)
        rates = trajectory(learning_rate=schedule, warmup_epochs=2, epochs=4)[3]
        factors = [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, *[1.0] * 6]
        expected = [f * schedule(i / 12) for i, f in enumerate(factors)]
        assert rates == pytest.approx(expected, rel=1e-12)

    def test_does_not_depend_on_the_budget(self):
        short, long = (trajectory(warmup_epochs=1.5, epochs=n)[3] for n in (2, 5))
        assert short == pytest.approx(long[:6], rel=1e-12)
        assert long[4] == pytest.approx(1e-3 * 4 / 4.5, rel=1e-12)
        assert long[5:] == [1e-3] * 10

    def test_a_run_may_be_made_longer(self, tmp_path):
        whole, _ = train(warmup_epochs=2, epochs=4)
        parts = binary_vae()
        for epochs in (1, 4):
            train(parts, warmup_epochs=2, epochs=epochs, checkpoint=tmp_path / "run")
        assert same_state(whole, parts)

    def test_another_warm_up_is_another_run(self, tmp_path):
        train(epochs=1, checkpoint=tmp_path / "run")
        with pytest.raises(ValueError, match=r"warmup_epochs None there, 2.0 here"):
            train(warmup_epochs=2.0, checkpoint=tmp_path / "run")

    @pytest.mark.parametrize("epochs", [-1, float("inf"), float("nan")])
    def test_impossible_lengths(self, epochs):
        with pytest.raises(ValueError, match="warmup_epochs must be 0 or more"):
            FitSettings(warmup_epochs=epochs)


@pytest.mark.filterwarnings("ignore:training has diverged:UserWarning")
class TestKeep:
    RUINED: ClassVar = {
        "learning_rate": 3.0,
        "epochs": 5,
        "valid": VALID,
        "validation_particles": 5,
    }
    """A rate at which the best epoch is not the last."""

    def test_the_last_epoch(self):
        best, found = train(**self.RUINED)
        assert found.kept_epoch < 5
        last, result = train(keep="last", **self.RUINED)
        assert result.kept_epoch == 5
        unvalidated, _ = train(learning_rate=3.0, epochs=5)
        assert same_state(last, unvalidated)
        assert not same_state(best, last)

    def test_resumed(self, tmp_path):
        whole, _ = train(keep="last", **self.RUINED)
        parts = binary_vae()
        for epochs in (1, 3, 5):
            settings = {**self.RUINED, "keep": "last", "epochs": epochs}
            result = train(parts, checkpoint=tmp_path / "run", **settings)[1]
            assert result.kept_epoch == epochs
        assert same_state(whole, parts)
        # What opens a run looks there.
        best = Snapshot.load(tmp_path / "run").best
        assert all(torch.equal(value, best[name]) for name, value in whole.named_parameters())

    def test_with_validation_now_and_then(self):
        last, result = train(keep="last", **{**self.RUINED, "validate_every": 2})
        assert result.kept_epoch == 5
        assert result.history.records[-1].validation is None
        unvalidated, _ = train(learning_rate=3.0, epochs=5)
        assert same_state(last, unvalidated)

    def test_patience_still_ends_training(self):
        result = train(keep="last", patience=2, **{**self.RUINED, "epochs": 30})[1]
        assert result.stopped_early
        assert result.kept_epoch == len(result.history) < 30


class TestOrder:
    def batches(self, **settings):
        seen = []

        def look(batch):
            seen.append(batch.clone())
            return (batch > 0.5).float()

        rows = torch.arange(40.0)[:, None].expand(40, 6) / 40
        train(x=rows, transform=look, epochs=2, **settings)
        # The first calls look for parameters, and take the sample that tells divergence.
        return [(batch[:, 0] * 40).round().int().tolist() for batch in seen[2:]]

    def test_unshuffled_batches_are_neighbouring_rows(self):
        batches = self.batches(unshuffled=True)
        assert [row for batch in batches[:3] for row in batch] == list(range(40))
        assert batches[:3] == batches[3:]
        assert [len(batch) for batch in batches[:3]] == [14, 13, 13]

    def test_shuffled_is_the_default(self):
        batches = self.batches()
        first, second = ([row for batch in part for row in batch]
                         for part in (batches[:3], batches[3:]))  # fmt: skip
        assert sorted(first) == sorted(second) == list(range(40))
        assert first != second
        assert first != list(range(40))


def test_all_of_it_together_resumes_bit_for_bit(tmp_path):
    settings = {
        "optimizer": "adam:beta1=0.99,eps=1e-4,eps_placement=uncorrected,second_moment_start=1",
        "schedule": "burda:rounded=true", "unshuffled": True, "keep": "last", "ema_decay": 0.9,
        "warmup_epochs": 1.5, "epochs": 5, "valid": VALID, "validation_particles": 5,
        "checkpoint_seconds": 0.0,
    }  # fmt: skip
    whole, expected = train(x=GREY, transform=binarize_batch, **settings)
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(x=GREY, transform=InterruptAt(9), checkpoint=path, **settings)
    resumed, result = train(
        binary_vae(seed=3), GREY, transform=binarize_batch, checkpoint=path, **settings
    )
    assert same_state(whole, resumed)
    assert without_seconds(result.history) == without_seconds(expected.history)
    identity = Snapshot.load(path).identity
    assert identity["optimizer"] == (
        "Adam(beta1=0.99, beta2=0.999, eps=0.0001, eps_placement='uncorrected', "
        "second_moment_start=1.0)"
    )
    assert json.loads(json.dumps(identity)) == identity


def test_an_average_of_a_loss_that_is_not_finite_is_none_of_it():
    """The epoch is undone with its average, so that a caller finds both as they were."""
    objective = ELBO(2)
    vae = binary_vae()
    with pytest.raises(ValueError, match="not finite"):
        train(vae, objective=objective, learning_rate=1e30, ema_decay=0.9, epochs=3)
    assert all(bool(value.isfinite().all()) for value in vae.parameters())
