"""Draws follow from the seed and the rows decoded at once alone, and both are told."""

import pytest
import torch

from ppl_vae.evidence import ImportanceSampling
from ppl_vae.linear_gaussian import LinearGaussian

MODEL = LinearGaussian.random(4, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
X = MODEL.simulate(23, seed=3)


class StopError(Exception):
    pass


class StopAt:
    """The model, until its n-th run."""

    def __init__(self, runs):
        self.runs = runs

    def __call__(self, x):
        self.runs -= 1
        if self.runs == 0:
            raise StopError
        return VAE.model(x)


def estimate(rows, seed=0, model=VAE.model, **call):
    return ImportanceSampling(50, rows=rows)(model, VAE.guide, X, seed=seed, **call)


@pytest.mark.parametrize("runs", [7, 8])
def test_draws_are_the_same_however_chunks_are_resumed(runs, tmp_path):
    path = tmp_path / "unfinished.safetensors"
    # The model runs five times before the first of three chunks.
    with pytest.raises(StopError):
        estimate(500, model=StopAt(runs), checkpoint=path)
    found = estimate(500, checkpoint=path)
    assert torch.equal(found.log_prob, estimate(500).log_prob)


def test_rows_and_seed_make_the_draws_and_are_in_the_identity():
    first, again, other = estimate(500), estimate(500), estimate(200)
    assert torch.equal(first.log_prob, again.log_prob)
    assert first.identity == again.identity
    assert not torch.equal(first.log_prob, other.log_prob)
    assert (first.identity.chunk_rows, other.identity.chunk_rows) == (500, 200)
    assert first.identity.key != other.identity.key
    assert not torch.equal(first.log_prob, estimate(500, seed=1).log_prob)


def test_rows_are_printed():
    found = estimate(500)
    assert "with K = 50, rows 500, a lower bound" in str(found)
    assert found.summary()["rows"] == 500
