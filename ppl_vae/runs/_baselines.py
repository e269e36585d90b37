"""Models with training rules of their own as kinds: linear generators, Boltzmann machines, GANs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, final

from ppl_vae import baselines  # for its names, which are imported at their first use
from ppl_vae.components import ComponentSpec
from ppl_vae.evidence import Evidence
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import LIKELIHOODS
from ppl_vae.networks import MLP
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.runs._kinds import Finished, ModelKind
from ppl_vae.schedules import Exponential, Schedule

if TYPE_CHECKING:
    from ppl_vae.data import Rows
    from ppl_vae.runs._build import Build, Components, Model
    from ppl_vae.runs._job import TrainingJob
    from ppl_vae.runs._model import ModelSettings
    from ppl_vae.training import FitResult

_NOT_SET: Mapping[str, str] = {
    "guide": "there is no encoder to choose",
    "prior": "its p(z) is part of the model",
}


class RuleKind(ModelKind):
    """A kind that is trained by a rule of its own, and by no objective."""

    ascends = False
    rule: ClassVar[str]
    """Name of the rule, in the place of an objective's."""
    likelihoods: ClassVar[tuple[str, ...]] = ("normal",)
    """Names of the likelihoods that it may have, the first of them unless another is given."""
    _networks: ClassVar[bool] = False
    """Whether there are networks of hidden layers."""

    @property
    def guide(self) -> ComponentSpec:
        """Normal; not used."""
        return "normal"

    def likelihood(self, *, table: bool) -> ComponentSpec:
        """The first of those that it may have."""
        return self.likelihoods[0]

    def objective(self, written: str) -> str:
        """The rule."""
        if written not in ("auto", self.rule):
            raise ValueError(
                f"objective {written}: this model is trained by {self.rule}, and by no objective "
                'of particles: leave objective out, or take model="vae".'
            )
        return self.rule

    def components(self, settings: "ModelSettings", chosen: "Components") -> "Components":
        """The components, which must be those that this model has."""
        if len(settings.layers) > 1:
            raise ValueError(
                f"latent {settings.layers}: this model has one layer of latents: give one size; a "
                'hierarchy is of model="vae".'
            )
        usual = {"guide": DiagonalNormalEncoder, "prior": StandardNormalPrior}
        for name, why in _NOT_SET.items():
            component = getattr(chosen, name)
            if component.build is not usual[name]:
                raise ValueError(f"{name} {component.text}: {why}; leave it out.")
        known = {str(LIKELIHOODS.parse(name)) for name in self.likelihoods}
        if str(chosen.likelihood) not in known:
            raise ValueError(
                f"likelihood {chosen.likelihood.text}: this model is of "
                f'{" or ".join(self.likelihoods)} data; leave it out, or take model="vae".'
            )
        if not self._networks and chosen.encoder_network.build is not MLP:
            raise ValueError(
                f"network {chosen.encoder_network.text}: this model has no networks; leave it out."
            )
        if settings.corrupt is not None:
            raise ValueError(
                f"corrupt {settings.corrupt}: there is no encoder whose input could be corrupted; "
                'leave it out, or take model="denoising".'
            )
        return chosen

    def build(self, work: "Build") -> "Model":
        """Make the model for the data.

        Raises:
            ValueError: If they are a table of mixed columns, or have missing cells.
        """
        if work.dataset.columns is not None or work.dataset.missing_share:
            raise ValueError(
                f"{work.dataset.name} has columns of other kinds than numbers, or missing cells: "
                'this model takes rows of numbers alone; take model="vae".'
            )
        return self.make(work)

    def idle(self, training: Sequence[str]) -> Sequence[str]:
        """Those of gradients, of networks where there are none, and what the rule does not take."""
        networks = () if self._networks else ("hidden", "activation")
        return [*networks, *(name for name in training if name not in self.used)]

    @property
    @abstractmethod
    def used(self) -> Sequence[str]:
        """Settings of training that the rule takes."""

    @abstractmethod
    def make(self, work: "Build") -> "Model":
        """The model, newly initialised."""


def train_by_rule(job: "TrainingJob", epochs: int | None = None) -> "FitResult":
    """Train a baseline by its own rule.

    Args:
        job: What it is trained with.
        epochs: Number of epochs that the rule needs; None: as many as are given.
    """
    return baselines.train(
        cast(baselines.Baseline, job.model),
        job.dataset.train,
        valid=job.dataset.valid,
        epochs=epochs or int(job.training.budget.limit),
        batch_size=job.training.batch_size,
        seed=job.seed,
        device=job.device,
        checkpoint=job.checkpoint,
        on_start=job.on_start,
        on_epoch=job.on_epoch,
        progress=job.progress,
        origin=job.origin,
    )


