"""Small Pyro programs about which everything needed is known, in double precision.

Every parameter has a leading dimension of rows: with one row, all data share it; with as many rows
as data, each datum has a copy of its own, so that one backward pass through a batch of equal data
gives as many independent replicates of the gradient, one in each row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.particles import Program

Parameters = dict[str, Tensor]


@final
@dataclass(frozen=True)
class Case:
    """A model and a guide as functions of their parameters, with data.

    Attributes:
        name: For messages.
        programs: Parameters to (model, guide).
        parameters: Name to values, shape ``(rows, ...)``.
        x: Data, shape ``(batch, features)``.
    """

    name: str
    programs: Callable[[Parameters], tuple[Program, Program]]
    parameters: Parameters
    x: Float[Tensor, "batch features"]

    def replicated(self, rows: int) -> "Case":
        """The first datum so many times, with parameters of its own each time."""
        parameters = {name: _repeat(value, rows) for name, value in self.parameters.items()}
        return replace(self, parameters=parameters, x=_repeat(self.x, rows))

    def leaves(self) -> Parameters:
        """Fresh copies of the parameters that ask for gradients."""
        return {name: value.clone().requires_grad_() for name, value in self.parameters.items()}


def _repeat(value: Tensor, rows: int) -> Tensor:
    return value[:1].expand(rows, *value.shape[1:]).contiguous()


def _rows(**values: Sequence[object] | float) -> Parameters:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


def _for_rows(parameters: Parameters, x: Tensor) -> Parameters:
    """Parameters for a guide that sees data simulated for each particle, one after another."""

    def tiled(value: Tensor) -> Tensor:
        times = len(x) // len(value) if len(value) > 1 else 1
        return value.repeat(times, *[1] * (value.dim() - 1))

    return {name: tiled(value) for name, value in parameters.items()}


def _normal(loc: Tensor, log_scale: Tensor) -> dist.Distribution:
    return dist.Normal(loc, log_scale.exp()).to_event(1)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices by rows, shape ``(rows, out, in)``, on vectors, shape ``(..., rows, in)``."""
    return (matrix * vector.unsqueeze(-2)).sum(-1)


_MODEL = LinearGaussian.random(3, 1, 0.7, seed=2)


