"""Generative adversarial networks."""

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.baselines._implicit import ImplicitModel, Player, implicit_vae
from ppl_vae.names import require_least, require_not_negative, require_positive


@final
class GAN(ImplicitModel):
    """Generator and critic that play ``min_G max_D`` with the non-saturating loss.

    The critic ascends ``E log sigmoid(D(x)) + E log sigmoid(-D(G(z)))``, the generator ``E log
    sigmoid(D(G(z)))``, whose gradient does not vanish where the critic is sure. One update of each
    a batch, the generator's on draws of its own.

    Args:
        generator: G, maps (rows, latent) to (rows, features).
        critic: D, maps (rows, features) to (rows, 1).
        latent: Size of z.
        learning_rate: Adam's, of both.
        momentum: Adam's first decay rate, of both.

    Raises:
        ValueError: If a number is out of range, or the generator takes no such z.

    References:
        Goodfellow et al., 2014, Generative adversarial nets.
        Radford, Metz and Chintala, 2016, Unsupervised representation learning with deep
        convolutional generative adversarial networks.
    """

    _players: ClassVar[tuple[str, ...]] = ("_generator_player", "_critic_player")

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent: int,
        *,
        learning_rate: float = 2e-4,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        require_positive(learning_rate=learning_rate)
        self.vae, self.critic = implicit_vae(generator, latent), critic
        self.learning_rate, self.momentum = learning_rate, momentum
        self._generator_player = Player(generator, learning_rate, (momentum, 0.999))
        self._critic_player = Player(critic, learning_rate, (momentum, 0.999))

    def settings(self) -> dict[str, Any]:
        """Learning rate and momentum."""
        return {"learning_rate": self.learning_rate, "momentum": self.momentum}

    def update(self, x: Float[Tensor, "batch features"], progress: float) -> Mapping[str, Any]:
        """Update the critic, then the generator."""
        del progress
        with torch.no_grad():
            fake = self._draw(len(x))
        critic_loss = softplus(-self.critic(x)).mean() + softplus(self.critic(fake)).mean()
        self._critic_player.descend(critic_loss)
        generator_loss = softplus(-self.critic(self._draw(len(x)))).mean()
        self._generator_player.descend(generator_loss)
        return {
            "critic_loss": critic_loss.detach(),
            "generator_loss": generator_loss.detach(),
            "learning_rate": self.learning_rate,
        }


@final
class WassersteinGAN(ImplicitModel):
    """Generator against a critic that is held to slope 1 by a gradient penalty.

    The critic descends ``E D(G(z)) - E D(x) + penalty E (|grad D(u)| - 1)^2`` with u between a
    datum and a draw, the generator ``-E D(G(z))``. The critic is updated on every batch, the
    generator on every fifth: the critic's loss is then near minus the Wasserstein distance.

    Args:
        generator: G, maps (rows, latent) to (rows, features).
        critic: D, maps (rows, features) to (rows, 1), each row by itself: no batch normalisation.
        latent: Size of z.
        learning_rate: Adam's, of both.
        penalty: Weight of the gradient penalty.
        critic_updates: Updates of the critic for each of the generator.

    Raises:
        ValueError: If a number is out of range, the generator takes no such z, or the critic has
            batch normalisation.

    References:
        Arjovsky, Chintala and Bottou, 2017, Wasserstein generative adversarial networks.
        Gulrajani et al., 2017, Improved training of Wasserstein GANs.
    """

    _players: ClassVar[tuple[str, ...]] = ("_generator_player", "_critic_player")
    _count: Tensor

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent: int,
        *,
        learning_rate: float = 1e-4,
        penalty: float = 10.0,
        critic_updates: int = 5,
    ) -> None:
        super().__init__()
        require_positive(learning_rate=learning_rate)
        require_not_negative(penalty=penalty)
        require_least(1, critic_updates=critic_updates)
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules()):
            raise ValueError(
                "a critic with batch normalisation has no slope at a datum to penalise: take "
                "layer normalisation or none."
            )
        self.vae, self.critic = implicit_vae(generator, latent), critic
        self.learning_rate, self.penalty = learning_rate, penalty
        self.critic_updates = critic_updates
        self._generator_player = Player(generator, learning_rate, (0.0, 0.9))
        self._critic_player = Player(critic, learning_rate, (0.0, 0.9))
        # Whose turn it is goes with the checkpoint, and with the module.
        self.register_buffer("_count", torch.zeros((), dtype=torch.int64))

    def settings(self) -> dict[str, Any]:
        """Learning rate, penalty and the critic's updates."""
        return {
            "learning_rate": self.learning_rate,
            "penalty": self.penalty,
            "critic_updates": self.critic_updates,
        }

    def update(self, x: Float[Tensor, "batch features"], progress: float) -> Mapping[str, Any]:
        """Update the critic, and in its turn the generator."""
        del progress
        with torch.no_grad():
            fake = self._draw(len(x))
        distance = self.critic(x).mean() - self.critic(fake).mean()
        slope = self.gradient_penalty(x, fake)
        self._critic_player.descend(self.penalty * slope - distance)
        self._count += 1
        if int(self._count) % self.critic_updates == 0:
            self._generator_player.descend(-self.critic(self._draw(len(x))).mean())
        return {
            "distance": distance.detach(),
            "slope_penalty": slope.detach(),
            "learning_rate": self.learning_rate,
        }

    def gradient_penalty(
        self, x: Float[Tensor, "batch features"], fake: Float[Tensor, "batch features"]
    ) -> Float[Tensor, ""]:
        """``mean (|grad D(u)| - 1)^2`` at points u drawn evenly between data and draws."""
        share = torch.rand(len(x), 1, dtype=x.dtype, device=x.device)
        between = torch.lerp(x, fake, share).requires_grad_()
        value = self.critic(between).sum()
        (gradient,) = torch.autograd.grad(value, between, create_graph=True)
        penalty: Tensor = (gradient.norm(dim=-1) - 1).square().mean()
        return penalty
