"""The loop over baselines: epochs, resuming, validation, refusals."""

import math
from typing import final

import pytest
import torch
from torch import nn

from ppl_vae.baselines import Baseline, train
from ppl_vae.training import NonFiniteError


@final
class NoisyMean(Baseline):
    """A mean that follows batches with momentum and noise: its velocity is training state."""

    def __init__(self, rate=0.1, *, scored=True, batched=True):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("count", torch.zeros(()))
        self.rate, self.scored, self.velocity = rate, scored, torch.zeros(3)
        self.seen, self.progress, self.batched = [], [], batched

    def settings(self):
        return {"rate": self.rate}

    def as_vae(self):
        raise NotImplementedError

    def require_data(self, x):
        if x.shape[1:] != (3,):
            raise ValueError("three numbers a row, please.")

    def start(self, train):
        self.loc.data = train[:1].squeeze(0) * 0 + torch.randn(3)

    def update(self, x, progress):
        self.seen.append(x)
        self.progress.append(progress)
        step = self.rate * (x.mean(0) - self.loc + 0.1 * torch.randn(3))
        self.velocity = 0.5 * self.velocity + step
        self.loc.data += self.velocity
        self.count += 1
        error = (x - self.loc).square().sum(-1)
        return {"error": error.mean(), "learning_rate": self.rate}

    def score(self, x):
        return -(x - self.loc).square().sum(-1) if self.scored else None

    def training_state(self):
        return {"velocity": self.velocity}

    def load_training_state(self, state):
        self.velocity = state["velocity"]


@pytest.fixture
def x():
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(1)) + 2


def fitted(x, epochs=4, rate=0.1, **options):
    baseline = NoisyMean(rate)
    return baseline, train(
        baseline, x, epochs=epochs, batch_size=20, device="cpu", progress=False, **options
    )


class StopError(Exception):
    pass


def stopping(epoch):
    def on_epoch(record):
        if record.epoch == epoch:
            raise StopError

    return on_epoch


def measures(result):
    return [record.measures for record in result.history.records]


def test_every_datum_is_seen_once_an_epoch_in_batches_of_near_equal_size(x):
    baseline, result = fitted(x, epochs=2)
    assert [len(batch) for batch in baseline.seen] == [17, 17, 16] * 2
    first = torch.cat(baseline.seen[:3])
    assert torch.equal(first.sort(0).values, x.sort(0).values)
    assert not torch.equal(first, x)
    assert baseline.progress == [i / 6 for i in range(6)]
    assert len(result.history) == 2
    assert baseline.count == 6


def test_a_record_has_means_per_datum_and_no_bound_that_there_is_not(x):
    _, result = fitted(x, epochs=1)
    (record,) = result.history.records
    assert math.isnan(record.bound)
    assert record.learning_rate == pytest.approx(0.1)
    assert record.updates == 3
    assert list(record.measures) == ["error"]
    assert type(result.history).from_csv(result.history.to_csv()).records[0].measures == (
        record.measures
    )


def test_a_model_of_all_data_gets_them_in_one_update_an_epoch(x):
    baseline = NoisyMean(batched=False)
    train(baseline, x, epochs=3, batch_size=20, device="cpu", progress=False)
    assert len(baseline.seen) == 3
    assert all(torch.equal(batch, x) for batch in baseline.seen)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(x, tmp_path, stop):
    whole, expected = fitted(x, valid=x)
    file = tmp_path / "checkpoint.safetensors"
    options = {"checkpoint": file, "checkpoint_seconds": 0.0, "valid": x}
    with pytest.raises(StopError):
        fitted(x, on_epoch=stopping(stop), **options)
    torch.rand(7)
    resumed, result = fitted(x, **options)
    assert len(resumed.seen) == (4 - stop) * 3
    assert torch.equal(resumed.loc, whole.loc)
    assert resumed.count == whole.count
    assert measures(result) == measures(expected)
    assert result.history.column("validation") == expected.history.column("validation")
    assert result.kept_epoch == expected.kept_epoch


def test_the_state_of_the_rule_is_part_of_the_checkpoint(x, tmp_path, monkeypatch):
    """Without its velocity the resumed run is another: the test above can fail."""
    whole, _ = fitted(x)
    file = tmp_path / "checkpoint.safetensors"
    options = {"checkpoint": file, "checkpoint_seconds": 0.0}
    with pytest.raises(StopError):
        fitted(x, on_epoch=stopping(2), **options)
    monkeypatch.setattr(NoisyMean, "load_training_state", lambda self, state: None)
    resumed, _ = fitted(x, **options)
    assert not torch.equal(resumed.loc, whole.loc)


def test_a_checkpoint_of_another_run_is_refused(x, tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    fitted(x, checkpoint=file)
    with pytest.raises(ValueError, match=r"rate 0\.1 there, 0\.2 here"):
        fitted(x, rate=0.2, checkpoint=file)
    with pytest.raises(ValueError, match="epochs 4 there, 5 here"):
        fitted(x, epochs=5, checkpoint=file)
    with pytest.raises(ValueError, match="train_sha256"):
        fitted(x + 1, checkpoint=file)


def test_the_best_validated_epoch_is_kept(x):
    # Steps that grow past the mean: the first epochs are the best.
    baseline = NoisyMean(1.6)
    result = train(baseline, x, valid=x, epochs=8, batch_size=50, device="cpu", progress=False)
    assert result.kept_epoch == result.history.best_epoch < 8
    best = max(result.history.column("validation"))
    assert baseline.score(x).mean().item() == pytest.approx(best, rel=1e-6)
    assert not baseline.training


def test_without_a_score_the_last_epoch_is_kept(x):
    baseline = NoisyMean(scored=False)
    result = train(baseline, x, valid=x, epochs=2, device="cpu", progress=False)
    assert result.kept_epoch == 2
    assert result.history.column("validation") == [None, None]


def test_the_callers_random_state_is_left_alone(x):
    before = torch.get_rng_state()
    fitted(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_update_that_is_not_finite_is_named_and_undone(x):
    baseline = NoisyMean(1e30)
    with pytest.raises(NonFiniteError, match=r"update \d+ \(epoch 1\) is not finite") as caught:
        train(baseline, x, epochs=5, batch_size=20, device="cpu", progress=False)
    assert caught.value.update in (1, 2, 3)
    assert baseline.loc.isfinite().all()


def test_wrong_use_is_one_line(x):
    with pytest.raises(TypeError, match=r"takes a Baseline, got Linear: .*pv\.fit"):
        train.__wrapped__(nn.Linear(3, 3), x)  # without the type checks of the tests
    with pytest.raises(ValueError, match=r"train has 1 rows with NaN .* the first at row 4"):
        fitted(torch.where(torch.arange(50).unsqueeze(1) == 4, torch.nan, x))
    with pytest.raises(ValueError, match="epochs must be positive"):
        fitted(x, epochs=0)
    with pytest.raises(ValueError, match="would round it"):
        fitted(x.double() + 1e-12)
    with pytest.raises(ValueError, match=r"valid has rows of shape \(2,\)"):
        fitted(x, valid=x[:, :2])
