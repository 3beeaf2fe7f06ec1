"""A bundle comes back as it was written, and everything that was done to it in between is found."""

import copy
import json
import os
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopworks.core import bundle as bundles
from loopworks.core.bundle import FILE, Bundle, Variant
from loopworks.core.errors import Damaged, Invalid, LoopworksError, NotFound, TooNew
from loopworks.core.values import ImageRule, LabelSchema, Score, TensorSpec

SCORES = {"val": {"accuracy": Score(value=0.95, low=0.92, high=0.97, count=300)}}
ONNX = Variant(
    name="onnx-fp32",
    runtime="onnxruntime",
    precision="fp32",
    file="model.onnx",
    files=("model.onnx",),
    size_bytes=4,
    metrics=SCORES,
    agreement=1.0,
    latency_ms={"p50": 1.5, "p99": 2},
    throughput_per_s=700.0,
    throughput_batch=8,
    memory_bytes=70_000_000,
    start_s=0.25,
)
INT8 = Variant(
    name="openvino-int8",
    runtime="openvino",
    precision="int8",
    file="ov/model.xml",
    files=("ov/model.xml", "ov/model.bin"),
    is_refused=True,
    note="outside the budget",
)
BUNDLE = Bundle(
    task="image-classification",
    schema=LabelSchema(classes=("猫", "dog")),
    rule=ImageRule(height=32, width=32),
    inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, 32, 32, 3)),),
    outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),),
    version="v" * 64,
    recipe="train.small-cnn",
    params={"epochs": 3, "rate": 0.1},
    variants=(ONNX, INT8),
    chosen="onnx-fp32",
    metrics=SCORES,
    measured_on={"cpu": "two cores"},
    hosts={"camera": {"machine": {"cpu": "four"}, "variants": {"onnx-fp32": {"start_s": 2}}, "chosen": "onnx-fp32"}},
    notes=("trained from random weights",),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ov").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "ov" / "model.xml").write_bytes(b"<xml/>")
    (tmp_path / "ov" / "model.bin").write_bytes(b"\x00\x01")
    return tmp_path


def body() -> dict[str, Any]:
    """What ``bundle.json`` holds, as plain JSON."""
    sums = {"model.onnx": "a" * 64, "ov/model.xml": "b" * 64, "ov/model.bin": "c" * 64}
    found: dict[str, Any] = json.loads(json.dumps(replace(BUNDLE, sha256=sums).to_json()))
    return found


def test_a_bundle_comes_back_as_it_was_written(folder: Path) -> None:
    written = bundles.write(BUNDLE, folder)
    read = bundles.read(folder)
    assert read == written
    assert read.folder == folder
    assert replace(read, sha256={}) == BUNDLE
    assert set(read.sha256) == {"model.onnx", "ov/model.xml", "ov/model.bin"}


def test_writing_twice_gives_the_same_bytes(folder: Path) -> None:
    bundles.write(BUNDLE, folder)
    first = (folder / FILE).read_bytes()
    bundles.write(BUNDLE, folder)
    assert (folder / FILE).read_bytes() == first
    assert sorted(p.name for p in folder.iterdir()) == [FILE, "model.onnx", "ov"]


def test_a_moved_bundle_is_the_same_bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    written = bundles.write(BUNDLE, folder)
    target = tmp_path_factory.mktemp("moved") / "b"
    os.rename(folder, target)
    assert bundles.read(target) == written
    assert bundles.read(target).path("model.onnx") == target / "model.onnx"


def test_the_chosen_variant_answers_and_others_by_name() -> None:
    assert BUNDLE.variant() is ONNX
    assert BUNDLE.variant("openvino-int8") is INT8
    with pytest.raises(NotFound) as caught:
        BUNDLE.variant("tensorrt")
    assert caught.value.hint == "known: onnx-fp32, openvino-int8"


def test_a_changed_file_is_found(folder: Path) -> None:
    bundles.write(BUNDLE, folder)
    (folder / "ov" / "model.bin").write_bytes(b"\x00\x02")
    with pytest.raises(Damaged, match=r"bundle file ov/model.bin must have SHA-256 \w{64}; got \w{64}"):
        bundles.read(folder)
    assert bundles.read(folder, verify=False).chosen == "onnx-fp32"


def test_a_missing_file_is_found(folder: Path) -> None:
    bundles.write(BUNDLE, folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(Damaged, match="bundle file model.onnx must exist"):
        bundles.read(folder)


def test_a_nested_bundle_json_is_checked_like_any_other_file(folder: Path) -> None:
    (folder / "ov" / FILE).write_text("{}", encoding="utf-8")
    assert f"ov/{FILE}" in bundles.write(BUNDLE, folder).sha256


def test_a_folder_without_bundle_json_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        bundles.read(tmp_path)
    assert caught.value.hint == "a bundle is a folder with a bundle.json"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"nul"], ids=["empty", "cut", "bytes", "deep", "word"]
)
def test_a_file_that_is_not_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(Invalid, match=r"bundle\.json must be JSON in UTF-8"):
        bundles.read(tmp_path)


def test_a_newer_format_is_refused_before_its_content_is_read() -> None:
    with pytest.raises(TooNew) as caught:
        bundles.parse({"format": 2, "task": {"of": "a later design"}})
    assert caught.value.message == "bundle.json must be of bundle format 1 or older; got 2"
    assert caught.value.hint == "update loopworks"


