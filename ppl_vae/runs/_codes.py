"""What makes an autoencoder a model of x: the density of its codes, the scale of its normal."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import RowTensor, select
from ppl_vae.evidence import (
    AutomaticSampling,
    Estimator,
    Evidence,
    ImportanceSampling,
    LaplaceApproximation,
)
from ppl_vae.likelihoods import NormalDecoder, ObservedDecoder
from ppl_vae.priors import GaussianMixturePrior
from ppl_vae.randomness import Stream, seeded
from ppl_vae.runs._build import codes_of
from ppl_vae.runs._kinds import Finished

if TYPE_CHECKING:
    from ppl_vae.runs._build import Model
    from ppl_vae.runs._job import TrainingJob
    from ppl_vae.vae import VAE

_MOST_CODES = 10_000
"""Largest number of data whose codes a density is fitted to."""
_SEARCHED = 50
"""Number of validation data by which a scale is chosen."""
_ESTIMATORS: Mapping[str, Estimator] = {
    "importance sampling": ImportanceSampling(1000, refine=LaplaceApproximation(steps=10)),
    "automatic": AutomaticSampling(1.0, most=20_000),
}
"""Estimators by which a scale is chosen: the first that leaves few data in doubt."""
_DOUBTFUL, _TOLERATED = 1.0, 0.25
"""Nats of doubt of a datum that are too many, and the share of data that may have them."""
_LEAST = 1e-6
"""Least residual: an autoencoder may copy its data."""
_BELOW, _ABOVE = 1.0, 1.5
"""Ends of the search for log scale, from that of the residuals."""
_TOLERANCE = 0.02
_PRIOR = "prior/"


def fit_codes(model: "Model", job: "TrainingJob", normals: int) -> Finished:
    """Fit a mixture of normals to the codes of training data; choose the scale of a normal decoder.

    Args:
        model: A trained autoencoder.
        job: What it was trained with.
        normals: Number of normals.
    """
    vae, device = _one_layer(model), next(model.parameters()).device
    train, valid = (_some(rows) for rows in (job.dataset.train, job.dataset.valid))
    with seeded(job.seed, Stream.SAMPLING):
        if job.transform is not None:
            # As training saw them: grey values are made bits.
            train, valid = job.transform(train), job.transform(valid)
        codes, held_out = (codes_of(vae.encoder, rows, device) for rows in (train, valid))
        with torch.random.fork_rng(devices=[]):
            prior = GaussianMixturePrior(codes.shape[1], normals, "full")
        score = prior.fit(codes.cpu(), held_out.cpu())
    tensors = {_PRIOR + name: value for name, value in prior.state_dict().items()}
    record: dict[str, Any] = {"normals": normals, "codes_log_density": score}
    put_codes(model, Finished(tensors, record))
    if _fixed_scale(vae.decoder) is not None:
        record |= choose_scale(vae, valid[:_SEARCHED].to(device))
    return Finished(tensors, record)


def choose_scale(vae: "VAE", x: Float[Tensor, "data *event"]) -> dict[str, Any]:
    """The scale of a normal likelihood that gives data the highest log p(x), and what it gives.

    A search over its logarithm, about that of the residuals, which alone would be too small: it
    leaves out what the codes do not say of x. Each log p(x) is estimated by importance sampling
    from Laplace's approximation at the mode next to the code, from the same random numbers; where
    that leaves more than a quarter of the data in doubt, in the way that each datum asks for, by
    annealing in the end.

    Args:
        vae: An autoencoder with the density of its codes as the prior; left with the last scale
            that was tried.
        x: Validation data.

    References:
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """
    with torch.no_grad():
        residual = (vae.decoder(vae.encoder(x).mean).mean - x).square().nanmean().sqrt().item()
    start, found = math.log(max(residual, _LEAST)), {}
    for method, estimator in _ESTIMATORS.items():
        best, tried = _search(vae, x, estimator, start)
        found = {
            "scale": math.exp(best),
            "residual": residual,
            "method": method,
            "searched": [[math.exp(at), each.mean] for at, each in sorted(tried.items())],
        }
        doubt = tried[best].doubt
        if doubt is None or float((doubt > _DOUBTFUL).double().mean()) <= _TOLERATED:
            break
    return found


def _search(
    vae: "VAE", x: Tensor, estimator: Estimator, start: float
) -> tuple[float, dict[float, Evidence]]:
    """Search for the log scale about a start; return it, and all that were tried."""
    # Here, not above: models whose scale is learned have no use for it.
    from scipy.optimize import minimize_scalar

    tried: dict[float, Evidence] = {}

    def loss(log_scale: float) -> float:
        _set_scale(vae.decoder, math.exp(log_scale))
        tried[float(log_scale)] = estimator(vae.model, vae.guide, x, seed=0)
        return -float(tried[float(log_scale)].mean)

    bounds = start - _BELOW, start + _ABOVE
    minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": _TOLERANCE})
    return max(tried, key=lambda each: tried[each].mean), tried


def put_codes(model: "Model", finished: Finished) -> None:
    """Put the density of the codes, and the scale if there is one, into an autoencoder."""
    vae = _one_layer(model)
    state = {
        name.removeprefix(_PRIOR): value
        for name, value in finished.tensors.items()
        if name.startswith(_PRIOR)
    }
    normals, latent = state["loc"].shape
    with torch.random.fork_rng(devices=[]):
        prior = GaussianMixturePrior(latent, normals, "full")
    prior.load_state_dict(state)
    vae.prior = prior.to(next(vae.parameters()).device).requires_grad_(False)
    if "scale" in finished.record:
        _set_scale(vae.decoder, finished.record["scale"])


def _some(rows: RowTensor) -> Tensor:
    """At most so many rows, the same for every run, in memory."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(select(rows, order[:_MOST_CODES].sort().values))


def _normal_of(decoder: Any) -> NormalDecoder | None:
    """The normal likelihood of a decoder, if it is one."""
    inner = decoder.decoder if isinstance(decoder, ObservedDecoder) else decoder
    return inner if isinstance(inner, NormalDecoder) else None


def _fixed_scale(decoder: Any) -> float | None:
    """The scale of a normal likelihood whose scale is a number."""
    normal = _normal_of(decoder)
    source = None if normal is None else normal.scale.source
    return None if source is None or isinstance(source, str) else float(source)


def _set_scale(decoder: Any, scale: float) -> None:
    normal = _normal_of(decoder)
    if normal is not None:
        normal.scale.set_number(scale)


def _one_layer(model: Any) -> "VAE":
    return model  # type: ignore[no-any-return]
