import pytest

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
        ("rws:8", RWS(8, "wake")),
        ("rws:8,both", RWS(8, "both")),
        ("miwae:2,3", MIWAE(2, 3)),
        ("piwae:2,3", PIWAE(2, 3)),
        ("ciwae:4,.5", CIWAE(4, 0.5)),
        ("renyi:-0.5,4", Renyi(-0.5, 4)),
        ("cubo:2,8", CUBO(2.0, 8)),
        ("tvo:8,16", TVO(8, 16)),
        ("tvo:8,16,moment,right", TVO(8, 16, "moment", "right")),
        ("mmd", MMD()),
        ("mmd:10,2", MMD(10.0, 2)),
        ("info-vae:0,10", InfoVAE(0.0, 10.0)),
        ("beta-tc:4,1,1,2", BetaTC(4.0, 1.0, 1.0, 2)),
        ("elbo+beta:4", ELBO(kl=Beta(4.0))),
        ("stl:2+free-bits:.1", STL(2, FreeBits(0.1))),
        ("reinforce:2+free-bits-site:3", Reinforce(2, FreeBits(3.0, per_dimension=False))),
        ("elbo+linear:0.3", ELBO(kl=LinearAnnealing(0.3))),
        ("elbo+cyclical:3", ELBO(kl=CyclicalAnnealing(3))),
        ("elbo-analytic+capacity:25,10", AnalyticELBO(kl=Capacity(25.0, 10.0))),
        ("ppl_vae.objectives:IWAE:7", IWAE(7)),
        ("ppl_vae.objectives:CIWAE:7,.5", CIWAE(7, 0.5)),
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
        ("iwae", "write iwae:K"),
        ("iwae:", "write iwae:K"),
        ("iwae:x", "num_particles is a whole number, got 'x'"),
        ("iwae:1.5", "num_particles is a whole number"),
        ("iwae:0", r"num_particles >= 1 .* got 0"),
        ("iwae:-3", r"num_particles >= 1 .* got -3"),
        ("vimco:1", r"num_particles >= 2 .* got 1"),
        ("reinforce:1", r"num_particles >= 2 .* got 1"),
        ("dreg:4,5", "write dreg:K"),
        ("ciwae:4", "write ciwae:K,beta"),
        ("ciwae:4,2", "beta from 0 to 1"),
        ("miwae:0,3", "M >= 1 and K >= 1"),
        ("renyi:inf,3", "finite alpha"),
        ("renyi:nan,3", "finite alpha"),
        ("cubo:0.5,3", "n >= 1"),
        ("tvo:0,3", "S >= 1"),
        ("tvo:3,3,cubic", "partition is one of log, linear, moment, got 'cubic'"),
        ("rws:4,dream", "phi is one of wake, sleep, both"),
        ("info-vae:2,3", "alpha <= 1"),
        ("info-vae:0,0.5", "1 - alpha or more"),
        ("beta-tc:-1", "beta >= 0"),
        ("iwae:4+beta:2", "no KL term to shape; those with one: elbo, elbo-analytic, stl, rein"),
        ("elbo+bete:2", "did you mean 'beta'"),
        ("elbo+beta", "write beta:BETA"),
        ("elbo+beta:-1", "beta must be 0 or more"),
        ("elbo+linear:0", "above 0, at most 1"),
        ("elbo+cyclical:0", "cycles must be"),
        ("no:E", "No module named 'no'"),
        ("json:dumps:3", "no ppl_vae.Objective"),
        ("ppl_vae.objectives:CIWAE:a", "'a' is no number"),
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
