"""Every number says what it was computed from: before it is computed, and alike for all rows."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from ppl_vae.data import Rows
from ppl_vae.diagnostics import (
    GapSettings,
    bound_against_particles,
    decompose,
    elbo_surgery,
    inference_gap,
    predictive_check,
    rate_distortion,
    simulation_based_calibration,
)
from ppl_vae.evidence import (
    AdaptiveSampling,
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    Call,
    ImportanceSampling,
    Quadrature,
    Sandwich,
    SequentialMonteCarlo,
    Sharded,
    ThermodynamicIntegration,
    paired_difference,
)
from ppl_vae.identity import Source, identity_of
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.refinement import Refinement

MODEL = LinearGaussian.random(3, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
PROGRAMS = VAE.model, VAE.guide
X = MODEL.simulate(6, seed=3)
DRAWS, CHAINS = ImportanceSampling(5), AnnealedImportanceSampling(3, 4, 1)
EVIDENCE = DRAWS(*PROGRAMS, X)
ESTIMATORS = [
    DRAWS, AdaptiveSampling(0.5), CHAINS, SequentialMonteCarlo(CHAINS, 2),
    ThermodynamicIntegration(CHAINS, 1, 1), Quadrature(), Sharded(DRAWS, 2),
    Sharded(AdaptiveSampling(0.5), 3), BidirectionalMonteCarlo(CHAINS, 2),
]  # fmt: skip
DIAGNOSES = {
    "decompose": lambda x, **call: decompose(*PROGRAMS, x, num_particles=3, **call),
    "surgery": lambda x, **call: elbo_surgery(*PROGRAMS, x, num_particles=3, **call),
    "curve": lambda x, **call: bound_against_particles(*PROGRAMS, x, (1, 2, 4, 10), **call),
    "calibration": lambda x, **call: simulation_based_calibration(
        *PROGRAMS, x, num_simulations=100, num_draws=19, **call
    ),
    "predictive": lambda x, **call: predictive_check(*PROGRAMS, x, num_replicates=300, **call),
    "gap": lambda x, **call: inference_gap(
        *PROGRAMS, x, EVIDENCE, GapSettings(Refinement(2), num_particles=2), **call
    ),
    "rates": lambda x, **call: rate_distortion(
        *PROGRAMS, x, (1.0,), annealing=AnnealedImportanceSampling(3, 4), call=Call(**call)
    ),
}
ALL = {repr(each): lambda x, e=each, **call: e(*PROGRAMS, x, **call) for each in ESTIMATORS}
ALL |= DIAGNOSES


@pytest.mark.parametrize("compute", ALL.values(), ids=[name[:40] for name in ALL])
def test_what_is_stated_before_is_what_the_result_says(compute):
    rows = Rows(X, Source("mine", "test"))
    result = compute(rows)
    assert identity_of(lambda: compute(rows)) == result.identity
    assert identity_of(lambda: compute(rows, seed=1)).key != result.identity.key
    # A sandwich is of data that the model made.
    if not isinstance(result, Sandwich):
        assert result.identity.source == rows.source
        assert identity_of(lambda: compute(X)).key != result.identity.key
    plain = json.loads(json.dumps(result.to_dict()))["identity"]
    assert plain == json.loads(json.dumps(result.identity.to_dict()))


@pytest.mark.parametrize("estimator", ESTIMATORS[:-1], ids=lambda each: repr(each)[:40])
def test_rows_are_the_same_however_they_are_held(estimator):
    first = estimator(*PROGRAMS, X)
    for held in (X.numpy(), pd.DataFrame(X.numpy())):
        found = estimator(*PROGRAMS, held)
        assert found.identity == first.identity
        assert torch.equal(found.log_prob, first.log_prob)


def test_parts_put_together_are_the_whole():
    sharded = Sharded(DRAWS, 3)
    whole = sharded(*PROGRAMS, X, seed=4)
    parts = [sharded.estimate(*PROGRAMS, X, shard) for shard in sharded.parts(len(X), 4)]
    joined = sharded.join(parts, identity_of(lambda: sharded(*PROGRAMS, X, seed=4)))
    assert joined.identity == whole.identity
    assert torch.equal(joined.log_prob, whole.log_prob)
    assert whole.identity == replace(DRAWS(*PROGRAMS, X, seed=4).identity, settings=repr(sharded))
    assert len({part.identity.key for part in parts}) == 3


def test_parts_cut_in_different_chunks_do_not_say_how():
    identity = DRAWS(*PROGRAMS, X).identity
    other = replace(identity, chunk_rows=7)
    assert identity.of_parts([other, other]).chunk_rows == 7
    assert identity.of_parts([identity, other]).chunk_rows is None


def test_what_states_nothing_is_said():
    with pytest.raises(ValueError, match="states no identity"):
        identity_of(lambda: None)
    assert DRAWS(*PROGRAMS, X).identity is not None


def test_other_rows_are_not_paired():
    first, second = (DRAWS(*PROGRAMS, part) for part in X.split(3))
    with pytest.raises(ValueError, match="same data in the same order, got rows"):
        paired_difference(first, second)
    assert paired_difference(first, first).mean == 0
