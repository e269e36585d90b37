"""A restricted Boltzmann machine as the prior of binary latents."""

import functools
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.distributions import (
    Couplings,
    LogPartition,
    RestrictedBoltzmann,
    annealed,
    annealed_from_both_sides,
    draw_exactly,
    log_total,
    smaller_layer,
    state_log_weights,
)
from ppl_vae.priors._values import require_sizes
from ppl_vae.randomness import Stream, seeded

_EXACT_IN_TRAINING = 12
"""Units of the smaller layer whose states are summed at every update: some milliseconds."""

_EXACT_AT_ALL = 20
"""And once for each state of the parameters in evaluation: some seconds."""

_SHARE_IN_TRAINING = 50
"""An update takes so many times fewer temperatures than an evaluation."""

_SWEEPS_OF_A_DRAW = 50


@final
class RBMPrior(nn.Module):
    """``p(z) = sum_h exp(b'z + c'h + z'W h) / Z`` over binary z, h; b, c and W learned.

    Binary latents with dependences that no order of them suggests. The draws have no pathwise
    gradient: train by VIMCO, RWS or Reinforce. What is exact depends on the smaller layer:

    - up to 12 units: log Z, its gradient and draws are exact, by summing 2^units states;
    - up to 20 units: log Z and draws are exact in evaluation; all else as below;
    - else log Z is annealed importance sampling's, ``E Z^ = Z``, so that ``E log Z^ <= log Z`` and
      log p(z) is too large on average: a lower bound of log p(x) is one only up to that error,
      which is the same for every datum and which :meth:`log_partition` states. No interval of an
      evidence estimate holds it. The path begins at independent units with the rates of the
      persistent chains, and is taken twice forward and once back: what the three results span is
      part of the error. In evaluation it is a fixed function of the parameters; in
      training, each update has fresh chains and 50 times fewer temperatures. The gradient of
      log Z is that of persistent contrastive divergence: biased while the chains lag behind, and
      not that of the reported value; take more sweeps or a smaller learning rate where training
      stalls or falls back. Draws are the persistent chains after 50 further sweeps: approximate,
      and dependent where more are drawn than there are chains.

    Args:
        latent: Number of latents, the visible units z.
        hidden: Number of hidden units h.
        chains: Persistent chains, and chains of annealed importance sampling.
        sweeps: Of block Gibbs sampling of the persistent chains at each update.
        temperatures: Of annealed importance sampling in evaluation.

    Raises:
        ValueError: If one of them is less than 1.

    References:
        Smolensky, 1986, Information processing in dynamical systems: foundations of harmony theory.
        Tieleman, 2008, Training restricted Boltzmann machines using approximations to the
        likelihood gradient.
        Salakhutdinov and Murray, 2008, On the quantitative analysis of deep belief networks.
    """

    chains: Tensor

    def __init__(
        self,
        latent: int,
        hidden: int,
        chains: int = 128,
        sweeps: int = 5,
        temperatures: int = 1000,
    ) -> None:
        super().__init__()
        require_sizes(
            latent=latent, hidden=hidden, chains=chains, sweeps=sweeps, temperatures=temperatures
        )
        self.sweeps, self.temperatures = sweeps, temperatures
        self.visible = nn.Parameter(torch.zeros(latent))
        self.hidden = nn.Parameter(torch.zeros(hidden))
        self.weight = nn.Parameter(0.01 * torch.randn(latent, hidden))
        # Part of the state of training, as a batch norm's statistics are.
        self.register_buffer("chains", torch.bernoulli(torch.full((chains, latent), 0.5)))
        self._known: _Known | None = None

    @property
    def couplings(self) -> Couplings:
        """b, c and W."""
        return Couplings(self.visible, self.hidden, self.weight)

    def forward(self) -> RestrictedBoltzmann:
        """The prior, event shape (latent,)."""
        # Once for all densities of a run of the model: the chains move at each call.
        log_partition = functools.cache(self._log_partition)
        return RestrictedBoltzmann(self.couplings, log_partition, self._draw)

    def log_partition(self) -> LogPartition:
        """Log Z as in evaluation, in nats, with its standard error."""
        return self._evaluated().partition

    def log_normalizer(self) -> tuple[float, float]:
        """``log Z`` as in evaluation, and its standard error, both in nats; 0 where it is exact."""
        found = self.log_partition()
        return found.value.item(), found.standard_error.item()

    @property
    def _units(self) -> int:
        return min(self.weight.shape)

    def _log_partition(self) -> Tensor:
        """Log Z with its gradient, or a value of it with the gradient that training takes."""
        if self._units <= _EXACT_IN_TRAINING:
            return log_total(state_log_weights(smaller_layer(self.couplings)))
        if not torch.is_grad_enabled():
            return self.log_partition().value
        negative = self.couplings.log_unnormalised(self._negative_phase()).mean()
        return self._value() + (negative - negative.detach())

    def _value(self) -> Tensor:
        if not self.training:
            return self.log_partition().value
        temperatures = max(1, self.temperatures // _SHARE_IN_TRAINING)
        with torch.no_grad():
            return annealed(self.couplings, self.chains, temperatures).value

    def _negative_phase(self) -> Float[Tensor, "chains latent"]:
        """The persistent chains, in training moved on by some sweeps."""
        z = self.chains.clone()
        if self.training:
            with torch.no_grad():
                for _ in range(self.sweeps):
                    z = self.couplings.sweep(z)
                self.chains.copy_(z)
        return z

    def _draw(self, number: int) -> Float[Tensor, "number latent"]:
        if self._units <= _EXACT_IN_TRAINING:
            small = smaller_layer(self.couplings)
            return draw_exactly(self.couplings, state_log_weights(small), number)
        if not self.training:
            log_weights = self._evaluated().log_weights
            if log_weights is not None:
                return draw_exactly(self.couplings, log_weights, number)
        start = torch.randint(len(self.chains), (number,), device=self.chains.device)
        return self._swept(self.couplings, self.chains[start])

    def _evaluated(self) -> "_Known":
        """What is known at these parameters; found out once for each state of them."""
        if self._known is None or not self._known.couplings.same(self.couplings):
            with torch.no_grad():
                self._known = self._find_out(self.couplings.held())
        return self._known

    def _find_out(self, couplings: Couplings) -> "_Known":
        if self._units <= _EXACT_AT_ALL:
            log_weights = state_log_weights(smaller_layer(couplings))
            value = log_total(log_weights)
            exact = LogPartition(value, torch.zeros_like(value), exact=True)
            return _Known(couplings, exact, log_weights)
        # A fixed stream: the same number whatever is estimated with it, and nobody's draws move.
        with seeded(0, Stream.EVALUATION, *self.weight.shape, self.temperatures):
            z = self._swept(couplings, self.chains)
            return _Known(couplings, annealed_from_both_sides(couplings, z, self.temperatures))

    def _swept(
        self, couplings: Couplings, z: Float[Tensor, "number latent"]
    ) -> Float[Tensor, "number latent"]:
        """The chains after the sweeps that make draws of them."""
        for _ in range(_SWEEPS_OF_A_DRAW):
            z = couplings.sweep(z)
        return z


@dataclass(frozen=True, eq=False)
class _Known:
    """What evaluation found at given parameters; the states' log-weights, if they were summed."""

    couplings: Couplings
    partition: LogPartition
    log_weights: Tensor | None = None
