"""A pipeline from its source to its sinks: a file without loss, a camera that breaks off, folders, MQTT, webhooks."""

import csv
import io
import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loopworks as lw
from loopworks.core.errors import Busy, Conflict, Failed, NotFound
from loopworks.infer.live.definition import WebhookSink
from loopworks.infer.live.frames import Frame, Result, jpeg
from loopworks.infer.live.sinks import Queued
from loopworks.infer.live.sources import _content

pytestmark = pytest.mark.live
Film = Callable[..., Path]
WALK = list(range(0, 48, 4))
"""The square goes from the left to the right; its middle passes 24 + 8 = half of the picture."""


def definition(source: dict[str, Any], *sinks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "street", "source": source, "model": "balls", "sinks": list(sinks), **more}


LINE = {"name": "gate", "start": [0.5, 0.0], "end": [0.5, 1.0]}
ZONE = {"name": "right", "corners": [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]}


def test_a_file_reaches_every_sink_and_nothing_is_dropped(space: lw.Workspace, tmp_path: Path, make_film: Film) -> None:
    space.dataset("inbox", "object-detection", classes=["ball"])
    make_film(tmp_path / "walk.mp4", WALK)
    space.live.add(
        definition(
            {"kind": "file", "path": str(tmp_path / "walk.mp4")},
            {"kind": "csv", "path": str(tmp_path / "out.csv")},
            {"kind": "parquet", "path": str(tmp_path / "table")},
            {"kind": "database"},
            {"kind": "folder", "path": str(tmp_path / "pictures")},
            {"kind": "dataset", "dataset": "inbox", "gap_s": 0.5},
            track={},
            lines=[LINE],
            zones=[ZONE],
        )
    )
    told = space.live.run("street")
    assert (told["state"], told["frames_in"], told["frames_out"], told["frames_dropped"]) == ("done", 12, 12, 0)
    items = space.dataset("inbox").items()
    assert 2 <= len(items) <= 4  # twelve frames in 1.2 s, one each half second
    assert [(sink["kind"], sink["sent"], sink["error"]) for sink in told["sinks"]] == [
        *((kind, 12, "") for kind in ("csv", "parquet", "database", "folder")),
        ("dataset", len(items), ""),
    ]
    # From left to right, looking downwards: from the line's right (west) to its left (east) is out.
    assert told["counts"]["lines"] == {"gate": {"in": {}, "out": {"ball": 1}}}
    assert told["counts"]["zones"]["right"]["entered"] == {"ball": 1}
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(12))
    assert {row["track"] for row in rows} == {"1"}
    assert [float(row["x"]) for row in rows] == pytest.approx(WALK, abs=2.5)
    assert [row["crossed"] for row in rows if row["crossed"]] == ["gate:out"]
    (part,) = (tmp_path / "table").iterdir()
    assert pq.read_table(part)["frame"].to_pylist() == list(range(12))
    with sqlite3.connect(space.folder / "live" / "street" / "results.db") as database:
        assert database.execute("SELECT count(*), min(model) FROM results").fetchone() == (12, "balls/1")
    database.close()
    first = json.loads(sorted((tmp_path / "pictures").glob("*.json"))[0].read_text(encoding="utf-8"))
    assert first["objects"][0]["label"] == "ball"
    with Image.open(sorted((tmp_path / "pictures").glob("*.jpg"))[0]) as shown:
        assert shown.size == (320, 320)  # five times as large, so that names have room
    assert all(item.tags == ("inbox",) and not item.labels for item in items)
    assert [scored.model for scored in space.dataset("inbox").look.scored()] == ["balls:1"]


def test_every_and_rate_take_fewer_frames(space: lw.Workspace, tmp_path: Path, make_film: Film) -> None:
    make_film(tmp_path / "walk.mp4", WALK)  # ten frames a second
    for i, (taken, wanted) in enumerate([({"every": 5}, [0, 5, 10]), ({"rate": 4}, [0, 3, 5, 8, 10])]):
        source = {"kind": "file", "path": str(tmp_path / "walk.mp4"), **taken}
        space.live.add(definition(source, {"kind": "csv", "path": str(tmp_path / f"{i}.csv")}), replace=True)
        space.live.run("street")
        with (tmp_path / f"{i}.csv").open(encoding="utf-8", newline="") as file:
            assert [int(row["frame"]) for row in csv.DictReader(file)] == wanted


