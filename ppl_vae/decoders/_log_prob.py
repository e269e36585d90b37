"""Log p(x) of a decoder alone."""

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import torch

from ppl_vae.data import RowData, as_rows, in_memory, select
from ppl_vae.decoders._means import Decoder, decoder_model, form_of
from ppl_vae.decoders._noise import choose_noise
from ppl_vae.evidence import (
    AutomaticSampling,
    BidirectionalMonteCarlo,
    Estimator,
    Evidence,
    with_gap,
)


def log_prob_of(
    decoder: Decoder,
    x: RowData,
    prior: Callable[[], Any] | None = None,
    *,
    noise: float | Literal["auto", "bernoulli"] = "auto",
    valid: RowData | None = None,
    latent: int | None = None,
    estimator: Estimator | AutomaticSampling | BidirectionalMonteCarlo | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
) -> Evidence:
    """Log p(x_i) of a decoder: ``log integral p(z) p(x_i|z) dz``, no guide needed.

    The decoder is any function of z: one that returns a Pyro distribution is p(x|z) itself; one
    that returns a tensor is taken for its mean G(z), and x = G(z) + s e with standard normal e.
    Without noise p(x) is 0 but on a surface, log p(x) minus infinity for nearly every x: s is a
    part of the model, and is chosen on validation data. Modules are in evaluation mode meanwhile.

    Args:
        decoder: A module or function ``z -> mean``, or ``z -> Distribution``.
        x: The data, shape ``(num_data, *event)``.
        prior: ``() -> Distribution`` with event shape (latent,); None: standard normal.
        noise: s in the units of the data; ``bernoulli``: the mean is the probability of a 1;
            ``auto``: the s of highest log p(x) of the validation data.
        valid: Validation data, where noise is ``auto`` and the decoder returns means.
        latent: Size of z; None: the prior's, or what the decoder's first layer takes.
        estimator: Any of :mod:`ppl_vae.evidence`; None: ``AutomaticSampling()``. A
            ``BidirectionalMonteCarlo`` judges its annealing on data simulated from the decoder
            first, and the result carries the gap.
        device: Where to compute; where the modules are, or else the data, if not given.
        seed: Seed of the draws.
        progress: Show a progress bar on the terminal.
        checkpoint: File to which finished chunks of data are written, for estimators that go on
            from one.

    Returns:
        Log p(x) of each datum, in nats, with its error; its method names the noise.

    Raises:
        ValueError: If the size of z is not found, the decoder does not fit the data, or the noise
            is not known and there are no validation data; or as the estimator does.

    References:
        Wu, Burda, Salakhutdinov and Grosse, 2017, On the quantitative analysis of decoder-based
        generative models.
    """
    rows = as_rows(x, "x")
    like = in_memory(select(rows, torch.arange(1)), "one row")
    text, scale = "", None if noise == "auto" else noise
    if (
        noise == "auto"
        and valid is not None
        and not form_of(decoder, like, prior, latent).is_distribution
    ):
        choice = choose_noise(decoder, valid, prior, latent=latent, device=device, seed=seed)
        scale = choice.scale
        text = f"noise {scale:.4g} (chosen on {choice.num_data} validation data), "
    elif isinstance(scale, float | int):
        text = f"noise {scale:.4g}, "
    model = decoder_model(decoder, like, prior, scale, latent=latent)
    programs = model.model, model.guide
    estimator = AutomaticSampling() if estimator is None else estimator
    call: dict[str, Any] = {"device": device, "seed": seed, "progress": progress}
    if isinstance(estimator, BidirectionalMonteCarlo):
        sandwich = estimator(*programs, x, **call)
        estimator = with_gap(estimator, sandwich.gap)
    if checkpoint is not None:
        call["checkpoint"] = checkpoint
    evidence = estimator(*programs, x, **call)
    return replace(evidence, method=f"{text}{evidence.method}")
