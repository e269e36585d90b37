"""Decoders of a user's own file, by name."""

import importlib
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final

import safetensors.torch
import torch
from torch import Tensor, nn

from ppl_vae.components import ComponentSpec, Kind, is_class_path
from ppl_vae.data import (
    DATASETS,
    Dataset,
    Rows,
    RowTensor,
    in_memory,
    load_dataset,
    select,
    settled,
)
from ppl_vae.decoders._log_prob import log_prob_of
from ppl_vae.decoders._means import find_latent
from ppl_vae.devices import resolve_device
from ppl_vae.evidence import AutomaticSampling, BidirectionalMonteCarlo, Estimator, Evidence
from ppl_vae.identity import Source
from ppl_vae.priors import PRIORS

_KIND = Kind("decoder", {}, base=nn.Module)


@final
@dataclass(frozen=True)
class NamedDecoder:
    """A decoder, its prior and its noise by names.

    Attributes:
        decoder: Decoder z -> mean or distribution, in place of a run: module:name of an instance
            of nn.Module, or module:Class[:ARGUMENTS].
        weights: File of its weights, .safetensors or a state_dict of torch.save; None: as it is.
        prior: Prior p(z).
        latent: Size of z; None: what the decoder's first layer takes.
        noise: Noise round its mean: a standard deviation, bernoulli (the mean is a probability), or
            auto (the standard deviation that validation data are likeliest under).
        valid: File of validation rows for it; None: the set's own, or a tenth of the file's rows.
    """

    decoder: str
    weights: Path | None = None
    prior: ComponentSpec = "normal"
    latent: int | None = None
    noise: float | str = "auto"
    valid: Path | None = None

    def log_prob(
        self,
        data: str | PathLike[str],
        *,
        split: Literal["test", "valid", "train"] = "test",
        limit: int | None = None,
        estimator: Estimator | AutomaticSampling | BidirectionalMonteCarlo | None = None,
        data_root: Path | None = None,
        device: str = "auto",
        seed: int = 0,
        progress: bool = True,
    ) -> Evidence:
        """Log p(x) of a data set's rows, or of all rows of a file.

        Args:
            data: A data set's name, or a file.
            split: Which rows of a named set.
            limit: At most so many of them, a fixed random subset.
            estimator: As for :func:`~ppl_vae.decoders.log_prob_of`.
            data_root: Folder of named data sets.
            device: Where to compute.
            seed: Seed of the draws.
            progress: Show a progress bar.

        Raises:
            ValueError: As :func:`load_decoder`, :func:`~ppl_vae.data.load_dataset` and
                :func:`~ppl_vae.decoders.log_prob_of`.
        """
        noise = self._read_noise()
        decoder = load_decoder(self.decoder, self.weights)
        latent = find_latent(decoder) if self.latent is None else self.latent
        prior = PRIORS.parse(self.prior)(latent=latent)
        rows, valid = self._rows(data, split, data_root)
        if limit is not None and limit < len(rows):
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
            x = settled(select(rows.x, order[:limit]))
            rows = Rows(x, replace(rows.source, limit=limit))
        where = resolve_device(device)
        decoder.to(where)
        dtype = next((p.dtype for p in decoder.parameters()), torch.float32)
        return log_prob_of(
            decoder, rows, prior.to(where, dtype), noise=noise, valid=valid, estimator=estimator,
            device=where, seed=seed, progress=progress,
        )  # fmt: skip

    def _read_noise(self) -> Any:
        if self.noise in ("auto", "bernoulli"):
            return self.noise
        try:
            return float(self.noise)
        except ValueError:
            raise ValueError(
                f"noise is auto, bernoulli or a standard deviation, got {self.noise!r}."
            ) from None

    def _rows(
        self, data: str | PathLike[str], split: str, data_root: Path | None
    ) -> tuple[Rows, RowTensor | None]:
        """Rows to evaluate, and those to choose the noise by."""
        # Grey values are no data of a Bernoulli likelihood.
        named = str(data) in DATASETS
        mode = "static" if named and self.noise == "bernoulli" else "none"
        dataset = load_dataset(data, data_root, binarize=mode)
        needed = self.noise == "auto"
        valid: RowTensor | None = dataset.valid if needed else None
        if needed and self.valid is not None:
            valid = _all_rows(load_dataset(self.valid, data_root))
        if named:
            return Rows(getattr(dataset, split), Source(dataset.name, split)), valid
        # What chose the noise is not evaluated.
        apart = needed and self.valid is None
        x = torch.cat([_tensor(dataset.train), _tensor(dataset.test)])
        return Rows(x if apart else _all_rows(dataset), Source(Path(data).name)), valid


def _all_rows(dataset: Dataset) -> Tensor:
    return torch.cat([_tensor(x) for x in (dataset.train, dataset.valid, dataset.test)])


def _tensor(rows: RowTensor) -> Tensor:
    return in_memory(rows, "a decoder's data")


def load_decoder(decoder: str, weights: str | PathLike[str] | None = None) -> nn.Module:
    """The decoder that a user names, with its weights.

    Importing a module runs its code: a name comes from whoever types it, never from a file.

    Args:
        decoder: ``module:name`` of a module's instance, ``module:Class`` or
            ``module:Class:ARGUMENTS``.
        weights: File of its parameters and buffers: .safetensors, or a ``state_dict`` that
            ``torch.save`` wrote, read without running code of it; None: as they are.

    Raises:
        ValueError: If there is no such name, it is no ``nn.Module``, or the weights do not fit.
        FileNotFoundError: If there is no such file.
    """
    module = _named(decoder)
    if weights is not None:
        _load_weights(module, Path(weights))
    return module.eval()


def _named(decoder: str) -> nn.Module:
    name, _ = _KIND.split(decoder)
    path, _, attribute = name.partition(":")
    if is_class_path(name):
        try:
            found = getattr(importlib.import_module(path), attribute, None)
        # A module of the user's may fail in any way: the kind below says how.
        except (Exception, SystemExit):
            found = None
        if isinstance(found, nn.Module):
            return found
    built: nn.Module = _KIND.parse(decoder)()
    return built


def _load_weights(module: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights: check the path.")
    try:
        state: dict[str, Tensor] = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise ValueError(
            f"{path}: no file of weights ({type(error).__name__}): give .safetensors, or what "
            "torch.save(module.state_dict(), FILE) wrote."
        ) from error
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: weights of another module: {reason}") from error
