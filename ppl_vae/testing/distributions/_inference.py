"""The rungs about a module's use: particles, annealing, training, checkpoints of runs."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.objectives import ELBO, VIMCO, Objective
from ppl_vae.particles import Graph, LatentDensity, Programs, draw_particles
from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer, same
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._contract import require_equal, require_finite
from ppl_vae.testing.distributions._subject import Subject, move, unvalidated
from ppl_vae.testing.distributions._whole import Whole
from ppl_vae.training import fit

_PARTICLES = 3


def particles(subject: Subject, seed: int) -> Answer:
    """In a model, K particles for each datum have the densities of the modules called directly."""
    whole = Whole.of(subject, seed)
    drawn = {}
    graphs: tuple[Graph, ...] = ("path", "split", "score")
    for graph in graphs:
        with same_draws(seed):
            drawn[graph] = draw_particles(*whole.programs, whole.x, _PARTICLES, graph=graph)
    path = drawn["path"]
    require_equal("shape of log-weights", path.log_weight.shape, (_PARTICLES, len(whole.x)))
    z = path.latents["z"].detach()
    with unvalidated():
        direct = {
            "log p(z)": (path.log_latent_prior, whole.vae.prior().log_prob(z)),
            "log q(z|x)": (path.log_proposal, whole.vae.encoder(whole.x).log_prob(z)),
            "log p(x|z)": (path.log_likelihood, whole.vae.decoder(z).log_prob(whole.x)),
        }
    comparisons = [same(f"{name} of particles", *values) for name, values in direct.items()]
    for graph in graphs[1:]:
        what = f"log-weights, graph={graph!r} against 'path'"
        comparisons.append(same(what, drawn[graph].log_weight, path.log_weight))
    return comparisons


def annealing(subject: Subject, seed: int) -> Answer:
    """Continuous latents can be moved along the gradient of their density."""
    whole = Whole.of(subject, seed)
    with torch.no_grad():
        support = whole.vae.prior().support
    try:
        biject_to(support)
    except NotImplementedError:
        return "not applicable"
    if support.is_discrete:
        return "not applicable"
    with same_draws(seed):
        density = LatentDensity(Programs(*whole.programs), whole.x, _PARTICLES)
        u = density.draw_guide().requires_grad_()
    found, z = density(u), density.unpack(u)["z"].detach()
    (gradient,) = torch.autograd.grad(found.prior.sum() + found.likelihood.sum(), u)
    require_finite("gradient of the log-density by unconstrained latents", gradient)
    with unvalidated():
        prior, guide = whole.vae.prior().log_prob(z), whole.vae.encoder(whole.x).log_prob(z)
    return [
        same("log p(z) - log q(z|x) of positions", found.prior - found.guide, prior - guide),
        same("log p(x|z) of positions", found.likelihood, whole.vae.decoder(z).log_prob(whole.x)),
    ]


def training(subject: Subject, seed: int) -> Answer:
    """An epoch of training has a finite bound, and its checkpoint carries over what was learned."""
    whole, other = Whole.of(subject, seed), Whole.of(subject, seed)
    move(list(other.vae.parameters()), derive_seed(seed, 1))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.safetensors"
        _train(whole, file, seed)
        _train(other, file, seed)
    reached, loaded = (_log_weights(w, whole.x, seed) for w in (whole, other))
    return [same("log-weights of a run from its checkpoint", loaded, reached)]


def _log_weights(whole: Whole, x: Tensor, seed: int) -> Tensor:
    with same_draws(seed), unvalidated():
        return draw_particles(*whole.programs, x, graph="score").log_weight


def _train(whole: Whole, file: Path, seed: int) -> None:
    with torch.no_grad():
        reparameterised = whole.vae.encoder(whole.x).has_rsample
    objective: Objective = ELBO(2) if reparameterised else VIMCO(2)
    half = (len(whole.x) + 1) // 2
    fit(
        *whole.programs, objective, whole.x, epochs=1, batch_size=half, device="cpu",
        seed=seed % 2**31, checkpoint=file, progress=False,
    )  # fmt: skip
