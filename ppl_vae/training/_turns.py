"""Steps that treat the guide apart: E-steps and M-steps by turns, updates at a refined guide."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from ppl_vae.particles import OffsetGuide, zero_offsets
from ppl_vae.refinement import Refinement, require_refinable
from ppl_vae.training._non_finite import checks_finite, counted_from
from ppl_vae.training._steps import AdamStep


@final
@dataclass(eq=False, repr=False)
class AlternatingStep(AdamStep):
    """N updates of phi at fixed theta (E-steps), then one of theta at fixed phi (M-step).

    Every update draws afresh from the same batch, so that no update follows the noise of another,
    and uses Adam at the same rate. A parameter that model and guide share is updated in both
    phases. The bound recorded is that of the draws theta was updated on, after the guide's updates
    on the same batch: in training it is a little above that of a batch not seen yet.

    N = 1 is not the joint step: theta moves on new draws of a guide that has moved. It costs twice
    as much; phi's first update is the joint step's. Costs N + 1 times the decoder evaluations of
    the joint step for as many updates of theta.

    Args:
        objective: The bound to maximise.
        model: Pyro model.
        guide: Pyro guide.
        parameters: Name to leaf tensor.
        clip_norm: Largest norm of the gradient that one update takes; None: no clipping.
        guide_updates: N.

    References:
        Neal and Hinton, 1998, A view of the EM algorithm that justifies incremental, sparse, and
        other variants.
    """

    guide_updates: int = 1

    def __post_init__(self) -> None:
        if self.guide_updates < 1:
            raise ValueError(f"alternating:N needs N >= 1, got {self.guide_updates}.")
        super().__post_init__()

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update phi N times, theta once."""
        for _ in range(self.guide_updates):
            self.update(x, learning_rate, "guide")
        return self.update(x, learning_rate, "model").sums


@final
@dataclass(eq=False, repr=False)
class SemiAmortisedStep(AdamStep):
    """Refine q by N updates for each datum of the batch, then update theta and phi at it.

    With lambda_0 = encoder(x) and lambda_N = lambda_0 + offset: theta follows the objective's
    gradient at lambda_N, phi the gradient at lambda_N through lambda_0 alone, the offset held
    fixed. Kim et al. differentiate through the refinement as well, ``d lambda_N / d lambda_0``,
    which costs second derivatives; here that factor is 1. So phi's gradient is 0 where the
    refinement has converged: the encoder is asked to mend what N updates cannot, and no more.

    The refinement ascends the ELBO, whatever the objective, with as many draws. The bound recorded
    in training is that of the refined guide, on draws of its own; validation is with the guide as
    it is. Costs N + 1 times the decoder evaluations of the ``torch`` step.

    Args:
        objective: The bound to maximise; any but one that simulates data for the guide.
        model: Pyro model.
        guide: Pyro guide of normal sites.
        parameters: Name to leaf tensor.
        clip_norm: Largest norm of the gradient that one update takes; None: no clipping.
        refinements: N.

    Raises:
        ValueError: If N is less than 1, or the objective needs the guide for simulated data.

    References:
        Kim et al., 2018, Semi-amortized variational autoencoders.
        Marino, Yue and Mandt, 2018, Iterative amortized inference.
    """

    refinements: int = 20

    def __post_init__(self) -> None:
        if self.refinements < 1:
            raise ValueError(f"semi-amortised:N needs N >= 1, got {self.refinements}.")
        require_refinable(self.objective)
        super().__post_init__()

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Refine, then update once."""
        # No seed of its own: the epoch's random state gives every update fresh draws, and resumes.
        parts = []
        for rows in self.chunks(x):
            with counted_from(rows.start):
                parts.append(self._refined(x[rows], len(x)))
        return self.update(x, learning_rate, guide=OffsetGuide.joined(parts)).sums

    @property
    def calls_per_graph(self) -> float:
        """N of the graph of refinements, one of the other."""
        return (self.refinements + 1) / 2

    def guide_of(self, x: Float[Tensor, "batch *event"]) -> OffsetGuide:
        """The guide refined for these data, by draws from the caller's random state."""
        return self._refined(x, None)

    def _refined(self, x: Tensor, size: int | None) -> OffsetGuide:
        """The guide refined for data of a batch of this size; None: of no batch in training."""
        refinement = Refinement(self.refinements, num_particles=self.objective.num_particles)
        start = zero_offsets(self.guide, x)
        programs = self.objective.programs(self.model, start)
        # Where numbers are to be checked, the programs run, and say which is not finite.
        gradient_of = None
        if size is not None and not checks_finite():
            gradient_of = self.replays.ascent(refinement, x, start, size)
        refinement.ascend(programs, x, start.tensors, gradient_of)
        return start
