"""The best of several normal draws, by a learned preference."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn

from ppl_vae.priors._tilted import NormalDraws, Tilt, TiltedDistribution
from ppl_vae.priors._values import require_sizes

_NUMBERS_AT_ONCE = 2_000_000


@final
class SelfNormalizedImportancePrior(nn.Module):
    """z is one of K normal draws, taken with probability ``exp U(z_k) / sum_j exp U(z_j)``.

    Its density, ``p(z) = Normal(z; 0, I) E[K e^U(z) / (e^U(z) + sum_(j=2..K) e^U(z_j))]`` over the
    K - 1 other draws, has no closed form. What is used is the term in brackets at one set of draws:
    unbiased for p(z), so that its logarithm is a lower bound of log p(z) on average. The ELBO
    stays a lower bound, and importance weights stay unbiased for p(x). The draws are fresh at each
    update, and fixed in evaluation: then what they are off by is the same for all data, some
    1/sqrt(K) nats, and no interval of an evidence estimate holds it.

    Args:
        latent: Number of latent dimensions.
        proposals: K, at least 2.
        hidden: Hidden layer sizes of U's network.

    Raises:
        ValueError: If a number is out of range.

    References:
        Lawson, Tucker, Dai and Ranganath, 2019, Energy-inspired models: learning with
        sampler-induced distributions.
    """

    def __init__(
        self, latent: int, proposals: int = 1024, hidden: tuple[int, ...] = (100, 100)
    ) -> None:
        super().__init__()
        require_sizes(latent=latent)
        if proposals < 2:
            raise ValueError(f"proposals must be 2 or more, got {proposals}.")
        self.tilt = Tilt(latent, hidden)
        self.others = NormalDraws(latent, proposals - 1, proposals - 1)

    def forward(self) -> "SelfNormalizedImportance":
        """The prior, event shape (latent,)."""
        return SelfNormalizedImportance(
            self.tilt, self.others(self.tilt).logsumexp(0), self.others.in_evaluation + 1,
            self.others.latent,
        )  # fmt: skip


@final
class SelfNormalizedImportance(TiltedDistribution):
    """One of K normal draws, by ``softmax U``; the density at one set of K - 1 others.

    The constant is ``log sum_(j=2..K) exp U(z_j)``, the count K. ``log_prob`` is the logarithm of
    an unbiased estimate of the density.
    """

    def _log_factor(self, tilt: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return tilt - torch.logaddexp(tilt, self._constant) + math.log(self._count)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Exact draws, each from K normal draws of its own."""
        shape = self._extended_shape(Size(sample_shape))
        return resample_normals(self._tilt, shape, self._count, self._constant)


def resample_normals(
    tilt: Tilt, shape: Sequence[int], proposals: int, like: Tensor
) -> Float[Tensor, "..."]:
    """One of so many normal draws by ``softmax U``, for each of a shape ``(..., latent)``."""
    latent, count = shape[-1], math.prod(shape[:-1])
    at_once = max(1, _NUMBERS_AT_ONCE // (proposals * latent))
    rows = [like.new_zeros(0, latent)]
    with torch.no_grad():
        for start in range(0, count, at_once):
            size = min(at_once, count - start)
            z = torch.randn(size, proposals, latent, dtype=like.dtype, device=like.device)
            chosen = torch.softmax(tilt(z), 1).multinomial(1)
            rows.append(z.gather(1, chosen.unsqueeze(-1).expand(-1, 1, latent)).squeeze(1))
    return torch.cat(rows).reshape(*shape)
