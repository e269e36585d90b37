"""Priors of binary and categorical latents."""

import functools
from typing import NamedTuple, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.distributions import (
    Couplings,
    LogPartition,
    OneHotVector,
    RestrictedBoltzmann,
    annealed,
    annealed_from_both_sides,
    draw_exactly,
    log_total,
    smaller_layer,
    state_log_weights,
)
from ppl_vae.names import require_sizes
from ppl_vae.priors._values import KeptValue, register
from ppl_vae.randomness import Stream, seeded


@final
class BernoulliPrior(nn.Module):
    """``p(z) = prod_d Bernoulli(z_d; sigmoid(l_d))`` over {0, 1}; starts uniform.

    For latents that are to be read as switches. The draws have no pathwise gradient: train by
    VIMCO, RWS, Reinforce or TVO; up to some 20 latents, Enumeration gives log p(x) exactly.

    Args:
        latent: Number of latents.
        learned: Whether the logits l are parameters; else they stay 0.

    Raises:
        ValueError: If latent is less than 1.

    References:
        Mnih and Gregor, 2014, Neural variational inference and learning in belief networks.
    """

    logits: Tensor

    def __init__(self, latent: int, learned: bool = True) -> None:
        super().__init__()
        require_sizes(latent=latent)
        register(self, learned, logits=torch.zeros(latent))

    def forward(self) -> dist.Distribution:
        """The prior, event shape (latent,)."""
        return dist.Bernoulli(logits=self.logits).to_event(1)


@final
class CategoricalPrior(nn.Module):
    """``p(z) = prod_v Categorical(z_v; softmax(l_v))``, each variable one-hot; starts uniform.

    The event is what a decoder's network takes: the one-hot vectors of all variables side by side,
    latent = variables * classes numbers. With one variable, a mixture model with one decoder for
    all components. The draws have no pathwise gradient: train by VIMCO, RWS, Reinforce or TVO; up
    to a million configurations, Enumeration gives log p(x) exactly.

    Args:
        latent: Length of the event, a multiple of classes.
        classes: Values of each variable.
        learned: Whether the logits l are parameters; else they stay 0.

    Raises:
        ValueError: If classes is less than 2 or latent no multiple of it.
    """

    logits: Tensor

    def __init__(self, latent: int, classes: int, learned: bool = True) -> None:
        super().__init__()
        if classes < 2 or latent < 1 or latent % classes:
            raise ValueError(
                "latent must be a multiple of classes, which must be 2 or more, got latent "
                f"{latent} and classes {classes}: V variables of C classes are V * C latents."
            )
        self.classes = classes
        register(self, learned, logits=torch.zeros(latent))

    def forward(self) -> OneHotVector:
        """The prior, event shape (latent,)."""
        return OneHotVector(self.logits, self.classes)


_EXACT_IN_TRAINING = 12
"""Largest smaller layer whose states are summed at every update: some milliseconds."""

_EXACT_AT_ALL = 20
"""Largest smaller layer whose states are summed once for each evaluation: some seconds."""

_SHARE_IN_TRAINING = 50
"""Factor by which an update takes fewer temperatures than an evaluation."""

_SWEEPS_OF_A_DRAW = 50
"""Sweeps after which chains are taken for draws."""


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
        sweeps: Sweeps of block Gibbs sampling of the persistent chains at each update.
        temperatures: Number of temperatures of annealed importance sampling in evaluation.

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
        self._kept: KeptValue[_Evaluated] = KeptValue()

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
        partition = self.log_partition()
        return partition.value.item(), partition.standard_error.item()

    @property
    def _units(self) -> int:
        return min(self.weight.shape)

    def _log_partition(self) -> Tensor:
        """Log Z with its gradient, or a value of it with the gradient that training takes."""
        if self._units <= _EXACT_IN_TRAINING:
            return log_total(state_log_weights(smaller_layer(self.couplings)))
        if not torch.is_grad_enabled():
            return self.log_partition().value
        # Contrastive divergence moves the chains before the weights are taken at them.
        negative = self.couplings.log_unnormalised(self._negative_phase()).mean()
        if self.training:
            temperatures = max(1, self.temperatures // _SHARE_IN_TRAINING)
            with torch.no_grad():
                value = annealed(self.couplings, self.chains, temperatures).value
        else:
            value = self.log_partition().value
        # Adds 0 to the value, and the gradient of contrastive divergence.
        return value + (negative - negative.detach())

    def _negative_phase(self) -> Float[Tensor, "chains latent"]:
        """The persistent chains, in training moved on by some sweeps."""
        # The graph of the log-weights keeps z while the chains move on.
        z = self.chains.clone()
        if self.training:
            with torch.no_grad():
                for _ in range(self.sweeps):
                    z = self.couplings.sweep(z)
                self.chains.copy_(z)
        return z

    def _draw(self, number: int) -> Float[Tensor, "number latent"]:
        log_weights = None
        if self._units <= _EXACT_IN_TRAINING:
            log_weights = state_log_weights(smaller_layer(self.couplings))
        elif not self.training:
            log_weights = self._evaluated().log_weights
        if log_weights is not None:
            return draw_exactly(self.couplings, log_weights, number)
        start = torch.randint(len(self.chains), (number,), device=self.chains.device)
        return self._swept(self.chains[start])

    def _evaluated(self) -> "_Evaluated":
        return self._kept(self.couplings, self._evaluate)

    def _evaluate(self) -> "_Evaluated":
        if self._units <= _EXACT_AT_ALL:
            log_weights = state_log_weights(smaller_layer(self.couplings))
            value = log_total(log_weights)
            exact = LogPartition(value, torch.zeros_like(value), exact=True)
            return _Evaluated(exact, log_weights)
        # A fixed stream: the same number whatever is estimated with it, and nobody's draws move.
        with seeded(0, Stream.EVALUATION, *self.weight.shape, self.temperatures):
            z = self._swept(self.chains)
            return _Evaluated(annealed_from_both_sides(self.couplings, z, self.temperatures))

    def _swept(self, z: Float[Tensor, "number latent"]) -> Float[Tensor, "number latent"]:
        """The chains after the sweeps that make draws of them."""
        for _ in range(_SWEEPS_OF_A_DRAW):
            z = self.couplings.sweep(z)
        return z


@final
class _Evaluated(NamedTuple):
    """Results of evaluation at given parameters; the states' log-weights, if they were summed."""

    partition: LogPartition
    log_weights: Tensor | None = None
