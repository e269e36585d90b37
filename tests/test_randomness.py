import random

import numpy as np
import pytest
import torch

from ppl_vae.randomness import Stream, derive_seed, generator, seed_devices, seeded


def test_seeds_are_the_same_on_every_machine():
    # NumPy promises SeedSequence's output for good: these values may never change.
    assert derive_seed(0, Stream.TRAINING) == 8597659618385908031
    assert derive_seed(7, Stream.DATA_ORDER, 3) == 579092127917349752


def test_streams_differ():
    seeds = {
        derive_seed(seed, stream, n) for seed in range(20) for stream in Stream for n in range(20)
    }
    assert len(seeds) == 20 * len(Stream) * 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_zeros_at_the_end_of_a_path_count():
    paths = [(), (0,), (0, 0), (Stream.TRAINING,), (Stream.TRAINING, 0), (Stream.TRAINING, 0, 0)]
    assert len({derive_seed(3, *path) for path in paths}) == len(paths)


def test_negative_seed():
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        derive_seed(-1)


def test_generator_is_reproducible():
    first, again = (torch.rand(5, generator=generator(3, Stream.SAMPLING)) for _ in range(2))
    other = torch.rand(5, generator=generator(4, Stream.SAMPLING))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeded_leaves_the_callers_state_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    with seeded(1, Stream.SAMPLING):
        first = torch.rand(3)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(99)
    with seeded(1, Stream.SAMPLING):
        assert torch.equal(first, torch.rand(3))


def test_seeded_restores_after_an_error():
    before = torch.get_rng_state()

    def interrupted():
        with seeded(1):
            torch.rand(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(before, torch.get_rng_state())


def test_no_seed_draws_from_the_callers_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(None, Stream.SAMPLING):
        assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(torch.rand(3), expected)


def test_seeding_is_that_of_torch():
    seed_devices(5)
    first = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(3))
    assert torch.initial_seed() == 5
