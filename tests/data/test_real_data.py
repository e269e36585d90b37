import os

import pytest

from ppl_vae.data import load_dataset

pytestmark = pytest.mark.skipif(
    not os.environ.get("PPL_VAE_DATA"), reason="needs real data: set PPL_VAE_DATA to their folder"
)


@pytest.mark.parametrize(("name", "binary"), [("mnist", False), ("binarized-mnist", True)])
def test_published_sizes(name, binary):
    data = load_dataset(name)
    assert [x.shape for x in (data.train, data.valid, data.test)] == [
        (50_000, 784),
        (10_000, 784),
        (10_000, 784),
    ]
    assert data.is_binary == binary
    # About an eighth of MNIST is ink.
    assert 0.12 < data.train.mean() < 0.14
