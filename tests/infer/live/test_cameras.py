"""Cameras as they are: lost and found again, silent, locked, of another size in the middle."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.infer.live.rtsp import RtspCamera

import loopworks as lw
from loopworks.core.errors import Unreachable
from loopworks.infer.live.definition import DeviceSource
from loopworks.infer.live.frames import jpeg
from loopworks.infer.live.runner import Runner
from loopworks.infer.live.sources import frames

pytestmark = pytest.mark.live


@contextmanager
def watching(space: lw.Workspace, url: str, out: Path | None = None, **source: Any) -> Iterator[Runner]:
    """A pipeline on this stream, at work."""
    sinks = [{"kind": "folder", "path": str(out), "images": False}] if out else []
    given = {"kind": "stream", "url": url, "policy": "all", "timeout_s": 5, "backoff_s": 0.05, **source}
    space.live.add({"name": "street", "source": given, "model": "balls", "sinks": sinks})
    with space._engine("balls") as pick, space.live.running("street", pick) as runner:
        yield runner


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_of_rtsp_are_answered(
    space: lw.Workspace, tmp_path: Path, paint: Any, servers: Any, wait_until: Any, transport: str
) -> None:
    camera = servers(RtspCamera([paint(8)], auth="Digest"))
    with watching(space, camera.url, tmp_path / "out", transport=transport) as runner:
        wait_until(lambda: runner.frames_out >= 5)
        assert runner.status()["state"] == "running"
    assert transport.upper() in camera.transports[0]
    told = json.loads(sorted((tmp_path / "out").glob("*.json"))[0].read_text("utf-8"))
    assert told["objects"][0]["box"] == pytest.approx([8, 24, 16, 16], abs=2.5)


def test_a_camera_that_breaks_off_and_stays_away_is_found_again(
    space: lw.Workspace, paint: Any, servers: Any, wait_until: Any
) -> None:
    camera = RtspCamera([paint(8)], frames=60, pause_s=0.005)
    with watching(space, camera.url) as runner:
        wait_until(lambda: camera.connections >= 2 and runner.frames_out)
        camera.close()
        wait_until(lambda: "Connection refused" in runner.error)
        before, told = runner.frames_out, runner.status()
        assert (told["state"], told["reconnects"] >= 2) == ("reconnecting", True)
        servers(RtspCamera([paint(8)], port=camera.port))
        wait_until(lambda: runner.frames_out > before)
        assert runner.status()["state"] == "running"
    assert "secret" not in json.dumps(space.live.status("street"))


def test_a_camera_that_falls_silent_is_given_up_when_its_time_is_up(
    space: lw.Workspace, paint: Any, servers: Any, doubles: Any, wait_until: Any
) -> None:
    silent = servers(RtspCamera([paint(8)], stall=60, pause_s=0.005))
    pictures = servers(doubles.camera([jpeg(paint(8), 95)], frames=30, stalls=True))
    for camera in (silent, pictures):
        with watching(space, camera.url, timeout_s=0.5) as runner:
            wait_until(lambda: "must go on; got: nothing for 0.5 s" in runner.error)  # noqa: B023
            wait_until(lambda: camera.connections >= 2)  # noqa: B023
        space.live.remove("street")


@pytest.mark.parametrize("auth", ["Basic", "Digest"])
def test_a_wrong_password_ends_a_pipeline_and_is_not_tried_again(
    space: lw.Workspace, paint: Any, servers: Any, auth: str
) -> None:
    camera = servers(RtspCamera([paint(8)], auth=auth))
    with watching(space, camera.url.replace("secret", "guess")) as runner:
        assert runner.join(20)
    told = space.live.status("street")
    assert (told["state"], told["is_wanted"], camera.connections) == ("failed", False, 1)
    assert "must let us in; got: Server returned 401" in told["error"]
    assert "USER:PASSWORD" in told["error"]
    assert "guess" not in json.dumps(told)


def test_a_camera_may_change_its_size(
    space: lw.Workspace, tmp_path: Path, paint: Any, servers: Any, wait_until: Any
) -> None:
    large = np.kron(paint(8), np.ones((4, 4, 1), np.uint8))
    camera = servers(RtspCamera([paint(8)], then=[large]))
    with watching(space, camera.url, tmp_path / "out") as runner:
        wait_until(lambda: runner.frames_in >= 60)
    boxes = [
        json.loads(path.read_text("utf-8"))["objects"][0]["box"] for path in sorted((tmp_path / "out").glob("*.json"))
    ]
    assert boxes[0] == pytest.approx([8, 24, 16, 16], abs=2.5)
    assert boxes[-1] == pytest.approx([32, 96, 64, 64], abs=8)
    assert runner.reconnects == 0


@pytest.mark.parametrize("path", ["/dev/null", "/dev/video99"])
def test_a_device_that_is_no_camera_says_so_in_one_line(tmp_path: Path, path: str) -> None:
    source = DeviceSource(kind="device").model_copy(update={"path": path})
    began = time.monotonic()
    with pytest.raises(Unreachable, match=rf"^(device )?{path} must (answer with a video|be there); got[^\n]*$"):
        next(frames(source, "image", tmp_path, lambda: False))
    assert time.monotonic() - began < source.timeout_s