def test_an_interrupted_file_goes_on_where_it_was(space: lw.Workspace, tmp_path: Path, make_film: Film) -> None:
    make_film(tmp_path / "walk.mp4", WALK)
    space.live.add(
        definition(
            {"kind": "file", "path": str(tmp_path / "walk.mp4")}, {"kind": "csv", "path": str(tmp_path / "out.csv")}
        )
    )
    (space.folder / "live" / "street" / "status.json").write_text('{"state": "running", "last_index": 7}')
    assert space.live.status("street")["state"] == "idle"  # nobody holds it
    space.live.run("street")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert [int(row["frame"]) for row in csv.DictReader(file)] == [8, 9, 10, 11]
    space.live.start("street")  # one that has ended begins anew
    assert space.live.run("street")["frames_out"] == 12


def test_counts_go_on_after_an_interruption_and_begin_anew_after_the_end(
    space: lw.Workspace, tmp_path: Path, make_film: Film
) -> None:
    make_film(tmp_path / "walk.mp4", WALK)
    source = {"kind": "file", "path": str(tmp_path / "walk.mp4")}
    space.live.add(definition(source, track={}, lines=[LINE], zones=[ZONE]))
    zone = {"now": {"ball": 1}, "entered": {"ball": 3}, "left": {"ball": 2}, "mean_stay_s": {"ball": 4.0}}
    before = {"lines": {"gate": {"in": {"ball": 5}, "out": {"bus": 1}}}, "zones": {"right": zone}}
    (space.folder / "live" / "street" / "status.json").write_text(
        json.dumps({"state": "running", "last_index": 1, "counts": before})
    )
    told = space.live.run("street")
    assert (told["frames_out"], told["share"]) == (10, 1.0)
    assert told["counts"]["lines"]["gate"] == {"in": {"ball": 5}, "out": {"bus": 1, "ball": 1}}
    # Two had left before; who was inside then, or comes now, enters.
    assert told["counts"]["zones"]["right"]["entered"] == {"ball": 3}
    assert told["counts"]["zones"]["right"]["mean_stay_s"] == {"ball": 4.0}
    space.live.start("street")
    assert space.live.run("street")["counts"]["lines"]["gate"] == {"in": {}, "out": {"ball": 1}}


def test_a_source_that_is_there_runs_though_nothing_has_come(
    space: lw.Workspace, tmp_path: Path, servers: Any, doubles: Any, wait_until: Any
) -> None:
    (tmp_path / "in").mkdir()
    broker = servers(doubles.broker())
    for source in ({"kind": "folder", "path": str(tmp_path / "in")}, {"kind": "mqtt", "url": broker.url, "topic": "t"}):
        space.live.add(definition(source), replace=True)
        with space._engine("balls") as pick, space.live.running("street", pick) as runner:
            wait_until(lambda: runner.status()["state"] == "running")  # noqa: B023
            assert runner.frames_in == 0
        assert space.live.status("street")["state"] == "stopped"


def test_a_camera_that_breaks_off_is_asked_again(
    space: lw.Workspace, tmp_path: Path, paint: Any, servers: Any, doubles: Any, wait_until: Any
) -> None:
    camera = servers(doubles.camera([jpeg(paint(8), 95)], frames=6))
    source = {"kind": "stream", "url": camera.url, "policy": "all", "timeout_s": 5, "backoff_s": 0.05}
    space.live.add(definition(source, {"kind": "csv", "path": str(tmp_path / "out.csv")}))
    with space._engine("balls") as pick, space.live.running("street", pick) as runner:
        wait_until(lambda: runner.frames_out >= 14)
        told = runner.status()
        with pytest.raises(Busy, match="another process runs it"):
            space.live.claim("street")
    assert camera.connections >= 3
    assert told["reconnects"] >= 2
    assert told["frames_dropped"] == 0
    assert "must go on" in told["error"]
    assert "secret" not in json.dumps(space.live.status("street"))


def test_a_run_here_tells_others_how_it_goes_and_ends_when_it_is_interrupted(
    space: lw.Workspace, paint: Any, servers: Any, doubles: Any
) -> None:
    camera = servers(doubles.camera([jpeg(paint(8), 95)], frames=1000))
    space.live.add(definition({"kind": "stream", "url": camera.url}))
    seen = []

    def follow(told: dict[str, Any]) -> None:
        seen.append(space.live.status("street"))
        if told["frames_out"] > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        space.live.run("street", on_status=follow)
    assert (seen[-1]["state"], seen[-1]["frames_out"] > 0) == ("running", True)
    told = space.live.status("street")
    assert (told["state"], told["frames_out"] > 3) == ("stopped", True)
    assert told["is_wanted"]


