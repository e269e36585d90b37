import pytest
import torch

from ppl_vae.devices import make_resident, resolve_device


def test_auto_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device().type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"


def test_devices_pass_through():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cpu:"])
def test_unknown_devices(name):
    with pytest.raises(ValueError, match=r"unknown device .*: use auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99", "mps", "meta", "xpu"])
def test_devices_that_are_not_here(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"is not on this machine: use auto or cpu"):
        resolve_device(name)


def test_the_second_gpu_of_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0").index == 0
    with pytest.raises(ValueError, match="'cuda:1' is not on this machine"):
        resolve_device("cuda:1")


def test_data_on_the_cpu_stay_where_they_are():
    x = torch.randn(5)
    assert make_resident(x, torch.device("cpu")) is x


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_data_that_do_not_fit_the_gpu_wait_in_pinned_memory(monkeypatch):
    device, x = torch.device("cuda"), torch.randn(1000)
    assert make_resident(x, device).device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7_999, 10_000))
    assert make_resident(x, device).is_pinned()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8_000, 10_000))
    assert make_resident(x, device).device.type == "cuda"
