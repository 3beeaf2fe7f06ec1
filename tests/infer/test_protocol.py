"""Tensors of the Open Inference Protocol: round trips, the forms that clients use, and hostile input."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.core.values import TensorSpec
from loopworks.infer import classification, protocol
from loopworks.infer.protocol import DTYPES, Request, Wanted, read

SPEC = (TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn, *, is_finite: bool = False) -> tuple[str, NDArray[Any]]:
    datatype = draw(st.sampled_from([*DTYPES, "BYTES"]))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        elements = st.text(max_size=5).map(str.encode) if is_finite else st.binary(max_size=5)
        flat = draw(st.lists(elements, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        found = np.empty(len(flat), dtype=object)
        found[:] = flat
        return datatype, found.reshape(shape)
    kind = np.dtype(DTYPES[datatype])
    limits: dict[str, Any] = {}
    if kind.kind == "f" and is_finite:
        limits = {"allow_nan": False, "allow_infinity": False}
    return datatype, draw(hnp.arrays(kind, shape, elements=hnp.from_dtype(kind, **limits)))


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    if left.dtype == object:
        return left.shape == right.shape and left.reshape(-1).tolist() == right.reshape(-1).tolist()
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(tensors())
def test_binary_tensors_come_back_bit_for_bit(tensor: tuple[str, NDArray[Any]]) -> None:
    datatype, array = tensor
    found = read(*protocol.ask({"x": array, "y": array}, id="7"), SPEC)
    assert same(found.inputs["x"], array)
    assert same(found.inputs["y"], array)
    assert found.inputs["y"].flags.aligned
    assert (found.id, found.is_binary, protocol.datatype_of(array)) == ("7", True, datatype)


@given(tensors(is_finite=True))
def test_json_tensors_come_back(tensor: tuple[str, NDArray[Any]]) -> None:
    datatype, array = tensor
    body, length = protocol.ask({"x": array}, is_binary=False)
    assert length is None
    found = read(body, None, SPEC).inputs["x"]
    if datatype == "FP64" or array.dtype.kind != "f":
        assert same(found, array)
    else:
        np.testing.assert_array_equal(found, array)  # -0.0 and 0.0 are one number in JSON's eyes


@given(tensors(is_finite=True), st.booleans())
def test_answers_are_what_a_client_expects(tensor: tuple[str, NDArray[Any]], is_binary: bool) -> None:
    datatype, array = tensor
    request = Request(inputs={}, outputs=(Wanted(name="x", is_binary=is_binary),), id="a")
    specs = (TensorSpec(name="x", datatype=datatype, shape=array.shape),)
    body, length = protocol.write({"x": array}, request, specs, model="m", version="1")
    header = json.loads(body[:length])
    (entry,) = header["outputs"]
    assert (header["model_name"], header["model_version"], header["id"]) == ("m", "1", "a")
    assert (entry["name"], entry["datatype"], entry["shape"]) == ("x", datatype, list(array.shape))
    if is_binary:
        assert length is not None
        raw = memoryview(body)[length:]
        assert entry["parameters"]["binary_data_size"] == len(raw)
        assert same(protocol.from_bytes(raw, datatype, array.shape, "x"), array)
    else:
        assert len(entry["data"]) == array.size


def one(**changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} | changes
    return json.dumps({"inputs": [{k: v for k, v in tensor.items() if v is not ...}]}).encode()


def with_parameters(**given: Any) -> bytes:
    return json.dumps({**json.loads(one()), "parameters": given}).encode()


def asking(**given: Any) -> bytes:
    return json.dumps({**json.loads(one()), "outputs": [{"name": "y", "parameters": given}]}).encode()


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_json_data_may_be_flat_or_nested(data: Any) -> None:
    found = read(one(shape=[2, 3], data=data), None, SPEC).inputs["x"]
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_nulls_and_unknown_members_are_ignored() -> None:
    body = {
        "id": None,
        "parameters": None,
        "outputs": None,
        "sequence": 3,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "data": [1, 2, 3], "parameters": None, "more": 1}],
    }
    found = read(json.dumps(body).encode(), None, SPEC)
    assert (found.id, found.outputs, found.parameters) == ("", (), {})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "request body must be JSON in UTF-8"),
        (b"\xff\xfe", "request body must be JSON in UTF-8"),
        (b'{"inputs": [NaN]}', "request body must be JSON in UTF-8"),
        (b"[" * 5000, "request body must be JSON in UTF-8"),
        (b"[]", "request body must be a JSON object; got list"),
        (b"{}", "inputs must be a list with at least one tensor; got nothing"),
        (b'{"inputs": {}}', "inputs must be a list"),
        (b'{"inputs": [3]}', "inputs[0] must be a JSON object; got int"),
        (b'{"inputs": [{}]}', "inputs[0].name must be text; got nothing"),
        (b'{"id": 3, "inputs": []}', "inputs must be a list with at least one tensor"),
        (one(datatype="FLOAT"), "input x datatype must be one of BOOL"),
        (one(datatype=3), "input x datatype must be text; got int"),
        (one(shape=...), "input x shape must be a list"),
        (one(shape=[-1, 3]), "input x shape must be a list"),
        (one(shape=[True, 3]), "input x shape must be a list"),
        (one(shape=[1.0, 3]), "input x shape must be a list"),
        (one(shape=[1] * 17), "a list of at most 16 whole numbers"),
        (one(shape=[2**62, 2**62]), "input x shape must be a list"),
        (one(shape=[2**31 - 1, 2**31 - 1]), "input x data must be 4611686014132420609 elements"),
        (one(shape=[0, *[2**31 - 1] * 4], data=[]), "input x shape must be one that fits its data"),
        (one(shape=[1, 4]), "input x data must be 4 elements, as its shape says; got 3"),
        (one(data=...), "input x data must be a list; got nothing"),
        (one(data={"0": 1}), "input x data must be a list; got dict"),
        (one(data=[[1, 2], [3]]), "input x data must be flat, or nested as its shape [1, 3]; got another nesting"),
        (one(data=[[1, 2, 3], 4]), "nested as its shape"),
        (one(data=[[[1, 2, 3]]]), "nested as its shape [1, 3]; got another nesting"),
        (one(data=[[[1], [2], [3]]]), "input x data must be numbers for FP32; got [1]"),
        (one(data=["1", 2, 3]), "input x data must be numbers for FP32; got '1'"),
        (one(data=[True, 2, 3]), "input x data must be numbers for FP32; got True"),
        (one(data=[None, 2, 3]), "input x data must be numbers for FP32; got None"),
        (one(data=[1e39, 2, 3]), "input x data must be within the range of FP32; got 1e+39"),
        (one(datatype="FP16", data=[70000, 2, 3]), "within the range of FP16"),
        (one(datatype="UINT8", data=[256, 2, 3]), "within 0..255 for UINT8; got 2..256"),
        (one(datatype="UINT8", data=[-1, 2, 3]), "within 0..255 for UINT8; got -1..3"),
        (one(datatype="INT64", data=[2**63, 0, 0]), "within -9223372036854775808..9223372036854775807 for INT64"),
        (one(datatype="INT32", data=[1.5, 2, 3]), "whole numbers for INT32; got 1.5"),
        (one(datatype="BOOL", data=[1, 0, 1]), "true or false for BOOL; got 1"),
        (one(datatype="BYTES", data=["a", "b", 3]), "text for BYTES; got 3"),
        (one(parameters=[]), "input x parameters must be a JSON object"),
        (one(parameters={"binary_data_size": 4}), "either 'data' or 'binary_data_size'"),
        (one(data=..., parameters={"binary_data_size": 12}), "binary_data_size must be at most the 0 bytes"),
        (one(parameters={"shared_memory_region": "r"}), "input x must be sent in the body"),
        *(
            (b'{"id": %b, %b' % (value, one()[1:]), f"id must be text; got {kind}")
            for value, kind in [(b"0", "int"), (b"false", "bool"), (b"[]", "list")]
        ),
        (with_parameters(binary_data_output=1), "parameter binary_data_output must be true or false; got 1"),
        (asking(binary_data="true"), "output y binary_data must be true or false; got true"),
    ],
)
def test_each_fault_names_its_field(body: bytes, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(body, None, SPEC)
    assert message in caught.value.message


def binary(size: Any, raw: bytes, *, datatype: str = "FP32", shape: Any = (1, 3)) -> tuple[bytes, int]:
    tensor = {"name": "x", "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + raw, len(head)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (binary(12, b"\0" * 11), "binary_data_size must be at most the 11 bytes that follow; got 12"),
        (binary(12, b"\0" * 13), "raw data after the header must be 12 bytes, as the inputs say; got 13"),
        (binary(8, b"\0" * 8), "input x raw data must be 12 bytes for its shape and type; got 8"),
        (binary(-1, b""), "input x binary_data_size must be at most"),
        (binary(True, b"\0"), "input x binary_data_size must be at most"),
        (binary("12", b"\0" * 12), "input x binary_data_size must be at most"),
        (binary(3, b"\0\1\2", datatype="BOOL"), "0 or 1 for BOOL"),
        (binary(12, b"\0" * 12, shape=(2**31 - 1, 2**31 - 1)), "input x raw data must be"),
        (binary(4, b"\0" * 4, datatype="BYTES", shape=[2**30]), "1073741824 BYTES elements; got 4 bytes"),
        (binary(4, b"\xff" * 4, datatype="BYTES", shape=[1]), "whole BYTES elements; got a cut at byte 0"),
        (binary(9, b"\1\0\0\0a\0\0\0\0", datatype="BYTES", shape=[1]), "raw data must be 5 bytes, as its elements say"),
        (binary(4, b"\0" * 4, datatype="BF16", shape=[2]), "input x datatype must be one of BOOL"),
    ],
)
def test_each_fault_of_binary_data_names_its_field(body: tuple[bytes, int], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(*body, SPEC)
    assert message in caught.value.message


@pytest.mark.parametrize("length", [-1, 5, 10**18])
def test_a_header_longer_than_the_body_is_refused(length: int) -> None:
    with pytest.raises(Invalid, match="Inference-Header-Content-Length must be between 0 and the body's 2 bytes"):
        read(b"{}", length, SPEC)


def test_inputs_and_outputs_are_named_once() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    with pytest.raises(Invalid, match=r"inputs\[1\].name must be different from the others; got x"):
        read(json.dumps({"inputs": [tensor, tensor]}).encode(), None, SPEC)
    with pytest.raises(Invalid, match=r"outputs\[1\].name must be different"):
        read(json.dumps({"inputs": [tensor], "outputs": [{"name": "y"}, {"name": "y"}]}).encode(), None, SPEC)


def test_a_body_without_header_is_the_one_input() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read(array.tobytes(), 0, SPEC)
    assert same(found.inputs["x"], array)
    assert found.is_binary
    text = read(b"\xff\0anything", 0, (TensorSpec(name="t", datatype="BYTES", shape=(-1, 1)),)).inputs["t"]
    assert text.tolist() == [[b"\xff\0anything"]]


@pytest.mark.parametrize(
    ("body", "specs"),
    [
        (b"", SPEC),
        (b"\0" * 13, SPEC),
        (b"\0" * 12, (*SPEC, *SPEC)),
        (b"\0" * 12, ()),
        (b"\0" * 12, (TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),)),
        (b"\0" * 12, (TensorSpec(name="x", datatype="FP32", shape=(2, 3)),)),
        (b"\0" * 12, (TensorSpec(name="x", datatype="FP32", shape=(-1, 0)),)),
    ],
)
def test_a_body_without_header_must_fit_the_one_input(body: bytes, specs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(Invalid, match="a body without header must be"):
        read(body, 0, specs)


def test_outputs_are_selected_and_mixed() -> None:
    request = read(
        json.dumps({
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}],
            "outputs": [{"name": "b", "parameters": {"binary_data": False}}, {"name": "a"}],
            "parameters": {"binary_data_output": True, "timeout": 2_500_000},
        }).encode(),
        None,
        SPEC,
    )
    assert request.outputs == (Wanted(name="b"), Wanted(name="a", is_binary=True))
    assert request.timeout_s == 2.5
    arrays = {name: np.array([i], np.int16) for i, name in enumerate("abc")}
    body, length = protocol.write(arrays, request, (), model="m", version="1")
    listed = json.loads(body[:length])["outputs"]
    assert [entry["name"] for entry in listed] == ["b", "a"]
    assert listed[0]["data"] == [1]
    assert body[length:] == b"\0\0"


@pytest.mark.parametrize("given", [-5, "5", True, 1.5])
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(given: Any) -> None:
    request = read(with_parameters(timeout=given), None, SPEC)
    with pytest.raises(Invalid, match="parameter timeout must be a whole number of microseconds from 0"):
        assert request.timeout_s


def test_no_timeout_is_the_servers() -> None:
    assert read(with_parameters(timeout=0), None, SPEC).timeout_s is None


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(Invalid, match="outputs must be among a; got z"):
        protocol.write({"a": np.zeros(1)}, Request(inputs={}, outputs=(Wanted(name="z"),)), (), model="m", version="1")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_json_never_says_null_for_what_is_no_number(value: float) -> None:
    with pytest.raises(Invalid) as caught:
        protocol.write({"a": np.array([value])}, Request(inputs={}), (), model="m", version="1")
    assert caught.value.hint == "ask for binary_data"


def test_json_never_bends_bytes_into_text() -> None:
    array = np.array([b"\xff"], dtype=object)
    with pytest.raises(Invalid, match="UTF-8 text to be JSON"):
        protocol.write({"a": array}, Request(inputs={}), (), model="m", version="1")


def test_classification_names_the_largest_values() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]], np.float32)
    request = Request(inputs={}, outputs=(Wanted(name="s", top=2),))
    specs = (TensorSpec(name="s", datatype="FP32", shape=(-1, 3)),)
    body, _ = protocol.write({"s": scores}, request, specs, model="m", version="1", classes=("cat", "dog", "owl"))
    (entry,) = json.loads(body)["outputs"]
    assert (entry["datatype"], entry["shape"]) == ("BYTES", [2, 2])
    assert entry["data"] == ["0.700000:1:dog", "0.200000:2:owl", "0.500000:0:cat", "0.400000:2:owl"]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (np.uint64, [0, 2**64 - 2, 2**64 - 1], [b"18446744073709551615:2", b"18446744073709551614:1", b"0:0"]),
        (np.int8, [-128, 127, 127], [b"127:1", b"127:2", b"-128:0"]),
    ],
)
def test_classification_of_whole_numbers_is_exact_and_written_as_triton_does(
    kind: Any, values: list[int], expected: list[bytes]
) -> None:
    assert classification.best(np.array([values], kind), 3, (), "s").tolist() == [expected]


@settings(max_examples=300)
@given(st.binary(max_size=300), st.one_of(st.none(), st.integers(-5, 300)))
def test_no_bytes_raise_anything_but_our_error(body: bytes, length: int | None) -> None:
    with suppress(Invalid):  # anything else fails the test
        read(body, length, SPEC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ODD_TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | JSON,
        "datatype": st.sampled_from([*DTYPES, "BYTES"]) | JSON,
        "shape": st.lists(st.integers(0, 3), max_size=3) | JSON,
        "data": st.lists(st.integers(0, 1) | st.booleans() | st.text(max_size=2), max_size=5) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(0, 20)}) | JSON,
    },
)


@settings(max_examples=400)
@given(
    st.fixed_dictionaries({"inputs": st.lists(ODD_TENSOR, max_size=3) | JSON}, optional={"outputs": JSON, "id": JSON}),
    st.binary(max_size=20),
    st.booleans(),
)
def test_no_request_raises_anything_but_our_error(header: Any, tail: bytes, is_split: bool) -> None:
    head = json.dumps(header).encode()
    try:
        found = read(head + tail if is_split else head, len(head) if is_split else None, SPEC)
    except Invalid:  # anything else fails the test
        return
    for name, array in found.inputs.items():
        declared = next(t for t in header["inputs"] if t["name"] == name)
        assert list(array.shape) == declared["shape"]
        assert protocol.datatype_of(array) == declared["datatype"]
