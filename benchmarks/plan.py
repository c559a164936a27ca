"""What is measured: targets, a table of networks, and work that other tools have done as well.

Nothing here imports torch: the process that starts the measurements stays small, because on Linux a child begins with
the peak memory of its parent.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parents[1]
REPETITIONS = 7
FEWEST = 3  # repetitions of calls that take long
LONG = 30.0  # seconds after which no more than the fewest are made
ENDLESS = 60.0  # seconds of a call that is made only once
GEMM_SIZE = 2000
DEMO = "demo"


@dataclass(frozen=True)
class Task:
    """One measurement; each runs in a process of its own.

    Args:
        kind: "target" (limits, rounding on and off), "network" (constants), "peers" or "sdp" (several radii).
        name: key of `NETWORKS` below.
        radii: of l_inf balls; one, except for "peers" and "sdp".
        rows: "all" outputs, or the output of the image's "class".
        threads: of torch.
        repetitions: timed calls after a warm-up.
        label: how the tables call it.
        seconds: most CPU seconds that are wanted, None where nothing is promised.
        megabytes: most peak memory of the process that is wanted, None where nothing is promised.
    """

    kind: Literal["target", "network", "peers", "sdp", "constants", "growth"]
    name: str
    radii: tuple[float, ...]
    rows: Literal["all", "class"] = "all"
    threads: int = 1
    repetitions: int = REPETITIONS
    label: str = ""
    seconds: float | None = None
    megabytes: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(given: dict[str, Any]) -> Task:
        """The task that `as_dict` told of, also after a journey through JSON."""
        return Task(**{**given, "radii": tuple(given["radii"])})


@dataclass(frozen=True)
class Network:
    """A trained network and the point it is asked about.

    Args:
        file: path below the data folder.
        images: where the point is from; "none" takes the zero vector.
        images: "mnist" or "cifar".
        preparation: what the file expects: "centred" pixels (x/255 - 0.5), CIFAR's "standardised" ones by channel,
            "unit" (x/255) or "bytes" (x).
        order: "hwc" for flattened images with channels last, else "chw".
        image: index of the test image; None takes the first one that is classified correctly.
        point: name under which the other tools' points are stored; goes before `image`.
        until: tensor whose value becomes the output, where the file ends in a softmax.
    """

    file: str
    images: Literal["mnist", "cifar", "none"] = "mnist"
    preparation: Literal["centred", "standardised", "unit", "bytes"] = "centred"
    order: Literal["chw", "hwc"] = "chw"
    image: int | None = 0
    point: str | None = None
    until: str | None = None


NETWORKS: dict[str, Network] = {
    "mnist_7layer_relu_1024, image 2": Network("nets/mnist_7layer_relu_1024.onnx", image=2),
    "mnist_7layer_relu_1024": Network("nets/mnist_7layer_relu_1024.onnx", point="mnist_7layer_relu_1024"),
    "mnist_3layer_relu_1024": Network("nets/mnist_3layer_relu_1024.onnx", point="mnist_3layer_relu_1024"),
    "mnist_5layer_tanh_50": Network("nets/mnist_5layer_tanh_50.onnx", point="mnist_5layer_tanh_50"),
    "mnist_7layer_leaky_20": Network("nets/mnist_7layer_leaky_20.onnx", point="mnist_7layer_leaky_20"),
    "mnist-net_256x2": Network("third_party/mnist-net_256x2.onnx", point="mnist256x2"),
    "mnist-net_256x4": Network("third_party/mnist-net_256x4.onnx", point="mnist256x4"),
    "ACASXU_1_1": Network("third_party/ACASXU_run2a_1_1_batch_2000.onnx", point="acas11"),
    "cifar_10layer_relu_2048": Network("nets/cifar_10layer_relu_2048.onnx", "cifar", order="hwc", image=None),
    "resnet_2b": Network("third_party/resnet_2b.onnx", "cifar", "standardised"),
    "oval21_cifar_base_kw": Network("third_party/oval21_cifar_base_kw.onnx", "cifar", "standardised"),
    "mnist_cnn": Network("nets/mnist_cnn.onnx"),
    "mnist_cnn_avg": Network("nets/mnist_cnn_avg.onnx"),
    "mnist_cnn_paper4": Network("nets/mnist_cnn_paper4.onnx"),
    "mnist_cnn_paper5": Network("nets/mnist_cnn_paper5.onnx"),
    "ACASXU_2_2": Network("third_party/ACASXU_run2a_2_2_batch_2000.onnx", "none"),
    "mnist_relu_9_200": Network("third_party/mnist_relu_9_200.onnx", preparation="unit"),
    "ffnnSIGMOID_6x200": Network("third_party/ffnnSIGMOID__Point_6x200.onnx", preparation="unit"),
    "tansig_200_50": Network("third_party/tansig_200_50_onnx.onnx", preparation="bytes", until="softmax_3_Flatten"),
    "logsig_200_100_50": Network(
        "third_party/logsig_200_100_50_onnx.onnx", preparation="bytes", until="softmax_4_Flatten"
    ),
    "Convnet_avgpool": Network("third_party/Convnet_avgpool.onnx", preparation="unit"),
    "Convnet_maxpool": Network("third_party/Convnet_maxpool.onnx", preparation="unit"),
    "cifar10_small": Network("third_party/cifar10_small.onnx", "cifar", "unit", "hwc", image=None),
    "vnncomp2020_cifar_base_kw": Network("third_party/vnncomp2020_cifar_base_kw.onnx", "cifar", "standardised"),
}
"""By the name that the tables show; `DEMO`, the network of the package, is known besides."""

TARGETS: tuple[Task, ...] = (
    Task("target", "mnist_7layer_relu_1024, image 2", (0.001,), label="a", seconds=0.45),
    Task("target", "mnist-net_256x4", (0.003,), label="b", seconds=0.5, megabytes=500),
    Task("target", "cifar_10layer_relu_2048", (0.0005,), "class", label="c", seconds=6.0),
)

IN_THE_TABLE = (
    "mnist_3layer_relu_1024",
    "mnist_5layer_tanh_50",
    "mnist-net_256x4",
    "mnist-net_256x2",
    "mnist_relu_9_200",
    "ffnnSIGMOID_6x200",
    "tansig_200_50",
    "logsig_200_100_50",
    "ACASXU_1_1",
    "ACASXU_2_2",
    "Convnet_avgpool",
    "Convnet_maxpool",
    "resnet_2b",
    "oval21_cifar_base_kw",
    "vnncomp2020_cifar_base_kw",
    "cifar10_small",
    "mnist_cnn",
    "mnist_cnn_avg",
)

WITH_PEERS = (
    "ACASXU_1_1",
    "mnist-net_256x2",
    "mnist-net_256x4",
    "mnist_3layer_relu_1024",
    "mnist_7layer_relu_1024",
    "mnist_5layer_tanh_50",
    "mnist_7layer_leaky_20",
)

GLOBAL = (
    "mnist_7layer_leaky_20",
    "mnist_5layer_tanh_50",
    "ACASXU_1_1",
    "mnist-net_256x2",
    "mnist-net_256x4",
    "mnist_3layer_relu_1024",
    "mnist_7layer_relu_1024",
    "mnist_cnn",
    "mnist_cnn_paper4",
    "mnist_cnn_paper5",
)
GLOBAL_SECONDS = 30.0
GROWTH = (*(f"width {width}" for width in (50, 200, 1000, 4000)), *(f"depth {depth}" for depth in (2, 5, 10, 20, 50)))
GROWTH_SECONDS = 20.0

RADII = (0.001, 0.01)
PEER_RADII = (0.001, 0.003, 0.01)
SDP_RADII = (0.003, 0.01, 0.03, 0.1, 0.3)
SOUND_LIMIT = 1.25
"""Most that rounding may cost: time with it over time without."""


def data_folder() -> Path | None:
    """The folder of networks, images and other tools' results (JACOBOUND_SHARED_DATA, or beside the repository)."""
    named = os.environ.get("JACOBOUND_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def tasks(data: Path | None) -> list[Task]:
    """Everything that can be measured with the data at hand, the demo network alone when there are none."""
    if data is None:
        demo = Task("target", DEMO, (0.01,), label=DEMO)
        table = [Task("network", DEMO, (radius,)) for radius in RADII]
        return [demo, Task("target", DEMO, (0.01,), label=DEMO, threads=2), *table]
    targets = [replace(task, threads=threads) for threads in (1, 2) for task in TARGETS]
    table = [Task("network", name, (radius,)) for name in IN_THE_TABLE for radius in RADII]
    peers = [Task("peers", name, PEER_RADII, "class") for name in WITH_PEERS]
    certificates = [Task("sdp", name, SDP_RADII, "class", repetitions=1) for name in WITH_PEERS]
    constants = [Task("constants", name, (), seconds=GLOBAL_SECONDS, repetitions=1) for name in GLOBAL]
    growth = [Task("growth", name, (), seconds=GROWTH_SECONDS, repetitions=1) for name in GROWTH]
    return targets + table + peers + certificates + constants + growth
