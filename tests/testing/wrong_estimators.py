"""Estimators of log p(x) with the mistakes people make; the check must find each."""

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ppl_vae.evidence import Evidence, ImportanceSampling, Quadrature
from ppl_vae.particles import draw_particles, owners_of
from ppl_vae.randomness import Stream, seeded
from ppl_vae.weights import RunningWeights, log_mean_exp


@dataclass(frozen=True)
class Plain:
    """Right: importance sampling in a few lines, of which the others each have one wrong."""

    num_particles: int = 200
    direction = "lower"

    def __call__(self, model, guide, x, *, device=None, seed=0, progress=False):
        self.require(x)
        start = time.perf_counter()
        with self.drawing(seed):
            particles = self.draw(model, guide, x if device is None else x.to(device))
            return self.evidence(self.log_weight(particles), start)

    def require(self, x):
        if len(x) == 0:
            raise ValueError("x holds no data.")

    @contextmanager
    def drawing(self, seed):
        with seeded(seed, Stream.EVALUATION), torch.no_grad():
            yield

    def draw(self, model, guide, x):
        return draw_particles(model, guide, x, self.num_particles)

    def log_weight(self, particles):
        return particles.log_weight

    def evidence(self, log_weight, start):
        weights = RunningWeights()
        weights.add(log_weight)
        return Evidence(
            log_prob=self.log_prob(log_weight),
            standard_error=self.error(log_weight, weights.standard_error),
            effective_sample_size=weights.effective_sample_size,
            num_particles=self.num_particles,
            direction=self.direction,
            method=type(self).__name__,
            seconds=time.perf_counter() - start,
        )

    def log_prob(self, log_weight):
        return log_mean_exp(log_weight)

    def error(self, log_weight, error):
        return error


class OneWeightForTheBatch(Plain):
    """Each particle has the geometric mean of its weights over the batch."""

    def log_weight(self, particles):
        return particles.log_weight.mean(1, keepdim=True).expand_as(particles.log_weight)


class ErrorTooSmallByRootK(Plain):
    def error(self, log_weight, error):
        return error / math.sqrt(self.num_particles)


class HalfTheError(Plain):
    def error(self, log_weight, error):
        return error / 2


class TwiceTheError(Plain):
    def error(self, log_weight, error):
        return error * 2


class SumInPlaceOfMean(Plain):
    def log_prob(self, log_weight):
        return torch.logsumexp(log_weight, 0)


class IgnoresTheSeed(Plain):
    """Draws from the caller's random state whatever the seed."""

    def drawing(self, seed):
        return super().drawing(None)


class SeedsItself(Plain):
    """Afresh with every call."""

    def drawing(self, seed):
        return super().drawing(time.monotonic_ns())


class OneSeedForAll(Plain):
    def drawing(self, seed):
        return super().drawing(0)


class SetsTheCallersState(Plain):
    """As one writes a script: manual_seed, and nobody puts it back."""

    @contextmanager
    def drawing(self, seed):
        if seed is not None:
            torch.manual_seed(seed)
        with torch.no_grad():
            yield


class ShufflesTheData(Plain):
    def evidence(self, log_weight, start):
        return super().evidence(log_weight.roll(1, 1), start)


class SortsTheData(Plain):
    """As if the easy data had been finished first."""

    def evidence(self, log_weight, start):
        found = super().evidence(log_weight, start)
        return replace(found, log_prob=found.log_prob.sort().values)


class ScaleInside(Plain):
    def log_weight(self, particles):
        return particles.log_weight * particles.scale


class SharedNoise(Plain):
    """The same random numbers for every datum."""

    def __call__(self, model, guide, x, *, device=None, seed=0, progress=False):
        self.require(x)
        start, parts = time.perf_counter(), []
        state = torch.randint(2**31, ()).item() if seed is None else seed
        rows, where = x.unique(dim=0, return_inverse=True)
        for row in rows.split(1):
            with self.drawing(state):
                parts.append(self.log_weight(self.draw(model, guide, row)))
        return self.evidence(torch.cat(parts, 1)[:, where], start)


@dataclass(frozen=True)
class ForgetsItsChunks(Plain):
    """The logarithm of each chunk's own count is subtracted, and not of all."""

    rows: int | None = None

    def log_prob(self, log_weight):
        parts = log_weight.split(self.rows or len(log_weight))
        return torch.stack([log_mean_exp(part) for part in parts]).logsumexp(0)


class CuboAsALowerBound(Plain):
    """The chi bound of order 2, an upper bound if of enough draws."""

    def log_prob(self, log_weight):
        return log_mean_exp(2 * log_weight) / 2

    def error(self, log_weight, error):
        weights = RunningWeights()
        weights.add(2 * log_weight)
        return weights.standard_error / 2


class CuboAsAnUpperBound(CuboAsALowerBound):
    """It rises with the number of particles, from the ELBO on."""

    direction = "upper"


