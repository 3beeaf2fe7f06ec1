"""What a pipeline is: source, model, tracking, places, filters, sinks; read from YAML or JSON and checked at once."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loopworks.core.errors import Invalid
from loopworks.core.params import expectation

NAME = r"^[A-Za-z0-9_-]{1,64}$"
STREAMS = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "udp", "rtp")
"""Schemes of streams that are opened; all others (file:, concat:, data: ...) are refused."""
BROKERS = ("mqtt", "mqtts")
Share = Annotated[float, Field(ge=0, le=1)]
Point = tuple[Share, Share]
"""x and y as shares of the picture's width and height, from its upper left corner."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Taken(_Part):
    """Which frames of a source are taken."""

    every: Annotated[int, Field(ge=1)] = 1
    """Every N-th frame."""
    rate: Annotated[float, Field(ge=0, le=1000)] = 0
    """At most so many frames a second of the source's own time; 0: all."""


class _Live(_Taken):
    policy: Literal["latest", "all"] = "latest"
    """latest: a frame takes the place of one that still waits, and the drop is counted; all: the source waits."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10
    """Silence after which the source counts as gone, in seconds."""
    backoff_s: Annotated[float, Field(gt=0, le=600)] = 1
    """First pause before a new attempt to connect; doubles each time, with jitter, up to ``backoff_most_s``."""
    backoff_most_s: Annotated[float, Field(gt=0, le=3600)] = 60
    """Longest such pause."""


class FileSource(_Taken):
    """A video file, once from its beginning to its end; nothing is dropped."""

    kind: Literal["file"]
    path: str


class StreamSource(_Live):
    """A camera or stream behind a URL: RTSP, HTTP (MJPEG, HLS), RTMP, SRT, UDP."""

    kind: Literal["stream"]
    url: str
    transport: Literal["tcp", "udp"] = "tcp"
    """Of RTSP."""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _checked(value, STREAMS)


class DeviceSource(_Live):
    """A camera of this machine."""

    kind: Literal["device"]
    path: Annotated[str, Field(pattern=r"^/dev/video\d+$")] = "/dev/video0"
    """Its device, as Video4Linux has it."""
    size: Annotated[str, Field(pattern=r"^(\d+x\d+)?$")] = ""
    """Width x height to ask for, such as 1280x720; empty: the device's own."""


class FolderSource(_Taken):
    """New image files in a folder, each once and when it is whole; nothing is dropped."""

    kind: Literal["folder"]
    path: str
    poll_s: Annotated[float, Field(gt=0, le=3600)] = 0.5
    """How often to look; a file is taken when it has not changed between two looks."""
    existing: bool = True
    """Whether files that are there at the very first start are taken too."""


class MqttSource(_Live):
    """Messages of an MQTT topic: image files for models of images, JSON for models of rows and texts."""

    kind: Literal["mqtt"]
    url: str
    """mqtt://USER:PASSWORD@HOST:PORT"""
    topic: Annotated[str, Field(min_length=1, max_length=1024)]
    qos: Literal[0, 1, 2] = 0

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _checked(value, BROKERS)


Source = Annotated[FileSource | StreamSource | DeviceSource | FolderSource | MqttSource, Field(discriminator="kind")]


class Track(_Part):
    """Following boxes from frame to frame; see ``tracking``."""

    high: Share = 0.5
    """Score from which a box may begin or keep a track."""
    low: Share = 0.1
    """Score from which a box may keep a track that no better one fits."""
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Least intersection over union (times the score) of a box and where its track should be."""
    keep_s: Annotated[float, Field(gt=0, le=600)] = 1.0
    """How long a track lives on unseen, in seconds."""


class Line(_Part):
    """Counts what crosses it. ``in``: from its left to its right, looking from ``start`` to ``end``."""

    name: Annotated[str, Field(pattern=NAME)]
    start: Point
    end: Point

    @model_validator(mode="after")
    def _long(self) -> "Line":
        if self.start == self.end:
            raise ValueError("a line between two different points")
        return self


class Zone(_Part):
    """Says what is in it, for how long, and how much came and went."""

    name: Annotated[str, Field(pattern=NAME)]
    corners: Annotated[tuple[Point, ...], Field(min_length=3, max_length=100)]


class Filters(_Part):
    """Which results reach the sinks: those that fulfil all of these."""

    labels: tuple[str, ...] = ()
    """Only objects (or answers) of these classes; empty: all."""
    score: Share = 0
    """Only objects with at least this score."""
    zones: tuple[str, ...] = ()
    """Only objects in one of these zones."""
    crossed: bool = False
    """Only frames in which something crossed a line."""
    empty: bool = False
    """Also frames in which nothing is left."""
    gap_s: Annotated[float, Field(ge=0)] = 0
    """Least time between two results, in seconds."""


class FolderSink(_Part):
    """A JPEG and a JSON file for each result."""

    kind: Literal["folder"]
    path: str
    drawn: bool = True
    """Whether the results are drawn into the picture."""
    images: bool = True
    quality: Annotated[int, Field(ge=1, le=100)] = 85


class TableSink(_Part):
    """A row for each object: appended to a CSV file, or Parquet files in a folder."""

    kind: Literal["csv", "parquet"]
    path: str
    rows: Annotated[int, Field(ge=1)] = 10_000
    """Rows of a Parquet file."""
    hold_s: Annotated[float, Field(gt=0)] = 60
    """Longest time until rows reach a Parquet file."""


class _Queued(_Part):
    queue: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Results that may wait; what is more is dropped and counted (of a file or folder: the source waits)."""


