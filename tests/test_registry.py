"""Names of objectives and estimators: what they build, and what a typing error is told."""

import inspect

import pytest
import torch

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
    with_gap,
)
from ppl_vae.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    MMD,
    OBJECTIVES,
    PIWAE,
    RWS,
    SHAPINGS,
    STL,
    TVO,
    AnalyticELBO,
    Beta,
    BetaTC,
    Capacity,
    CyclicalAnnealing,
    FreeBits,
    InfoVAE,
    LinearAnnealing,
    Reinforce,
    Renyi,
    WarmUp,
)
from ppl_vae.refinement import Refinement
from ppl_vae.registry import (
    KINDS,
    build_estimator,
    method_settings,
    needs_guide_density,
    parse_objective,
    takes_kl_shaping,
)
from ppl_vae.settings import REQUIRED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("elbo", ELBO(1)),
        ("elbo:4", ELBO(4)),
        ("elbo-analytic", AnalyticELBO(1)),
        ("iwae:50", IWAE(50)),
        ("rws:8", RWS(8, phi="wake")),
        ("rws:8,phi=both", RWS(8, phi="both")),
        ("miwae:3,num_bounds=2", MIWAE(3, num_bounds=2)),
        ("piwae:3,num_bounds=2", PIWAE(3, num_bounds=2)),
        ("ciwae:4,beta=.5", CIWAE(4, beta=0.5)),
        ("renyi:4,alpha=-0.5", Renyi(4, alpha=-0.5)),
        ("cubo:8,order=2", CUBO(8, order=2.0)),
        ("tvo:16,num_terms=8", TVO(16, num_terms=8)),
        (
            "tvo:16,num_terms=8,partition=moment,side=right",
            TVO(16, num_terms=8, partition="moment", side="right"),
        ),
        ("mmd", MMD()),
        ("mmd:2,weight=10", MMD(2, weight=10.0)),
        ("info-vae:alpha=0,weight=10", InfoVAE(alpha=0.0, weight=10.0)),
        ("beta-tc:2,beta=4,alpha=1", BetaTC(2, beta=4.0, alpha=1.0, gamma=1.0)),
        ("elbo+beta:4", ELBO(kl=Beta(4.0))),
        ("stl:2+free-bits:.1", STL(2, kl=FreeBits(0.1))),
        (
            "reinforce:2+free-bits:3,per_dimension=false",
            Reinforce(2, kl=FreeBits(3.0, per_dimension=False)),
        ),
        ("elbo+linear:0.3", ELBO(kl=LinearAnnealing(0.3))),
        ("elbo+warmup:20", ELBO(kl=WarmUp(20.0))),
        ("elbo+cyclical:3", ELBO(kl=CyclicalAnnealing(3))),
        ("elbo-analytic+capacity:25,gamma=10", AnalyticELBO(kl=Capacity(25.0, 10.0))),
        ("ppl_vae.objectives:IWAE:7", IWAE(7)),
        ("ppl_vae.objectives:CIWAE:7,beta=.5", CIWAE(7, beta=0.5)),
        ("ppl_vae.objectives:ELBO", ELBO()),
    ],
)
def test_names(text, expected):
    objective = parse_objective(text)
    assert type(objective) is type(expected)
    # The representation names every argument.
    assert repr(objective) == repr(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown objective ''"),
        ("elboo", "did you mean 'elbo'"),
        ("+beta:2", "unknown objective ''"),
        ("iwae", "num_particles must be given. IWAE takes num_particles: int"),
        ("iwae:", "num_particles must be given"),
        ("iwae:x", "num_particles cannot be 'x'"),
        ("iwae:1.5", "num_particles cannot be '1.5'"),
        ("iwae:5:6", r"num_particles cannot be '5:6'. IWAE takes num_particles: int"),
        ("iwae:0", r"num_particles >= 1 .* got 0"),
        ("iwae:-3", r"num_particles >= 1 .* got -3"),
        ("vimco:1", r"num_particles >= 2 .* got 1"),
        ("reinforce:1", r"num_particles >= 2 .* got 1"),
        ("dreg:4,5", "argument '5': one too many. DReG takes num_particles: int"),
        ("ciwae:4", "beta must be given. CIWAE takes num_particles: int, beta: float"),
        (
            "mmd:10,2",
            "argument '2': this one needs its name. MMD takes num_particles: int = 1, weight",
        ),
        ("tvo:8,num_term=3", "did you mean 'num_terms'"),
        ("rws:8,num_particles=3", "num_particles is given twice"),
        ("tests.no_such:E:1,b=2", "No module named"),
        ("ciwae:4,beta=2", "beta from 0 to 1"),
        ("miwae:3,num_bounds=0", "M >= 1 and K >= 1"),
        ("renyi:3,alpha=inf", "alpha cannot be 'inf'"),
        ("renyi:3,alpha=nan", "alpha cannot be 'nan'"),
        ("cubo:3,order=0.5", "n >= 1"),
        ("tvo:3,num_terms=0", "S >= 1"),
        (
            "tvo:3,num_terms=3,partition=cubic",
            "partition cannot be 'cubic'. TVO takes .*log', 'linear', 'moment'",
        ),
        ("rws:4,phi=dream", "phi cannot be 'dream'. RWS takes .*wake', 'sleep', 'both'"),
        ("info-vae:alpha=2,weight=3", "alpha <= 1"),
        ("info-vae:alpha=0,weight=0.5", "1 - alpha or more"),
        ("beta-tc:beta=-1", "beta >= 0"),
        ("iwae:4+beta:2", "no KL term to shape; those with one: elbo, elbo-analytic, stl, rein"),
        ("elbo+bete:2", "did you mean 'beta'"),
        ("elbo+beta", "beta must be given. Beta takes beta: float"),
        ("elbo+beta:-1", "beta must be 0 or more"),
        ("elbo+linear:0", "above 0, at most 1"),
        ("elbo+cyclical:0", "cycles must be"),
        ("no:E", "No module named 'no'"),
        ("json:dumps:3", "expected a subclass of ppl_vae.objectives"),
        ("ppl_vae.objectives:CIWAE:a", "num_particles cannot be 'a'"),
    ],
)
def test_bad_names_are_one_line(text, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        parse_objective(text)


def test_every_objective_has_a_name_and_says_what_it_claims():
    for name, build in OBJECTIVES.items():
        claims = build.claims
        assert claims.name.partition(":")[0] == name
        assert all([claims.formula, claims.gradient, claims.bias, claims.use, claims.reference])


def test_every_shaping_is_reachable():
    text = {"beta": "beta:2", "free-bits": "free-bits:1", "capacity": "capacity:3"}
    for name in SHAPINGS:
        assert takes_kl_shaping(ELBO)
        assert parse_objective(f"elbo+{text.get(name, name)}").kl is not None


class Halfway(IWAE):
    """An objective of one's own, with an argument of its own."""

    def __init__(self, num_particles=1, *, share=0.5):
        super().__init__(num_particles)
        self.share = share


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", (1, 0.5)), (":5", (5, 0.5)), (":num_particles=5", (5, 0.5)), (":5,share=.2", (5, 0.2))],
)
def test_a_class_of_ones_own_takes_arguments_as_ours_do(arguments, expected):
    built = parse_objective(f"{__name__}:Halfway{arguments}")
    assert (built.num_particles, built.share) == expected


