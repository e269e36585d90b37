"""Autoencoders by name: built, trained, given a p(z) and a scale, opened again."""

import json
from functools import partial

import pytest
import torch

from ppl_vae.data import load_dataset
from ppl_vae.evidence import AutomaticSampling
from ppl_vae.evidence.annealing import _pilot as pilot
from ppl_vae.guides import CorruptedInput, DeltaEncoder, MaskNoise, SparseEncoder
from ppl_vae.likelihoods import NormalDecoder
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.objectives import Reconstruction
from ppl_vae.priors import GaussianMixturePrior, StandardNormalPrior
from ppl_vae.runs import FINISHED, RunConfig, _codes, evaluate_run, open_run, train_run
from ppl_vae.runs._codes import choose_scale
from ppl_vae.studies import build_arms, study_from_mapping, study_to_mapping
from ppl_vae.training import History
from ppl_vae.vae import VAE

DIGITS = load_dataset("digits").binarized("static", seed=0)
SMALL = {"hidden": (12, 8), "latent": 3, "epochs": 2, "batch_size": 300}
of = partial(RunConfig.of, **SMALL)


def train(folder, **settings):
    return train_run(of(**settings), folder, progress=False, device="cpu")


def state_of(run):
    return {name: value.clone() for name, value in run.vae.state_dict().items()}


# As they were before there were models by name.
KEYS = {
    "ee43f246ed62c68f8e287f51e9b13f381f71b77707ee36736d7058112737d31b": {},
    "22d767185cb9552a583ef65ba94c93b36897367833b379075ccf9b2740503ae6": {
        "objective": "iwae:50", "prior": "vamp:50",
    },
    "26421bd3a27e19eeca05b36196d391706be819574e1d13e87400dc3ed187c270": {
        "latent": (5, 4), "guide": "ladder",
    },
    "d92af527c1432522f7404662ae31680e8eefcce32dc9a6de1cb832c94bf88ab6": {"guide": "delta"},
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_hashes_of_runs_of_a_vae_are_those_of_before(key):
    assert RunConfig.of(**KEYS[key]).key == key
    assert RunConfig.of(**{"objective": "elbo", "model": "vae", **KEYS[key]}).key == key


def test_a_hash_of_every_other_model():
    given = [{}, {"model": "autoencoder"}, {"model": "autoencoder:normals=1"}, {"model": "sparse"},
             {"model": "denoising"}, {"model": "stacked"}, {"model": "stacked", "pretrain": False},
             {"corrupt": "mask:0.3"}, {"corrupt": "gauss:0.3"}]  # fmt: skip
    assert len({RunConfig.of(**each).key for each in given}) == len(given)
    same = RunConfig.of(model="autoencoder:normals=10")
    assert same.key == RunConfig.of(model="autoencoder").key
    for each in given:
        complete = RunConfig.of(**each).complete()
        again = RunConfig.from_mapping(json.loads(json.dumps(complete)))
        assert again.complete() == complete


def test_what_auto_stands_for():
    objectives = {
        "vae": "elbo",
        "vae:particles=50": "iwae:50",
        "autoencoder": "reconstruction",
        "denoising": "reconstruction",
        "sparse": "reconstruction:l1=0.1",
        "sparse:kl,weight=3": "reconstruction:activation_kl=3.0,rate=0.05",
        "sparse:top": "reconstruction",
    }
    for model, objective in objectives.items():
        config = RunConfig.of(model=model)
        assert config.objective == objective
        config.build_objective()
        # A copy of another model has the other's own objective.
        assert config.changed(model="vae").objective == "elbo"
    assert RunConfig.of(objective="elbo", seed=3).changed(seed=4).objective == "elbo"
    assert RunConfig.of(model="vae:50").key == RunConfig.of(objective="iwae:50").key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "rbn"}, "unknown model 'rbn'"),
        ({"model": "autoencoder", "objective": "elbo"}, "take reconstruction or joint-density"),
        ({"model": "sparse", "objective": "iwae:5"}, "take reconstruction or joint-density"),
        ({"model": "autoencoder", "latent": (4, 3)}, "one layer of codes, got latent"),
        ({"model": "autoencoder", "guide": "normal"}, "has a density, and an autoencoder's is a"),
        ({"model": "denoising", "prior": "vamp:5"}, "p\\(z\\) is fitted to its codes"),
        ({"model": "autoencoder:0"}, "normals must be 1 or more"),
        ({"pretrain": True}, "pretrain is of model stacked"),
        ({"corrupt": "salt"}, "unknown corruption 'salt'"),
        ({"model": "vae:0"}, "particles must be 1 or more"),
    ],
    ids=str,
)
def test_wrong_use_is_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        RunConfig.of(**settings).build_objective()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "sparse", "network": "conv"}, "and takes mlp"),
        ({"model": "stacked", "network": "gated"}, "and takes mlp"),
        ({"model": "sparse:codes=5"}, "more codes than features, got 5 of 64"),
    ],
)
def test_what_cannot_be_built(settings, message):
    with pytest.raises(ValueError, match=message):
        of(**settings).build_vae(DIGITS)


