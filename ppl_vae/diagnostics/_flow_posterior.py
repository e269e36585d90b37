"""The best normalising flow for each datum by itself."""

from dataclasses import replace

import pyro
from jaxtyping import Float
from torch import Tensor

from ppl_vae.diagnostics._full_covariance import RowAffine, ascend_or_stay, only_normal
from ppl_vae.flows import RowFlows
from ppl_vae.particles import Program, Programs
from ppl_vae.refinement import Refinement

_LONGER = 3
"""Factor on the steps of a normal: a shape is harder to find than a place and a width."""


def refine_flow(
    programs: Programs, x: Float[Tensor, "batch *event"], refinement: Refinement
) -> Program:
    """``argmax_T L_i[law of m_i + L_i T_i(noise)]``, started at a guide of independent dimensions.

    T of each datum is a flow of its own (:class:`~ppl_vae.flows.RowFlows`), from the identity, and
    m and L are those of a normal with a full covariance, from the guide's: without a step the
    result is the guide. As for :func:`~ppl_vae.refinement.refine` the bound is ascended by Adam at
    a falling rate. Draws from the caller's random state.

    Args:
        programs: Model, and a guide of one Normal vector site.
        x: The batch.
        refinement: How far to go; the flow takes three times the steps.

    Returns:
        A Pyro guide for this batch, and no other.

    Raises:
        ImportError: If zuko is not installed.
        ValueError: If the guide has another form.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.
    """
    name, loc, scale = only_normal("a flow", programs, x)
    flows, affine = RowFlows(*loc.shape).to(loc), RowAffine(loc, scale)

    def flow(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample(name, flows(*affine()))

    longer = replace(refinement, steps=_LONGER * refinement.steps)
    values = [*affine.values, *flows.parameters()]
    ascend_or_stay(longer, programs.with_guide(flow), x, values)
    return flow
