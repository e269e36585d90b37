"""The names and file types `load_dataset` knows, in a module that is cheap to import."""

DATASET_NAMES = (
    "digits",
    "mnist",
    "fashion-mnist",
    "kmnist",
    "omniglot",
    "binarized-mnist",
)
TABLE_SUFFIXES = (".csv", ".parquet")
FILE_SUFFIXES = (".npy", ".npz", *TABLE_SUFFIXES)
