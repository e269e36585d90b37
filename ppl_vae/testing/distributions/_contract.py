"""The rungs about the form of what a module returns."""

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer, Discrepancy, same
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._law import Law, density_by_feature, law_of
from ppl_vae.testing.distributions._probes import Probes, means_agree
from ppl_vae.testing.distributions._subject import Subject, unvalidated

_LEAD = (3, 2)
_EXPANDED = 2000


def contract(subject: Subject, seed: int) -> Answer:
    """A Pyro distribution of vectors; batch shape, draws and densities have the right shapes."""
    found = subject()
    _require_pyro(found)
    _require_vectors(found)
    batch = () if subject.given is None else subject.given.shape[:-1]
    require_equal("batch_shape", tuple(found.batch_shape), tuple(batch))
    with same_draws(seed), torch.no_grad():
        draws = found.sample(_LEAD)
        log_prob = found.log_prob(draws)
        again = subject().log_prob(draws)
    shape = (*_LEAD, *batch)
    require_equal(f"shape of sample({_LEAD})", tuple(draws.shape), (*shape, *found.event_shape))
    require_equal("shape of log_prob", tuple(log_prob.shape), shape)
    require_finite("log_prob of draws", log_prob)
    return [same("log_prob, forward called again", again, log_prob)]


def _require_pyro(found: Any) -> None:
    if not isinstance(found, TorchDistributionMixin):
        raise AssertionError(
            "forward: expected a distribution of pyro.distributions, found "
            f"{type(found).__module__}.{type(found).__name__}"
        )


def _require_vectors(found: Any) -> None:
    if len(found.event_shape) != 1:
        raise AssertionError(
            "event_shape: expected one dimension, as .to_event(1) makes of the last one, found "
            f"{tuple(found.event_shape)}"
        )


def require_equal(what: str, found: object, expected: object) -> None:
    """Raise an AssertionError where two things differ."""
    if found != expected:
        raise AssertionError(f"{what}: expected {expected}, found {found}")


def require_finite(what: str, found: Tensor) -> None:
    """Raise an AssertionError where a number is NaN or infinite."""
    wrong = found[~found.isfinite()]
    if len(wrong):
        raise AssertionError(f"{what}: expected finite numbers, found {wrong[0].item()}")


def leading_shapes(subject: Subject, seed: int) -> Answer:
    """Values and rows of (particles, batch) have the densities that they have one by one."""
    with same_draws(seed), unvalidated():
        found = subject()
        draws = found.sample(_LEAD)
        together = found.log_prob(draws).flatten(0, 1)
        one_by_one = torch.stack([found.log_prob(draw) for draw in draws.flatten(0, 1)])
        comparisons = [same("log_prob of (particles, batch) values", together, one_by_one)]
        if subject.part == "likelihood":
            comparisons += _leading_rows(subject)
    return comparisons


def _leading_rows(subject: Subject) -> list[Discrepancy]:
    """A decoder takes z of any leading shape."""
    given = subject.given
    if given is None:
        return []
    particles = torch.stack([given, given.roll(1, 0)])
    found, first = subject(particles), subject(given[0])
    require_equal(
        "batch_shape for z of (particles, batch)", found.batch_shape, particles.shape[:-1]
    )
    require_equal("batch_shape for z of (latent,)", tuple(first.batch_shape), ())
    x = found.sample()
    by_particle = torch.stack(
        [subject(z).log_prob(x_z) for z, x_z in zip(particles, x, strict=True)]
    )
    return [
        same("log_prob for z of (particles, batch)", found.log_prob(x), by_particle),
        same("log_prob for z of (latent,)", first.log_prob(x[0, 0]), by_particle[0, 0]),
    ]


def expand(subject: Subject, seed: int) -> Answer:
    """Expanded, the densities are the same and the draws are as many independent ones."""
    with unvalidated():
        found = subject.row(0)
        expanded = found.expand((_EXPANDED, *found.batch_shape))
        with same_draws(seed):
            others = expanded.sample()
    event = tuple(found.event_shape)
    shape = (_EXPANDED, *found.batch_shape)
    require_equal("batch_shape of expand", tuple(expanded.batch_shape), shape)
    require_equal("shape of its draws", tuple(others.shape), (*shape, *event))
    law = law_of(subject, 0)
    with same_draws(derive_seed(seed, 1)):
        draws, placing = law.draw(_EXPANDED), law.draw(_EXPANDED)
    with unvalidated():
        densities = expanded.log_prob(others).reshape(-1)
    flat = others.reshape(_EXPANDED, -1)
    log_prob = law.log_prob(flat)
    same_law = same_draws_of(
        law, placing, draws, flat, "draws of expand() against sample(), mean of"
    )
    return [same("log_prob of expand()", densities, log_prob), *same_law]


def same_draws_of(
    law: Law, placing: Tensor, draws: Tensor, others: Tensor, what: str
) -> list[Discrepancy]:
    """That two samples are of one distribution."""
    probes = Probes.fit(placing, law.log_prob(placing), 0)
    found, expected = (probes.values(points, law.log_prob(points)) for points in (others, draws))
    return means_agree(what, probes.names, found, expected)


def each_datum(subject: Subject, seed: int) -> Answer:
    """The distribution of a row is the same whatever the other rows are."""
    given = subject.given
    if given is None:
        return "not applicable"
    with same_draws(seed), unvalidated():
        found = subject()
        draws = found.sample()
        log_prob = found.log_prob(draws)
        alone = torch.cat(
            [subject.row(i).log_prob(draws[i : i + 1]) for i in range(subject.num_rows)]
        )
        reversed_ = subject(given.flip(0)).log_prob(draws.flip(0)).flip(0)
        row = given[:1].expand_as(given)
        equal = subject(row).log_prob(draws[:1].expand_as(draws))
    return [
        same("log-density of each row called by itself", alone, log_prob),
        same("log-density of each row, rows in reverse", reversed_, log_prob),
        same("log-density of equal rows", equal, log_prob[:1].expand_as(equal)),
    ]


def features(subject: Subject, seed: int) -> Answer:
    """Log-densities of single features, if there are such, add up to that of the whole row."""
    with same_draws(seed), unvalidated():
        found = subject()
        x = found.sample()
        densities = density_by_feature(found, x)
        if densities is None:
            return "not claimed"
        require_equal("shape of log p(x_d|z)", tuple(densities.shape), tuple(x.shape))
        return [same("sum of log p(x_d|z) over features", densities.sum(-1), found.log_prob(x))]
