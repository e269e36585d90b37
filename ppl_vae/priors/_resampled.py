"""Priors made of normal draws that a network accepts, prefers or weighs."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn
from torch.nn import functional

from ppl_vae.names import require_least, require_sizes
from ppl_vae.priors._tilted import NormalDraws, Tilt, TiltedDistribution, log_mean_exp_with_error
from ppl_vae.randomness import Stream, seeded

_NUMBERS_AT_ONCE = 2_000_000
"""Largest number of coordinates of proposals that are held at once."""


@final
class LearnedAcceptRejectPrior(nn.Module):
    """``p(z) = Normal(z; 0, I) ((1 - r) a(z) / Z + r)``, with a(z) learned in (0, 1).

    Normal draws, each accepted with probability a(z), the T-th whatever it is; ``Z = E[a(z)]`` and
    ``r = (1 - Z)^(T - 1)``. Any density below a multiple of the normal's can be had, and exact
    draws at a cost of 1/Z.

    Z is estimated by its mean over draws: fresh ones in training, fixed ones in evaluation. As
    ``E log Z^ <= log Z``, log p(z) is too large on average, by about half the squared standard
    error that :meth:`log_normalizer` states; that error is the same for all data, and no interval
    of an evidence estimate holds it. With the default 2^17 draws it is some thousandths of a nat.

    Args:
        latent: Number of latent dimensions.
        hidden: Hidden layer sizes of a's network.
        truncation: Number of proposals T, at least 2.
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
        require_least(2, truncation=truncation)
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
        # Z rounds to 1 where a is 1 nearly everywhere, and then nothing is ever rejected.
        log_rejected = torch.log(-torch.expm1(self._constant.clamp(max=-1e-6)))
        log_rest = (self._count - 1) * log_rejected
        # Log-space: (1 - r) a / Z + r, whose r is tiny where T is large.
        accepted = functional.logsigmoid(tilt) - self._constant
        # r rounds to 1 where Z is near 0: then the last proposal is all there is.
        kept = torch.log(-torch.expm1(log_rest.clamp(max=-1e-12))) + accepted
        return torch.logaddexp(kept, log_rest)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Normal draws until one is accepted, the T-th at the latest."""
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            z = torch.randn(shape, dtype=self._constant.dtype, device=self._constant.device)
            # A view of z: rejected rows are drawn again in place.
            rows = z.view(-1, shape[-1])
            pending = torch.arange(len(rows), device=rows.device)
            for _ in range(self._count - 1):
                proposals = rows[pending]
                accepted = torch.rand(len(pending)).to(rows) < torch.sigmoid(self._tilt(proposals))
                pending = pending[~accepted]
                if not len(pending):
                    break
                rows[pending] = torch.randn_like(rows[pending])
        return rows.view(shape)


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
        proposals: Number of normal draws K, at least 2.
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
        require_least(2, proposals=proposals)
        self.tilt = Tilt(latent, hidden)
        # The K-th draw is z itself.
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
    """Choose one of so many normal draws by ``softmax U``, in a shape ``(..., latent)``."""
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


@final
class EnergyPrior(nn.Module):
    """``p(z) = Normal(z; 0, I) exp(U(z)) / Z`` with ``Z = E[exp U(z)]`` over normal draws.

    Z is estimated by its mean over draws: fresh ones in training, fixed ones in evaluation. As
    ``E log Z^ <= log Z``, log p(z) is too large on average: a lower bound of log p(x) is one only
    up to the standard error that :meth:`log_normalizer` states, which is the same for all data and
    which no interval of an evidence estimate holds. In many dimensions it can be large where U
    takes p far from the normal: then trust none of it.

    With the model it is trained by the gradient of that estimate. By itself, on latents of a
    trained model, :meth:`fit_noise_contrastive` trains it without any Z. Draws are the best of
    ``proposals`` normal draws by exp U: approximate, better with more.

    The last bias of U cancels in p(z), so that trained with the model it has no gradient but
    rounding. It is there for the noise-contrastive fit, where it takes Z to 1.

    Args:
        latent: Number of latent dimensions.
        hidden: Hidden layer sizes of U's network.
        draws: Draws for Z at each update.
        evaluation_draws: Fixed draws for Z in evaluation.
        proposals: Normal draws that each draw is chosen from.

    Raises:
        ValueError: If a number is less than 1.

    References:
        Aneja, Schwing, Kautz and Vahdat, 2021, A contrastive learning approach for training
        variational autoencoder priors.
        Pang et al., 2020, Learning latent space energy-based prior model.
    """

    def __init__(
        self,
        latent: int,
        hidden: tuple[int, ...] = (100, 100),
        draws: int = 1024,
        evaluation_draws: int = 2**17,
        proposals: int = 1000,
    ) -> None:
        super().__init__()
        require_sizes(
            latent=latent, draws=draws, evaluation_draws=evaluation_draws, proposals=proposals
        )
        self.proposals = proposals
        self.tilt = Tilt(latent, hidden)
        self.reference = NormalDraws(latent, draws, evaluation_draws)

    def forward(self) -> "TiltedNormal":
        """The prior, event shape (latent,)."""
        at_draws = self.reference(self.tilt)
        log_normalizer = torch.logsumexp(at_draws, 0) - math.log(len(at_draws))
        return TiltedNormal(self.tilt, log_normalizer, self.proposals, self.reference.latent)

    def log_normalizer(self) -> tuple[float, float]:
        """``log Z`` as it stands, and its standard error, both in nats."""
        with torch.no_grad():
            return log_mean_exp_with_error(self.reference(self.tilt))

    def fit_noise_contrastive(
        self,
        z: Float[Tensor, "num_data latent"],
        *,
        steps: int = 1000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        """Train U to tell z from normal draws; at best ``U = log p_z - log Normal`` and Z = 1.

        Minimises the logistic loss of U(z) against U at as many normal draws. What is fitted is the
        distribution that z come from, such as the guide's draws over all training data.

        Args:
            z: Latents to model.
            steps: Number of updates of Adam.
            batch_size: Number of latents at each.
            learning_rate: Learning rate of Adam.
            seed: Seed of the batches and the normal draws.

        Raises:
            ValueError: If z has another number of dimensions, or no rows, or steps or sizes are
                less than 1.

        References:
            Gutmann and Hyvarinen, 2010, Noise-contrastive estimation.
        """
        require_sizes(steps=steps, batch_size=batch_size)
        if z.dim() != 2 or z.shape[-1] != self.reference.latent or not len(z):
            raise ValueError(
                f"z must have shape (num_data, {self.reference.latent}), got {tuple(z.shape)}."
            )
        optimizer = torch.optim.Adam(self.tilt.parameters(), lr=learning_rate)
        with seeded(seed, Stream.TRAINING), torch.enable_grad():
            for _ in range(steps):
                real = z[torch.randint(len(z), (batch_size,))].to(self.reference.like)
                noise = torch.randn_like(real)
                # The logistic loss of labels 1 and 0, with U itself as the logit.
                loss = functional.softplus(-self.tilt(real)).mean()
                loss = loss + functional.softplus(self.tilt(noise)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


@final
class TiltedNormal(TiltedDistribution):
    """``Normal(z; 0, I) exp(U(z)) / Z``.

    The constant is log Z, the count the normal draws that each draw is chosen from.
    """

    def _log_factor(self, tilt: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return tilt - self._constant

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Approximate draws, each chosen from so many normal draws."""
        shape = self._extended_shape(Size(sample_shape))
        return resample_normals(self._tilt, shape, self._count, self._constant)
