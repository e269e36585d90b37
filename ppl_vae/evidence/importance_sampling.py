"""Importance sampling with the guide as the proposal."""

import time
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.evidence.result import Evidence, concatenate
from ppl_vae.particles import Program, draw_particles
from ppl_vae.randomness import Stream, seeded
from ppl_vae.refinement import Refinement
from ppl_vae.weights import RunningWeights

# Decoded rows at once. On a CPU a chunk and its temporaries should stay near the cache; a GPU wants
# enough rows to be busy. Both keep the temporaries far below 1 GB for 784 features.
_CPU_ROWS = 2_000
_GPU_ROWS = 131_072
_PARTICLES_AT_ONCE = 500
# What a forward pass throws away, an autograd graph keeps.
_GRAPH = 4


@final
@dataclass(frozen=True)
class ImportanceSampling:
    """``log (1/K) sum_k p(x, z_k) / q(z_k|x)`` with z_k ~ q(z|x), per datum, in nats.

    Its exponential is unbiased for p(x), so it is a lower bound of log p(x) in expectation, low by
    about ``Var(w) / (2 K p(x)^2)``. The standard error is by the delta method. Costs K decoder
    evaluations per datum, in memory that does not grow with K or with the number of data.

    With ``refine``, q is first refined for each datum by itself, and z_k is drawn from the refined
    q. The estimate's draws are independent of those of the refinement, so that given the refined q
    every weight has mean p(x), and all of the above stands.

    Args:
        num_particles: K.
        refine: How to refine the guide beforehand; None: not at all.
        rows: Particles times data decoded at once; by default what suits the device.
        max_plate_nesting: Plate dimensions the programs use, the data plate included.

    Raises:
        ValueError: If num_particles or rows is less than 1.

    References:
        Burda, Grosse and Salakhutdinov, 2016, Importance weighted autoencoders.
    """

    num_particles: int = 5000
    refine: Refinement | None = None
    rows: int | None = None
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        if self.num_particles < 1:
            raise ValueError(
                f"ImportanceSampling needs num_particles >= 1, got {self.num_particles}."
            )
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows must be 1 or more, got {self.rows}.")

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Float[Tensor, "num_data *event"],
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
    ) -> Evidence:
        """Estimate log p(x_i) for every datum.

        Args:
            model: Pyro model with its data plate at dim -1.
            guide: Pyro guide over the same latents.
            x: The data, shape ``(num_data, *event)``.
            device: Where to compute; the data's device if not given.
            seed: Of the draws; ``None`` uses the caller's random state.
            progress: Show a progress bar on the terminal.

        Raises:
            ValueError: If there are no data, or a log-density is not finite (names the site).
        """
        if len(x) == 0:
            raise ValueError("x holds no data: log p(x) needs at least one datum.")
        device = x.device if device is None else torch.device(device)
        rows = self.rows or (_CPU_ROWS if device.type == "cpu" else _GPU_ROWS)
        # Few data and many particles a chunk: the guide then runs once for many draws.
        data_at_once = max(1, min(len(x), rows // min(self.num_particles, _PARTICLES_AT_ONCE)))
        particles_at_once = max(1, rows // data_at_once)
        bar = tqdm(total=len(x), desc="log p(x)", disable=None if progress else True)
        start, parts = time.perf_counter(), []
        with seeded(seed, Stream.EVALUATION), torch.no_grad(), bar:
            for group in x.split(self._group_size(rows, data_at_once)):
                data = group.to(device)
                proposals = self._proposals(model, guide, data, data_at_once)
                for part, proposal in zip(data.split(data_at_once), proposals, strict=True):
                    parts.append(self._estimate(model, proposal, part, particles_at_once))
                    bar.update(len(part))
        return replace(concatenate(parts), seconds=time.perf_counter() - start)

    def _group_size(self, rows: int, data_at_once: int) -> int:
        """Data refined together: many more fit with few draws each than when estimating."""
        if self.refine is None:
            return data_at_once
        chunks = rows // (_GRAPH * self.refine.num_particles * data_at_once)
        return data_at_once * max(1, chunks)

    def _proposals(
        self, model: Program, guide: Program, x: Tensor, data_at_once: int
    ) -> list[Program]:
        """What to draw from, for each chunk of a group of data."""
        starts = range(0, len(x), data_at_once)
        if self.refine is None:
            return [guide for _ in starts]
        nesting = self.max_plate_nesting
        refined = self.refine(model, guide, x, max_plate_nesting=nesting, seed=None)
        return [refined.rows(start, start + data_at_once) for start in starts]

    def _estimate(
        self, model: Program, guide: Program, x: Tensor, particles_at_once: int
    ) -> Evidence:
        weights = RunningWeights()
        while (remaining := self.num_particles - weights.num_particles) > 0:
            size = min(remaining, particles_at_once)
            weights.add(
                draw_particles(
                    model, guide, x, size, max_plate_nesting=self.max_plate_nesting
                ).log_weight
            )
        return Evidence(
            log_prob=weights.log_mean.cpu(),
            standard_error=weights.standard_error.cpu(),
            effective_sample_size=weights.effective_sample_size.cpu(),
            num_particles=self.num_particles,
            direction="lower",
            method=self._method,
            seconds=0.0,
        )

    @property
    def _method(self) -> str:
        if self.refine is None:
            return "importance sampling"
        return f"importance sampling (guide refined by {self.refine.steps} steps)"
