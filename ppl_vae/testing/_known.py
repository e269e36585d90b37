"""Models, guides and data for estimators of log p(x), which is known; in double precision."""

import math
from dataclasses import dataclass, replace
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.particles import Program, draw_particles
from ppl_vae.testing._draws import given, same_draws
from ppl_vae.testing._programs import DISCRETE_STATES, Case, discrete, exact, exact_chain

_STRETCH = 1.3
_HALF_WIDTH, _POINTS = 12.0, 2401


@final
@dataclass(frozen=True)
class Known:
    """Programs, data, and what an estimator should find.

    Attributes:
        name: For messages.
        model: The model.
        guide: The guide.
        x: Data, shape ``(batch, features)``.
        log_evidence: log p(x), shape (batch,), in nats.
    """

    name: str
    model: Program
    guide: Program
    x: Float[Tensor, "batch features"]
    log_evidence: Float[Tensor, " batch"]

    @classmethod
    def of(cls, case: Case, log_evidence: Float[Tensor, " batch"]) -> "Known":
        """Of a case with its parameters as they are."""
        return cls(case.name, *case.programs(case.parameters), case.x, log_evidence)

    def replicated(self, count: int) -> "Known":
        """The first datum so many times."""
        x, log_evidence = self.x[:1].expand(count, -1), self.log_evidence[:1].expand(count)
        return replace(self, x=x.contiguous(), log_evidence=log_evidence)


def at_posterior(batch: int) -> list[Known]:
    """One layer, and two layers whose guide draws the lower first; the guides are the posterior."""
    return [Known.of(*exact(batch)), Known.of(*exact_chain(batch, bottom_up=True))]


def off_posterior(batch: int) -> Known:
    """One layer, with a guide that is off by a standard deviation and wider than the posterior."""
    return Known.of(*exact(batch, shift=1.0, stretch=1.4))


def off_posterior_chain(batch: int) -> Known:
    """Two layers, with a guide that is wider than the posterior at both."""
    case, log_evidence = exact_chain(batch, bottom_up=False)
    wider = {
        name: value + math.log(_STRETCH) if name.endswith("log_scale") else value
        for name, value in case.parameters.items()
    }
    return Known.of(replace(case, parameters=wider), log_evidence)


def discrete_latents(batch: int) -> Known:
    """Two bits and one of three kinds; log p(x) by summing over all twelve states."""
    case = discrete()
    first = torch.linspace(-1.2, 1.5, batch, dtype=torch.float64)
    x = torch.stack([first, torch.zeros_like(first)], -1)
    programs = case.programs(case.parameters)
    states = {
        name: values.unsqueeze(1).expand(len(values), batch, *values.shape[1:])
        for name, values in DISCRETE_STATES.items()
    }
    with given(states):
        joint = draw_particles(*programs, x, len(states["kind"])).log_joint
    return Known("discrete", *programs, x, joint.logsumexp(0))


@final
class BinaryAutoencoder(nn.Module):
    """z ~ N(0, 1), x_j|z ~ Bernoulli, j = 1..3, with an encoder as the guide: torch modules."""

    def __init__(self) -> None:
        super().__init__()
        with same_draws(0):
            self.decoder = nn.Linear(1, 3, dtype=torch.float64)
            self.encoder = nn.Linear(3, 2, dtype=torch.float64)
        with torch.no_grad():
            self.decoder.weight.copy_(torch.tensor([[1.5], [-0.8], [0.4]]))
            self.decoder.bias.copy_(torch.tensor([0.8, -1.5, 0.3]))
            # Near the posterior's means, and wider than any.
            self.encoder.weight.copy_(torch.tensor([[1.0, -0.5, 0.3], [0.0, 0.0, 0.0]]))
            self.encoder.bias.copy_(torch.tensor([-0.5, 0.1]))

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """p(x|z)."""
        return dist.Bernoulli(logits=self.decoder(z)).to_event(1)

    def model(self, x: Tensor) -> None:
        """Draw z ~ p(z) and x ~ p(x|z)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw z ~ q(z|x)."""
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def log_evidence(self, x: Float[Tensor, "batch 3"]) -> Float[Tensor, " batch"]:
        """By the trapezoidal rule, which is exact to rounding for a density as smooth as this."""
        z = torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, _POINTS, dtype=x.dtype).reshape(-1, 1, 1)
        log_prior = dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).squeeze(-1)
        log_joint: Tensor = log_prior + self.likelihood(z).log_prob(x)
        return log_joint.logsumexp(0).detach() + (z[1] - z[0]).log().item()


def binary(module: BinaryAutoencoder) -> Known:
    """All eight data that there are, in no order of log p(x)."""
    bits = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = torch.cartesian_prod(bits, bits, bits)
    return Known("binary", module.model, module.guide, x, module.log_evidence(x))