def test_a_sparse_autoencoder_takes_no_small_latent(tmp_path):
    """Where latent is left out there are twice as many codes as features."""
    with pytest.raises(ValueError, match=r"latent 3: .* than the 64 features: leave latent out"):
        train(tmp_path / "a", model="sparse:normals=1")
    assert not (tmp_path / "a").exists()
    for number, (settings, codes) in enumerate(
        (
            ({"latent": RunConfig.of().model.latent}, 128),
            ({"latent": 70}, 70),
            ({"model": "sparse:codes=66,normals=1"}, 66),
        )
    ):
        run, _ = train(tmp_path / f"{number}", **{"model": "sparse:normals=1", **settings})
        assert run.vae.encoder(DIGITS.test[:2]).v.shape == (2, codes)


def test_what_each_model_is():
    plain = of(model="autoencoder").build_vae(DIGITS)
    assert isinstance(plain.encoder, DeltaEncoder)
    vae = of(model="denoising").build_vae(DIGITS)
    assert isinstance(vae.encoder, CorruptedInput)
    assert vae.encoder.corruption.fraction == 0.3
    assert isinstance(of(corrupt="mask:0.2").build_vae(DIGITS).encoder.corruption, MaskNoise)
    sparse = of(model="sparse:top,keep=4").build_vae(DIGITS)
    assert isinstance(sparse.encoder, SparseEncoder)
    codes = sparse.encoder(DIGITS.test[:7]).v
    assert codes.shape == (7, 128)
    assert int((codes != 0).sum(-1).max()) <= 4
    weight = sparse.decoder.network.hidden[0].weight
    torch.testing.assert_close(weight.norm(dim=0), torch.ones(128))
    normal = of(model="autoencoder", likelihood="normal").build_vae(DIGITS)
    assert normal.decoder.scale.source == 1.0
    # Encoders of a hierarchy see corrupted data too, its pseudo-inputs are clean.
    deep = of(latent=(3, 2), corrupt="gauss:1", prior="vamp:5").build_vae(DIGITS).train()
    assert isinstance(deep.inference, CorruptedInput)
    first, second = (deep.prior().components.mean for _ in range(2))
    assert torch.equal(first, second)


def test_a_table_has_no_noise(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "\n".join(f"{i / 7},{'xy'[i % 2]}" for i in range(40)))
    config = of(data=str(path), corrupt="mask")
    with pytest.raises(ValueError, match="no value of a table's categories"):
        config.build_vae(config.load())


def test_the_scale_is_that_of_the_highest_log_p():
    """On a linear decoder, whose log p(x) is exact: within the tolerance of the search."""
    model = LinearGaussian.random(6, 2, 0.5, seed=1).requires_grad_(False)
    x = model.simulate(60)
    decoder = NormalDecoder(torch.nn.Linear(2, 6).double(), 3.0)
    with torch.no_grad():
        decoder.network.weight.copy_(model.weight)
        decoder.network.bias.copy_(model.bias)

    class Mean(torch.nn.Module):
        def forward(self, x):
            return model.posterior(x).mean

    vae = VAE(StandardNormalPrior(2).double(), decoder, DeltaEncoder(Mean()))
    found = choose_scale(vae, x)
    grid = torch.linspace(0.3, 0.8, 501).double()

    @torch.no_grad()
    def exact_at(scale):
        at = LinearGaussian(model.weight, model.bias, float(scale))
        return at.log_evidence(x).mean().item()

    exact = torch.tensor([exact_at(scale) for scale in grid])
    best = float(grid[exact.argmax()])
    assert abs(found["scale"] / best - 1) < 0.02
    assert found["residual"] < best
    assert found["method"] == "importance sampling"
    for scale, value in found["searched"]:
        assert value == pytest.approx(exact_at(scale), abs=0.01)


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normal") / "run"
    with pytest.MonkeyPatch.context() as patch:
        # Any scale will do here: the search itself is tested above.
        patch.setattr(_codes, "_SEARCHED", 5)
        patch.setattr(pilot, "_WARM_UP", 2)
        patch.setattr(pilot, "_TRANSITIONS", 4)
        return folder, *train(folder, model="autoencoder:normals=2", likelihood="normal")


def test_a_trained_autoencoder_has_the_density_of_its_codes_and_a_scale(normal):
    folder, run, result = normal
    assert isinstance(run.vae.prior, GaussianMixturePrior)
    assert run.fitted["normals"] == 2
    assert run.vae.decoder.scale().item() == pytest.approx(run.fitted["scale"])
    assert run.has_point_guide
    assert result.phases == {}
    codes = run.vae.encoder(run.dataset.train).mean
    drawn = run.vae.prior().sample((20_000,))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0.1, atol=0.1)
    # The history is of the objective: log p(x|z) at the scale of training.
    opened = open_run(folder)
    for name, value in state_of(run).items():
        assert torch.equal(value, state_of(opened)[name]), name
    assert opened.vae.decoder.scale().item() == run.vae.decoder.scale().item()
    evidence = evaluate_run(opened, estimator=AutomaticSampling(), limit=4, progress=False)
    assert bool(evidence.log_prob.isfinite().all())


