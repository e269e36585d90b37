"""A mixture of Gaussians with learned components, and the clusters it may start from."""

import math
import warnings
from typing import Any, Literal, NamedTuple, final

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.nn import functional

from ppl_vae.distributions import Mixture
from ppl_vae.names import require_sizes
from ppl_vae.priors._values import register

_LEAST_VARIANCE = 1e-6
"""Variance added to the pooled ones, so that points that coincide leave full rank."""


class _Clusters(NamedTuple):
    """Moments of clusters; ``shares`` are those of the points in each, one added to each."""

    shares: Float[Tensor, " clusters"]
    means: Float[Tensor, "clusters latent"]
    covariances: Float[Tensor, "clusters latent latent"]


def _find_clusters(points: Float[Tensor, "points latent"], count: int) -> _Clusters:
    """``count`` clusters by k-means, their covariances shrunk towards the mean variances of all.

    A cluster of n points keeps ``n / (n + latent + 1)`` of its own covariance, so that one with few
    points has a covariance of full rank.
    """
    if len(points) < count:
        raise ValueError(
            f"{count} components need as many latent points to start from, got {len(points)}."
        )
    if not bool(points.isfinite().all()):
        raise ValueError("latent points to start from must be finite: look at the encoder.")
    points = points.double()
    labels = _k_means(points, count).to(points.device)
    members = functional.one_hot(labels, count).to(points.dtype)
    sizes = members.sum(0)
    means = members.mT @ points / sizes.clamp(min=1).unsqueeze(-1)
    centred = points - means[labels]
    scatter = torch.einsum("nc,ni,nj->cij", members, centred, centred)
    pooled = (centred.square().mean(0) + _LEAST_VARIANCE).diag()
    # Weight of the pooled variances, in points: full rank with a single point.
    prior = points.shape[1] + 1
    covariances = (scatter + prior * pooled) / (sizes + prior).reshape(-1, 1, 1)
    return _Clusters((sizes + 1) / (sizes + 1).sum(), means, covariances)


def _k_means(points: Float[Tensor, "points latent"], count: int) -> Int[Tensor, " points"]:
    # Here, not above: it takes longer to import than all else that a prior needs.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    # scikit-learn has random states of its own: this one follows from that of torch.
    seed = int(torch.randint(2**31 - 1, ()))
    with warnings.catch_warnings():
        # Points that coincide leave clusters empty; those start with the pooled variances.
        warnings.simplefilter("ignore", ConvergenceWarning)
        k_means = KMeans(count, n_init=1, random_state=seed).fit(points.cpu().numpy())
    return torch.from_numpy(k_means.labels_).long()


_MOST_SPREAD, _SEPARATION = 0.5, 2.0
"""Variance of the means at the start: at most, and times the number of dimensions."""

_MOST_POINTS = 10_000
"""Largest number of points for k-means: more cost time and hardly move its clusters."""


