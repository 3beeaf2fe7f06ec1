"""Many answers in one response, and answers in other forms than JSON."""

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.server.run import ServerThread

Photo = Callable[..., bytes]
PATIENCE_S = 20.0


def lines(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_accept_chooses_csv_or_a_picture(client: TestClient, photo: Photo) -> None:
    def ask(form: str) -> Any:
        return client.post("/predict/colors", content=photo("red"), headers={"accept": form})

    table = ask("text/csv")
    assert table.headers["content-type"].startswith("text/csv")
    assert table.text.splitlines()[0] == "item,label,score"
    assert table.text.splitlines()[1].startswith("image,red,0.")
    assert table.headers["loopworks-prediction"].startswith("colors/1/")
    picture = ask("image/*")
    assert picture.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(picture.content)) as found:
        assert found.width == 320  # so small a picture is drawn ten times as large
        assert found.height > 320  # with the class in a bar below it
    for form, words in (("image/webp", "Accept must be one of"), ("application/coco+json", "one for places in images")):
        answer = ask(form)
        assert answer.status_code == 422
        assert words in answer.json()["error"]["message"]


def test_a_batch_is_answered_line_by_line_in_order(client: TestClient, photo: Photo) -> None:
    names = [("red", "green", "blue")[i % 3] for i in range(300)]
    files = [("file", ("same.png", photo(name, seed=i), "image/png")) for i, name in enumerate(names)]
    files[70] = ("file", ("same.png", b"no image", "image/png"))
    found = lines(client.post("/predict/colors/batch", files=files))
    assert len(found) == 300
    assert found[70]["problem"]["where"] == "same.png (71)"
    for i, (row, name) in enumerate(zip(found, names, strict=True)):
        assert i == 70 or row["chosen"] == [name], i
    assert 'outcome="done"} 5.0' in client.get("/metrics").text


def test_a_part_of_a_batch_that_is_all_bad_is_told_item_by_item(client: TestClient) -> None:
    files = [("file", (f"{i}.png", b"no image", "image/png")) for i in range(3)]
    found = lines(client.post("/predict/colors/batch", files=files))
    assert [row["problem"]["where"] for row in found] == ["0.png", "1.png", "2.png"]


def test_a_batch_as_events_and_an_empty_one(client: TestClient, photo: Photo) -> None:
    answer = client.post("/predict/colors/batch", content=photo("red"), headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    head, _, rest = answer.text.partition("data: ")
    assert (head, json.loads(rest)["chosen"]) == ("", ["red"])
    assert client.post("/predict/colors/batch", json={"images": []}).status_code == 422
    assert client.post("/predict/other/batch", content=photo("red")).status_code == 404


COLORS = {"red": (210, 30, 30), "green": (30, 210, 30), "blue": (30, 30, 210)}


def film(path: Path, names: list[str]) -> bytes:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for name in names:
            pixels = np.broadcast_to(np.array(COLORS[name], np.uint8), (48, 64, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.video
def test_a_video_is_answered_frame_by_frame(client: TestClient, tmp_path: Path) -> None:
    names = ["red", "green", "blue", "blue", "red", "green", "green", "red"]
    body = film(tmp_path / "film.mp4", names)
    head = {"content-type": "video/mp4"}
    found = lines(client.post("/predict/colors/frames", content=body, headers=head))
    assert [row["frame"] for row in found] == list(range(8))
    assert [row["time_s"] for row in found] == pytest.approx([i / 10 for i in range(8)])
    assert [row["chosen"] for row in found] == [[name] for name in names]
    third = lines(client.post("/predict/colors/frames?every=3", content=body, headers=head))
    assert [row["frame"] for row in third] == [0, 3, 6]


@pytest.mark.video
def test_a_video_that_breaks_off_or_is_none_ends_with_the_problem(client: TestClient, tmp_path: Path) -> None:
    head = {"content-type": "video/mp4"}
    (row,) = lines(client.post("/predict/colors/frames", content=b"no video", headers=head))
    assert row["problem"]["error"] == "invalid"
    body = film(tmp_path / "film.mkv", ["red"] * 40)
    found = lines(client.post("/predict/colors/frames", content=body[: len(body) // 2], headers=head))
    assert 0 < len(found) < 41
    assert "problem" in found[-1]
    assert all("chosen" in row for row in found[:-1])


def test_what_has_no_frames_is_refused(client: TestClient, photo: Photo) -> None:
    def ask(kind: str, more: str = "") -> Any:
        return client.post(f"/predict/colors/frames{more}", content=photo("red"), headers={"content-type": kind})

    assert "content-type must be video/* or multipart/x-mixed-replace" in ask("image/png").json()["error"]["message"]
    assert "with a boundary" in ask("multipart/x-mixed-replace").json()["error"]["message"]
    assert ask("video/mp4", "?every=0").status_code == 422


class Live:
    """A client that sends pictures and reads answers over one connection at the same time."""

    def __init__(self, url: str, more: str = "") -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.line = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.line.sendall(
            f"POST /predict/colors/frames{more} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n"
            "Content-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n".encode()
        )
        self.answer = self.line.makefile("rb")

    def chunk(self, data: bytes) -> None:
        self.line.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def close(self) -> None:
        self.answer.close()
        self.line.close()

    def row(self) -> dict[str, Any]:
        while not (line := self.answer.readline()).startswith(b"{"):
            assert line, "the answer must go on"
        found: dict[str, Any] = json.loads(line)
        return found


def test_live_pictures_are_answered_before_the_next_is_sent(space: lw.Workspace, photo: Photo) -> None:
    with ServerThread(space) as server:
        live = Live(server.url)
        live.chunk(b"--b\r\n")
        for i, name in enumerate(("red", "blue", "green")):
            live.chunk(b"Content-Type: image/png\r\n\r\n" + photo(name) + b"\r\n--b\r\n")
            row = live.row()
            assert (row["frame"], row["chosen"]) == (i, [name])
        live.chunk(b"Content-Type: image/png\r\n\r\nno image\r\n--b--\r\n")
        assert live.row()["problem"]["error"] == "invalid"
        live.chunk(b"")
        assert [live.answer.readline() for _ in range(3)] == [b"\r\n", b"0\r\n", b"\r\n"]
        live.close()


def test_a_live_client_that_leaves_or_sends_too_much_leaves_the_server_well(
    space: lw.Workspace, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = space.settings.model_copy(update={"max_body_bytes": 5000})
    monkeypatch.setattr(type(space), "settings", property(lambda self: settings))
    with ServerThread(space) as server:
        leaving = Live(server.url)
        leaving.chunk(b"--b\r\n\r\n" + photo("red")[:100])
        leaving.close()
        large = Live(server.url)
        large.chunk(b"--b\r\n\r\n" + b"x" * 6000)
        assert large.row()["problem"]["error"] == "too_large"
        large.close()
        small = Live(server.url)
        small.chunk(b"--b\r\n\r\n" + photo("blue", size=16) + b"\r\n--b--")
        assert small.row()["chosen"] == ["blue"]
        small.close()
