"""Devices by name, and data that stay on one."""

import torch
from torch import Tensor

RESIDENT_FRACTION = 0.5
"""Largest fraction of the GPU's free memory that a data set may take to stay there."""


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device called ``name``; ``auto`` takes CUDA where there is one, then MPS, then the CPU.

    Raises:
        ValueError: If the name is unknown or this machine has no such device.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps.") from error
    present = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise ValueError(f"device {str(name)!r} is not on this machine: use auto or cpu.")
    return device


def make_resident(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device`` when it fits there, else in pinned memory, to be sent batch by batch."""
    if device.type != "cuda" or fits(x.numel() * x.element_size(), device):
        return x.to(device)
    return x.cpu().pin_memory()


def fits(size: int, device: torch.device) -> bool:
    """Whether data of so many bytes may stay on the device, if that is a GPU."""
    return device.type == "cuda" and size <= RESIDENT_FRACTION * torch.cuda.mem_get_info(device)[0]
