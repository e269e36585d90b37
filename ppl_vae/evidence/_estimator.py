"""What an estimator of log p(x) is called with, and returns."""

from typing import Protocol

import torch

from ppl_vae.data import RowData
from ppl_vae.evidence._result import Evidence
from ppl_vae.particles import Program


class Estimator(Protocol):
    """Anything that estimates log p(x) of every datum, as ``ImportanceSampling`` does."""

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: RowData,
        *,
        device: torch.device | str | None = None,
        seed: int | None = 0,
        progress: bool = False,
    ) -> Evidence:
        """Estimate log p(x_i) for every datum."""
        ...
