"""Autoencoders as kinds of models: plain, sparse, denoising, stacked."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

from ppl_vae.components import ComponentSpec
from ppl_vae.guides import GUIDES, DeltaEncoder, SparseEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.names import require_least, require_not_negative, require_share
from ppl_vae.networks import MLP, hold_columns
from ppl_vae.objectives import OBJECTIVES
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.runs._codes import fit_codes, put_codes
from ppl_vae.runs._kinds import OF_POINTS, Finished, GradientKind
from ppl_vae.runs._stack import train_stack

if TYPE_CHECKING:
    from ppl_vae.runs._build import Build, Components, Model
    from ppl_vae.runs._job import TrainingJob
    from ppl_vae.runs._model import ModelSettings
    from ppl_vae.training import FitResult

_NORMALS = 10


class PointKind(GradientKind):
    """A kind whose guide is a point: an encoder z = f(x) without a density.

    It is trained by reconstruction, or by the joint density of x and z, and not by a bound. What
    makes it a model of x is fitted afterwards: the density of the training data's codes is its
    p(z), and of a normal likelihood the scale is the one that gives validation data the highest
    log p(x).
    """

    finishes = True
    encodes = True
    normals: int

    @property
    @abstractmethod
    def reconstruction(self) -> str:
        """Objective that ``auto`` stands for."""

    def objective(self, written: str) -> str:
        """Reconstruction, or the joint density if that is written."""
        if written == "auto":
            return self.reconstruction
        name = OBJECTIVES.split(written.partition("+")[0])[0]
        if name in OBJECTIVES and name not in OF_POINTS:
            raise ValueError(
                f"objective {written} takes the guide's density, and an autoencoder's guide is a "
                f'point without one: take {" or ".join(OF_POINTS)}, or model="vae".'
            )
        return written

    def components(self, settings: "ModelSettings", chosen: "Components") -> "Components":
        """A normal likelihood gets a fixed scale: reconstruction is then by squared errors."""
        if len(settings.layers) > 1:
            raise ValueError(
                f"an autoencoder has one layer of codes, got latent {settings.layers}: give it one "
                'size, and further layers as hidden; a hierarchy is of model="vae".'
            )
        if chosen.guide.build not in (DeltaEncoder, SparseEncoder):
            points = [n for n, build in GUIDES.items() if build in (DeltaEncoder, SparseEncoder)]
            raise ValueError(
                f"guide {chosen.guide.text} has a density, and an autoencoder's is a point: leave "
                f'it out ({" or ".join(points)}), or take model="vae".'
            )
        if chosen.prior.build is not StandardNormalPrior:
            raise ValueError(
                f"prior {chosen.prior.text}: an autoencoder's p(z) is fitted to its codes after "
                'training: leave it out, or take model="vae" with guide="delta".'
            )
        likelihood = chosen.likelihood
        arguments = likelihood.arguments
        if likelihood.build is NormalDecoder and arguments["scale"] == "shared":
            # Found after training; any number gives training the same minimum.
            likelihood = replace(likelihood, arguments={**arguments, "scale": 1.0})
        return replace(chosen, likelihood=likelihood)

    def finish(self, model: "Model", job: "TrainingJob") -> Finished:
        """Fit the density of the codes, then the scale of a normal likelihood."""
        return fit_codes(model, job, self.normals)

    def apply(self, model: "Model", finished: Finished) -> None:
        """Put both into the model."""
        put_codes(model, finished)


@final
@dataclass(frozen=True)
class AutoencoderKind(PointKind):
    """An autoencoder: x to a code z = f(x) and back, by squared error or Bernoulli.

    Attributes:
        normals: Normals in the density of the codes that is fitted after training; 1: one normal.
    """

    normals: int = _NORMALS

    def __post_init__(self) -> None:
        require_least(1, normals=self.normals)

    @property
    def guide(self) -> ComponentSpec:
        """The point."""
        return "delta"

    @property
    def reconstruction(self) -> str:
        """Reconstruction alone."""
        return "reconstruction"

    def build(self, work: "Build") -> "Model":
        """One layer."""
        return work.build()

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train by gradients of the objective."""
        return job.fit()