class LikelihoodKind(RuleKind):
    """A kind that maximises log p(x) itself, which is exact."""

    rule = "maximum-likelihood"
    finishes = False
    encodes = True

    def finish(self, model: "Model", job: "TrainingJob") -> Finished:
        """Nothing is fitted afterwards."""
        return Finished()

    def apply(self, model: "Model", finished: Finished) -> None:
        """Nothing is there to put."""

    def evidence(self, model: "Model", rows: "Rows", finished: Finished) -> Evidence | None:
        """Log p(x), in closed form."""
        return cast(baselines.LinearGenerator | baselines.FactorAnalysis, model).evidence(rows)


@final
@dataclass(frozen=True)
class LinearKind(LikelihoodKind):
    """A linear generator x = W z + b + noise: probabilistic principal components.

    Attributes:
        by: closed: the maximum at once; em: rises to it, one update an epoch.
        least_noise: Smallest standard deviation of the noise, in the units of x.
    """

    by: Literal["closed", "em"] = "closed"
    least_noise: float = 0.0

    @property
    def used(self) -> Sequence[str]:
        """Epochs, unless one update is all."""
        return () if self.by == "closed" else ("epochs",)

    def train(self, job: "TrainingJob") -> "FitResult":
        """Take one update, if the maximum is known, or an update of EM an epoch."""
        return train_by_rule(job, 1 if self.by == "closed" else None)

    def make(self, work: "Build") -> "Model":
        """One noise for all features."""
        sizes = work.dataset.features, work.sizes.layers[0]
        return baselines.LinearGenerator(*sizes, self.by, least_noise=self.least_noise)


@final
@dataclass(frozen=True)
class FactorAnalysisKind(LikelihoodKind):
    """Factor analysis: a linear generator with a noise for each feature, by EM.

    Attributes:
        least_noise: Smallest standard deviation of a feature's noise, in the units of x.
    """

    least_noise: float = 0.0

    @property
    def used(self) -> Sequence[str]:
        """Epochs, each an update on all data."""
        return ("epochs",)

    def train(self, job: "TrainingJob") -> "FitResult":
        """Take an update of EM an epoch."""
        return train_by_rule(job)

    def make(self, work: "Build") -> "Model":
        """A noise for each feature."""
        sizes = work.dataset.features, work.sizes.layers[0]
        return baselines.FactorAnalysis(*sizes, least_noise=self.least_noise)


