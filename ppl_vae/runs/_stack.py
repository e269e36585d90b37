"""Layer-wise pretraining of a stacked autoencoder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ppl_vae.data import in_memory
from ppl_vae.guides import CorruptedInput, DeltaEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.networks import ACTIVATIONS
from ppl_vae.objectives import Reconstruction
from ppl_vae.priors import StandardNormalPrior
from ppl_vae.randomness import Stream, derive_seed, seeded
from ppl_vae.runs._build import codes_of
from ppl_vae.vae import VAE

if TYPE_CHECKING:
    from ppl_vae.runs._job import TrainingJob
    from ppl_vae.training import History


def train_stack(job: "TrainingJob", epochs: int) -> "Mapping[str, History]":
    """Train each layer and its mirror as an autoencoder of the codes below; return the histories.

    The first layer reconstructs x under the model's likelihood, the others the codes below them by
    squared error. Layers are those of the model itself, so that training as one goes on from them.

    Args:
        job: What the model is trained with.
        epochs: Epochs of each layer.

    References:
        Hinton and Salakhutdinov, 2006, Reducing the dimensionality of data with neural networks.
        Bengio, Lamblin, Popovici and Larochelle, 2007, Greedy layer-wise training of deep networks.
        Vincent, Larochelle, Lajoie, Bengio and Manzagol, 2010, Stacked denoising autoencoders.
    """
    model: Any = job.model
    encoder: Any = model.encoder
    corruption = encoder.corruption if isinstance(encoder, CorruptedInput) else None
    train, valid = job.dataset.train, in_memory(job.dataset.valid, "validation data")
    transform = job.transform
    up, down = _linear_layers(encoder), _linear_layers(model.decoder)[::-1]
    histories: dict[str, History] = {}
    for number, (layer, mirror) in enumerate(zip(up, down, strict=True), start=1):
        guide: nn.Module = DeltaEncoder(_activated(layer, job, number < len(up)))
        if corruption is not None:
            guide = CorruptedInput(guide, corruption)
        back = _activated(mirror, job, number > 1)
        decoder = job.build.likelihood(back) if number == 1 else NormalDecoder(back, 1.0)
        pair = VAE(StandardNormalPrior(layer.out_features), decoder, guide)
        name, seed = f"layer-{number}", derive_seed(job.seed, Stream.TRAINING, number)
        histories[name] = job.phase(
            name,
            pair,
            Reconstruction(),
            train,
            valid,
            epochs=epochs,
            seed=seed,
            transform=transform,
        )
        if number == len(up):
            break
        device = next(pair.parameters()).device
        with seeded(seed, Stream.SAMPLING), torch.no_grad():
            below = in_memory(train, "codes of a stacked autoencoder")
            if transform is not None:
                # Grey values are made bits once: codes of layers above are of fixed data.
                below, valid, transform = transform(below), transform(valid), None
            train, valid = (codes_of(guide, rows, device).cpu() for rows in (below, valid))
    return histories


def _linear_layers(network: nn.Module) -> list[nn.Linear]:
    """Linear layers of a network, in order."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def _activated(layer: nn.Linear, job: "TrainingJob", activated: bool) -> nn.Sequential:
    """A layer of the model, with its activation behind it unless it is an end."""
    activation = ACTIVATIONS[job.settings.activation]
    return nn.Sequential(layer, activation()) if activated else nn.Sequential(layer)
