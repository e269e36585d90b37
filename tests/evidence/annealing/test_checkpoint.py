"""A run that goes on from a file gives the numbers of one that was never stopped."""

from dataclasses import replace

import pytest
import torch

from ppl_vae.evidence import (
    AnnealedImportanceSampling,
    SequentialMonteCarlo,
    ThermodynamicIntegration,
)
from ppl_vae.linear_gaussian import LinearGaussian

from .cases import MODEL, VAE, X, run

pytestmark = pytest.mark.usefixtures("short_pilot")
AIS = AnnealedImportanceSampling(3, 4, 1, rows=32)  # 4 data at once, 3 chunks
ESTIMATORS = [AIS, SequentialMonteCarlo(AIS, 2), ThermodynamicIntegration(AIS, 1, 1)]


class StopsAt:
    """The programs of a run that is interrupted when it comes to a chunk."""

    def __init__(self, chunk):
        self.guide, self.stop = VAE.guide, X[4 * chunk].tolist()

    def model(self, x):
        if x[0].tolist() == self.stop:
            raise InterruptedError
        VAE.model(x)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "annealing.safetensors"


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_resumed_equals_undisturbed(estimator, path):
    whole = run(estimator)
    for chunk in (1, 2):
        with pytest.raises(InterruptedError):
            run(estimator, X, StopsAt(chunk), checkpoint=path)
    resumed = run(estimator, checkpoint=path)
    for name in ("log_prob", "standard_error", "effective_sample_size", "evaluations"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
    assert resumed.method == whole.method


def test_a_finished_run_is_read_not_run(path):
    whole = run(AIS, checkpoint=path)
    runs = 0

    class Counting:
        guide = staticmethod(VAE.guide)

        def model(self, x):
            nonlocal runs
            runs += 1
            VAE.model(x)

    again = run(AIS, X, Counting(), checkpoint=path)
    assert torch.equal(again.log_prob, whole.log_prob)
    assert runs == 5  # to find the modules, to check them and to tell them from others
    assert list(path.parent.iterdir()) == [path]


class TestRefusals:
    def test_other_settings_or_seed(self, path):
        run(AIS, checkpoint=path)
        with pytest.raises(ValueError, match=r"something else .settings"):
            run(replace(AIS, num_temperatures=4), checkpoint=path)
        with pytest.raises(ValueError, match=r"something else .seed"):
            run(AIS, seed=1, checkpoint=path)

    def test_other_data(self, path):
        run(AIS, checkpoint=path)
        with pytest.raises(ValueError, match=r"something else .rows"):
            run(AIS, X + 1, checkpoint=path)

    def test_other_parameters(self, path):
        run(AIS, checkpoint=path)
        other = LinearGaussian(MODEL.weight * 1.01, MODEL.bias, MODEL.noise_scale)
        with pytest.raises(ValueError, match=r"something else .parameters"):
            run(AIS, X, other.mean_field_vae(), checkpoint=path)

    def test_a_damaged_file(self, path):
        run(AIS, checkpoint=path)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ValueError, match="damaged or no unfinished"):
            run(AIS, checkpoint=path)

    def test_no_seed(self, path):
        with pytest.raises(ValueError, match="a checkpoint needs a seed"):
            run(AIS, seed=None, checkpoint=path)
        assert not path.exists()
