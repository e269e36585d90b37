import inspect

import pytest
import torch

from ppl_vae.objectives import (
    CATALOGUE,
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    MMD,
    PIWAE,
    RWS,
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
)
from ppl_vae.runs import OBJECTIVES, SHAPINGS, parse_objective, takes_kl_shaping


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
        ("reinforce:2+free-bits-site:3", Reinforce(2, kl=FreeBits(3.0, per_dimension=False))),
        ("elbo+linear:0.3", ELBO(kl=LinearAnnealing(0.3))),
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
        ("iwae", "num_particles must be given: write iwae:K"),
        ("iwae:", "write iwae:K"),
        ("iwae:x", "num_particles is a whole number, got 'x'"),
        ("iwae:1.5", "num_particles is a whole number"),
        ("iwae:0", r"num_particles >= 1 .* got 0"),
        ("iwae:-3", r"num_particles >= 1 .* got -3"),
        ("vimco:1", r"num_particles >= 2 .* got 1"),
        ("reinforce:1", r"num_particles >= 2 .* got 1"),
        ("dreg:4,5", "write dreg:K"),
        ("ciwae:4", "beta must be given: write ciwae:K,beta=B"),
        ("mmd:10,2", "all arguments but the first have names: write mmd:K,weight=W"),
        ("tvo:8,num_term=3", "did you mean 'num_terms'"),
        ("rws:8,num_particles=3", "num_particles is given twice"),
        ("tests.no_such:E:1,b=2", "No module named"),
        ("ciwae:4,beta=2", "beta from 0 to 1"),
        ("miwae:3,num_bounds=0", "M >= 1 and K >= 1"),
        ("renyi:3,alpha=inf", "finite alpha"),
        ("renyi:3,alpha=nan", "finite alpha"),
        ("cubo:3,order=0.5", "n >= 1"),
        ("tvo:3,num_terms=0", "S >= 1"),
        (
            "tvo:3,num_terms=3,partition=cubic",
            "partition is one of log, linear, moment, got 'cubic'",
        ),
        ("rws:4,phi=dream", "phi is one of wake, sleep, both"),
        ("info-vae:alpha=2,weight=3", "alpha <= 1"),
        ("info-vae:alpha=0,weight=0.5", "1 - alpha or more"),
        ("beta-tc:beta=-1", "beta >= 0"),
        ("iwae:4+beta:2", "no KL term to shape; those with one: elbo, elbo-analytic, stl, rein"),
        ("elbo+bete:2", "did you mean 'beta'"),
        ("elbo+beta", "write beta:BETA"),
        ("elbo+beta:-1", "beta must be 0 or more"),
        ("elbo+linear:0", "above 0, at most 1"),
        ("elbo+cyclical:0", "cycles must be"),
        ("no:E", "No module named 'no'"),
        ("json:dumps:3", "expected a subclass of ppl_vae.objectives"),
        ("ppl_vae.objectives:CIWAE:a", "num_particles is a whole number, got 'a'"),
    ],
)
def test_bad_names_are_one_line(text, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        parse_objective(text)


def test_every_objective_has_a_name_and_says_what_it_claims():
    assert {named.build for named in OBJECTIVES.values()} == set(CATALOGUE)
    for name, named in OBJECTIVES.items():
        claims = named.build.claims
        assert claims.name.partition(":")[0] == name
        assert all([claims.formula, claims.gradient, claims.bias, claims.use, claims.reference])


def test_every_shaping_is_reachable():
    text = {"beta": "beta:2", "free-bits": "free-bits:1", "free-bits-site": "free-bits-site:1"}
    text["capacity"] = "capacity:3"
    for name in SHAPINGS:
        assert takes_kl_shaping("elbo")
        assert parse_objective(f"elbo+{text.get(name, name)}").kl is not None


class Halfway(IWAE):
    """An objective of one's own, with an argument of its own."""

    def __init__(self, num_particles=1, *, share=0.5, max_plate_nesting=1):
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting)
        self.share = share


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", (1, 0.5)), (":5", (5, 0.5)), (":num_particles=5", (5, 0.5)), (":5,share=.2", (5, 0.2))],
)
def test_a_class_of_ones_own_takes_arguments_as_ours_do(arguments, expected):
    built = parse_objective(f"{__name__}:Halfway{arguments}")
    assert (built.num_particles, built.share) == expected


@pytest.mark.parametrize("cls", CATALOGUE, ids=lambda cls: cls.__name__)
def test_the_number_of_particles_comes_first_and_all_else_has_a_name(cls):
    first, *others = inspect.signature(cls).parameters.values()
    assert first.name in ("num_particles", "particles_each")
    assert {p.kind for p in others} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    "named", [*OBJECTIVES.values(), *SHAPINGS.values()], ids=lambda named: named.form
)
def test_forms_name_real_arguments(named):
    """Such as tvo:K,num_terms=S: all that must be given is shown, under its own name."""
    _, _, arguments = named.form.partition(":")
    first, *others = arguments.split(",")
    assert "=" not in first
    shown = [other.partition("=")[0] for other in others]
    taken = list(named.arguments.values())
    assert set(shown) <= {p.name for p in taken[1:]}
    assert {p.name for p in taken[1:] if p.default is p.empty} <= set(shown)


def test_a_number_of_particles_that_is_none_is_told_its_type(unchecked_types):
    with pytest.raises(ValueError, match=r"whole number\), got the str '5'\.$"):
        IWAE("5")
    with pytest.raises(ValueError, match=r"got a Tensor of shape \(1000,\)\.$"):
        IWAE(torch.zeros(1000))
    with pytest.raises(TypeError, match="positional"):
        MMD(1, 50.0)