class ImplicitKind(RuleKind):
    """A generator trained without regard to a density; the noise is chosen afterwards."""

    finishes = True
    encodes = False
    _networks = True

    def networks(self, work: "Build") -> tuple[Any, Any]:
        """Generator and critic of the sizes that are set."""
        return baselines.implicit_networks(
            work.dataset,
            work.sizes.layers[0],
            hidden=work.sizes.hidden,
            network=work.sizes.network,
            activation=work.sizes.activation,
        )

    @property
    def used(self) -> Sequence[str]:
        """Epochs and batches."""
        return ("epochs", "batch_size")

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train batch by batch."""
        return train_by_rule(job)

    def finish(self, model: "Model", job: "TrainingJob") -> Finished:
        """Choose the noise that validation data are likeliest under."""
        choice = cast(baselines.ImplicitModel, model).choose_noise(job.dataset.valid, seed=job.seed)
        record = {
            "scale": choice.scale,
            "method": choice.method,
            "searched": [list(pair) for pair in zip(choice.scales, choice.log_prob, strict=True)],
        }
        return Finished(record=record)

    def apply(self, model: "Model", finished: Finished) -> None:
        """Put the noise into the model."""
        cast(baselines.ImplicitModel, model).take_noise(finished.record["scale"])

    def evidence(self, model: "Model", rows: "Rows", finished: Finished) -> Evidence | None:
        """None: by an estimator."""
        return None


@final
@dataclass(frozen=True)
class GANKind(ImplicitKind):
    """A generative adversarial network with the non-saturating loss.

    Attributes:
        learning_rate: Adam's, of generator and critic.
        momentum: Adam's first decay rate, of both.
    """

    learning_rate: float = 2e-4
    momentum: float = 0.5
    rule: ClassVar[str] = "adversarial"

    def make(self, work: "Build") -> "Model":
        """Generator and critic."""
        generator, critic = self.networks(work)
        return baselines.GAN(generator, critic, work.sizes.layers[0], **asdict(self))


@final
@dataclass(frozen=True)
class WassersteinGANKind(ImplicitKind):
    """A Wasserstein GAN with gradient penalty.

    Attributes:
        learning_rate: Adam's, of generator and critic.
        penalty: Weight of the gradient penalty.
        critic_updates: Updates of the critic for each of the generator.
    """

    learning_rate: float = 1e-4
    penalty: float = 10.0
    critic_updates: int = 5
    rule: ClassVar[str] = "wasserstein"

    def make(self, work: "Build") -> "Model":
        """Generator and critic."""
        generator, critic = self.networks(work)
        return baselines.WassersteinGAN(generator, critic, work.sizes.layers[0], **asdict(self))


@final
@dataclass(frozen=True)
class GMMNKind(ImplicitKind):
    """A generative moment matching network: descends the squared MMD of batch and draws.

    Attributes:
        learning_rate: Adam's.
    """

    learning_rate: float = 1e-3
    rule: ClassVar[str] = "moment-matching"

    def make(self, work: "Build") -> "Model":
        """The generator alone."""
        return baselines.GMMN(self.networks(work)[0], work.sizes.layers[0], **asdict(self))


@final
@dataclass(frozen=True)
class RBMKind(RuleKind):
    """A restricted Boltzmann machine of latent hidden units, by contrastive divergence.

    Likelihood bernoulli has binary units, normal has real ones.

    Attributes:
        by: cd begins its chains at the data, pcd where the last update left off.
        steps: Sweeps of Gibbs sampling of an update.
        chains: Number of persistent chains.
        learning_rate: Of W and the biases.
        final_rate: What it falls to, as a straight line on a log scale; None: it does not.
        momentum: Share of the last update that the next one repeats.
        weight_decay: Factor of W that is subtracted from its gradient.
        temperatures: Temperatures by which log Z is estimated where it is not exact.
    """

    by: Literal["cd", "pcd"] = "pcd"
    steps: int = 1
    chains: int = 100
    learning_rate: float = 0.05
    final_rate: float | None = None
    momentum: float = 0.5
    weight_decay: float = 1e-4
    temperatures: int = 14_500
    finishes = True
    encodes = True
    rule: ClassVar[str] = "contrastive-divergence"
    likelihoods: ClassVar[tuple[str, ...]] = ("bernoulli", "normal")

    @property
    def _rate(self) -> float | Schedule:
        if self.final_rate is None:
            return self.learning_rate
        return Exponential(self.learning_rate, self.final_rate)

    def make(self, work: "Build") -> "Model":
        """Units by the likelihood.

        Raises:
            ValueError: If a setting is out of range.
        """
        binary = work.components.likelihood.build is LIKELIHOODS["bernoulli"]
        return baselines.RBM(
            work.dataset.features,
            work.sizes.layers[0],
            "binary" if binary else "normal",
            rule=self.by,
            steps=self.steps,
            chains=self.chains,
            learning_rate=self._rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    @property
    def used(self) -> Sequence[str]:
        """Epochs and batches."""
        return ("epochs", "batch_size")

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train batch by batch."""
        return train_by_rule(job)

    def finish(self, model: "Model", job: "TrainingJob") -> Finished:
        """Estimate log Z, once for all data."""
        machine = cast(baselines.RBM, model)
        found = machine.log_partition(temperatures=self.temperatures, seed=job.seed)
        return Finished(record={"log_z": asdict(found), "text": str(found)})

    def apply(self, model: "Model", finished: Finished) -> None:
        """Put log Z into the model."""
        cast(baselines.RBM, model).take_log_z(finished.record["log_z"]["value"])

    def evidence(self, model: "Model", rows: "Rows", finished: Finished) -> Evidence | None:
        """Log p(x) with the error of log Z, which is the same for all data."""
        values = dict(finished.record["log_z"])
        sides = {
            name: None if values[name] is None else baselines.Side(**values[name])
            for name in ("forward", "reverse")
        }
        return cast(baselines.RBM, model).evidence(
            rows, baselines.PartitionEstimate(**{**values, **sides})
        )
