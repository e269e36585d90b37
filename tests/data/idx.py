import struct

import numpy as np


def idx_bytes(x):
    """The IDX file of a uint8 array."""
    header = struct.pack(f">HBB{x.ndim}I", 0, 8, x.ndim, *x.shape)
    return header + x.astype(np.uint8).tobytes()


def mnist_files(rng, n_train=24, n_test=12, side=28):
    """The four files of a small MNIST, by name, and the images in them."""
    train = rng.integers(0, 256, (n_train, side, side), dtype=np.uint8)
    test = rng.integers(0, 256, (n_test, side, side), dtype=np.uint8)
    files = {
        "train-images-idx3-ubyte": idx_bytes(train),
        "train-labels-idx1-ubyte": idx_bytes(np.zeros(n_train)),
        "t10k-images-idx3-ubyte": idx_bytes(test),
        "t10k-labels-idx1-ubyte": idx_bytes(np.zeros(n_test)),
    }
    return files, train, test