def test_a_camera_that_is_too_fast_loses_frames_which_are_counted(
    space: lw.Workspace, tmp_path: Path, paint: Any, servers: Any, doubles: Any, wait_until: Any
) -> None:
    camera = servers(doubles.camera([jpeg(paint(8), 95)], frames=1000, pause_s=0.002))
    source = {"kind": "stream", "url": camera.url, "timeout_s": 5}
    space.live.add(definition(source))
    gate = threading.Event()
    with space._engine("balls") as pick:

        def slow(name: str) -> Any:
            gate.wait(0.1)
            return pick(name)

        with space.live.running("street", slow) as runner:
            wait_until(lambda: runner.status()["frames_dropped"] >= 5)
            gate.set()
            wait_until(lambda: runner.frames_out >= 3)
            told = runner.status()
    assert told["frames_in"] >= told["frames_out"] + told["frames_dropped"]
    assert told["state"] == "running"


def test_a_watched_folder_gives_each_file_once_and_whole(
    space: lw.Workspace, tmp_path: Path, paint: Any, wait_until: Any
) -> None:
    (folder := tmp_path / "in").mkdir()
    source = {"kind": "folder", "path": str(folder), "poll_s": 0.1}
    space.live.add(definition(source, {"kind": "csv", "path": str(tmp_path / "out.csv")}))
    data = jpeg(paint(8), 95)
    (folder / "a.jpg").write_bytes(data)
    (folder / "bad.jpg").write_bytes(b"no image")
    with space._engine("balls") as pick:
        with space.live.running("street", pick) as runner:
            wait_until(lambda: runner.frames_out == 1 and runner.failed == 1)
            with (folder / "b.jpg").open("wb") as file:  # is written in pieces, each within two looks
                for at in range(0, len(data), len(data) // 4):
                    file.write(data[at : at + len(data) // 4])
                    file.flush()
                    threading.Event().wait(0.05)
            wait_until(lambda: runner.frames_out == 2)
            assert runner.failed == 1
        (folder / "c.jpg").write_bytes(data)  # comes while nothing runs
        with space.live.running("street", pick) as runner:
            wait_until(lambda: runner.frames_out == 1)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["a.jpg", "b.jpg", "c.jpg"]


def test_files_that_wait_when_a_pipeline_is_killed_are_given_again(
    space: lw.Workspace, tmp_path: Path, paint: Any, wait_until: Any
) -> None:
    (folder := tmp_path / "in").mkdir()
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(jpeg(paint(8 + i), 95))
    source = {"kind": "folder", "path": str(folder), "poll_s": 0.05}
    space.live.add(definition(source, {"kind": "csv", "path": str(tmp_path / "out.csv")}))
    gate = threading.Event()
    asked: list[int] = []
    with space._engine("balls") as pick:

        def stuck(name: str) -> Any:
            asked.append(1)
            if len(asked) > 4:  # once for what the model takes, then for the files 0, 1 and 2
                assert gate.wait(30)
                raise NotFound("model", name)
            return pick(name)

        with space.live.running("street", stuck) as runner:
            wait_until(lambda: runner.frames_in == 6 and runner.frames_out == 3)
            threading.Timer(0.2, gate.set).start()  # leaving the block stops it, with three files that wait
        with space.live.running("street", pick) as runner:
            wait_until(lambda: runner.frames_out == 3)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [f"{i}.jpg" for i in range(6)]


def test_a_playlist_from_outside_cannot_open_files_of_this_machine(
    space: lw.Workspace, tmp_path: Path, make_film: Film, servers: Any, doubles: Any, wait_until: Any
) -> None:
    secret = make_film(tmp_path / "secret.ts", WALK)
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1.2,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    site = servers(doubles.page(text.encode(), "application/vnd.apple.mpegurl"))
    source = {"kind": "stream", "url": f"{site.url}/list.m3u8", "timeout_s": 2, "backoff_s": 0.05}
    space.live.add(definition(source))
    with space._engine("balls") as pick, space.live.running("street", pick) as runner:
        wait_until(lambda: runner.reconnects >= 2)
        assert runner.frames_in == 0
    assert site.asked


def test_messages_come_in_and_go_out_by_mqtt(
    space: lw.Workspace, paint: Any, servers: Any, doubles: Any, wait_until: Any
) -> None:
    broker = servers(doubles.broker())
    source = {"kind": "mqtt", "url": broker.url, "topic": "cam/1", "policy": "all", "backoff_s": 0.05}
    space.live.add(definition(source, {"kind": "mqtt", "url": broker.url, "topic": "found"}))
    with space._engine("balls") as pick, space.live.running("street", pick) as runner:
        wait_until(lambda: "cam/1" in broker.topics)
        broker.say("cam/1", jpeg(paint(8), 95))
        broker.say("cam/1", b"no image")
        broker.say("cam/1", jpeg(paint(16), 95))
        wait_until(lambda: len(broker.published) == 2)
        broker.drop()  # both connections break: the source comes back, and so does the sink
        wait_until(lambda: runner.reconnects >= 1 and "cam/1" in broker.topics)
        broker.say("cam/1", jpeg(paint(24), 95))
        wait_until(lambda: len(broker.published) == 3)
        assert runner.failed == 1
    places = [json.loads(payload)["objects"][0]["box"][0] for topic, payload in broker.published if topic == "found"]
    assert places == pytest.approx([8, 16, 24], abs=1.5)


def test_a_webhook_that_fails_twice_gets_each_result_once(
    space: lw.Workspace, tmp_path: Path, make_film: Film, servers: Any, doubles: Any
) -> None:
    make_film(tmp_path / "walk.mp4", WALK[:3])
    hook = servers(doubles.hook([503, 500]))
    refusing = servers(doubles.hook([400, 302, 403]))
    headers = {"Authorization": "Bearer hidden"}
    space.live.add(
        definition(
            {"kind": "file", "path": str(tmp_path / "walk.mp4")},
            {"kind": "webhook", "url": hook.url, "backoff_s": 0.05, "headers": headers},
            {"kind": "webhook", "url": refusing.url, "backoff_s": 0.05},
        )
    )
    told = space.live.run("street")
    assert [json.loads(body)["frame"] for body in hook.bodies] == [0, 1, 2]
    assert all(b"Bearer hidden" in head for head in hook.heads)
    assert [(sink["sent"], sink["failed"]) for sink in told["sinks"]] == [(3, 0), (0, 3)]
    assert "must take results; got status 403" in told["sinks"][1]["error"]
    assert "hidden" not in json.dumps(told)


def test_results_that_wait_hold_no_pictures_and_the_oldest_go_when_there_are_too_many() -> None:
    gate, seen = threading.Event(), list[Result]()

    class Slow:
        def write(self, results: list[Result]) -> None:
            assert gate.wait(30)
            seen.extend(results)

        def close(self) -> None:
            """Nothing is held back."""

    sink = Queued(WebhookSink(kind="webhook", url="http://u:pw@slow/?key=1"), Slow(), 3, is_lossless=False)
    for i in range(10):
        pixels = np.zeros((8, 8, 3), np.uint8)
        sink.put(Result(pipeline="p", frame=Frame(index=i, time_s=0.0, pixels=pixels), model="m/1"))
    gate.set()
    sink.close()
    assert sink.tally.to == "http://u@slow/"
    assert sink.tally.dropped in (6, 7)  # one may have been taken before the queue was full
    assert [result.frame.index for result in seen][-3:] == [7, 8, 9]
    assert len(seen) + sink.tally.dropped == 10
    assert all(result.frame.pixels is None for result in seen)


def test_a_damaged_film_is_answered_as_far_as_it_goes_and_says_so(
    space: lw.Workspace, tmp_path: Path, make_film: Film
) -> None:
    data = make_film(tmp_path / "walk.avi", WALK * 4).read_bytes()
    (tmp_path / "walk.avi").write_bytes(data[: len(data) * 7 // 10])
    space.live.add(definition({"kind": "file", "path": str(tmp_path / "walk.avi")}))
    with pytest.raises(Failed, match="whole to its end"):
        space.live.run("street")
    told = space.live.status("street")
    assert told["state"] == "failed"
    assert 10 < told["frames_out"] < 48


@pytest.mark.parametrize(
    ("payload", "media", "content"),
    [
        (b'{"age": 41}', "row", {"age": 41}),
        (b"[1]", "row", None),
        (b"no JSON", "row", None),
        (b'{"text": "my card"}', "text", "my card"),
        (b'"my card"', "text", "my card"),
        (b"my card", "text", "my card"),
        (b'{"age": 41}', "text", None),
        (b"", "image", None),
    ],
)
def test_messages_for_models_of_rows_and_texts(payload: bytes, media: str, content: Any) -> None:
    assert _content(payload, media) == content


def test_a_device_that_is_not_there_is_waited_for(space: lw.Workspace, wait_until: Any) -> None:
    space.live.add(definition({"kind": "device", "path": "/dev/video99", "backoff_s": 0.05}))
    with space._engine("balls") as pick, space.live.running("street", pick) as runner:
        wait_until(lambda: runner.reconnects >= 2)
        assert (runner.state, "/dev/video99 must be there" in runner.error) == ("reconnecting", True)


def test_filters_keep_what_is_asked_for(space: lw.Workspace, tmp_path: Path, make_film: Film) -> None:
    make_film(tmp_path / "walk.mp4", [None, *WALK, None])
    source = {"kind": "file", "path": str(tmp_path / "walk.mp4")}
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 12),
        ({"empty": True}, 14),
        ({"labels": ["dog"]}, 0),
        ({"score": 0.95}, 0),
        ({"zones": ["right"]}, 6),
        ({"crossed": True}, 1),
        ({"gap_s": 0.5}, 3),
    ]
    for filters, wanted in cases:
        made = definition(source, {"kind": "csv", "path": str(tmp_path / "o.csv")}, filters=filters)
        space.live.add({**made, "track": {}, "lines": [LINE], "zones": [ZONE]}, replace=True)
        told = space.live.run("street")
        assert told["sinks"][0]["sent"] == wanted, filters
        assert told["frames_out"] == 14


def test_a_full_disk_stops_one_sink_and_nothing_else(space: lw.Workspace, tmp_path: Path, make_film: Film) -> None:
    make_film(tmp_path / "walk.mp4", WALK)
    (tmp_path / "file").write_bytes(b"")
    space.live.add(
        definition(
            {"kind": "file", "path": str(tmp_path / "walk.mp4")},
            {"kind": "folder", "path": str(tmp_path / "file")},
            {"kind": "csv", "path": str(tmp_path / "out.csv")},
        )
    )
    told = space.live.run("street")
    assert [(sink["sent"], sink["failed"]) for sink in told["sinks"]] == [(0, 12), (12, 0)]
    assert "file" in told["sinks"][0]["error"]


def test_what_cannot_work_says_why(space: lw.Workspace, tmp_path: Path, make_film: Film) -> None:
    source = {"kind": "file", "path": str(tmp_path / "none.mp4")}
    with pytest.raises(NotFound, match=r"video '.*none\.mp4' does not exist"):
        space.live.add(definition(source))
    space.live.add(definition(source), start=False)
    with pytest.raises(Conflict, match="must not exist yet"):
        space.live.add(definition(source), start=False)
    with pytest.raises(Failed, match=r"pipeline street failed: video '.*none\.mp4' does not exist"):
        space.live.run("street")
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(Failed, match="must be a video"):
        space.live.run("street")
    with pytest.raises(NotFound, match="deployment 'dogs' does not exist"):
        space.live.add({**definition(source), "model": "dogs"}, replace=True)
    with pytest.raises(NotFound, match="pipeline 'other'"):
        space.live.status("other")
    assert space.live.status("street")["state"] == "failed"
    space.live.remove("street")
    assert space.live.list() == []


def test_the_preview_draws_once_for_all_and_only_when_somebody_looks(
    space: lw.Workspace, tmp_path: Path, make_film: Film, paint: Any
) -> None:
    make_film(tmp_path / "walk.mp4", WALK)
    more = {"track": {}, "lines": [LINE], "preview": {"clients": 1, "width": 64}}
    space.live.add(definition({"kind": "file", "path": str(tmp_path / "walk.mp4")}, **more))
    with space._engine("balls") as pick, space.live.running("street", pick) as runner:
        with pytest.raises(NotFound, match="picture"):
            runner.preview.latest() if not runner.frames_out else runner.preview.after(10**9, 30)
        assert runner.join(30)
        assert runner.preview.drawings == 0
        number, data = runner.preview.latest()
        assert (number, data) == runner.preview.latest()
        assert runner.preview.drawings == 1
        with runner.preview.watching(), pytest.raises(Busy, match="at most 1"), runner.preview.watching():
            pass
        assert runner.preview.viewers == 0
    shown = np.asarray(Image.open(io.BytesIO(data)))
    assert shown.shape == (64, 64, 3)
    assert np.abs(shown.astype(int) - paint(WALK[-1]).astype(int)).max() > 60  # something is drawn over it
