"""The prior of an Exemplar VAE: a Parzen window over the training data."""

import math
import warnings
from collections.abc import Callable
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ppl_vae.distributions import Mixture
from ppl_vae.priors._encoded import EncodedMeans
from ppl_vae.priors._rows import RowIndex
from ppl_vae.priors._values import register, require_sizes


@final
class ExemplarPrior(nn.Module):
    r"""``p(z) = (1/N) sum_n Normal(z; m(x_n), s^2 I)``, m(x_n) the guide's mean for exemplar n.

    A Parzen window over the training data in latent space, of one learned width s. In training
    mode, each call takes M exemplars at random, and :meth:`without` leaves each datum of the batch
    out of its own prior, which else would be highest at its own code:

        log (1/M') sum_(n in subset, n != i) Normal(z_i; m(x_n), s^2 I).

    The mean of a random subset is unbiased for that of all others, and its logarithm low in
    expectation (Jensen): a training bound lies below the leave-one-out bound, less so with more
    exemplars. The leave-one-out density, times (N - 1)/N, is at most the density of all exemplars:
    so, up to ``-log(1 - 1/N)`` nats, a training bound is below the bound that evaluation reports.

    In evaluation mode (``.eval()``, in which ``fit`` leaves a model) the prior is the mixture of
    all exemplars, or of a fixed number of them, the same at each call. Only then do estimators of
    log p(x) refer to one model. The exemplars' means are remembered between calls for as long as
    the encoder stays the same.

    The encoder is held as by :class:`~ppl_vae.priors.VampPrior`, and what is said there of
    gradients holds here. The exemplars are training data: they are not saved with the parameters,
    and must be given again.

    An update costs M evaluations of the encoder and ``M * latent`` operations for a density;
    evaluation, ``N * latent`` for a density.

    Args:
        encoder: The guide, ``x (batch, features) -> q(z|x)``, a distribution with a mean.
        data: Training rows, shape (num_data, features).
        exemplars: M, of each call in training mode.
        evaluation_exemplars: How many a mixture has in evaluation mode; None: all.

    Raises:
        ValueError: If there are fewer than 2 exemplars or fewer training rows than exemplars.

    References:
        Norouzi, Fleet and Norouzi, 2020, Exemplar VAE: linking generative models, nearest neighbor
        retrieval, and data augmentation.
    """

    data: Tensor
    evaluated: Tensor

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        data: Float[Tensor, "num_data features"],
        exemplars: int = 500,
        evaluation_exemplars: int | None = None,
    ) -> None:
        super().__init__()
        some = len(data) if evaluation_exemplars is None else evaluation_exemplars
        require_sizes(evaluation_exemplars=some)
        if not 2 <= exemplars <= len(data) or some > len(data):
            raise ValueError(
                f"an exemplar prior needs from 2 to as many exemplars as training rows "
                f"({len(data)}), got {exemplars}, and {some} for evaluation."
            )
        self._means = EncodedMeans(encoder)
        self._exemplars = exemplars
        self.log_scale = nn.Parameter(data.new_zeros(()))
        # A stream of its own: the same exemplars whenever the model is built.
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        evaluated = data if some == len(data) else data[order[:some].to(data.device)]
        register(self, learned=False, data=data, evaluated=evaluated)
        self.index = RowIndex(data)
        self._looked = False

    def forward(self) -> Mixture:
        """The prior, event shape (latent,)."""
        if not self.training:
            return self._mixture(self._means.remembered(self.evaluated))
        return self._mixture(self._means(self.data[self._subset()]))

    def without(self, x: Float[Tensor, "batch features"]) -> Mixture:
        """In training mode, the prior of each datum x_i without x_i; batch shape (batch,).

        A datum is left out where it is a training row, and one copy of it where there are several.
        In evaluation mode the prior as it is.
        """
        if not self.training:
            return self.forward()
        subset = self._subset()
        own = self.index(x)
        self._warn_of_strangers(own)
        means = self._means(self.data[subset])
        logits = means.new_zeros(len(x), len(subset))
        return self._mixture(means, logits.masked_fill(own.unsqueeze(-1) == subset, -math.inf))

    def _mixture(
        self, means: Float[Tensor, "exemplars latent"], logits: Tensor | None = None
    ) -> Mixture:
        logits = means.new_zeros(len(means)) if logits is None else logits
        normal = dist.Normal(means, self.log_scale.exp(), validate_args=False)
        return Mixture(normal.to_event(1), logits)

    def _subset(self) -> Int[Tensor, " exemplars"]:
        return torch.randperm(len(self.data), device=self.data.device)[: self._exemplars]

    def _warn_of_strangers(self, own: Int[Tensor, " batch"]) -> None:
        """Once, as looking makes a GPU wait."""
        if not self._looked and not bool((own >= 0).any()):
            warnings.warn(
                "no row of this batch is an exemplar, so that none is left out of its own prior: "
                "data that are binarised anew for each batch never are; binarise them once, by "
                'binarize="static".',
                stacklevel=2,
            )
        self._looked = True
