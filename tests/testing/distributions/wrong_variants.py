"""Priors, likelihoods and guides with one mistake each; ``RIGHT`` are without."""

import math
import random
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn
from torch.distributions.transforms import AffineTransform, Transform

from ppl_vae.networks import MLP


class Made(TorchDistribution):
    """A distribution of vectors whose parts are given, each of which can be wrong.

    ``noise`` has the batch shape and event shape (latent,); a draw is ``place(noise)``.
    """

    arg_constraints: ClassVar = {}
    has_rsample = True
    support = constraints.real_vector

    def __init__(self, loc, scale, **parts):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.parts = parts
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        shape = (*batch_shape, *self.event_shape)
        return type(self)(self.loc.expand(shape), self.scale.expand(shape), **self.parts)

    def rsample(self, sample_shape=()):
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype)
        return self.loc + self.scale * noise

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value).sum(-1)


class OfMade(nn.Module):
    """A prior whose ``forward`` is a given kind of :class:`Made`."""

    def __init__(self, kind, latent=2):
        super().__init__()
        self.kind = kind
        self.loc = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def forward(self):
        return self.kind(self.loc, self.log_scale.exp())


class WiderDraws(Made):
    def rsample(self, sample_shape=()):
        return self.loc + 1.1 * (super().rsample(sample_shape) - self.loc)


class FirstWiderDraws(Made):
    def rsample(self, sample_shape=()):
        draws = super().rsample(sample_shape)
        first = self.loc[..., :1] + 1.1 * (draws[..., :1] - self.loc[..., :1])
        return torch.cat([first, draws[..., 1:]], -1)


class NotNormalised(Made):
    def log_prob(self, value):
        return super().log_prob(value) + 0.5 * math.log(2 * math.pi)


class MeanOverDimensions(Made):
    def log_prob(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value).mean(-1)


class SameDrawForAll(Made):
    """Expanded, it draws once and repeats."""

    def rsample(self, sample_shape=()):
        one = self.loc.reshape(-1, self.loc.shape[-1])[0]
        noise = torch.randn((*sample_shape, *one.shape), dtype=one.dtype)
        noise = noise.reshape(*sample_shape, *[1] * len(self.batch_shape), *one.shape)
        return self.loc + self.scale * noise


class ForgetsToExpandTheDensity(Made):
    def expand(self, batch_shape, _instance=None):
        expanded = super().expand(batch_shape)
        expanded.scale = torch.ones_like(expanded.scale)
        return expanded


class SumsTheBatch(Made):
    """Right for one value, wrong for particles."""

    def log_prob(self, value):
        own = super().log_prob(value)
        return own.mean(0, keepdim=True).expand_as(own) if own.dim() > 1 else own


class DetachesTheScale(Made):
    def rsample(self, sample_shape=()):
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype)
        return self.loc + self.scale.detach() * noise


class OtherReparameterisedDraws(Made):
    def sample(self, sample_shape=()):
        with torch.no_grad():
            return super().rsample(sample_shape)

    def rsample(self, sample_shape=()):
        return self.loc + 1.2 * (super().rsample(sample_shape) - self.loc)


class DrawsWithGradient(Made):
    def sample(self, sample_shape=()):
        return self.rsample(sample_shape)


class DetachesTheDensity(Made):
    has_rsample = False

    def log_prob(self, value):
        return dist.Normal(self.loc, self.scale.detach()).log_prob(value).sum(-1)


class DetachesTheValue(Made):
    def log_prob(self, value):
        return super().log_prob(value.detach())


class _Squared(torch.autograd.Function):
    """Its derivative is off by a factor."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, *gradients):
        return 1.9 * ctx.saved_tensors[0] * gradients[0]


class WrongDerivative(Made):
    def log_prob(self, value):
        t = (value - self.loc) / self.scale
        own = -0.5 * _Squared.apply(t) - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return own.sum(-1)


class InfiniteGradient(Made):
    def log_prob(self, value):
        return super().log_prob(value) + 0 * (self.loc - self.loc).sum(-1).sqrt()


class OutsideItsSupport(Made):
    support = constraints.independent(constraints.positive, 1)

    def log_prob(self, value):
        return super().log_prob(value)


class DensityEverywhere(Made):
    """Uniform on the unit cube, and no less outside."""

    support = constraints.independent(constraints.unit_interval, 1)

    def rsample(self, sample_shape=()):
        return torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype) + 0 * self.loc

    def log_prob(self, value):
        return 0 * (value + self.loc + self.scale).sum(-1)


class NotOfFloats(Made):
    """Its draws come in single precision always."""

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).float()


class FromElsewhere(Made):
    """Draws that no seed of torch's decides on."""

    def rsample(self, sample_shape=()):
        shape = self._extended_shape(sample_shape)
        noise = [random.gauss(0, 1) for _ in range(shape.numel())]
        return self.loc + self.scale * torch.tensor(noise).to(self.loc).reshape(shape)


