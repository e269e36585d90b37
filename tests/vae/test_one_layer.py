import copy
import io

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import binary_data, binary_vae
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn

from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.training import fit
from ppl_vae.vae import VAE

X = binary_data()


def by_svi(vae, loss, steps=15, lr=1e-2):
    torch.manual_seed(8)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": lr}), loss=loss)
    for _ in range(steps):
        svi.step(X)


def by_fit(step):
    def train(vae):
        fit(vae.model, vae.guide, ELBO(), X, epochs=3, batch_size=16, step=step, seed=3)

    return train


TRAINERS = {
    "SVI, our ELBO": lambda vae: by_svi(vae, ELBO()),
    "SVI, our IWAE": lambda vae: by_svi(vae, IWAE(3)),
    "SVI, Trace_ELBO": lambda vae: by_svi(vae, Trace_ELBO()),
    "fit, torch": by_fit("torch"),
    "fit, svi": by_fit("svi"),
}


def state_of(vae):
    return {name: value.clone() for name, value in vae.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestManyModelsInOneProcess:
    @pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
    def test_the_second_trains_as_the_first_did(self, train):
        results = []
        for _ in range(3):
            vae = binary_vae(learned_prior=True)
            start = state_of(vae)
            train(vae)
            results.append(state_of(vae))
            assert not any(torch.equal(start[name], results[-1][name]) for name in start)
        assert same(results[0], results[1])
        assert same(results[0], results[2])

    @pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
    def test_another_architecture_does_not_disturb(self, train):
        vae = binary_vae()
        train(vae)
        train(binary_vae(latent=3, hidden=(4, 4)))
        again = binary_vae()
        train(again)
        assert same(state_of(vae), state_of(again))

    @pytest.mark.parametrize("train", TRAINERS.values(), ids=TRAINERS)
    def test_a_deep_copy_trains_on_its_own(self, train):
        vae = binary_vae()
        train(vae)
        trained = state_of(vae)
        twin = copy.deepcopy(vae)
        train(twin)
        assert same(trained, state_of(vae))
        assert not same(trained, state_of(twin))

    def test_two_models_in_turns(self):
        torch.manual_seed(0)
        alone = binary_vae()
        by_svi(alone, Trace_ELBO(), steps=6)
        first, second = binary_vae(), binary_vae(seed=5)
        steps = [
            SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO())
            for vae in (first, second)
        ]
        torch.manual_seed(8)
        for _ in range(6):
            steps[0].step(X)
            state = torch.get_rng_state()
            steps[1].step(X)
            torch.set_rng_state(state)
        assert same(state_of(alone), state_of(first))

    def test_training_goes_on_after_more_training(self):
        vae = binary_vae()
        by_svi(vae, ELBO(), steps=3)
        before = state_of(vae)
        by_svi(vae, ELBO(), steps=3)
        after = state_of(vae)
        assert not any(torch.equal(before[name], after[name]) for name in before)

    def test_a_parameter_that_is_not_contiguous_trains_too(self):
        results = []
        for _ in range(2):
            vae = binary_vae()
            output = vae.decoder.network.output
            output.weight = nn.Parameter(output.weight.detach().T.contiguous().T)
            assert not output.weight.is_contiguous()
            start = state_of(vae)
            by_svi(vae, ELBO())
            results.append(state_of(vae))
            assert not any(torch.equal(start[name], results[-1][name]) for name in start)
        assert same(*results)


class TestStore:
    def test_the_torch_step_does_not_touch_it(self):
        by_fit("torch")(binary_vae())
        assert list(pyro.get_param_store().keys()) == []

    def test_nor_do_losses_and_plain_runs(self):
        vae = binary_vae()
        ELBO()(vae.model, vae.guide)(X).backward()
        ELBO().loss_and_grads(vae.model, vae.guide, X)
        vae.model(X)
        assert list(pyro.get_param_store().keys()) == []

    def test_svi_registers_the_modules_own_parameters(self):
        vae = binary_vae()
        by_svi(vae, ELBO(), steps=1)
        held = {id(p) for _, p in pyro.get_param_store().named_parameters()}
        assert held == {id(p) for p in vae.parameters()}


