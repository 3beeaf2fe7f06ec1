"""The plain form says what the protocol says, to the last byte, or says nothing."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.core.values import TensorSpec
from loopworks.infer import protocol
from loopworks.infer.forms import Form

INPUTS = (
    TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),
    TensorSpec(name="y", datatype="FP64", shape=(-1, 1)),
    TensorSpec(name="z", datatype="FP64", shape=(-1, 1)),
    TensorSpec(name="n", datatype="INT64", shape=(-1,)),
    TensorSpec(name="t", datatype="BYTES", shape=(-1, 1)),
)
OUTPUTS = (
    TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),
    TensorSpec(name="ids", datatype="INT64", shape=(-1,)),
    TensorSpec(name="is", datatype="BOOL", shape=(-1, 1)),
)
FORM = Form(INPUTS, OUTPUTS, model='m "1"', version="7")
NUMBERS = st.one_of(
    st.floats(-1e300, 1e300, allow_nan=False), st.integers(-(2**63), 2**64 - 1), st.sampled_from([0, -0.0, 3e38, 4e38])
)
ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, "1", 1.5, [], {}, 2**63, [1.0]])


@st.composite
def headers(draw: Any) -> dict[str, Any]:
    """Mostly plain requests; one place in some is odd."""
    rows = draw(st.integers(1, 3))
    values = {"FP32": NUMBERS, "FP64": NUMBERS, "INT64": st.integers(-(2**63), 2**63 - 1), "BYTES": st.text()}
    inputs: list[Any] = []
    for spec in INPUTS:
        shape = [rows, *spec.shape[1:]]
        count = int(np.prod(shape))
        data = draw(st.lists(values[spec.datatype], min_size=count, max_size=count))
        inputs.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data})
    header: dict[str, Any] = {"inputs": inputs}
    if draw(st.booleans()):
        header["id"] = draw(st.text(max_size=3))
    if draw(st.booleans()):
        return header
    entry = draw(st.sampled_from(inputs))
    match draw(st.sampled_from(["value", "data", "shape", "side", "name", "datatype", "more", "gone", "order", "id"])):
        case "value":
            entry["data"][draw(st.integers(0, len(entry["data"]) - 1))] = draw(ODD)
        case "side":
            entry["shape"][draw(st.integers(0, len(entry["shape"]) - 1))] = draw(ODD)
        case "more":
            entry["parameters"] = {}
        case "gone":
            inputs.remove(entry)
        case "order":
            inputs.reverse()
        case "id":
            header["id"] = draw(ODD)
        case field:
            entry[field] = draw(ODD)
    return header


def slowly(body: bytes) -> protocol.Request | None:
    try:
        request = protocol.read(body, None, INPUTS)
        protocol.check(request.inputs, INPUTS)
    except Invalid:
        return None
    return request


@given(st.lists(headers(), min_size=1, max_size=4))
def test_reading_plainly_is_reading(asked: list[dict[str, Any]]) -> None:
    plain = []
    for header in asked:
        body = orjson.dumps(header)
        expected = slowly(body)
        if (found := FORM.read(orjson.loads(body))) is None:
            continue
        joined = FORM.join([found])
        if expected is None:
            assert joined is None  # a number out of range is found once there is an array
            continue
        assert joined is not None
        assert found.id == expected.id
        for name, array in expected.inputs.items():
            assert joined[name].dtype == array.dtype
            np.testing.assert_array_equal(joined[name], array, strict=True)
        plain.append((found, expected))
    if len(plain) > 1:
        whole = FORM.join([one for one, _ in plain])
        assert whole is not None
        for spec in INPUTS:
            parts = np.concatenate([request.inputs[spec.name] for _, request in plain])
            np.testing.assert_array_equal(whole[spec.name], parts, strict=True)


def test_a_usual_request_is_plain() -> None:
    inputs = [
        {"name": s.name, "datatype": s.datatype, "shape": [1, *s.shape[1:]], "data": ["a" if s.name == "t" else 1]}
        for s in INPUTS
    ]
    inputs[0]["data"] = [1, 2.5, 3]
    for header in ({"inputs": inputs}, {"id": "9", "inputs": inputs}):
        assert FORM.read(header) is not None


@given(
    st.lists(st.tuples(st.integers(1, 3), st.text(max_size=3)), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_writing_plainly_is_writing(asked: list[tuple[int, str]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = sum(many for many, _ in asked)
    outputs: dict[str, NDArray[Any]] = {
        "scores": (rng.normal(size=(rows, 2)) * 10.0 ** rng.integers(-40, 38, (rows, 2))).astype(np.float32),
        "ids": rng.integers(-(2**62), 2**62, rows),
        "is": rng.random((rows, 1)) < 0.5,
    }
    header: dict[str, Any] = {
        "inputs": [{"name": s.name, "datatype": s.datatype, "shape": [], "data": []} for s in INPUTS]
    }
    assert FORM.read(header) is None
    plain = []
    for many, mark in asked:
        for entry, spec in zip(header["inputs"], INPUTS, strict=True):
            entry["shape"] = [many, *spec.shape[1:]]
            entry["data"] = ["a" if spec.datatype == "BYTES" else 1] * (3 * many if spec.name == "x" else many)
        found = FORM.read({**header, "id": mark})
        assert found is not None
        plain.append(found)
    bodies = FORM.write(outputs, plain)
    assert bodies is not None
    at = 0
    for (many, mark), body in zip(asked, bodies, strict=True):
        part = {name: array[at : at + many] for name, array in outputs.items()}
        request = protocol.Request(inputs={}, id=mark)
        assert body == protocol.write(part, request, OUTPUTS, model='m "1"', version="7")[0]
        at += many


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_json_cannot_say_is_left_to_the_protocol(wrong: float) -> None:
    form = Form(INPUTS[1:2], OUTPUTS[:1], model="m", version="1")
    found = form.read({"inputs": [{"name": "y", "datatype": "FP64", "shape": [1, 1], "data": [1]}]})
    assert found is not None
    assert form.write({"scores": np.array([[1, wrong]], np.float32)}, [found]) is None


@pytest.mark.parametrize("shape", [(1, 3), (-1, -1), (-1, 0), ()])
def test_only_a_free_number_of_rows_has_a_plain_form(shape: tuple[int, ...]) -> None:
    assert not Form.fits([TensorSpec(name="x", datatype="FP32", shape=shape)])
    assert not Form.fits([TensorSpec(name="x", datatype="UINT8", shape=(-1, 3))])
    assert Form.fits(INPUTS)
