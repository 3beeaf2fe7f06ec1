"""Our messages of gRPC: what protoc makes of their text, and the same on the wire as the protocol's own."""

import os
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core.errors import Invalid
from loopworks.core.values import TensorSpec
from loopworks.infer.protocol import Wanted, datatype_of
from loopworks.server import grpc_tensors, protos
from loopworks.server.protos import inference_pb2 as pb

FOLDER = Path(protos.__file__).parent
STUBS = ("inference_pb2.pyi", "health_pb2.pyi", "status_pb2.pyi", "descriptors.bin")


def test_the_generated_files_are_what_protoc_makes_of_the_text(tmp_path: Path) -> None:
    protoc = Path(sysconfig.get_path("scripts")) / "protoc"
    target = FOLDER if os.environ.get("LOOPWORKS_GOLDEN") == "write" else tmp_path
    made = [f"--descriptor_set_out={target / 'descriptors.bin'}", f"--pyi_out={target}"]
    subprocess.run([str(protoc), "-I", str(FOLDER), *made, *protos.FILES], check=True)
    for name in STUBS:
        assert (target / name).read_bytes() == (FOLDER / name).read_bytes(), f"{name}: LOOPWORKS_GOLDEN=write mends it"


def test_names_numbers_and_types_are_those_of_a_client_in_the_same_process() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2").DESCRIPTOR
    found = protos.described("inference.proto")
    known = {**theirs.message_types_by_name, **config.message_types_by_name}
    pairs = [(mine, known[name]) for name, mine in found.message_types_by_name.items()]
    compared = 0
    while pairs:
        mine, other = pairs.pop()
        assert mine is not other  # pools of their own
        nested = [one for one in mine.nested_types if one.name != "PropertiesEntry"]  # KServe's alone
        pairs += [(one, other.nested_types_by_name[one.name]) for one in nested]
        for field in mine.fields:
            if field.full_name == "inference.ModelMetadataResponse.properties":
                continue
            same = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (same.number, same.type, same.is_repeated)
            compared += 1
    assert compared > 150
    for value in found.enum_types_by_name["DataType"].values:
        assert config.enum_types_by_name["DataType"].values_by_name[value.name].number == value.number
    (service,) = found.services_by_name.values()
    for method in service.methods:
        same = theirs.services_by_name["GRPCInferenceService"].methods_by_name[method.name]
        assert (method.input_type.name, method.output_type.name) == (same.input_type.name, same.output_type.name)
        assert (method.client_streaming, method.server_streaming) == (same.client_streaming, same.server_streaming)


def test_a_message_crosses_to_the_other_ones_class_and_back() -> None:
    service = pytest.importorskip("tritonclient.grpc.service_pb2")
    sent = service.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"abc"])
    sent.parameters["timeout"].int64_param = 9
    mine = pb.ModelInferRequest.FromString(sent.SerializeToString())
    assert (mine.model_name, mine.id, list(mine.raw_input_contents)) == ("m", "7", [b"abc"])
    assert service.ModelInferRequest.FromString(mine.SerializeToString()) == sent


def request(datatype: str, shape: list[int], **contents: list[object]) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest()
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(made.inputs[0].contents, name).extend(values)
    return made


