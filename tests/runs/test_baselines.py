"""Models with a rule of their own by name: trained, opened, evaluated as the classes themselves."""

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ppl_vae.baselines import RBM, LinearGenerator, train
from ppl_vae.data import load_dataset
from ppl_vae.decoders import log_prob_of
from ppl_vae.evidence import AnnealedImportanceSampling, AutomaticSampling, ImportanceSampling
from ppl_vae.runs import (
    RunConfig,
    describe_codes,
    encode_run,
    evaluate_run,
    open_run,
    reconstruct_run,
    train_run,
)
from ppl_vae.vae import PriorGuide

FEATURES = 6
AUTO = AutomaticSampling()


@pytest.fixture(scope="module")
def normal_data(tmp_path_factory):
    """A file of rows from a linear generator of two latents."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(FEATURES, 2, generator=draws)
    z = torch.randn(600, 2, generator=draws)
    x = z @ weight.T + 1 + 0.5 * torch.randn(600, FEATURES, generator=draws)
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x.numpy())
    return path


@pytest.fixture(scope="module")
def bits(tmp_path_factory):
    draws = torch.Generator().manual_seed(0)
    on = torch.rand(600, 1, generator=draws) < 0.5
    x = torch.rand(600, FEATURES, generator=draws) < torch.where(on, 0.8, 0.2)
    path = tmp_path_factory.mktemp("data") / "bits.npy"
    np.save(path, x.float().numpy())
    return path


def of(data, model, **settings):
    usual = {"data": str(data), "latent": 2, "hidden": (8,), "epochs": 3, "batch_size": 100}
    return RunConfig.of(**{**usual, "model": model, **settings})


def trained(folder, *args, **settings):
    return train_run(of(*args, **settings), folder, progress=False, device="cpu")[0]


@pytest.fixture(scope="module")
def linear(normal_data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("linear"), normal_data, "linear")


@pytest.fixture(scope="module")
def machine(bits, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("rbm"), bits, "rbm", latent=4)


@pytest.fixture(scope="module")
def gan(normal_data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("gan"), normal_data, "gan:learning_rate=1e-3")


class TestLinear:
    def test_log_prob_is_that_of_scikit_learn(self, linear):
        rows = linear.dataset
        pca = PCA(2, svd_solver="full").fit(rows.train.double())
        evidence = evaluate_run(linear, estimator=AUTO)
        assert evidence.direction == "exact"
        # Whose noise divides by n - 1.
        assert evidence.mean == pytest.approx(pca.score(rows.test.double()), abs=2e-2)
        by_hand = LinearGenerator(FEATURES, 2)
        train(by_hand, rows.train, epochs=1, device="cpu", progress=False)
        assert torch.equal(by_hand.evidence(rows.test).log_prob, evidence.log_prob)

    def test_em_rises_to_the_same(self, normal_data, linear, tmp_path):
        run = trained(tmp_path, normal_data, "linear:by=em", epochs=200)
        bounds = run.history.column("bound")
        assert bounds == sorted(bounds)
        assert len(linear.history) == 1
        assert bounds[-1] == pytest.approx(linear.history.records[0].bound, abs=1e-6)

    def test_the_guide_is_the_posterior(self, linear):
        rows = linear.rows("test")
        exact = evaluate_run(linear, estimator=AUTO)
        weights = evaluate_run(linear, estimator=ImportanceSampling(2))
        assert weights.log_prob.tolist() == pytest.approx(exact.log_prob.tolist(), abs=1e-6)
        codes = encode_run(linear)
        mean = linear.vae.linear.posterior(rows.x).mean
        assert np.allclose(np.stack(codes["z_mean"]), mean.detach(), atol=1e-6)

    def test_annealing_from_the_prior_agrees_with_the_exact_value(self, linear):
        estimator = AnnealedImportanceSampling(300, 32, leapfrog_steps=2)
        found = evaluate_run(linear, estimator=estimator, limit=20)
        exact = evaluate_run(linear, estimator=AUTO, limit=20)
        difference = found.log_prob - exact.log_prob
        assert abs(difference.mean()) < 4 * found.monte_carlo_error + 0.02

    def test_factor_analysis_rises(self, normal_data, tmp_path):
        run = trained(tmp_path, normal_data, "factor-analysis", epochs=20)
        bounds = run.history.column("bound")
        assert bounds == sorted(bounds)
        assert len(run.vae.linear.noise_scale) == FEATURES


class TestMachine:
    def test_log_prob_is_the_sum_over_states(self, machine):
        evidence = evaluate_run(machine, estimator=AUTO)
        states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=FEATURES)))
        total = machine.vae.log_unnormalised(states).logsumexp(0)
        expected = machine.vae.log_unnormalised(machine.rows("test").x) - total
        assert evidence.log_prob.tolist() == pytest.approx(expected.tolist(), abs=1e-9)

    @pytest.mark.parametrize("units", ["bernoulli", "normal"])
    def test_hidden_units_and_visible_ones_given_them_are_the_machine(
        self, units, bits, normal_data, tmp_path
    ):
        data = bits if units == "bernoulli" else normal_data
        run = trained(tmp_path, data, "rbm", latent=4, likelihood=units)
        hidden = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
        assert run.vae.prior().log_prob(hidden).logsumexp(0).item() == pytest.approx(0, abs=1e-4)
        exact = evaluate_run(run, estimator=AUTO)
        weights = evaluate_run(run, estimator=ImportanceSampling(2))
        assert weights.log_prob.tolist() == pytest.approx(exact.log_prob.tolist(), abs=1e-4)

    def test_draws_have_the_machine_s_means(self, machine):
        states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=FEATURES)))
        probability = machine.vae.log_unnormalised(states).softmax(0).float()
        torch.manual_seed(0)
        drawn = machine.vae.generate(4000).mean.mean(0)
        assert (drawn - probability @ states).abs().max() < 4 * 0.5 / 4000**0.5

    def test_estimated_log_z_is_one_error_of_all_data(self, tmp_path):
        path = tmp_path / "wide.npy"
        np.save(path, (np.random.default_rng(0).random((200, 25)) < 0.4).astype(np.float32))
        run = trained(tmp_path / "run", path, "rbm:temperatures=200", latent=21)
        evidence = evaluate_run(run, estimator=AUTO)
        assert evidence.shared_error > 0
        assert run.fitted["log_z"]["temperatures"] == 200
        with pytest.raises(ValueError, match=r"the error of log Z.*take the method auto"):
            evaluate_run(run, estimator=ImportanceSampling(2))

    def test_log_z_is_asked_for(self):
        model = RBM(4, 2)
        with pytest.raises(ValueError, match="log Z of the machine is not known"):
            model.prior().log_prob(torch.zeros(1, 2))


class TestImplicit:
    def test_noise_is_chosen_and_kept(self, gan):
        again = open_run(gan.folder, device="cpu")
        assert again.vae.decoder.scale.item() == pytest.approx(gan.fitted["scale"])
        assert gan.vae.decoder.scale.item() == pytest.approx(gan.fitted["scale"])
        x = gan.rows("test", 10).x
        model = gan.vae.decoder
        alone = log_prob_of(model.decoder, x, noise=gan.fitted["scale"], latent=2, estimator=AUTO)
        found = evaluate_run(gan, estimator=AUTO, limit=10)
        # Up to two latents both are quadrature.
        assert found.log_prob.tolist() == pytest.approx(alone.log_prob.tolist(), abs=1e-4)

    def test_there_are_no_codes(self, gan):
        for command in (encode_run, reconstruct_run):
            with pytest.raises(ValueError, match="model gan has no encoder"):
                command(gan)

    @pytest.mark.usefixtures("quick_noise")
    @pytest.mark.parametrize("model", ["wgan", "gmmn", "gan"])
    def test_others_train_and_reopen(self, model, normal_data, tmp_path):
        # Noise is chosen by annealing, which is quick here, where there are three latents.
        run = trained(tmp_path, normal_data, model, latent=3)
        again = open_run(tmp_path, device="cpu")
        here, there = run.vae.state_dict(), again.vae.state_dict()
        assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_generator_is_trained_without_an_encoder(bits, tmp_path):
    run = trained(tmp_path, bits, "generator:refinements=20", epochs=5, learning_rate=1e-2)
    assert isinstance(run.vae.encoder, PriorGuide)
    assert run.config.objective == "elbo:4"
    bounds = run.history.column("bound")
    assert bounds[-1] > bounds[0]
    untrained = of(bits, "generator").build_vae(run.dataset)
    again = open_run(tmp_path, device="cpu")
    for name, value in run.vae.state_dict().items():
        assert torch.equal(again.vae.state_dict()[name], value)
    rows = run.rows("test", 30)
    before = AUTO(untrained.model, untrained.guide, rows, device="cpu")
    assert evaluate_run(run, estimator=AUTO, limit=30).mean > before.mean + 0.2


@pytest.mark.parametrize("model", ["linear", "rbm", "gan"])
def test_the_folder_alone_is_the_model(model, request):
    run = request.getfixturevalue({"rbm": "machine"}.get(model, model))
    again = open_run(run.folder, device="cpu")
    there, here = (evaluate_run(each, estimator=AUTO, limit=20) for each in (again, run))
    assert torch.equal(there.log_prob, here.log_prob)
    found = describe_codes(run, run.rows("test").x) if model != "gan" else {"squared_error": 1}
    assert found["squared_error"] > 0
    # A run that is there goes on from its end, which is here.
    train_run(run.config, run.folder, progress=False, device="cpu")
    assert open_run(run.folder).history.to_csv() == run.history.to_csv()


def test_a_run_of_a_rule_cannot_be_made_longer(machine):
    with pytest.raises(
        ValueError, match="a run of 3 epochs, and training by contrastive-divergence cannot"
    ):
        train_run(machine.config.changed(epochs=5), machine.folder, device="cpu")


WRONG = {
    "objective elbo: this model is trained by adversarial": {"model": "gan", "objective": "elbo"},
    "trained by maximum-likelihood": {"model": "linear", "objective": "iwae:50"},
    "trained by contrastive-divergence": {"model": "rbm", "objective": "reconstruction"},
    "this model has one layer of latents": {"model": "gan", "latent": (5, 3)},
    "an autoencoder has one layer": {"model": "autoencoder", "latent": (5, 3)},
    "a generator has one layer": {"model": "generator", "latent": (5, 3)},
    "a generator has no encoder": {"model": "generator", "guide": "full-normal"},
    "no encoder to choose": {"model": "linear", "guide": "full-normal"},
    "part of the model": {"model": "rbm", "prior": "mixture:3"},
    "of bernoulli or normal data": {"model": "rbm", "likelihood": "poisson"},
    "of normal data": {"model": "linear", "likelihood": "normal:scale=0.5"},
    "has no networks": {"model": "linear", "network": "gated"},
    "no encoder whose input": {"model": "gan", "corrupt": "mask:0.3"},
    "updates 100: training by adversarial": {"model": "gan", "updates": 100, "epochs": None},
    "binarize dynamic: training by": {"model": "rbm", "binarize": "dynamic"},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_use_is_one_line(message):
    with pytest.raises(ValueError, match=message) as raised:
        RunConfig.of(**WRONG[message]).build_objective()
    assert "\n" not in str(raised.value)


def test_counts_and_tables_are_no_data_of_a_machine(tmp_path):
    counts = tmp_path / "counts.npy"
    np.save(counts, np.random.default_rng(0).poisson(3, (50, 4)).astype(np.float32))
    with pytest.raises(ValueError, match="binary units take 0 and 1"):
        trained(tmp_path / "run", counts, "rbm")
    table = tmp_path / "t.csv"
    table.write_text("a,b\n" + "\n".join(f"{i}," if i % 3 else f"{i},1" for i in range(30)))
    with pytest.raises(ValueError, match="rows of numbers alone"):
        trained(tmp_path / "run", table, "linear", latent=1, allow_missing=True)
    assert not (tmp_path / "run").exists()


def test_several_workers_are_refused(normal_data, tmp_path):
    with pytest.raises(ValueError, match="training by maximum-likelihood is of one process"):
        train_run(of(normal_data, "linear"), tmp_path / "run", workers=2)


def test_settings_without_effect_are_told():
    config = RunConfig.of(model="gan", learning_rate=0.1, patience=3, batch_size=7)
    assert config.without_effect == ["learning_rate", "patience"]
    assert RunConfig.of(learning_rate=0.1).without_effect == []
    linear = {"model": "linear", "epochs": 7, "batch_size": 7, "hidden": (5,), "activation": "relu"}
    assert RunConfig.of(**linear).without_effect == ["hidden", "activation", "epochs", "batch_size"]
    em = RunConfig.of(**{**linear, "model": "linear:by=em"})
    assert em.without_effect == ["hidden", "activation", "batch_size"]
    machine = RunConfig.of(**{**linear, "model": "rbm"})
    assert machine.without_effect == ["hidden", "activation"]


def test_a_configuration_is_read_as_it_was_written():
    for model in ("linear", "factor-analysis", "rbm:cd,steps=3", "gan", "wgan", "gmmn"):
        config = RunConfig.of(model=model)
        again = RunConfig.from_mapping(json.loads(json.dumps(config.complete())))
        assert again.complete() == config.complete()
        assert again.key == config.key


def test_what_is_fitted_after_training_has_its_cost(gan, linear):
    assert gan.fitted["seconds"] > 0
    assert linear.fitted == {}


def test_reconstructions_are_in_the_units_of_the_data(tmp_path):
    run = trained(tmp_path, "digits", "linear", dequantize=16, latent=60)
    rows = reconstruct_run(run, limit=20).iloc[:, :64].to_numpy()
    given = run.dataset.schema.restore(run.rows("test", 20).x.numpy())
    levels = (17 * run.rows("test", 20).x.double()).floor().numpy()
    # Nearly all latents: a reconstruction is the datum, whose noise is 1/2 at most.
    assert np.abs(given - levels).max() <= 0.5
    assert np.abs(rows - levels).mean() < 0.5


def test_data_of_one_kind():
    digits = load_dataset("digits")
    config = RunConfig.of(model="linear", dequantize=16)
    x = config.prepare(digits).train
    assert torch.equal((x * 17).floor(), (digits.train * 16).round())
    with pytest.raises(ValueError, match="makes real numbers, and the likelihood is of bits"):
        RunConfig.of(dequantize=16).prepare(digits)
    with pytest.raises(ValueError, match="dequantize 16 and binarize static"):
        RunConfig.of(dequantize=16, binarize="static")
