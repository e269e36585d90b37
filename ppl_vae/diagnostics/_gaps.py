"""Loss in log p(x) by the guide's family, and by its amortisation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import RowData, Rows
from ppl_vae.diagnostics._estimates import COLUMNS, DatumMeans, Estimate, over_data, rows_of, table
from ppl_vae.diagnostics._richer_posteriors import refine_flow, refine_full_covariance
from ppl_vae.display import Result, Row
from ppl_vae.evidence import Evidence
from ppl_vae.flows import require_zuko
from ppl_vae.identity import Identity, hash_tensors
from ppl_vae.netcdf import Variable, numpy_of
from ppl_vae.particles import ChunkSize, Program, Programs, evaluation
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.refinement import Refinement

REFINEMENT = Refinement(steps=100, learning_rate=0.05, num_particles=16)
"""Comes within a thousandth of a nat of the optimum from a guide that is not far off."""

_SLOWER = 5
_RICHER = {"correlation": "full", "shape": "flow"}
"""Term that a larger family adds, to the guide of that family."""
_RESOLVED = 3.0
"""A gain of so many of its errors says that the refinement was stopped too early."""


@final
@dataclass(frozen=True)
class GapSettings:
    """Settings of the search for q* of each datum, and of the estimates of bounds.

    Args:
        refinement: How far to go towards q*.
        full_covariance: Find the best normal with a full covariance too.
        flow: Find a normalising flow for each datum too, in three times the steps.
        num_particles: Draws per datum for each bound.
        batch_size: Data handled at once. Another size draws other particles.

    Raises:
        ImportError: If a flow is asked for and zuko is not installed.
        ValueError: If there are fewer than 2 particles.
    """

    refinement: Refinement = REFINEMENT
    full_covariance: bool = False
    flow: bool = False
    num_particles: int = 1000
    batch_size: int = field(default=100, repr=False)

    def __post_init__(self) -> None:
        if self.num_particles < 2:
            raise ValueError(
                f"inference_gap needs num_particles >= 2 for its errors, got {self.num_particles}."
            )
        if self.flow:
            require_zuko()


_DEFAULT = GapSettings()


@final
@dataclass(frozen=True, eq=False, repr=False)
class InferenceGap(Result):
    """``log p(x) - L[q]`` in two parts, mean over N data, in nats per datum.

    Attributes:
        log_evidence: log p(x).
        bound: L[q], the ELBO of the amortised guide.
        refined_bound: L[q*], of the best member of the guide's family for each datum by itself.
        inference: log p(x) - L[q]; exactly approximation plus amortization.
        approximation: log p(x) - L[q*], what the family cannot do.
        amortization: L[q*] - L[q], what the encoder does not do.
        correlation: L[q* with a full covariance] - L[q*], the part of the approximation gap that
            independent dimensions cause; None if it was not asked for.
        shape: L[flow q*] - L[q*], the part that independent dimensions and the normal's shape cause
            together, or a little less: the flow is the best that was found, not the best there is.
            None if it was not asked for.
        still_gained: What the second half of the refinement's steps added to L[q*]. As much again
            may still be counted as approximation that is amortisation.
        direction: Of the evidence. A lower bound makes the approximation gap too small.
        num_data: N.
        num_particles: Draws per datum for each bound.
        per_datum: Each of the gaps for each datum, shape (N,).
        identity: What it was computed from.
    """

    _group: ClassVar[str] = "inference_gap"
    _derived: ClassVar[tuple[str, ...]] = ("notes",)

    log_evidence: Estimate
    bound: Estimate
    refined_bound: Estimate
    inference: Estimate
    approximation: Estimate
    amortization: Estimate
    correlation: Estimate | None
    shape: Estimate | None
    still_gained: Estimate
    direction: str
    num_data: int
    num_particles: int
    per_datum: dict[str, Float[Tensor, " batch"]]
    identity: Identity | None = None

    @property
    def rows(self) -> dict[str, Estimate]:
        """Name to estimate, as printed."""
        named = {
            "log p(x)": self.log_evidence,
            "L[q*], refined per datum": self.refined_bound,
            "L[q], the guide": self.bound,
            "inference gap": self.inference,
            "  approximation": self.approximation,
            "    of it, independence": self.correlation,
            "    of it, the normal shape": self.shape,
            "  amortisation": self.amortization,
            "still gained at the end": self.still_gained,
        }
        return {name: value for name, value in named.items() if value is not None}

    @property
    def notes(self) -> list[str]:
        """Reservations about these numbers."""
        notes = []
        if self.direction != "exact":
            notes.append(
                f"log p(x) is estimated ({self.direction}): an error in it is one of the "
                "approximation gap"
            )
        # A gain within a few of its errors may be noise.
        if self.still_gained.value > _RESOLVED * self.still_gained.monte_carlo_error:
            notes.append(
                "the refinement still gained at its end, so that part of the approximation gap is "
                "amortisation: take more steps"
            )
        if self.correlation is not None or self.shape is not None:
            notes.append(
                "of a larger family the best that the optimiser found from q* is taken, never less "
                "than q*: it may gain more than is said here"
            )
        return notes

    def __str__(self) -> str:
        rows = {name: str(value) for name, value in self.rows.items()}
        last = f"N = {self.num_data}, K = {self.num_particles}"
        return "\n".join([table("nats per datum", COLUMNS, rows), *self.notes, last])

    def _rows(self) -> list[Row]:
        return rows_of(self, Estimate)

    def _arrays(self) -> dict[str, Variable]:
        return {name: (["datum"], numpy_of(values)) for name, values in self.per_datum.items()}


@final
@dataclass(frozen=True, repr=False)
class GeneralizationGap(Result):
    """Loss of the encoder on test data beyond that on training data, in nats per datum.

    Attributes:
        train: Amortisation gap on the training data.
        test: On the test data.
        difference: Test minus train; the data are independent, so their errors add in squares.
    """

    _group: ClassVar[str] = "generalization_gap"

    train: Estimate
    test: Estimate
    difference: Estimate

    def __str__(self) -> str:
        rows = {"train": self.train, "test": self.test, "test - train": self.difference}
        return table("amortisation gap", COLUMNS, {name: str(row) for name, row in rows.items()})

    def _rows(self) -> list[Row]:
        return rows_of(self, Estimate)


def generalization_gap(train: InferenceGap, test: InferenceGap) -> GeneralizationGap:
    """The amortisation gap on test data minus that on training data.

    The model is the same and each gap is against the best q* for the datum, so that what differs is
    how well the encoder's network carries over to data it has not seen.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.
    """
    a, b = train.amortization, test.amortization
    difference = Estimate(
        b.value - a.value,
        math.hypot(a.monte_carlo_error, b.monte_carlo_error),
        math.hypot(a.total_error, b.total_error),
    )
    return GeneralizationGap(a, b, difference)


def inference_gap(
    model: Program,
    guide: Program,
    x: RowData,
    log_evidence: Evidence,
    settings: GapSettings = _DEFAULT,
    *,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> InferenceGap:
    """Split ``log p(x) - L[q]`` into ``(log p(x) - L[q*]) + (L[q*] - L[q])``.

    q* is the guide with each datum's normal sites moved and stretched so as to maximise that
    datum's ELBO; the refinement is run twice, the second time from where the first came to and at a
    fifth of the rate, and what the second adds is reported. Adam comes to rest near the optimum,
    not at it: what is left counts as approximation, and a guide that is at the optimum has an
    amortisation gap slightly below 0. L[q*] is estimated on draws that the refinement has not seen,
    the same noise for q and q*, so that their difference has little of it.

    Costs ``2 steps x particles`` gradients and ``3 num_particles`` decoder evaluations per datum.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide whose sites are all normal.
        x: The data, shape ``(num_data, *event)``.
        log_evidence: log p(x) of the same data: exact, or the best estimate there is.
        settings: How q* is found, in which families, and how bounds are estimated.
        device: Where to compute; the data's device if not given.
        seed: Seed of the draws.

    Raises:
        ValueError: If the evidence is of another number of data, there are fewer than 2 data, or
            the guide has sites that are no normals.

    References:
        Cremer, Li and Duvenaud, 2018, Inference suboptimality in variational autoencoders.
    """
    x = Rows.of(x)
    num_data, programs = len(x), Programs(model, guide)
    if len(log_evidence) != num_data:
        raise ValueError(f"log_evidence is of {len(log_evidence)} data, but x holds {num_data}.")
    if num_data < 2:
        raise ValueError(f"inference_gap needs 2 data or more for its errors, got {num_data}.")
    batches: list[dict[str, DatumMeans]] = []
    size = ChunkSize.of_data(settings.batch_size)
    with evaluation(programs, x, size, device=device) as look:
        values = {"log_prob": log_evidence.log_prob, "error": log_evidence.standard_error}
        against = f"log p(x) of hash {hash_tensors(values)}"
        identity = look.identity(f"inference_gap({settings}) to {against}", seed)
        for number, (part, own) in enumerate(look.chunks()):
            # By number of the batch: its draws do not depend on the batches before it.
            batches.append(_bounds(settings, own, part, derive_seed(seed, number)))
    bounds = {name: DatumMeans.joined([each[name] for each in batches]) for name in batches[0]}
    return replace(_gaps(bounds, log_evidence, settings.num_particles), identity=identity)


def _bounds(
    settings: GapSettings, programs: Programs, x: Tensor, seed: int
) -> dict[str, DatumMeans]:
    """Bounds of the guides for one batch, and their differences."""
    with seeded(seed, Stream.TRAINING):
        guides = dict(_guides(settings, programs, x))
    weights = {}
    for name, refined in guides.items():
        # The same noise for all guides, which their differences lose.
        with seeded(seed, Stream.EVALUATION), torch.no_grad():
            weights[name] = programs.with_guide(refined).draw(x, settings.num_particles).log_weight
    terms = {
        "bound": weights["guide"],
        "refined_bound": weights["refined"],
        "amortization": weights["refined"] - weights["guide"],
        "still_gained": weights["refined"] - weights["half"],
    }
    for term, name in _RICHER.items():
        if name in weights:
            # Draw by draw, as above: the noise that both guides share cancels.
            terms[term] = weights[name] - weights["refined"]
    return {name: DatumMeans.over_draws(values) for name, values in terms.items()}


def _guides(settings: GapSettings, programs: Programs, x: Tensor) -> Iterator[tuple[str, Program]]:
    refinement = settings.refinement
    half = refinement(programs, x, seed=None)
    # Slower, so that it comes to rest closer to the optimum.
    slow = replace(refinement, learning_rate=refinement.learning_rate / _SLOWER)
    refined = slow(programs.with_guide(half), x, seed=None)
    yield "guide", programs.required_guide
    yield "half", half
    yield "refined", refined
    if settings.full_covariance:
        yield "full", refine_full_covariance(programs.with_guide(refined), x, refinement)
    if settings.flow:
        yield "flow", refine_flow(programs.with_guide(refined), x, refinement)


def _gaps(
    bounds: dict[str, DatumMeans], log_evidence: Evidence, num_particles: int
) -> InferenceGap:
    log_prob, variance = log_evidence.log_prob.double(), log_evidence.standard_error.square()
    # Evidence without an error of its own (one particle) adds none.
    variance = variance.double().nan_to_num()
    bound, refined, amortization = (
        bounds[name] for name in ("bound", "refined_bound", "amortization")
    )
    per_datum = {
        "inference": log_prob - bound.value,
        "approximation": log_prob - refined.value,
        "amortization": amortization.value,
    }
    richer = {name: bounds[name].estimate() if name in bounds else None for name in _RICHER}
    return InferenceGap(
        log_evidence=over_data(log_prob, variance),
        bound=bound.estimate(),
        refined_bound=refined.estimate(),
        # Evidence and bound have draws of their own: their variances add.
        inference=over_data(per_datum["inference"], variance + bound.noise),
        approximation=over_data(per_datum["approximation"], variance + refined.noise),
        amortization=amortization.estimate(),
        correlation=richer["correlation"],
        shape=richer["shape"],
        still_gained=bounds["still_gained"].estimate(),
        direction=log_evidence.direction,
        num_data=len(log_prob),
        num_particles=num_particles,
        per_datum=per_datum,
    )
