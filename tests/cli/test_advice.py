"""Advice of the library, as the command line prints it."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.cli._output import in_options
from ppl_vae.evidence import Enumeration, Quadrature


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


@pytest.mark.parametrize(
    ("estimator", "advice"),
    [
        (Enumeration(), "take --method iwae, or --method quadrature for continuous latents."),
        (Quadrature(), "take --method iwae or annealing."),
    ],
)
def test_other_estimators_are_named_as_they_are_typed(estimator, advice):
    with pytest.raises(ValueError, match=r"take ImportanceSampling\(\)") as refused:
        estimator(model, None, torch.zeros(3))
    assert in_options(str(refused.value)).endswith(advice)
