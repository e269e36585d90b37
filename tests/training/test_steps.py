import pyro
import pytest
import torch
from programs import LinearChain, binary_vae, param_guide, param_model
from torch import nn

from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO
from ppl_vae.particles import Programs
from ppl_vae.training import SVIStep, TorchStep, find_parameters, fit

from .helpers import STEPS, VALID, X, same_state, state_of, train


def twenty_updates(step_class, objective, dtype, clip_norm=None):
    vae = binary_vae(learned_prior=True).to(dtype)
    x = X.to(dtype)
    parameters = find_parameters(Programs(vae.model, vae.guide).modules(x))
    step = step_class(objective, vae.model, vae.guide, parameters, clip_norm)
    torch.manual_seed(4)
    parts = [step(x[i % 2 :: 2], 0.01 / (1 + i)) for i in range(20)]
    return state_of(vae), torch.stack(parts), step.state()


@pytest.mark.parametrize("objective", [ELBO(2), AnalyticELBO(2), IWAE(5)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_both_steps_give_the_same_parameters(objective, dtype, clip_norm):
    ours = twenty_updates(TorchStep, objective, dtype, clip_norm)
    pyros = twenty_updates(SVIStep, objective, dtype, clip_norm)
    if dtype == torch.float64:
        tolerance = {"rtol": 1e-9, "atol": 1e-11}
    else:
        # Adam divides by the root of squared gradients: rounding of tiny ones shows.
        tolerance = {"rtol": 1e-3, "atol": 1e-4}
    for a, b in zip(ours, pyros, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    start = state_of(binary_vae(learned_prior=True).to(dtype))
    assert not any(torch.equal(start[name], ours[0][name]) for name in start)


def test_both_steps_are_adam_by_hand():
    """One update from zero moments moves every coordinate by the learning rate."""
    for step_class in (TorchStep, SVIStep):
        vae = binary_vae().double()
        start = state_of(vae)
        x = X.double()
        parameters = find_parameters(Programs(vae.model, vae.guide).modules(x))
        torch.manual_seed(1)
        gradient = torch.autograd.grad(
            ELBO().differentiable_loss(vae.model, vae.guide, x) / len(x), parameters.values()
        )
        torch.manual_seed(1)
        step_class(ELBO(), vae.model, vae.guide, parameters)(x, 0.01)
        for (name, p), g in zip(vae.named_parameters(), gradient, strict=True):
            torch.testing.assert_close(p.detach(), start[name] - 0.01 * g / (g.abs() + 1e-8))


@pytest.mark.parametrize("step", STEPS)
def test_fit_of_equal_settings_is_equal(step):
    """fit with each step, in double precision, ends at the same parameters."""
    vae = binary_vae().double()
    train(vae, X.double(), step=step, epochs=7, valid=VALID.double(), learning_rate=0.01)
    other = binary_vae().double()
    train(other, X.double(), step="torch", epochs=7, valid=VALID.double(), learning_rate=0.01)
    torch.testing.assert_close(state_of(vae), state_of(other), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("step", STEPS)
def test_clip_norm_caps_the_gradient(step):
    step_class = {"torch": TorchStep, "svi": SVIStep}[step]
    norms = []
    for clip_norm in (None, 1e-3):
        vae = binary_vae().double()
        parameters = find_parameters(Programs(vae.model, vae.guide).modules(X.double()))
        one = step_class(ELBO(), vae.model, vae.guide, parameters, clip_norm)
        torch.manual_seed(0)
        one(X.double(), 1e-3)
        # After one update Adam's first moment is a tenth of the gradient.
        moments = [value for name, value in one.state().items() if name.startswith("exp_avg/")]
        norms.append(10 * torch.cat([m.flatten() for m in moments]).norm().item())
    assert norms[0] > 1
    assert norms[1] == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("step", STEPS)
def test_the_loss_is_per_datum(step):
    """Twice the same data in a batch give the same gradient, so the same update."""
    step_class = {"torch": TorchStep, "svi": SVIStep}[step]
    chain = LinearChain()
    x = chain.simulate(10)
    moments = []
    for batch in (x, torch.cat([x, x])):
        chain = LinearChain()
        parameters = find_parameters(Programs(chain.model, chain.top_down).modules(x))
        one = step_class(ELBO(), chain.model, chain.top_down, parameters)
        one(batch, 1e-3)  # at the posterior the gradient is exact, whatever is drawn
        moments.append(one.state()["exp_avg/A"])
    torch.testing.assert_close(*moments)


@pytest.mark.parametrize("step", STEPS)
def test_a_stale_gradient_is_not_used(step):
    """Left by an interrupted run, or by the user's own backward."""
    fresh, _ = train(step=step)
    pyro.clear_param_store()
    vae = binary_vae()
    for parameter in vae.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    train(vae, step=step)
    assert same_state(fresh, vae)


def hand_written(kind):
    """A two-layer model and guide, made afresh: by modules, by pyro.module, by pyro.param."""
    if kind == "pyro.param":
        return param_model, param_guide, lambda: dict(pyro.get_param_store().items())
    if kind == "module":
        chain = LinearChain()
        return chain.model, chain.rough, lambda: dict(chain.named_parameters())
    chain = LinearChain()

    def model(x):
        pyro.module("chain", chain)
        chain.model(x)

    return model, lambda x: chain.rough(x), lambda: dict(chain.named_parameters())


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["pyro.param", "pyro.module", "module"])
def test_every_way_to_declare_parameters_trains(kind, step):
    model, guide, parameters = hand_written(kind)
    x = LinearChain().simulate(40)
    x = x.float() if kind == "pyro.param" else x
    model(x), guide(x)
    start = {name: value.detach().clone() for name, value in parameters().items()}
    result = fit(
        model, guide, ELBO(3), x, epochs=20, batch_size=40, learning_rate=0.05, step=step,
        progress=False,
    )  # fmt: skip
    for name, value in parameters().items():
        assert not torch.equal(value, start[name]), f"{name} did not train"
    bounds = result.history.column("bound")
    assert sum(bounds[-5:]) > sum(bounds[:5])


@pytest.mark.parametrize("kind", ["pyro.param", "pyro.module", "module"])
def test_both_steps_agree_however_parameters_are_declared(kind):
    results = []
    for step in STEPS:
        pyro.clear_param_store()
        model, guide, parameters = hand_written(kind)
        x = LinearChain().simulate(40)
        x = x.float() if kind == "pyro.param" else x
        fit(model, guide, ELBO(3), x, epochs=5, batch_size=20, step=step, progress=False)
        results.append({name: value.detach().clone() for name, value in parameters().items()})
    torch.testing.assert_close(*results)


def test_constrained_parameters_stay_in_their_support():
    x = LinearChain().simulate(40).float()
    fit(param_model, param_guide, ELBO(), x, epochs=30, learning_rate=0.5, progress=False)
    store = pyro.get_param_store()
    assert store["scale"] > 0
    assert (store["spread"] > 0).all()


class WithIdlePart(nn.Module):
    """A VAE that owns a layer its model and guide do not use."""

    def __init__(self):
        super().__init__()
        self.vae = binary_vae()
        self.idle = nn.Linear(3, 3)

    def model(self, x):
        self.vae.model(x)

    def guide(self, x):
        self.vae.guide(x)


@pytest.mark.parametrize("step", ["torch", "svi"])
@pytest.mark.filterwarnings("ignore:.*gives no gradient to idle.weight, idle.bias")
def test_parameters_without_gradient_are_left_alone_and_resume(step, tmp_path):
    whole, half = WithIdlePart(), WithIdlePart()
    half.load_state_dict(whole.state_dict())
    idle = half.idle.weight.clone()
    path = tmp_path / "run"
    train(whole, step=step, epochs=4)
    for epochs in (2, 4):
        pyro.clear_param_store()
        train(half, step=step, epochs=epochs, checkpoint=path)
    assert same_state(whole, half)
    assert torch.equal(half.idle.weight, idle)


@pytest.mark.parametrize("step", ["torch", "svi"])
def test_parameters_without_gradient_are_named_once(step):
    with pytest.warns(UserWarning, match=r"gives no gradient to idle.weight, idle.bias") as found:
        train(WithIdlePart(), step=step, epochs=2)
    assert len(found) == 1


def test_nothing_to_train_is_an_error():
    chain = LinearChain().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(chain.model, chain.rough, ELBO(), chain.simulate(5), progress=False)
