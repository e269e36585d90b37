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
"""Largest norm of a difference; sums in another order differ by a few units of 1e-7."""


def gradients_of_all(guide):
    """Bounds and gradients of every objective, one after the other; their names; inputs."""
    torch.manual_seed(0)
    config = RunConfig.of(**{"hidden": (5,), "latent": 2, **GUIDES[guide]})
    vae, x = config.build_vae(DIGITS).train(), DIGITS.train[:8]
    programs = Programs(vae.model, vae.guide).on(x)
    modules = programs.modules(x)
    parameters = find_parameters(modules)
    objectives = {
        name: objective_of(cls).with_plate_nesting(programs.max_plate_nesting)
        for name, cls in OBJECTIVES.items()
        if has_gradient(name, guide)
    }
    names = []

    def function(x):
        names.clear()
        values = []
        for name, objective in objectives.items():
            objective.context = Context(0.3, 1000, 3.0)
            with torch.enable_grad(), pyro.validation_enabled(False):
                found = differentiate(objective, programs, x, parameters, check_finite=False)
            given = {"sums": found.sums, "bound": found.bound}
            given |= dict(zip(parameters, found.gradients, strict=True))
            for place, value in given.items():
                if value is not None:
                    names.append(f"{name}: {place}")
                    values.append(value)
        return values

    return function, names, x, [*modules.parameters.values(), *modules.unique_buffers]


def relative(found, wanted):
    found, wanted = found.double(), wanted.double()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


@pytest.mark.parametrize(
    "guide",
    [g if g == "bernoulli" else pytest.param(g, marks=pytest.mark.compiler) for g in GUIDES],
)
def test_compiled_gradients_are_the_plain_ones(guide):
    function, names, x, held = gradients_of_all(guide)
    replay = Captured(function, (x,), (DIGITS.train[8:16],), held)
    torch.manual_seed(4)
    wanted, after = function(x), torch.rand(2)
    torch.manual_seed(4)
    found = replay(x)
    assert torch.equal(torch.rand(2), after)
    assert len(found) == len(names)
    differences = dict(zip(names, map(relative, found, wanted), strict=True))
    print(f"{guide}: largest difference", max(differences.items(), key=lambda pair: pair[1]))
    assert {name: value for name, value in differences.items() if not value <= RELATIVE} == {}
