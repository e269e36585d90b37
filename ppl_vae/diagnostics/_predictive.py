"""Predictive checks: statistics of the data against those of data that the model makes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae import plots
from ppl_vae.data import RowData, in_memory, missing_cells
from ppl_vae.diagnostics._estimates import table
from ppl_vae.display import Axes, Panel, Result, Row
from ppl_vae.identity import Identity
from ppl_vae.names import require_share
from ppl_vae.netcdf import TreeGroups, numpy_of
from ppl_vae.particles import ChunkSize, Evaluation, Program, Programs, evaluation
from ppl_vae.randomness import Stream, seeded

Statistic = Callable[[Tensor], Tensor | float]
"""Function of a data set, shape (num_data, features), double precision, that gives one number."""

RESIDUAL = "squared_residual"
"""Name of the discrepancy in the table."""

_FALSE_ALARM = 0.05
"""Probability that data of the model itself have any finding, over all statistics."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class PredictiveCheck(Result):
    """Statistics T(x) of the data beside those of R replicated data sets of the same size.

    With the parameters held fixed, data that come from the model are exchangeable with its
    replicates: the rank of T(x) among them is uniform, and every p-value p of a statistic is exact
    or conservative, ``P(p <= a) <= a`` for all a. This holds of data that the model was not trained
    on; training pulls T(x) towards the replicates, so that of training data p is too large.

    Attributes:
        names: Of the statistics; ``squared_residual`` is the discrepancy.
        observed: T(x), shape (statistics,); of the discrepancy the mean over draws z ~ q(z|x).
        replicated: T(x_rep), shape (replicates, statistics); of the discrepancy with x_rep ~ p(x|z)
            at those draws.
        above: How many replicates have ``T(x_rep) >= T(x)``, for each statistic; of the discrepancy
            each is compared with the data at the same draw.
        below: How many have ``T(x_rep) <= T(x)``.
        num_data: Number of data N.
        false_alarm: Probability that data of the model have any finding.
        identity: What it was computed from.
    """

    _group: ClassVar[str] = "predictive_check"
    _derived: ClassVar[tuple[str, ...]] = ("num_replicates", "findings")

    names: tuple[str, ...]
    observed: Float[Tensor, " statistics"]
    replicated: Float[Tensor, "replicates statistics"]
    above: tuple[int, ...]
    below: tuple[int, ...]
    num_data: int
    false_alarm: float = _FALSE_ALARM
    identity: Identity | None = None

    @property
    def num_replicates(self) -> int:
        """Number of replicated data sets R."""
        return len(self.replicated)

    @property
    def p_values(self) -> dict[str, float]:
        """Two-sided p-value of each statistic.

        ``min(1, 2 min(p_above, p_below))``, with ``p_above = (1 + #{T(x_rep) >= T(x)}) / (R + 1)``
        and ``p_below`` likewise: the data are one of R + 1 exchangeable sets, so that no p is 0.
        """
        counts = zip(self.names, self.above, self.below, strict=True)
        total = self.num_replicates + 1
        return {name: min(1.0, 2 * (1 + min(pair)) / total) for name, *pair in counts}

    @property
    def findings(self) -> list[str]:
        """Statistics in which the data differ from the model, in words; empty if in none."""
        # The false-alarm rate is split over all statistics (Bonferroni).
        level = self.false_alarm / len(self.names)
        found = zip(self.names, self.p_values.values(), self.above, self.below, strict=True)
        return [
            f"{_in_words(name)}: the data have {'more' if above < below else 'less'}"
            for name, p, above, below in found
            if p <= level
        ]

    def __str__(self) -> str:
        columns = ("data", "replicated", "sd", "p-value")
        numbers = ("observed", "replicated", "replicated_sd", "p_value")
        rows = {
            _in_words(row["statistic"]): " ".join(f"{row[name]:>12.4g}" for name in numbers)
            for row in self._rows()
        }
        verdict = "; ".join(self.findings) or "nothing speaks against the model"
        last = (
            f"{verdict} (false-alarm rate {self.false_alarm:g} over all; "
            f"{self.num_replicates} replicated sets of N = {self.num_data})"
        )
        return "\n".join([table("statistic", columns, rows), last])

    def _values(self) -> dict[str, Any]:
        """The table, by statistic; the replicates are in the tree."""
        single = ("num_data", "num_replicates", "false_alarm", "findings", "identity")
        by_name = {row["statistic"]: dict(list(row.items())[1:]) for row in self._rows()}
        return {"statistics": by_name} | {name: getattr(self, name) for name in single}

    def _rows(self) -> list[Row]:
        means, deviations = self.replicated.mean(0).tolist(), self.replicated.std(0).tolist()
        columns = (self.names, self.observed.tolist(), means, deviations, self.p_values.values())
        return [
            {
                "statistic": name,
                "observed": observed,
                "replicated": mean,
                "replicated_sd": deviation,
                "p_value": p,
            }
            for name, observed, mean, deviation, p in zip(*columns, strict=True)
        ]

    def _groups(self) -> TreeGroups:
        """Each statistic as a variable, where ArviZ's figures look for data and predictions.

        The discrepancy, of draws of the guide, is in ``posterior_predictive``, the others are in
        ``prior_predictive``; a draw is a replicate.
        """
        groups: TreeGroups = {}
        for index, name in enumerate(self.names):
            of = "posterior_predictive" if name == RESIDUAL else "prior_predictive"
            values = numpy_of(self.replicated[:, index].unsqueeze(0))
            groups.setdefault(of, {})[name] = (["chain", "draw"], values)
            data = numpy_of(self.observed[index])
            groups.setdefault("observed_data", {})[name] = ([], data)
        return groups

    def _panels(self) -> list[Panel]:
        return [(self._draw, plots.rows_height(len(self.names)))]

    def _draw(self, ax: Axes) -> None:
        """The middle 95% of each statistic's replicates, and the data, in units of their spread."""
        rows = []
        for index, name in enumerate(self.names):
            values = self.replicated[:, index]
            mean, spread = values.mean(), values.std()
            # Replicates that are all alike have no spread: the units are then the statistic's own.
            unit = spread if spread > 0 else torch.ones_like(spread)
            low, high = ((values.quantile(q) - mean) / unit for q in (0.025, 0.975))
            data = (self.observed[index] - mean) / unit
            rows.append(plots.ForestRow(_in_words(name), data.item(), low.item(), high.item()))
        plots.draw_forest(ax, rows, "T(x) - mean of T(x_rep), in standard deviations of T(x_rep)")
        plots.remark(ax, "dots: the data; bars: the middle 95% of replicated data")