@final
@dataclass(frozen=True)
class DenoisingKind(PointKind):
    """A denoising autoencoder: reconstructs x from a corrupted x, by corrupt or mask:0.3.

    Attributes:
        normals: Normals in the density of the codes that is fitted after training; 1: one normal.
    """

    normals: int = _NORMALS

    def __post_init__(self) -> None:
        require_least(1, normals=self.normals)

    @property
    def guide(self) -> ComponentSpec:
        """The point."""
        return "delta"

    @property
    def reconstruction(self) -> str:
        """Reconstruction alone; the target is the clean x."""
        return "reconstruction"

    def build(self, work: "Build") -> "Model":
        """One layer behind a corruption."""
        return replace(work, corrupt=work.corrupt or "mask").build()

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train by gradients of the objective."""
        return job.fit()


@final
@dataclass(frozen=True)
class SparseKind(PointKind):
    """A sparse autoencoder: more codes than features, of which few are active.

    The columns of the decoder's weights are held at norm 1, or small codes and large weights would
    escape the penalty.

    Attributes:
        penalty: Sum of absolute codes (l1, of codes 0 or more), divergence of mean activations from
            rate (kl, of codes in (0, 1)), or all but the largest codes set to 0 (top).
        weight: Weight of the penalty, in nats.
        rate: Mean activation that kl aims at.
        keep: Number of codes that top keeps.
        codes: Number of codes; None: latent, if that is more than features, or twice the features
            where latent is not given.
        normals: Normals in the density of the codes that is fitted after training; 1: one normal.
    """

    penalty: Literal["l1", "kl", "top"] = "l1"
    weight: float = 0.1
    rate: float = 0.05
    keep: int = 10
    codes: int | None = None
    normals: int = _NORMALS

    def __post_init__(self) -> None:
        require_least(1, keep=self.keep, normals=self.normals)
        require_share(rate=self.rate)
        for name, of in (("keep", "top"), ("rate", "kl")):
            if getattr(self, name) != getattr(SparseKind, name) and self.penalty != of:
                raise ValueError(f"{name} is of penalty {of}, and this one is {self.penalty}.")
        require_not_negative(weight=self.weight)

    @property
    def guide(self) -> ComponentSpec:
        """The point, with the activation that the penalty is of."""
        return {"l1": "sparse", "kl": "sparse:sigmoid", "top": f"sparse:keep={self.keep}"}[
            self.penalty
        ]

    @property
    def reconstruction(self) -> str:
        """Reconstruction and the penalty."""
        return {
            "l1": f"reconstruction:l1={self.weight}",
            "kl": f"reconstruction:activation_kl={self.weight},rate={self.rate}",
            "top": "reconstruction",
        }[self.penalty]

    def build(self, work: "Build") -> "Model":
        """One layer wider than the data, its decoder's columns held."""
        features, latent = work.dataset.features, work.sizes.layers[0]
        size = self.codes or (latent if latent > features else 2 * features)
        if size <= features:
            raise ValueError(
                f"a sparse autoencoder has more codes than features, got {size} of {features}: "
                'give sparse:codes=N more, or take model="autoencoder".'
            )
        if self.penalty == "top" and self.keep >= size:
            raise ValueError(f"keep {self.keep} of {size} codes leaves none out: keep fewer.")
        if work.components.decoder_network.build is not MLP:
            raise ValueError(
                f"network {work.components.decoder_network.text}: a sparse autoencoder holds the "
                "columns of linear layers, and takes mlp."
            )
        model = replace(work, sizes=replace(work.sizes, latent=size)).build()
        hold_columns(model.decoder)  # type: ignore[arg-type]
        return model

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train by gradients of the objective.

        Raises:
            ValueError: If latent was given and is no number of codes that a sparse autoencoder has.
        """
        # Here, not in build: a run that is there is opened whatever its latent says. Settings do
        # not tell the default from the same number typed.
        latent, features = job.settings.layers[0], job.build.dataset.features
        if self.codes is None and latent <= features and latent != type(job.settings).latent:
            raise ValueError(
                f"latent {latent}: a sparse autoencoder has more codes than the {features} "
                f"features: leave latent out for {2 * features} codes, or give sparse:codes=N."
            )
        return job.fit()


@final
@dataclass(frozen=True)
class StackedKind(PointKind):
    """A stacked autoencoder: pretrained layer by layer, then trained as one.

    Without pretraining it is the autoencoder of the same sizes.

    Attributes:
        epochs: Epochs of pretraining of each layer, beside those of the training as one.
        normals: Normals in the density of the codes that is fitted after training; 1: one normal.
    """

    epochs: int = 20
    normals: int = _NORMALS

    def __post_init__(self) -> None:
        require_least(1, epochs=self.epochs, normals=self.normals)

    @property
    def guide(self) -> ComponentSpec:
        """The point."""
        return "delta"

    @property
    def reconstruction(self) -> str:
        """Reconstruction alone."""
        return "reconstruction"

    def build(self, work: "Build") -> "Model":
        """One layer of codes, of networks with layers of their own."""
        if work.components.encoder_network.build is not MLP:
            raise ValueError(
                f"network {work.components.encoder_network.text}: a stacked autoencoder trains "
                "linear layers one by one, and takes mlp."
            )
        return work.build()

    def train(self, job: "TrainingJob") -> "FitResult":
        """Train layer by layer, unless pretrain is false, then all layers together."""
        if job.settings.pretrain is False:
            return job.fit()
        phases = train_stack(job, self.epochs)
        return replace(job.fit(), phases=phases)
