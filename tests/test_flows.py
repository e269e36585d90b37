"""Normalising flows: what they are as distributions, and what importing zuko leaves behind."""

import ast
import itertools
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from ppl_vae.flows import Flow, FlowKind, RowFlows, flow_distribution, zuko_installed

KINDS = get_args(FlowKind)
CASES = list(itertools.product(KINDS, (1, 2, 5), (0, 3)))
PACKAGE = Path(__file__).parents[1] / "ppl_vae"


def moved(module, by=0.3):
    """In double precision, away from where it starts."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn_like(parameter)
    return module


def built(kind, latent, context=0, rows=4, **settings):
    """A flow away from the identity, and its arguments for some rows."""
    flow = moved(Flow(latent, kind, context=context, **settings))
    loc, scale = torch.randn(rows, latent).double(), 0.5 + torch.rand(rows, latent).double()
    given = torch.randn(rows, context).double() if context else None
    return flow, (loc, scale, given)


def log_volume(transform, noise):
    """``log |dz/dnoise|`` of every row, by autograd; rows do not touch."""
    jacobian = torch.autograd.functional.jacobian(lambda u: transform(u).sum(0), noise)
    return torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet


class TestAsADistribution:
    @pytest.mark.parametrize(("kind", "latent", "context"), CASES)
    def test_starts_as_the_normal(self, kind, latent, context):
        loc, scale = torch.randn(4, latent), 0.5 + torch.rand(4, latent)
        given = torch.randn(4, context) if context else None
        q = Flow(latent, kind, context=context)(loc, scale, given)
        z = torch.randn(7, 4, latent)
        expected = torch.distributions.Normal(loc, scale).log_prob(z).sum(-1)
        torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("kind", "latent", "context"), CASES)
    def test_the_density_is_that_of_the_transform(self, kind, latent, context):
        flow, given = built(kind, latent, context)
        q = flow(*given)
        noise = torch.randn(4, latent).double()
        z = q.transforms[0](noise)
        base = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1)
        expected = base - log_volume(flow(*given).transforms[0], noise)
        # From the pass that drew z, and by inversion at a copy of it.
        torch.testing.assert_close(q.log_prob(z), expected)
        torch.testing.assert_close(q.log_prob(z.detach().clone()), expected)
        torch.testing.assert_close(q.transforms[0].inv(z.detach().clone()), noise)

    @pytest.mark.parametrize("kind", KINDS)
    def test_shapes(self, kind):
        flow, given = built(kind, 3, 2)
        q = flow(*given)
        assert (q.batch_shape, q.event_shape, q.has_rsample) == ((4,), (3,), True)
        wide = q.expand((6, 5, 4))
        z = wide.rsample((2,))
        assert (wide.batch_shape, z.shape) == ((6, 5, 4), (2, 6, 5, 4, 3))
        torch.testing.assert_close(wide.log_prob(z), q.log_prob(z.clone()))
        assert q.support is torch.distributions.constraints.real_vector

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("kind", KINDS)
    def test_types(self, kind, dtype):
        flow, given = built(kind, 3, 2)
        q = flow.to(dtype)(*(value.to(dtype) for value in given))
        z = q.rsample((10,))
        assert (z.dtype, q.log_prob(z).dtype) == (dtype, dtype)
        tolerance = 1e-9 if dtype is torch.float64 else 1e-3
        torch.testing.assert_close(
            q.log_prob(z), q.log_prob(z.clone()), rtol=tolerance, atol=tolerance
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_no_normal_any_more(self, kind):
        flow, given = built(kind, 2, rows=1, hidden_sizes=[16])
        z = flow(*given).sample((4000,))[:, 0]
        whitened = torch.linalg.solve_triangular(
            torch.linalg.cholesky(z.T.cov()), (z - z.mean(0)).T, upper=False
        )
        assert (whitened.pow(4).mean(1) - 3).abs().max() > 0.5

    def test_refusals(self, unchecked_types):
        with pytest.raises(ValueError, match="unknown kind of flow 'glow': use iaf, maf"):
            Flow(2, "glow")
        for wrong in ({"latent": 0}, {"layers": 0}, {"bins": 1.5}):
            settings = {"latent": 2, "kind": "maf", **wrong}
            with pytest.raises(ValueError, match=f"{next(iter(wrong))} of 1 or more"):
                Flow(**settings)


COSTS = {"iaf": (1, 6), "maf": (6, 1), "realnvp": (2, 1), "spline": (3, 1)}
"""Passes for a draw of 5 latents with its density, and for a density at a given value."""


class TestRememberedPasses:
    """What a draw and a density cost, and that nothing but the cost is remembered."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_cost_is_as_documented(self, kind):
        flow, given = built(kind, 5, 2, layers=1)
        passes = []
        flow.transform.transforms[0].hyper.register_forward_hook(lambda *_: passes.append(1))

        def cost(function):
            passes.clear()
            function()
            return len(passes)

        q = flow(*given)
        expected = COSTS[kind]
        assert cost(lambda: q.log_prob(q.rsample())) == expected[0]
        z = torch.randn(4, 5).double()
        assert cost(lambda: q.log_prob(z)) == expected[1]
        wide = q.expand((3, 4))
        assert cost(lambda: wide.log_prob(wide.rsample())) == expected[0]

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradients_are_those_of_the_inversion(self, kind):
        flow, given = built(kind, 3, 2)
        q = flow(*given)
        z = q.rsample()
        parameters = list(flow.parameters())
        own = torch.autograd.grad(q.log_prob(z).sum(), parameters, retain_graph=True)
        inverted = torch.autograd.grad(q.log_prob(z + 0).sum(), parameters)
        torch.testing.assert_close(own, inverted)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_draw_without_a_graph_has_its_score(self, kind):
        flow, given = built(kind, 3, 2)
        q = flow(*given)
        z = q.sample()
        parameters = list(flow.parameters())
        score = torch.autograd.grad(q.log_prob(z).sum(), parameters)
        again = torch.autograd.grad(flow(*given).log_prob(z.clone()).sum(), parameters)
        torch.testing.assert_close(score, again)
        assert sum(g.abs().sum() for g in score) > 0

    def test_other_values_are_not_taken_for_the_draw(self):
        flow, given = built("spline", 3)
        q = flow(*given)
        z = q.sample()
        q.log_prob(z + 1)
        torch.testing.assert_close(q.log_prob(z), flow(*given).log_prob(z.clone()))
        with torch.no_grad():
            z += 1
            torch.testing.assert_close(q.log_prob(z), flow(*given).log_prob(z.clone()))

    def test_values_that_change_in_place_have_their_own_density(self):
        flow, given = built("spline", 3)
        q, z = flow(*given), torch.zeros(4, 3).double()
        before = q.log_prob(z)
        z.data += 1
        torch.testing.assert_close(q.log_prob(z), flow(*given).log_prob(z.clone()))
        assert (q.log_prob(z) - before).abs().min() > 0.01

    def test_inference_mode(self):
        flow, given = built("iaf", 3)
        with torch.inference_mode():
            q = flow(*given)
            z = q.sample()
            torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


