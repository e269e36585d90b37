"""Priors, likelihoods, guides and networks by their names on the command line."""

from collections.abc import Callable
from typing import Any

from ppl_vae import guides, likelihoods, priors
from ppl_vae.networks import NETWORKS
from ppl_vae.vae import Ladder

Known = dict[str, Callable[..., Any]]

PRIORS: Known = {
    "normal": priors.StandardNormal,
    "learned-normal": priors.LearnedNormal,
    "full-normal": priors.FullCovarianceNormal,
    "student-t": priors.StudentT,
    "laplace": priors.Laplace,
    "mixture": priors.MixtureOfGaussians,
    "vamp": priors.VampPrior,
    "exemplar": priors.ExemplarPrior,
    "flow": priors.FlowPrior,
    "autoregressive": priors.AutoregressivePrior,
    "lars": priors.LearnedAcceptRejectPrior,
    "snis": priors.SelfNormalizedImportancePrior,
    "energy": priors.EnergyPrior,
    "bernoulli": priors.BernoulliPrior,
    "autoregressive-bernoulli": priors.AutoregressiveBernoulliPrior,
    "rbm": priors.RBMPrior,
    "categorical": priors.CategoricalPrior,
    "sphere": priors.UniformSphere,
}
LIKELIHOODS: Known = {
    "bernoulli": likelihoods.BernoulliDecoder,
    "continuous-bernoulli": likelihoods.ContinuousBernoulliDecoder,
    "normal": likelihoods.NormalDecoder,
    "optimal-sigma": likelihoods.OptimalSigmaDecoder,
    "laplace": likelihoods.LaplaceDecoder,
    "student-t": likelihoods.StudentTDecoder,
    "beta": likelihoods.BetaDecoder,
    "logistic": likelihoods.DiscretizedLogisticDecoder,
    "logistic-mixture": likelihoods.DiscretizedLogisticMixtureDecoder,
    "pixel-cnn": likelihoods.PixelCNNDecoder,
    "categorical": likelihoods.CategoricalDecoder,
    "poisson": likelihoods.PoissonDecoder,
    "negative-binomial": likelihoods.NegativeBinomialDecoder,
    "zero-inflated-poisson": likelihoods.ZeroInflatedPoissonDecoder,
    "zero-inflated-negative-binomial": likelihoods.ZeroInflatedNegativeBinomialDecoder,
    "table": likelihoods.TableDecoder,
}
GUIDES: Known = {
    "normal": guides.DiagonalNormalEncoder,
    "full-normal": guides.FullCovarianceEncoder,
    "low-rank": guides.LowRankEncoder,
    "flow": guides.FlowGuide,
    "ladder": Ladder,
    "delta": guides.DeltaEncoder,
    "bernoulli": guides.BernoulliEncoder,
    "categorical": guides.CategoricalEncoder,
    "sphere": guides.VonMisesFisherEncoder,
}
ENCODER_NETWORKS: Known = {name: bodies.encoder for name, bodies in NETWORKS.items()}
DECODER_NETWORKS: Known = {name: bodies.decoder for name, bodies in NETWORKS.items()}
PARTS: dict[str, Known] = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "guide": GUIDES,
    "network": ENCODER_NETWORKS,
}
"""Names that each of these settings chooses from."""
