"""Train the small MNIST network that `jacobound demo` certifies, and write it as an ONNX file.

The network is a 784-64-64-32-10 ReLU perceptron; pixels enter as ``x / 255 - 0.5`` and logits come out. It is
trained with Adam and a light L1 penalty on the weights, which keeps the certified constants small. The ONNX
file is written node by node with `onnx.helper`, so neither a tracer nor an exporter package is needed.

Run (about half a minute on one core; nothing is downloaded)::

    python examples/train_demo_network.py path/to/mnist

where the folder holds ``mnist_train.npz`` and ``mnist_test.npz``, each with ``x`` (uint8, N x 28 x 28) and
``y``. Without an argument the folder is ``$JACOBOUND_SHARED_DATA/mnist``, or ``shared/data/mnist`` beside the
repository.

Test accuracy of the file in the package: 0.9772 (onnxruntime, 10,000 test images).
"""

from __future__ import annotations

import argparse
import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTHS = (784, 64, 64, 32, 10)
SEED = 0
EPOCHS = 30
BATCH = 128
LEARNING_RATE = 2e-3
L1_WEIGHT = 1e-5


class Digits(NamedTuple):
    """One part of MNIST: `images` (N, 28, 28) uint8 and `labels` (N,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def pixels(self) -> Tensor:
        """The network's input: (N, 784) float32 in [-0.5, 0.5]."""
        return torch.from_numpy(self.images).reshape(len(self.images), -1).float() / 255 - 0.5


def load(folder: Path, part: str) -> Digits:
    """Read ``mnist_<part>.npz`` (part is "train" or "test")."""
    path = folder / f"mnist_{part}.npz"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist; give the folder with mnist_train.npz and mnist_test.npz as argument")
    with np.load(path) as file:
        return Digits(file["x"], file["y"].astype(np.int64))


def network() -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(digits: Digits) -> nn.Sequential:
    """Fit the network; the same machine and torch version give the same weights each time."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model, pixels, labels = network(), digits.pixels(), torch.from_numpy(digits.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    steps = EPOCHS * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    weights = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            loss = nn.functional.cross_entropy(model(pixels[batch]), labels[batch])
            loss = loss + L1_WEIGHT * torch.stack([weight.abs().sum() for weight in weights]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def to_onnx(model: nn.Sequential) -> onnx.ModelProto:
    """The model as Gemm and Relu nodes, opset 17: "input" (N, 784) to "logits" (N, 10), float32."""
    nodes, tensors, value = [], [], "input"
    for index, layer in enumerate(model):
        result = "logits" if index == len(model) - 1 else f"value_{index}"
        if isinstance(layer, nn.Linear):
            names = (f"weight_{index}", f"bias_{index}")
            arrays = (layer.weight.detach().numpy(), layer.bias.detach().numpy())
            tensors += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
            nodes.append(helper.make_node("Gemm", [value, *names], [result], transB=1))
        else:
            nodes.append(helper.make_node("Relu", [value], [result]))
        value = result
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", WIDTHS[0]])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", WIDTHS[-1]])]
    graph = helper.make_graph(nodes, "mnist_4layer_relu_64", inputs, outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def one_image_per_digit(digits: Digits, predicted: np.ndarray) -> Digits:
    """The first correctly classified image of each digit, 0 to 9."""
    correct = predicted == digits.labels
    chosen = np.array([np.flatnonzero(correct & (digits.labels == digit))[0] for digit in range(10)])
    return Digits(digits.images[chosen], digits.labels[chosen])


def default_folder() -> Path:
    """Where the images are looked for when no folder is given."""
    shared = os.environ.get("JACOBOUND_SHARED_DATA")
    return (Path(shared) if shared else REPOSITORY.parent / "shared" / "data") / "mnist"


def main() -> None:
    """Train, measure and write both files."""
    parser = argparse.ArgumentParser(description="Train the demo network of jacobound and write it as ONNX.")
    parser.add_argument("mnist", nargs="?", type=Path, default=default_folder(), help="folder of the two npz files")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "src" / "jacobound" / "data", help="where to write")
    arguments = parser.parse_args()
    model = train(load(arguments.mnist, "train"))
    test = load(arguments.mnist, "test")
    with torch.no_grad():
        predicted = model(test.pixels()).argmax(1).numpy()
    arguments.out.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(model), arguments.out / "mnist_4layer_relu_64.onnx")
    images = one_image_per_digit(test, predicted)
    np.savez_compressed(arguments.out / "mnist_images.npz", x=images.images, y=images.labels.astype(np.uint8))
    print(f"test accuracy {np.mean(predicted == test.labels):.4f}; wrote both files to {arguments.out}")


if __name__ == "__main__":
    main()
