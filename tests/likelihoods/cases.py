"""Every decoder, with data of its kind, and the measure its densities are taken against."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae import likelihoods as ll

FEATURES = 3
Support = tuple[float, float] | Tensor


@dataclass(frozen=True)
class Case:
    """A decoder whose network adds its starting point to z: z is the output, but for a shift.

    ``support`` is an interval, or every value that has mass (all but a negligible part of it).
    """

    name: str
    build: Callable[..., nn.Module]
    draw: Callable[[int], Tensor]
    support: Support
    edges: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    outputs: int = FEATURES
    # Where in the outputs' blocks the test values lie, around their starts.
    spread: float = 0.5

    def data(self, num_data: int = 200) -> Tensor:
        torch.manual_seed(7)
        return self.draw(num_data)

    def decoder(self, dtype: torch.dtype = torch.float64, factor: float = 1.0) -> nn.Module:
        """Started at the data times the factor."""
        data = factor * self.data()
        network = nn.Linear(self.outputs, self.outputs)
        nn.init.eye_(network.weight)
        nn.init.zeros_(network.bias)
        start = {"data_mean": data.mean(0)} if self.takes_mean else {"data": data}
        return self.build(network, **self.options, **start).to(dtype)

    @property
    def takes_mean(self) -> bool:
        return self.build in (ll.BernoulliDecoder, ll.ContinuousBernoulliDecoder)

    def z(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        torch.manual_seed(8)
        return self.spread * torch.randn(*shape, self.outputs, dtype=dtype)

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.support, Tensor)

    def moments(self, distribution: Any) -> Tensor:
        """Mass, first and second moment of each feature, shape (3, features)."""
        if isinstance(self.support, Tensor):
            x = self.support.double().unsqueeze(-1).expand(-1, FEATURES)
            return _terms(distribution, x).sum(1)
        if self.support == (0.0, 1.0):
            x, weight = _unit_nodes()
            terms = _terms(distribution, x.unsqueeze(-1).expand(-1, FEATURES))
            return (weight.unsqueeze(-1) * terms).sum(1)
        # Both half-lines apart: a density may have a corner at its mean.
        distance, weight = _half_line_nodes()
        total = torch.zeros(3, FEATURES, dtype=torch.float64)
        for sign in (-1, 1):
            x = distribution.mean + sign * distance.unsqueeze(-1)
            total += (weight.unsqueeze(-1) * _terms(distribution, x)).sum(1)
        return total


def masses_between(distribution: Any, edges: Tensor) -> Tensor:
    """Probability of each interval between neighbouring edges (edges, features)."""
    at, weight = _unit_nodes()
    width = edges.diff(dim=0)
    x = edges[:-1] + at.view(-1, 1, 1) * width
    density = ll.feature_log_prob(distribution, x).exp()
    return (weight.view(-1, 1, 1) * density).sum(0) * width


def _unit_nodes() -> tuple[Tensor, Tensor]:
    """The tanh-sinh rule on (0, 1), for integrands that may be infinite at its ends."""
    t = torch.linspace(-4.0, 4.0, 321, dtype=torch.float64)
    x = torch.sigmoid(torch.pi * t.sinh())
    weight = torch.pi * t.cosh() * x * torch.sigmoid(-torch.pi * t.sinh()) * (t[1] - t[0])
    return x[x < 1], weight[x < 1]


def _half_line_nodes() -> tuple[Tensor, Tensor]:
    """The double exponential rule on (0, infinity)."""
    t = torch.linspace(-4.0, 4.0, 401, dtype=torch.float64)
    x = torch.exp(torch.pi / 2 * t.sinh())
    return x, torch.pi / 2 * t.cosh() * x * (t[1] - t[0])


def _terms(distribution: Any, x: Tensor) -> Tensor:
    """(1, x, x^2) times the density, shape (3, values, features)."""
    density = ll.feature_log_prob(distribution, x).exp()
    return torch.stack([density, x * density, x**2 * density])


def _counts(rate: float) -> Callable[[int], Tensor]:
    return lambda n: torch.poisson(rate * torch.rand(n, FEATURES) * torch.tensor([0.5, 1.0, 2.0]))


def _grey(n: int) -> Tensor:
    return torch.rand(n, FEATURES) ** torch.tensor([0.3, 1.0, 3.0])


def _levels(levels: int) -> Callable[[int], Tensor]:
    return lambda n: (_grey(n) * (levels - 1)).round() / (levels - 1)


def _real(n: int) -> Tensor:
    return torch.randn(n, FEATURES) * torch.tensor([0.5, 1.0, 3.0]) + torch.tensor([0.0, -2, 5])


REAL = (-torch.inf, torch.inf)
BITS = torch.tensor([0.0, 1.0])
COUNTS = torch.arange(0.0, 4000)


def _real_cases() -> list[Case]:
    cases = []
    for name, build in {"normal": ll.NormalDecoder, "laplace": ll.LaplaceDecoder}.items():
        for scale, blocks in {"shared": 1, "feature": 1, "network": 2, 0.7: 1}.items():
            title, outputs = f"{name}-{scale}", blocks * FEATURES
            cases.append(
                Case(title, build, _real, REAL, (-20.0, 0.0, 20.0), {"scale": scale}, outputs)
            )
    edges = (-1e4, 0.0, 1e4)
    for scale, df, blocks in [
        ("shared", 4.0, 1),
        ("feature", "feature", 1),
        ("network",) * 2 + (3,),
    ]:
        options, outputs = {"scale": scale, "df": df}, blocks * FEATURES
        cases.append(
            Case(f"student-t-{df}", ll.StudentTDecoder, _real, REAL, edges, options, outputs)
        )
    return [
        *cases,
        Case("optimal-sigma", ll.OptimalSigmaDecoder, _real, REAL, (-20.0, 0.0, 20.0)),
    ]


def _unit_cases() -> list[Case]:
    unit = (0.0, 1.0)
    levels = {n: torch.arange(0.0, n) / (n - 1) for n in (2, 5, 256)}
    logistic, mixture = ll.DiscretizedLogisticDecoder, ll.DiscretizedLogisticMixtureDecoder
    inside = (torch.finfo(torch.float32).tiny, 0.5, 1 - torch.finfo(torch.float32).eps / 2)
    return [
        Case("bernoulli", ll.BernoulliDecoder, _levels(2), BITS, (0.0, 1.0), spread=2.0),
        Case(
            "continuous-bernoulli",
            ll.ContinuousBernoulliDecoder,
            _grey,
            unit,
            (0.0, 0.5, 1.0),
            spread=3.0,
        ),
        Case("beta-network", ll.BetaDecoder, _grey, unit, inside, {}, 2 * FEATURES),
        Case("beta-2.5", ll.BetaDecoder, _grey, unit, inside, {"precision": 2.5}),
        Case("logistic-256", logistic, _levels(256), levels[256], (0.0, 1.0), {}, 2 * FEATURES),
        Case(
            "logistic-5",
            logistic,
            _levels(5),
            levels[5],
            (0.0, 0.25, 1.0),
            {"levels": 5, "scale": "feature"},
        ),
        Case(
            "logistic-2", logistic, _levels(2), levels[2], (0.0, 1.0), {"levels": 2, "scale": 0.2}
        ),
        Case(
            "logistic-mixture",
            mixture,
            _levels(256),
            levels[256],
            (0.0, 1.0),
            {"components": 4},
            12 * FEATURES,
        ),
        Case(
            "logistic-mixture-5",
            mixture,
            _levels(5),
            levels[5],
            (0.0, 0.5, 1.0),
            {"components": 1, "levels": 5},
            3 * FEATURES,
        ),
    ]


def _count_cases() -> list[Case]:
    edges = (0.0, 1.0, 1000.0)
    zinb = ll.ZeroInflatedNegativeBinomialDecoder
    dispersed = {"feature": 0, "network": 1, 2.0: 0}
    return [
        Case("poisson", ll.PoissonDecoder, _counts(4), COUNTS, edges),
        *(
            Case(
                f"negative-binomial-{source}",
                ll.NegativeBinomialDecoder,
                _counts(4),
                COUNTS,
                edges,
                {"inverse_dispersion": source},
                (1 + more) * FEATURES,
            )
            for source, more in dispersed.items()
        ),
        Case(
            "zero-inflated-poisson",
            ll.ZeroInflatedPoissonDecoder,
            _counts(4),
            COUNTS,
            edges,
            {},
            2 * FEATURES,
        ),
        *(
            Case(
                f"zero-inflated-negative-binomial-{source}",
                zinb,
                _counts(4),
                COUNTS,
                edges,
                {"inverse_dispersion": source},
                (2 + more) * FEATURES,
            )
            for source, more in dispersed.items()
        ),
        Case(
            "categorical",
            ll.CategoricalDecoder,
            lambda n: torch.randint(0, 4, (n, FEATURES)).float(),
            torch.arange(0.0, 4),
            (0.0, 3.0),
            {"categories": 4},
            4 * FEATURES,
        ),
    ]


CASES = [*_real_cases(), *_unit_cases(), *_count_cases()]
