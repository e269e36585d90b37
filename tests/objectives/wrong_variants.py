"""Objectives with the mistakes that METHODS.md lists; every check of a bound must fail them."""

import torch
from torch.distributions import Independent, Normal, kl_divergence

from ppl_vae.objectives import Claims, Objective
from ppl_vae.objectives._paths import path_term
from ppl_vae.weights import (
    group_log_mean_exp,
    group_normalized_weights,
    leave_one_out_log_mean_exp,
    log_mean_exp,
    normalized_weights,
)


class ScaleInside(Objective):
    """The plate's scale multiplies the log-weights before the logarithm of their mean."""

    def bound(self, particles):
        return log_mean_exp(particles.scale * particles.log_weight) / particles.scale


class OneWeightForTheBatch(Objective):
    """Each particle has the product of its weights over the batch."""

    def bound(self, particles):
        joint = log_mean_exp(particles.log_weight.sum(1, keepdim=True)) / particles.batch_size
        return joint.expand(particles.batch_size)


class WrongAxis(Objective):
    """Weights are normalised over the batch in place of the particles."""

    def bound(self, particles):
        return log_mean_exp(particles.log_weight)

    def surrogate(self, particles, bound):
        weight = torch.softmax(particles.log_weight.detach(), 1)
        return (weight * particles.log_weight).sum(0)


class ReportsItsSurrogate(Objective):
    """The right gradient, but -sum_k v_k log w_k is reported as the loss."""

    def bound(self, particles):
        weight = torch.softmax(particles.log_weight.detach(), 0)
        return (weight * particles.log_weight).sum(0)


class MissingDetach(Objective):
    """The right value, but the gradient goes through the weights as well."""

    def bound(self, particles):
        return log_mean_exp(particles.log_weight)

    def surrogate(self, particles, bound):
        weight = torch.softmax(particles.log_weight, 0)
        return (weight * particles.log_weight).sum(0)


class AlwaysAnalytic(Objective):
    """Closed-form KLs whatever the order of sites, as TraceMeanField_ELBO has them."""

    claims = Claims(exact_at_posterior=False)

    def bound(self, particles):
        total = particles.log_likelihood.mean(0)
        for name in particles.log_prior:
            total = total - kl_divergence(particles.guide[name], particles.prior[name]).mean(0)
        return total


class ImportanceWeighted(Objective):
    """The right bound L_K, for variants that differ in the gradient alone."""

    def bound(self, particles):
        return log_mean_exp(particles.log_weight)


class MeanLogWeight(Objective):
    """The right bound of the ELBO, likewise."""

    def bound(self, particles):
        return particles.log_weight.mean(0)


class DividesByAnotherCount(Objective):
    """The sum of the weights is divided by one more than there are."""

    def bound(self, particles):
        count = particles.num_particles
        return log_mean_exp(particles.log_weight) + torch.tensor(count / (count + 1)).double().log()


class BetaInside(Objective):
    """KL terms are weighed inside the logarithm of the mean."""

    def bound(self, particles):
        kl = particles.log_proposal - particles.log_latent_prior
        return log_mean_exp(particles.log_likelihood - 4 * kl)


class FirstSiteOnly(Objective):
    """The densities of the first latent site alone are counted."""

    def bound(self, particles):
        (name, *_) = particles.log_prior
        kl = particles.log_guide[name] - particles.log_prior[name]
        return (particles.log_likelihood - kl).mean(0)


class LogsItsSurrogate(ImportanceWeighted):
    """The right bound, but the loss that is logged is -sum_k v_k log w_k."""

    def loss_of(self, particles):
        weight = normalized_weights(particles.log_weight.detach())
        surrogate = (weight * particles.log_weight).sum(0)
        return -(particles.scale * surrogate).sum(), self.bound(particles).detach()


class ScalesItsValueOnly(MeanLogWeight):
    """The plate's scale multiplies the reported value, but not the gradient."""

    def loss_of(self, particles):
        bound = self.bound(particles)
        value = (particles.scale * bound).detach() + bound - bound.detach()
        return -value.sum(), bound.detach()


class WrongGroupAxis(Objective):
    """MIWAE with weights (batch, M, K) normalised over M in place of K."""

    num_bounds = 2

    def bound(self, particles):
        return group_log_mean_exp(particles.log_weight, self.num_bounds).mean(0)

    def surrogate(self, particles, bound):
        grouped = particles.log_weight.mT.unflatten(1, (self.num_bounds, -1))
        weight = torch.softmax(grouped.detach(), 1)
        return (weight * grouped).sum(2).mean(1)