def predictive_check(
    model: Program,
    guide: Program | None,
    x: RowData,
    *,
    num_replicates: int = 999,
    statistics: Mapping[str, Statistic] | None = None,
    false_alarm: float = _FALSE_ALARM,
    device: torch.device | str | None = None,
    seed: int | None = 0,
) -> PredictiveCheck:
    """Compare statistics of the data with those of data sets that the model makes.

    R times, as many data as there are in x are drawn from the model, ``x_rep ~ p(x|z), z ~ p(z)``,
    and T(x) is compared with the R numbers T(x_rep):

    - mean: of all cells.
    - standard_deviation: ``mean_j s_j``, s_j that of feature j.
    - skewness: ``mean_j m_3j / s_j^3`` with third central moment m_3j; 0 of a feature that does
      not vary.
    - zeros: the share of cells that are 0.
    - correlation: ``sqrt(mean_{j<k} r_jk^2)`` over all pairs of features; r_jk is 0 where one does
      not vary.

    A discrepancy depends on z too, and is compared at draws of the guide (Gelman, Meng and Stern):
    ``D(x, z) = mean_ij (x_ij - E[x_ij|z_i])^2`` with z ~ q(z|x), against D(x_rep, z) with
    x_rep ~ p(x|z). If q(z|x) is the posterior, z is fitted to x, and p is nearer to 1/2 than a
    uniform number; if it is not, p may be small under the right model, as it judges the guide with
    the decoder. It is left out without a guide, and of a p(x|z) without a mean.

    A statistic that is the same for the data and all replicates, as the share of zeros of
    continuous data, is left out.

    Costs 2 R decoder evaluations per datum.

    Args:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents; None leaves out the discrepancy.
        x: The data, shape ``(num_data, *event)``, features of one kind; best those that the model
            was not trained on.
        num_replicates: Number of replicated data sets R.
        statistics: Statistics of your own in place of these, by name: functions of a data set,
            shape (num_data, features), that give one number. The name alone is in the identity.
        false_alarm: Probability that data of the model have any finding.
        device: Where to compute; the data's device if not given.
        seed: Seed of the draws; ``None`` uses the caller's random state.

    Raises:
        ValueError: If there are fewer than 2 data, cells are missing, R is so small that no p-value
            could be a finding, a statistic is no finite number, none is left, or the model does
            not observe one site of the shape of x.

    References:
        Gelman, Meng and Stern, 1996, Posterior predictive assessment of model fitness via realized
        discrepancies.
        Gelman, Carlin, Stern, Dunson, Vehtari and Rubin, 2013, Bayesian data analysis, chapter 6.
        Phipson and Smyth, 2010, Permutation p-values should never be zero.
    """
    require_share(false_alarm=false_alarm)
    statistics = STATISTICS if statistics is None else statistics
    if {RESIDUAL} & set(statistics) or not statistics:
        raise ValueError(f"statistics takes one or more, none named {RESIDUAL!r}.")
    least = 2 * (len(statistics) + 1) / false_alarm - 1
    if num_replicates < least:
        raise ValueError(
            f"num_replicates must be {least:.0f} or more for {len(statistics)} statistics at "
            f"false_alarm={false_alarm:g}, got {num_replicates}: no p-value could be a finding."
        )
    settings = (
        f"predictive_check({num_replicates=}, statistics={tuple(statistics)}, {false_alarm=})"
    )
    with (
        evaluation(Programs(model, guide), x, ChunkSize(1), device=device) as look,
        torch.no_grad(),
        seeded(seed, Stream.EVALUATION),
    ):
        if len(look.x) < 2 or missing_cells(look.x):
            raise ValueError(
                f"predictive_check needs 2 data or more without missing cells, got {len(look.x)} "
                f"data with {missing_cells(look.x)} missing: leave out such rows or columns."
            )
        identity = look.identity(settings, seed)
        data = in_memory(look.x, "statistics of all data").to(look.device).double().flatten(1)
        observed = _values_of(statistics, data, "the data")
        sets = _data_sets(look, num_replicates)
        values = [_values_of(statistics, each, "replicated data") for each in sets]
        pairs = _residuals(look, num_replicates)
    columns = {
        name: (observed[name].expand(num_replicates), torch.stack([each[name] for each in values]))
        for name in statistics
    }
    if pairs is not None:
        columns[RESIDUAL] = pairs
    columns = {n: (own, made) for n, (own, made) in columns.items() if bool((own != made).any())}
    if not columns:
        raise ValueError("every statistic is the same for the data and all replicated data.")
    return PredictiveCheck(
        names=tuple(columns),
        observed=torch.stack([own.mean() for own, _ in columns.values()]),
        replicated=torch.stack([made for _, made in columns.values()], 1),
        above=tuple(int((made >= own).sum()) for own, made in columns.values()),
        below=tuple(int((made <= own).sum()) for own, made in columns.values()),
        num_data=len(data),
        false_alarm=float(false_alarm),
        identity=identity,
    )


