"""Binary data and class indices: independent Bernoulli and categorical features."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae._graphs import is_recording
from ppl_vae.data import RowTensor, row_chunks
from ppl_vae.likelihoods._features import NORMAL, FeatureVector, Values
from ppl_vae.likelihoods._outputs import read_blocks, start_blocks
from ppl_vae.names import ValuesError, require_least
from ppl_vae.networks import set_output_bias

_MEAN_MARGIN = 1e-2
"""Distance of means from 0 and 1 at the start, so that no output bias starts saturated."""

_BLOCK = 2**19
"""Number of elements whose log-probability is computed at once: temporaries of larger blocks leave
the cache and go back to the operating system after each use, which costs more than arithmetic."""


_FACTORS = 64
"""Number of factors between 1/2 and 2 whose product stays in range."""

_LANES = 16
"""Numbers in the widest registers of today's processors."""


class _BernoulliLogProb(torch.autograd.Function):
    r"""``sum_d log Bernoulli(x_d; logits_d)`` for binary x, with one logarithm for many features.

    With s = (2x - 1) logits, ``log sigmoid(s) = min(s, 0) + log sigmoid(|s|)``. The factors
    sigmoid(|s|) lie in [1/2, 1], so that products of many of them stay in range and one logarithm
    serves them all; log1p of every element costs more than the decoder's last layer.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        signs, logits = torch.broadcast_tensors(2 * x - 1, logits)
        if is_recording():
            return _sum_log_sigmoid_in_lanes(signs * logits)
        if logits.dim() == 1 or logits.numel() <= _BLOCK:
            return _sum_log_sigmoid(signs * logits)
        size = max(1, _BLOCK // logits[0].numel())
        blocks = zip(signs.split(size), logits.split(size), strict=True)
        return torch.cat([_sum_log_sigmoid(sign * block) for sign, block in blocks])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        # Closed form: autograd would keep the temporaries of every block. x needs none: it is data.
        return grad_outputs[0].unsqueeze(-1) * (x - torch.sigmoid(logits)), None


def _sum_log_sigmoid(signed: Tensor) -> Tensor:
    """``sum_d log sigmoid(s_d)``; overwrites its argument."""
    below_zero = signed.clamp(max=0).sum(-1)
    factors = signed.abs_().sigmoid_()
    features = factors.shape[-1]
    # Groups that leave no remainder, where there are such.
    sizes = range(_FACTORS, 15, -1)
    size = next((size for size in sizes if features % size == 0), _FACTORS)
    grouped = features - features % size
    total = below_zero
    if grouped:
        groups = factors[..., :grouped].unflatten(-1, (-1, size))
        total = total + groups.prod(-1).log_().sum(-1)
    if grouped < features:
        total = total + factors[..., grouped:].prod(-1).log_()
    return total


def _sum_log_sigmoid_in_lanes(signed: Tensor) -> Tensor:
    """``sum_d log sigmoid(s_d)`` for a compiler, as one loop over vectors of neighbouring features.

    By factors 1 + exp(-|s|), which lie in [1, 2] and need no division. One operation after the
    other, without a compiler, it takes longer than :func:`_sum_log_sigmoid`.
    """
    lanes = _LANES * max(1, math.ceil(signed.shape[-1] / (_LANES * _FACTORS)))
    whole = signed.shape[-1] - signed.shape[-1] % lanes
    total = torch.zeros_like(signed[..., 0])
    for part in (signed[..., :whole].unflatten(-1, (-1, lanes)), signed[..., whole:, None]):
        if part.numel():
            below_zero = part.clamp(max=0).sum(-2)
            total = total + (below_zero - (1 + part.abs().neg().exp()).prod(-2).log()).sum(-1)
    return total


def bernoulli_log_prob(
    logits: Float[Tensor, "*shape features"], x: Float[Tensor, "*batch features"]
) -> Float[Tensor, "..."]:
    """``sum_d x_d log sigmoid(l_d) + (1 - x_d) log sigmoid(-l_d)`` in nats, for binary x."""
    if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64):
        result: Tensor = _BernoulliLogProb.apply(logits, x)
        return result
    return (logits * x - functional.softplus(logits)).sum(-1)


@final
class BernoulliVector(TorchDistribution):  # type: ignore[misc, unused-ignore]
    """Independent Bernoulli features as one event of shape (features,), by their logits.

    The same distribution as ``Bernoulli(logits=logits).to_event(1)``, faster on a CPU, and with an
    error on grey values that says what to do about them.
    """

    # Logits are a network's output: checking every one costs more than it tells, since a non-finite
    # one makes a non-finite log-density. Values are checked.
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(
        self, logits: Float[Tensor, "*shape features"], validate_args: bool | None = None
    ) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "BernoulliVector":
        """Broadcast the distribution to a batch shape."""
        expanded = self.logits.expand(*batch_shape, self.logits.shape[-1])
        return BernoulliVector(expanded, validate_args=self._validate_args)

    @property
    def mean(self) -> Float[Tensor, "*shape features"]:
        """``sigmoid(logits)``."""
        return torch.sigmoid(self.logits)

    @property
    def variance(self) -> Float[Tensor, "*shape features"]:
        """``mean (1 - mean)``."""
        return self.mean * (1 - self.mean)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws in {0, 1}, shape ``(*sample_shape, *batch_shape, features)``."""
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Float[Tensor, "*batch features"]) -> Float[Tensor, "*shape"]:
        """Log-probability in nats.

        Raises:
            ValueError: If validation is on (the default) and a value is neither 0 nor 1.
        """
        if self._validate_args:
            self._require_binary(value)
        return bernoulli_log_prob(self.logits, value)

    def feature_log_prob(
        self, value: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*shape features"]:
        """The terms of :meth:`log_prob`."""
        if self._validate_args:
            self._require_binary(value)
        return self.logits * value - functional.softplus(self.logits)

    @staticmethod
    def _require_binary(value: Tensor) -> None:
        # x (x - 1), twice as fast as comparisons; a sum since Boolean tensors know no difference.
        excess = value * (value + -1)
        if excess.any():
            bad = value[excess != 0].flatten()
            remedy = f"take another likelihood {NORMAL}"
            if ((value >= 0) & (value <= 1)).all():
                remedy = (
                    "binarise the data (torch.bernoulli(x); of a run, "
                    f'binarize="static" or binarize="dynamic"), or {remedy}'
                )
            got = f"got {bad[0].item():.4g}"
            raise ValuesError(f"a Bernoulli likelihood takes data in {{0, 1}}, {got}", remedy)


@final
class BernoulliDecoder(nn.Module):
    """p(x|z) = prod_d Bernoulli(x_d; sigmoid(network(z)_d)).

    Args:
        network: Maps (..., latent) to logits of shape (..., features).
        data_mean: Mean of the training data, shape (features,); when given, the network's last
            bias starts at its logit, so that the first decoder output is the data mean.
    """

    def __init__(
        self, network: nn.Module, data_mean: Float[Tensor, " features"] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        if data_mean is not None:
            mean = data_mean.nan_to_num(0.5).clamp(_MEAN_MARGIN, 1 - _MEAN_MARGIN)
            set_output_bias(network, mean.logit())

    def forward(self, z: Float[Tensor, "*shape latent"]) -> BernoulliVector:
        """The distribution of x, event shape (features,)."""
        return BernoulliVector(self.network(z))


class _Indices(dist.Categorical):  # type: ignore[misc, unused-ignore]
    """A categorical distribution whose index has the logits' type, a mean and a variance."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        index: Tensor = super().sample(torch.Size(sample_shape))
        return index.to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self.mean.square()

    def _moment(self, order: int) -> Tensor:
        probabilities: Tensor = self.probs
        index = torch.arange(probabilities.shape[-1], device=probabilities.device)
        return (probabilities * index**order).sum(-1)


def _values(categories: int) -> Values:
    return Values(
        "a categorical",
        f"class indices 0, ..., {categories - 1}",
        "number the classes from 0, give the likelihood their number, or take another one "
        f"{NORMAL}",
        lambda x: (x >= 0) & (x < categories) & (x == x.floor()),
    )


@final
class CategoricalDecoder(nn.Module):
    """p(x|z) = prod_d softmax(network(z)_d)[x_d], x_d a class index 0, ..., categories - 1.

    For nominal features, such as answers to a questionnaire, each with at most so many classes. The
    mean and variance are those of the index: of use where the classes are ordered.

    Args:
        network: Maps (..., latent) to (..., categories * features), a block of logits a class.
        categories: Number of classes.
        data: Training data; when given, the probabilities start at the classes' frequencies, with
            one more of each.

    Raises:
        ValueError: If there are under 2 categories.
    """

    whole_numbers: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        categories: int,
        *,
        data: Float[RowTensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        require_least(2, categories=categories)
        self.network, self.categories = network, categories
        if data is not None:
            # One more of each: a class that the data lack does not start at minus infinity.
            counts = [
                1 + torch.stack([(part == index).sum(0) for part in row_chunks(data)]).sum(0)
                for index in range(categories)
            ]
            total = torch.stack(counts).sum(0)
            start_blocks(network, [(count / total).log() for count in counts])

    @classmethod
    def num_outputs(cls, features: int, categories: int) -> int:
        """Outputs that the network must have."""
        return features * categories

    def forward(self, z: Float[Tensor, "*shape latent"]) -> FeatureVector:
        """The distribution of x, event shape (features,)."""
        logits = torch.stack(read_blocks(self.network(z), self.categories), -1)
        return FeatureVector(_Indices(logits=logits, validate_args=False), _values(self.categories))
