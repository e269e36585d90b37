"""The rungs of an estimator about its answers for given data."""

import dataclasses
from dataclasses import replace

import torch
from pyro import poutine

from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer
from ppl_vae.testing._known import (
    BinaryAutoencoder,
    at_posterior,
    binary,
    discrete_latents,
    off_posterior,
    off_posterior_chain,
)
from ppl_vae.testing._trial import Trial, agreement, with_field

_DATA = 8
_SCALE = 25.0
_FEW_ROWS, _ALL_ROWS = 32, 10**6


def result(trial: Trial, seed: int) -> Answer:
    """An ``Evidence`` in the right form, for several data and for one, with everything given."""
    one = trial.estimate(off_posterior(1), seed, device=torch.device("cpu"), progress=False)
    if one.direction != trial.direction:
        raise AssertionError(
            f"direction: expected the same for one datum as for {len(trial.first)}, "
            f"{trial.direction}, found {one.direction}"
        )
    return []


def evidence_at_posterior(trial: Trial, seed: int) -> Answer:
    """With the posterior as the guide, log p(x) within the error: to rounding, if that is 0."""
    comparisons = []
    for number, known in enumerate(at_posterior(_DATA)):
        found = trial.estimate(known, derive_seed(seed, number))
        comparisons += agreement(f"log p(x), {known.name}", found, known.log_evidence)
    return comparisons


def every_datum(trial: Trial, seed: int) -> Answer:
    """Data with different log p(x) get their own, in three models."""
    found = [(trial.few, trial.first)]
    others = [off_posterior_chain(_DATA)]
    if trial.centred:
        # Elsewhere the gap of a bound is not the same for all data.
        others.append(binary(BinaryAutoencoder()))
    for number, known in enumerate(others):
        found.append((known, trial.estimate(known, derive_seed(seed, number))))
    comparisons = []
    for known, answer in found:
        what = f"log p(x), {known.name}"
        comparisons += agreement(what, answer, known.log_evidence, relation=trial.relation)
    return comparisons


def scale(trial: Trial, seed: int) -> Answer:
    """What multiplies all log-densities of a training step is none of the evidence's."""
    known = off_posterior_chain(_DATA)
    model, guide = (poutine.scale(p, scale=_SCALE) for p in (known.model, known.guide))
    found = trial.estimate(replace(known, model=model, guide=guide), seed)
    what = f"log p(x), scaled by {_SCALE:g}"
    return agreement(what, found, known.log_evidence, relation=trial.relation)


def discrete(trial: Trial, seed: int) -> Answer:
    """With discrete latents log p(x) too, or a ValueError that names a site."""
    if not trial.centred:
        return "not applicable"
    known = discrete_latents(_DATA)
    try:
        found = trial.estimate(known, seed)
    except ValueError as error:
        if "'bits'" in str(error) or "'kind'" in str(error):
            return "not applicable"
        raise AssertionError(
            "a model with discrete latents 'bits' and 'kind': expected log p(x), or a ValueError "
            f"that names one of them, found ValueError: {error}"
        ) from error
    return agreement("log p(x), discrete latents", found, known.log_evidence)


def chunks(trial: Trial, seed: int) -> Answer:
    """However few or many rows are decoded at once."""
    few = with_field(trial.estimator, "rows", lambda _: _FEW_ROWS)
    every = with_field(trial.estimator, "rows", lambda _: _ALL_ROWS)
    if few is None or every is None:
        # A dataclass without the field has no such setting; what another callable does is unseen.
        return "not applicable" if dataclasses.is_dataclass(trial.estimator) else "not looked"
    # Few data: an estimator may have a pilot run for each chunk.
    known = off_posterior(3)
    by_parts = trial.estimate(known, seed, estimator=few)
    at_once = trial.estimate(known, derive_seed(seed, 1), estimator=every)
    what = f"log p(x) with rows={_FEW_ROWS} against rows={_ALL_ROWS}"
    return agreement(what, by_parts, at_once.log_prob, at_once.standard_error)
