"""On a GPU: the same objectives and gradients as on the CPU, exact log p(x), runs that go on."""

import copy
import importlib.util
import inspect
import re

import pytest
import torch
from counted_rows import CountedRows
from programs import binary_data, binary_vae
from torch import nn

import ppl_vae as pv
from ppl_vae import capture
from ppl_vae.capture import Captured, CaptureError
from ppl_vae.objectives import OBJECTIVES
from ppl_vae.particles import Programs
from ppl_vae.training import CompiledStep, TorchStep, find_parameters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ARGUMENTS = {
    "num_particles": 4, "num_bounds": 2, "particles_each": 2, "num_terms": 4, "order": 2.0,
    "alpha": 0.5, "beta": 0.5, "weight": 10.0,
}  # fmt: skip


def objective_of(cls):
    names = inspect.signature(cls.__init__).parameters
    return cls(**{name: value for name, value in ARGUMENTS.items() if name in names})


@pytest.fixture
def noise_of_the_cpu(monkeypatch):
    """Normal draws are made by the CPU's generator and sent to where they are wanted."""

    def standard_normal(shape, dtype, device):
        return torch.randn(shape, dtype=dtype).to(device)

    monkeypatch.setattr("torch.distributions.normal._standard_normal", standard_normal)


def normal_vae():
    torch.manual_seed(0)
    decoder = pv.NormalDecoder(pv.MLP(3, [16], 5), 0.5)
    encoder = pv.DiagonalNormalEncoder(pv.MLP(5, [16], 6))
    return pv.VAE(pv.StandardNormalPrior(3), decoder, encoder).double()


