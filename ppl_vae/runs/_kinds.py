"""Kinds of models by name: what each is built of, trained by, and left with after training.

A kind is a final class of plain settings below :class:`ModelKind`, and an entry in ``MODELS``. One
that has an update rule of its own trains in :meth:`ModelKind.train` by another loop than the job's.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import Tensor

from ppl_vae.components import ComponentSpec
from ppl_vae.guides import GUIDES
from ppl_vae.names import require_least

if TYPE_CHECKING:
    from ppl_vae.data import Rows
    from ppl_vae.evidence import Evidence
    from ppl_vae.runs._build import Build, Components, Model
    from ppl_vae.runs._job import TrainingJob
    from ppl_vae.runs._model import ModelSettings
    from ppl_vae.training import FitResult

OF_POINTS = ("reconstruction", "joint-density")
"""Objectives of models whose guide is a point: none of them is a bound."""


@final
@dataclass(frozen=True, eq=False)
class Finished:
    """What a kind of model is left with after training, beside its trained parameters.

    Attributes:
        tensors: Name to tensor.
        record: Plain values: what was chosen, and by what.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)


class ModelKind(ABC):
    """One kind of model."""

    ascends: ClassVar[bool]
    """Whether it is trained by the gradient of an objective, and not by a rule of its own."""
    finishes: ClassVar[bool]
    """Whether something is fitted after training."""
    encodes: ClassVar[bool]
    """Whether its guide is an encoder, and not the prior in the place of one."""

    @property
    @abstractmethod
    def guide(self) -> ComponentSpec:
        """Guide that ``auto`` stands for."""

    @abstractmethod
    def likelihood(self, *, table: bool) -> ComponentSpec:
        """Likelihood that ``auto`` stands for.

        Args:
            table: Whether the data are a file of a table.
        """

    @abstractmethod
    def objective(self, written: str) -> str:
        """Objective of a run: what ``auto`` stands for, or the one that is written.

        Of a model that has a rule of its own it is the name of that rule.

        Raises:
            ValueError: If the model is trained by none such; names those it is trained by.
        """

    @abstractmethod
    def components(self, settings: "ModelSettings", chosen: "Components") -> "Components":
        """Components of the model, by the settings.

        Raises:
            ValueError: If one does not fit this kind.
        """

    @abstractmethod
    def build(self, work: "Build") -> "Model":
        """Build the model and its guide.

        Raises:
            ValueError: If it cannot be built for these data.
        """

    @abstractmethod
    def train(self, job: "TrainingJob") -> "FitResult":
        """Train the model, going on from the job's checkpoint if it is there."""

    @abstractmethod
    def finish(self, model: "Model", job: "TrainingJob") -> Finished:
        """Find what is fitted after training; asked only of a kind that :attr:`finishes`.

        It is kept in the run's folder, and :meth:`apply` gets it whenever the run is opened.
        """

    @abstractmethod
    def apply(self, model: "Model", finished: Finished) -> None:
        """Put what was found into the model."""

    @abstractmethod
    def idle(self, training: Sequence[str]) -> Sequence[str]:
        """Names of settings without effect on this kind.

        Args:
            training: Names of all settings of training.
        """

    @abstractmethod
    def evidence(self, model: "Model", rows: "Rows", finished: Finished) -> "Evidence | None":
        """Log p(x) in the model's own way, which the method ``auto`` takes; None: it has none.

        Args:
            model: The trained model.
            rows: The data.
            finished: What was found after training.
        """


class GradientKind(ModelKind):
    """A kind that is trained by the gradient of an objective."""

    ascends = True

    def likelihood(self, *, table: bool) -> ComponentSpec:
        """Bernoulli, of a table that of mixed columns."""
        return "table" if table else "bernoulli"

    def idle(self, training: Sequence[str]) -> Sequence[str]:
        """None of them."""
        return ()

    def evidence(self, model: "Model", rows: "Rows", finished: Finished) -> "Evidence | None":
        """None: by an estimator."""
        return None


@final
@dataclass(frozen=True)
class VAEKind(GradientKind):
    """A variational autoencoder, of one layer of latents or several.

    Attributes:
        particles: Particles of the objective that auto stands for: elbo, or iwae of two or more.
    """

    particles: int = 1
    finishes: ClassVar[bool] = False
    encodes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"particles must be 1 or more, got {self.particles}.")

    @property
    def guide(self) -> ComponentSpec:
        """The normal."""
        return "normal"

    def objective(self, written: str) -> str:
        """The ELBO or IWAE, or whichever is written."""
        if written != "auto":
            return written
        return "elbo" if self.particles == 1 else f"iwae:{self.particles}"

    def components(self, settings: "ModelSettings", chosen: "Components") -> "Components":
        """All components, as they are."""
        return chosen

    def build(self, work: "Build") -> "Model":
        """One layer, or a hierarchy."""
        return work.build()

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train by gradients of the objective."""
        return job.fit()

    def finish(self, model: "Model", job: "TrainingJob") -> Finished:
        """Nothing is fitted afterwards."""
        return Finished()

    def apply(self, model: "Model", finished: Finished) -> None:
        """Nothing is there to put."""


@final
@dataclass(frozen=True)
class GeneratorKind(GradientKind):
    """A generator network without an encoder: q(z|x) is refined for each datum from the prior.

    Attributes:
        refinements: Updates of q(z|x) for each update of the network.
        particles: Particles of the ELBO that auto stands for.
    """

    refinements: int = 60
    particles: int = 4
    finishes: ClassVar[bool] = False
    encodes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_least(1, refinements=self.refinements, particles=self.particles)

    @property
    def guide(self) -> ComponentSpec:
        """The normal, which refinement starts."""
        return "normal"

    def objective(self, written: str) -> str:
        """The ELBO of several particles, or whichever is written."""
        return f"elbo:{self.particles}" if written == "auto" else written

    def components(self, settings: "ModelSettings", chosen: "Components") -> "Components":
        """A prior and a likelihood.

        Raises:
            ValueError: If there are several layers, a guide or a corruption.
        """
        if len(settings.layers) > 1:
            raise ValueError(
                f"latent {settings.layers}: a generator has one layer of latents: give one size; "
                'a hierarchy is of model="vae".'
            )
        # As it is written in full too, in the folder of a run.
        usual = str(GUIDES.parse(self.guide))
        if str(chosen.guide) != usual or settings.corrupt is not None:
            raise ValueError(
                'a generator has no encoder: leave guide and corrupt out, or take model="vae".'
            )
        return chosen

    def build(self, work: "Build") -> "Model":
        """Prior and likelihood, the prior in place of a guide."""
        return work.without_encoder()

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train by gradients of the objective under refined guides."""
        # Validation bounds are those of the prior, and say nothing of the model.
        settings = replace(job.training, keep="last", patience=None)
        if settings.step == "auto":
            settings = replace(settings, step=f"semi-amortised:{self.refinements}")
        return replace(job, training=settings).fit()

    def finish(self, model: "Model", job: "TrainingJob") -> Finished:
        """Nothing is fitted afterwards."""
        return Finished()

    def apply(self, model: "Model", finished: Finished) -> None:
        """Nothing is there to put."""
