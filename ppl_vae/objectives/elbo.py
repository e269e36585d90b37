"""The evidence lower bound, by Monte Carlo and with analytic KL terms."""

from typing import final

from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.objectives.base import Objective
from ppl_vae.particles import Particles


@final
class ELBO(Objective):
    """``mean_k log w_k``, log w = log p(x|z) + log p(z) - log q(z|x).

    A lower bound on log p(x) in expectation. Gradients for theta and phi are unbiased, phi's
    through the draws and the density. Costs K decoder evaluations per datum.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes.
        Rezende, Mohamed and Wierstra, 2014, Stochastic backpropagation.
    """

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Mean log-weight over the particles, in nats."""
        return particles.log_weight.mean(0)


@final
class AnalyticELBO(Objective):
    """``mean_k log p(x|z_k) - sum over sites of KL(q(z_site|.) || p(z_site|.))``.

    The ELBO with a closed-form KL at each site where torch registers one and where it is exact: the
    same expectation as :class:`ELBO`, another variance. Costs K decoder evaluations per datum.

    References:
        Kingma and Welling, 2014, Auto-encoding variational Bayes, appendix B.
    """

    def bound(self, particles: Particles) -> Float[Tensor, " batch"]:
        """Mean log-likelihood minus the KL of each site, in nats."""
        total = particles.log_likelihood.mean(0)
        for name in particles.log_prior:
            total = total - site_kl(particles, name).mean(0)
        return total


def site_kl(particles: Particles, name: str) -> Float[Tensor, "particles batch"]:
    """A term whose mean over particles estimates the site's KL: exact where it can be, in nats.

    The closed form, where torch registers one and where :func:`closed_form_is_exact`; otherwise
    ``log q - log p``.
    """
    monte_carlo = particles.log_guide[name] - particles.log_prior[name]
    if not closed_form_is_exact(particles, name):
        return monte_carlo
    try:
        kl: Tensor = kl_divergence(particles.guide[name], particles.prior[name])
    except NotImplementedError:
        return monte_carlo
    between = tuple(range(1, kl.dim() - 1))
    return kl.sum(between) if between else kl


def closed_form_is_exact(particles: Particles, name: str) -> bool:
    """Whether ``KL(q(z_i|.) || p(z_i|.))`` of two distributions is the mean of ``log q - log p``.

    Given the latents drawn before it, the KL of the site is that of its two distributions. That
    holds only while p(z_i|.) does not depend on z_i itself through a latent that the guide drew
    later, so every latent that precedes the site in the model must precede it in the guide too.
    A mask must be absent as well: a closed form would ignore it.
    """
    before_in_model = _before(name, list(particles.log_prior))
    before_in_guide = _before(name, list(particles.log_guide))
    return name not in particles.masked and before_in_model <= before_in_guide


def _before(name: str, order: list[str]) -> set[str]:
    return set(order[: order.index(name)])