class AddsEncoderGradients(ImportanceWeighted):
    """PIWAE whose guide gets the gradient of L_MK as well as that of MIWAE."""

    graph = "split"

    def surrogate(self, particles, bound):
        log_weight = particles.log_weight.detach()
        tight = normalized_weights(log_weight)
        phi = tight + group_normalized_weights(log_weight, 2) / 2
        direct = (tight * particles.log_joint - phi * particles.log_proposal).sum(0)
        return direct + path_term(particles, particles.log_weight, phi)


class UndetachedDReG(ImportanceWeighted):
    """DReG whose normalised weights carry a gradient of their own."""

    graph = "split"

    def surrogate(self, particles, bound):
        weight = normalized_weights(particles.log_weight)
        path = path_term(particles, particles.log_weight, weight.square())
        return (weight * particles.log_joint).sum(0) + path


class SquaresTheModelsWeights(ImportanceWeighted):
    """DReG whose v^2 weighs the model's gradient too."""

    graph = "split"

    def surrogate(self, particles, bound):
        weight = normalized_weights(particles.log_weight.detach()).square()
        path = path_term(particles, particles.log_weight, weight)
        return (weight * particles.log_joint).sum(0) + path


class PlainWeightsForThePath(ImportanceWeighted):
    """IWAE-STL that says it is unbiased."""

    graph = "split"

    def surrogate(self, particles, bound):
        weight = normalized_weights(particles.log_weight.detach())
        path = path_term(particles, particles.log_weight, weight)
        return (weight * particles.log_joint).sum(0) + path


class DetachesTheDistribution(MeanLogWeight):
    """STL by detaching the parameters of the guide's distributions.

    Right for one site. In a hierarchical guide it also cuts the path from an earlier site to the
    density of a later one: still unbiased, but no longer 0 at the posterior.
    """

    claims = Claims(zero_at_posterior=True)

    def surrogate(self, particles, bound):
        total = particles.log_joint
        for name, guide in particles.guide.items():
            loc, scale = guide.base_dist.loc.detach(), guide.base_dist.scale.detach()
            total = total - Independent(Normal(loc, scale), 1).log_prob(particles.latents[name])
        return total.mean(0)


class DropsTheScore(MeanLogWeight):
    """REINFORCE without the score: the guide's gradient is that at fixed draws."""

    graph = "score"

    def surrogate(self, particles, bound):
        return particles.log_weight.mean(0)


class IWAEWithoutTheScore(ImportanceWeighted):
    """L_K differentiated at fixed draws."""

    graph = "score"


class RenyiWithoutTheScore(Objective):
    """A Renyi bound differentiated at fixed draws, as if the guide's gradient were 0 there."""

    graph = "score"

    def bound(self, particles):
        return log_mean_exp(particles.log_weight / 2) * 2


class IgnoresDiscreteGuides(MeanLogWeight):
    """Differentiates through draws that have no such gradient, and says nothing."""

    def _require_gradient(self, particles):
        pass


class BiasedBaseline(ImportanceWeighted):
    """VIMCO whose baseline for w_k has the geometric mean of all weights, w_k included."""

    graph = "score"
    least_particles = 2

    def surrogate(self, particles, bound):
        log_weight = particles.log_weight.detach()
        count = particles.num_particles
        mean = log_weight.mean(0, keepdim=True).expand(count, -1)
        rows = [torch.cat([log_weight[:k], mean[:1], log_weight[k + 1 :]]) for k in range(count)]
        gain = bound.detach() - torch.stack([log_mean_exp(row) for row in rows])
        direct = normalized_weights(log_weight) * particles.log_weight
        return (gain * particles.log_proposal + direct).sum(0)


class UndetachedGain(ImportanceWeighted):
    """VIMCO whose bracket carries a gradient of its own."""

    graph = "score"
    least_particles = 2

    def surrogate(self, particles, bound):
        log_weight = particles.log_weight
        gain = bound - leave_one_out_log_mean_exp(log_weight)
        direct = normalized_weights(log_weight.detach()) * log_weight
        return (gain * particles.log_proposal + direct).sum(0)


class ForgetsTheOwnCount(MeanLogWeight):
    """REINFORCE with the mean of all draws as baseline, and not scaled by K / (K - 1)."""

    graph = "score"
    least_particles = 2

    def surrogate(self, particles, bound):
        value = particles.log_weight.detach()
        gain = value - value.mean(0)
        return (particles.log_joint + gain * particles.log_proposal).mean(0)


WRONG_IWAE = [ScaleInside, OneWeightForTheBatch, WrongAxis, ReportsItsSurrogate, MissingDetach]
