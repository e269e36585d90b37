"""The restricted Boltzmann machine, trained by contrastive divergence."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.baselines._base import Baseline
from ppl_vae.baselines._chains import Chains, chains_of
from ppl_vae.baselines._contrastive import ContrastiveDivergence, Rule
from ppl_vae.baselines._partition import (
    EXACT_UNITS,
    PartitionEstimate,
    annealed_partition,
    exact_partition,
)
from ppl_vae.data import (
    RowData,
    RowTensor,
    column_moments,
    column_range,
    row_chunks,
)
from ppl_vae.distributions import (
    BinaryUnits,
    BoltzmannPath,
    Couplings,
    NormalUnits,
    RestrictedBoltzmann,
    VisibleUnits,
    in_double,
    log_total,
)
from ppl_vae.evidence import Evidence
from ppl_vae.identity import hash_tensors
from ppl_vae.names import require_not_negative, require_sizes
from ppl_vae.randomness import Stream, seeded
from ppl_vae.schedules import Schedule
from ppl_vae.vae import VAE

Units = Literal["binary", "normal"]

_SCORED_UNITS = 12
"""Units of the smaller layer up to which log p(x) is summed at every validation."""
_SWEEPS = 1000
"""Sweeps of the chains whose ends are draws."""
_UNITS: dict[str, VisibleUnits] = {"binary": BinaryUnits(), "normal": NormalUnits()}


@final
@dataclass(frozen=True, eq=False)
class HiddenEnergy:
    """``log p(h) + log Z = c'h + sum_i log integral m(v_i) exp(v_i (b + W h)_i)``, v summed out.

    Attributes:
        couplings: b, c and W.
        units: The visible units, by their measure m.
    """

    couplings: Couplings
    units: VisibleUnits

    @property
    def visible(self) -> Float[Tensor, " hidden"]:
        """c: the units that are left are the hidden ones."""
        return self.couplings.hidden

    def log_unnormalised(self, h: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape"]:
        """Log p(h) + log Z."""
        theta = self.couplings.visible_logits(h)
        return h @ self.couplings.hidden + self.units.log_normalizer(theta).sum(-1)


@final
class RBM(Baseline):
    """``p(v) = sum_h exp(b'v + c'h + v'W h) / Z`` over binary h, with v binary or real.

    Normal units are ``v = s u``, where u has the measure ``exp(-u^2 / 2)`` in the place of 1 and s
    is learned, a scale for each feature: given h, ``v ~ Normal(s (b + W h), s^2)``.

    The gradient of log p(v) is a mean over the data less one over the model. Contrastive divergence
    takes the latter from k sweeps of block Gibbs sampling, begun at the data (``cd``), or where
    the last update left off (``pcd``): the first is biased, the second as far as its chains lag
    behind. Neither has an objective whose value could be reported: an epoch's record has the
    squared error of a reconstruction, which need not fall as log p(v) rises.

    log Z is exact up to 20 units in the smaller layer (of normal units, in the hidden one), and
    else lies between two annealings: :meth:`log_partition`. log p(x) has its error,
    which is one for all data: :meth:`evidence`.

    Args:
        visible: Numbers of a datum.
        hidden: Number of hidden units.
        units: ``binary``, for data in {0, 1}, or ``normal``, for real numbers.
        rule: ``cd`` or ``pcd``.
        steps: Sweeps k of an update.
        chains: Number of persistent chains.
        learning_rate: A number, or a schedule of :mod:`ppl_vae.schedules`.
        momentum: Share of the last update that the next one repeats, in [0, 1).
        weight_decay: Factor of W that is subtracted from its gradient.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Smolensky, 1986, Information processing in dynamical systems: foundations of harmony theory.
        Hinton, 2002, Training products of experts by minimizing contrastive divergence.
        Tieleman, 2008, Training restricted Boltzmann machines using approximations to the
        likelihood gradient.
        Hinton, 2012, A practical guide to training restricted Boltzmann machines.
    """

    rates: Tensor

    def __init__(
        self,
        visible: int,
        hidden: int,
        units: Units = "binary",
        *,
        rule: Rule = "pcd",
        steps: int = 1,
        chains: int = 100,
        learning_rate: float | Schedule = 0.05,
        momentum: float = 0.5,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        require_sizes(visible=visible, hidden=hidden)
        if units not in _UNITS:
            raise ValueError(f"RBM takes units {' or '.join(_UNITS)}, got {units!r}.")
        self.units = units
        self._rule = ContrastiveDivergence(
            rule, steps, chains, learning_rate, momentum, weight_decay
        )
        self.visible = nn.Parameter(torch.zeros(visible), requires_grad=False)
        self.hidden = nn.Parameter(torch.zeros(hidden), requires_grad=False)
        self.weight = nn.Parameter(0.01 * torch.randn(visible, hidden), requires_grad=False)
        self.log_scale = nn.Parameter(torch.zeros(visible), requires_grad=False)
        # Where annealing starts: the data's means, as the visible units' b would have them.
        self.register_buffer("rates", torch.zeros(visible))
        # No buffer: it is no part of the machine, but what is known of it.
        self._log_z: float | None = None
        self._rule.start(dict(self.named_parameters()), self.path())

    @property
    def couplings(self) -> Couplings:
        """b, c and W, of v in units of its scale."""
        return Couplings(self.visible, self.hidden, self.weight)

    @property
    def _units(self) -> VisibleUnits:
        return _UNITS[self.units]

    @property
    def _is_normal(self) -> bool:
        return self.units == "normal"

    @property
    def _summed_units(self) -> int:
        """Units of the layer whose states are summed where log Z is exact."""
        visible, hidden = self.weight.shape
        return hidden if self._is_normal else min(visible, hidden)

    def path(self, *, double: bool = False) -> BoltzmannPath:
        """Path from the base rates to this machine, in its own precision or in double."""
        couplings, rates = self.couplings, self.rates
        if double:
            couplings, rates = Couplings(*map(in_double, couplings)), in_double(rates)
        return BoltzmannPath(couplings, rates, self._units)

    def settings(self) -> dict[str, Any]:
        """Sizes, units and the rule."""
        visible, hidden = self.weight.shape
        return {
            "visible": visible,
            "hidden": hidden,
            "units": self.units,
            **self._rule.settings(),
        }

    def require_data(self, x: RowTensor) -> None:
        """Check that rows are of so many numbers, of binary units 0 and 1."""
        visible = len(self.visible)
        if x.shape[1:] != (visible,):
            raise ValueError(
                f"RBM({visible}, ...) takes rows of {visible} numbers, got shape "
                f"{tuple(x.shape[1:])}: flatten them, or make it so wide."
            )
        if not self._is_normal:
            _require_bits(x)

    def start(self, train: RowTensor) -> None:
        """Take b from the data's means, the scale from their spread, and the first chains.

        Raises:
            ValueError: If a column is constant, of normal units.
        """
        count, (means, variances, varies) = len(train), column_moments(train)
        mean = means.cpu().double()
        if self._is_normal:
            scale = variances.cpu().double().sqrt()
            if not bool(varies.all()):
                raise ValueError(
                    f"column {int((~varies).nonzero()[0])} of train is constant: remove it, or "
                    "dequantise the data, as normal units have a density."
                )
            self.log_scale.data = scale.log().to(self.log_scale)
            rates = mean / scale
        else:
            # As if a twentieth of a datum more had said 0 and as much 1: no rate is 0 or 1.
            rates = torch.logit((mean * count + 0.05) / (count + 0.1))
        self.rates.copy_(rates.to(self.rates))
        self.visible.data = self.rates.clone()
        self._rule.start(dict(self.named_parameters()), self.path())

    def update(
        self, x: Float[Tensor, "batch visible"], progress: float
    ) -> Mapping[str, Tensor | float]:
        """Take a step of contrastive divergence.

        Reported is ``reconstruction_error``, the squared error per datum of one pass of means.
        """
        rate, couplings = self._rule.learning_rate(progress), self.couplings
        u = self._scaled(x)
        mean = self._units.mean(couplings.visible_logits(torch.sigmoid(couplings.hidden_logits(u))))
        parameters = dict(self.named_parameters())
        self._rule.step(parameters, self._statistics, self.path(), u, rate)
        error = (u - mean).square().sum(-1).mean()
        return {"reconstruction_error": error, "learning_rate": rate}

    def _statistics(self, u: Float[Tensor, "batch visible"]) -> dict[str, Tensor]:
        """Mean derivatives of the unnormalised log p."""
        probability = torch.sigmoid(self.couplings.hidden_logits(u))
        scale = torch.zeros_like(self.log_scale)
        if self._is_normal:
            # u = v / s falls as s grows.
            field = self.visible + probability @ self.weight.T
            scale = (u.square() - u * field).mean(0)
        return {
            "visible": u.mean(0),
            "hidden": probability.mean(0),
            "weight": u.T @ probability / len(u),
            "log_scale": scale,
        }

    def _scaled(self, x: Tensor) -> Tensor:
        return x / self.log_scale.to(x).exp() if self._is_normal else x

    def _unscaled(self, u: Tensor) -> Tensor:
        return u * self.log_scale.exp().to(u.device) if self._is_normal else u

    def log_unnormalised(self, x: Float[Tensor, "batch visible"]) -> Float[Tensor, " batch"]:
        """Log p(x) + log Z, in double precision: minus the free energy."""
        u = self._scaled(in_double(x))
        log_jacobian = in_double(self.log_scale).sum() if self._is_normal else 0.0
        return self.path(double=True).log_density(u, 1.0) - log_jacobian

    @torch.no_grad()
    def score(self, x: Float[Tensor, "batch visible"]) -> Float[Tensor, " batch"] | None:
        """Log p(x) exactly, up to 12 units in the smaller layer; else None."""
        if self._summed_units > _SCORED_UNITS:
            return None
        return self.log_unnormalised(x) - log_total(self.path(double=True).state_log_weights())

    def training_state(self) -> dict[str, Tensor]:
        """Velocities and persistent chains."""
        return self._rule.state()

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with these velocities and chains."""
        self._rule.load_state(state)

    @torch.no_grad()
    def log_partition(
        self,
        *,
        exact: bool | None = None,
        temperatures: int = 14_500,
        chains: int = 100,
        reverse: bool = True,
        seed: int = 0,
    ) -> PartitionEstimate:
        """Log Z, exactly or between two annealings.

        The way forward goes from independent units at the data's base rates to this machine; 500
        of 14,500 temperatures to s = 0.5, 4,000 to 0.9, 10,000 to 1. Its weights have mean Z. The
        way back starts at draws of this machine, exact ones up to 20 units in the smaller layer,
        else the resampled ends of the way forward after 50 sweeps: then it shows what those left
        out less surely.

        Args:
            exact: Whether to sum all states; None: where there are at most 2^20.
            temperatures: Number of temperatures.
            chains: Number of chains of each way.
            reverse: Whether to go back.
            seed: Seed of the draws.

        Raises:
            ValueError: If there are too many states to sum.

        References:
            Salakhutdinov and Murray, 2008, On the quantitative analysis of deep belief networks.
            Burda, Grosse and Salakhutdinov, 2015, Accurate and conservative estimates of MRF
            log-likelihood using reverse annealing.
        """
        require_sizes(temperatures=temperatures, chains=chains)
        if not all(bool(p.isfinite().all()) for p in self.parameters()):
            raise ValueError(
                "the machine's parameters are not finite, and so is log Z: train it at a lower "
                "learning rate."
            )
        small = self._summed_units <= EXACT_UNITS
        if exact and not small:
            raise ValueError(
                f"all states of {self._summed_units} units are too many to sum (20 units at "
                "most): leave exact out."
            )
        if small and exact is not False:
            return replace(exact_partition(self.path(double=True)), machine=self._machine)
        # Weights add up in double; what a step adds is small enough for the model's own precision.
        path = self.path()
        with seeded(seed, Stream.EVALUATION):
            draws = None
            if small and reverse:
                draws = path.draw_exactly(path.state_log_weights(), chains)
            found = annealed_partition(path, chains, temperatures, draws, reverse=reverse)
        return replace(found, machine=self._machine)

    @property
    def _machine(self) -> str:
        """Hash of what log Z is of."""
        return hash_tensors(self.couplings._asdict())

    @torch.no_grad()
    def evidence(self, x: RowData, partition: PartitionEstimate | None = None) -> Evidence:
        """Log p(x) of each datum, with the error of log Z, which is the same for all data.

        Args:
            x: The data, in {0, 1} for binary units.
            partition: log Z of this machine as it is; :meth:`log_partition` if not given.

        Raises:
            ValueError: If the data are none of these units, or log Z is of another machine.
        """
        start = time.perf_counter()
        rows = self.read(x, event=tuple(self.visible.shape))
        self.require_data(rows)
        log_z = self.log_partition() if partition is None else partition
        if log_z.machine != self._machine:
            raise ValueError(
                "log Z is of another machine, or of this one before it was trained on: take "
                "log_partition() of it as it is."
            )
        parts = [self.log_unnormalised(p.to(self.weight)).cpu() for p in row_chunks(rows)]
        identity = self.identity(x, str(log_z))
        return log_z.evidence(torch.cat(parts), identity, time.perf_counter() - start)

    @torch.no_grad()
    def sample(
        self,
        count: int = 4,
        *,
        draws: int = 1000,
        warm_up: int = 1000,
        levels: int = 1,
        seed: int = 0,
    ) -> Chains:
        """Chains of block Gibbs sampling, plain or tempered, and what says whether they mix.

        Tempered, each chain has copies at several s between the base rates and this machine, which
        swap places: what leaves a mode at a small s comes back in another.

        Args:
            count: Number of chains.
            draws: Draws of each chain, one a sweep.
            warm_up: Sweeps before the first.
            levels: Copies of each chain; 1: plain.
            seed: Seed of the draws.

        References:
            Desjardins, Courville, Bengio, Vincent and Delalleau, 2010, Tempered Markov chain Monte
            Carlo for training of restricted Boltzmann machines.
        """
        require_sizes(count=count, draws=draws, levels=levels)
        require_not_negative(warm_up=warm_up)
        with seeded(seed, Stream.SAMPLING):
            chains = chains_of(self.path(), count, draws, warm_up, levels)
        return replace(chains, x=self._unscaled(chains.x))

    def as_vae(self) -> VAE:
        """The machine as h ~ p(h), v ~ p(v|h), with its exact posterior p(h|v) as the guide.

        Every importance weight is p(v), as good as log Z is: :meth:`take_log_z`.
        """
        return VAE(self._hidden, self._visible_given, self._hidden_given)

    def take_log_z(self, value: float) -> None:
        """Take a value of log Z, in nats, for the density of the hidden units."""
        self._log_z = value

    def _hidden(self) -> RestrictedBoltzmann:
        """p(h), its draws the ends of chains."""
        energy = HiddenEnergy(self.couplings, self._units)
        return RestrictedBoltzmann(energy, self._known_log_z, self._hidden_draws)

    def _known_log_z(self) -> Tensor:
        if self._log_z is None:
            raise ValueError(
                "log Z of the machine is not known: give it by take_log_z(log_partition().value)."
            )
        return self.weight.new_tensor(self._log_z)

    @torch.no_grad()
    def _hidden_draws(self, count: int) -> Float[Tensor, "count hidden"]:
        """Hidden units at the ends of so many chains, independent and near draws if they mix."""
        path = self.path()
        u = path.units.sample(path.base.expand(count, -1))
        for _ in range(_SWEEPS):
            u = path.sweep(u)
        return torch.bernoulli(torch.sigmoid(self.couplings.hidden_logits(u)))

    def _hidden_given(self, x: Float[Tensor, "batch visible"]) -> dist.Distribution:
        """p(h|x), event shape (hidden,)."""
        logits = self.couplings.hidden_logits(self._scaled(x))
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)

    def _visible_given(self, h: Float[Tensor, "*shape hidden"]) -> dist.Distribution:
        """p(v|h), event shape (visible,)."""
        theta = self.couplings.visible_logits(h)
        if self._is_normal:
            scale = self.log_scale.exp()
            return dist.Normal(scale * theta, scale, validate_args=False).to_event(1)
        return dist.Bernoulli(logits=theta, validate_args=False).to_event(1)


def _require_bits(x: RowTensor) -> None:
    low, high = (end.item() for end in (column_range(x).min(), column_range(x).max()))
    bits = low >= 0 and high <= 1
    if not bits or any(bool(((p != 0) & (p != 1)).any()) for p in row_chunks(x)):
        raise ValueError(
            f"binary units take 0 and 1, got values from {low:g} to {high:g}: binarise the data, "
            "or take normal units for real numbers (likelihood normal of a run); there are none of "
            "counts."
        )
