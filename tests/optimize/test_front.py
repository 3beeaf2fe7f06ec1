"""The front, and what was measured on another machine; no training, no runtime."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from tests.conftest import Colors

from loopworks.cli.models import show_front
from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.errors import Conflict, Invalid, LoopworksError, NotFound, TooNew
from loopworks.core.values import Score
from loopworks.optimize import front, hosts, labels


def score(value: float) -> dict[str, dict[str, Score]]:
    return {"val": {"accuracy": Score(value=value, low=value - 0.02, high=value + 0.02, count=100)}}


def variant(name: str, value: float, p50: float, size: int, **more: Any) -> Variant:
    return Variant(
        name=name,
        runtime="onnxruntime",
        precision="fp32",
        file="model.onnx",
        files=("model.onnx",),
        size_bytes=size,
        metrics=score(value),
        agreement=1.0,
        latency_ms={"p50": p50, "p99": 2 * p50},
        throughput_per_s=1000 / p50,
        throughput_batch=8,
        memory_bytes=80_000_000,
        start_s=0.3,
        **more,
    )


@pytest.fixture
def bundle(tmp_path: Path, colors: Colors) -> Bundle:
    """Five variants: two on the front beside fp32, one beaten, one refused."""
    plain = colors.write(tmp_path / "model")
    variants = (
        variant("onnx-fp32", 0.95, 8.0, 4000),
        variant("onnx-int8", 0.94, 5.0, 1000),
        variant("openvino-int8", 0.945, 2.0, 1100),
        variant("openvino-fp32", 0.95, 9.0, 4100),
        variant("lower50", 0.60, 0.5, 4000, is_refused=True, note="drops 0.35 <on val>"),
    )
    machine = {"processor": "A <fast> one", "cores": 2, "threads": 1}
    return bundles.write(replace(plain, variants=variants, chosen="openvino-int8", measured_on=machine), plain.folder)


def told(**changes: Any) -> dict[str, Any]:
    def figures(name: str, p50: float, memory: float = 60.0) -> dict[str, Any]:
        return {
            "name": name, "latency_ms": {"p50": p50, "p99": 3 * p50}, "throughput_per_s": 900 / p50, "batch": 1,
            "memory_mb": memory, "start_s": 1.5, "size_bytes": 1,
        }  # fmt: skip

    return {
        "format": 1,
        "kind": "loopworks-bench",
        "model": {"name": "litter", "number": 2},
        "host": {"name": "camera-7", "cpu": "Cortex-A72", "cores": 4, "os": "Linux", "runtimes": {"onnxruntime": "1"}},
        "variants": [figures("onnx-fp32", 90.0), figures("onnx-int8", 40.0), figures("lower50", 5.0)],
        **changes,
    }


def test_the_front_is_what_no_other_variant_beats(bundle: Bundle) -> None:
    found = front.front(bundle)
    rows = {row["name"]: row for row in found["variants"]}
    assert {name for name, row in rows.items() if row["is_on_front"]} == {"onnx-fp32", "onnx-int8", "openvino-int8"}
    assert [name for name, row in rows.items() if row["is_chosen"]] == ["openvino-int8"]
    assert rows["lower50"]["is_refused"]
    assert rows["onnx-int8"]["p99_ms"] == 10.0
    assert (rows["onnx-int8"]["per_s"], rows["onnx-int8"]["batch"]) == (200.0, 8)
    assert rows["onnx-int8"]["val"] == {"value": 0.94, "low": 0.94 - 0.02, "high": 0.94 + 0.02, "count": 100}
    assert (found["headline"], found["host"], found["machine"]["cores"]) == ("accuracy", "", 2)
    json.dumps(found, allow_nan=False)


def test_the_picture_is_an_image_that_names_every_variant(bundle: Bundle) -> None:
    picture = front.svg(front.front(bundle))
    texts = [part.text for part in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    for name in ("onnx-fp32", "onnx-int8", "openvino-int8 (chosen)", "openvino-fp32", "lower50 (refused)"):
        assert name in texts
    assert any("A <fast> one" in str(text) for text in texts)


SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture: str) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Boxes of the names, by a width of 5.6 pixels a letter (DejaVu Sans, a wide one, takes 5.4), and of the points."""
    root = ElementTree.fromstring(picture)
    names: list[tuple[float, ...]] = []
    dots: list[tuple[float, ...]] = []
    for text in root.iter(f"{SVG}text"):
        if text.get("fill") in front.COLORS.values() and text.get("text-anchor") == "start":
            x, y = float(text.attrib["x"]), float(text.attrib["y"])
            names.append((x, y - 9, x + 5.6 * len(text.text or ""), y + 3))
    for dot in root.iter(f"{SVG}circle"):
        x, y, r = (float(dot.attrib[name]) for name in ("cx", "cy", "r"))
        dots.append((x - r, y - r, x + r, y + r))
    return names, dots


