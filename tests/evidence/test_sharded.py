"""An estimate in parts: every row once, independent draws, the estimator's own claims."""

import pytest
import torch
from significance import Estimate, mean_of

from ppl_vae.evidence import (
    AdaptiveSampling,
    AnnealedImportanceSampling,
    Evidence,
    ImportanceSampling,
    Quadrature,
    Shard,
    Sharded,
)
from ppl_vae.identity import identity_of
from ppl_vae.linear_gaussian import LinearGaussian

MODEL = LinearGaussian.random(4, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
X = MODEL.simulate(23, seed=3)
DRAWS = ImportanceSampling(50, rows=500)


def run(estimator, x=X, vae=VAE, **call):
    return estimator(vae.model, vae.guide, x, **call)


class TestParts:
    @pytest.mark.parametrize("shards", [1, 2, 5, 22, 23])
    def test_every_row_is_in_one_part_and_parts_are_of_near_equal_size(self, shards):
        parts = Sharded(DRAWS, shards).parts(23)
        assert [row for part in parts for row in range(part.start, part.stop)] == list(range(23))
        assert [part.number for part in parts] == list(range(shards))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def test_seeds_differ_and_are_the_same_everywhere(self):
        parts, again, other = (Sharded(DRAWS, 5).parts(23, seed) for seed in (1, 1, 2))
        assert parts == again
        seeds = {part.seed for part in (*parts, *other, *Sharded(DRAWS, 6).parts(23, 1))}
        assert len(seeds) == 16
        # Written down: numbers of a study must be found again with another version.
        assert Sharded(DRAWS, 2).parts(2, 7) == [
            Shard(0, 0, 1, 9315335090198164),
            Shard(1, 1, 2, 2235429112848223778),
        ]

    def test_without_a_seed_draws_are_the_callers(self):
        assert {part.seed for part in Sharded(DRAWS, 3).parts(9, None)} == {None}
        torch.manual_seed(3)
        first = run(Sharded(DRAWS, 3), seed=None)
        torch.manual_seed(3)
        assert torch.equal(first.log_prob, run(Sharded(DRAWS, 3), seed=None).log_prob)
        assert not torch.equal(first.log_prob, run(Sharded(DRAWS, 3), seed=None).log_prob)

    @pytest.mark.parametrize("shards", [0, -1, 2.0])
    def test_no_shards(self, shards, unchecked_types):
        with pytest.raises(ValueError, match=rf"Sharded needs shards >= 1 .*, got {shards}"):
            Sharded(DRAWS, shards)

    def test_more_shards_than_data(self):
        with pytest.raises(
            ValueError, match=r"23 data cannot be cut into 24 shards: use at most 23"
        ):
            run(Sharded(DRAWS, 24))

    def test_join_wants_all_parts(self):
        part = run(DRAWS)
        with pytest.raises(ValueError, match=r"joins its 3 parts, got 2"):
            Sharded(DRAWS, 3).join([part] * 2, part.identity)


class TestNumbers:
    def test_exact_where_the_estimator_is(self):
        found = run(Sharded(Quadrature(), 4), vae=MODEL.mean_field_vae())
        torch.testing.assert_close(found.log_prob, MODEL.log_evidence(X).detach())
        assert found.direction == "exact"

    @pytest.mark.parametrize(
        "estimator",
        [ImportanceSampling(400), AdaptiveSampling(0.05), AnnealedImportanceSampling(10, 8)],
        ids=repr,
    )
    def test_near_the_exact_value_within_its_error(self, estimator, significance):
        found = run(Sharded(estimator, 4))
        exact = MODEL.log_evidence(X).mean().item()
        significance.require_equal(Estimate(found.mean, found.monte_carlo_error), exact)
        assert found.monte_carlo_error < 0.1

    def test_the_exponential_is_unbiased(self, significance):
        x = MODEL.simulate(1, seed=3).expand(20_000, -1)
        found = run(Sharded(ImportanceSampling(20, rows=10**5), 7), x)
        exact = MODEL.log_evidence(x[:1]).item()
        significance.require_equal(mean_of((found.log_prob - exact).exp()), 1.0)

    def test_draws_of_different_parts_are_independent(self, significance):
        x = MODEL.simulate(1, seed=3).expand(8_000, -1)
        found = run(Sharded(ImportanceSampling(20, rows=10**5), 2), x).log_prob.view(2, -1)
        assert not torch.equal(found[0], found[1])
        first, second = found - found.mean(1, keepdim=True)
        significance.require_equal(mean_of(first * second), 0.0)

    def test_one_seed_for_all_parts_would_repeat_the_draws(self):
        """What the test above is for."""
        x = MODEL.simulate(1, seed=3).expand(2_000, -1)
        both = [run(DRAWS, half) for half in x.split(1_000)]
        assert torch.equal(both[0].log_prob, both[1].log_prob)

    def test_in_any_order_and_anywhere(self):
        sharded = Sharded(DRAWS, 5)
        whole = run(sharded, seed=4)
        apart = {
            shard.number: sharded.estimate(VAE.model, VAE.guide, X, shard)
            for shard in reversed(sharded.parts(len(X), 4))
        }
        identity = identity_of(lambda: run(sharded, seed=4))
        joined = sharded.join([apart[number] for number in range(5)], identity)
        assert isinstance(joined, Evidence)
        for name in ("log_prob", "standard_error", "effective_sample_size"):
            assert torch.equal(getattr(joined, name), getattr(whole, name))
        assert joined.method == whole.method == "importance sampling"
        assert joined.identity == whole.identity

    def test_the_rows_keep_their_order(self):
        found = run(Sharded(DRAWS, 5), vae=MODEL.vae())
        torch.testing.assert_close(found.log_prob, MODEL.log_evidence(X).detach())


class Stops:
    """The model until it has been called so many times: then ctrl-C."""

    def __init__(self, calls):
        self.calls = calls

    def __call__(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return VAE.model(x)


class TestCheckpoint:
    def test_goes_on_to_the_same_numbers(self, tmp_path):
        sharded, file = Sharded(ImportanceSampling(50, rows=100), 3), tmp_path / "part.safetensors"
        whole = run(sharded)
        with pytest.raises(KeyboardInterrupt):
            sharded(Stops(12), VAE.guide, X, checkpoint=file)
        left = {path.name for path in tmp_path.iterdir()}
        assert left
        assert left <= {f"part-{number}.safetensors" for number in range(3)}
        again = run(sharded, checkpoint=file)
        assert torch.equal(again.log_prob, whole.log_prob)
        assert list(tmp_path.iterdir()) == []

    def test_an_estimator_without_one(self, tmp_path):
        file = tmp_path / "part.safetensors"
        found = run(Sharded(AdaptiveSampling(0.1), 3), checkpoint=file)
        assert torch.equal(found.log_prob, run(Sharded(AdaptiveSampling(0.1), 3)).log_prob)
        assert list(tmp_path.iterdir()) == []
