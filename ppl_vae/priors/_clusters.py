"""Clusters of latent points, from which a mixture starts."""

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_LEAST_VARIANCE = 1e-6


class Clusters(NamedTuple):
    """Moments of clusters.

    Attributes:
        shares: Of the points in each, one added to each; shape (clusters,).
        means: Shape (clusters, latent).
        covariances: Shape (clusters, latent, latent).
    """

    shares: Float[Tensor, " clusters"]
    means: Float[Tensor, "clusters latent"]
    covariances: Float[Tensor, "clusters latent latent"]


def find_clusters(points: Float[Tensor, "points latent"], count: int) -> Clusters:
    """``count`` clusters by k-means, their covariances shrunk towards the mean variances of all.

    A cluster of n points keeps ``n / (n + latent + 1)`` of its own covariance, so that one with few
    points has a covariance of full rank.

    Raises:
        ValueError: If there are fewer points than clusters, or a point is not finite.
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
    prior = points.shape[1] + 1
    covariances = (scatter + prior * pooled) / (sizes + prior).reshape(-1, 1, 1)
    return Clusters((sizes + 1) / (sizes + 1).sum(), means, covariances)


def _k_means(points: Float[Tensor, "points latent"], count: int) -> Int[Tensor, " points"]:
    # Here, not above: it takes longer to import than all else that a prior needs.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    seed = int(torch.randint(2**31 - 1, ()))
    with warnings.catch_warnings():
        # Points that coincide leave clusters empty; those start with the pooled variances.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, n_init=1, random_state=seed).fit(points.cpu().numpy())
    return torch.from_numpy(found.labels_).long()
