import os
import subprocess
import sys

import pytest
import torch
from programs import binary_data, binary_vae

from ppl_vae import cpu
from ppl_vae.evidence import ImportanceSampling
from ppl_vae.objectives import ELBO
from ppl_vae.training import fit

CPU = torch.device("cpu")


@pytest.fixture
def all_cores(monkeypatch):
    """A machine of six cores, where nobody has chosen the number of threads."""
    for name in cpu._CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(6)))
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


def threads_inside(weights, device=CPU):
    with cpu.suited(weights, device):
        return torch.get_num_threads()


@pytest.mark.usefixtures("all_cores")
def test_a_small_model_is_computed_on_one_thread():
    assert threads_inside(99_999) == 1
    assert torch.get_num_threads() == 6
    assert threads_inside(100_000) == 6
    assert threads_inside(10, torch.device("cuda")) == 6
    # Half the cores is what torch takes where each has two threads of its own.
    torch.set_num_threads(3)
    assert threads_inside(10) == 1
    with pytest.raises(KeyError), cpu.suited(10, CPU):
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("all_cores")
def test_a_number_of_threads_that_is_chosen_stays(monkeypatch):
    torch.set_num_threads(5)
    assert threads_inside(10) == 5
    torch.set_num_threads(6)
    with cpu.given_threads(2):
        assert threads_inside(10) == 2
    with cpu.given_threads(6):
        assert threads_inside(10) == 6
    assert threads_inside(10) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert threads_inside(10) == 6


@pytest.mark.usefixtures("all_cores")
def test_training_and_evaluation_take_one_thread_and_give_the_others_back(caplog):
    seen = []

    def see(batch):
        seen.append(torch.get_num_threads())
        return batch

    vae, x = binary_vae(), binary_data(20)
    with caplog.at_level("INFO", logger="ppl_vae.cpu"):
        fit(vae.model, vae.guide, ELBO(), x, transform=see, epochs=1, progress=False, device="cpu")
    assert seen[-1] == 1
    assert "one thread" in caplog.text
    assert torch.get_num_threads() == 6

    def model(data):
        seen.append(torch.get_num_threads())
        return vae.model(data)

    ImportanceSampling(5)(model, vae.guide, x)
    assert seen[-1] == 1
    assert torch.get_num_threads() == 6


FAULTS = """
import resource, sys, torch
from ppl_vae.cpu import keep_memory

kept = keep_memory()
x = torch.ones(4_000_000)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        y = x + 1
        y = y.exp()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(kept, faults())
"""


def page_faults(**tuning):
    environment = {n: v for n, v in os.environ.items() if n not in cpu._TUNING} | tuning
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        capture_output=True, text=True, check=True, env={**environment, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_memory_is_kept_for_the_next_tensors():
    """Twenty tensors of 16 MB, 4,000 pages each; a tuned allocator is left as it is."""
    kept, faults = page_faults()
    if not kept:
        pytest.skip("another C library than glibc")
    assert faults < 4_000
    kept, faults = page_faults(MALLOC_TOP_PAD_="0")
    assert not kept
    assert faults > 10_000
