"""A normal whose draws are accepted or not by a learned probability."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn
from torch.nn import functional

from ppl_vae.priors._tilted import NormalDraws, Tilt, TiltedDistribution, log_mean_exp_with_error
from ppl_vae.priors._values import require_sizes


@final
class LearnedAcceptRejectPrior(nn.Module):
    """``p(z) = Normal(z; 0, I) ((1 - r) a(z) / Z + r)``, with a(z) learned in (0, 1).

    What is left of normal draws, each accepted with probability a(z), when the T-th is taken
    whatever it is; ``Z = E[a(z)]`` and ``r = (1 - Z)^(T - 1)``. Any density below a multiple of the
    normal's can be had, and exact draws at a cost of 1/Z.

    Z is estimated by its mean over draws: fresh ones in training, fixed ones in evaluation. As
    ``E log Z^ <= log Z``, log p(z) is too large on average, by about half the squared standard
    error that :meth:`log_normalizer` states; that error is the same for all data, and no interval
    of an evidence estimate holds it. With the default 2^17 draws it is some thousandths of a nat.

    Args:
        latent: Number of latent dimensions.
        hidden: Hidden layer sizes of a's network.
        truncation: T, at least 2.
        draws: Draws for Z at each update.
        evaluation_draws: Fixed draws for Z in evaluation.

    Raises:
        ValueError: If a number is out of range.

    References:
        Bauer and Mnih, 2019, Resampled priors for variational autoencoders.
    """

    def __init__(
        self,
        latent: int,
        hidden: tuple[int, ...] = (100, 100),
        truncation: int = 100,
        draws: int = 1024,
        evaluation_draws: int = 2**17,
    ) -> None:
        super().__init__()
        require_sizes(latent=latent, draws=draws, evaluation_draws=evaluation_draws)
        if truncation < 2:
            raise ValueError(f"truncation must be 2 or more, got {truncation}.")
        self.truncation = truncation
        self.tilt = Tilt(latent, hidden)
        self.reference = NormalDraws(latent, draws, evaluation_draws)

    def forward(self) -> "AcceptReject":
        """The prior, event shape (latent,)."""
        at_draws = functional.logsigmoid(self.reference(self.tilt))
        log_normalizer = torch.logsumexp(at_draws, 0) - math.log(len(at_draws))
        return AcceptReject(self.tilt, log_normalizer, self.truncation, self.reference.latent)

    def log_normalizer(self) -> tuple[float, float]:
        """``log Z`` as it stands, and its standard error, both in nats."""
        with torch.no_grad():
            return log_mean_exp_with_error(functional.logsigmoid(self.reference(self.tilt)))


@final
class AcceptReject(TiltedDistribution):
    """``Normal(z; 0, I) ((1 - r) a(z) / Z + r)`` with ``a = sigmoid(U)``, ``r = (1 - Z)^(T - 1)``.

    The constant is log Z, the count T.
    """

    def _log_factor(self, tilt: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # Z = 1 only in rounding, when a is 1 nearly everywhere: nothing is ever rejected then.
        log_rejected = torch.log(-torch.expm1(self._constant.clamp(max=-1e-6)))
        log_rest = (self._count - 1) * log_rejected
        accepted = functional.logsigmoid(tilt) - self._constant
        kept = torch.log(-torch.expm1(log_rest.clamp(max=-1e-12))) + accepted
        return torch.logaddexp(kept, log_rest)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Normal draws until one is accepted, the T-th at the latest."""
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            z = torch.randn(shape, dtype=self._constant.dtype, device=self._constant.device)
            rows = z.view(-1, shape[-1])
            open_ = torch.arange(len(rows), device=rows.device)
            for _ in range(self._count - 1):
                accepted = torch.rand(len(open_)).to(rows) < torch.sigmoid(self._tilt(rows[open_]))
                open_ = open_[~accepted]
                if not len(open_):
                    break
                rows[open_] = torch.randn_like(rows[open_])
        return rows.view(shape)
