"""A run resumed from a checkpoint is the run that was never stopped, bit for bit."""

import errno
import os

import pyro
import pytest
import safetensors.torch
import torch
from programs import LinearChain, binary_vae, param_guide, param_model
from torch import nn

from ppl_vae.data import binarize_batch
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE
from ppl_vae.priors import LearnedNormalPrior
from ppl_vae.schedules import Exponential
from ppl_vae.training import Snapshot, fit
from ppl_vae.vae import VAE

from .helpers import (
    GREY,
    STEPS,
    VALID,
    InterruptAt,
    X,
    same_state,
    state_of,
    train,
    without_seconds,
)


def make(seed=0):
    """A VAE with a batch norm, whose buffers must be resumed too."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    decoder = BernoulliDecoder(MLP(2, [8], 6))
    return VAE(LearnedNormalPrior(2), decoder, DiagonalNormalEncoder(body))


def run(vae, path=None, **kwargs):
    defaults = {
        "transform": binarize_batch, "valid": VALID, "epochs": 5, "validation_particles": 10,
        "checkpoint": path, "checkpoint_seconds": 0.0, "learning_rate": 0.01,
    }  # fmt: skip
    return train(vae, GREY, **(defaults | kwargs))[1]


def interrupted(path, call, vae=None, **kwargs):
    """The same run, stopped by Ctrl-C when it asks for its n-th batch."""
    with pytest.raises(KeyboardInterrupt):
        run(vae or make(), path, transform=InterruptAt(call), **kwargs)
    # The process has ended: the next one has an empty store and other random numbers.
    pyro.clear_param_store()
    torch.manual_seed(4321)


def same_files(a, b):
    a, b = Snapshot.load(a), Snapshot.load(b)
    for group in ("parameter", "buffer", "best", "best_buffer", "optimizer"):
        left, right = getattr(a, group), getattr(b, group)
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name]), f"{group} {name}"
    for left, right in zip(a.history.to_json(), b.history.to_json(), strict=True):
        assert left | {"seconds": 0} == right | {"seconds": 0}


# Three batches an epoch, and one call to look for parameters.
CALLS = {"in epoch 1": 3, "at the start of epoch 3": 8, "in epoch 4": 12, "in the last batch": 16}


@pytest.fixture(scope="module", params=[ELBO(2), IWAE(3)], ids=repr)
def objective(request):
    return request.param


@pytest.fixture(scope="module", params=STEPS)
def undisturbed(request, objective, tmp_path_factory):
    """Step, model, result and checkpoint of a run that is never stopped."""
    whole, path = make(), tmp_path_factory.mktemp("undisturbed") / "whole"
    result = run(whole, path, step=request.param, objective=objective)
    pyro.clear_param_store()
    return request.param, whole, result, path


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_interrupted_in_the_middle_of_an_epoch(objective, undisturbed, call, tmp_path):
    step, whole, expected, file = undisturbed
    path = tmp_path / "part"
    interrupted(path, call, step=step, objective=objective)
    resumed = make() if call == 3 else make(seed=7)  # what it starts from must not matter
    result = run(resumed, path, step=step, objective=objective)
    assert same_state(whole, resumed)
    assert without_seconds(result.history) == without_seconds(expected.history)
    assert result.kept_epoch == expected.kept_epoch
    same_files(file, path)


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_again_and_again(step, tmp_path):
    whole = make()
    run(whole, step=step)
    pyro.clear_param_store()
    path = tmp_path / "run"
    for _ in range(4):
        # Each time one epoch is finished, and the second is lost.
        interrupted(path, 6, step=step)
    resumed = make()
    result = run(resumed, path, step=step)
    assert len(result.history) == 5
    assert same_state(whole, resumed)


@pytest.mark.filterwarnings("ignore:training has diverged:UserWarning")
@pytest.mark.parametrize("step", STEPS)
def test_the_best_epoch_may_be_before_the_interruption(step, tmp_path):
    """A rate that ruins what the first epochs reached: the kept parameters are old ones."""
    settings = {"learning_rate": 2.0, "epochs": 6, "step": step, "transform": binarize_batch}
    whole = make()
    expected = run(whole, **settings)
    assert expected.kept_epoch < 5
    pyro.clear_param_store()
    path = tmp_path / "run"
    interrupted(path, 3 * 5 + 3, **{k: v for k, v in settings.items() if k != "transform"})
    resumed = make(seed=3)
    result = run(resumed, path, **settings)
    assert result.kept_epoch == expected.kept_epoch
    assert same_state(whole, resumed)


@pytest.mark.parametrize("step", STEPS)
def test_onto_more_epochs_at_a_constant_rate(step, tmp_path):
    whole, longer = make(), make()
    run(whole, step=step, epochs=6)
    for epochs in (2, 4, 6):
        pyro.clear_param_store()
        run(longer, tmp_path / "run", step=step, epochs=epochs)
    assert same_state(whole, longer)


def test_onto_more_epochs_under_a_schedule_is_refused(tmp_path):
    run(make(), tmp_path / "run", learning_rate=Exponential(1e-2, 1e-3), epochs=2)
    with pytest.raises(ValueError, match="other settings: epochs 2 there, 4 here"):
        run(make(), tmp_path / "run", learning_rate=Exponential(1e-2, 1e-3), epochs=4)


@pytest.mark.filterwarnings("ignore:training has diverged:UserWarning")
def test_early_stopping_is_resumed(tmp_path):
    settings = {"learning_rate": 3.0, "epochs": 30, "patience": 2}
    whole = make()
    expected = run(whole, **settings)
    assert expected.stopped_early
    assert len(expected.history) > 2
    path = tmp_path / "run"
    interrupted(path, 1 + 3 * (len(expected.history) - 1) + 2, **settings)
    resumed = make(seed=3)
    result = run(resumed, path, **settings)
    assert (len(result.history), result.stopped_early) == (len(expected.history), True)
    assert same_state(whole, resumed)


def test_a_finished_run_is_not_run_again(tmp_path):
    path = tmp_path / "run"
    whole = make()
    expected = run(whole, path)
    content, calls = path.read_bytes(), []

    def spy(batch):
        calls.append(len(batch))
        return binarize_batch(batch)

    again = make(seed=3)
    result = run(again, path, transform=spy)
    # The look for parameters, and the sample that tells divergence.
    assert calls == [2, 16]
    assert same_state(whole, again)
    assert result.history == expected.history
    assert path.read_bytes() == content


@pytest.mark.parametrize("step", STEPS)
def test_hand_written_models(step, tmp_path):
    x = LinearChain().simulate(40).float()
    states = []
    for part in (False, True):
        for epochs in [2, 4] if part else [4]:
            pyro.clear_param_store()
            fit(
                param_model, param_guide, ELBO(), x, epochs=epochs, batch_size=16, step=step,
                checkpoint=tmp_path / "run" if part else None, progress=False,
            )  # fmt: skip
        states.append({n: v.detach().clone() for n, v in pyro.get_param_store().items()})
    assert same_state(*states)


OTHER = {
    "seed": {"seed": 1},
    "batch_size": {"batch_size": 8},
    "learning_rate": {"learning_rate": 0.02},
    "clip_norm": {"clip_norm": 1.0},
    "step": {"step": "svi"},
    "objective": {"objective": ELBO(3)},
    "validation_particles": {"validation_particles": 11},
    "validate_every": {"validate_every": 2},
    "valid_shape": {"valid": None},
}


class TestOtherRuns:
    @pytest.mark.parametrize("setting", OTHER)
    def test_other_settings(self, setting, tmp_path):
        path = tmp_path / "run"
        run(make(), path, epochs=1)
        content = path.read_bytes()
        vae = make(seed=5)
        start = state_of(vae)
        with pytest.raises(ValueError, match=f"^[^\n]*other settings: {setting} [^\n]*$"):
            run(vae, path, epochs=2, **OTHER[setting])
        assert same_state(vae, start)
        assert path.read_bytes() == content

    def test_other_data(self, tmp_path):
        train(checkpoint=tmp_path / "run")
        with pytest.raises(ValueError, match="other settings: train_shape"):
            train(x=X[:30], checkpoint=tmp_path / "run")

    @pytest.mark.parametrize("other", [{"latent": 3}, {"hidden": (8, 8)}, {"learned_prior": True}])
    def test_another_model(self, other, tmp_path):
        path = tmp_path / "run"
        train(checkpoint=path)
        vae = binary_vae(**other)
        start = state_of(vae)
        with pytest.raises(ValueError, match=r"^[^\n]*is of another model[^\n]*$"):
            train(vae, checkpoint=path)
        assert same_state(vae, start)


@pytest.fixture(scope="module")
def after_two_epochs(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "run"
    run(make(), path, epochs=2)
    return path.read_bytes()


@pytest.fixture
def saved(tmp_path, after_two_epochs):
    """A checkpoint after two epochs."""
    path = tmp_path / "folder" / "run"
    path.parent.mkdir()
    path.write_bytes(after_two_epochs)
    return path


class TestDamage:
    @pytest.mark.parametrize("part", [0.0, 1e-9, 0.001, 0.01, 0.2, 0.5, 0.9, 0.999])
    def test_a_truncated_file(self, saved, part):
        content = saved.read_bytes()
        # A fraction of the file; 1e-9 stands for one byte.
        length = min(len(content) - 1, max(int(part > 0), int(part * len(content))))
        saved.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"^[^\n]*run is damaged or no checkpoint[^\n]*$"):
            run(make(), saved)
        assert saved.read_bytes() == content[:length]

    def test_one_byte_short_and_one_too_many(self, saved):
        content = saved.read_bytes()
        for broken in (content[:-1], content + b"\0"):
            saved.write_bytes(broken)
            with pytest.raises(ValueError, match="is damaged or no checkpoint"):
                run(make(), saved)

    @pytest.mark.parametrize("content", [b"PK\x03\x04", b"hello", b"\0" * 1_000, b"{}" * 50])
    def test_another_kind_of_file(self, saved, content):
        saved.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or no checkpoint"):
            run(make(), saved)

    def test_safetensors_of_another_format(self, saved):
        for metadata in (None, {}, {"format": "pt"}, {"format": "ppl_vae checkpoint 0"}):
            saved.write_bytes(safetensors.torch.save({"x": torch.zeros(2)}, metadata))
            with pytest.raises(ValueError, match=r"^[^\n]*has format .*, expected 'ppl_vae[^\n]*$"):
                run(make(), saved)

    def test_a_pickle_is_not_executed(self, saved, tmp_path):
        mark = tmp_path / "executed"

        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(mark),)

        torch.save({"state": Evil()}, saved)
        with pytest.raises(ValueError, match="is damaged or no checkpoint"):
            run(make(), saved)
        assert not mark.exists()
        # The test of the test: the file does what it says to whoever trusts it.
        torch.load(saved, weights_only=False)
        assert mark.exists()

    def test_a_folder_in_its_place(self, tmp_path):
        with pytest.raises((ValueError, OSError), match="is a folder, a file is expected"):
            run(make(), tmp_path)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            Snapshot.load(tmp_path / "run")


class TestFullDisk:
    @pytest.mark.parametrize("function", ["fsync", "replace"])
    def test_the_old_checkpoint_stays_whole(self, saved, monkeypatch, function):
        content = saved.read_bytes()

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(OSError, match=r"could not write .*run: No space left on device"):
                run(make(seed=3), saved, epochs=5)
        assert saved.read_bytes() == content
        assert list(saved.parent.iterdir()) == [saved]
        # With room again, the run goes on as if nothing had been.
        whole, resumed = make(), make(seed=3)
        run(whole, epochs=5)
        run(resumed, saved, epochs=5)
        assert same_state(whole, resumed)


class TestFile:
    def test_is_safetensors_and_json_alone(self, saved):
        with safetensors.safe_open(saved, framework="pt") as file:
            assert set(file.metadata()) == {"format", "identity", "record", "sha256"}
            groups = {key.split("/")[0] for key in file.keys()}  # noqa: SIM118
        assert groups == {"parameter", "buffer", "best", "best_buffer", "optimizer", "climbed"}

    def test_round_trip(self, saved, tmp_path):
        checkpoint = Snapshot.load(saved)
        checkpoint.save(tmp_path / "again")
        same_files(saved, tmp_path / "again")

    def test_is_saved_as_often_as_asked(self, tmp_path, monkeypatch):
        saves = []
        monkeypatch.setattr(Snapshot, "save", lambda self, path: saves.append(path))
        run(make(), tmp_path / "run", checkpoint_seconds=0.0)
        assert len(saves) == 5
        run(make(), tmp_path / "run", checkpoint_seconds=1e6)
        assert len(saves) == 6, "the last epoch is always saved"

    def test_saving_does_not_disturb(self, tmp_path):
        alone, watched = make(), make()
        run(alone)
        run(watched, tmp_path / "run")
        assert same_state(alone, watched)
