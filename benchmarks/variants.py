"""Training steps that ``step.py`` compares: Pyro's, this package's, plain torch, products alone."""

import copy
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from common import LATENT, Seconds, make_vae
from pyro.infer import SVI
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae import VAE
from ppl_vae.objectives import Objective
from ppl_vae.particles import Programs
from ppl_vae.training import Step, find_parameters

LEARNING_RATE = 1e-3
Update = Callable[[Tensor], Any]


class Networks(nn.Module):
    """Encoder and decoder as plain torch modules, the weights copied from the package's VAE."""

    def __init__(self, device: torch.device, vae: VAE | None = None) -> None:
        super().__init__()
        vae = copy.deepcopy(make_vae(device) if vae is None else vae)
        self.encoder = vae.encoder.network
        self.decoder = vae.decoder.network

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z|x)."""
        loc, unconstrained = self.encoder(x).chunk(2, dim=-1)
        return loc, functional.softplus(unconstrained) + 1e-6


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    """Linear layers, from the input to the output."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def pyro_svi(networks: Networks, loss: Any, *, tuned: bool) -> Update:
    """Pyro's own VAE example; if ``tuned``, by logits and without validation."""

    def model(x: Tensor) -> None:
        pyro.module("decoder", networks.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(x.shape[0], LATENT)
            z_scale = x.new_ones(x.shape[0], LATENT)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            output = networks.decoder(z)
            parameters = {"logits": output} if tuned else {"probs": torch.sigmoid(output)}
            obs = dist.Bernoulli(**parameters, validate_args=False).to_event(1)
            pyro.sample("obs", obs, obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", networks.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = networks.encode(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), loss=loss)
    # Each variant's parameters live in a store of their own, as if it were alone in the process.
    store = pyro.get_param_store()
    store.clear()
    own = store.get_state()

    def update(x: Tensor) -> float:
        store.set_state(own)
        # Pyro validates unless told otherwise, and its example does not tell.
        with pyro.validation_enabled(not tuned):
            return svi.step(x) / len(x)

    return update


def ours(step: Callable[..., Step], objective: Objective, x: Tensor) -> Update:
    """This package's training step, as ``fit`` runs it from the second epoch on.

    It returns batch sums of its records, the bound's first; validation is off around all updates.
    """
    vae = make_vae(x.device)
    parameters = find_parameters(Programs(vae.model, vae.guide).modules(x))
    bound = step(objective, vae.model, vae.guide, parameters)

    return lambda x: bound(x, LEARNING_RATE)


def plain_torch(
    networks: Networks, num_particles: int, *, fused: bool | None, compiled: bool = False
) -> Update:
    """The same bound written out by hand; ``fused=None`` is the optimiser as torch makes it."""
    optimizer = torch.optim.Adam(networks.parameters(), lr=LEARNING_RATE, fused=fused)

    def loss_of(x: Tensor) -> Tensor:
        loc, scale = networks.encode(x)
        noise = torch.randn(num_particles, *loc.shape, device=x.device)
        z = loc + scale * noise
        logits = networks.decoder(z)
        log_likelihood = -functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(-1)
        # log p(z) - log q(z|x); log(2 pi) cancels.
        log_ratio = (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)
        return -torch.logsumexp(log_likelihood + log_ratio, 0).mean() + np.log(num_particles)

    if compiled:
        # On a GPU as a CUDA graph; a CPU has none.
        on_gpu = next(networks.parameters()).is_cuda
        loss_of = torch.compile(loss_of, mode="reduce-overhead" if on_gpu else None)

    def update(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(x)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return update


def products_and_adam(networks: Networks, x: Tensor, num_particles: int) -> Update:
    """The floor: matrix products of a step, forward and backward, and the fused Adam kernel.

    Activations and their gradients are fixed numbers of the right shapes, and every product has its
    place in memory, so that nothing else is computed or allocated. The first layer needs no
    gradient of its input.
    """
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    gradients: dict[Tensor, Tensor] = {}
    for network, rows in ((networks.encoder, len(x)), (networks.decoder, num_particles * len(x))):
        for number, layer in enumerate(linear_layers(network)):
            weight = layer.weight.detach()
            inputs = torch.rand(rows, layer.in_features, device=x.device) - 0.5
            outputs = torch.rand(rows, layer.out_features, device=x.device) - 0.5
            products.append((inputs, weight.t(), torch.empty_like(outputs)))
            gradients[layer.weight] = torch.empty_like(weight)
            gradients[layer.bias] = torch.zeros_like(layer.bias)
            products.append((outputs.t(), inputs, gradients[layer.weight]))
            if number or network is networks.decoder:
                products.append((outputs, weight, torch.empty_like(inputs)))
    parameters = [parameter.detach() for parameter in gradients]
    values = list(gradients.values())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    counts = [torch.zeros((), device=x.device) for _ in parameters]

    def compute() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)
        torch._foreach_add_(counts, 1)
        torch._fused_adam_(
            parameters, values, first, second, [], counts,
            lr=LEARNING_RATE, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    launch = compute
    if x.is_cuda:
        compute()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            compute()
        launch = graph.replay

    return lambda x: launch()


def decoder_products(
    networks: Networks, rows: int, total: int, *, backward: bool = False
) -> Callable[[], None]:
    """The floor of evidence: the decoder's matrix products for ``total`` rows, ``rows`` at once.

    Args:
        networks: Where the decoder is from.
        rows: Rows of one product.
        total: Rows altogether.
        backward: Whether a gradient in the latents is taken, too.
    """
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    made: dict[tuple[int, int], Tensor] = {}

    def of(size: int, features: int) -> Tensor:
        if (size, features) not in made:
            made[size, features] = torch.rand(size, features, device=weight.device) - 0.5
        return made[size, features]

    for start in range(0, total, rows):
        size = min(rows, total - start)
        for layer in linear_layers(networks.decoder):
            weight = layer.weight.detach()
            left, right = of(size, layer.in_features), of(size, layer.out_features)
            products.append((left, weight.t(), torch.empty_like(right)))
            if backward:
                products.append((right, weight, torch.empty_like(left)))

    def compute() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return compute


class NumPyro:
    """A process that computes by NumPyro, from the weights and batches that it is given.

    Args:
        python: Interpreter that has NumPyro.
        networks: Where the weights are from.
        batches: Batches that it goes through.
        num_particles: Number of particles K.
        threads: CPU threads; None: JAX's own choice.
    """

    def __init__(
        self,
        python: str,
        networks: Networks,
        batches: list[Tensor],
        num_particles: int,
        threads: int | None,
    ) -> None:
        state = {"batches": torch.stack(batches).cpu().numpy()}
        for prefix, network in (("encoder", networks.encoder), ("decoder", networks.decoder)):
            for number, layer in enumerate(linear_layers(network)):
                state[f"{prefix}/{number}/weight"] = layer.weight.detach().cpu().numpy().T
                state[f"{prefix}/{number}/bias"] = layer.bias.detach().cpu().numpy()
        # JAX would take most of a GPU's memory at once, and leave the others none.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if threads is not None:
            flags = f"{environment.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen={threads > 1}"
            environment |= {"XLA_FLAGS": flags.lower(), "NPROC": str(threads)}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state.npz"
            np.savez(file, **state)
            script = Path(__file__).with_name("numpyro_process.py")
            self._process = subprocess.Popen(
                [python, script, file, str(num_particles)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            )  # fmt: skip
            self.versions = self._answer()
        platform = {"cuda": "gpu"}.get(batches[0].device.type, batches[0].device.type)
        if self.versions["platform"] != platform:
            self.close()
            raise RuntimeError(
                f"the JAX of {python} computes on {self.versions['platform']}, not on {platform}: "
                "give --numpyro-python one that does, or leave NumPyro out."
            )

    def __call__(self, variant: str, steps: int = 1, **settings: float) -> tuple[Seconds, float]:
        """Compute so many times: what it took, and the last loss per datum."""
        command = json.dumps({"variant": variant, "steps": steps, **settings})
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Seconds(answer["wall"], answer["cpu"]), answer["loss"]

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"NumPyro's process ended with {self._process.wait()}; see above.")
        return json.loads(line)
