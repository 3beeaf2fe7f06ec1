"""From a trained torch network to the ONNX file that answers everywhere, and the proof that both say the same."""
# ruff: noqa: TID253 - this file is imported inside functions only

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401 - torch.onnx.export needs it; loading it here keeps it out of the time budget
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loopworks.core.errors import Failed
from loopworks.core.values import ImageRule

OPSET = 20
TOLERANCE = 1e-4
BATCHES = (1, 2, 7)
INPUT = "image"
Answer = Callable[[Any], dict[str, Tensor]]
"""What a network gives -> the model's outputs by name; see ``loop.Objective.answer``."""
Apart = Callable[[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]], float]
"""How far two answers for the same images are apart; an objective whose answers are no plain tensors of numbers (say,
lists in the order of their scores) has a method ``apart`` of its own."""


class Served(nn.Module):
    """A network as it is asked: uint8 images ``(n, height, width, 3)`` in, the task kind's outputs out."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, answer: Answer, outputs: Sequence[str]) -> None:
        """Put scaling, normalization and layout before ``network``, ``answer`` after it.

        Args:
            network: takes normalized float images.
            mean: per channel, in 0..255.
            std: likewise.
            answer: tensor functions alone, so that they can be exported.
            outputs: the names that ``answer`` gives, in their order.
        """
        super().__init__()
        self.network = network
        self.answer = answer
        self.names = tuple(outputs)
        self.register_buffer("mean", mean.view(1, 3, 1, 1).clone())
        self.register_buffer("inverse", 1.0 / std.view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of ``names``."""
        mean, inverse = self.get_buffer("mean"), self.get_buffer("inverse")
        x = (image.permute(0, 3, 1, 2).to(torch.float32) - mean) * inverse
        found = self.answer(self.network(x))
        return tuple(found[name] for name in self.names)


def apart(given: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    """The output that differs most."""
    return max(_apart(given[name], expected[name]) for name in expected)


def _apart(given: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference of two outputs; of whole numbers (class ids) the share that differs, a tenth of it.

    Where two classes are equally likely to the last bit, either is right: one pixel in a thousand may differ.
    """
    if given.shape != expected.shape:
        return float("inf")
    if np.issubdtype(given.dtype, np.floating):
        return float(np.abs(given - expected).max(initial=0.0))
    return 0.1 * float((given != expected).mean())


def export(served: Served, rule: ImageRule, path: Path, far: Apart = apart) -> None:
    """Write ``served`` as an ONNX file with any batch, and check it.

    Args:
        served: in evaluation mode, on the CPU.
        rule: gives the height and width.
        path: the file to write, weights inside.
        far: how far two answers are apart.
    Raises: Failed: the network cannot be exported, or the file answers otherwise than torch.
    """
    example = torch.zeros((2, rule.height, rule.width, 3), dtype=torch.uint8)
    save(served, example, {0: torch.export.Dim("batch", min=1, max=2**16)}, INPUT, served.names, path)
    check(served, rule, path, far)


def save(
    module: nn.Module, example: Tensor, free: dict[int, Any], name: str, outputs: Sequence[str], path: Path
) -> None:
    """Write a module of one input as an ONNX file, weights inside.

    Args:
        module: in evaluation mode, on the CPU.
        example: an input.
        free: the example's axes that may have any length, as ``torch.export.Dim``.
        name: of the input.
        outputs: names of the outputs.
        path: the file to write.
    Raises: Failed: the module cannot be exported.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=(free,),
                input_names=[name],
                output_names=list(outputs),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
    except Exception as error:  # the exporter raises kinds of its own for every operator it does not know
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Failed(f"export to ONNX must succeed; got {first}", "try another backbone or recipe") from error
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def check(served: Served, rule: ImageRule, path: Path, far: Apart = apart) -> None:
    """Compare torch and ONNX Runtime on random images in batches of 1, 2 and 7.

    Raises: Failed: an answer differs by more than 1e-4, or the file does not run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    rng = np.random.default_rng(0)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for count in BATCHES:
            images: NDArray[np.uint8] = rng.integers(0, 256, (count, rule.height, rule.width, 3), dtype=np.uint8)
            found = session.run(list(served.names), {INPUT: images})
            with torch.inference_mode():
                wanted = [tensor.numpy() for tensor in served(torch.from_numpy(images))]
            worst = far(*(dict(zip(served.names, answer, strict=True)) for answer in (found, wanted)))
            if not worst <= TOLERANCE:
                raise Failed(
                    f"ONNX answers must be within {TOLERANCE:g} of torch's; got {worst:g} apart at batch {count}",
                    "try another backbone or recipe",
                )
    except Failed:
        raise
    except Exception as error:  # ONNX Runtime raises a class of its own per fault, all of them private
        raise Failed(f"the exported ONNX file must run; got {error}", "try another backbone or recipe") from error


def _strip(model: onnx.ModelProto) -> None:
    """Take out stack traces and notes of the exporter: they name files of this machine and change with every run."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
