"""Rungs that check an estimator's answers for given data, and its side effects."""

import dataclasses

import torch
from pyro import get_param_store
from torch import Tensor, nn

from ppl_vae.evidence import Evidence
from ppl_vae.randomness import derive_seed
from ppl_vae.reference_models import (
    BinaryAutoencoder,
    binary,
    discrete_data,
    exact,
    exact_chain,
    same_draws,
    wide_chain,
)
from ppl_vae.testing._comparison import Answer
from ppl_vae.testing._trial import Trial, agreement, off_posterior, short_seed, with_field

_DATA = 8
_SCALE = 25.0
_FEW_ROWS, _ALL_ROWS = 32, 10**6


def result(trial: Trial, seed: int) -> Answer:
    """Require an ``Evidence`` in the right form, for one datum too, with all arguments given."""
    one = trial.estimate(off_posterior(1), seed, device=torch.device("cpu"), progress=False)
    if one.direction != trial.direction:
        raise AssertionError(
            f"direction: expected the same for one datum as for {len(trial.first)}, "
            f"{trial.direction}, found {one.direction}"
        )
    return []


def evidence_at_posterior(trial: Trial, seed: int) -> Answer:
    """Compare with log p(x) where the guide is the posterior: to rounding, if the error is 0."""
    comparisons = []
    for number, known in enumerate((exact(_DATA), exact_chain(_DATA, bottom_up=True))):
        found = trial.estimate(known, derive_seed(seed, number))
        comparisons += agreement(f"log p(x), {known.name}", found, known.log_evidence)
    return comparisons


def every_datum(trial: Trial, seed: int) -> Answer:
    """Compare data that have different log p(x), each with its own, in three models."""
    found = [(trial.few, trial.first)]
    # Equal data would hide answers that are permuted or averaged over the batch.
    others = [wide_chain(_DATA)]
    if trial.centred:
        # For a loose bound the gap differs between these data, and would fail the contrast.
        others.append(binary(BinaryAutoencoder()))
    for number, known in enumerate(others):
        found.append((known, trial.estimate(known, derive_seed(seed, number))))
    comparisons = []
    for known, answer in found:
        what = f"log p(x), {known.name}"
        comparisons += agreement(what, answer, known.log_evidence, relation=trial.relation)
    return comparisons


def scale(trial: Trial, seed: int) -> Answer:
    """Compare under ``poutine.scale``: a factor of the training loss must not change log p(x)."""
    known = wide_chain(_DATA)
    found = trial.estimate(known.scaled(_SCALE), seed)
    what = f"log p(x), scaled by {_SCALE:g}"
    return agreement(what, found, known.log_evidence, relation=trial.relation)


def discrete(trial: Trial, seed: int) -> Answer:
    """Compare with discrete latents; a ValueError that names a site is an answer too."""
    if not trial.centred:
        return "not applicable"
    known = discrete_data(_DATA)
    try:
        found = trial.estimate(known, seed)
    except ValueError as error:
        # Estimators that need gradients may refuse, but a message without the site does not help.
        if "'bits'" in str(error) or "'kind'" in str(error):
            return "not applicable"
        raise AssertionError(
            "a model with discrete latents 'bits' and 'kind': expected log p(x), or a ValueError "
            f"that names one of them, found ValueError: {error}"
        ) from error
    return agreement("log p(x), discrete latents", found, known.log_evidence)


def chunks(trial: Trial, seed: int) -> Answer:
    """Compare estimates that decode few rows at once with those that decode all."""
    few = with_field(trial.estimator, "rows", lambda _: _FEW_ROWS)
    every = with_field(trial.estimator, "rows", lambda _: _ALL_ROWS)
    if few is None or every is None:
        # A dataclass without the field has no such setting; what another callable does is unseen.
        return "not applicable" if dataclasses.is_dataclass(trial.estimator) else "not looked"
    # Three data only: with few rows each is a chunk, and a chunk may cost a pilot run.
    known = off_posterior(3)
    by_parts = trial.estimate(known, seed, estimator=few)
    # Independent draws: chunks have streams of their own, so that one seed gives other numbers.
    at_once = trial.estimate(known, derive_seed(seed, 1), estimator=every)
    what = f"log p(x) with rows={_FEW_ROWS} against rows={_ALL_ROWS}"
    return agreement(what, by_parts, at_once.log_prob, at_once.standard_error)


