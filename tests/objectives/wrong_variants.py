"""Objectives with the mistakes that METHODS.md lists; every check of a bound must fail them."""

import torch
from torch.distributions import kl_divergence

from ppl_vae.objectives import Objective
from ppl_vae.weights import log_mean_exp


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

    def bound(self, particles):
        total = particles.log_likelihood.mean(0)
        for name in particles.log_prior:
            total = total - kl_divergence(particles.guide[name], particles.prior[name]).mean(0)
        return total


WRONG_IWAE = [ScaleInside, OneWeightForTheBatch, WrongAxis, ReportsItsSurrogate, MissingDetach]
