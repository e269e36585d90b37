"""Priors made of the guide: its average over pseudo-inputs, or around training rows."""

import math
from collections.abc import Callable
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ppl_vae.data import RowTensor, column_means, column_range, in_memory
from ppl_vae.distributions import Mixture
from ppl_vae.names import require_sizes, warn
from ppl_vae.priors._values import KeptValue, register

_ENCODED_AT_ONCE = 5_000
_KEYED_AT_ONCE = 2_000


@final
class VampPrior(nn.Module):
    r"""``p(z) = sum_c pi_c q(z|u_c)``: the guide's average over learned pseudo-inputs u_c.

    The prior of the highest ELBO is the guide's average over the data; this one stands in for it
    with fewer rows. The pseudo-inputs start at training rows drawn at random, without replacement.
    Where all data lie in [0, 1], they are put back into it after each update that leaves it
    (projection), so that the encoder never sees what no data can be, and pixels that start black or
    white can turn grey. (Of the published ``hardtanh`` the derivative is 0 at 0 and 1: pixels that
    start there stay there. A sigmoid is slow to leave them.)

    The encoder is that of the guide, and remains its own: the prior holds it without registering
    it, so that the model has each parameter once, under the encoder's name. Its parameters phi
    enter p(z) too. Every objective's gradient holds that part, with the model's weights, as the
    autograd graph tells it from the draws' and the guide's. So DReG, GeneralizedDReG and STL remain
    unbiased; but phi's gradient does not vanish where q is the posterior, since phi is then also a
    parameter of the model.

    An encoder with batch normalisation sees the pseudo-inputs as a batch of their own.

    Costs one evaluation of the encoder on all pseudo-inputs for each update, and a density of
    ``components * latent`` operations (of a diagonal normal guide).

    Args:
        encoder: The guide, ``x (batch, features) -> q(z|x)``, any distribution with batch shape
            (batch,).
        data: Training rows, shape (num_data, features); missing cells (NaN) of the rows taken are
            filled with column means.
        components: Number of pseudo-inputs.
        weighted: Whether the weights pi are learned; else they are equal.

    Raises:
        ValueError: If components are less than 1 or more than the training rows.

    References:
        Tomczak and Welling, 2018, VAE with a VampPrior.
    """

    logits: Tensor

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        data: Float[RowTensor, "num_data features"],
        components: int = 500,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        require_sizes(components=components)
        if components > len(data):
            raise ValueError(
                f"a VampPrior starts from distinct training rows: {components} components need as "
                f"many, got {len(data)}; take fewer components."
            )
        # In a tuple a module is not registered: it stays the guide's, under the guide's names.
        self._encoder = (encoder,)
        low, high = column_range(data)
        self._in_unit_interval = bool((low >= 0).all() and (high <= 1).all())
        rows = data[torch.randperm(len(data))[:components]]
        means = column_means(data)
        self.pseudo_inputs = nn.Parameter(torch.where(rows.isnan(), means, rows))
        register(self, weighted, logits=rows.new_zeros(components))

    def forward(self) -> Mixture:
        """The prior, event shape (latent,)."""
        if self._in_unit_interval:
            # The data, not the parameter: autograd need not know, as a second time changes nothing.
            self.pseudo_inputs.data.clamp_(0, 1)
        return Mixture(self._encoder[0](self.pseudo_inputs), self.logits)


