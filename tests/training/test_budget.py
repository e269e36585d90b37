"""Training ends exactly where its budget does, and what it cost is what was spent."""

import math
import time
from dataclasses import replace
from functools import cache

import pytest
import torch
from programs import LinearChain, binary_vae, param_guide, param_model

from ppl_vae.objectives import ELBO, IWAE, RWS, DReG
from ppl_vae.particles import Programs, count_evaluations, draw_particles
from ppl_vae.schedules import Cosine, Exponential
from ppl_vae.training import Budget, Snapshot, TorchStep, fit
from ppl_vae.training._budget import Spent

from .helpers import STEPS, VALID, InterruptAt, X, same_state, state_of, train, without_seconds
from .test_resume import make, run

ALL_STEPS = ["torch", "svi", "alternating:2", "aggressive", "semi-amortised:3"]


class Decodings:
    """Rows that a model's decoder was run on in training mode, counted by the model itself."""

    def __init__(self, vae):
        self.rows = 0
        self._vae, self._decoder = vae, vae.decoder.forward
        vae.decoder.forward = self._forward

    def _forward(self, z, *args, **kwargs):
        # The look at which parameters are whose is in evaluation mode.
        if self._vae.training and self._vae.decoder.training:
            self.rows += z.shape[:-1].numel()
        return self._decoder(z, *args, **kwargs)