class AnotherDensityAtLeaves(Made):
    """Takes values that ask for gradients for others, as particles split in two have them."""

    def log_prob(self, value):
        shift = 0.1 if value.requires_grad and value.is_leaf else 0.0
        return super().log_prob(value) + shift


MADE = {
    WiderDraws: "draws follow density",
    FirstWiderDraws: "draws follow density",
    NotNormalised: "density normalises",
    MeanOverDimensions: "density normalises",
    SameDrawForAll: "expand",
    ForgetsToExpandTheDensity: "expand",
    SumsTheBatch: "leading shapes",
    DetachesTheScale: "pathwise gradient",
    OtherReparameterisedDraws: "pathwise gradient",
    DrawsWithGradient: "pathwise gradient",
    DetachesTheDensity: "gradients",
    DetachesTheValue: "gradients",
    WrongDerivative: "gradients",
    InfiniteGradient: "gradients",
    OutsideItsSupport: "support",
    DensityEverywhere: "support",
    NotOfFloats: "precision and device",
    FromElsewhere: "copies",
    AnotherDensityAtLeaves: "particles",
}
"""Kind of :class:`Made` to the rung that is to find its mistake."""


class Mixture(nn.Module):
    """A mixture of normals, learned; the right one, for others to spoil."""

    def __init__(self, latent=2, components=4):
        super().__init__()
        self.loc = nn.Parameter(3 * torch.randn(components, latent))
        self.log_scale = nn.Parameter(torch.full((components, latent), -0.5))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self):
        return MixtureOf(self.loc, self.log_scale.exp(), self.logits)


class MixtureOf(TorchDistribution):
    arg_constraints: ClassVar = {}
    support = constraints.real_vector

    def __init__(self, loc, scale, logits, batch_shape=()):
        self.loc, self.scale, self.logits = loc, scale, logits
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return type(self)(self.loc, self.scale, self.logits, batch_shape)

    def components(self, shape):
        return dist.Categorical(logits=self.logits).sample(shape)

    def sample(self, sample_shape=()):
        shape = self._extended_shape(sample_shape)
        index = self.components(shape[:-1])
        with torch.no_grad():
            return self.loc[index] + self.scale[index] * torch.randn(shape, dtype=self.loc.dtype)

    def by_component(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value.unsqueeze(-2))

    def log_prob(self, value):
        joint = self.by_component(value).sum(-1) + self.logits.log_softmax(-1)
        return self.batched(joint.logsumexp(-1))

    def batched(self, log_prob):
        return log_prob.expand(torch.broadcast_shapes(self.batch_shape, log_prob.shape))


class FirstComponents(MixtureOf):
    def components(self, shape):
        return super().components(shape) % 2


class SumOfLogsumexp(MixtureOf):
    """A mixture in each dimension by itself: another law, as normalised as the right one."""

    def log_prob(self, value):
        joint = self.by_component(value) + self.logits.log_softmax(-1).unsqueeze(-1)
        return self.batched(joint.logsumexp(-2).sum(-1))


class EqualWeights(MixtureOf):
    def components(self, shape):
        return torch.randint(len(self.logits), shape)


class PathOfTheComponents(MixtureOf):
    """Claims a pathwise gradient, which the weights do not get."""

    has_rsample = True

    def rsample(self, sample_shape=()):
        shape = self._extended_shape(sample_shape)
        index = self.components(shape[:-1])
        return self.loc[index] + self.scale[index] * torch.randn(shape, dtype=self.loc.dtype)


MIXTURES = {
    FirstComponents: "draws follow density",
    SumOfLogsumexp: "draws follow density",
    EqualWeights: "draws follow density",
    PathOfTheComponents: "pathwise gradient",
}