class Backwards(Plain):
    """Right, as an upper bound: weights with mean 1 / p(x), here made of the answer and noise."""

    direction = "upper"

    def __call__(self, model, guide, x, *, device=None, seed=0, progress=False):
        self.require(x)
        start = time.perf_counter()
        rows, where = x.unique(dim=0, return_inverse=True)
        exact = Quadrature()(model, guide, rows).log_prob[where]
        with self.drawing(seed):
            noise = torch.randn(self.num_particles, len(x), dtype=torch.float64)
            return self.evidence(0.8 * noise - 0.32 - exact, start)

    def log_prob(self, log_weight):
        return -log_mean_exp(log_weight)


class DropsItsLargestWeight(Plain):
    """As an outlier."""

    def log_prob(self, log_weight):
        return log_mean_exp(log_weight.sort(0).values[:-1])


class MeanLogWeight(Plain):
    """The ELBO: right as a lower bound, but its exponential is biased."""

    def log_prob(self, log_weight):
        return log_weight.mean(0)

    def error(self, log_weight, error):
        return log_weight.std(0) / math.sqrt(len(log_weight))


class ElboAsAnEstimate(MeanLogWeight):
    direction = "consistent"


class ClaimsToBeUnbiased(Plain):
    direction = "unbiased"


class ClaimsToBeExact(Plain):
    direction = "exact"


class ClaimsToBeAnUpperBound(Plain):
    direction = "upper"


class SmallestWeight(Plain):
    """A lower bound that falls with the number of particles."""

    def log_prob(self, log_weight):
        return log_weight.amin(0)


@dataclass(frozen=True)
class KeepsThePilot(Plain):
    """Stops drawing when the draws so far look settled, and counts them all."""

    first: int = 4
    target: float = 0.3

    def log_prob(self, log_weight):
        count = torch.arange(1, len(log_weight) + 1).unsqueeze(1)
        scaled = (log_weight - log_weight.amax(0)).exp()
        mean, square = scaled.cumsum(0) / count, scaled.square().cumsum(0) / count
        error = ((square / mean**2 - 1).clamp(min=0) / (count - 1).clamp(min=1)).sqrt()
        settled = (error <= self.target) & (count >= self.first)
        stop = settled.double().argmax(0)
        return mean.log().gather(0, stop.unsqueeze(0))[0] + log_weight.amax(0)

    def error(self, log_weight, error):
        return torch.full_like(error, self.target)


class AccumulatesGradients(Plain):
    """A call of backward somewhere on the way."""

    @contextmanager
    def drawing(self, seed):
        with seeded(seed, Stream.EVALUATION), torch.enable_grad():
            yield

    def log_weight(self, particles):
        if particles.log_weight.requires_grad:
            particles.log_weight.sum().backward(retain_graph=True)
        return particles.log_weight.detach()


class SwitchesToEvaluation(Plain):
    """Calls eval and forgets train."""

    def draw(self, model, guide, x):
        for owner in owners_of(model, guide):
            owner.eval()
        return super().draw(model, guide, x)


class KeepsTheGraph(Plain):
    @contextmanager
    def drawing(self, seed):
        with seeded(seed, Stream.EVALUATION):
            yield


class SinglePrecision(Plain):
    def log_prob(self, log_weight):
        return log_mean_exp(log_weight.float())


class OneNumber(Plain):
    def log_prob(self, log_weight):
        return super().log_prob(log_weight).mean()


class TakesNoTime(Plain):
    def evidence(self, log_weight, start):
        return replace(super().evidence(log_weight, start), seconds=0.0)


class CountsNothing(Plain):
    def evidence(self, log_weight, start):
        return replace(super().evidence(log_weight, start), num_particles=1)


class AnswersWithoutData(Plain):
    def require(self, x):
        pass

    def log_prob(self, log_weight):
        return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))

    def __call__(self, model, guide, x, **call):
        if len(x) == 0:
            return ImportanceSampling(2)(model, guide, torch.zeros(1, 3).double())
        return super().__call__(model, guide, x, **call)


class NotEvidence(Plain):
    def evidence(self, log_weight, start):
        return self.log_prob(log_weight)


class RefusesDiscreteLatents(Plain):
    """With a message that does not say which."""

    def draw(self, model, guide, x):
        particles = super().draw(model, guide, x)
        if any(prior.support.is_discrete for prior in particles.prior.values()):
            raise ValueError("continuous latents only")
        return particles


@dataclass(frozen=True)
class HasNoDoubt(Plain):
    """A heavy tail that is said to leave nothing open."""

    num_particles: int = 200

    def __call__(self, model, guide, x, **call):
        found = ImportanceSampling(self.num_particles)(model, guide, x, **call)
        return replace(found, doubt=torch.zeros_like(found.log_prob))
