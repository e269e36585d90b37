"""An update that was not finite, and how it is told."""

from typing import final

from torch import Tensor

from ppl_vae.particles import NonFiniteDensityError
from ppl_vae.training._step import Step
from ppl_vae.training._watch import NonFiniteUpdateError, require_finite_result, watched_updates

Culprit = NonFiniteDensityError | NonFiniteUpdateError


@final
class NonFiniteError(ValueError):
    """Training came to a density, a gradient or a parameter that is NaN or infinite.

    Args:
        message: One line: which update, what is not finite where, what to do.
        update: The update, counted from 1.
        epoch: Its epoch, counted from 1.
        site: The site that is not finite, or has a gradient that is not, if that is known.
        datum: The row of the batch, if that is known.
        row: The same as a row of the training data.
    """

    def __init__(
        self,
        message: str,
        *,
        update: int | None = None,
        epoch: int | None = None,
        site: str | None = None,
        datum: int | None = None,
        row: int | None = None,
    ) -> None:
        super().__init__(message)
        self.update, self.epoch, self.site = update, epoch, site
        self.datum, self.row = datum, row

    @classmethod
    def of(cls, culprit: Culprit, update: int, epoch: int, rows: Tensor) -> "NonFiniteError":
        """The failure of an update whose batch has these rows of the training data."""
        row = None if culprit.datum is None else int(rows[culprit.datum])
        message = f"update {update} (epoch {epoch}) is not finite: {culprit}"
        if row is not None:
            message += f" The datum is row {row} of the training data."
        return cls(
            message,
            update=update,
            epoch=epoch,
            site=culprit.site,
            datum=culprit.datum,
            row=row,
        )


def attempt(step: Step, batch: Tensor, learning_rate: float) -> Tensor:
    """Make an update that is watched, and check what it made.

    Raises:
        NonFiniteDensityError: If a log-density is not finite.
        NonFiniteUpdateError: If anything else is not.
    """
    with watched_updates():
        parts = step(batch, learning_rate)
    require_finite_result(parts, step.parameters)
    return parts
