"""Models of two layers of latents: scalars with a known posterior, and a learned chain."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.particles import Program
from ppl_vae.reference_models._replicated import (
    Parameters,
    ReferenceModel,
    for_simulated,
    matvec,
    normal,
    one_row,
)

_WIDER = 1.3


def exact_chain(batch: int, *, bottom_up: bool) -> ReferenceModel:
    """Make u ~ N(0, 1), v|u ~ N(a u, s^2), x|v ~ N(b v, t^2), with the posterior as the guide.

    The guide draws u and then v, or v and then u. Only it has parameters.
    """
    a, s, b, t = 0.8, 0.6, 1.2, 0.7
    var_v = a**2 + s**2
    var_x = b**2 * var_v + t**2
    precision = 1 / s**2 + b**2 / t**2
    # Conditional normals. First site: gain on x, variance; second: gains on x and the first,
    # variance. Given v, u does not depend on x, so that bottom-up its gain on x is 0.
    if bottom_up:
        first = b * var_v / var_x, var_v - (b * var_v) ** 2 / var_x
        second = 0.0, a / var_v, s**2 / var_v
    else:
        first = a * b / var_x, 1 - (a * b) ** 2 / var_x
        second = b / t**2 / precision, a / s**2 / precision, 1 / precision
    parameters = one_row(
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
            q = for_simulated(p, x)
            with pyro.plate("data", len(x)):
                z = pyro.sample(names[0], normal(q["first_gain"] * x, q["first_log_scale"]))
                loc = q["second_gain"] * x + q["second_slope"] * z
                pyro.sample(names[1], normal(loc, q["second_log_scale"]))

        return model, guide

    # Any x will do, drawn or not: its log-density is known.
    x = math.sqrt(var_x) * torch.linspace(-2, 2, batch, dtype=torch.float64).unsqueeze(-1)
    log_evidence = dist.Normal(x.new_zeros(()), math.sqrt(var_x)).log_prob(x[:, 0])
    return ReferenceModel(_order(bottom_up), programs, parameters, x, log_evidence)


def wide_chain(batch: int) -> ReferenceModel:
    """Make the chain with a guide that is wider than the posterior at both sites."""
    chain = exact_chain(batch, bottom_up=False)
    wider = {
        name: value + math.log(_WIDER) if name.endswith("log_scale") else value
        for name, value in chain.parameters.items()
    }
    return replace(chain, parameters=wider)


def _order(bottom_up: bool) -> str:
    return f"two layers, guide {'bottom-up' if bottom_up else 'top-down'}"


def two_layers(*, bottom_up: bool) -> ReferenceModel:
    """Make u ~ Normal, v|u ~ Normal, x|v ~ Normal, all learned; the guide's sites are a chain.

    The guide draws u and then v, as the model does, or v and then u. ``shared`` is a parameter of
    both programs.
    """
    parameters = one_row(
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
                u = pyro.sample("u", normal(torch.zeros_like(p["u_loc"]), p["u_log_scale"]))
                v = pyro.sample("v", normal(p["shared"] * u, p["v_log_scale"]))
                pyro.sample("x", dist.Normal(matvec(p["weight"], v), 0.8).to_event(1), obs=x)

        def down(x: Tensor) -> None:
            q = for_simulated(p, x)
            with pyro.plate("data", len(x)):
                u = pyro.sample("u", normal(q["u_loc"], q["u_guide_log_scale"]))
                loc = q["v_loc"] + (q["shared"] + q["slope"]) * u
                pyro.sample("v", normal(loc, q["v_guide_log_scale"]))

        def up(x: Tensor) -> None:
            q = for_simulated(p, x)
            with pyro.plate("data", len(x)):
                v = pyro.sample("v", normal(q["v_loc"], q["v_guide_log_scale"]))
                loc = q["u_loc"] + ((q["shared"] + q["slope"]) * v).sum(-1, keepdim=True)
                pyro.sample("u", normal(loc, q["u_guide_log_scale"]))

        return model, up if bottom_up else down

    x = torch.tensor([[0.9, 0.6]], dtype=torch.float64)
    return ReferenceModel(_order(bottom_up), programs, parameters, x)