def clock(monkeypatch):
    """A clock that stands still, and a step that takes a second of it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(TorchStep):
        def __call__(self, batch, learning_rate):
            now[0] += 1.0
            return super().__call__(batch, learning_rate)

    return now, Slow


class TestCounting:
    @pytest.mark.parametrize("step", ALL_STEPS)
    def test_every_row_decoded_is_counted_and_no_other(self, step):
        vae = binary_vae()
        seen = Decodings(vae)
        _, result = train(vae, step=step, objective=IWAE(3), valid=VALID, epochs=4)
        record = result.history.records[-1]
        assert record.evaluations == seen.rows > 0
        assert record.updates == 12

    @pytest.mark.parametrize(
        ("step", "per_datum"),
        [("torch", 3), ("svi", 3), ("alternating:2", 9), ("semi-amortised:3", 12)],
    )
    def test_what_the_steps_say_they_cost(self, step, per_datum):
        _, result = train(step=step, objective=IWAE(3), epochs=2)
        assert result.history.column("evaluations") == [40 * per_datum, 80 * per_datum]
        assert result.history.column("updates") == [3, 6]

    def test_aggression_costs_what_it_says(self):
        _, result = train(step="aggressive", objective=IWAE(3), epochs=1)
        (cost,) = result.history.column("evaluations")
        assert 21 * 3 * 40 <= cost <= 101 * 3 * 40

    def test_simulated_data_are_decoded_too(self):
        _, plain = train(objective=DReG(3), epochs=1)
        _, asleep = train(objective=RWS(3, phi="sleep"), epochs=1)
        assert plain.history.column("evaluations") == [120]
        assert asleep.history.column("evaluations") == [240]

    def test_hand_written_programs(self):
        x = LinearChain().simulate(40).float()
        result = fit(param_model, param_guide, ELBO(2), x, epochs=2, batch_size=16, progress=False)
        assert result.history.column("evaluations") == [80, 160]

    def test_nested_counts_are_apart(self):
        vae = binary_vae()
        with count_evaluations() as outer:
            draw_particles(vae.model, vae.guide, X, 2)
            with count_evaluations() as inner:
                Programs(vae.model).simulate(X[:5], 3)
            draw_particles(vae.model, vae.guide, X[:10])
        draw_particles(vae.model, vae.guide, X)
        assert (outer.rows, inner.rows) == (90, 15)

    def test_an_error_does_not_leave_the_count_open(self):
        with pytest.raises(KeyboardInterrupt), count_evaluations():
            raise KeyboardInterrupt
        vae = binary_vae()
        with count_evaluations() as count:
            draw_particles(vae.model, vae.guide, X)
        assert count.rows == 40


class TestBudget:
    def test_exactly_one_limit(self):
        for limits in ({}, {"updates": 3, "seconds": 1.0}, {"epochs": 1, "updates": 3}):
            with pytest.raises(ValueError, match=r"^a budget has exactly one limit of [^\n]*\.$"):
                Budget(**limits)

    @pytest.mark.parametrize("name", ["epochs", "updates", "decoder_evaluations"])
    @pytest.mark.parametrize("value", [0, -1, 0.5, math.nan, math.inf, "ten"])
    def test_counts(self, name, value, unchecked_types):
        with pytest.raises(ValueError, match=f"^{name} must be 1 or more, got {value!r}"):
            Budget(**{name: value})

    @pytest.mark.parametrize("name", ["epochs", "updates", "decoder_evaluations"])
    def test_counts_are_whole(self, name, unchecked_types):
        with pytest.raises(ValueError, match=rf"^{name} is a whole number, got 1\.5\.$"):
            Budget(**{name: 1.5})

    @pytest.mark.parametrize("value", [0, 0.0, -1.0, math.nan, math.inf, "ten"])
    def test_seconds(self, value, unchecked_types):
        with pytest.raises(
            ValueError, match=f"^seconds must be positive and finite, got {value!r}"
        ):
            Budget(seconds=value)

    def test_fraction_is_of_its_own_limit(self):
        spent = Spent(updates=10, seconds=2.0, decoder_evaluations=300)
        assert Budget(epochs=4).fraction(spent, 5) == 0.5
        assert Budget(updates=40).fraction(spent, 5) == 0.25
        assert Budget(seconds=2.0).fraction(spent, 5) == 1.0
        assert Budget(decoder_evaluations=3000).fraction(spent, 5) == 0.1

    def test_too_small_for_one_update(self):
        with pytest.raises(
            ValueError, match=r"^a budget of 10 decoder .* one update takes 20[^\n]*"
        ):
            train(budget=Budget(decoder_evaluations=10), batch_size=13)


class TestWhereItEnds:
    @pytest.mark.parametrize("updates", [1, 2, 3, 4, 7, 9])
    @pytest.mark.parametrize("step", ["torch", "alternating:2"])
    def test_exactly_at_the_update(self, updates, step):
        calls = []

        def count(batch):
            calls.append(len(batch))
            return batch

        _, result = train(budget=Budget(updates=updates), step=step, transform=count)
        assert result.history.records[-1].updates == updates
        assert len(result.history) == math.ceil(updates / 3)
        assert not result.stopped_early

    @pytest.mark.parametrize(
        ("step", "limit"),
        [
            ("torch", 250),
            ("torch", 320),
            ("svi", 190),
            ("alternating:1", 250),
            ("aggressive", 4100),
        ],
    )
    def test_at_the_last_update_that_does_not_exceed_the_evaluations(self, step, limit):
        """Whatever an update costs: one more would have been too many, and leaves no trace."""
        settings = {"step": step, "batch_size": 20}
        budgeted, result = train(budget=Budget(decoder_evaluations=limit), **settings)
        last = result.history.records[-1]
        alone, exact = train(budget=Budget(updates=last.updates), **settings)
        _, longer = train(budget=Budget(updates=last.updates + 1), **settings)
        assert last.evaluations <= limit < longer.history.records[-1].evaluations
        assert without_seconds(result.history) == without_seconds(exact.history)
        assert same_state(alone, budgeted)

    def test_evaluations_that_end_with_an_epoch(self):
        """The next update would not fit: no record is made of an epoch without one."""
        for limit in (160, 170):
            _, result = train(budget=Budget(decoder_evaluations=limit))
            assert result.history.column("evaluations") == [80, 160]
            assert result.history.column("updates") == [3, 6]

    def test_seconds_of_training_alone(self, monkeypatch):
        """By a clock that updates alone move on: at the first update after the limit."""
        now, Slow = clock(monkeypatch)
        vae = binary_vae()

        def guide(x):
            # Validation takes ages, and is not counted.
            now[0] += 0.0 if torch.is_grad_enabled() else 1000.0
            vae.guide(x)

        model = vae.model
        result = fit(
            model, guide, ELBO(), X, valid=VALID, batch_size=16, progress=False, step=Slow,
            budget=Budget(seconds=6.5),
        )  # fmt: skip
        assert result.history.column("updates") == [3, 6, 7]
        assert result.history.column("seconds")[0] > 1000

    def test_epochs_are_as_before(self):
        plain, budgeted = train(epochs=4)[0], train(budget=Budget(epochs=4), epochs=99)[0]
        assert same_state(plain, budgeted)
        assert same_state(plain, train(budget=Budget(updates=12))[0])
        assert not same_state(plain, train(budget=Budget(updates=11))[0])

    @pytest.mark.filterwarnings("ignore:training has diverged:UserWarning")
    def test_patience_ends_it_too(self):
        settings = {"valid": VALID, "learning_rate": 3.0, "patience": 2}
        _, result = train(budget=Budget(updates=300), **settings)
        assert result.stopped_early
        assert len(result.history) < 100


class TestTheLastEpoch:
    def test_is_the_mean_over_what_it_saw_and_is_validated(self):
        chain = LinearChain()
        x = chain.simulate(40)
        expected = []

        class Spy(TorchStep):
            def __call__(self, batch, learning_rate):
                expected.append(chain.log_evidence(batch).detach())
                return super().__call__(batch, learning_rate)

        result = fit(
            chain.model, chain.top_down, ELBO(), x, valid=x, batch_size=16, step=Spy,
            budget=Budget(updates=5), learning_rate=0.05, progress=False, validate_every=2,
        )  # fmt: skip
        whole, part = result.history.records
        assert whole.bound == pytest.approx(torch.cat(expected[:3]).mean().item())
        assert part.bound == pytest.approx(torch.cat(expected[3:]).mean().item())
        assert (whole.validation, part.validation is None) == (None, False)
        assert result.kept_epoch == 2

    def test_schedules_run_over_the_budget(self):
        rates, progress = [], []

        class Spy(TorchStep):
            def __call__(self, batch, learning_rate):
                rates.append(learning_rate)
                progress.append(self.objective.context.progress)
                return super().__call__(batch, learning_rate)

        schedule = Exponential(1e-2, 1e-3)
        train(budget=Budget(updates=8), learning_rate=schedule, step=Spy)
        assert progress == pytest.approx([i / 8 for i in range(8)])
        assert rates == pytest.approx([schedule(i / 8) for i in range(8)])
        rates.clear(), progress.clear()
        # 14, 13 and 13 data a batch, two particles each.
        train(budget=Budget(decoder_evaluations=100), learning_rate=schedule, step=Spy)
        assert progress[:3] == pytest.approx([0.0, 0.28, 0.54])
        assert rates == pytest.approx([schedule(done) for done in progress])
        assert max(progress) < 1


BUDGETS = [
    Budget(updates=11), Budget(decoder_evaluations=700), Budget(epochs=4),
    Budget(decoder_evaluations=640),
]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Model, result and checkpoint of a run that is never stopped, made once for its settings."""

    @cache
    def run_once(**settings):
        vae, path = make(), tmp_path_factory.mktemp("undisturbed") / "run"
        return vae, run(vae, path, **settings), path

    return run_once


