"""Models whose discrete latents, or discrete data, can all be enumerated."""

from dataclasses import replace
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.particles import Program, draw_particles
from ppl_vae.reference_models._replicated import (
    Parameters,
    ReferenceModel,
    given,
    matvec,
    one_row,
    same_draws,
)

_HALF_WIDTH, _POINTS = 12.0, 2401

DISCRETE_STATES = {
    "bits": torch.tensor([[i, j] for i in (0, 1) for j in (0, 1) for _ in range(3)]).double(),
    "kind": torch.tensor([k for _ in range(4) for k in range(3)]),
}
"""All joint values of the latents of :func:`discrete`, one a row: 4 times 3."""


def discrete() -> ReferenceModel:
    """Make two bits, one of three kinds given the bits, a normal x given both; all learned."""
    parameters = one_row(
        bits_logits=[0.4, -0.3],
        kind_logits=[[0.1, 0.3, -0.2], [0.4, -0.5, 0.2], [-0.3, 0.1, 0.2]],
        weight=[0.7, -0.5],
        table=[0.3, -0.6, 0.2],
        bits_guide_logits=[-0.2, 0.5],
        kind_guide_logits=[[0.2, -0.4, 0.1], [-0.3, 0.2, 0.5], [0.1, 0.4, -0.2]],
    )

    def latents(bits_logits: Tensor, kind_logits: Tensor) -> tuple[Tensor, Tensor]:
        bits = pyro.sample("bits", dist.Bernoulli(logits=bits_logits).to_event(1))
        both = torch.cat([torch.ones_like(bits[..., :1]), bits], -1)
        logits = matvec(kind_logits.mT, both)
        return bits, pyro.sample("kind", dist.Categorical(logits=logits))

    def programs(p: Parameters) -> tuple[Program, Program]:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                bits, kind = latents(p["bits_logits"], p["kind_logits"])
                loc = (p["weight"] * bits).sum(-1) + p["table"][0, kind]
                pyro.sample("x", dist.Normal(loc, 0.6), obs=x[:, 0])

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                latents(p["bits_guide_logits"], p["kind_guide_logits"])

        return model, guide

    x = torch.tensor([[0.9, 0.6]], dtype=torch.float64)
    return ReferenceModel("discrete", programs, parameters, x)


def discrete_data(batch: int) -> ReferenceModel:
    """Make several data for the discrete model; log p(x) is a sum over all twelve states."""
    model = discrete()
    first = torch.linspace(-1.2, 1.5, batch, dtype=torch.float64)
    x = torch.stack([first, torch.zeros_like(first)], -1)
    states = {
        name: values.unsqueeze(1).expand(len(values), batch, *values.shape[1:])
        for name, values in DISCRETE_STATES.items()
    }
    # One particle for each state: log p(x) is the logsumexp of the particles' joint densities.
    with given(states):
        joint = draw_particles(model.model, model.guide, x, len(states["kind"])).log_joint
    return replace(model, x=x, exact=joint.logsumexp(0))


@final
class BinaryAutoencoder(nn.Module):
    """z ~ N(0, 1), x_j|z ~ Bernoulli, j = 1..3, with an encoder as the guide: torch modules."""

    def __init__(self) -> None:
        super().__init__()
        # nn.Linear draws its starting values: the caller's random state is left as it was.
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
        """Make the distribution p(x|z)."""
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
        """Compute log p(x) by the trapezoidal rule, exact to rounding for a density this smooth."""
        z = torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, _POINTS, dtype=x.dtype).reshape(-1, 1, 1)
        log_prior = dist.Normal(torch.zeros_like(z), 1.0).log_prob(z).squeeze(-1)
        log_joint: Tensor = log_prior + self.likelihood(z).log_prob(x)
        return log_joint.logsumexp(0).detach() + (z[1] - z[0]).log().item()


def binary(module: BinaryAutoencoder) -> ReferenceModel:
    """Make the model with all eight possible data, which are in no order of log p(x)."""
    bits = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = torch.cartesian_prod(bits, bits, bits)
    programs = module.model, module.guide
    # Parameters stand in the modules, as in a VAE: programs ignore those handed over.
    return ReferenceModel("binary", lambda _: programs, {}, x, module.log_evidence(x))
