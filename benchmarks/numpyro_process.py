"""The benchmarks' VAE in NumPyro: a process that ``step.py`` and others start and command.

Each command is a line of JSON on stdin, ``{"variant": "numpyro-jit", "steps": 20}``, each answer
one on stdout: wall seconds, CPU seconds of this process, the last loss per datum. Weights and
batches come in a file, so that NumPyro updates what the others update.

    python benchmarks/numpyro_process.py STATE.npz NUM_PARTICLES
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from numpyro.infer.util import compute_log_probs

LEARNING_RATE = 1e-3
Weights = dict[str, np.ndarray]


def network(weights: Weights, prefix: str) -> Callable[[jax.Array], jax.Array]:
    """An MLP of tanh layers whose weights are parameters of NumPyro."""
    names = sorted(name for name in weights if name.startswith(prefix))
    layers = [
        (numpyro.param(weight, weights[weight]), numpyro.param(bias, weights[bias]))
        for bias, weight in zip(names[::2], names[1::2], strict=True)
    ]

    def apply(x: jax.Array) -> jax.Array:
        for weight, bias in layers[:-1]:
            x = jnp.tanh(x @ weight + bias)
        weight, bias = layers[-1]
        return x @ weight + bias

    return apply


def make_svi(weights: Weights, num_particles: int) -> SVI:
    """SVI of the VAE, with the ELBO or, of several particles, the IWAE bound."""
    latent = weights["decoder/0/weight"].shape[0]

    def model(x: jax.Array) -> None:
        decode = network(weights, "decoder/")
        with numpyro.plate("data", len(x)):
            prior = dist.Normal(jnp.zeros((len(x), latent)), 1.0).to_event(1)
            logits = decode(numpyro.sample("latent", prior))
            numpyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        encode = network(weights, "encoder/")
        with numpyro.plate("data", len(x)):
            loc, unconstrained = jnp.split(encode(x), 2, axis=-1)
            scale = jax.nn.softplus(unconstrained) + 1e-6
            numpyro.sample("latent", dist.Normal(loc, scale).to_event(1))

    loss = Trace_ELBO() if num_particles == 1 else RenyiELBO(alpha=0, num_particles=num_particles)
    return SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), loss)


class Annealing:
    """Annealed importance sampling from the prior, around NumPyro's log-densities."""

    def __init__(self, model: Callable[[jax.Array], None], x: jax.Array, num_chains: int) -> None:
        def densities(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            found, _ = compute_log_probs(model, (x,), {}, {"latent": z}, sum_log_prob=False)
            return found["latent"], found["obs"]

        def gradients(z: jax.Array) -> tuple[tuple[jax.Array, jax.Array], ...]:
            values, back = jax.vjp(jax.vmap(densities), z)
            one, none = jnp.ones_like(values[0]), jnp.zeros_like(values[0])
            return values, (back((one, none))[0], back((none, one))[0])

        self._gradients = gradients
        self._shape = num_chains, len(x)

    @partial(jax.jit, static_argnums=(0, 3, 4, 5))
    def __call__(
        self, key: jax.Array, step: float, temperatures: int, leapfrog: int, latent: int
    ) -> jax.Array:
        """Minus the sum over data of the estimate."""
        levels = jax.nn.sigmoid(4 * jnp.linspace(-1, 1, temperatures + 1))
        levels = (levels - levels[0]) / (levels[-1] - levels[0])

        def density(at: Any, level: jax.Array) -> tuple[jax.Array, jax.Array]:
            (base, ratio), (base_gradient, ratio_gradient) = at
            return base + level * ratio, base_gradient + level * ratio_gradient

        def transition(state: Any, given: Any) -> tuple[Any, None]:
            z, at, log_weight = state
            own, before, level = given
            log_weight = log_weight + (level - before) * at[0][1]
            noise, jitter, uniform = jax.random.split(own, 3)
            start = jax.random.normal(noise, z.shape)
            stride = step * (0.5 + jax.random.uniform(jitter, (*self._shape, 1)))

            def move(carry: Any, _: None) -> tuple[Any, None]:
                u, momentum, at = carry
                momentum = momentum + 0.5 * stride * density(at, level)[1]
                u = u + stride * momentum
                at = self._gradients(u)
                return (u, momentum + 0.5 * stride * density(at, level)[1], at), None

            (u, momentum, there), _ = jax.lax.scan(move, (z, start, at), None, leapfrog)
            energies = (
                0.5 * (m**2).sum(-1) - density(a, level)[0]
                for m, a in ((start, at), (momentum, there))
            )
            old, new = energies
            taken = jnp.log(jax.random.uniform(uniform, self._shape)) < old - new

            def chosen(a: jax.Array, b: jax.Array) -> jax.Array:
                return jnp.where(taken if a.ndim == 2 else taken[..., None], a, b)

            z, at = jax.tree.map(chosen, (u, there), (z, at))
            return (z, at, log_weight), None

        key, first = jax.random.split(key)
        z = jax.random.normal(first, (*self._shape, latent))
        keys = jax.random.split(key, temperatures - 1)
        state = z, self._gradients(z), jnp.zeros(self._shape)
        (z, at, log_weight), _ = jax.lax.scan(transition, state, (keys, levels[:-2], levels[1:-1]))
        log_weight = log_weight + (levels[-1] - levels[-2]) * at[0][1]
        return -(jax.nn.logsumexp(log_weight, 0) - jnp.log(self._shape[0])).sum()


class Updates:
    """Both ways to make updates: a call for each, or one for all of a block; and evaluations."""

    def __init__(self, svi: SVI, batches: jax.Array, num_particles: int, latent: int) -> None:
        self._evaluate = jax.jit(svi.evaluate)
        self._annealing, self._latent = Annealing(svi.model, batches[0], num_particles), latent
        self._keys = jax.random.PRNGKey(1)
        self._batches = list(batches)
        self._stacked = batches
        # Of its own: a state that is given away must not be that of the other.
        self._states = {
            name: svi.init(jax.random.PRNGKey(0), batches[0])
            for name in ("numpyro-jit", "numpyro-scan")
        }
        self._update = jax.jit(svi.update, donate_argnums=0)
        self._scan = jax.jit(
            lambda state, xs: jax.lax.scan(svi.update, state, xs), donate_argnums=0
        )

    def __call__(self, variant: str, steps: int, **settings: Any) -> float:
        """Update so many times, or evaluate the first batch; return the last loss."""
        if variant == "numpyro-evidence":
            return self._evidence()
        if variant == "numpyro-annealing":
            return self._anneal(**settings)
        state = self._states[variant]
        if variant == "numpyro-scan":
            rows = jnp.arange(steps) % len(self._stacked)
            state, losses = self._scan(state, self._stacked[rows])
            loss = losses[-1]
        else:
            for i in range(steps):
                state, loss = self._update(state, self._batches[i % len(self._batches)])
        self._states[variant] = state
        # Asynchronous: a time without waiting would be that of asking.
        return float(jax.block_until_ready((state, loss))[1])

    def _evidence(self) -> float:
        """The sum of the bound over the first batch, each datum by itself."""
        state = self._states["numpyro-jit"]
        self._keys, *keys = jax.random.split(self._keys, 1 + len(self._batches[0]))
        losses = [
            self._evaluate(state._replace(rng_key=own), x[None])
            for own, x in zip(keys, self._batches[0], strict=True)
        ]
        return float(sum(losses))

    def _anneal(self, step: float, temperatures: int, leapfrog: int) -> float:
        self._keys, key = jax.random.split(self._keys)
        return float(self._annealing(key, step, temperatures, leapfrog, self._latent))


def main() -> None:
    """Read commands until there are no more."""
    with np.load(sys.argv[1]) as file:
        state: dict[str, Any] = {name: file[name] for name in file.files}
    batches = jnp.asarray(state.pop("batches"))
    num_particles, latent = int(sys.argv[2]), len(state["decoder/0/weight"])
    updates = Updates(make_svi(state, num_particles), batches, num_particles, latent)
    described = {
        "platform": jax.default_backend(),
        "numpyro": numpyro.__version__,
        "jax": jax.__version__,
    }
    print(json.dumps(described), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        loss = updates(**command)
        answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**answer, "loss": loss / batches.shape[1]}), flush=True)


if __name__ == "__main__":
    main()