def exact(batch: int, *, shift: float = 0.0, stretch: float = 1.0) -> tuple[Case, Tensor]:
    """The linear-Gaussian model of one latent, where a diagonal guide can be the posterior.

    It is, unless its mean is off by ``shift`` and its scale by a factor of ``stretch``, in units of
    the posterior's scale. Only the guide has parameters. Returns log p(x) too, shape (batch,).
    """
    weight, bias, noise = _MODEL.weight.detach(), _MODEL.bias.detach(), _MODEL.noise_scale
    scale = _MODEL.posterior_precision.detach()[0].rsqrt()
    gain = weight.T * scale**2 / noise**2
    parameters = {
        "gain": gain.unsqueeze(0),
        "offset": (shift * scale - gain @ bias).unsqueeze(0),
        "log_scale": (stretch * scale).log().unsqueeze(0),
    }

    def programs(p: Parameters) -> tuple[Program, Program]:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", _MODEL.prior())
                pyro.sample("x", dist.Normal(z @ weight.T + bias, noise).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            q = _for_rows(p, x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", _normal(_apply(q["gain"], x) + q["offset"], q["log_scale"]))

        return model, guide

    x = _MODEL.simulate(batch, seed=3)
    return Case("one layer", programs, parameters, x), _MODEL.log_evidence(x).detach()


def exact_chain(batch: int, *, bottom_up: bool) -> tuple[Case, Tensor]:
    """Scalars u ~ N(0, 1), v|u ~ N(a u, s^2), x|v ~ N(b v, t^2), with the posterior as the guide.

    The guide draws u and then v, or v and then u. Only it has parameters. Returns log p(x) too.
    """
    a, s, b, t = 0.8, 0.6, 1.2, 0.7
    var_v = a**2 + s**2
    var_x = b**2 * var_v + t**2
    precision = 1 / s**2 + b**2 / t**2
    # Of the first site: gain on x, variance. Of the second: gains on x and the first, variance.
    if bottom_up:
        first = b * var_v / var_x, var_v - (b * var_v) ** 2 / var_x
        second = 0.0, a / var_v, s**2 / var_v
    else:
        first = a * b / var_x, 1 - (a * b) ** 2 / var_x
        second = b / t**2 / precision, a / s**2 / precision, 1 / precision
    parameters = _rows(
        first_gain=[first[0]],
        first_log_scale=[math.log(first[1]) / 2],
        second_gain=[second[0]],
        second_slope=[second[1]],
        second_log_scale=[math.log(second[2]) / 2],
    )
    names = ("v", "u") if bottom_up else ("u", "v")

    def programs(p: Parameters) -> tuple[Program, Program]:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                u = pyro.sample("u", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                v = pyro.sample("v", dist.Normal(a * u, s).to_event(1))
                pyro.sample("x", dist.Normal(b * v, t).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            q = _for_rows(p, x)
            with pyro.plate("data", len(x)):
                z = pyro.sample(names[0], _normal(q["first_gain"] * x, q["first_log_scale"]))
                loc = q["second_gain"] * x + q["second_slope"] * z
                pyro.sample(names[1], _normal(loc, q["second_log_scale"]))

        return model, guide

    # Any x will do: its log-density is known.
    x = math.sqrt(var_x) * torch.linspace(-2, 2, batch, dtype=torch.float64).unsqueeze(-1)
    log_evidence = dist.Normal(x.new_zeros(()), math.sqrt(var_x)).log_prob(x[:, 0])
    return Case(_order(bottom_up), programs, parameters, x), log_evidence


def _order(bottom_up: bool) -> str:
    return f"two layers, guide {'bottom-up' if bottom_up else 'top-down'}"


def one_layer(batch: int = 1, subsample: Tensor | None = None) -> Case:
    """A learned z ~ Normal; x|z ~ Normal(W z, .); a mean-field guide that is not the best one."""
    parameters = _rows(
        prior_loc=[0.3, -0.2],
        prior_log_scale=[0.1, -0.2],
        weight=[[0.8, -0.3], [0.4, 0.6]],
        noise_log_scale=[-0.1, 0.1],
        loc=[0.2, -0.4],
        slope=[0.3, 0.2],
        log_scale=[-0.4, -0.1],
    )

    def programs(p: Parameters) -> tuple[Program, Program]:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x), subsample=subsample) as rows:
                z = pyro.sample("z", _normal(p["prior_loc"], p["prior_log_scale"]))
                loc = _apply(p["weight"], z)
                pyro.sample("x", _normal(loc, p["noise_log_scale"]), obs=x[rows])

        def guide(x: Tensor) -> None:
            q = _for_rows(p, x)
            with pyro.plate("data", len(x), subsample=subsample) as rows:
                pyro.sample("z", _normal(q["loc"] + q["slope"] * x[rows], q["log_scale"]))

        return model, guide

    return Case("one layer", programs, parameters, _data(batch))


def two_layers(*, bottom_up: bool) -> Case:
    """Learned u ~ Normal, v|u ~ Normal, x|v ~ Normal; the guide's second site given its first.

    The guide draws u and then v, as the model does, or v and then u. ``shared`` is a parameter of
    both programs.
    """
    parameters = _rows(
        u_log_scale=[0.1],
        shared=[0.5, -0.3],
        v_log_scale=[-0.2, 0.1],
        weight=[[0.7, 0.3], [-0.4, 0.6]],
        u_loc=[0.3],
        u_guide_log_scale=[-0.2],
        v_loc=[0.2, 0.1],
        v_guide_log_scale=[-0.3, -0.2],
        slope=[0.2, 0.1],
    )

    def programs(p: Parameters) -> tuple[Program, Program]:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                u = pyro.sample("u", _normal(torch.zeros_like(p["u_loc"]), p["u_log_scale"]))
                v = pyro.sample("v", _normal(p["shared"] * u, p["v_log_scale"]))
                pyro.sample("x", dist.Normal(_apply(p["weight"], v), 0.8).to_event(1), obs=x)

        def down(x: Tensor) -> None:
            q = _for_rows(p, x)
            with pyro.plate("data", len(x)):
                u = pyro.sample("u", _normal(q["u_loc"], q["u_guide_log_scale"]))
                loc = q["v_loc"] + (q["shared"] + q["slope"]) * u
                pyro.sample("v", _normal(loc, q["v_guide_log_scale"]))

        def up(x: Tensor) -> None:
            q = _for_rows(p, x)
            with pyro.plate("data", len(x)):
                v = pyro.sample("v", _normal(q["v_loc"], q["v_guide_log_scale"]))
                loc = q["u_loc"] + ((q["shared"] + q["slope"]) * v).sum(-1, keepdim=True)
                pyro.sample("u", _normal(loc, q["u_guide_log_scale"]))

        return model, up if bottom_up else down

    return Case(_order(bottom_up), programs, parameters, _data(1))


DISCRETE_STATES = {
    "bits": torch.tensor([[i, j] for i in (0, 1) for j in (0, 1) for _ in range(3)]).double(),
    "kind": torch.tensor([k for _ in range(4) for k in range(3)]),
}
"""Every value of the latents of :func:`discrete` together, one a row: 4 times 3."""


def discrete() -> Case:
    """Two bits, one of three kinds given the bits, a normal x given both; all learned."""
    parameters = _rows(
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
        logits = _apply(kind_logits.mT, both)
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

    return Case("discrete", programs, parameters, _data(1))


def _data(batch: int) -> Float[Tensor, "batch 2"]:
    angle = torch.arange(batch, dtype=torch.float64)
    return torch.stack([0.9 * torch.cos(angle), 0.6 - 0.8 * torch.sin(angle)], -1)