def _data_sets(look: Evaluation, count: int) -> Iterator[Float[Tensor, "num_data features"]]:
    """Data sets of the model, of the size of the data, in double precision."""
    num_data, first = len(look.x), look.x[:1].to(look.device)
    at_once = max(1, look.rows // num_data)
    for start in range(0, count, at_once):
        number = min(at_once, count - start)
        # Data are simulated in the shape and type of the first row; its values play no part.
        rows = first.expand(number * num_data, *first.shape[1:]).split(look.rows)
        made = torch.cat([look.programs.simulate_data(part)[1] for part in rows])
        yield from made.double().flatten(1).unflatten(0, (number, num_data))


def _residuals(
    look: Evaluation, count: int
) -> tuple[Float[Tensor, " replicates"], Float[Tensor, " replicates"]] | None:
    """D(x, z) and D(x_rep, z) at draws of the guide; None where there are none."""
    if look.first is None:
        return None
    sums = torch.zeros(2, count, dtype=torch.float64, device=look.device)
    for part, own in look.chunks():
        at_once = max(1, look.rows // len(part))
        for start in range(0, count, at_once):
            number = min(at_once, count - start)
            latents = own.run_guide(part, number).latents
            drawn = own.run_model(part, number, latents, simulated=True)
            ((name, made),) = drawn.observed.items()
            try:
                mean = drawn.sites[name]["fn"].mean
            except (NotImplementedError, AttributeError):
                return None
            mean = mean.double().reshape(number, len(part), -1)
            for row, values in enumerate((part.unsqueeze(0), made)):
                residual = values.double().reshape(-1, len(part), mean.shape[-1]) - mean
                sums[row, start : start + number] += residual.square().sum((1, 2))
    own, made = sums.cpu() / look.x.numel()
    # A Cauchy distribution says that its mean is NaN.
    return (own, made) if bool(sums.isfinite().all()) else None


def _values_of(statistics: Mapping[str, Statistic], x: Tensor, whose: str) -> dict[str, Tensor]:
    """The statistics of a data set, on the CPU."""
    values = {}
    for name, statistic in statistics.items():
        value = torch.as_tensor(statistic(x), dtype=torch.float64).cpu()
        # NaN is neither above nor below: it would pass for the rarest of all values.
        if value.dim() or not value.isfinite():
            raise ValueError(f"statistic {name!r} of {whose} is no finite number: leave it out.")
        values[name] = value
    return values


def _standardized(x: Float[Tensor, "num_data features"]) -> Float[Tensor, "num_data features"]:
    """Features of mean 0 and variance 1, or 0 where they do not vary."""
    centred = x - x.mean(0)
    varies = (x != x[:1]).any(0)
    scale = centred.square().mean(0).sqrt()
    return torch.where(varies, centred / torch.where(scale > 0, scale, 1.0), 0.0)


def _correlation(x: Float[Tensor, "num_data features"]) -> Tensor:
    """Root mean square of the correlations of all pairs of features."""
    (num_data, features), z = x.shape, _standardized(x)
    if features < 2:
        return x.new_zeros(())
    # The sum over all pairs is that of z z^T too, which is small where features are many.
    product = z @ z.mT if num_data < features else z.mT @ z
    # A feature's correlation with itself, 1 or 0 if it does not vary, is no pair.
    own = z.square().mean(0).square().sum()
    squares = (product / num_data).square().sum() - own
    return (squares.clamp(min=0) / (features * (features - 1))).sqrt()


STATISTICS: Mapping[str, Statistic] = MappingProxyType(
    {
        "mean": lambda x: x.mean(),
        "standard_deviation": lambda x: x.std(0).mean(),
        "skewness": lambda x: _standardized(x).pow(3).mean(),
        "zeros": lambda x: (x == 0).double().mean(),
        "correlation": _correlation,
    }
)
"""Statistics of a predictive check, by name: what is compared where none are given."""


def _in_words(name: str) -> str:
    return name.replace("_", " ")