class TestGoingOn:
    @pytest.mark.parametrize(
        ("step", "budget", "call"),
        [
            *(("torch", BUDGETS[0], call) for call in (3, 9, 11)),
            *(("torch", budget, 9) for budget in BUDGETS[1:]),
            ("torch", BUDGETS[3], 11),
            ("svi", BUDGETS[0], 9),
            ("svi", BUDGETS[1], 9),
            ("aggressive", Budget(decoder_evaluations=3500), 5),
        ],
    )
    def test_is_the_undisturbed_run_bit_for_bit(self, step, budget, call, undisturbed, tmp_path):
        settings = {"budget": budget, "step": step, "learning_rate": Cosine(0.02)}
        whole, expected, file = undisturbed(**settings)
        resumed = make(seed=0)
        with pytest.raises(KeyboardInterrupt):
            run(make(), tmp_path / "part", transform=InterruptAt(call), **settings)
        torch.manual_seed(4321)
        result = run(resumed, tmp_path / "part", **settings)
        assert same_state(whole, resumed)
        assert without_seconds(result.history) == without_seconds(expected.history)
        left, right = Snapshot.load(file), Snapshot.load(tmp_path / "part")
        assert same_state(left.optimizer, right.optimizer)
        assert left.ended == right.ended == budget.limit

    @pytest.mark.parametrize("step", STEPS)
    def test_onto_longer_budgets_is_the_run_planned_so(self, step, tmp_path):
        """What was cut short is trained again in whole, as a longer run would have done it."""
        whole, longer = make(), make()
        expected = run(whole, budget=Budget(updates=11), step=step)
        for updates in (1, 2, 7, 9, 11):
            result = run(longer, tmp_path / "run", budget=Budget(updates=updates), step=step)
            assert result.history.records[-1].updates == updates
        assert same_state(whole, longer)
        assert without_seconds(result.history) == without_seconds(expected.history)

    @pytest.mark.parametrize("budget", [Budget(updates=7), Budget(decoder_evaluations=190)])
    def test_a_finished_run_is_not_run_again(self, budget, tmp_path):
        whole, again = make(), make(seed=3)
        path = tmp_path / "run"
        expected = run(whole, path, budget=budget)
        content = path.read_bytes()
        result = run(again, path, budget=budget, transform=InterruptAt(2))
        assert same_state(whole, again)
        assert result.history == expected.history
        shorter = replace(budget, **{budget.kind: budget.limit // 2})
        with pytest.raises(
            ValueError, match=rf"of a run that went further: {budget.kind} \d+ there"
        ):
            run(again, path, budget=shorter)
        assert path.read_bytes() == content

    def test_time_of_earlier_sessions_counts(self, tmp_path, monkeypatch):
        now, Slow = clock(monkeypatch)
        settings = {"budget": Budget(seconds=10.0), "step": Slow}
        with pytest.raises(KeyboardInterrupt):
            run(make(), tmp_path / "run", transform=InterruptAt(9), **settings)
        now[0] = 5000.0
        result = run(make(), tmp_path / "run", **settings)
        assert result.history.column("updates") == [3, 6, 9, 10]

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"budget": Budget(decoder_evaluations=900)}, "budget updates there, decoder_eval"),
            ({"epochs": 9}, "budget updates there, epochs here"),
            ({"budget": Budget(updates=9), "learning_rate": Cosine(0.01)}, "learning_rate"),
        ],
    )
    def test_with_another_kind_of_budget_is_refused(self, other, message, tmp_path):
        run(make(), tmp_path / "run", budget=Budget(updates=5))
        with pytest.raises(ValueError, match=f"other settings: {message}"):
            run(make(), tmp_path / "run", **other)

    def test_longer_under_a_schedule_is_refused(self, tmp_path):
        settings = {"learning_rate": Cosine(0.01)}
        run(make(), tmp_path / "run", budget=Budget(updates=5), **settings)
        with pytest.raises(ValueError, match="other settings: updates 5 there, 6 here"):
            run(make(), tmp_path / "run", budget=Budget(updates=6), **settings)


def test_every_record_is_handed_over_once(tmp_path):
    seen = []
    settings = {"on_epoch": seen.append, "budget": Budget(updates=7)}
    result = run(make(), tmp_path / "run", **settings)
    assert seen == result.history.records
    run(make(), tmp_path / "run", **settings)
    assert len(seen) == 3


def test_what_on_epoch_raises_ends_the_run_and_nothing_is_lost(tmp_path):
    def stop(record):
        if record.epoch == 2:
            raise OSError("no space left")

    vae = make()
    start = state_of(vae)
    with pytest.raises(OSError, match="no space left"):
        run(vae, tmp_path / "run", on_epoch=stop)
    assert not same_state(vae, start)
    whole, resumed = make(), make(seed=3)
    run(whole)
    result = run(resumed, tmp_path / "run")
    assert same_state(whole, resumed)
    assert len(result.history) == 5