class TestRowFlows:
    ROWS, LATENT = 3, 4

    def built(self, latent=LATENT):
        flows = moved(RowFlows(self.ROWS, latent), by=1.0)
        loc = torch.randn(self.ROWS, latent).double()
        return (
            flows,
            loc,
            torch.randn(self.ROWS, latent, latent).double().tril().matrix_exp().tril(),
        )

    @pytest.mark.parametrize("latent", [1, 2, 4])
    def test_starts_as_the_normal(self, latent):
        _, loc, factor = self.built(latent)
        z = torch.randn(7, self.ROWS, latent).double()
        normal = torch.distributions.MultivariateNormal(loc, scale_tril=factor)
        found = RowFlows(self.ROWS, latent).double()(loc, factor).log_prob(z)
        torch.testing.assert_close(found, normal.log_prob(z))

    @pytest.mark.parametrize("latent", [1, 2, 4])
    def test_the_density_is_that_of_the_transform(self, latent):
        flows, loc, factor = self.built(latent)
        noise = torch.randn(self.ROWS, latent).double()
        transform = flows(loc, factor).transforms[0]
        z = transform(noise)
        base = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(-1)
        expected = base - log_volume(transform, noise)
        torch.testing.assert_close(flows(loc, factor).log_prob(z), expected)

    def test_rows_share_nothing(self):
        flows, loc, factor = self.built()
        q = flows(loc, factor)
        z = q.sample((5,))
        gradients = torch.autograd.grad(q.log_prob(z)[:, 1].sum(), list(flows.parameters()))
        for gradient in gradients:
            assert gradient[1].abs().sum() > 0
            assert gradient[[0, 2]].abs().sum() == 0


def test_a_distribution_of_any_transforms():
    affine = torch.distributions.AffineTransform(torch.ones(2), 3.0, 1)
    q = flow_distribution(torch.zeros(4, 2), affine, affine)
    z = q.rsample()
    expected = torch.distributions.Normal(4.0, 9.0).log_prob(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), expected)


