"""Likelihoods: modules whose ``forward(z)`` reads a network's output as p(x|z)."""

from ppl_vae.likelihoods.bernoulli import BernoulliDecoder, BernoulliVector, bernoulli_log_prob
from ppl_vae.likelihoods.normal import NormalDecoder

__all__ = ["BernoulliDecoder", "BernoulliVector", "NormalDecoder", "bernoulli_log_prob"]
