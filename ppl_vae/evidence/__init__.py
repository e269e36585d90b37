"""Estimators of log p(x), each with its standard error."""

from ppl_vae.components import Kind
from ppl_vae.evidence._adaptive import AdaptiveSampling
from ppl_vae.evidence._chunked import Estimator
from ppl_vae.evidence._debiased import SUMO, Jackknife
from ppl_vae.evidence._importance_sampling import (
    DefensiveSampling,
    ImportanceSampling,
    ParetoSmoothed,
)
from ppl_vae.evidence._laplace import LaplaceApproximation, LaplaceGuide, laplace_guide
from ppl_vae.evidence._loop import Call, Purpose, Streams
from ppl_vae.evidence._paired import PairedDifference, paired_difference
from ppl_vae.evidence._result import (
    OPTIONAL,
    PER_DATUM,
    Claims,
    Columns,
    Direction,
    Evidence,
    bits_per_dimension,
    checksum,
)
from ppl_vae.evidence._sharded import Shard, Sharded
from ppl_vae.evidence._verdict import TOLERATED_FRACTION, required_effective
from ppl_vae.evidence._weighing import pareto_tail
from ppl_vae.evidence.annealing import (
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    Sandwich,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
    calibrate,
    plot_sandwiches,
    reverse_ais,
    sandwiches,
    with_gap,
)
from ppl_vae.evidence.annealing._ais import require_numbers
from ppl_vae.evidence.annealing._pilot import Annealer, Mass
from ppl_vae.evidence.exact import Enumeration, Quadrature
from ppl_vae.evidence.exact._enumeration import SiteStates
from ppl_vae.refinement import Refinement, Refiner


def _refiner(written: int | str) -> Refiner:
    """Steps of a refinement, or the name of another way to make a guide for each datum."""
    if written == "laplace":
        return LaplaceApproximation()
    steps = int(written) if isinstance(written, str) and written.isdecimal() else written
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"refine takes a number of steps, 1 or more, or laplace, got {written!r}.")
    return Refinement(steps)


METHODS = Kind(
    "method",
    {
        "iwae": ImportanceSampling,
        "psis": ParetoSmoothed,
        "defensive": DefensiveSampling,
        "jackknife": Jackknife,
        "sumo": SUMO,
        "adaptive": AdaptiveSampling,
        "ais": AnnealedImportanceSampling,
        "smc": SequentialMonteCarlo,
        "ti": ThermodynamicIntegration,
        "bdmc": BidirectionalMonteCarlo,
        "quadrature": Quadrature,
        "enumeration": Enumeration,
    },
    context=frozenset({"gap", "tails"}),
    converters={"refine": _refiner},
)
"""Estimators by name."""

__all__ = [
    "METHODS",
    "OPTIONAL",
    "PER_DATUM",
    "SUMO",
    "TOLERATED_FRACTION",
    "AdaptiveSampling",
    "AnnealedImportanceSampling",
    "Annealer",
    "BidirectionalMonteCarlo",
    "Call",
    "Claims",
    "Columns",
    "DefensiveSampling",
    "Direction",
    "Enumeration",
    "Estimator",
    "Evidence",
    "ImportanceSampling",
    "Jackknife",
    "LaplaceApproximation",
    "LaplaceGuide",
    "Mass",
    "PairedDifference",
    "ParetoSmoothed",
    "Purpose",
    "Quadrature",
    "Sandwich",
    "SequentialMonteCarlo",
    "Shard",
    "Sharded",
    "SiteStates",
    "Streams",
    "ThermodynamicIntegration",
    "bits_per_dimension",
    "calibrate",
    "checksum",
    "laplace_guide",
    "paired_difference",
    "pareto_tail",
    "plot_sandwiches",
    "require_numbers",
    "required_effective",
    "reverse_ais",
    "sandwiches",
    "with_gap",
]