@final
class EncodedMeans:
    """``x -> mean of q(z|x)``, and for one table of rows over and over again at no cost.

    Args:
        encoder: ``x (batch, features) -> q(z|x)``, a distribution with a mean.
    """

    def __init__(self, encoder: Callable[[Tensor], Any]) -> None:
        self._encoder = encoder
        self._kept: KeptValue[Tensor] = KeptValue()

    def __call__(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows latent"]:
        """The means, encoded in chunks.

        Raises:
            ValueError: If the encoder's distribution has no mean.
        """
        means = []
        for rows in x.split(_ENCODED_AT_ONCE):
            q = self._encoder(rows)
            try:
                means.append(q.mean)
            except NotImplementedError as error:
                raise ValueError(
                    f"exemplars need an encoder whose distribution has a mean; {type(q).__name__} "
                    "has none: take a normal guide, or another prior."
                ) from error
        return torch.cat(means)

    def remembered(self, x: Float[Tensor, "rows features"]) -> Float[Tensor, "rows latent"]:
        """Recall the means if this tensor was the last and the encoder is as it was then.

        The encoder must do the same each time, as it does in evaluation mode. A gradient for its
        parameters encodes again.
        """
        owner = getattr(self._encoder, "__self__", self._encoder)
        if not isinstance(owner, nn.Module):
            # Nobody can tell whether a function still does what it did.
            return self(x)
        known = self._kept([*owner.parameters(), *owner.buffers()], lambda: self(x), key=x)
        learned = [value for value in owner.parameters() if value.requires_grad]
        means: Tensor = _Recall.apply(known, lambda: self(x), *learned)
        return means


class _Recall(torch.autograd.Function):
    """A known value of ``compute()``, which runs for a gradient alone."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, compute: Callable[[], Tensor], *learned: Tensor) -> Tensor:
        ctx.compute = compute
        ctx.save_for_backward(*learned)
        return known.view_as(known)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        learned = ctx.saved_tensors
        with torch.enable_grad():
            value = ctx.compute()
        return None, None, *torch.autograd.grad(value, learned, gradient, allow_unused=True)


@final
class RowIndex(nn.Module):
    """Index of a table's rows by their values, in time that does not grow with the table's length.

    A row's key is a sum of its values' bits, multiplied and mixed, in 64-bit integers: the same on
    every device, in whatever order it is summed. Two rows that differ share one by accident with
    probability 2^-64.

    Args:
        table: The rows, shape (num_data, features).
    """

    multipliers: Int[Tensor, " features"]
    keys: Int[Tensor, " num_data"]
    order: Int[Tensor, " num_data"]

    def __init__(self, table: Float[Tensor, "num_data features"]) -> None:
        super().__init__()
        self._dtype = table.dtype
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(-(2**62), 2**62, (table.shape[1],), generator=generator)
        # Odd, hence with an inverse modulo 2^64: different bits have different products.
        register(self, learned=False, multipliers=(2 * drawn + 1).to(table.device))
        keys = torch.cat([self._key(rows) for rows in table.split(_KEYED_AT_ONCE)])
        # Stable: of equal rows the first is found.
        keys, order = keys.sort(stable=True)
        register(self, learned=False, keys=keys, order=order)

    def forward(self, x: Float[Tensor, "batch features"]) -> Int[Tensor, " batch"]:
        """The place of each row in the table, -1 for a row that is not there."""
        keys = self._key(x)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.order[place], -1)

    def _key(self, rows: Tensor) -> Int[Tensor, " rows"]:
        # Adding 0 makes -0 the same as 0.
        values = rows.to(self._dtype).contiguous() + 0.0
        bits = values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)
        product = bits.long() * self.multipliers
        # High bits into the low ones: a product's low bits know the value's low bits alone.
        return (product ^ (product >> 32)).sum(-1)


@final
class ExemplarPrior(nn.Module):
    r"""``p(z) = (1/N) sum_n Normal(z; m(x_n), s^2 I)``, m(x_n) the guide's mean for exemplar n.

    A Parzen window over the training data in latent space, of one learned width s. In training
    mode, each call takes M exemplars at random, and :meth:`without` leaves each datum of the batch
    out of its own prior, which else would be highest at its own code:

        log (1/M') sum_(n in subset, n != i) Normal(z_i; m(x_n), s^2 I).

    The mean of a random subset is unbiased for that of all others, and its logarithm low in
    expectation (Jensen): a training bound lies below the leave-one-out bound, less so with more
    exemplars. The leave-one-out density, times (N - 1)/N, is at most the density of all exemplars:
    so, up to ``-log(1 - 1/N)`` nats, a training bound is below the bound that evaluation reports.

    In evaluation mode (``.eval()``, in which ``fit`` leaves a model) the prior is the mixture of
    all exemplars, or of a fixed number of them, the same at each call. Only then do estimators of
    log p(x) refer to one model. The exemplars' means are remembered between calls for as long as
    the encoder stays the same.

    The encoder is held as by :class:`~ppl_vae.priors.VampPrior`, and what is said there of
    gradients holds here. The exemplars are training data: they are not saved with the parameters,
    and must be given again.

    An update costs M evaluations of the encoder and ``M * latent`` operations for a density;
    evaluation, ``N * latent`` for a density.

    Args:
        encoder: The guide, ``x (batch, features) -> q(z|x)``, a distribution with a mean.
        data: Training rows, shape (num_data, features).
        exemplars: Number of exemplars M of each call in training mode.
        evaluation_exemplars: Exemplars of the mixture in evaluation mode; None: all.

    Raises:
        ValueError: If there are fewer than 2 exemplars or fewer training rows than exemplars.

    References:
        Norouzi, Fleet and Norouzi, 2020, Exemplar VAE: linking generative models, nearest neighbor
        retrieval, and data augmentation.
    """

    data: Tensor
    evaluated: Tensor

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        data: Float[RowTensor, "num_data features"],
        exemplars: int = 500,
        evaluation_exemplars: int | None = None,
    ) -> None:
        super().__init__()
        data = in_memory(data, "an exemplar prior")
        some = len(data) if evaluation_exemplars is None else evaluation_exemplars
        require_sizes(evaluation_exemplars=some)
        if not 2 <= exemplars <= len(data) or some > len(data):
            raise ValueError(
                f"an exemplar prior needs from 2 to as many exemplars as training rows "
                f"({len(data)}), got {exemplars}, and {some} for evaluation."
            )
        self._means = EncodedMeans(encoder)
        self._exemplars = exemplars
        self.log_scale = nn.Parameter(data.new_zeros(()))
        # A stream of its own: the same exemplars whenever the model is built.
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        evaluated = data if some == len(data) else data[order[:some].to(data.device)]
        register(self, learned=False, data=data, evaluated=evaluated)
        self.index = RowIndex(data)
        self._looked = False

    def forward(self) -> Mixture:
        """The prior, event shape (latent,)."""
        if not self.training:
            return self._mixture(self._means.remembered(self.evaluated))
        return self._mixture(self._means(self.data[self._subset()]))

    def without(self, x: Float[Tensor, "batch features"]) -> Mixture:
        """The prior of each datum x_i without x_i, in training mode; batch shape (batch,).

        A datum is left out where it is a training row, and one copy of it where there are several.
        In evaluation mode the prior as it is.
        """
        if not self.training:
            return self.forward()
        subset = self._subset()
        own = self.index(x)
        # Looked at once, as looking makes a GPU wait.
        if not self._looked and not bool((own >= 0).any()):
            warn(
                "no row of this batch is an exemplar, so that none is left out of its own prior: "
                "data that are binarised anew for each batch never are; binarise them once, by "
                'binarize="static".',
            )
        self._looked = True
        means = self._means(self.data[subset])
        logits = means.new_zeros(len(x), len(subset))
        # A log-weight of -inf leaves it out of the mean, which is over the others then.
        return self._mixture(means, logits.masked_fill(own.unsqueeze(-1) == subset, -math.inf))

    def _mixture(
        self, means: Float[Tensor, "exemplars latent"], logits: Tensor | None = None
    ) -> Mixture:
        logits = means.new_zeros(len(means)) if logits is None else logits
        normal = dist.Normal(means, self.log_scale.exp(), validate_args=False)
        return Mixture(normal.to_event(1), logits)

    def _subset(self) -> Int[Tensor, " exemplars"]:
        return torch.randperm(len(self.data), device=self.data.device)[: self._exemplars]
