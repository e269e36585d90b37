import pytest

from ppl_vae.evidence import (
    SUMO,
    AdaptiveSampling,
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    DefensiveSampling,
    Enumeration,
    ImportanceSampling,
    Jackknife,
    LaplaceApproximation,
    ParetoSmoothed,
    Quadrature,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
)
from ppl_vae.refinement import Refinement
from ppl_vae.runs import METHODS, build_estimator, needs_guide_density, with_gap


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("iwae", {}, ImportanceSampling()),
        ("iwae", {"particles": 7, "refine": 3}, ImportanceSampling(7, refine=Refinement(3))),
        ("iwae", {"particles": None, "temperatures": None}, ImportanceSampling()),
        ("psis", {"particles": 300}, ParetoSmoothed(300)),
        ("defensive", {"prior_share": 0.3}, DefensiveSampling(prior_share=0.3)),
        ("jackknife", {"particles": 64, "order": 2}, Jackknife(64, 2)),
        ("sumo", {"replicates": 9}, SUMO(9)),
        ("adaptive", {"target_se": 0.1}, AdaptiveSampling(0.1)),
        (
            "ais",
            {"temperatures": 30, "chains": 4, "leapfrog": 2, "start": "guide"},
            AnnealedImportanceSampling(30, 4, 2, "guide"),
        ),
        ("quadrature", {}, Quadrature()),
        ("enumeration", {}, Enumeration()),
        ("iwae", {"refine": "laplace"}, ImportanceSampling(refine=LaplaceApproximation())),
    ],
)
def test_methods_by_name(method, options, expected):
    assert build_estimator(method, options) == expected


def test_annealing_is_the_path_of_what_rests_on_it():
    ais = AnnealedImportanceSampling(num_temperatures=30, num_chains=32)
    options = {"temperatures": 30, "chains": 32}
    assert build_estimator("smc", options) == SequentialMonteCarlo(ais)
    assert build_estimator("ti", options) == ThermodynamicIntegration(ais)
    found = build_estimator("bdmc", {**options, "simulated": 3})
    assert found == BidirectionalMonteCarlo(ais, 3)
    assert with_gap(found, 0.5).gap == 0.5


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("asi", {}, "did you mean 'ais'"),
        ("ais", {"particles": 3}, "^particles is an option of method iwae, psis"),
        ("iwae", {"target_se": 0.1}, "^target_se is an option of method adaptive; iwae takes"),
        ("quadrature", {"particles": 3}, "quadrature takes none"),
        ("iwae", {"refine": "laplacian"}, "a number of steps, 1 or more, or laplace"),
        ("iwae", {"particles": 0}, "num_particles >= 1"),
        ("jackknife", {"order": 5}, "order 1, 2 or 3"),
        ("adaptive", {"target_se": -1.0}, "target > 0"),
        ("ais", {"temperatures": 0}, "num_temperatures"),
    ],
)
def test_wrong_methods_and_options_are_one_line(method, options, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        build_estimator(method, options)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("iwae", {}, True),
        ("iwae", {"refine": 3}, True),
        ("iwae", {"refine": "laplace"}, False),
        ("adaptive", {}, True),
        ("ais", {}, False),
        ("ais", {"start": "guide"}, True),
        ("bdmc", {"start": "guide"}, True),
        ("ti", {}, False),
        ("quadrature", {}, False),
    ],
)
def test_what_a_point_guide_is_enough_for(method, options, expected):
    assert needs_guide_density(build_estimator(method, options)) is expected


def test_every_method_says_what_it_is():
    assert all(method.summary for method in METHODS.values())
