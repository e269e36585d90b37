"""The variational mixture of posteriors."""

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.distributions import Mixture
from ppl_vae.priors._values import register, require_sizes


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
        data: Float[Tensor, "num_data features"],
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
        # In a tuple a module is not registered.
        self._encoder = (encoder,)
        known = data[~data.isnan()]
        self._in_unit_interval = bool(((known >= 0) & (known <= 1)).all())
        rows = _filled(data[torch.randperm(len(data))[:components]], data)
        self.pseudo_inputs = nn.Parameter(rows)
        register(self, weighted, logits=rows.new_zeros(components))

    def forward(self) -> Mixture:
        """The prior, event shape (latent,)."""
        if self._in_unit_interval:
            # The data, not the parameter: autograd need not know, as a second time changes nothing.
            self.pseudo_inputs.data.clamp_(0, 1)
        return Mixture(self._encoder[0](self.pseudo_inputs), self.logits)


def _filled(
    rows: Float[Tensor, "rows features"], data: Float[Tensor, "num_data features"]
) -> Float[Tensor, "rows features"]:
    """The rows, with column means of the data in place of NaN; 0 for a column without values."""
    means = data.nanmean(0).nan_to_num(nan=0.0)
    return torch.where(rows.isnan(), means, rows)