class WebhookSink(_Queued):
    """Each result as JSON, by POST."""

    kind: Literal["webhook"]
    url: str
    headers: dict[str, str] = {}
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10
    tries: Annotated[int, Field(ge=1, le=100)] = 5
    """How often one result is sent, with growing pauses, where the receiver is away, busy (429) or at fault (5xx)."""
    backoff_s: Annotated[float, Field(gt=0, le=600)] = 0.5

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _checked(value, ("http", "https"))


class MqttSink(_Queued):
    """Each result as JSON to a topic."""

    kind: Literal["mqtt"]
    url: str
    topic: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^#+]+$")]
    qos: Literal[0, 1, 2] = 1
    retain: bool = False
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _checked(value, BROKERS)


class DatabaseSink(_Queued):
    """A row for each object into a table of a database, which is made where it is missing."""

    kind: Literal["database"]
    url: str = ""
    """sqlite:///FILE or postgresql://USER@HOST/NAME; empty: a SQLite file in the pipeline's folder."""
    table: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")] = "results"

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("empty, or begin with sqlite:/// or postgresql://")
        return value


class DatasetSink(_Queued):
    """Frames into a dataset, without labels and with the tag ``inbox``; what the model said is kept beside them."""

    kind: Literal["dataset"]
    dataset: str
    uncertain: Share = 0
    """Only frames that the model is so unsure of."""
    gap_s: Annotated[float, Field(ge=0)] = 1
    """Least time between two frames, in seconds."""


Sink = Annotated[
    FolderSink | TableSink | WebhookSink | MqttSink | DatabaseSink | DatasetSink, Field(discriminator="kind")
]


class Preview(_Part):
    """The stream of drawn pictures; costs nothing while nobody looks."""

    rate: Annotated[float, Field(gt=0, le=30)] = 10
    """At most so many pictures a second."""
    clients: Annotated[int, Field(ge=1, le=100)] = 8
    width: Annotated[int, Field(ge=64, le=4096)] = 960
    """At most so wide, in pixels."""


class Pipeline(_Part):
    """From a source through a model to sinks."""

    name: Annotated[str, Field(pattern=NAME)]
    source: Source
    model: Annotated[str, Field(pattern=NAME)]
    """Name of a deployment."""
    track: Track | None = None
    lines: tuple[Line, ...] = ()
    zones: tuple[Zone, ...] = ()
    filters: Filters = Filters()
    sinks: tuple[Sink, ...] = ()
    preview: Preview = Preview()

    @model_validator(mode="after")
    def _fits(self) -> "Pipeline":
        names = [*(line.name for line in self.lines), *(zone.name for zone in self.zones)]
        if len(set(names)) != len(names):
            raise ValueError("a pipeline whose lines and zones have names of their own")
        if self.lines and self.track is None:
            raise ValueError("a pipeline with track, where it has lines: only what is followed can cross one")
        if unknown := set(self.filters.zones) - {zone.name for zone in self.zones}:
            raise ValueError(f"a pipeline whose filters name its own zones, not {', '.join(sorted(unknown))}")
        return self

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; ``read`` takes it."""
        return self.model_dump(mode="json", exclude_defaults=True) | {
            "source": self.source.model_dump(mode="json", exclude_unset=True),
            "sinks": [sink.model_dump(mode="json", exclude_unset=True) for sink in self.sinks],
        }

    @property
    def is_lossless(self) -> bool:
        """Whether no frame of the source may be dropped."""
        return isinstance(self.source, FileSource | FolderSource) or self.source.policy == "all"


def read(given: str | Path | Mapping[str, Any]) -> Pipeline:
    """A pipeline from a mapping, or from a file of YAML or JSON, whose relative paths begin at the file's folder.

    Raises: Invalid: the first fault; the hint names the others.
    """
    body, base = (given, Path.cwd()) if isinstance(given, Mapping) else _parsed(Path(given).expanduser())
    try:
        found = Pipeline.model_validate(body)
    except ValidationError as error:
        faults = [_fault(one) for one in error.errors(include_url=False)]
        first, *more = faults
        raise Invalid(*first, "; ".join(f"{a} must be {b}; got {c}" for a, b, c in more)) from None
    return _absolute(found, base)


def hidden(url: str) -> str:
    """A URL without its password and query, for people."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    user, _, host = parts.netloc.rpartition("@")
    shown = f"{user.partition(':')[0]}@{host}" if user else host
    return urlunsplit((parts.scheme, shown, parts.path, "", ""))


