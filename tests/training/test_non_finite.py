"""The first update that is not finite is named, and can be come to again."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import binary_vae
from torch import nn

from ppl_vae.objectives import ELBO, IWAE, STL, DReG
from ppl_vae.training import Budget, NonFiniteError, Snapshot, fit
from ppl_vae.training._trainer import Trainer

from .helpers import X, same_state, state_of, train

ONE_LINE = r"^[^\n]*$"
ALL_STEPS = ["torch", "svi", "alternating:2", "aggressive", "semi-amortised:2"]
MARK = 7.0
"""Of a datum that the programs here cannot take."""


class _Gradient(torch.autograd.Function):
    """The same values; the gradient of marked rows is not finite."""

    @staticmethod
    def forward(ctx, value, bad):
        ctx.save_for_backward(bad)
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        (bad,) = ctx.saved_tensors
        return torch.where(bad, torch.nan, gradient), None


class Fragile(nn.Module):
    """z ~ N(0, 1), x|z ~ N(w z, 1), q(z|x) ~ N(v x, 1): ``where`` it breaks at a marked datum.

    Marked are data whose first value is 7: any number is a good x to all of its densities.
    """

    def __init__(self, where):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3) / 3)
        self.where = where

    def _broken(self, value, x, where):
        bad = (x[:, :1] == MARK).expand_as(value)
        if self.where == f"density of {where}":
            return torch.where(bad, torch.nan, value)
        if self.where == f"gradient of {where}":
            return _Gradient.apply(value, bad)
        return value

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            mean = self._broken(z * self.w, x, "x")
            pyro.sample("x", dist.Normal(mean, 1.0, validate_args=False).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            mean = self._broken((x * self.v).sum(-1, keepdim=True), x, "z")
            pyro.sample("z", dist.Normal(mean, 1.0, validate_args=False).to_event(1))


def data(row):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    x[row, 0] = MARK
    return x


def fit_fragile(where, row=19, objective=None, **kwargs):
    fragile = Fragile(where)
    kwargs = {"epochs": 3, "batch_size": 8, "progress": False, "device": "cpu"} | kwargs
    fit(fragile.model, fragile.guide, objective or ELBO(2), data(row), **kwargs)
    return fragile


def failure(*args, **kwargs):
    with pytest.raises(NonFiniteError, match=ONE_LINE) as caught:
        fit_fragile(*args, **kwargs)
    return caught.value


def where_in_epoch(row, epoch, seed=0):
    """The update and the datum of a batch that a row of the data is in, from one recorded run."""
    seen = []
    x = torch.arange(40.0).reshape(40, 1).expand(40, 3)
    fragile = Fragile("nowhere")

    def note(batch):
        seen.append(batch[:, 0].int().tolist())
        return batch.clone() * 0.0

    fit(fragile.model, fragile.guide, ELBO(), x, epochs=epoch, batch_size=8, transform=note,
        seed=seed, progress=False, device="cpu")  # fmt: skip
    updates = seen[2:]
    return next(
        (number + 1, batch.index(row))
        for number, batch in enumerate(updates)
        if number >= 5 * (epoch - 1) and row in batch
    )


class TestWhatIsNamed:
    @pytest.mark.parametrize("step", ALL_STEPS)
    @pytest.mark.parametrize(
        ("where", "site"),
        [
            ("density of x", "observed site 'x'"),
            ("density of z", "site 'z' of the guide"),
            ("gradient of x", "the log-density of observed site 'x'"),
            ("gradient of z", "the log-density of site 'z' of the guide"),
        ],
    )
    def test_update_epoch_site_and_datum(self, step, where, site):
        update, datum = where_in_epoch(19, 1)
        if where == "gradient of x" and step.startswith("semi"):
            # The refinement follows that gradient first, which moves the guide to nowhere.
            site = "site 'z' of the guide"
        error = failure(where, step=step)
        assert (error.update, error.epoch) == (update, 1)
        assert (error.site, error.datum, error.row) == (site, datum, 19)
        text = str(error)
        assert text.startswith(f"update {update} (epoch 1) is not finite: ")
        assert f"(datum {datum} of the batch)" in text
        assert site in text
        assert "row 19 of the training data" in text

    @pytest.mark.parametrize("objective", [IWAE(3), STL(2), DReG(3)], ids=repr)
    def test_by_any_objective(self, objective):
        error = failure("gradient of x", objective=objective)
        assert (error.site, error.row) == ("the log-density of observed site 'x'", 19)

    def test_in_a_later_epoch(self):
        """A datum that breaks things by and by: the second epoch has it in another batch."""
        update, datum = where_in_epoch(19, 2)
        epochs = []

        class Late(Fragile):
            def _broken(self, value, x, where):
                bad = (x[:, :1] == MARK).expand_as(value) & bool(epochs)
                return torch.where(bad, torch.nan, value) if where == "x" else value

        late = Late("density of x")
        with pytest.raises(NonFiniteError) as caught:
            fit(late.model, late.guide, ELBO(), data(19), epochs=3, batch_size=8, progress=False,
                device="cpu", on_epoch=epochs.append)  # fmt: skip
        assert (caught.value.update, caught.value.epoch) == (update, 2)
        assert caught.value.datum == datum

    @pytest.mark.parametrize("step", ["torch", "svi", "aggressive"])
    def test_a_rate_that_blows_up_in_the_first_epoch(self, step):
        """Torch's own check of arguments would be many lines, and name no datum."""
        with pytest.raises(
            NonFiniteError, match=r"^update \d+ \(epoch 1\)[^\n]*site '[xz]'[^\n]*$"
        ):
            train(learning_rate=1e30, step=step)

    def test_a_parameter_that_the_update_itself_ruins(self):
        with pytest.raises(NonFiniteError, match=r"^update 1 .*(encoder|decoder)\S* is not finite"):
            train(learning_rate=1e39)

    def test_in_the_last_update_of_an_epoch(self):
        """The epoch's bound is finite, the parameters after it are not, and are not kept."""
        last = next(row for row in range(40) if where_in_epoch(row, 1)[0] == 5)
        error = failure("gradient of x", row=last, epochs=1)
        assert (error.update, error.row) == (5, last)

    @pytest.mark.parametrize(
        "budget", [Budget(updates=9), Budget(decoder_evaluations=200), Budget(seconds=9.0)]
    )
    def test_under_a_budget(self, budget):
        assert failure("gradient of x", budget=budget).row == 19

    def test_other_errors_are_themselves(self):
        """Data outside the support are no numerical trouble, and their own message is better."""
        x = X.clone()
        x[37, 5] = 0.5
        with pytest.raises(ValueError, match=r"got 0\.5: binarise the data") as caught:
            train(x=x)
        assert not isinstance(caught.value, NonFiniteError)

    def test_survives_pickling(self):
        error = failure("density of x")
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        assert vars(again) == vars(error)


