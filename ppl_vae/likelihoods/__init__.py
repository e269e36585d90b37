"""Likelihoods: modules whose ``forward(z)`` reads a network's output as p(x|z).

Each is called a decoder: (..., latent) to a distribution with event shape (features,).
"""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.likelihoods._counts import (
    NegativeBinomialDecoder,
    PoissonDecoder,
    ZeroInflatedNegativeBinomialDecoder,
    ZeroInflatedPoissonDecoder,
)
from ppl_vae.likelihoods._discrete import (
    BernoulliDecoder,
    BernoulliVector,
    CategoricalDecoder,
    bernoulli_log_prob,
)
from ppl_vae.likelihoods._discretized_logistic import (
    DiscretizedLogistic,
    DiscretizedLogisticDecoder,
    DiscretizedLogisticMixtureDecoder,
)
from ppl_vae.likelihoods._features import (
    FeatureVector,
    Observed,
    ObservedDecoder,
    Values,
    feature_log_prob,
)
from ppl_vae.likelihoods._outputs import ParameterSource, Positive
from ppl_vae.likelihoods._pixel_cnn import PixelCNNDecoder
from ppl_vae.likelihoods._real import (
    LaplaceDecoder,
    NormalDecoder,
    OptimalSigmaDecoder,
    StudentTDecoder,
)
from ppl_vae.likelihoods._table import TableDecoder
from ppl_vae.likelihoods._table_row import TableRow
from ppl_vae.likelihoods._unit_interval import (
    BetaDecoder,
    ContinuousBernoulli,
    ContinuousBernoulliDecoder,
)

LIKELIHOODS = Kind(
    "likelihood",
    {
        "bernoulli": BernoulliDecoder,
        "continuous-bernoulli": ContinuousBernoulliDecoder,
        "normal": NormalDecoder,
        "optimal-sigma": OptimalSigmaDecoder,
        "laplace": LaplaceDecoder,
        "student-t": StudentTDecoder,
        "beta": BetaDecoder,
        "logistic": DiscretizedLogisticDecoder,
        "logistic-mixture": DiscretizedLogisticMixtureDecoder,
        "pixel-cnn": PixelCNNDecoder,
        "categorical": CategoricalDecoder,
        "poisson": PoissonDecoder,
        "negative-binomial": NegativeBinomialDecoder,
        "zero-inflated-poisson": ZeroInflatedPoissonDecoder,
        "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomialDecoder,
        "table": TableDecoder,
    },
    base=nn.Module,
    context=MODEL_CONTEXT,
)
"""Likelihoods p(x|z) by name."""

__all__ = [
    "LIKELIHOODS",
    "BernoulliDecoder",
    "BernoulliVector",
    "BetaDecoder",
    "CategoricalDecoder",
    "ContinuousBernoulli",
    "ContinuousBernoulliDecoder",
    "DiscretizedLogistic",
    "DiscretizedLogisticDecoder",
    "DiscretizedLogisticMixtureDecoder",
    "FeatureVector",
    "LaplaceDecoder",
    "NegativeBinomialDecoder",
    "NormalDecoder",
    "Observed",
    "ObservedDecoder",
    "OptimalSigmaDecoder",
    "ParameterSource",
    "PixelCNNDecoder",
    "PoissonDecoder",
    "Positive",
    "StudentTDecoder",
    "TableDecoder",
    "TableRow",
    "Values",
    "ZeroInflatedNegativeBinomialDecoder",
    "ZeroInflatedPoissonDecoder",
    "bernoulli_log_prob",
    "feature_log_prob",
]