def loss_and_gradients(objective, vae, x):
    torch.manual_seed(1)
    loss = objective.loss_and_grads(vae.model, vae.guide, x)
    return loss, {name: p.grad.cpu() for name, p in vae.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cls", OBJECTIVES.values(), ids=lambda cls: cls.__name__)
def test_loss_and_gradient_are_those_of_the_cpu(cls, noise_of_the_cpu):
    vae, x = normal_vae(), torch.randn(20, 5, dtype=torch.float64)
    moved = copy.deepcopy(vae).cuda()
    expected, gradients = loss_and_gradients(objective_of(cls), vae, x)
    found, on_gpu = loss_and_gradients(objective_of(cls), moved, x.cuda())
    assert found == pytest.approx(expected, rel=1e-9)
    assert on_gpu.keys() == gradients.keys()
    for key, value in gradients.items():
        torch.testing.assert_close(on_gpu[key], value, rtol=1e-8, atol=1e-9)


ESTIMATORS = {
    "importance": pv.ImportanceSampling(2000),
    "smoothed": pv.ParetoSmoothed(2000),
    "adaptive": pv.AdaptiveSampling(target=0.02),
    "jackknife": pv.Jackknife(496),
    "annealed": pv.AnnealedImportanceSampling(num_temperatures=100),
    "sequential": pv.SequentialMonteCarlo(
        pv.AnnealedImportanceSampling(num_temperatures=100, num_chains=64)
    ),
    "thermodynamic": pv.ThermodynamicIntegration(
        pv.AnnealedImportanceSampling(num_temperatures=100)
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_exact_log_evidence_is_found(name):
    model = pv.LinearGaussian.random(6, 2).cuda()
    x = model.simulate(30, seed=1)
    exact = model.log_evidence(x).detach().cpu()
    vae = model.mean_field_vae()
    evidence = ESTIMATORS[name](vae.model, vae.guide, x)
    error = (evidence.log_prob.double() - exact).mean().item()
    assert abs(error) < 4.5 * evidence.monte_carlo_error + 2e-3
    assert evidence.log_prob.device.type == "cpu"


@pytest.mark.parametrize("step", ["torch", "compiled"])
def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(tmp_path, step):
    def train(vae, epochs, checkpoint=None):
        return pv.fit(
            vae.model, vae.guide, pv.IWAE(5), binary_data(), valid=binary_data(seed=2), step=step,
            epochs=epochs, batch_size=10, device="cuda", checkpoint=checkpoint, progress=False,
        )  # fmt: skip

    whole = binary_vae()
    history = train(whole, 4).history
    train(binary_vae(), 2, tmp_path / "run.safetensors")
    resumed = binary_vae()
    train(resumed, 4, tmp_path / "run.safetensors")
    assert all(record.compiled == (step == "compiled") for record in history.records)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.fixture
def kernels_of_torch(monkeypatch):
    """A CUDA graph of torch's own kernels: compiling takes seconds for each objective."""
    monkeypatch.setattr(capture, "compile_graph", lambda graph, inputs: graph)


def updates_of(cls, objective, vae, batches):
    """Records, bounds and gradients of some updates, the next random number, the parameters."""
    programs = Programs(vae.model, vae.guide).on(batches[0])
    parameters = find_parameters(programs.modules(batches[0]))
    step = cls(objective, vae.model, vae.guide, parameters, clip_norm=100.0)
    torch.manual_seed(3)
    found = [step.update(x, 1e-3) for x in batches]
    numbers = [t for each in found for t in (each.sums, each.bound, *each.gradients)]
    return [t for t in numbers if t is not None], torch.rand(2, device="cuda"), step.parameters


def require_same_updates(objective, build, batches):
    plain, compiled = (
        updates_of(cls, objective(), build(), batches) for cls in (TorchStep, CompiledStep)
    )
    assert len(plain[0]) == len(compiled[0])
    # Each update's numbers are kept until the end: no replay may write over those of another.
    for found, expected in zip(compiled[0], plain[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    assert torch.equal(compiled[1], plain[1])
    for name, value in plain[2].items():
        torch.testing.assert_close(compiled[2][name], value, rtol=1e-8, atol=1e-9)


BATCHES = 20, 13, 20, 13


def batches_of(features):
    torch.manual_seed(2)
    return [torch.randn(size, features, dtype=torch.float64).cuda() for size in BATCHES]


@pytest.mark.usefixtures("kernels_of_torch")
@pytest.mark.parametrize("cls", OBJECTIVES.values(), ids=lambda cls: cls.__name__)
def test_a_replayed_update_is_the_plain_one(cls):
    """Of the same draws: those of a GPU's generator, which a graph moves on by itself."""
    require_same_updates(lambda: objective_of(cls), lambda: normal_vae().cuda(), batches_of(5))


def vae_with_a_state():
    """Dropout, and a batch norm whose statistics every replay moves."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 6)
    )
    vae = pv.VAE(
        pv.StandardNormalPrior(3),
        pv.NormalDecoder(pv.MLP(3, [16], 5), 0.5),
        pv.DiagonalNormalEncoder(network),
    )
    return vae.double().cuda().train()


def compiles():
    """Whether torch can compile for a GPU here."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device="cuda"))
    except Exception:
        return False
    return True


def test_a_compiled_update_is_the_plain_one():
    if not compiles():
        pytest.skip("needs Triton and a C compiler")
    require_same_updates(lambda: pv.DReG(5), vae_with_a_state, batches_of(5))


@pytest.mark.usefixtures("kernels_of_torch")
def test_a_replay_moves_a_batch_norm_and_draws_dropout_as_the_update_does():
    require_same_updates(lambda: pv.IWAE(5), vae_with_a_state, batches_of(5))


def test_without_a_compiler_torch_s_own_kernels_are_replayed(monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.compile", fails)
    with pytest.warns(UserWarning, match=r"torch's kernels are replayed.*no compiler\.$"):
        require_same_updates(lambda: pv.IWAE(5), lambda: normal_vae().cuda(), batches_of(5))


def captured(function, x, held=()):
    return Captured(function, (x,), (x.flip(0) * 0.7,), list(held))


@pytest.mark.usefixtures("kernels_of_torch")
class TestAGraphOnAGPU:
    def test_sees_parameters_that_are_loaded_and_inputs_anew(self):
        weight = torch.ones(2, device="cuda")
        x = torch.rand(4, 2, device="cuda")
        # Numbers of a program are sent to the device once, not waited for at every replay.
        replay = captured(lambda x: [x * weight + torch.tensor(3.0, device="cuda")], x, [weight])
        assert isinstance(replay._run, capture._Replay)
        (first,) = replay(x)
        weight.copy_(torch.tensor([2.0, -1.0]))
        (second,) = replay(x + 1)
        torch.testing.assert_close(second, (x + 1) * weight + 3)
        torch.testing.assert_close(first, x + 3)

    def test_draws_as_the_function_does_after_any_seed(self):
        def function(x):
            return [torch.randn(3, device="cuda") + x.sum(), torch.bernoulli(x), torch.rand_like(x)]

        x = torch.rand(4, 2, device="cuda")
        replay = captured(function, x)
        for seed in (1, 2, 1):
            torch.manual_seed(seed)
            expected = [*function(x), *function(x), torch.rand(2, device="cuda")]
            torch.manual_seed(seed)
            found = [*replay(x), *replay(x), torch.rand(2, device="cuda")]
            assert all(map(torch.equal, found, expected))

    def test_runs_its_kernels_one_by_one_where_one_makes_the_processor_wait(self):
        def function(x):
            noise = torch.randn(3, 1, device="cuda")
            return [torch.linalg.cholesky(x.mT @ x + torch.eye(3, device="cuda")) @ noise]

        x = torch.rand(4, 3, device="cuda")
        replay = captured(function, x)
        torch.manual_seed(1)
        expected, after = function(x), torch.rand(2, device="cuda")
        torch.manual_seed(1)
        torch.testing.assert_close(replay(x), expected)
        # No recording has failed, which would have left the generator unusable.
        assert torch.equal(torch.rand(2, device="cuda"), after)

    def test_refuses_numbers_that_it_would_hold_fixed(self):
        x = torch.rand(4, 2, device="cuda")
        with pytest.raises(CaptureError, match=re.escape("read a number off a tensor")):
            captured(lambda x: [x * x.mean().item()], x)
        assert len(torch.rand(2, device="cuda")) == 2


def test_training_on_the_gpu_ends_where_the_cpu_does(noise_of_the_cpu):
    bounds = {}
    for device in ("cpu", "cuda"):
        vae = binary_vae()
        result = pv.fit(
            vae.model, vae.guide, pv.DReG(5), binary_data(), epochs=5, batch_size=10,
            device=device, progress=False,
        )  # fmt: skip
        bounds[device] = result.history.records[-1].bound
    assert bounds["cuda"] == pytest.approx(bounds["cpu"], rel=1e-3)


def test_a_hash_does_not_depend_on_the_device():
    vae = binary_vae()
    on_cpu = pv.ImportanceSampling(10)(vae.model, vae.guide, binary_data()).identity
    vae.cuda()
    on_gpu = pv.ImportanceSampling(10)(vae.model, vae.guide, binary_data().cuda()).identity
    assert (on_cpu.parameters, on_cpu.rows) == (on_gpu.parameters, on_gpu.rows)
    assert (on_cpu.device, on_gpu.device) == ("cpu", "cuda")


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_lazy_rows_train_as_those_in_memory_do(fraction, monkeypatch):
    """Whether they fit, and are loaded, or are read into pinned memory batch by batch."""
    pinned = []

    def spy(batch):
        pinned.append(batch.device.type)
        return batch

    x, states = binary_data(200), []
    for rows in (x, CountedRows(x)):
        monkeypatch.setattr("ppl_vae.devices.RESIDENT_FRACTION", fraction)
        vae = binary_vae()
        pv.fit(vae.model, vae.guide, pv.ELBO(), rows, epochs=2, batch_size=32, device="cuda",
               transform=spy, progress=False)  # fmt: skip
        states.append([value.cpu() for value in vae.parameters()])
    assert set(pinned) == {"cuda"}
    for held, lazy in zip(*states, strict=True):
        torch.testing.assert_close(held, lazy)
