"""The rungs of an estimator about what it does beside estimating."""

import torch
from pyro import get_param_store
from torch import Tensor, nn

from ppl_vae.evidence import Evidence
from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing._known import BinaryAutoencoder, binary
from ppl_vae.testing._trial import Trial, short_seed


def seeds(trial: Trial, seed: int) -> Answer:
    """The seed, and it alone, decides on the numbers; the caller's random state stays as it was."""
    given = short_seed(trial.first_seed)
    again = _with_state_kept(trial, derive_seed(seed, 1), given)
    _require(_equal(trial.first, again), f"the same numbers for the same seed, {given}", "others")
    if trial.random:
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
    """Programs, data, gradients and modes stay as they were, with autograd on and off."""
    module = BinaryAutoencoder()
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
    """Everything that an estimator could leave a trace in."""
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
    """Without data there is a ValueError."""
    few = trial.few
    try:
        found = trial.estimator(few.model, few.guide, few.x[:0], seed=short_seed(seed))
    except ValueError:
        return []
    raise AssertionError(f"no data: expected a ValueError, found {type(found).__name__}")


def _equal(a: Evidence, b: Evidence) -> bool:
    """To the bit."""
    names = ("log_prob", "standard_error", "effective_sample_size")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def _require(holds: bool, expected: str, found: str) -> None:
    if not holds:
        raise AssertionError(f"expected {expected}, found {found}")