class TestWhatIsLeft:
    @pytest.mark.parametrize("step", ALL_STEPS)
    @pytest.mark.parametrize("where", ["density of x", "gradient of x"])
    def test_the_parameters_before_the_update(self, step, where):
        update, _ = where_in_epoch(19, 1)
        broken = Fragile(where)
        settings = {"batch_size": 8, "progress": False, "device": "cpu", "step": step}
        with pytest.raises(NonFiniteError):
            fit(broken.model, broken.guide, ELBO(2), data(19), epochs=3, **settings)
        before = fit_fragile("nowhere", budget=Budget(updates=update - 1), **settings)
        assert same_state(before, broken)

    def test_going_on_comes_to_the_update_again(self, tmp_path):
        """Noise of the transform and of the step comes out as it did."""
        drawn = []

        def noisy(batch):
            marked = batch[:, :1] == MARK
            drawn.append(torch.where(marked, batch, batch + torch.randn_like(batch)))
            return drawn[-1]

        settings = {"transform": noisy, "checkpoint": tmp_path / "run"}
        error = failure("density of x", **settings)
        last = drawn[-1]
        again = failure("density of x", **settings)
        assert torch.equal(drawn[-1], last)
        assert (str(again), vars(again)) == (str(error), vars(error))

    def test_the_checkpoint_is_that_of_the_last_whole_epoch(self, tmp_path):
        epochs = []

        class Late(Fragile):
            def _broken(self, value, x, where):
                bad = (x[:, :1] == MARK).expand_as(value) & (len(epochs) >= 2)
                return _Gradient.apply(value, bad) if where == "x" else value

        late = Late("gradient of x")
        with pytest.raises(NonFiniteError):
            fit(late.model, late.guide, ELBO(), data(19), epochs=4, batch_size=8, progress=False,
                device="cpu", on_epoch=epochs.append, checkpoint=tmp_path / "run",
                checkpoint_seconds=1e9)  # fmt: skip
        saved = Snapshot.load(tmp_path / "run")
        assert len(saved.history) == 2
        assert all(value.isfinite().all() for value in saved.parameter.values())


class TestNothingChanges:
    def test_a_finite_run_is_not_watched(self, monkeypatch):
        def never(*args):
            raise AssertionError("an update was watched")

        monkeypatch.setattr(Trainer, "_checked_update", never)
        train()

    @pytest.mark.parametrize("step", ["torch", "alternating:2"])
    def test_watching_does_not_disturb(self, step, monkeypatch):
        """Two epochs made again under watch come out as they did."""
        vae, watched = binary_vae(), binary_vae()
        train(vae, step=step)
        original = Trainer._train_epoch
        monkeypatch.setattr(
            Trainer,
            "_train_epoch",
            lambda self, most, check=False: original(self, most, check=True),
        )
        start = state_of(watched)
        train(watched, step=step)
        assert same_state(vae, watched)
        assert not same_state(watched, start)
