"""One model trained by two workers on Ray; one of them is killed."""

import math

import pytest
import torch

from engines import training, work
from ppl_vae.engines import RayEngine
from ppl_vae.engines._cluster import connected
from ppl_vae.runs import RunConfig, train_run

ray = pytest.importorskip("ray")
# Ray Train asks for more packages than Ray.
pytest.importorskip("pydantic")

pytestmark = pytest.mark.usefixtures("cluster")

CONFIG = RunConfig.of(
    hidden=(16,), latent=2, epochs=8, batch_size=200, validation_particles=5, learning_rate=0.01
)


@pytest.fixture(scope="module")
def cluster():
    """The one that an engine starts, once for all tests: a start takes seconds."""
    with connected(ray, None):
        yield


def test_a_worker_is_killed_and_the_end_is_that_of_one_process(tmp_path):
    alone, result = train_run(CONFIG, tmp_path / "alone", progress=False, device="cpu")
    engine = RayEngine(cpus=1, retries=1)
    arguments = CONFIG, tmp_path / "together", tmp_path / "notes", 2
    found = engine.run_together(training.train_and_die, arguments, 2)
    assert work.lines(tmp_path / "notes") == ["begun-at-0", "three-epochs", "killed", "begun-at-3"]
    for ours, theirs in zip(found.history.records, result.history.records, strict=True):
        assert ours.updates == theirs.updates
        assert math.isclose(ours.bound, theirs.bound, rel_tol=1e-4)
        assert math.isclose(ours.validation, theirs.validation, rel_tol=1e-4)
    assert found.kept_epoch == result.kept_epoch
    # The folder is that of any run: the same command finds it done, and one process opens it.
    run, again = train_run(CONFIG, tmp_path / "together", progress=False, device="cpu")
    assert again.history == found.history
    ours, theirs = run.vae.state_dict(), alone.vae.state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


def test_what_a_worker_raises_is_raised_here_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        train_run(
            CONFIG.changed(data=str(tmp_path / "nowhere.csv")),
            tmp_path / "run",
            workers=2,
            engine=RayEngine(cpus=1),
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_more_workers_than_have_room():
    with pytest.raises(
        ValueError, match=r"workers of 1 CPUs and 0 GPUs each have no room together"
    ):
        RayEngine(cpus=1).run_together(work.double, (1,), 1000)
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        RayEngine(cpus=1).run_together(work.double, (1,), 0)
    with pytest.raises(ValueError, match=r"a GPU each, or none, got gpus=0\.5"):
        RayEngine(gpus=0.5).run_together(work.double, (1,), 2)
