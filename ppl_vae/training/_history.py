"""Records of training, epoch by epoch: as CSV, as curves."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, final

from ppl_vae import plots
from ppl_vae.names import plural

_KL = "kl/"
_MEASURE = "measure/"
_PANELS = {
    "bound": "training: each arm's own bound",
    "validation": "validation: one bound for all",
}


@final
@dataclass(frozen=True)
class EpochRecord:
    """Means over one epoch's training data, in nats per datum, as training went by.

    Attributes:
        epoch: 1 for the first.
        bound: The objective's bound.
        log_likelihood: E_q log p(x|z).
        kl: Latent site to E_q (log q - log p), the site's KL by Monte Carlo.
        learning_rate: Learning rate at the end of the epoch.
        seconds: Wall-clock time of the epoch, validation included.
        validation: Many-sample bound on the validation data, if it was computed.
        validation_error: Its standard error over the validation data.
        updates: Batches that the model was updated on, in all epochs so far.
        evaluations: Decoder evaluations (particles times batch) spent on training in all epochs so
            far; validation is not counted.
        compiled: Fraction of the epoch's gradients that a compiled graph gave.
        measures: Name to mean of what a training rule without a bound reports beside these, such
            as the loss of a discriminator; a rule without a bound has NaN as the bound.
    """

    epoch: int
    bound: float
    log_likelihood: float
    kl: dict[str, float]
    learning_rate: float
    seconds: float
    validation: float | None = None
    validation_error: float | None = None
    updates: int = 0
    evaluations: int = 0
    compiled: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)


@final
@dataclass
class History:
    """The records of a run and the epoch whose parameters it keeps."""

    records: list[EpochRecord] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        last = f", bound {self.records[-1].bound:.3f} nats at the last" if self.records else ""
        return f"History({plural(len(self), 'epoch')}{last})"

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the highest validation bound; None without validation."""
        scores = {r.epoch: r.validation for r in self.records if r.validation is not None}
        return max(scores, key=scores.__getitem__) if scores else None

    @property
    def compiled(self) -> float | None:
        """Share of gradients that compiled graphs gave, mean over epochs; None before the first."""
        shares = [record.compiled for record in self.records]
        return sum(shares) / len(shares) if shares else None

    def column(self, name: str) -> list[float | None]:
        """One field of every record, in order."""
        return [getattr(record, name) for record in self.records]

    def by_epoch(self, name: str) -> dict[int, float]:
        """One field of the records that have it, by epoch."""
        values = {record.epoch: getattr(record, name) for record in self.records}
        return {epoch: value for epoch, value in values.items() if value is not None}

    def to_json(self) -> list[dict[str, Any]]:
        """The records as plain values."""
        return [asdict(record) for record in self.records]

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> "History":
        """The history that :meth:`to_json` came from."""
        return cls([EpochRecord(**value) for value in values])

    def to_csv(self) -> str:
        """One line an epoch, one column a field, ``kl/SITE`` for each latent site.

        Measures have columns ``measure/NAME``. Numbers are written with all their digits:
        :meth:`from_csv` gives back the same history.
        """
        if not self.records:
            return ""
        return _line(_row(self.records[0])) + "".join(map(csv_line, self.records))

    @classmethod
    def from_csv(cls, text: str) -> "History":
        """The history that :meth:`to_csv` came from.

        A last line without its end, as a killed process may leave it, is left out.

        Raises:
            ValueError: If a column is missing or an entry is no number; names the line.
        """
        # The file grows by appending, so that only its last line can be incomplete.
        finished = text[: text.rfind("\n") + 1]
        rows = csv.DictReader(io.StringIO(finished, newline=""))
        return cls([_record(row, number) for number, row in enumerate(rows, 2)])


def csv_line(record: EpochRecord) -> str:
    """A record's line of :meth:`History.to_csv`, with its end."""
    return _line(_row(record).values())


def curve_of(histories: Sequence[History], name: str, style: Any, label: str = "") -> Any:
    """A field's mean and range over seeds, at the epochs that all of them have."""
    by_seed = [history.by_epoch(name) for history in histories]
    shared = sorted(set.intersection(*(set(values) for values in by_seed)))
    at = [[values[epoch] for values in by_seed] for epoch in shared]
    means = [sum(values) / len(values) for values in at]
    return plots.Curve(style, shared, means, [min(v) for v in at], [max(v) for v in at], label)


def plot_histories(histories: Mapping[str, Sequence[History]], ax: Any = None) -> Any:
    """Draw learning curves: the bound that each arm maximises, and the validation bound.

    Args:
        histories: Arm to the history of each seed: a line at their mean, a band over their range.
        ax: Axes for each of them that there is; a new figure if not given.

    Returns:
        The axes that were given, or the new figure.
    """
    panels = {}
    for name, title in _PANELS.items():
        curves = [
            curve_of(runs, name, plots.style_of(index), arm)
            for index, (arm, runs) in enumerate(histories.items())
        ]
        if known := [curve for curve in curves if curve.x]:
            panels[name] = partial(_draw, curves=known, title=title)
    for name in list(panels)[-1:]:
        panels[name] = partial(panels[name], legend=True)
    return plots.draw_on([(panel, plots.HEIGHT) for panel in panels.values()], ax)


def _draw(ax: Any, *, curves: list[Any], title: str, legend: bool = False) -> None:
    plots.draw_bands(ax, curves, title)
    plots.remark(ax, "line: mean over seeds; band: lowest to highest")
    if legend:
        plots.legend(ax)


def _row(record: EpochRecord) -> dict[str, Any]:
    values = asdict(record)
    groups = {_KL: values.pop("kl"), _MEASURE: values.pop("measures")}
    columns = {
        prefix + name: term for prefix, terms in groups.items() for name, term in terms.items()
    }
    return {**values, **columns}


def _line(entries: Iterable[Any]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(entries)
    return out.getvalue()


def _record(row: dict[str, Any], line: int) -> EpochRecord:
    try:
        # Histories from before there were compiled updates have no such column.
        row = {"compiled": "0.0", **row}
        values: dict[str, Any] = {name: read(row[name]) for name, read in _READ.items()}
        kl, measures = (
            {name.removeprefix(to): float(row[name]) for name in row if name.startswith(to)}
            for to in (_KL, _MEASURE)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"line {line} of the history is damaged ({reason}): go on with the run, which writes "
            "it anew."
        ) from error
    return EpochRecord(kl=kl, measures=measures, **values)


def _perhaps(entry: str) -> float | None:
    return float(entry) if entry else None


_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("epoch", "updates", "evaluations"), int),
    **dict.fromkeys(("bound", "log_likelihood", "learning_rate", "seconds", "compiled"), float),
    **dict.fromkeys(("validation", "validation_error"), _perhaps),
}
"""Column, without those of the KL terms, to the reader of its entries."""