class OfMixture(Mixture):
    """A :class:`Mixture` with another kind of distribution."""

    def __init__(self, kind, latent=2):
        super().__init__(latent)
        self.kind = kind

    def forward(self):
        return self.kind(self.loc, self.log_scale.exp(), self.logits)


class _Sinh(Transform):
    """``z = sinh(a + u)``; the Jacobian's place is for others to spoil."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, shift, log_slope):
        super().__init__()
        self.shift, self.log_slope = shift, log_slope

    def _call(self, x):
        return (x + self.shift).sinh()

    def _inverse(self, y):
        return y.asinh() - self.shift

    def log_abs_det_jacobian(self, x, y):
        return self.log_slope((x + self.shift).cosh().log().sum(-1))


def whole(log_slope):
    return log_slope


def forgotten(log_slope):
    return torch.zeros_like(log_slope)


class Flow(nn.Module):
    """A flow of a normal by a hyperbolic sine, and a stretch."""

    def __init__(self, log_slope=whole, stretched=True, latent=2):
        super().__init__()
        self.log_slope, self.stretched = log_slope, stretched
        self.shift = nn.Parameter(torch.zeros(latent))
        self.log_stretch = nn.Parameter(torch.full((latent,), 0.5))

    def forward(self):
        zeros = torch.zeros_like(self.shift)
        affine = AffineTransform(zeros, self.log_stretch.exp(), event_dim=1)
        if not self.stretched:
            affine.log_abs_det_jacobian = no_stretch
        noise = dist.Normal(zeros, 1.0).to_event(1)
        return dist.TransformedDistribution(noise, [_Sinh(self.shift, self.log_slope), affine])


def no_stretch(x, y):
    return torch.zeros_like(x[..., 0])


class Plain(nn.Module):
    """``N(loc, exp(log_scale))``, where ``forward`` is for others to spoil."""

    def __init__(self, latent=2):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))

    @property
    def normal(self):
        return dist.Normal(self.loc, self.log_scale.exp())

    def forward(self):
        return self.normal.to_event(1)


class OfTorch(Plain):
    def forward(self):
        return torch.distributions.Independent(
            torch.distributions.Normal(self.loc, self.log_scale.exp()), 1
        )


class NoEvent(Plain):
    def forward(self):
        return self.normal


class ABatchOfOne(Plain):
    def forward(self):
        return self.normal.expand((1, len(self.loc))).to_event(1)


class RandomDensity(Plain):
    def forward(self):
        return dist.Normal(self.loc + 0.01 * torch.randn(()), self.log_scale.exp()).to_event(1)


class AnAttribute(Plain):
    """A tensor that ``.to(device)`` leaves behind."""

    def __init__(self):
        super().__init__()
        self.unit = torch.ones(2)

    def forward(self):
        return dist.Normal(self.loc, self.unit * self.log_scale.exp()).to_event(1)


class InSinglePrecision(Plain):
    def forward(self):
        return dist.Normal(self.loc.float(), self.log_scale.exp().float()).to_event(1)


class Unused(Plain):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class NotPicklable(Plain):
    def __init__(self):
        super().__init__()
        self.positive = lambda x: x.exp()

    def forward(self):
        return dist.Normal(self.loc, self.positive(self.log_scale)).to_event(1)


class StateElsewhere(Plain):
    """What was drawn at the start is in no ``state_dict``."""

    def __init__(self):
        super().__init__()
        self.shift = float(torch.randn(()))

    def forward(self):
        return dist.Normal(self.loc + self.shift, self.log_scale.exp()).to_event(1)


class NotTrainable(Plain):
    """Raises in training mode."""

    def forward(self):
        if self.training:
            raise RuntimeError("no training here")
        return super().forward()


class SupportThatMoves(Plain):
    """Its support is another one at each call, which annealing cannot move on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self):
        self.calls += 1
        low = self.loc.detach() - 10 - self.calls
        return dist.Uniform(low, low + 30 + 0 * self.log_scale).to_event(1)


class Bits(nn.Module):
    """Independent bits, whose draws and sum are for others to spoil."""

    def __init__(self, draws=1.0, excess=0.0):
        super().__init__()
        self.draws, self.excess = draws, excess
        self.logits = nn.Parameter(torch.linspace(-2, 2, 5))

    def forward(self):
        return BitsOf(self.logits, self.draws, self.excess)


