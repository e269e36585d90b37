"""Likelihoods: modules whose ``forward(z)`` reads a network's output as p(x|z).

Each is called a decoder: (..., latent) to a distribution with event shape (features,).
"""

from torch import nn

from ppl_vae.components import MODEL_CONTEXT, Kind
from ppl_vae.likelihoods._bernoulli import BernoulliDecoder, BernoulliVector, bernoulli_log_prob
from ppl_vae.likelihoods._beta import BetaDecoder
from ppl_vae.likelihoods._categorical import CategoricalDecoder
from ppl_vae.likelihoods._continuous_bernoulli import (
    ContinuousBernoulli,
    ContinuousBernoulliDecoder,
)
from ppl_vae.likelihoods._counts import NegativeBinomialDecoder, PoissonDecoder
from ppl_vae.likelihoods._discretized_logistic import (
    DiscretizedLogistic,
    DiscretizedLogisticDecoder,
    DiscretizedLogisticMixtureDecoder,
)
from ppl_vae.likelihoods._features import FeatureVector, feature_log_prob
from ppl_vae.likelihoods._laplace import LaplaceDecoder
from ppl_vae.likelihoods._normal import NormalDecoder
from ppl_vae.likelihoods._observed import Observed, ObservedDecoder
from ppl_vae.likelihoods._optimal_sigma import OptimalSigmaDecoder
from ppl_vae.likelihoods._outputs import ParameterSource, Positive
from ppl_vae.likelihoods._pixel_cnn import PixelCNNDecoder
from ppl_vae.likelihoods._student_t import StudentTDecoder
from ppl_vae.likelihoods._table import TableDecoder
from ppl_vae.likelihoods._table_row import TableRow
from ppl_vae.likelihoods._values import Values
from ppl_vae.likelihoods._zero_inflated import (
    ZeroInflatedNegativeBinomialDecoder,
    ZeroInflatedPoissonDecoder,
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
