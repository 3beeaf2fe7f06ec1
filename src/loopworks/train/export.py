"""From a trained torch network to the ONNX file that answers everywhere, and the proof that both say the same."""
# ruff: noqa: TID253 - this file is imported inside functions only

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401 - torch.onnx.export needs it; loading it here keeps it out of the time budget
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from loopworks.core.errors import Failed
from loopworks.core.values import ImageRule
from loopworks.train import machine

OPSET = 20
TOLERANCE = 1e-4
BATCHES = (1, 2, 7)
INPUT = "image"
Answer = Callable[[Any], dict[str, Tensor]]
"""What a network gives -> the model's outputs by name; see ``loop.Objective.answer``."""
LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx", "torch._dynamo")
DRAWS = 3
"""Draws of images for a batch size until answers are alike, before the file is refused: a comparison with a threshold
(say, of the overlap of two boxes) that hangs on the last bit goes the other way in few images, a wrong file answers
wrongly for all."""


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


def export(served: Served, rule: ImageRule, path: Path) -> None:
    """Write ``served`` as an ONNX file with any batch, and check it.

    Args:
        served: in evaluation mode, on the CPU.
        rule: gives the height and width.
        path: the file to write, weights inside.
    Raises: Failed: the network cannot be exported, or the file answers otherwise than torch.
    """
    example = torch.zeros((2, rule.height, rule.width, 3), dtype=torch.uint8)
    save(served, example, {0: torch.export.Dim("batch", min=1, max=2**16)}, INPUT, served.names, path)
    check(served, rule, path)


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
        with machine.quiet(*LOGGERS):
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


def check(served: Served, rule: ImageRule, path: Path) -> None:
    """Compare torch and ONNX Runtime on random images in batches of 1, 2 and 7.

    Where a network picks the best of many and two are equally good, either may be picked; so where the answers differ
    at first sight, torch goes on from what the file picked (see ``Picks``).

    Raises: Failed: an answer differs by more than 1e-4, or the file does not run.
    """
    rng = np.random.default_rng(0)
    try:
        plain, seen = session(path.read_bytes()), None
        for count in BATCHES:
            for _ in range(DRAWS):
                images: NDArray[np.uint8] = rng.integers(0, 256, (count, rule.height, rule.width, 3), dtype=np.uint8)
                found = dict(zip(served.names, plain.run(list(served.names), {INPUT: images}), strict=True))
                worst = apart(found, _asked(served, images, ()))
                if worst > TOLERANCE:
                    seen = seen or _seen(path)
                    names = [*served.names, *seen[1]]
                    both = dict(zip(names, seen[0].run(names, {INPUT: images}), strict=True))
                    worst = apart(
                        {name: both[name] for name in served.names},
                        _asked(served, images, [both[name] for name in seen[1]]),
                    )
                if worst <= TOLERANCE:
                    break
            else:
                raise Failed(
                    f"ONNX answers must be within {TOLERANCE:g} of torch's; got {worst:g} apart at batch {count}",
                    "try another backbone or recipe",
                )
    except Failed:
        raise
    except Exception as error:  # ONNX Runtime raises a class of its own per fault, all of them private
        raise Failed(f"the exported ONNX file must run; got {error}", "try another backbone or recipe") from error


class Picks(TorchFunctionMode):
    """Lets every ``topk`` pick what somebody else picked, as long as it is as good as the best to 1e-4."""

    def __init__(self, picked: Sequence[NDArray[Any]]) -> None:
        """Take the places that were picked, one array per call of ``topk``, in the order of the calls."""
        super().__init__()
        self.left = [torch.from_numpy(places) for places in picked]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """As ``func``, but for ``topk``."""
        best = func(*args, **(kwargs or {}))
        if func not in (torch.topk, torch.Tensor.topk) or not self.left:
            return best
        places = self.left.pop(0)
        axis = (kwargs or {}).get("dim", args[2] if len(args) > 2 else -1)
        if places.shape != best.indices.shape or (places.sort(axis).values.diff(dim=axis) == 0).any():
            return best
        values = args[0].gather(axis, places)
        is_as_good = (values - best.values).abs().max() <= TOLERANCE
        return torch.return_types.topk((values, places)) if is_as_good else best


def session(model: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, silent."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _asked(served: Served, images: NDArray[np.uint8], picked: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    with torch.inference_mode(), Picks(picked):
        return dict(zip(served.names, (x.numpy() for x in served(torch.from_numpy(images))), strict=True))


def _seen(path: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """The file as one that also says which places its ``TopK`` nodes pick, and the names of those outputs."""
    model = onnx.load(path)
    names = [node.output[1] for node in model.graph.node if node.op_type == "TopK"]
    known = {output.name for output in model.graph.output}
    for name in names:
        if name not in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    return session(model.SerializeToString()), names


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
