"""A history as CSV, and back."""

import math

import pytest

from ppl_vae.training import EpochRecord, History, csv_line

NUMBERS = [0.1 + 0.2, -1e-300, 5e300, math.pi, -0.0, math.inf, -math.inf, 1 / 3]


def record(epoch, number=-1.5, **others):
    values = {
        "bound": number, "log_likelihood": number, "kl": {"z": number}, "seconds": 0.5,
        "learning_rate": 1e-3, "updates": 7 * epoch, "evaluations": 10**15 + epoch,
    }  # fmt: skip
    return EpochRecord(epoch=epoch, **(values | others))


class TestRoundTrip:
    @pytest.mark.parametrize("number", NUMBERS)
    def test_every_digit(self, number):
        history = History([record(1, number, validation=number, validation_error=number)])
        again = History.from_csv(history.to_csv())
        assert again == history
        assert repr(again) == repr(history)

    def test_not_a_number(self):
        again = History.from_csv(History([record(1, math.nan)]).to_csv())
        assert math.isnan(again.records[0].bound)
        assert math.isnan(again.records[0].kl["z"])

    def test_without_validation_in_some_epochs(self):
        history = History([record(1), record(2, validation=-3.0, validation_error=0.1), record(3)])
        assert History.from_csv(history.to_csv()) == history

    @pytest.mark.parametrize("site", ["z", "kl/z", "a,b", 'say "z"', "z 1", "layer\n2", "é"])
    def test_any_name_of_a_site(self, site):
        history = History([record(i, kl={site: 1.0, "other": 2.0}) for i in (1, 2)])
        assert History.from_csv(history.to_csv()) == history

    def test_nothing(self):
        assert History.from_csv("") == History()
        assert History.from_csv(History().to_csv()) == History()

    def test_whole_numbers_stay_whole(self):
        (again,) = History.from_csv(History([record(3)]).to_csv()).records
        assert (again.epoch, again.updates, again.evaluations) == (3, 21, 10**15 + 3)
        assert all(isinstance(n, int) for n in (again.epoch, again.updates, again.evaluations))


def test_the_compiled_share_is_a_mean_over_epochs():
    records = [record(1, compiled=1.0), record(2, compiled=0.5)]
    assert History(records).compiled == 0.75
    assert History().compiled is None


def test_columns():
    header = History([record(1)]).to_csv().splitlines()[0].split(",")
    assert header == [
        "epoch", "bound", "log_likelihood", "learning_rate", "seconds", "validation",
        "validation_error", "updates", "evaluations", "compiled", "kl/z",
    ]  # fmt: skip


def test_a_line_is_what_an_epoch_adds():
    history = History([record(1), record(2)])
    first = History(history.records[:1]).to_csv()
    assert history.to_csv() == first + csv_line(history.records[1])


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_last_line_that_was_cut_short_is_left_out(cut):
    history = History([record(1), record(2)])
    text = history.to_csv()
    assert History.from_csv(text[:-cut]) == History(history.records[:1])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("updates", "steps", "line 2 .*no column 'updates'"),
        ("14,", "many,", "line 3 .*invalid literal"),
        (",14,", ",", "line 3 "),
        ("0.5", "half", "line 2 .*could not convert"),
    ],
)
def test_damage_is_one_line_that_says_where(old, new, reason):
    text = History([record(1), record(2)]).to_csv().replace(old, new)
    with pytest.raises(ValueError, match=f"^{reason}[^\n]*$"):
        History.from_csv(text)
