"""A definition: each fault is one clear error, and none is found only when it runs."""

import copy
from pathlib import Path
from typing import Any

import pytest

from loopworks.core.errors import Invalid
from loopworks.infer.live.definition import hidden, read, shown

GOOD: dict[str, Any] = {
    "name": "crossing",
    "source": {"kind": "stream", "url": "rtsp://ann:secret@10.0.0.1/one"},
    "model": "street",
    "track": {},
    "lines": [{"name": "gate", "start": [0.5, 0.0], "end": [0.5, 1.0]}],
    "zones": [{"name": "island", "corners": [[0, 0], [1, 0], [1, 1]]}],
    "sinks": [{"kind": "webhook", "url": "https://example.org/x?key=1", "headers": {"Authorization": "Bearer t"}}],
}
FAULTS: list[tuple[str, Any, str]] = [
    ("name", "a b", "name must be string should match pattern"),
    ("name", None, "name must be given; got nothing"),
    ("source", None, "source must be given"),
    ("source.kind", None, "source.kind must be given"),
    ("source.kind", "tape", "source.kind must be one of 'file', 'stream', 'device', 'folder', 'mqtt'; got tape"),
    ("source.url", "file:///etc/passwd", "source.url must be a URL with a host that begins with rtsp://"),
    ("source.url", "concat:a|b", "source.url must be a URL with a host"),
    ("source.url", "rtsp://", "source.url must be a URL with a host"),
    ("source.url", "rtsp://h:port/", "source.url must be a URL with a host"),
    ("source.policy", "newest", "source.policy must be 'latest' or 'all'; got newest"),
    ("source.every", 0, "source.every must be greater than or equal to 1; got 0"),
    ("source.rate", "fast", "source.rate must be a valid number"),
    ("source.colour", 1, "source.colour must be a known field; got colour"),
    ("speed", 1, "speed must be a known field"),
    ("track", None, "must be a pipeline with track, where it has lines"),
    ("track.high", 2, "track.high must be less than or equal to 1"),
    ("lines.0.end", [0.5, 0.0], "must be a line between two different points"),
    ("lines.0.end", [0.5, 2], "lines.0.end.1 must be less than or equal to 1; got 2"),
    ("lines.0.name", "island", "whose lines and zones have names of their own"),
    ("zones.0.corners", [[0, 0], [1, 1]], "zones.0.corners must be"),
    ("filters", {"zones": ["sea"]}, "whose filters name its own zones, not sea"),
    ("sinks.0.url", "ftp://x/y", "sinks.0.url must be a URL with a host that begins with http://"),
    ("sinks.0.kind", "mail", "sinks.0.kind must be one of"),
    ("sinks.0", {"kind": "mqtt", "url": "mqtt://h", "topic": "a/#"}, "sinks.0.topic must be"),
    ("sinks.0", {"kind": "database", "url": "mysql://h/x"}, "sinks.0.url must be empty, or begin with sqlite:///"),
    ("sinks.0", {"kind": "database", "table": "a; drop"}, "sinks.0.table must be"),
]


def changed(place: str, value: Any) -> dict[str, Any]:
    body = copy.deepcopy(GOOD)
    at: Any = body
    *way, last = place.split(".")
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    if isinstance(at, list):
        at[int(last)] = value
    elif value is None:
        del at[last]
    else:
        at[last] = value
    return body


def test_a_good_one_comes_back_from_json_as_it_was() -> None:
    found = read(GOOD)
    assert read(found.to_json()) == found


@pytest.mark.parametrize(("place", "value", "words"), FAULTS, ids=[f"{a}={b}" for a, b, _ in FAULTS])
def test_a_fault_is_named_with_its_place(place: str, value: Any, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(changed(place, value))
    assert words in caught.value.message
    assert "secret" not in str(caught.value)


def test_all_other_faults_are_in_the_hint() -> None:
    body = changed("source.every", 0)
    body["model"] = 7
    with pytest.raises(Invalid) as caught:
        read(body)
    assert "source.every" in caught.value.message
    assert "model must be a valid string; got 7" in caught.value.hint


def test_a_file_says_where_its_relative_paths_begin(tmp_path: Path) -> None:
    (file := tmp_path / "p.yaml").write_text(
        "name: p\nmodel: m\nsource: {kind: file, path: in.mp4}\nsinks: [{kind: csv, path: out/a.csv}]\n"
    )
    found = read(file)
    assert found.source.path == str(tmp_path / "in.mp4")  # type: ignore[union-attr]
    assert found.sinks[0].path == str(tmp_path / "out" / "a.csv")  # type: ignore[union-attr]
    assert found.is_lossless
    assert not read(GOOD).is_lossless


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "YAML or JSON"),
        ("- 1", "a mapping"),
        ("!!python/object/apply:os.system ['true']", "YAML or JSON"),
    ],
)
def test_a_file_that_holds_no_definition_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (file := tmp_path / "p.yaml").write_text(text)
    with pytest.raises(Invalid, match=words):
        read(file)
    with pytest.raises(Invalid, match="a readable file"):
        read(tmp_path / "none.yaml")


def test_secrets_are_shown_to_nobody() -> None:
    told = shown(read(GOOD).to_json())
    assert told["source"]["url"] == "rtsp://ann@10.0.0.1/one"
    assert told["sinks"][0]["url"] == "https://example.org/x"
    assert told["sinks"][0]["headers"] == {"Authorization": "..."}
    assert hidden("/dev/video0") == "/dev/video0"


def test_the_example_is_a_definition() -> None:
    found = read(Path(__file__).parents[3] / "examples" / "live.yaml")
    assert (found.name, [line.name for line in found.lines]) == ("crossing", ["gate"])
