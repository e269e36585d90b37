"""Values of one byte: counts where the likelihood is of counts, else grey levels of images."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae.data import dataset_from_array, dataset_from_splits, load_dataset, read_rows
from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.runs import RunConfig

COUNTS = np.random.default_rng(0).poisson(6.0, size=(40, 3)).astype(np.uint8)
OF_WHOLE_NUMBERS = [
    "poisson",
    "negative-binomial",
    "zero-inflated-poisson",
    "zero-inflated-negative-binomial",
    "categorical:20",
]
OTHERS = [name for name in LIKELIHOODS if name not in (*OF_WHOLE_NUMBERS, "categorical", "table")]


class Trials(nn.Module):
    """Successes in 30 trials: a likelihood of counts from outside of the package."""

    whole_numbers = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z):
        return dist.Binomial(30, logits=self.network(z)).to_event(1)


def splits_of(dataset):
    return torch.cat([dataset.train, dataset.valid, dataset.test]).sort(0).values


@pytest.fixture(params=["npy", "npz"])
def file(request, tmp_path):
    path = tmp_path / f"counts.{request.param}"
    if request.param == "npy":
        np.save(path, COUNTS)
    else:
        np.savez(path, train=COUNTS[:20], valid=COUNTS[20:30], test=COUNTS[30:])
    return path


@pytest.mark.parametrize("likelihood", [*OF_WHOLE_NUMBERS, f"{__name__}:Trials"])
def test_bytes_are_counts_under_a_likelihood_of_counts(likelihood, file):
    dataset = RunConfig.of(data=str(file), likelihood=likelihood).load()
    expected = torch.from_numpy(COUNTS).float().sort(0).values
    assert torch.equal(splits_of(dataset), expected)
    assert "values as given" in dataset.description


@pytest.mark.parametrize("likelihood", OTHERS)
def test_bytes_are_grey_levels_under_every_other(likelihood, file):
    dataset = RunConfig.of(data=str(file), likelihood=likelihood).load()
    expected = (torch.from_numpy(COUNTS).float() / 255).sort(0).values
    assert torch.equal(splits_of(dataset), expected)
    assert "values divided by 255" in dataset.description


def test_every_likelihood_of_whole_numbers_says_so():
    """By their support; a table's columns have kinds, and zeros and ones are never divided."""
    stated = {name for name in LIKELIHOODS if getattr(LIKELIHOODS[name], "whole_numbers", False)}
    assert stated == {name.partition(":")[0] for name in OF_WHOLE_NUMBERS}
    x = torch.from_numpy(COUNTS).float()
    for name in OF_WHOLE_NUMBERS:
        kind = LIKELIHOODS.parse(name)
        network = nn.Linear(2, kind.num_outputs(3))
        p = kind(network=network, features=3, data=x)(torch.zeros(1, 2))
        assert p.support.is_discrete
        assert p.log_prob(x).isfinite().all()


def test_arrays_and_new_rows(tmp_path):
    assert torch.equal(
        splits_of(load_dataset(COUNTS, whole_numbers=True)), splits_of(load_dataset(COUNTS / 1.0))
    )
    made = dataset_from_splits(COUNTS[:30], COUNTS[30:], whole_numbers=True)
    assert torch.equal(made.test, torch.from_numpy(COUNTS[30:]).float())
    dataset = dataset_from_array(COUNTS, whole_numbers=True)
    np.save(tmp_path / "new.npy", COUNTS[:5])
    rows = read_rows(tmp_path / "new.npy", dataset.schema)
    assert torch.equal(rows, torch.from_numpy(COUNTS[:5]).float())


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_whatever_their_type_counts_are_one_data_set(dtype):
    kept = dataset_from_array(COUNTS.astype(dtype), whole_numbers=True)
    assert kept.fingerprint() == dataset_from_array(COUNTS.astype(np.int32)).fingerprint()
