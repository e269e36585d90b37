"""Linear generators: probabilistic principal components and factor analysis, by their own rules."""

import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.baselines._base import Baseline
from ppl_vae.data import RowData, RowTensor, row_chunks
from ppl_vae.evidence import Evidence
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.names import require_not_negative, require_sizes
from ppl_vae.vae import VAE

Rule = Literal["closed", "em"]


class _LinearModel(Baseline):
    """x = W z + b + noise, maximised through the mean and the covariance of all data alone."""

    batched: ClassVar[bool] = False

    def __init__(self, features: int, latent: int, noise: Tensor, least_noise: float) -> None:
        super().__init__()
        require_sizes(features=features, latent=latent)
        require_not_negative(least_noise=least_noise)
        if latent >= features:
            raise ValueError(
                f"a linear generator has fewer latents than features, got {latent} and {features}: "
                f"give latent {features - 1} at most."
            )
        weight = torch.zeros(features, latent, dtype=torch.float64)
        self.linear = LinearGaussian(weight, noise_scale=noise)
        # Set by the rule, never by a gradient.
        self.linear.requires_grad_(False)
        self.latent, self.least_noise = latent, least_noise
        self._covariance: Tensor | None = None

    @abstractmethod
    def _shared(self, variances: Float[Tensor, " features"]) -> Tensor:
        """Noise variances of the model from those that each feature asks for."""

    @abstractmethod
    def _maximise(self, covariance: Float[Tensor, "features features"], progress: float) -> None:
        """Set W and the noise by one step of the rule."""

    def require_data(self, x: RowTensor) -> None:
        """Check that rows are of so many numbers."""
        features = len(self.linear.weight)
        if x.shape[1:] != (features,):
            raise ValueError(
                f"{type(self).__name__}({features}, {self.latent}) takes rows of {features} "
                f"numbers, got shape {tuple(x.shape[1:])}: flatten them, or make it so wide."
            )

    def start(self, train: RowTensor) -> None:
        """Take the mean and the covariance of all data, and W at random from the seed.

        Raises:
            ValueError: If a column is constant, or rows are too few, and no least noise is given.
        """
        linear = self.linear
        if len(train) <= self.latent + 1 and self.least_noise == 0:
            raise ValueError(
                f"{len(train)} rows lie in a plane of {self.latent} dimensions: log p(x) has no "
                f"maximum; give {self.latent + 2} rows or more, or least_noise, a standard "
                "deviation in the units of x."
            )
        linear.bias.data, covariance = moments(train)
        self._covariance = covariance
        variances = covariance.diagonal()
        constant = (variances <= 1e-12 * variances.max()).nonzero().flatten().tolist()
        if constant and self.least_noise == 0:
            raise ValueError(
                f"column {constant[0]} of train is constant ({len(constant)} are): a density on it "
                "has no maximum; remove it, dequantise the data, or give least_noise, a standard "
                "deviation in the units of x."
            )
        # As if half of the variance were noise; EM is at rest at W = 0, so that W is random.
        spread = (variances.mean() / (2 * self.latent)).sqrt()
        linear.weight.data = spread * torch.randn_like(linear.weight)
        self._set_noise(variances / 2)

    def update(self, x: RowTensor, progress: float) -> Mapping[str, Tensor | float]:
        """Take a step of the rule; ``bound`` is the mean of log p(x) after it, exact.

        Raises:
            ValueError: If the model has not been started.
        """
        if self._covariance is None:
            raise ValueError("the model knows no data yet: train it by pv.baselines.train.")
        self._covariance = self._covariance.to(self.linear.weight)
        self._maximise(self._covariance, progress)
        return {"bound": self._mean_log_prob(self._covariance)}

    def _mean_log_prob(self, covariance: Tensor) -> Tensor:
        """Mean of log p(x) over the data, by their covariance."""
        linear = self.linear
        scale = linear.noise_scale.expand(len(linear.weight))
        whitened = covariance / scale / scale.unsqueeze(-1)
        weight = linear.weight / scale.unsqueeze(-1)
        precision = linear.posterior_precision
        explained = torch.linalg.solve(precision, weight.T @ whitened @ weight).trace()
        log_det = torch.logdet(precision) + 2 * scale.log().sum()
        constant = len(scale) * math.log(2 * math.pi)
        mean: Tensor = -0.5 * (constant + log_det + whitened.trace() - explained)
        return mean

    def _em_step(self, covariance: Tensor) -> None:
        """``W = S B'(I - B W + B S B')^-1``, noise ``diag(S - W B S)``, with ``B x = E[z|x]``."""
        linear = self.linear
        gain = linear.gain
        shared = covariance @ gain.T
        second = torch.eye(self.latent).to(shared) - gain @ linear.weight + gain @ shared
        linear.weight.data = torch.linalg.solve(second, shared.T).T
        self._set_noise((covariance - linear.weight @ shared.T).diagonal())

    def _set_noise(self, variances: Float[Tensor, " features"]) -> None:
        floor = max(self.least_noise**2, torch.finfo(variances.dtype).tiny)
        log_noise = self.linear.log_noise
        assert log_noise is not None
        log_noise.data = 0.5 * self._shared(variances).clamp(min=floor).log()

    def score(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, " batch"]:
        """Exact log p(x), in nats."""
        return self.linear.log_evidence(x)

    def training_state(self) -> dict[str, Tensor]:
        """Nothing: the moments are those of the data."""
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""

    def as_vae(self) -> VAE:
        """The model with its exact posterior as the guide: every importance weight is p(x)."""
        return self.linear.vae()

    @torch.no_grad()
    def evidence(self, x: RowData) -> Evidence:
        """Exact log p(x) of each datum.

        Raises:
            ValueError: If rows are of another shape, not finite, or would be rounded.
        """
        start = time.perf_counter()
        rows = self.read(x, event=(len(self.linear.weight),))
        log_prob = torch.cat(
            [self.score(part.to(self.linear.weight)).cpu() for part in row_chunks(rows)]
        )
        return Evidence(
            log_prob=log_prob,
            standard_error=torch.zeros_like(log_prob),
            effective_sample_size=torch.ones_like(log_prob),
            num_particles=1,
            direction="exact",
            method="closed form",
            identity=self.identity(x, "closed form"),
            seconds=time.perf_counter() - start,
        )