class BitsOf(TorchDistribution):
    arg_constraints: ClassVar = {}
    support = constraints.independent(constraints.boolean, 1)

    def __init__(self, logits, draws, excess):
        self.logits, self.draws, self.excess = logits, draws, excess
        super().__init__(logits.shape[:-1], logits.shape[-1:])

    def expand(self, batch_shape, _instance=None):
        return BitsOf(self.logits.expand(*batch_shape, -1), self.draws, self.excess)

    def sample(self, sample_shape=()):
        logits = self.draws * self.logits.expand(self._extended_shape(sample_shape))
        return torch.bernoulli(logits.detach().sigmoid())

    def log_prob(self, value):
        if self._validate_args and not self.support.check(value).all():
            raise ValueError("no bits")
        own = value * self.logits - nn.functional.softplus(self.logits)
        return own.sum(-1) + self.excess


class Sphere(nn.Module):
    """Uniform on a sphere: ``log_prob`` per area, which is for others to spoil."""

    def __init__(self, latent=3, excess=0.0, tilt=0.0):
        super().__init__()
        self.excess, self.tilt = excess, tilt
        self.register_buffer("zero", torch.zeros(latent))

    def forward(self):
        return OnSphere(self.zero, self.excess, self.tilt)


class OnSphere(TorchDistribution):
    arg_constraints: ClassVar = {}
    support = constraints.sphere

    def __init__(self, zero, excess, tilt):
        self.zero, self.excess, self.tilt = zero, excess, tilt
        super().__init__(zero.shape[:-1], zero.shape[-1:])

    def expand(self, batch_shape, _instance=None):
        return OnSphere(self.zero.expand(*batch_shape, -1), self.excess, self.tilt)

    def sample(self, sample_shape=()):
        shape = self._extended_shape(sample_shape)
        noise = torch.randn(shape, dtype=self.zero.dtype) + self.tilt
        return noise / noise.norm(dim=-1, keepdim=True)

    def log_prob(self, value):
        if self._validate_args and not self.support.check(value).all():
            raise ValueError("not on the sphere")
        dim = len(self.zero.reshape(-1, self.event_shape[0])[0])
        log_area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        return (0 * value + self.zero).sum(-1) - log_area + self.excess


class Encoder(nn.Module):
    """A normal guide, whose reading of x is for others to spoil."""

    def __init__(self, features=3, latent=2):
        super().__init__()
        self.network = MLP(features, [4], 2 * latent)

    def forward(self, x):
        return self.of(self.network(x))

    def of(self, outputs):
        loc, log_scale = outputs.chunk(2, -1)
        return dist.Normal(loc, (0.3 * log_scale).exp()).to_event(1)


class CentresTheBatch(Encoder):
    def forward(self, x):
        return self.of(self.network(x - x.mean(0)))


class SwallowsNaN(Encoder):
    def forward(self, x):
        return self.of(self.network(x.nan_to_num()))


class OneForAll(Encoder):
    def forward(self, x):
        return self.of(self.network(x[:1]))


class Decoder(nn.Module):
    """A normal likelihood, which is for others to spoil."""

    def __init__(self, latent=2, features=3):
        super().__init__()
        self.network = MLP(latent, [4], features)
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, z):
        return dist.Normal(self.network(z), self.log_scale.exp()).to_event(1)


class AveragesParticles(Decoder):
    def forward(self, z):
        return super().forward(z.mean(0, keepdim=True).expand_as(z) if z.dim() > 2 else z)


class MixesData(Decoder):
    def forward(self, z):
        return super().forward(z - 0.1 * z.mean(-2, keepdim=True) if z.dim() > 1 else 0.9 * z)


class FeatureTerms(Decoder):
    """Its terms by feature do not add up to its density."""

    def forward(self, z):
        loc = self.network(z)
        return HalfTerms(loc, self.log_scale.exp())


class HalfTerms(Made):
    def feature_log_prob(self, value):
        return 0.5 * dist.Normal(self.loc, self.scale).log_prob(value)


class ZeroForMissing(Decoder):
    """Says that cells may be missing, and takes them for 0."""

    def forward(self, z):
        return AsZero(self.network(z), self.log_scale.exp())


