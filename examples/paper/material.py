"""Images and networks of the experiments.

Both come from a data folder where there is one (``--data``, ``$JACOBOUND_SHARED_DATA``, or ``shared/data`` beside the
repository). Elsewhere MNIST and CIFAR-10 are downloaded once into a cache folder and checked by their SHA-256, and
networks are trained in short form (`training.py`) and kept there.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import jacobound as jb
from training import trained

REPOSITORY = Path(__file__).resolve().parents[2]
MNIST = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)
CIFAR = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


class Images(NamedTuple):
    """Some images: `pixels` uint8, (N, 28, 28) or (N, 32, 32, 3), and `labels` int64, (N,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def centred(self) -> np.ndarray:
        """What the perceptrons take: float32 in [-0.5, 0.5], shape (N, inputs)."""
        flat = self.pixels.reshape(len(self.pixels), -1).astype(np.float32)
        return flat / np.float32(255) - np.float32(0.5)


def data_folder() -> Path:
    """Where data is looked for when no folder is named."""
    shared = os.environ.get("JACOBOUND_SHARED_DATA")
    return Path(shared) if shared else REPOSITORY.parent / "shared" / "data"


def cache_folder() -> Path:
    """Where downloads and trained weights are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jacobound"


@dataclass(frozen=True)
class Material:
    """Where images and networks come from.

    Args:
        data: a folder with ``mnist/``, ``cifar10/`` and ``nets/``; it need not exist.
        cache: what had to be downloaded or trained.
        short: train on very little, for tests of the scripts.
    """

    data: Path
    cache: Path
    short: bool = False

    def digits(self, part: str) -> Images:
        """MNIST, part "train" or "test", in the standard order."""
        path = self.data / "mnist" / f"mnist_{part}.npz"
        if path.is_file():
            return _stored(path, "x", "y")
        return _stored(self._download("mnist.npz", *MNIST), f"x_{part}", f"y_{part}")

    def photographs(self, part: str) -> Images:
        """CIFAR-10, part "train" or "test"; a data folder may hold only the first images of the test part."""
        path = self.data / "cifar10" / "cifar10_test_500.npz"
        if part == "test" and path.is_file():
            return _stored(path, "x", "y")
        names = ["test_batch.bin"] if part == "test" else [f"data_batch_{k}.bin" for k in range(1, 6)]
        with tarfile.open(self._download("cifar-10-binary.tar.gz", *CIFAR)) as archive:
            found = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
            records = np.frombuffer(b"".join(file.read() for file in found if file is not None), np.uint8)
        records = records.reshape(-1, 1 + 3 * 32 * 32)
        pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Images(np.ascontiguousarray(pixels), records[:, 0].astype(np.int64))

    def network(self, name: str) -> jb.Graph:
        """A classifier by its name: read from the data folder, or trained."""
        path = self.data / "nets" / f"{name}.onnx"
        if path.is_file():
            return jb.from_onnx(path)
        images = self.photographs if name.startswith("cifar") else self.digits
        model, shape = trained(name, lambda: images("train"), self.cache / "weights", self.short)
        return jb.from_torch(model, torch.zeros(1, *shape))

    def _download(self, name: str, url: str, digest: str) -> Path:
        """A file of the cache, fetched when it is not there.

        Raises:
            SystemExit: when it can not be fetched, or is not what it should be.
        """
        path = self.cache / name
        if path.is_file():
            return path
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        print(f"downloading {url}", flush=True)
        try:
            urllib.request.urlretrieve(url, partial)
        except OSError as error:
            raise SystemExit(f"can not download {url}: {error}; name a folder that holds the data: --data") from error
        found = hashlib.sha256(partial.read_bytes()).hexdigest()
        if found != digest:
            partial.unlink()
            raise SystemExit(f"{url} has the SHA-256 {found}, not {digest}: nothing was kept")
        return partial.rename(path)


def first_right(graph: jb.Graph, points: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """Indices of the first images that a network classifies correctly.

    Args:
        points: as the network takes them, (N, *input shape or flat).
    """
    said = graph(torch.from_numpy(points).reshape(-1, *graph.in_shape).to(graph.dtype)).detach().flatten(1).argmax(1)
    return np.flatnonzero(said.numpy() == labels)[:count].tolist()


def _stored(path: Path, pixels: str, labels: str) -> Images:
    with np.load(path) as file:
        return Images(file[pixels], file[labels].astype(np.int64))
