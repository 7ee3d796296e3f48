"""A trained network as one file for other programs: ONNX, PyTorch's exported program, safetensors; and its check."""

from __future__ import annotations

import copy
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from darts.runtime.errors import UserError, optional
from darts.runtime.files import write_bytes, writing
from darts.use.trained import METADATA, TrainedNetwork, load_network

TOLERANCE = 1e-4  # of a probability, or of a logit relative to the largest
Answer = Callable[[Tensor], np.ndarray]


class Deployed(nn.Module):
    """What an exported file computes.

    With preparation: uint8 pixels (batch, C, H, W), or int16 sounds (batch, 1, samples) -> probabilities. Without:
    prepared float32 images or features -> logits.
    """

    def __init__(self, network: TrainedNetwork, preparation: bool) -> None:
        super().__init__()
        self.network, self.preparation = network, preparation

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities or logits (batch, classes)."""
        logits = self.network(images)
        return logits.softmax(1) if self.preparation else logits


def folded(network: TrainedNetwork) -> TrainedNetwork:
    """A copy in which batch norms that follow a convolution are part of it; the function is the same."""
    own = copy.deepcopy(network).eval()
    for module in list(own.modules()):
        if isinstance(module, nn.Sequential):
            for place in range(len(module) - 1):
                first, second = module[place], module[place + 1]
                if type(first) is nn.Conv2d and isinstance(second, nn.BatchNorm2d):
                    module[place], module[place + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return own


def export(network: TrainedNetwork, to: str, file: Path, preparation: bool, fold: bool) -> Answer:
    """Write a network to a file in the form `onnx`, `pt2` or `safetensors`; returns the written file as a function.

    The function takes a batch of raw pixels (with preparation) or prepared images, and was made by loading the file,
    which is there whole or not at all: it is made in memory.
    """
    if to == "safetensors":
        return _safetensors(network, file, preparation)
    deployed = Deployed(folded(network) if fold else network, preparation).eval()
    raw = torch.zeros(2, *network.raw_shape, dtype=network.raw_type)
    prepared = torch.zeros(2, *network.shape.map_shape)
    example = raw if preparation else prepared
    sizes = ({0: torch.export.Dim("batch")},)
    return (_onnx if to == "onnx" else _pt2)(deployed, example, sizes, file)


def _onnx(deployed: Deployed, example: Tensor, sizes: Any, file: Path) -> Answer:
    for module in ("onnx", "onnxscript"):
        optional(module, "to=onnx")
    runtime = optional("onnxruntime", "to=onnx")
    names = ("pixels", "probabilities") if deployed.preparation else ("images", "logits")
    with told_nothing():
        program = torch.onnx.export(deployed, (example,), dynamo=True, dynamic_shapes=sizes, input_names=names[:1],
                                    output_names=names[1:], verbose=False)  # fmt: skip
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    program.model.metadata_props["classes"] = json.dumps(deployed.network.classes)
    write_bytes(file, program.model_proto.SerializeToString())
    session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {names[0]: images.numpy()})[0]


@contextmanager
def told_nothing() -> Iterator[None]:
    """Keep from the console what an exporter warns of and logs of its own parts, hundreds of lines."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _pt2(deployed: Deployed, example: Tensor, sizes: Any, file: Path) -> Answer:
    program = torch.export.export(deployed, (example,), dynamic_shapes=sizes)
    made = io.BytesIO()  # a library that writes itself may end the process where the disk is full
    torch.export.save(program, made, extra_files={"classes.json": json.dumps(deployed.network.classes)})
    write_bytes(file, made.getvalue())
    loaded = torch.export.load(io.BytesIO(file.read_bytes())).module()
    return lambda images: loaded(images).detach().numpy()


def _safetensors(network: TrainedNetwork, file: Path, preparation: bool) -> Answer:
    saver = optional("safetensors.torch", "to=safetensors")
    weights = {name: value.contiguous() for name, value in network.network.state_dict().items()}
    described = {**network.described, "class_names": network.classes}
    write_bytes(file, saver.save(weights, metadata={METADATA: json.dumps(described)}))
    loaded = Deployed(load_network(file), preparation)
    return lambda images: loaded(images).detach().numpy()


@torch.no_grad()
def largest_difference(network: TrainedNetwork, answer: Answer, images: Tensor, preparation: bool) -> float:
    """Between the exported file's answers and the network's own, on raw pixels; of logits relative to the largest."""
    given = images if preparation else network.prepared(images).contiguous()
    expected = Deployed(network, preparation)(given).numpy()
    differences = [abs(answer(given[:size]) - expected[:size]).max() for size in {1, len(given)}]
    scale = 1.0 if preparation else max(1.0, float(abs(expected).max()))
    return float(max(differences)) / scale


def require_equal(difference: float) -> None:
    """`UserError` where an exported file answers otherwise than the network."""
    if not difference <= TOLERANCE:
        raise UserError(
            f"the exported file answers otherwise than the network: the largest difference is {difference:.2g}, "
            f"{TOLERANCE:g} is allowed; it was not kept"
        )


@contextmanager
def staged(file: Path) -> Iterator[Path]:
    """Give a file of the same name in a new folder beside it, to be written, checked and moved; then both are gone."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".export-", dir=file.parent)
    try:
        yield Path(folder, file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