class TestPrograms:
    def test_model_and_guide_are_the_equations(self):
        vae = binary_vae()
        guide = poutine.trace(vae.guide).get_trace(X)
        model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(X)
        model.compute_log_prob()
        guide.compute_log_prob()
        z = model.nodes["z"]["value"]
        assert z.shape == (40, 2)
        for site, expected in (
            (guide.nodes["z"], vae.encoder(X).log_prob(z)),
            (model.nodes["z"], vae.prior().log_prob(z)),
            (model.nodes["x"], vae.decoder(z).log_prob(X)),
        ):
            torch.testing.assert_close(site["log_prob"], expected)

    def test_works_with_pyros_predictive(self):
        vae = binary_vae()
        draws = Predictive(vae.model, guide=vae.guide, num_samples=3)(X)
        assert draws["z"].shape == (3, 40, 2)

    def test_its_state_can_be_saved_and_loaded_without_running_code(self):
        vae, other = binary_vae(), binary_vae(seed=7)
        file = io.BytesIO()
        torch.save(vae.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        assert same(state_of(vae), state_of(other))

    def test_parts_may_be_plain_functions(self):
        weight = torch.randn(2, 6)

        def prior():
            return dist.Normal(torch.zeros(2), 1.0).to_event(1)

        vae = VAE(
            prior,
            lambda z: dist.Bernoulli(logits=z @ weight).to_event(1),
            lambda x: dist.Normal(x @ weight.T, 1.0).to_event(1),
        )
        assert list(vae.parameters()) == []
        assert ELBO(3).loss(vae.model, vae.guide, X) > 0


def normal(*shape):
    return dist.Normal(torch.zeros(*shape), 1.0).to_event(1)


class TestFriendlyErrors:
    """A part that returns the wrong thing is named."""

    @staticmethod
    def vae_with(part, value):
        parts = {
            "prior": lambda: normal(2),
            "decoder": lambda z: normal(6).expand(z.shape[:-1]),
            "encoder": lambda x: normal(len(x), 2),
        }
        parts[part] = value
        return VAE(**parts)

    @pytest.mark.parametrize("part", ["prior", "decoder", "encoder"])
    def test_a_distribution_of_torch(self, part):
        plain = torch.distributions.Normal(torch.zeros(2), 1.0)
        vae = self.vae_with(part, lambda *_: plain)
        message = (
            f"the {part} returned torch.distributions.normal.Normal: return a distribution from "
            "pyro.distributions."
        )
        with pytest.raises(TypeError, match=message):
            ELBO().loss(vae.model, vae.guide, X)

    @pytest.mark.parametrize("part", ["prior", "decoder", "encoder"])
    def test_a_tensor(self, part):
        vae = self.vae_with(part, lambda *_: torch.zeros(2))
        with pytest.raises(TypeError, match=f"the {part} returned torch.Tensor: return a distrib"):
            ELBO().loss(vae.model, vae.guide, X)

    @pytest.mark.parametrize("part", ["prior", "decoder", "encoder"])
    def test_no_event_dimension(self, part):
        vae = self.vae_with(part, lambda *_: dist.Normal(torch.zeros(2), 1.0))
        with pytest.raises(ValueError, match=rf"the {part} returned .* end it with .to_event\(1\)"):
            ELBO().loss(vae.model, vae.guide, X)

    def test_an_encoder_of_another_size(self):
        vae = self.vae_with("encoder", lambda x: normal(len(x), 3))
        with pytest.raises(ValueError, match="z"):
            ELBO().loss(vae.model, vae.guide, X)

    def test_an_encoder_that_returns_no_row_per_datum(self):
        vae = self.vae_with("encoder", lambda x: normal(7, 2))
        with pytest.raises(ValueError, match="z"):
            ELBO().loss(vae.model, vae.guide, X)
