"""Grey values as Bernoulli probabilities, and draws from them."""

import numpy as np
import torch

BINARIZATION_MODES = ("none", "static", "dynamic")


def binarize_batch(x: torch.Tensor) -> torch.Tensor:
    """Draw every value afresh; the `transform` of training under dynamic binarisation.

    Args:
        x: Probabilities in [0, 1], any shape, on any device.

    Returns:
        Zeros and ones, same shape, dtype and device, from that device's global generator.
    """
    return torch.bernoulli(x)


def binarize_static(x: torch.Tensor, seed: int, stream: int = 0) -> torch.Tensor:
    """Draw every value once, the same for the same seed and stream.

    Args:
        x: Probabilities in [0, 1], any shape, on the CPU.
        seed: The user's seed, not negative.
        stream: Which of the seed's independent streams to use (one per split).

    Returns:
        Zeros and ones, same shape and dtype.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"binarisation seed is {seed}, expected 0 or more: give another seed")
    # Hashing the seed keeps these draws apart from those of torch.manual_seed(seed) elsewhere.
    hashed = np.random.SeedSequence([seed, stream]).generate_state(1)[0]
    return torch.bernoulli(x, generator=torch.Generator().manual_seed(int(hashed)))


def check_probabilities(x: torch.Tensor, what: str) -> None:
    """Check that values can be probabilities.

    Args:
        x: Values, any shape.
        what: What they are, for the message.

    Raises:
        ValueError: If a value is outside [0, 1] or not a number.
    """
    low, high = (bound.item() for bound in torch.aminmax(x))
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"cannot binarise {what}: values range over [{low:g}, {high:g}], expected [0, 1]: "
            "rescale them to [0, 1], or use binarisation 'none'"
        )