@pytest.mark.parametrize(("datatype", "field"), grpc_tensors.FIELDS.items())
def test_every_type_is_read_and_written_typed_and_raw(datatype: str, field: str) -> None:
    values: list[object] = {"BOOL": [True, False], "BYTES": [b"a", b"\xff"]}.get(datatype, [1, 2])  # type: ignore[assignment]
    read = grpc_tensors.read(request(datatype, [2, 1], **{field: values}))
    assert read.inputs["x"].shape == (2, 1)
    assert read.inputs["x"].reshape(-1).tolist() == values
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, 1))
    for is_binary in (True, False):
        asked = type(read)(inputs={}, outputs=(Wanted(name="x", is_binary=is_binary),), id="1")
        answer = grpc_tensors.write(read.inputs, asked, [spec], model="m", version="3")
        assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (datatype, [2, 1])
        again = pb.ModelInferRequest(raw_input_contents=answer.raw_output_contents)
        again.inputs.add(name="x", datatype=datatype, shape=[2, 1])
        if not is_binary:
            again.inputs[0].contents.MergeFromString(answer.outputs[0].contents.SerializeToString())
        np.testing.assert_array_equal(grpc_tensors.read(again).inputs["x"], read.inputs["x"])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.ModelInferRequest(), "inputs must be a list with at least one tensor"),
        (request("UINT8", [1], uint_contents=[256]), "within 0..255 for UINT8; got 256..256"),
        (request("INT8", [1], int_contents=[-129]), "within -128..127 for INT8"),
        (request("UINT8", [2], uint_contents=[1]), "2 elements, as its shape says; got 1"),
        (request("UINT8", [1], int_contents=[1]), "uint_contents for UINT8; got int_contents"),
        (request("UINT8", [-1], uint_contents=[1]), "whole numbers in 0.."),
        (request("UINT8", [1] * 17, uint_contents=[1]), "at most 16 whole numbers"),
        (request("FP16", [1], fp32_contents=[1.0]), "or FP16 in raw_input_contents; got FP16"),
        (request("COMPLEX", [1]), "datatype must be one of"),
        (request("UINT8", [1 << 30, 1 << 30, 1 << 30], uint_contents=[1]), "elements, as its shape says; got 1"),
    ],
)
def test_what_is_wrong_with_contents_is_said(message: pb.ModelInferRequest, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        grpc_tensors.read(message)
    assert words in caught.value.message


def test_what_is_wrong_with_raw_contents_is_said() -> None:
    for change, words in (
        (lambda m: m.raw_input_contents.append(b"xy"), "one for each of the 1 inputs; got 2"),
        (lambda m: m.inputs[0].contents.uint_contents.append(1), "in raw_input_contents or in contents; got both"),
        (lambda m: m.inputs[0].shape.append(9), "raw data must be 9 bytes for its shape and type; got 1"),
        (
            lambda m: m.inputs[0].parameters["shared_memory_region"].MergeFrom(pb.InferParameter()),
            "sent in the message",
        ),
        (lambda m: m.inputs.add(name="x"), "one for each of the 2 inputs"),
        (lambda m: (m.inputs.add(name="x"), m.raw_input_contents.append(b"x")), "different from the others; got x"),
    ):
        message = request("UINT8", [1])
        message.raw_input_contents.append(b"x")
        change(message)
        with pytest.raises(Invalid) as caught:
            grpc_tensors.read(message)
        assert words in caught.value.message


def test_the_descriptors_hold_every_text() -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "descriptors.bin").read_bytes()).file
    assert [file.package for file in files] == ["inference", "grpc.health.v1", "loopworks.status"]


SIDES = st.integers(-2, 4) | st.sampled_from([1 << 31, (1 << 63) - 1, -(1 << 63)])
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=4),
        "int_contents": st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4),
        "uint_contents": st.lists(st.integers(0, (1 << 32) - 1), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=3), max_size=4),
    },
)


@given(
    datatype=st.sampled_from([*grpc_tensors.FIELDS, "FP16", "", "X"]),
    shape=st.lists(SIDES, max_size=4),
    contents=CONTENTS,
    raw=st.none() | st.lists(st.binary(max_size=12), max_size=2),
)
def test_whatever_a_message_holds_it_is_read_or_refused(
    datatype: str, shape: list[int], contents: dict[str, list[object]], raw: list[bytes] | None
) -> None:
    message = request(datatype, shape, **contents)
    message.raw_input_contents.extend(raw or ())
    try:
        found = grpc_tensors.read(message).inputs["x"]
    except Invalid:
        return
    assert list(found.shape) == shape
    assert datatype_of(found) == datatype