@final
class LinearGenerator(_LinearModel):
    """Probabilistic principal components: z ~ Normal(0, I), x|z ~ Normal(W z + b, s^2 I).

    The maximum of the likelihood is known: with the eigenvalues l_1 >= l_2 >= ... of the data's
    covariance, and its eigenvectors U,

    ``W = U_q (diag(l_1, ..., l_q) - s^2 I)^(1/2)``, ``s^2 = mean of l_(q+1), ..., l_D``,

    up to a rotation of z. EM rises to the same log p(x), monotonically. log p(x) is exact and in
    nats: ``evidence``. As s goes to 0 the posterior mean becomes the orthogonal projection onto
    the plane ``b + W z``, the ordinary principal components; and log p(x) goes to -inf for every x
    off that plane, so that a generator without noise has no density to compare.

    It is always in double precision. One update sees all data, by their mean and covariance.

    Args:
        features: Numbers of a datum D.
        latent: Number of latents q, less than D.
        rule: ``closed``, which is at the maximum after one update, or ``em``.
        least_noise: Smallest s, in the units of x; 0 for none.

    Raises:
        ValueError: If a size is out of range.

    References:
        Tipping and Bishop, 1999, Probabilistic principal component analysis.
    """

    def __init__(
        self, features: int, latent: int, rule: Rule = "closed", *, least_noise: float = 0.0
    ) -> None:
        if rule not in ("closed", "em"):
            raise ValueError(f"LinearGenerator takes rule closed or em, got {rule!r}.")
        super().__init__(features, latent, torch.ones(()).double(), least_noise)
        self.rule = rule

    def settings(self) -> dict[str, Any]:
        """Sizes, rule and least noise."""
        features = len(self.linear.weight)
        return {
            "features": features,
            "latent": self.latent,
            "rule": self.rule,
            "least_noise": self.least_noise,
        }

    def _shared(self, variances: Float[Tensor, " features"]) -> Tensor:
        return variances.mean()

    def _maximise(self, covariance: Float[Tensor, "features features"], progress: float) -> None:
        if self.rule == "em":
            self._em_step(covariance)
        elif progress == 0:
            # Later updates would find the same.
            values, vectors = torch.linalg.eigh(covariance)
            self._set_noise(values[: -self.latent].clamp(min=0))
            kept = values[-self.latent :] - self.linear.noise_scale.square()
            self.linear.weight.data = vectors[:, -self.latent :] * kept.clamp(min=0).sqrt()


@final
class FactorAnalysis(_LinearModel):
    """z ~ Normal(0, I), x|z ~ Normal(W z + b, diag(s_1^2, ..., s_D^2)), by EM.

    Each feature has a noise of its own, so that the model does not change with the units of the
    columns. log p(x) rises at every update, and is exact: ``evidence``. There is no closed
    form: EM takes some hundreds of updates, more where a noise goes to 0.

    It is always in double precision. One update sees all data, by their mean and covariance.

    Args:
        features: Numbers of a datum D.
        latent: Number of latents, less than D.
        least_noise: Smallest s_d, in the units of x; 0 for none.

    Raises:
        ValueError: If a size is out of range.

    References:
        Rubin and Thayer, 1982, EM algorithms for ML factor analysis.
    """

    def __init__(self, features: int, latent: int, *, least_noise: float = 0.0) -> None:
        super().__init__(features, latent, torch.ones(features).double(), least_noise)

    def settings(self) -> dict[str, Any]:
        """Sizes and least noise."""
        features = len(self.linear.weight)
        return {"features": features, "latent": self.latent, "least_noise": self.least_noise}

    def _shared(self, variances: Float[Tensor, " features"]) -> Tensor:
        return variances

    def _maximise(self, covariance: Float[Tensor, "features features"], progress: float) -> None:
        self._em_step(covariance)


def moments(
    x: Float[RowTensor, "num_data features"],
) -> tuple[Float[Tensor, " features"], Float[Tensor, "features features"]]:
    """Mean and covariance of all rows, in double precision, divided by their number."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for part in row_chunks(x):
        total += part.double().sum(0).cpu()
    mean = total / len(x)
    products = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in row_chunks(x):
        # About the mean: squares of large values would cancel.
        centred = part.double().cpu() - mean
        products += centred.T @ centred
    return mean, products / len(x)