@pytest.fixture
def python(interpreter):
    """Runs code beside torch and Pyro, which has nothing of this package, warnings as errors."""

    def run(code):
        done = interpreter.run(code, strict=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


STATE = """
import sys, pyro, torch
from torch.distributions import Distribution, Transform
from torch.distributions.transforms import _InverseTransform
def state():
    held = {name: repr(value) for name, value in vars(Distribution).items()}
    kept = {n: repr(v) for n, v in vars(Transform).items() if n != "call_and_ladj"}
    return held, kept, _InverseTransform.__name__, repr(pyro.settings.get())
def changed(action):
    before = state()
    action()
    return before != state()
def make_flow():
    from ppl_vae.flows import Flow
    Flow(2, "maf")(torch.zeros(2), torch.ones(2)).rsample()
"""


REFUSED = """
def refused(family):
    try:
        family.Normal(0.0, -1.0)
    except ValueError:
        return True
    return False
print(refused(torch.distributions), refused(pyro.distributions))
"""


def test_argument_validation_stays_as_it_was(python):
    """And zuko is imported when a flow is made, not before."""
    imports = [f"lambda: __import__('{name}')" for name in ("ppl_vae.flows", "ppl_vae.diagnostics")]
    settings = list(itertools.product([True, False], repeat=2))
    cases = []
    for validated, flow_first in settings:
        steps = ["make_flow", *imports] if flow_first else [*imports, "make_flow"]
        lines = [f"print(changed({step}), 'zuko' in sys.modules)" for step in steps]
        setting = f"torch.distributions.Distribution.set_default_validate_args({validated})"
        begin = [f"pyro.enable_validation({validated})", setting]
        cases.append("\n".join([*begin, *lines, REFUSED]))
    # The test of the test: importing zuko by itself changes torch.
    cases.append("print(changed(lambda: __import__('zuko')))")
    *found, by_itself = (python(STATE + code).splitlines() for code in cases)
    for (validated, flow_first), lines in zip(settings, found, strict=True):
        assert lines[:3] == [f"False {flow_first or step == 2}" for step in range(3)]
        assert lines[3] == f"{validated} {validated}"
    assert by_itself == ["True"]


WITHOUT = """
import sys
sys.modules["zuko"] = None
import torch
import ppl_vae as pv
from ppl_vae import flows
def refusal(make):
    try:
        make()
    except ImportError as error:
        return "pip install 'ppl_vae[flows]'" in str(error)
model = pv.LinearGaussian.random(4, 2)
vae, x = model.mean_field_vae(), model.simulate(3)
evidence = pv.ImportanceSampling(10)(vae.model, vae.guide, x)
gap, settings = pv.diagnostics.inference_gap, pv.diagnostics.GapSettings
print(
    flows.zuko_installed(),
    gap(vae.model, vae.guide, x, evidence, settings(num_particles=2)).shape,
    refusal(lambda: gap(vae.model, vae.guide, x, evidence, settings(flow=True))),
    refusal(lambda: pv.priors.FlowPrior(2)),
    refusal(lambda: pv.guides.FlowEncoder(torch.nn.Linear(4, 36), 2)),
    refusal(lambda: flows.RowFlows(2, 2)),
)
"""


def test_without_zuko_all_else_works_and_flows_name_the_extra(python):
    assert zuko_installed()
    assert python(WITHOUT) == "False None True True True True\n"


def names_zuko(source):
    """Whether code imports zuko, by statement or by name."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [node.value] if isinstance(node, ast.Constant) and node.value == "zuko" else []
        if any(name.split(".")[0] == "zuko" for name in names):
            return True
    return False


def test_one_module_imports_zuko():
    paths = PACKAGE.rglob("*.py")
    assert [path.name for path in paths if names_zuko(path.read_text())] == ["flows.py"]


def test_of_the_import_test():
    for source in ("import zuko.flows", "from zuko import flows", "__import__('zuko')"):
        assert names_zuko(source)


def test_a_flow_is_a_module_that_can_be_copied_and_saved():
    flow, given = built("spline", 3, 2)
    other = Flow(3, "spline", context=2).double()
    z = torch.randn(4, 3).double()
    assert not torch.equal(other(*given).log_prob(z), flow(*given).log_prob(z))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other(*given).log_prob(z), flow(*given).log_prob(z))
    assert isinstance(flow, nn.Module)
