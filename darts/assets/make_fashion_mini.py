"""Make fashion_mini.npz: the first 1,000 training and 200 test images of each class of Fashion-MNIST.

Usage: python darts/assets/make_fashion_mini.py FOLDER

FOLDER holds the four original files (train-images-idx3-ubyte.gz, ...), as published at
github.com/zalandoresearch/fashion-mnist and as Debian's package dataset-fashion-mnist installs them.
"""

import gzip
import pathlib
import sys

import numpy as np

SPLITS = {"train": ("train", 1000), "test": ("t10k", 200)}


def read_idx(path: pathlib.Path) -> np.ndarray:
    """An array in the IDX format: a magic number whose last byte counts the dimensions, the sizes, the bytes."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def subset(folder: pathlib.Path, prefix: str, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `per_class` images of each class, in the order of the original file."""
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))
    return images[kept], labels[kept]


def main(folder: pathlib.Path) -> None:
    """Read the originals in `folder` and write fashion_mini.npz beside this file."""
    arrays = {}
    for split, (prefix, per_class) in SPLITS.items():
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = subset(folder, prefix, per_class)
    with open(pathlib.Path(__file__).with_name("fashion_mini.npz"), "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