@final
class GaussianMixturePrior(nn.Module):
    r"""``p(z) = sum_c pi_c Normal(z; m_c, C_c)``, all learned.

    Components that start alike stay alike, and components that start far apart each keep the data
    that happen to lie nearest. So the means start as draws of Normal(0, v I) with v = 2/latent, at
    most 1/2: about two standard deviations from each other in any number of dimensions. The
    covariances start at (1 - v) I, the mixture close to the standard normal. :meth:`initialize`
    puts components at clusters of latent points instead, such as draws of a guide for its training
    data: ``prior.initialize(encoder(x).sample())``. That is of use where the guide is trained
    already; clusters of an untrained guide are no start for a new model.

    A density costs ``components * latent`` operations, ``components * latent^2`` with full
    covariances. Draws are differentiable in m_c and C_c, but not in the weights: for an objective
    that differentiates draws of the prior (``mmd``, ``info-vae``) set ``learn_weights=False``.

    Args:
        latent: Number of latent dimensions.
        components: Number of normals.
        covariance: ``diagonal``, or ``full``, by Cholesky factors.
        learn_weights: Whether the weights pi are learned; else they are equal.

    Raises:
        ValueError: If latent or components are less than 1, or the covariance is of no known kind.

    References:
        Nalisnick, Hertel and Smyth, 2016, Approximate inference for deep latent Gaussian mixtures.
        Dilokthanakul et al., 2016, Deep unsupervised clustering with Gaussian mixture variational
        autoencoders.
    """

    logits: Tensor

    def __init__(
        self,
        latent: int,
        components: int = 50,
        covariance: Literal["diagonal", "full"] = "diagonal",
        learn_weights: bool = True,
    ) -> None:
        super().__init__()
        require_sizes(latent=latent, components=components)
        if covariance not in ("diagonal", "full"):
            raise ValueError(f"covariance must be 'diagonal' or 'full', got {covariance!r}.")
        # Means and components share a variance of 1: v for the means, 1 - v within.
        spread = min(_MOST_SPREAD, _SEPARATION / latent)
        self.loc = nn.Parameter(math.sqrt(spread) * torch.randn(components, latent))
        log_scale = torch.full((components, latent), math.log(1 - spread) / 2)
        full = covariance == "full"
        self.root = nn.Parameter(log_scale.diag_embed() if full else log_scale)
        register(self, learn_weights, logits=torch.zeros(components))

    def forward(self) -> Mixture:
        """The prior, event shape (latent,)."""
        if self._diagonal:
            normal = dist.Normal(self.loc, self.root.exp(), validate_args=False).to_event(1)
        else:
            scale_tril = transform_to(constraints.lower_cholesky)(self.root)
            normal = dist.MultivariateNormal(self.loc, scale_tril=scale_tril, validate_args=False)
        return Mixture(normal, self.logits)

    @property
    def _diagonal(self) -> bool:
        return self.root.dim() == self.loc.dim()

    @torch.no_grad()
    def initialize(self, z: Float[Tensor, "points latent"]) -> None:
        """Start again from clusters of latent points: weights, means and covariances.

        The clusters are scikit-learn's, by k-means, of a random 10,000 points if there are more. Of
        a guide take draws, not means: the mixture should have the guide's own spread as well.

        Raises:
            ValueError: If there are fewer points than components, or one is not finite.
        """
        points = z[torch.randperm(len(z))[:_MOST_POINTS]]
        clusters = _find_clusters(points, len(self.loc))
        self.loc.copy_(clusters.means)
        if self._diagonal:
            self.root.copy_(clusters.covariances.diagonal(dim1=-2, dim2=-1).log() / 2)
        else:
            scale_tril = torch.linalg.cholesky(clusters.covariances)
            self.root.copy_(transform_to(constraints.lower_cholesky).inv(scale_tril))
        if self.logits.requires_grad:
            self.logits.copy_(clusters.shares.log())

    @torch.no_grad()
    def fit(
        self,
        z: Float[Tensor, "points latent"],
        held_out: Float[Tensor, "others latent"] | None = None,
    ) -> float | None:
        """Fit by maximum likelihood to latent points, as the density of an autoencoder's codes.

        By scikit-learn's EM from k-means. A variance is added to all directions, as maximum
        likelihood over the points alone closes in on them: of some shares of the mean variance,
        that under which held-out points are the most likely, or 1/1000 without such points.

        Args:
            z: Points, such as codes of training data; at most 10,000 random ones are taken.
            held_out: Points that choose the added variance, such as codes of validation data.

        Returns:
            Mean log-density of the held-out points, in nats; None without them.

        Raises:
            ValueError: If there are fewer points than components, or one is not finite.

        References:
            Ghosh, Sajjadi, Vergari, Black and Schoelkopf, 2020, From variational to deterministic
            autoencoders.
        """
        points = z[torch.randperm(len(z))[:_MOST_POINTS]]
        given = [points] if held_out is None else [points, held_out]
        if len(points) < len(self.loc) or not all(bool(each.isfinite().all()) for each in given):
            raise ValueError(
                f"{len(self.loc)} components need as many finite latent points, got {len(points)}: "
                "take fewer components, or look at the encoder."
            )
        arrays = [each.double().cpu().numpy() for each in given]
        shares = _SHARES if held_out is not None else _SHARES[1:2]
        seed = int(torch.randint(2**31 - 1, ()))
        fits = [_em(arrays[0], len(self.loc), share, self._diagonal, seed) for share in shares]
        scores = [float(each.score(arrays[-1])) for each in fits]
        best = fits[max(range(len(fits)), key=scores.__getitem__)]
        self.loc.copy_(torch.from_numpy(best.means_))
        covariances = torch.from_numpy(best.covariances_)
        if self._diagonal:
            self.root.copy_(covariances.log() / 2)
        else:
            scale_tril = torch.linalg.cholesky(covariances)
            self.root.copy_(transform_to(constraints.lower_cholesky).inv(scale_tril))
        self.logits.copy_(torch.from_numpy(best.weights_).clamp(min=1e-12).log())
        return None if held_out is None else max(scores)


_SHARES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3)
"""Shares of the mean variance that are tried as the variance to add."""


def _em(points: Any, components: int, share: float, diagonal: bool, seed: int) -> Any:
    """Fit a mixture by EM; ``share`` of the mean variance is added to all directions."""
    # Here, as for k-means.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    least = max(share * float(points.var(0).mean()), _LEAST_VARIANCE)
    kind = "diag" if diagonal else "full"
    with warnings.catch_warnings():
        # A few iterations more or less are nothing beside the choice of the added variance.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(components, covariance_type=kind, reg_covar=least,
                               random_state=seed).fit(points)  # fmt: skip
