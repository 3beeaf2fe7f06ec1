"""Where frames come from: files, streams, devices, folders, MQTT topics.

A source gives frames until it ends, or raises: ``Unreachable`` where another attempt may work, anything else where none
will.
"""

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Denied, Invalid, Missing, NotFound, Unreachable
from loopworks.core.image import SUFFIXES
from loopworks.infer.live import definition as said
from loopworks.infer.live.definition import hidden
from loopworks.infer.live.frames import Frame
from loopworks.infer.live.mqtt import Connection

log = logging.getLogger(__name__)
Stopped = Callable[[], bool]
MOST_BYTES = 32 * 1024 * 1024
"""Largest message or watched file."""
DAMAGED = 50
"""Packets in a row that cannot be decoded, after which a stream is opened anew."""
PROTOCOLS = "rtsp,rtp,rtcp,udp,tcp,tls,http,https,httpproxy,rtmp,rtmps,srt,crypto"
"""What a stream may lead to: a playlist from outside must not open files of this machine."""


def frames(
    source: said.Source,
    media: str,
    folder: Path,
    stopped: Stopped,
    opened: Callable[[], None] = lambda: None,
    *,
    after: int = -1,
    max_pixels: int = 1 << 30,
) -> Iterator[Frame]:
    """The frames of a source, those that it wants to be taken.

    Args:
        source: as defined.
        media: what the model takes: image, text, row.
        folder: of the pipeline, for what must outlive a restart.
        stopped: asked between frames.
        opened: called when the source is there, though nothing may have come from it yet.
        after: of a file: go on after the frame with this index.
        max_pixels: the largest frame that is taken.
    Raises:
        Unreachable: nobody answers, or the stream broke off.
        Denied: a camera that does not let us in; asked again and again, many lock the account.
        NotFound, Invalid, Missing: it will not work another time either.
    """
    if media != "image" and not isinstance(source, said.MqttSource):
        raise Invalid("model of a pipeline", "one for images, where the source is none of MQTT", f"one for {media}s")
    if isinstance(source, said.MqttSource):
        found = _messages(source, media, stopped, opened)
    elif isinstance(source, said.FolderSource):
        found = _watched(source, folder, stopped, opened)
    else:
        found = _decoded(source, stopped, opened, max_pixels)
    return _taken(found, source, after)


def _taken(found: Iterator[Frame], source: said.Source, after: int) -> Iterator[Frame]:
    due: float | None = None
    for frame in found:
        if frame.index % source.every or frame.index <= after:
            continue
        if source.rate:
            if due is not None and frame.time_s < due - 1e-6 and frame.time_s > due - 2 / source.rate:
                continue
            # From when it was due, not from when it came: else the rate would sink below what is asked for.
            late = due is None or frame.time_s - due > 1 / source.rate or frame.time_s < due - 1e-6
            due = (frame.time_s if late or due is None else due) + 1 / source.rate
        yield frame


# ---- video


def _decoded(
    source: said.FileSource | said.StreamSource | said.DeviceSource,
    stopped: Stopped,
    opened: Callable[[], None],
    max_pixels: int,
) -> Iterator[Frame]:
    try:
        import av
    except ImportError:
        raise Missing("av", "video", "sources of pipelines") from None
    faults = (av.error.FFmpegError, OSError, ValueError)
    what, how = _opening(source)
    is_file = isinstance(source, said.FileSource)
    name = source.path if isinstance(source, said.FileSource) else hidden(what)
    try:
        container: Any = av.open(what, **how)
    except faults as error:
        if isinstance(source, said.FileSource):
            raise Invalid(source.path, "a video", _reason(error)) from None
        if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
            hint = "write user and password into the URL: rtsp://USER:PASSWORD@HOST/..., signs such as @ as %40"
            raise Denied(f"{name} must let us in; got: {_reason(error)}", hint) from None
        told = _silence(error, source.timeout_s)
        raise Unreachable(f"{name} must answer with a video; got: {told}") from None
    with container:
        if not container.streams.video:
            raise Invalid(name, "a source with a picture", "none")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if is_file else "SLICE"  # threads by frame hold frames back
        began = time.time()
        opened()
        limit = 0.0 if isinstance(source, said.FileSource) else source.timeout_s
        for index, frame in enumerate(_whole(container, stream, name, faults, limit, is_file=is_file)):
            if stopped():
                return
            if frame.width * frame.height > max_pixels:
                size = f"{frame.width} x {frame.height}"
                raise Invalid(name, f"of frames with at most {max_pixels} pixels", size)
            at = frame.time if frame.time is not None else index / 25
            time_s, total = (float(at), int(stream.frames or 0)) if is_file else (time.time(), 0)
            yield Frame(index=index, time_s=time_s, total=total, pixels=_upright(frame))
    if not is_file:
        raise Unreachable(f"{name} must go on; it ended after {time.time() - began:.1f} s")


