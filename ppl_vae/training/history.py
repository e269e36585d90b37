"""What training records, epoch by epoch."""

import csv
import io
from dataclasses import asdict, dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.particles import Particles


def parts_of(particles: Particles, bound: Float[Tensor, " batch"]) -> Float[Tensor, " parts"]:
    """Batch sums, detached: the bound, log p(x|z), and log q - log p of each site in order.

    The last two are means over particles, so that their data means add up to the ELBO.
    """
    count = particles.num_particles
    parts = [bound.sum(), particles.log_likelihood.detach().sum() / count]
    for name, log_prior in particles.log_prior.items():
        parts.append((particles.log_guide[name] - log_prior).detach().sum() / count)
    return torch.stack(parts)


@final
@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch's training data, in nats per datum, as training went by.

    Attributes:
        epoch: 1 for the first.
        bound: The objective's bound.
        log_likelihood: E_q log p(x|z).
        kl: Latent site to E_q (log q - log p), the site's KL by Monte Carlo.
        learning_rate: At the end of the epoch.
        seconds: Wall-clock time of the epoch, validation included.
        validation: Many-sample bound on the validation data, if it was computed.
        validation_error: Its standard error over the validation data.
    """

    epoch: int
    bound: float
    log_likelihood: float
    kl: dict[str, float]
    learning_rate: float
    seconds: float
    validation: float | None = None
    validation_error: float | None = None


@final
@dataclass
class History:
    """The records of a run and the epoch whose parameters it keeps."""

    records: list[EpochRecord] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the highest validation bound; None without validation."""
        scores = {r.epoch: r.validation for r in self.records if r.validation is not None}
        return max(scores, key=scores.__getitem__) if scores else None

    def column(self, name: str) -> list[float | None]:
        """One field of every record, in order."""
        return [getattr(record, name) for record in self.records]

    def to_json(self) -> list[dict[str, Any]]:
        """The records as plain values."""
        return [asdict(record) for record in self.records]

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> "History":
        """The history that :meth:`to_json` came from."""
        return cls([EpochRecord(**value) for value in values])

    def to_csv(self) -> str:
        """One line an epoch, one column a field, ``kl/SITE`` for each latent site."""
        rows = []
        for value in self.to_json():
            kl = value.pop("kl")
            rows.append({**value, **{f"kl/{site}": term for site, term in kl.items()}})
        out = io.StringIO()
        if rows:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return out.getvalue()
