"""One big model in parts: the same numbers as in one piece, and a killed evaluation goes on."""

import shutil

import pytest
import torch

from ppl_vae.engines import InProcess, Outcome
from ppl_vae.evidence import AdaptiveSampling, ImportanceSampling, Sharded
from ppl_vae.runs import RunConfig, evaluate_run, file_of, open_run, train_run

CONFIG = RunConfig.of(
    hidden=(8,), latent=2, epochs=1, batch_size=400, validation_particles=2, learning_rate=0.01
)
DRAWS = ImportanceSampling(20, rows=100)
CALL = {"limit": 30, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "run"
    train_run(CONFIG, folder, progress=False)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def evaluate_sharded(folder, estimator, shards, engine, **call):
    sharded = Sharded(estimator, shards)
    return evaluate_run(open_run(folder), estimator=sharded, engine=engine, **call)


class Counts:
    """An engine that says what it ran, and whose parts may fail."""

    def __init__(self, stop=None, fail=()):
        self.ran, self.stop, self.fail = [], stop, fail

    def run(self, tasks):
        for task in tasks:
            if len(self.ran) == self.stop:
                raise KeyboardInterrupt
            self.ran.append(task.name)
            failing = task.name in self.fail
            yield from InProcess().run([type(task)(task.name, divide) if failing else task])


def divide():
    return 1 / 0


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_the_numbers_of_the_sharded_estimator(folder):
    expected = evaluate_run(open_run(folder), estimator=Sharded(DRAWS, 4), **CALL)
    file_of(folder, expected).unlink()
    before = files(folder)
    found = evaluate_sharded(folder, DRAWS, 4, InProcess(), **CALL)
    for name in ("log_prob", "standard_error", "effective_sample_size"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert (found.method, found.direction) == (expected.method, expected.direction)
    assert files(folder) == before, "nothing else is left"
    assert [path.name for path in (folder / "evaluations").iterdir()] == [
        file_of(folder, found).name
    ]


def test_reused_when_nothing_changed(folder):
    engine = Counts()
    first = evaluate_sharded(folder, DRAWS, 4, engine, **CALL)
    again = evaluate_sharded(folder, DRAWS, 4, engine, **CALL)
    assert engine.ran == [f"shard {number}" for number in range(4)]
    assert torch.equal(first.log_prob, again.log_prob)
    kept = evaluate_run(open_run(folder), estimator=Sharded(DRAWS, 4), **CALL)
    assert torch.equal(first.log_prob, kept.log_prob), "in one piece it is the same evaluation"
    for other in ({"limit": 29}, {"seed": 4}, {"split": "valid"}):
        count = len(engine.ran)
        evaluate_sharded(folder, DRAWS, 4, engine, **{**CALL, **other})
        assert len(engine.ran) == count + 4


def test_goes_on_after_an_interruption(folder):
    whole = evaluate_sharded(folder, DRAWS, 4, InProcess(), **CALL)
    file_of(folder, whole).unlink()
    with pytest.raises(KeyboardInterrupt):
        evaluate_sharded(folder, DRAWS, 4, Counts(stop=2), **CALL)
    assert not file_of(folder, whole).exists()
    engine = Counts()
    found = evaluate_sharded(folder, DRAWS, 4, engine, **CALL)
    assert engine.ran == ["shard 2", "shard 3"]
    assert torch.equal(found.log_prob, whole.log_prob)
    assert not [name for name in files(folder) if name.startswith("shards-")]


def test_goes_on_inside_a_part(folder, monkeypatch):
    seen, true = [], Sharded.estimate

    def estimate(*args, **call):
        if "checkpoint" not in call:
            return true(*args, **call)
        seen.append(call["checkpoint"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Sharded, "estimate", estimate)
    with pytest.raises(KeyboardInterrupt):
        evaluate_sharded(folder, DRAWS, 2, InProcess(), **CALL)
    (checkpoint,) = seen
    assert checkpoint.parent.parent == folder
    assert checkpoint.name == "0.safetensors"


def test_parts_that_fail_stop_no_others_and_are_said(folder):
    engine = Counts(fail=("shard 1", "shard 2"))
    pattern = r"2 of 4 shards of the data failed, shard 1: ZeroDivisionError: .* goes on from them"
    with pytest.raises(ValueError, match=pattern):
        evaluate_sharded(folder, DRAWS, 4, engine, **CALL)
    assert len(engine.ran) == 4
    again = Counts()
    evaluate_sharded(folder, DRAWS, 4, again, **CALL)
    assert again.ran == ["shard 1", "shard 2"]


def test_a_trained_on_run_is_another(folder):
    with pytest.raises(KeyboardInterrupt):
        evaluate_sharded(folder, DRAWS, 3, Counts(stop=2), **CALL)
    train_run(CONFIG.changed(epochs=2), folder, progress=False)
    engine = Counts()
    evaluate_sharded(folder, DRAWS, 3, engine, **CALL)
    assert len(engine.ran) == 3


def test_two_at_the_same_evaluation(folder):
    class Again:
        def run(self, tasks):
            evaluate_sharded(folder, DRAWS, 2, InProcess(), **CALL)
            yield

    with pytest.raises(BlockingIOError, match=r"this evaluation of .* is in use by process"):
        evaluate_sharded(folder, DRAWS, 2, Again(), **CALL)


def test_a_folder_that_not_all_nodes_see(folder):
    class Elsewhere:
        def run(self, tasks):
            yield from (Outcome(task.name, 0) for task in tasks)

    with pytest.raises(FileNotFoundError, match="must be on a file system that all nodes see"):
        evaluate_sharded(folder, DRAWS, 2, Elsewhere(), **CALL)


def test_what_makes_no_sense(folder):
    with pytest.raises(ValueError, match="30 data cannot be cut into 31 shards"):
        evaluate_sharded(folder, DRAWS, 31, InProcess(), **CALL)
    with pytest.raises(ValueError, match="needs shards >= 1"):
        evaluate_sharded(folder, DRAWS, 0, InProcess(), **CALL)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        evaluate_sharded(folder / "none", DRAWS, 2, InProcess(), **CALL)


def test_an_estimator_that_keeps_no_checkpoint(folder):
    found = evaluate_sharded(folder, AdaptiveSampling(0.2), 3, InProcess(), **CALL)
    assert len(found) == 30
