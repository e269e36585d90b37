"""The contract of models that are trained by a rule of their own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.data import RowData, Rows, RowTensor, as_rows, bad_rows, require_lossless, rows_hash
from ppl_vae.identity import Identity, hash_tensors
from ppl_vae.vae import VAE


class Baseline(nn.Module, ABC):
    """A model with an update rule of its own, trained by :func:`~ppl_vae.baselines.train`.

    Those that ascend a bound of log p(x) by its gradient are no baselines:
    :func:`~ppl_vae.training.fit` trains them. Here are those that do not: EM, contrastive
    divergence, two players of a game.

    A baseline has the face of a :class:`~ppl_vae.vae.VAE`, so that whatever takes a model and a
    guide takes it too.

    Parameters and buffers are the model; whatever else the next update depends on (the state of an
    optimiser, persistent chains) is the training state. Random numbers come from torch's default
    generator, which the loop seeds for every epoch, so that a resumed run is the undisturbed one.
    """

    batched: ClassVar[bool] = True
    """Whether an epoch is one update on each batch; otherwise it is one update on all rows."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values that another run must share to go on from this one's checkpoint."""

    @abstractmethod
    def as_vae(self) -> VAE:
        """The model as p(z) p(x|z) with a guide: its posterior, or the prior where it has none."""

    @abstractmethod
    def require_data(self, x: RowTensor) -> None:
        """Check that rows are data of this model.

        Args:
            x: Rows, shape ``(num_data, *event)``.

        Raises:
            ValueError: If they are not; says which rows the model takes.
        """

    @abstractmethod
    def start(self, train: RowTensor) -> None:
        """Take from all training rows what the first update needs, once, before it.

        Called on a resumed run too, before its state is loaded. Draws come from the seed.

        Args:
            train: Rows in the precision of the model that :meth:`require_data` has passed.

        Raises:
            ValueError: If the model cannot be trained on them.
        """

    @abstractmethod
    def update(self, x: Any, progress: float) -> Mapping[str, Tensor | float]:
        """Update once on a batch.

        Args:
            x: The batch, a tensor on the device of the model, shape ``(batch, *event)``; all rows,
                wherever they are, if it is not :attr:`batched`.
            progress: Fraction of the training done, for schedules.

        Returns:
            Name to mean per datum, of numbers or of tensors of one element that nothing waits for,
            the same names in every update. ``bound`` and ``log_likelihood`` (nats) and
            ``learning_rate`` fill the fields of the epoch's record, others its ``measures``.
        """

    @abstractmethod
    def score(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"] | None:
        """Value of each datum by which the epoch to keep is chosen, larger is better.

        Returns:
            log p(x) or what stands for it, in nats; None keeps the last epoch.
        """

    @abstractmethod
    def training_state(self) -> dict[str, Tensor]:
        """Tensors besides parameters and buffers that the next update depends on."""

    @abstractmethod
    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that :meth:`training_state` gave; the tensors are the model's then.

        Raises:
            ValueError: If it is of another model.
        """

    def model(self, x: Float[Tensor, "batch *event"]) -> None:
        """Draw z ~ p(z), x ~ p(x|z), independently for each datum."""
        self.as_vae().model(x)

    def guide(self, x: Float[Tensor, "batch *event"]) -> None:
        """Draw z from the guide, independently for each datum."""
        self.as_vae().guide(x)

    @property
    def prior(self) -> Any:
        """The distribution p(z), when called."""
        return self.as_vae().prior

    @property
    def decoder(self) -> Any:
        """The likelihood p(x|z), when called with z."""
        return self.as_vae().decoder

    @property
    def encoder(self) -> Any:
        """The guide's distribution of z, when called with x."""
        return self.as_vae().encoder

    @property
    def bottom(self) -> str:
        """Name of the latent site that the decoder sees."""
        return self.as_vae().bottom

    def generate(self, count: int) -> Any:
        """p(x|z) for z drawn from the prior, batch shape (count,)."""
        return self.as_vae().generate(count)

    def reconstruct(self, x: Float[Tensor, "batch *event"]) -> Any:
        """p(x|z) for z drawn from the guide, batch shape (batch,)."""
        return self.as_vae().reconstruct(x)

    def read(
        self, given: RowData, what: str = "x", event: tuple[int, ...] | None = None
    ) -> RowTensor:
        """Rows in the model's precision, each of them finite.

        Args:
            given: Data in any form that :func:`ppl_vae.data.as_rows` takes.
            what: Their name in messages.
            event: Shape of a datum; None: any.

        Raises:
            ValueError: If a value is NaN or infinite or would be rounded, or a datum has another
                shape.
        """
        x, model = as_rows(given, what), type(self).__name__
        if event is not None and x.shape[1:] != event:
            raise ValueError(
                f"{model} takes rows of shape {event}, got {what} of shape {tuple(x.shape)}: give "
                "them rows first."
            )
        count, first = bad_rows(x)
        if count:
            raise ValueError(
                f"{what} has {count} rows with NaN or infinite values, the first at row {first}: "
                f"remove or fill them in, as {model} takes no missing cells."
            )
        # Bits and whole numbers come as integers, which torch's layers do not take.
        return require_lossless(x, self.dtype, what)

    def identity(self, given: RowData, settings: str) -> Identity:
        """Identity of log p(x) of some data.

        Rows are hashed in the type that they come in, or torch's own for integers, as those of a
        model in single precision are: the two can then be paired.

        Args:
            given: The data.
            settings: How it is computed, in words.
        """
        rows = Rows.of(given)
        x = rows.x
        if not x.dtype.is_floating_point:
            x = require_lossless(x, torch.get_default_dtype())
        parameters = hash_tensors({**dict(self.named_parameters()), **dict(self.named_buffers())})
        return Identity(parameters, rows_hash(x), settings, source=rows.source)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters, and of the data."""
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())
