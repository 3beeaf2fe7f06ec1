"""Tensors of the Open Inference Protocol v2 over gRPC: messages to arrays and back.

Everything that comes in is hostile: sizes are checked before any memory is taken, and every fault is an ``Invalid``
that names the field.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.core.values import TensorSpec
from loopworks.infer import classification, protocol
from loopworks.server.protos import inference_pb2 as pb

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of a datatype lie in a message when they are not raw; FP16 has no such place."""


def read(message: pb.ModelInferRequest) -> protocol.Request:
    """A request from its message.

    Raises: Invalid: naming the field.
    """
    parameters = _parameters(message.parameters)
    is_raw = bool(message.raw_input_contents)
    if not message.inputs:
        raise Invalid("inputs", "a list with at least one tensor", "nothing")
    if is_raw and len(message.raw_input_contents) != len(message.inputs):
        count = len(message.inputs)
        raise Invalid("raw_input_contents", f"one for each of the {count} inputs", len(message.raw_input_contents))
    inputs: dict[str, NDArray[Any]] = {}
    for i, one in enumerate(message.inputs):
        if one.name in inputs:
            raise Invalid(f"inputs[{i}].name", "different from the others", one.name)
        _unshared(one.parameters, f"input {one.name}")
        shape = _shape(one.shape, one.name)
        if not is_raw:
            inputs[one.name] = _typed(one, shape)
            continue
        if one.HasField("contents"):
            raise Invalid(f"input {one.name}", "in raw_input_contents or in contents", "both")
        data = memoryview(message.raw_input_contents[i])
        inputs[one.name] = protocol.from_bytes(data, one.datatype, shape, one.name)
    return protocol.Request(
        inputs=inputs,
        outputs=_outputs(message.outputs, parameters.get("binary_data_output") is not False),
        id=message.id,
        is_binary=parameters.get("binary_data_output") is not False,
        parameters=parameters,
    )


def write(
    outputs: Mapping[str, NDArray[Any]],
    asked: protocol.Request,
    specs: Sequence[TensorSpec],
    *,
    model: str,
    version: str,
    classes: Sequence[str] = (),
) -> pb.ModelInferResponse:
    """An answer's message; raw, unless the request says ``binary_data_output`` false (see ``protocol.write``).

    Raises: Invalid: an output does not exist, or has no place in a message.
    """
    found = pb.ModelInferResponse(model_name=model, model_version=version, id=asked.id)
    types = {spec.name: spec.datatype for spec in specs}
    wanted = asked.outputs or tuple(protocol.Wanted(name=name, is_binary=asked.is_binary) for name in outputs)
    if len({one.is_binary for one in wanted}) > 1:
        raise Invalid("binary_data of the outputs", "the same for all", "some true, some false")
    for one in wanted:
        if one.name not in outputs:
            raise Invalid("outputs", f"among {', '.join(outputs)}", one.name)
        array, datatype = outputs[one.name], types.get(one.name) or protocol.datatype_of(outputs[one.name])
        if one.top:
            array, datatype = classification.best(array, one.top, classes, one.name), "BYTES"
        entry = found.outputs.add(name=one.name, datatype=datatype, shape=array.shape)
        if one.is_binary:
            found.raw_output_contents.append(protocol.to_bytes(array, datatype))
            continue
        if datatype not in FIELDS:
            raise Invalid(f"output {one.name}", "asked for as binary data", f"contents of {datatype}")
        elements: Any = array.reshape(-1).tolist()
        if datatype == "BYTES":
            elements = [x if isinstance(x, bytes) else str(x).encode() for x in elements]
        getattr(entry.contents, FIELDS[datatype]).extend(elements)
    return found


def _typed(one: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...]) -> NDArray[Any]:
    if one.datatype not in FIELDS:
        known = f"one of {', '.join(FIELDS)}, or FP16 in raw_input_contents"
        raise Invalid(f"input {one.name} datatype", known, one.datatype)
    field = FIELDS[one.datatype]
    if (wrong := [d.name for d, _ in one.contents.ListFields() if d.name != field]) != []:
        raise Invalid(f"input {one.name} contents", f"{field} for {one.datatype}", ", ".join(wrong))
    elements = getattr(one.contents, field)
    count = 1
    for side in shape:
        count *= side
    if len(elements) != count:
        raise Invalid(f"input {one.name} contents", f"{count} elements, as its shape says", len(elements))
    if one.datatype == "BYTES":
        texts = np.empty(count, dtype=object)
        texts[:] = list(elements)
        return texts.reshape(shape)
    kind = np.dtype(protocol.DTYPES[one.datatype])
    wide = np.array(elements, np.int64 if kind.kind in "iu" and kind.itemsize < 8 else kind)
    found = wide.astype(kind)
    if kind.kind in "iu" and not np.array_equal(found, wide):
        limits = np.iinfo(kind)
        got = f"{wide.min()}..{wide.max()}"
        raise Invalid(f"input {one.name} contents", f"within {limits.min}..{limits.max} for {one.datatype}", got)
    return found.reshape(shape)


def _outputs(
    listed: Iterable[pb.ModelInferRequest.InferRequestedOutputTensor], is_binary: bool
) -> tuple[protocol.Wanted, ...]:
    found: dict[str, protocol.Wanted] = {}
    for i, one in enumerate(listed):
        if one.name in found:
            raise Invalid(f"outputs[{i}].name", "different from the others", one.name)
        _unshared(one.parameters, f"output {one.name}")
        asked = _parameters(one.parameters)
        top = asked.get("classification", 0)
        if isinstance(top, bool) or not isinstance(top, int) or top < 0:
            raise Invalid(f"output {one.name} classification", "a whole number from 0", top)
        found[one.name] = protocol.Wanted(
            name=one.name, is_binary=asked.get("binary_data", is_binary) is not False, top=top
        )
    return tuple(found.values())


def _shape(sides: Sequence[int], name: str) -> tuple[int, ...]:
    if len(sides) > protocol.MAX_RANK or not all(0 <= side < protocol.MAX_SIDE for side in sides):
        expected = f"at most {protocol.MAX_RANK} whole numbers in 0..{protocol.MAX_SIDE - 1}"
        raise Invalid(f"input {name} shape", expected, list(sides[: protocol.MAX_RANK + 1]))
    return tuple(sides)


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    found = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], kind) for name, kind in found.items() if kind}


def _unshared(given: Mapping[str, pb.InferParameter], what: str) -> None:
    if "shared_memory_region" in given:
        raise Invalid(what, "sent in the message", "shared_memory_region", "shared memory is not offered")