@pytest.mark.parametrize("bad", [None, "1", 1.0, True, 0, -1])
def test_a_format_that_is_no_number_is_refused(bad: object) -> None:
    with pytest.raises(Invalid, match="bundle.json format must be a whole number, 1 or more"):
        bundles.parse(body() | {"format": bad})


ESCAPES = [
    "../evil",
    "/etc/passwd",
    "a/../../b",
    "..",
    ".",
    "",
    "a\\b",
    "C:/x",
    "a//b",
    "./a",
    "a\x00b",
    "\ud800",
    "x" * 256,
    FILE,
]


@pytest.mark.parametrize("path", ESCAPES)
def test_a_path_out_of_the_bundle_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="must be relative paths inside the bundle"):
        bundles.parse(body() | {"sha256": {path: "a" * 64}})


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("key", ["file", "files"])
def test_a_variants_path_out_of_the_bundle_is_refused(path: str, key: str) -> None:
    changed = body()
    changed["variants"][0][key] = path if key == "file" else [path]
    with pytest.raises(Invalid, match=rf"bundle.json variants\[0\].{key} must be "):
        bundles.parse(changed)


def test_a_variants_file_must_have_a_checksum() -> None:
    changed = body()
    del changed["sha256"]["ov/model.bin"]
    with pytest.raises(Invalid, match="variant openvino-int8 must be of files that sha256 names; got ov/model.bin"):
        bundles.parse(changed)


@pytest.mark.parametrize("value", ["", "A" * 64, "a" * 63, 7, None])
def test_a_checksum_of_another_form_is_refused(value: object) -> None:
    changed = body()
    changed["sha256"]["model.onnx"] = value
    with pytest.raises(Invalid, match="bundle.json sha256.model.onnx must be 64 hex digits"):
        bundles.parse(changed)


def test_the_chosen_variant_must_exist() -> None:
    with pytest.raises(
        Invalid, match=r"bundle.json chosen must be one of the variants \(onnx-fp32, openvino-int8\); got x"
    ):
        bundles.parse(body() | {"chosen": "x"})


def test_two_variants_of_one_name_are_refused() -> None:
    changed = body()
    changed["variants"].append(changed["variants"][0])
    with pytest.raises(Invalid, match="bundle.json variants must be of different names"):
        bundles.parse(changed)


def test_a_wrong_field_is_named_with_its_place() -> None:
    changed = body()
    changed["variants"][1]["metrics"] = {"val": {"accuracy": {"value": "high", "low": 0, "high": 1, "count": 3}}}
    with pytest.raises(Invalid) as caught:
        bundles.parse(changed)
    place = "bundle.json variants[1].metrics.val.accuracy.value"
    assert caught.value.message == f"{place} must be a finite number; got high"


def test_nothing_is_written_that_could_not_be_read(folder: Path) -> None:
    bad = replace(BUNDLE, metrics={"val": {"accuracy": Score(value=float("nan"), low=0, high=1, count=1)}})
    with pytest.raises(Invalid, match="accuracy.value must be a finite number; got nan"):
        bundles.write(bad, folder)
    assert not (folder / FILE).exists()
    with pytest.raises(Invalid, match="finite numbers"):
        bundles.write(replace(BUNDLE, params={"rate": float("inf")}), folder)
    with pytest.raises(Invalid, match="of files that sha256 names"):
        bundles.write(replace(BUNDLE, variants=(replace(ONNX, file="absent.onnx"),)), folder)
    assert not (folder / FILE).exists()


# --- the published schema ------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files("loopworks.core") / "bundle.schema.json").read_text("utf-8"))
    return found


VALIDATOR = jsonschema.Draft202012Validator(schema())


def test_what_we_write_is_of_the_published_schema(folder: Path) -> None:
    bundles.write(BUNDLE, folder)
    VALIDATOR.validate(json.loads((folder / FILE).read_text("utf-8")))
    assert schema()["properties"]["format"]["const"] == bundles.FORMAT


def test_the_schema_describes_every_field() -> None:
    names = {f.name for f in fields(Bundle)} - {"folder", "rule"} | {"format", "preprocessing"}
    assert set(schema()["properties"]) == {*schema()["required"], "hosts"} == names
    variant = schema()["$defs"]["variant"]
    later = {"throughput_batch", "memory_bytes", "start_s"}
    assert set(variant["properties"]) == set(variant["required"]) | later == {f.name for f in fields(Variant)}
    rule = schema()["$defs"]["image"]
    assert set(rule["properties"]) == set(rule["required"]) == set(ImageRule(height=1, width=1).to_json())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(ESCAPES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


@st.composite
def malformed(draw: st.DrawFn) -> Any:
    found: Any = body()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(found)))
        if not place:
            return draw(VALUES)
        holder = found
        for key in place[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            del holder[place[-1]]
        else:
            holder[place[-1]] = draw(VALUES)
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changed=malformed())
def test_malformed_json_gives_one_clear_error_and_what_is_taken_is_of_the_schema(changed: Any) -> None:
    before = copy.deepcopy(changed)
    found: Bundle | LoopworksError
    try:
        found = bundles.parse(changed)
    except (Invalid, TooNew) as error:
        found = error
    if isinstance(found, LoopworksError):
        assert found.message.startswith(("bundle.json", "class name", "image rule"))
    else:
        assert not list(VALIDATOR.iter_errors(before))
        assert bundles.parse(found.to_json()) == found