def test_training_that_has_not_ended_is_told(normal, tmp_path):
    folder, *_ = normal
    for name in ("config.json", "data.safetensors", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="what is fitted after training is not in"):
        open_run(tmp_path)
    (tmp_path / FINISHED).write_bytes((folder / FINISHED).read_bytes()[:-3])
    with pytest.raises(ValueError, match="damaged"):
        open_run(tmp_path)


def test_a_longer_run_fits_its_codes_again(tmp_path):
    short, _ = train(tmp_path / "a", model="autoencoder:1")
    first = state_of(short)
    longer, _ = train(tmp_path / "a", model="autoencoder:1", epochs=4)
    other, _ = train(tmp_path / "b", model="autoencoder:1", epochs=4)
    for name, value in state_of(longer).items():
        assert torch.equal(value, state_of(other)[name]), name
    assert not torch.equal(first["prior.loc"], state_of(longer)["prior.loc"])


def test_a_stack_without_pretraining_is_the_autoencoder(tmp_path):
    stacked, _ = train(tmp_path / "a", model="stacked:normals=1", pretrain=False)
    plain, _ = train(tmp_path / "b", model="autoencoder:1")
    for name, value in state_of(stacked).items():
        assert torch.equal(value, state_of(plain)[name]), name
    assert stacked.phases == {}


def test_a_stack_is_pretrained_layer_by_layer(tmp_path):
    run, result = train(tmp_path / "a", model="stacked:epochs=3,normals=1")
    assert list(result.phases) == list(run.phases) == ["layer-1", "layer-2", "layer-3"]
    assert [len(phase) for phase in result.phases.values()] == [3, 3, 3]
    assert all(isinstance(phase, History) for phase in run.phases.values())
    for phase in result.phases.values():
        assert phase.records[-1].bound > phase.records[0].bound
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["updates"] == (3 * 3 + 2) * result.history.records[0].updates
    plain, joint = train(tmp_path / "b", model="autoencoder:1")
    # It starts where pretraining ended, and that is better than at random.
    assert result.history.records[0].bound > joint.history.records[0].bound
    # Killed after pretraining: the phases are not trained again, and the end is the same.
    for name in ("checkpoint.safetensors", FINISHED, "run.json"):
        (tmp_path / "a" / name).unlink()
    before = (tmp_path / "a" / "phases" / "layer-1.safetensors").read_bytes()
    again, _ = train(tmp_path / "a", model="stacked:epochs=3,normals=1")
    assert (tmp_path / "a" / "phases" / "layer-1.safetensors").read_bytes() == before
    for name, value in state_of(again).items():
        assert torch.equal(value, state_of(run)[name]), name
    assert plain.fitted["normals"] == 1


def test_dynamic_bits_and_a_corruption(tmp_path):
    run, _ = train(
        tmp_path / "a", model="stacked:epochs=1,normals=1", binarize="dynamic", corrupt="mask:0.2"
    )
    assert isinstance(run.vae.encoder, CorruptedInput)
    assert "scale" not in run.fitted


def test_models_are_a_factor():
    models = ("vae", "vae:particles=5", "autoencoder", "sparse")
    arms = build_arms(of(), {"model": models})
    assert list(arms) == list(models)
    assert [arm.config.objective for arm in arms.values()] == [
        "elbo", "iwae:5", "reconstruction", "reconstruction:l1=0.1",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="point without one"):
        build_arms(of(), {"model": ("vae", "autoencoder"), "objective": ("elbo", "iwae:5")})
    plan = {
        "config": {"model": "stacked", "latent": 3},
        "factors": {"pretrain": [True, False]},
        "seeds": 2,
    }
    study = study_from_mapping(plan)
    assert list(study.arms) == ["pretrain=True", "pretrain=False"]
    again = study_from_mapping(study_to_mapping(study))
    assert again.arms == study.arms
    assert study_to_mapping(study)["config"]["model"] == "stacked"


def test_reconstruction_trains_the_autoencoder_that_fit_trains(tmp_path):
    """The run is :func:`fit` with the same objective and seed, and nothing else."""
    run, result = train(tmp_path / "a", model="autoencoder:1")
    assert repr(run.config.build_objective()) == repr(Reconstruction())
    assert all(record.bound < 0 for record in result.history.records)


def test_wrong_sparsity_is_refused(tmp_path):
    for model in ("sparse:l1,keep=4", "sparse:top,rate=0.2"):
        with pytest.raises(ValueError, match="is of penalty"):
            of(model=model).build_objective()
    with pytest.raises(ValueError, match="keep 200 of 128 codes leaves none out"):
        train(tmp_path, model="sparse:top,keep=200,codes=128")