@pytest.mark.parametrize("cls", OBJECTIVES.values(), ids=lambda cls: cls.__name__)
def test_the_number_of_particles_comes_first_and_all_else_has_a_name(cls):
    first, *others = inspect.signature(cls).parameters.values()
    assert first.name in ("num_particles", "particles_each")
    assert {p.kind for p in others} <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_claimed_names_show_real_arguments(name):
    """Such as tvo:K,num_terms=S: all that must be given is shown, under its own name."""
    _, _, arguments = OBJECTIVES[name].claims.name.partition(":")
    first, *others = arguments.split(",")
    assert "=" not in first
    shown = [other.partition("=")[0] for other in others]
    _, *taken = OBJECTIVES.parameters(OBJECTIVES[name]).values()
    assert set(shown) <= {p.name for p in taken}
    assert {p.name for p in taken if p.default is REQUIRED} <= set(shown)


def test_a_number_of_particles_that_is_none_is_told_its_type(unchecked_types):
    with pytest.raises(ValueError, match=r"whole number\), got the str '5'\.$"):
        IWAE("5")
    with pytest.raises(ValueError, match=r"got a Tensor of shape \(1000,\)\.$"):
        IWAE(torch.zeros(1000))
    with pytest.raises(TypeError, match="positional"):
        MMD(1, 50.0)


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
        ("adaptive", {"target": 0.1}, AdaptiveSampling(0.1)),
        (
            "ais",
            {"temperatures": 30, "chains": 4, "leapfrog_steps": 2, "start": "guide"},
            AnnealedImportanceSampling(30, 4, 2, "guide"),
        ),
        (
            "ais:30,4",
            {"leapfrog_steps": 2, "start": "guide"},
            AnnealedImportanceSampling(30, 4, 2, "guide"),
        ),
        ("iwae:7,refine=3", {}, ImportanceSampling(7, refine=Refinement(3))),
        ("iwae:rows=9", {"num_particles": 7}, ImportanceSampling(7, rows=9)),
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
        (
            "iwae",
            {"target": 0.1},
            "^target is an option of method auto, adaptive; iwae takes particles, refine",
        ),
        ("enumeration", {"particles": 3}, "enumeration takes max_configurations, rows"),
        ("iwae:5:6", {}, r"refine: Refiner \| None = None, rows: int \| None"),
        ("iwae", {"refine": "laplacian"}, "a number of steps, 1 or more, or laplace"),
        ("iwae", {"particles": 0}, "num_particles >= 1"),
        ("jackknife", {"order": 5}, "order 1, 2 or 3"),
        ("adaptive", {"target": -1.0}, "target > 0"),
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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_component_says_what_it_is(kind):
    assert all(kind.summary(name) for name in kind)


def test_a_method_with_another_default_is_named():
    text = {name: setting.text for name, setting in method_settings().items()}
    assert text["chains"].endswith("; None: 16; smc 64.")
    assert "; None: 1000; ti " in text["temperatures"]