def overlaps(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left[0] < right[2] and right[0] < left[2] and left[1] < right[3] and right[1] < left[3]


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_name_lies_over_another_name_or_a_point(bundle: Bundle, spread: float, seed: int) -> None:
    rng = random.Random(seed)
    names = [f"lower{share}-openvino-int8-accurate" for share in range(50, 62)] + ["onnx-fp32", "onnx-int8"]
    variants = tuple(
        variant(
            name, 0.9 + 0.05 * spread * rng.random(), 2 ** (4 * spread * rng.random()), 1000, is_refused=at % 3 == 1
        )
        for at, name in enumerate(names)
    )
    found, dots = drawn(front.svg(front.front(replace(bundle, variants=variants, chosen=names[0]))))
    assert len(found) == len(dots) == len(names)
    for at, box in enumerate(found):
        assert front.LEFT <= box[0] < box[2] <= front.WIDTH
        assert front.TOP <= box[1] < box[3] <= front.HEIGHT - front.BOTTOM
        assert not any(overlaps(box, other) for other in [*found[:at], *dots])


def test_a_name_that_must_go_away_is_tied_to_its_point() -> None:
    points = [labels.Point(x=50, y=50, low=50, high=50, text="name") for _ in range(6)]
    found = labels.place(points, (0, 0, 100, 100))
    assert [label.is_away for label in found].count(True) >= 1
    assert not found[0].is_away
    (crowded,) = labels.place([labels.Point(x=5, y=5, low=5, high=5, text="longer than the frame")], (0, 0, 20, 20))
    assert crowded.left == 0


def test_a_model_that_was_not_optimized_has_no_front(tmp_path: Path, colors: Colors) -> None:
    plain = colors.write(tmp_path / "plain")
    with pytest.raises(Conflict, match="must be optimized"):
        front.front(plain)


def test_another_machine_has_its_own_front_and_choice(bundle: Bundle, tmp_path: Path) -> None:
    made = hosts.record(bundle, hosts.parse(told()), folder=tmp_path / "new")
    assert bundles.read(made.folder) == made
    schema = json.loads(Path(bundles.__file__).with_name("bundle.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((made.folder / bundles.FILE).read_text(encoding="utf-8")), schema)
    assert (made.chosen, hosts.chosen_for(made, "camera-7")) == ("openvino-int8", "onnx-int8")
    found = front.front(made, "camera-7")
    rows = {row["name"]: row for row in found["variants"]}
    assert rows["onnx-int8"]["p50_ms"] == 40.0
    assert rows["onnx-int8"]["memory_bytes"] == 60_000_000
    assert rows["openvino-int8"]["p50_ms"] is None, "not measured there"
    assert {name for name, row in rows.items() if row["is_on_front"]} == {"onnx-fp32", "onnx-int8"}
    assert not rows["lower50"]["is_on_front"], "refused by its answers, however fast it is there"
    assert found["machine"]["cpu"] == "Cortex-A72"
    assert "openvino-int8" not in front.svg(found)
    assert bundles.read(bundle.folder) == bundle, "the old one stays"
    with pytest.raises(NotFound, match="camera-8"):
        hosts.chosen_for(made, "camera-8")


def test_the_target_decides_on_the_other_machine_too(bundle: Bundle, tmp_path: Path) -> None:
    body = told()
    body["variants"][1]["latency_ms"] = {"p50": 100.0, "p99": 100.0}
    quick = hosts.record(bundle, hosts.parse(body), folder=tmp_path / "a")
    small = hosts.record(bundle, hosts.parse(body), folder=tmp_path / "b", target="size")
    assert (hosts.chosen_for(quick, "camera-7"), hosts.chosen_for(small, "camera-7")) == ("onnx-fp32", "onnx-int8")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"kind": "other"}, Invalid, "kind must be loopworks-bench; got other"),
        ({"format": 2}, TooNew, "format 1 or older"),
        ({"variants": []}, Invalid, "at least one variant"),
        ({"variants": [{"name": "onnx-int8"}]}, Invalid, r"variants\[0\].latency_ms must be given"),
        ({"host": {"name": "../x"}}, Invalid, "host.name"),
        ({"model": {"name": "litter"}}, Invalid, "model.number must be given"),
        ({"model": 7}, Invalid, "model must be an object"),
    ],
)
def test_what_is_no_measurement_is_refused(change: dict[str, Any], error: type[LoopworksError], words: str) -> None:
    with pytest.raises(error, match=words):
        hosts.parse(told(**change))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("throughput_per_s", 0),
        ("memory_mb", -1),
        ("start_s", "soon"),
        ("batch", 0),
        ("latency_ms", {"p50": 3, "p99": 2}),
    ],
)
def test_figures_that_cannot_be_are_refused(field: str, value: Any) -> None:
    body = told()
    body["variants"][0][field] = value
    with pytest.raises(Invalid, match=r"variants\[0\]"):
        hosts.parse(body)


def test_a_variant_that_the_model_does_not_have_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    body = told()
    body["variants"][0]["name"] = "tensorrt"
    with pytest.raises(Invalid, match="variant measured on camera-7 must be one of onnx-fp32"):
        hosts.record(bundle, hosts.parse(body), folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        hosts.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(Invalid, match=r"bad\.json must be JSON"):
        hosts.read(tmp_path / "bad.json")


def test_the_table_tells_below_it_why_a_variant_is_refused(bundle: Bundle) -> None:
    class Spy:
        def __init__(self) -> None:
            self.rows: list[tuple[object, ...]] = []
            self.lines: list[str] = []

        def table(self, columns: object, rows: list[tuple[object, ...]], title: str) -> None:
            self.rows = rows

        def say(self, line: str) -> None:
            self.lines.append(line)

    out: Any = Spy()
    show_front(out, front.front(bundle), "litter:2")
    assert [row[-1] for row in out.rows] == ["front", "front", "chosen, front", "", "refused"]
    assert [row[4] for row in out.rows][:3] == ["125 (8)", "200 (8)", "500 (8)"]
    assert "lower50 refused: drops 0.35 <on val>" in out.lines