def target(sink: Sink) -> str:
    """Where a sink's results go, for people."""
    if isinstance(sink, FolderSink | TableSink):
        return sink.path
    if isinstance(sink, DatasetSink):
        return sink.dataset
    if isinstance(sink, DatabaseSink):
        return f"{hidden(sink.url)} {sink.table}".strip()
    return f"{hidden(sink.url)} {sink.topic}" if isinstance(sink, MqttSink) else hidden(sink.url)


def shown(body: Any) -> Any:
    """A definition as ``to_json`` gave it, with no secret in it: passwords of URLs, values of headers."""
    if isinstance(body, dict):
        return {
            key: hidden(value)
            if key == "url" and isinstance(value, str)
            else dict.fromkeys(value, "...")
            if key == "headers"
            else shown(value)
            for key, value in body.items()
        }
    return [shown(one) for one in body] if isinstance(body, list) else body


def _checked(url: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme.lower() not in schemes or not url.isprintable() or " " in url:
        raise ValueError(f"a URL with a host that begins with {', '.join(f'{one}://' for one in schemes)}")
    return url


def _parsed(path: Path) -> tuple[Any, Path]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        # Built-in types alone: no loader that can build objects.
        body = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise Invalid(str(path), "a readable file", error.strerror or str(error)) from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise Invalid(str(path), "YAML or JSON in UTF-8", " ".join(str(error).split())) from None
    if not isinstance(body, Mapping):
        raise Invalid(str(path), "a mapping: name, source, model, sinks", type(body).__name__)
    return body, path.resolve().parent


def _fault(error: Any) -> tuple[str, str, object]:
    """Where, what must be, and what is."""
    kinds = {"file", "stream", "device", "folder", "mqtt", "csv", "parquet", "webhook", "database", "dataset"}
    where = ".".join(str(part) for part in error["loc"] if part not in kinds or part == error["loc"][-1]) or "pipeline"
    if error["type"] == "missing":
        return where, "given", "nothing"
    if error["type"] == "extra_forbidden":
        return where, "a known field", error["loc"][-1]
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        expected = str(error.get("ctx", {}).get("expected_tags", "given"))
        found = error["input"].get("kind", "nothing") if isinstance(error["input"], Mapping) else error["input"]
        return f"{where}.kind", f"one of {expected}" if expected != "given" else "given", found
    got = error["input"]
    if isinstance(got, str) and "://" in got:
        got = hidden(got)
    return (
        where,
        expectation(error["msg"]),
        json.dumps(shown(got), default=str)[:120] if isinstance(got, Mapping) else got,
    )


def _absolute(found: Pipeline, base: Path) -> Pipeline:
    """Paths in full, so that whoever runs it later finds the same files."""

    def full(part: Any) -> Any:
        if isinstance(part, FileSource | FolderSource | FolderSink | TableSink):
            return part.model_copy(update={"path": os.path.abspath(base / os.path.expanduser(part.path))})
        if isinstance(part, DatabaseSink) and part.url.startswith("sqlite:///"):
            return part.model_copy(update={"url": f"sqlite:///{os.path.abspath(base / part.url[10:])}"})
        return part

    return found.model_copy(update={"source": full(found.source), "sinks": tuple(map(full, found.sinks))})
