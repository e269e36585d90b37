"""A normal tilted by a learned energy, trained against the normal itself."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Size, Tensor, nn
from torch.nn import functional

from ppl_vae.priors._snis import resample_normals
from ppl_vae.priors._tilted import NormalDraws, Tilt, TiltedDistribution, log_mean_exp_with_error
from ppl_vae.priors._values import require_sizes
from ppl_vae.randomness import Stream, seeded


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
        """Tell z from normal draws: at the optimum ``U = log p_z - log Normal`` and Z = 1.

        Minimises the logistic loss of U(z) against U at as many normal draws. What is fitted is the
        distribution that z come from, such as the guide's draws over all training data.

        Args:
            z: Latents to model.
            steps: Updates of Adam.
            batch_size: Latents at each.
            learning_rate: Adam's.
            seed: Of the batches and the normal draws.

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
        """The best of so many normal draws each: approximate."""
        shape = self._extended_shape(Size(sample_shape))
        return resample_normals(self._tilt, shape, self._count, self._constant)
