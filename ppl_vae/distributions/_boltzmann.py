"""The restricted Boltzmann machine over binary vectors, its log Z and its draws by sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, final

import torch
from jaxtyping import Float, Int
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn.functional import linear, softplus

from ppl_vae.distributions._precision import in_double

BLOCK = 2**22
"""Largest number of states times units of the other layer computed at once."""


class Couplings(NamedTuple):
    """``E(z, h) = -b'z - c'h - z'W h`` over binary z and h.

    Attributes:
        visible: b, shape (latent,).
        hidden: c, shape (hidden,).
        weight: W, shape (latent, hidden).
    """

    visible: Float[Tensor, " latent"]
    hidden: Float[Tensor, " hidden"]
    weight: Float[Tensor, "latent hidden"]

    def log_unnormalised(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """Minus the free energy: ``b'z + sum_j log(1 + exp(c_j + z'W_j))``."""
        return (z * self.visible).sum(-1) + softplus(self.hidden_logits(z)).sum(-1)

    def hidden_logits(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape hidden"]:
        """Logits of h given z: ``c + W'z``."""
        return linear(z, self.weight.mT, self.hidden)

    def visible_logits(self, h: Float[Tensor, "*shape hidden"]) -> Float[Tensor, "*shape latent"]:
        """Logits of z given h: ``b + W h``."""
        return linear(h, self.weight, self.visible)

    def sweep(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape latent"]:
        """Take a sweep of block Gibbs sampling, first all of h given z, then all of z given h."""
        h = torch.bernoulli(torch.sigmoid(self.hidden_logits(z)))
        return torch.bernoulli(torch.sigmoid(self.visible_logits(h)))


class BinaryEnergy(Protocol):
    """What a density of binary vectors takes of a machine, the other layer summed out.

    Attributes:
        visible: A value for each of the binary units, shape (latent,).
    """

    @property
    def visible(self) -> Float[Tensor, " latent"]: ...

    def log_unnormalised(self, z: Float[Tensor, "*shape latent"]) -> Float[Tensor, "*shape"]:
        """Log p(z) + log Z."""
        ...


@final
class RestrictedBoltzmann(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """``p(z) = sum_h exp(b'z + c'h + z'W h) / Z`` over binary z.

    Args:
        couplings: b, c and W, or what they give a density by; not checked.
        log_partition: Gives log Z, called when a density is first asked for, and then no more.
        draw: Gives so many draws, shape ``(number, latent)``.
        batch_shape: Shape of independent copies.
        validate_args: Whether values are checked.

    References:
        Smolensky, 1986, Information processing in dynamical systems: foundations of harmony theory.
        Hinton, 2002, Training products of experts by minimizing contrastive divergence.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self,
        couplings: BinaryEnergy,
        log_partition: Callable[[], Tensor],
        draw: Callable[[int], Tensor],
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.couplings, self.log_partition, self.draw = couplings, log_partition, draw
        event_shape = couplings.visible.shape
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "RestrictedBoltzmann":
        """Broadcast the distribution to a batch shape."""
        return RestrictedBoltzmann(
            self.couplings, self.log_partition, self.draw, batch_shape, self._validate_args
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws in {0, 1}, shape ``(*sample_shape, *batch_shape, latent)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return self.draw(shape[:-1].numel()).reshape(shape)

    def log_prob(self, value: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*shape"]:
        """Log-probability in nats, as good as log Z is.

        Raises:
            ValueError: If validation is on (the default) and a value is neither 0 nor 1.
        """
        if self._validate_args and not bool(self.support.check(value).all()):
            raise ValueError(
                "a restricted Boltzmann machine has latents in {0, 1}, got others: pair it with "
                "BernoulliEncoder or another guide of binary latents."
            )
        log_prob = self.couplings.log_unnormalised(value) - self.log_partition()
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


@final
@dataclass(frozen=True, eq=False)
class LogPartition:
    """An estimate of log Z, in nats.

    Attributes:
        value: Exact up to rounding, or ``log Z^`` with ``E Z^ = Z``: then ``E log Z^ <= log Z``, so
            that log-probabilities are too large on average, by about half the squared error.
        standard_error: Standard error of the value; 0 if exact. It does not know of a mode that no
            chain has met.
        exact: Whether all states were summed.
        upper: The estimate from the other side, at least log Z in expectation; None if there is
            none.
    """

    value: Tensor
    standard_error: Tensor
    exact: bool
    upper: Tensor | None = None


def smaller_layer(couplings: Couplings) -> Couplings:
    """Swap the layers where needed, so that the smaller one is the visible one."""
    visible, hidden, weight = couplings
    # The sum is over 2^units states of the visible layer.
    return couplings if len(visible) <= len(hidden) else Couplings(hidden, visible, weight.mT)


def state_log_weights(couplings: Couplings) -> Float[Tensor, " states"]:
    """``log sum_h exp(-E(z, h))`` of every z, in the order of binary numbers; differentiable."""
    latent, hidden = couplings.weight.shape
    index = torch.arange(2**latent, device=couplings.weight.device)
    chunks = index.split(max(1, BLOCK // hidden))
    return torch.cat([couplings.log_unnormalised(states(i, couplings.visible)) for i in chunks])


def log_total(log_weights: Float[Tensor, " states"]) -> Float[Tensor, ""]:
    """Log Z from the log-weights of every state, summed in double precision."""
    return torch.logsumexp(in_double(log_weights), 0).to(log_weights.dtype)


def states(index: Int[Tensor, " number"], like: Float[Tensor, " latent"]) -> Tensor:
    """Binary digits of numbers, lowest first, shape (number, latent), of the type of ``like``."""
    powers = 2 ** torch.arange(len(like), device=index.device)
    return (index.unsqueeze(-1) // powers % 2).to(like)


def draw_exactly(
    couplings: Couplings, log_weights: Float[Tensor, " states"], number: int
) -> Float[Tensor, "number latent"]:
    """Independent draws of z, given the log-weights of every state of the smaller layer."""
    small = smaller_layer(couplings)
    index = torch.multinomial(torch.softmax(in_double(log_weights), 0), number, replacement=True)
    drawn = states(index, small.visible)
    if small is couplings:
        return drawn
    # The states are the hidden layer's, whose draws leave z independent Bernoulli units.
    return torch.bernoulli(torch.sigmoid(couplings.visible_logits(drawn)))
