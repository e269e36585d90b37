"""On a GPU: the same objectives and gradients as on the CPU, exact log p(x), runs that go on."""

import copy
import inspect

import pytest
import torch
from programs import binary_data, binary_vae

import ppl_vae as pv
from ppl_vae.objectives import OBJECTIVES

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


def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(tmp_path):
    def train(vae, epochs, checkpoint=None):
        return pv.fit(
            vae.model, vae.guide, pv.IWAE(5), binary_data(), valid=binary_data(seed=2),
            epochs=epochs, batch_size=10, device="cuda", checkpoint=checkpoint, progress=False,
        )  # fmt: skip

    whole = binary_vae()
    train(whole, 4)
    train(binary_vae(), 2, tmp_path / "run.safetensors")
    resumed = binary_vae()
    train(resumed, 4, tmp_path / "run.safetensors")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-5, atol=1e-6)


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