def _whole(container: Any, stream: Any, name: str, faults: Any, limit_s: float, *, is_file: bool) -> Iterator[Any]:
    """What the decoder gives; where it stumbles over a packet the next one is tried.

    Raises: Unreachable: a stream broke off. Invalid: a file did, after all that it held was given.
    """
    packets = container.demux(stream)
    damaged, told, count = 0, "", 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except faults as error:
            if not is_file:
                raise Unreachable(f"{name} must go on; got: {_silence(error, limit_s)}") from None
            told = _reason(error)
            break
        try:
            found = packet.decode()
        except faults as error:
            damaged, told = damaged + 1, _reason(error)
            if damaged > DAMAGED and not is_file:
                raise Unreachable(f"{name} must be decodable; got {damaged} damaged packets: {told}") from None
            continue
        yield from found
        count += len(found)
        damaged = damaged if is_file else 0
    if is_file and not told and count < int(stream.frames or 0):  # a file that was cut off often ends without an error
        told = f"{count} of {stream.frames} frames"
    if is_file and told:
        raise Invalid(name, "whole to its end", told, "the frames that could be read were answered")


def _opening(source: said.FileSource | said.StreamSource | said.DeviceSource) -> tuple[str, dict[str, Any]]:
    """What FFmpeg opens, and how."""
    if isinstance(source, said.FileSource):
        if not os.path.isfile(source.path):
            raise NotFound("video", source.path, hint="check the path")
        # A path with a scheme in it (http://, concat:...) would be opened as such: file: says that it is none.
        return f"file:{source.path}", {}
    limit = {"timeout": (source.timeout_s, source.timeout_s)}
    if isinstance(source, said.DeviceSource):
        if not os.path.exists(source.path):
            raise Unreachable(f"device {source.path} must be there; got none")
        size = {"video_size": source.size} if source.size else {}
        return source.path, {"format": "v4l2", "options": size, **limit}
    options = {"protocol_whitelist": PROTOCOLS, "fflags": "nobuffer"}
    if source.url.lower().startswith("rtsp"):
        options["rtsp_transport"] = source.transport
    return source.url, {"options": options, **limit}


def _upright(frame: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = int(frame.rotation or 0) // 90 % 4
    return np.rot90(pixels, turns) if turns else pixels


def _silence(error: BaseException, limit_s: float) -> str:
    """What FFmpeg calls an exit is the end of our patience."""
    return f"nothing for {limit_s:g} s" if type(error).__name__ == "ExitError" else _reason(error)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", "") or str(error) or type(error).__name__
    return " ".join(str(text).split())


# ---- folders


class Seen:
    """Files that were taken before, also before a restart: a line each in a file that only grows."""

    def __init__(self, path: Path) -> None:
        """Read what ``path`` holds; it is made where it is missing."""
        self._path = path
        self.is_new = not path.exists()
        lines = [] if self.is_new else path.read_text(encoding="utf-8").splitlines()
        self._keys = set(lines)

    def __contains__(self, key: str) -> bool:
        """Whether it was taken."""
        return key in self._keys

    def add(self, key: str) -> None:
        """It is taken now."""
        self._keys.add(key)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(key + "\n")


def _watched(source: said.FolderSource, folder: Path, stopped: Stopped, opened: Callable[[], None]) -> Iterator[Frame]:
    root = Path(source.path)
    seen = Seen(folder / "seen.txt")
    before: dict[str, str] = {}
    given: set[str] = set()
    """Those that wait for their answer; a kill before it gives them again."""
    index = 0
    if seen.is_new and not source.existing:
        for name, key in _listed(root).items():
            seen.add(f"{name}\t{key}")
    while not stopped():
        now = _listed(root)
        opened()
        for name, key in sorted(now.items()):
            mark = f"{name}\t{key}"
            if mark in seen or mark in given or before.get(name) != key:
                continue  # a file that has changed since the last look may still be written
            try:
                data = (root / name).read_bytes()
            except FileNotFoundError:
                continue  # moved away meanwhile
            given.add(mark)
            settle = functools.partial(seen.add, mark)
            yield Frame(index=index, time_s=time.time(), name=name, content=data, settle=settle)
            index += 1
            if stopped():
                return
        before = now
        _pause(source.poll_s, stopped)


def _listed(root: Path) -> dict[str, str]:
    """Image files in the folder, and what changes while they are written."""
    try:
        with os.scandir(root) as entries:
            found = {}
            for entry in entries:
                if not entry.name.isprintable() or os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
                    continue
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    told = entry.stat()
                    if 0 < told.st_size <= MOST_BYTES:
                        found[entry.name] = f"{told.st_size}\t{told.st_mtime_ns}"
            return found
    except OSError as error:
        raise Unreachable(f"folder {root} must be readable; got: {error.strerror}") from None


def _pause(seconds: float, stopped: Stopped) -> None:
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))


# ---- MQTT


def _messages(source: said.MqttSource, media: str, stopped: Stopped, opened: Callable[[], None]) -> Iterator[Frame]:
    index = 0
    with Connection(source.url, source.timeout_s) as connection:
        opened()
        for topic, payload in connection.messages(source.topic, source.qos, stopped):
            content = _content(payload, media)
            if content is not None:
                yield Frame(index=index, time_s=time.time(), name=topic, content=content)
                index += 1


def _content(payload: bytes, media: str) -> Any:
    """What a message holds for the model; ``None`` where that is nothing, which the log says."""
    if len(payload) > MOST_BYTES:
        log.warning("message left out bytes=%s", len(payload))
        return None
    if media == "image":
        return payload or None
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        body = payload.decode("utf-8", "replace") if media == "text" else None
    if media == "text" and isinstance(body, dict):
        body = body.get("text")
    if isinstance(body, str if media == "text" else dict):
        return body
    log.warning("message left out: it holds no %s", media)
    return None
