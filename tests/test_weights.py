import math

import pytest
import torch

from ppl_vae.weights import (
    RunningWeights,
    effective_sample_size,
    group_log_mean_exp,
    group_normalized_weights,
    leave_one_out_log_mean_exp,
    log_mean_exp,
    normalized_weights,
)


@pytest.fixture
def log_weight():
    """(particles, batch), far out of the range of exp, with zero weights."""
    draws = 5 * torch.randn(60, 7, dtype=torch.float64)
    draws += torch.tensor([0.0, -1e4, 1e4, -700.0, 700.0, 3.0, -3.0], dtype=torch.float64)
    draws[::3, 5] = -math.inf
    draws[0, 6] = -math.inf
    return draws


def running(chunks):
    weights = RunningWeights()
    for chunk in chunks:
        weights.add(chunk)
    return weights


def test_log_mean_exp_is_per_datum(log_weight):
    shift = log_weight.amax(0)
    expected = shift + (log_weight - shift).exp().mean(0).log()
    torch.testing.assert_close(log_mean_exp(log_weight), expected)


def test_log_mean_exp_of_one_particle_is_its_weight(log_weight):
    assert torch.equal(log_mean_exp(log_weight[1:2]), log_weight[1])


def test_normalized_weights_sum_to_one_over_particles(log_weight):
    weights = normalized_weights(log_weight)
    torch.testing.assert_close(weights.sum(0), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(
        weights[3, 0] / weights[4, 0], torch.exp(log_weight[3, 0] - log_weight[4, 0])
    )


def test_effective_sample_size(log_weight):
    weights = torch.softmax(log_weight, 0)
    torch.testing.assert_close(effective_sample_size(log_weight), 1 / weights.square().sum(0))
    assert effective_sample_size(torch.zeros(9, 2)) == pytest.approx([9, 9])
    one = torch.tensor([[0.0], [-1e3], [-1e3]])
    assert effective_sample_size(one).item() == pytest.approx(1)


@pytest.mark.parametrize("size", [1, 2, 7, 59, 60])
def test_running_weights_do_not_depend_on_the_chunks(log_weight, size):
    weights = running(log_weight.split(size))
    count = len(log_weight)
    ess = effective_sample_size(log_weight)
    assert weights.num_particles == count
    torch.testing.assert_close(weights.log_mean, log_mean_exp(log_weight))
    torch.testing.assert_close(weights.effective_sample_size, ess)
    # The direct formula: the standard error of the mean of w / mean(w).
    relative = torch.softmax(log_weight, 0) * count
    expected = relative.std(0, correction=1) / math.sqrt(count)
    torch.testing.assert_close(weights.standard_error, expected)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_the_largest_weights_are_kept(log_weight, size):
    """A tail of 60 has 12 weights, one of 100,000 more than there are."""
    few, all_of_them = RunningWeights(60), RunningWeights()
    for chunk in log_weight.split(size):
        few.add(chunk)
        all_of_them.add(chunk)
    ordered = log_weight.sort(0, descending=True).values
    assert torch.equal(few.largest, ordered[:13])
    assert torch.equal(all_of_them.largest, ordered)
    assert few.num_positive.tolist() == [60, 60, 60, 60, 60, 40, 59]
    halves = running([log_weight[:20]]), running([log_weight[20:]])
    assert torch.equal(halves[0].merged(halves[1]).largest, ordered)
    parts = [few.rows(torch.arange(7) < 2).columns(), few.rows(torch.arange(7) >= 2).columns()]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    together = RunningWeights.from_columns(columns, few.num_particles, 60)
    assert torch.equal(together.largest, few.largest)
    assert torch.equal(together.log_mean, few.log_mean)
    assert together.precision == few.precision


def test_rounding_is_that_of_the_type_they_were_computed_in():
    single = running([torch.full((5, 1), -1000.0)])
    assert single.rounding.item() == pytest.approx(1000 * 2**-23)
    double = RunningWeights.of(torch.full((5, 1), -1000.0, dtype=torch.float64))
    assert double.rounding.item() == pytest.approx(1000 * 2**-52)
    double.add(torch.full((5, 1), -1000.0, dtype=torch.float64), torch.float32)
    assert double.rounding.item() == pytest.approx(1000 * 2**-23)


@pytest.mark.parametrize("level", [-1e4, 0.0, 1e4])
def test_running_weights_when_a_whole_chunk_has_weight_zero(level):
    zero = torch.full((5, 2), -math.inf)
    some = torch.full((5, 2), level)
    for chunks in ([zero, some], [some, zero], [zero, zero, some]):
        weights = running(chunks)
        fraction = 5 / weights.num_particles
        assert weights.log_mean == pytest.approx([level + math.log(fraction)] * 2)
        assert weights.effective_sample_size == pytest.approx([5, 5])


def test_running_weights_when_every_weight_is_zero():
    weights = running([torch.full((3, 1), -math.inf)] * 2)
    assert weights.log_mean.item() == -math.inf
    assert weights.effective_sample_size.item() == 0
    assert weights.standard_error.item() == math.inf
    assert weights.rounding.item() == 0


def test_running_weights_are_kept_in_double_precision():
    weights = running([torch.full((1, 1), math.log(1e-3))] * 1_000)
    assert weights.log_mean.dtype == torch.float64
    assert weights.log_mean.item() == pytest.approx(float(torch.tensor(math.log(1e-3))), rel=1e-12)


def test_equal_weights_have_no_error_and_one_particle_an_unknown_one():
    assert running([torch.full((50, 3), -12.3)]).standard_error.tolist() == [0, 0, 0]
    assert running([torch.zeros(1, 3)]).standard_error.isnan().all()


def test_no_weights_is_an_error():
    with pytest.raises(ValueError, match="call add first"):
        _ = RunningWeights().log_mean


@pytest.mark.parametrize("groups", [1, 3, 60])
def test_groups_are_runs_of_consecutive_particles(log_weight, groups):
    runs = log_weight.split(60 // groups)
    expected = torch.stack([log_mean_exp(run) for run in runs])
    torch.testing.assert_close(group_log_mean_exp(log_weight, groups), expected)
    expected = torch.cat([normalized_weights(run) for run in runs])
    torch.testing.assert_close(
        group_normalized_weights(log_weight, groups), expected, equal_nan=True
    )


def test_groups_are_of_equal_size():
    for function in (group_log_mean_exp, group_normalized_weights):
        with pytest.raises(RuntimeError, match="unflatten"):
            function(torch.zeros(5, 2), 2)


def test_leave_one_out_by_hand():
    log_weight = torch.log(torch.tensor([[1.0, 4.0], [2.0, 1.0], [8.0, 0.25]], dtype=torch.float64))
    # Row k: the mean of the others and of their geometric mean.
    expected = torch.tensor(
        [[(4 + 2 + 8) / 3, (0.5 + 1 + 0.25) / 3],
         [(1 + 8**0.5 + 8) / 3, (4 + 1 + 0.25) / 3],
         [(1 + 2 + 2**0.5) / 3, (4 + 1 + 2) / 3]],
        dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(leave_one_out_log_mean_exp(log_weight).exp(), expected)


def test_leave_one_out_does_not_depend_on_what_is_left_out():
    log_weight = torch.randn(5, 3, dtype=torch.float64)
    before = leave_one_out_log_mean_exp(log_weight)
    for k in range(5):
        changed = log_weight.clone()
        changed[k] += 100
        after = leave_one_out_log_mean_exp(changed)
        torch.testing.assert_close(after[k], before[k])
        others = [j for j in range(5) if j != k]
        assert (after[others] != before[others]).all()


def test_leave_one_out_of_equal_weights_is_their_mean():
    log_weight = torch.full((4, 2), -700.0)
    assert torch.equal(
        leave_one_out_log_mean_exp(log_weight), log_mean_exp(log_weight).expand(4, 2)
    )


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_leave_one_out_far_from_zero(shift):
    log_weight = torch.randn(5, 3, dtype=torch.float64)
    expected = leave_one_out_log_mean_exp(log_weight) + shift
    torch.testing.assert_close(leave_one_out_log_mean_exp(log_weight + shift), expected)
