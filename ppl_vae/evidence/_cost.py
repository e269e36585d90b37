"""Cost of bringing a doubt down."""

import math

import torch

from ppl_vae.evidence._result import STAGES, Evidence
from ppl_vae.evidence._verdict import TOLERATED_UNBOUNDED

_ANNEALED = [number for number, name in enumerate(STAGES) if name.startswith("annealing")]


def evaluations_needed(evidence: Evidence, doubt: float) -> float:
    """Decoder evaluations of a datum, in the mean, that bring the doubt of each below so much.

    As in the pilots of :class:`~ppl_vae.evidence.AutomaticSampling`: of importance weights it falls
    as the root of their number; of annealed ones as the variance of log W, in proportion to the
    temperatures.

    Args:
        evidence: The estimate.
        doubt: Nats.

    Returns:
        Infinite where nothing bounds the doubt of more than one datum in ten, of which more draws
        are no cure; NaN where the estimator does not tell.
    """
    spent = evidence.evaluations
    if spent is None:
        spent = torch.full_like(evidence.log_prob, float(evidence.num_particles))
    if evidence.direction == "exact":
        return float(spent.mean())
    if evidence.doubt is None:
        return math.nan
    if evidence.doubt.isinf().double().mean() > TOLERATED_UNBOUNDED:
        return math.inf
    power = torch.full_like(evidence.doubt, 2.0)
    if evidence.stage is not None:
        power[torch.isin(evidence.stage.long(), torch.tensor(_ANNEALED))] = 1.0
    above = evidence.doubt.nan_to_num(posinf=0.0) / doubt
    return float((spent * above.clamp(min=1).pow(power)).mean())