class AsZero(Made):
    accepts_missing = True

    def feature_log_prob(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value.nan_to_num())

    def log_prob(self, value):
        return self.feature_log_prob(value).sum(-1)


class SwallowsMissing(Decoder):
    def forward(self, z):
        return Unsaid(self.network(z), self.log_scale.exp())


class Unsaid(AsZero):
    accepts_missing = False


class WiderFeature(Decoder):
    """Draws of the last feature are too wide."""

    def forward(self, z):
        return LastWider(self.network(z), self.log_scale.exp())


class LastWider(Made):
    def rsample(self, sample_shape=()):
        wide = torch.ones_like(self.loc)
        wide[..., -1] = 1.1
        return self.loc + wide * (super().rsample(sample_shape) - self.loc)


PRIORS = [
    (OfTorch, "contract"),
    (NoEvent, "contract"),
    (ABatchOfOne, "contract"),
    (RandomDensity, "contract"),
    (AnAttribute, "precision and device"),
    (InSinglePrecision, "precision and device"),
    (Unused, "gradients"),
    (NotPicklable, "copies"),
    (NotTrainable, "training"),
    (SupportThatMoves, "annealing"),
]
GUIDES = [
    (CentresTheBatch, "each datum by itself"),
    (SwallowsNaN, "missing values"),
    (OneForAll, "contract"),
]


class _Levels(constraints.Constraint):
    """0, 1/255, ..., 1."""

    is_discrete = True

    def check(self, value):
        steps = 255 * value
        return ((steps - steps.round()).abs() < 1e-3) & (value >= 0) & (value <= 1)


class Bins(TorchDistribution):
    """Logistic draws rounded to levels; the first and the last bin reach to infinity, or do not.

    It has no log-densities of single features.
    """

    arg_constraints: ClassVar = {}
    support = constraints.independent(_Levels(), 1)

    def __init__(self, loc, scale, edges=True, validate_args=None):
        self.loc, self.scale, self.edges = loc, scale, edges
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        loc = self.loc.expand(*batch_shape, self.loc.shape[-1])
        return type(self)(loc, self.scale, self.edges, self._validate_args)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype)
            return (255 * (self.loc + self.scale * u.logit())).round().clamp(0, 255) / 255

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        # In double precision: what follows is a difference of nearly equal numbers.
        k, loc, scale = (x.double() for x in ((255 * value).round(), self.loc, self.scale))
        ends = [((k + half) / 255 - loc) / scale for half in (0.5, -0.5)]
        upper, lower = (end.sigmoid() for end in ends)
        if self.edges:
            upper, lower = upper.where(k < 255, 1.0), lower.where(k > 0, 0.0)
        return (upper - lower).clamp(min=1e-300).log().sum(-1).to(self.loc)


class BinsDecoder(nn.Module):
    def __init__(self, kind=Bins, edges=True):
        super().__init__()
        self.kind, self.edges = kind, edges
        self.network = MLP(2, [4], 3)
        self.log_scale = nn.Parameter(torch.tensor(-1.5))

    def forward(self, z):
        return self.kind(0.5 + self.network(z), self.log_scale.exp(), self.edges)


class UndeclaredBins(Bins):
    """Its support does not say that values are discrete."""

    support = constraints.independent(constraints.unit_interval, 1)


class SinglePrecision(Decoder):
    """Differences of log-gamma functions of 5000."""

    def forward(self, z):
        return dist.StudentT(1e4, self.network(z), self.log_scale.exp()).to_event(1)


class SinglePrecisionCounts(Decoder):
    """Right to 1e-4 nats for counts of some ten, off by 0.005 for those of thousands."""

    def forward(self, z):
        logits = self.network(z) - self.log_scale
        return dist.NegativeBinomial(self.log_scale.exp(), logits=logits).to_event(1)


LIKELIHOODS = [
    (SinglePrecision, "digits"),
    (SinglePrecisionCounts, "digits"),
    (AveragesParticles, "leading shapes"),
    (MixesData, "each datum by itself"),
    (FeatureTerms, "density by feature"),
    (ZeroForMissing, "missing values"),
    (SwallowsMissing, "missing values"),
    (WiderFeature, "draws follow density"),
]
