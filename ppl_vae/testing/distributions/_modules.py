"""The rungs about a torch module: precision, device, state, copies."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer, same
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._contract import require_equal, require_finite
from ppl_vae.testing.distributions._subject import Subject, move, unvalidated


def precision_and_device(subject: Subject, seed: int) -> Answer:
    """In float32 and float64, and on a GPU where there is one, all that is computed is there."""
    _require_registered(subject.module)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for dtype in (torch.float32, torch.float64):
        for device in devices:
            _require_there(subject, dtype, torch.device(device), seed)
    return []


def _require_registered(module: nn.Module) -> None:
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if not attribute.startswith("_") or attribute not in nn.Module().__dict__:
                _require_no_tensor(".".join(filter(None, [name, attribute])), value)


def _require_no_tensor(name: str, value: Any) -> None:
    held = value if isinstance(value, list | tuple) else [value]
    for one in held:
        if isinstance(one, Tensor | Distribution):
            raise AssertionError(
                f"{name}: expected a parameter or a buffer (self.register_buffer), found a "
                f"{type(one).__name__} as an attribute, which .to(device) leaves behind"
            )


def _require_there(subject: Subject, dtype: torch.dtype, device: torch.device, seed: int) -> None:
    subject = subject.copied(dtype, device)
    with same_draws(seed), torch.no_grad():
        found = subject()
        draws = found.sample()
        log_prob = found.log_prob(draws)
    where = f"module.to({dtype}) on {device.type}"
    require_equal(f"dtype of log_prob, {where}", log_prob.dtype, dtype)
    if not found.support.is_discrete:
        require_equal(f"dtype of draws, {where}", draws.dtype, dtype)
    for what, value in (("draws", draws), ("log_prob", log_prob)):
        require_equal(f"device of {what}, {where}", value.device.type, device.type)
    require_finite(f"log_prob of draws, {where}", log_prob)


def checkpoint(subject: Subject, seed: int) -> Answer:
    """The state_dict, in another module with other values, gives the same density."""
    if subject.fresh is None:
        other = subject.copied()
        move(list(_floating(other.module.state_dict())), derive_seed(seed, 1))
    else:
        other = replace(subject, module=subject.fresh()).copied(torch.float64)
    other.module.load_state_dict(subject.module.state_dict())
    return [_same_density(subject, other, "after load_state_dict", seed)]


def _floating(state: dict[str, Tensor]) -> Iterator[Tensor]:
    return (value for value in state.values() if value.is_floating_point())


def _same_density(subject: Subject, other: Subject, what: str, seed: int) -> Any:
    with same_draws(seed), unvalidated():
        found = subject()
        draws = found.sample((4,))
        return same(f"log_prob {what}", other().log_prob(draws), found.log_prob(draws))


def copies(subject: Subject, seed: int) -> Answer:
    """Copied and pickled modules have the same density; the seed decides on the draws."""
    loaded = pickle.loads(pickle.dumps(subject.module))
    copied = copy.deepcopy(subject.module)
    with unvalidated():
        draws = []
        for _ in range(2):
            with same_draws(seed):
                draws.append(subject().sample((4,)))
    return [
        _same_density(subject, replace(subject, module=loaded), "of a pickled copy", seed),
        _same_density(subject, replace(subject, module=copied), "of a deep copy", seed),
        same("draws with the same seed", *draws),
    ]