def seeds(trial: Trial, seed: int) -> Answer:
    """Require that the seed alone decides on the numbers and the caller's random state is kept."""
    given = short_seed(trial.first_seed)
    # Another state of the caller than in the first call: numbers drawn from it would differ.
    again = _with_state_kept(trial, derive_seed(seed, 1), given)
    _require(_equal(trial.first, again), f"the same numbers for the same seed, {given}", "others")
    if trial.random:
        # The same state of the caller: what differs now can only come from the seed.
        other = _with_state_kept(trial, derive_seed(seed, 1), given + 1)
        _require(not _equal(again, other), f"other numbers for seed {given + 1}", "the same")
        with same_draws(seed):
            one, two = (_ask(trial, None) for _ in range(2))
        what = "other numbers each time with seed=None, from the caller's random state"
        _require(not _equal(one, two), what, "the same")
    return []


def _with_state_kept(trial: Trial, state: int, given: int) -> Evidence:
    with same_draws(state):
        before = torch.get_rng_state()
        found = _ask(trial, given)
        kept = torch.equal(before, torch.get_rng_state())
    _require(kept, "torch's random state as it was, with a seed given", "another")
    return found


def _ask(trial: Trial, seed: int | None) -> Evidence:
    return trial.estimator(trial.few.model, trial.few.guide, trial.few.x, seed=seed)


def no_trace_left(trial: Trial, seed: int) -> Answer:
    """Require programs, data, gradients and modes as they were, with autograd on and off."""
    module = BinaryAutoencoder()
    # Modes and flags differ between the modules: an estimator that sets all alike shows, too.
    module.encoder.eval()
    module.decoder.bias.requires_grad_(False)
    module.decoder.weight.grad = torch.ones_like(module.decoder.weight)
    known = binary(module)
    before, answers = _state(module, known.x), []
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            answers.append(trial.estimate(known, seed))
            mode = "on" if enabled else "off"
            switched = torch.is_grad_enabled() != enabled
            _require(not switched, f"autograd {mode} afterwards, as before", "it switched")
        after = _state(module, known.x)
        for name, old in before.items():
            what = f"{name} as before, with autograd {mode}"
            _require(_same(old, after[name]), what, f"{after[name]} in place of {old}")
    _require(_equal(*answers), "the same numbers with autograd on and off", "others")
    return []


def _state(module: nn.Module, x: Tensor) -> dict[str, object]:
    """Copy everything that an estimator could leave a trace in."""
    state: dict[str, object] = {"x": x.clone(), "Pyro's store": sorted(get_param_store())}
    for name, part in module.named_modules():
        state[f"training mode of {name or 'the module'}"] = part.training
    for name, parameter in module.named_parameters():
        state[name] = parameter.detach().clone()
        state[f"{name}.requires_grad"] = parameter.requires_grad
        grad = parameter.grad
        state[f"{name}.grad"] = None if grad is None else grad.clone()
    return state


def _same(old: object, new: object) -> bool:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return torch.equal(old, new)
    return type(old) is type(new) and old == new


def no_data(trial: Trial, seed: int) -> Answer:
    """Require a ValueError where there are no data."""
    few = trial.few
    try:
        found = trial.estimator(few.model, few.guide, few.x[:0], seed=short_seed(seed))
    except ValueError:
        return []
    raise AssertionError(f"no data: expected a ValueError, found {type(found).__name__}")


def _equal(a: Evidence, b: Evidence) -> bool:
    """Compare bit by bit."""
    names = ("log_prob", "standard_error", "effective_sample_size")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def _require(holds: bool, expected: str, found: str) -> None:
    if not holds:
        raise AssertionError(f"expected {expected}, found {found}")
