"""Class indices: independent categorical features."""

from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.likelihoods._features import FeatureVector
from ppl_vae.likelihoods._outputs import read_blocks, start_blocks
from ppl_vae.likelihoods._values import Values


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
        '(likelihood="normal")',
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

    def __init__(
        self,
        network: nn.Module,
        categories: int,
        *,
        data: Float[Tensor, "num_data features"] | None = None,
    ) -> None:
        super().__init__()
        if categories < 2:
            raise ValueError(f"categories must be 2 or more, got {categories}.")
        self.network, self.categories = network, categories
        if data is not None:
            counts = [1 + (data == index).sum(0) for index in range(categories)]
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
