"""The compiler's own kernels against plain gradients, for every objective and guide.

The gradients of all objectives of a guide are one graph, which is compiled once: compiling takes
half a minute, and a few seconds more for each objective. Those of discrete latents run in the
suite, the others with ``pytest -m compiler``, as every night.
"""

import pyro
import pytest
import torch

from ppl_vae.capture import Captured
from ppl_vae.objectives import OBJECTIVES, Context
from ppl_vae.particles import Programs
from ppl_vae.runs import RunConfig
from ppl_vae.training import find_parameters
from ppl_vae.training._gradients import differentiate

from .test_compiled import DIGITS, GUIDES, has_gradient, objective_of

RELATIVE = 1e-5
"""Largest norm of a difference in single precision, of all that an objective gives together; a
tensor of one weight, which large terms cancel in, may be further off by rounding alone."""
RELATIVE_IN_DOUBLE = 1e-10
"""The same in double precision, of each tensor: rounding is a billion times smaller, an error of a
kernel is not."""


def gradients_of_all(guide, dtype):
    """Bounds and gradients of every objective, one after the other; their places; inputs."""
    torch.manual_seed(0)
    config = RunConfig.of(**{"hidden": (5,), "latent": 2, **GUIDES[guide]})
    vae, x = config.build_vae(DIGITS).train().to(dtype), DIGITS.train[:8].to(dtype)
    programs = Programs(vae.model, vae.guide).on(x)
    modules = programs.modules(x)
    parameters = find_parameters(modules)
    objectives = {
        name: objective_of(cls).with_plate_nesting(programs.max_plate_nesting)
        for name, cls in OBJECTIVES.items()
        if has_gradient(name, guide)
    }
    places = []

    def function(x):
        places.clear()
        values = []
        for name, objective in objectives.items():
            objective.context = Context(0.3, 1000, 3.0)
            with torch.enable_grad(), pyro.validation_enabled(False):
                found = differentiate(objective, programs, x, parameters, check_finite=False)
            given = {"sums": found.sums, "bound": found.bound}
            given |= dict(zip(parameters, found.gradients, strict=True))
            for place, value in given.items():
                if value is not None:
                    places.append((name, place))
                    values.append(value)
        return values

    return function, places, x, [*modules.parameters.values(), *modules.unique_buffers]


def relative(pairs):
    """Norm of the difference of all pairs over that of what is wanted."""
    squares = [
        ((found.double() - wanted.double()).square().sum(), wanted.double().square().sum())
        for found, wanted in pairs
    ]
    difference, size = (float(torch.stack(each).sum()) for each in zip(*squares, strict=True))
    return (difference / max(size, 1e-60)) ** 0.5


def replayed(guide, dtype):
    """Places, what a compiled graph gives for them, and what the function gives from that seed."""
    function, places, x, held = gradients_of_all(guide, dtype)
    replay = Captured(function, (x,), (DIGITS.train[8:16].to(dtype),), held)
    torch.manual_seed(4)
    wanted, after = function(x), torch.rand(2)
    torch.manual_seed(4)
    found = replay(x)
    assert torch.equal(torch.rand(2), after)
    assert all(value.dtype == dtype for value in wanted)
    return list(zip(places, found, wanted, strict=True))


def require_close(differences, limit):
    print("largest difference", max(differences.items(), key=lambda pair: pair[1]))
    assert {place: value for place, value in differences.items() if not value <= limit} == {}


@pytest.mark.parametrize(
    "guide",
    [g if g == "bernoulli" else pytest.param(g, marks=pytest.mark.compiler) for g in GUIDES],
)
class TestCompiledGradientsAreThePlainOnes:
    def test_in_single_precision(self, guide):
        kinds = {}
        for (name, place), *pair in replayed(guide, torch.float32):
            kind = name, place if place in ("sums", "bound") else "gradient"
            kinds.setdefault(kind, []).append(pair)
        require_close({kind: relative(pairs) for kind, pairs in kinds.items()}, RELATIVE)

    @pytest.mark.compiler
    def test_in_double_precision(self, guide):
        found = replayed(guide, torch.float64)
        require_close({place: relative([pair]) for place, *pair in found}, RELATIVE_IN_DOUBLE)
