"""Objectives that tests go through: one of each class of the registry, and variants."""

from ppl_vae.objectives import (
    ELBO,
    IWAE,
    OBJECTIVES,
    RWS,
    STL,
    TVO,
    VIMCO,
    AnalyticELBO,
    Beta,
    Capacity,
    CyclicalAnnealing,
    DReG,
    FreeBits,
    LinearAnnealing,
    Reinforce,
    Renyi,
    WarmUp,
)
from ppl_vae.registry import parse_objective

# Arguments of those that need more than K, or another K.
ARGUMENTS = {
    "elbo": "3",
    "elbo-analytic": "3",
    "stl": "3",
    "miwae": "3,num_bounds=2",
    "piwae": "3,num_bounds=2",
    "ciwae": "5,beta=0.3",
    "renyi": "5,alpha=0.5",
    "cubo": "5,order=2",
    "tvo": "5,num_terms=3",
    "mmd": "2,weight=10",
    "info-vae": "2,alpha=0,weight=10",
    "beta-tc": "num_particles=2",
}
RIGHT = [parse_objective(f"{name}:{ARGUMENTS.get(name, '5')}") for name in OBJECTIVES]
RIGHT += [
    IWAE(1),
    DReG(1),
    VIMCO(2),
    Reinforce(2),
    RWS(5, phi="sleep"),
    RWS(5, phi="both"),
    Renyi(5, alpha=-1.0),
    Renyi(5, alpha=2.0),
    TVO(5, num_terms=3, partition="moment"),
    TVO(5, num_terms=3, side="right"),
    IWAE(3).with_plate_nesting(2),
    VIMCO(3).with_plate_nesting(2),
]
SHAPED = [
    ELBO(3, kl=Beta(4.0)),
    ELBO(3, kl=LinearAnnealing()),
    ELBO(3, kl=WarmUp()),
    STL(3, kl=FreeBits(0.5)),
    AnalyticELBO(3, kl=Capacity(2.0)),
    Reinforce(3, kl=CyclicalAnnealing()),
]
