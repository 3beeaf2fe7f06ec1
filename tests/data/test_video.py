"""Videos: frames by index, times by the file's own stamps, and what is broken or turned."""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from loopworks.core.errors import Cancelled, Invalid, Missing
from loopworks.data.video import Frames, FrameTable, Picked, difference, extract, histogram, is_video

pytestmark = pytest.mark.video
MS = Fraction(1, 1000)


def film(
    path: Path,
    grays: Sequence[int],
    *,
    times: Callable[[int], int] = lambda i: 40 * i,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    base: Fraction = MS,
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """A video of plain grey frames with a red corner at the upper left."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        for i, gray in enumerate(grays):
            pixels = np.full((size[1], size[0], 3), gray, np.uint8)
            pixels[:16, :16] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times(i), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def gray(folder: Path, picked: Picked) -> float:
    with Image.open(folder / picked.file) as image:
        return float(np.asarray(image)[20:, 20:].mean())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (folder := tmp_path / "out").mkdir()
    return folder


GRAYS = [8 * i for i in range(30)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov", "a.ts"])
def test_every_nth_frame_is_taken_by_its_index(name: str, tmp_path: Path, out: Path) -> None:
    is_avi = name == "a.avi"
    video = film(
        tmp_path / name,
        GRAYS,
        codec="mpeg4" if is_avi else "libx264",
        base=Fraction(1, 25) if is_avi else MS,
        times=(lambda i: i) if is_avi else (lambda i: 40 * i),
        options={} if is_avi else {"bf": "3", "g": "12"},
    )
    table, picked, problems = extract(video, out, Frames(every=7))
    assert problems == []
    assert [one.index for one in picked] == [0, 7, 14, 21, 28]
    assert [one.file for one in picked][:2] == ["000000.png", "000007.png"]
    assert len(table.pts) == 30
    assert table.is_key[0]
    assert (table.width, table.height) == (64, 48)
    for one in picked:
        assert abs(gray(out, one) - GRAYS[one.index]) < 7


def test_times_are_those_of_the_file_where_no_rate_holds(tmp_path: Path, out: Path) -> None:
    times = [0, 40, 90, 300, 1000, 1010, 5000]
    video = film(tmp_path / "a.mkv", GRAYS[:7], times=lambda i: times[i], options={"bf": "2"})
    table, picked, _ = extract(video, out, Frames(at=(2, 4, 6)))
    assert [one.time_s for one in picked] == [0.09, 1.0, 5.0]
    assert [table.time_s(i) for i in range(7)] == [time / 1000 for time in times]
    assert [round(gray(out, one) / 8) for one in picked] == [2, 4, 6]


def test_a_video_that_is_stored_lying_is_turned_upright(tmp_path: Path, out: Path) -> None:
    corners = {90: (-1, 0), 180: (-1, -1), -90: (0, -1)}
    for rotation, corner in corners.items():
        (folder := out / str(rotation)).mkdir()
        video = film(tmp_path / f"{rotation}.mp4", [100] * 3, rotation=rotation)
        table, _, _ = extract(video, folder, Frames(at=(0,)))
        with Image.open(folder / "000000.png") as image:
            pixels = np.asarray(image)
        assert table.rotation in (rotation, rotation % 360, -rotation)
        assert (table.width, table.height) == ((64, 48) if rotation == 180 else (48, 64))
        assert pixels.shape[:2] == (table.height, table.width)
        assert pixels[corner][0] > 150, rotation
        assert pixels[0, 0][0] < 150


def test_scenes_begin_where_the_picture_changes(tmp_path: Path, out: Path) -> None:
    slow = [100 + i for i in range(10)]
    video = film(tmp_path / "a.mp4", [*slow, *[230] * 10, *[20] * 5])
    table, picked, _ = extract(video, out, Frames(scenes=0.3))
    assert [one.index for one in picked] == [0, 10, 20]
    assert table.difference[10] > 0.5
    assert max(table.difference[1:10]) < 0.3


def test_a_histogram_has_shares_and_a_difference_lies_between_0_and_1() -> None:
    black, white = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 255, np.uint8)
    half = black.copy()
    half[:2] = 255
    assert histogram(half).sum(axis=1).tolist() == [1.0, 1.0, 1.0]
    assert difference(histogram(black), histogram(white)) == 1.0
    assert difference(histogram(black), histogram(half)) == pytest.approx(0.5)
    assert difference(histogram(half), histogram(half)) == 0.0


def test_indices_beyond_the_end_are_told_once(tmp_path: Path, out: Path) -> None:
    _, picked, problems = extract(film(tmp_path / "a.mp4", GRAYS[:5]), out, Frames(at=(1, 5, 9)), name="a.mp4")
    assert [one.index for one in picked] == [1]
    assert [one.message for one in problems] == ["a.mp4 must be long enough for frame 5, 9; got 5 frames, from 0 on"]


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts"])
def test_of_a_video_that_is_cut_off_the_frames_before_are_kept(name: str, tmp_path: Path, out: Path) -> None:
    grays, options = [(i * 37) % 256 for i in range(200)], {"g": "5"}
    if name == "a.avi":
        steps = Fraction(1, 25)
        video = film(tmp_path / name, grays, codec="mpeg4", base=steps, times=lambda i: i, options=options)
    else:
        video = film(tmp_path / name, grays, options=options)
    os.truncate(video, video.stat().st_size * 2 // 3)
    table, picked, problems = extract(video, out, Frames(every=10), name=name)
    assert 20 < len(table.pts) < 200
    assert len(picked) == (len(table.pts) + 9) // 10
    if name != "a.ts":  # a transport stream says nowhere how long it is
        assert ["must be whole" in one.message for one in problems] == [True]


def test_a_video_cut_before_its_index_and_what_is_no_video_are_refused(tmp_path: Path, out: Path) -> None:
    video = film(tmp_path / "a.mp4", GRAYS)
    os.truncate(video, video.stat().st_size // 2)
    (tmp_path / "b.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "c.mkv").write_bytes(b"")
    for name in ("a.mp4", "b.mp4", "c.mkv"):
        with pytest.raises(Invalid, match=f"{name} must be a video"):
            extract(tmp_path / name, out, Frames(every=1), name=name)


def test_damage_in_the_middle_loses_little(tmp_path: Path, out: Path) -> None:
    video = film(tmp_path / "a.mkv", [(i * 37) % 256 for i in range(100)], options={"g": "5"})
    data = bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = os.urandom(40)
    video.write_bytes(data)
    table, _, _ = extract(video, out, Frames(every=10))
    assert len(table.pts) > 40


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path: Path, out: Path) -> None:
    with pytest.raises(Invalid, match="at most 1000 pixels; got 64 x 48"):
        extract(film(tmp_path / "a.mp4", GRAYS[:3]), out, Frames(every=1), max_pixels=1000)


def test_an_extraction_that_was_stopped_goes_on(tmp_path: Path, out: Path) -> None:
    video = film(tmp_path / "a.mp4", GRAYS)

    def stop(done: int, total: int) -> None:
        assert total == 30
        if done == 15:
            raise Cancelled

    with pytest.raises(Cancelled):
        extract(video, out, Frames(every=2), told=stop)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 0 < len(before) < 15
    _, picked, _ = extract(video, out, Frames(every=2))
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert set(after) == {one.file for one in picked}
    assert len(after) == 15
    assert before.items() <= after.items()


def test_jpeg_is_an_option(tmp_path: Path, out: Path) -> None:
    _, picked, _ = extract(film(tmp_path / "a.mp4", GRAYS), out, Frames(at=(3,), encoding="jpeg"))
    with Image.open(out / picked[0].file) as image:
        assert (picked[0].file, image.format) == ("000003.jpg", "JPEG")


def test_the_table_of_frames_comes_back_from_arrow(tmp_path: Path, out: Path) -> None:
    table, _, _ = extract(film(tmp_path / "a.mp4", GRAYS[:9]), out, Frames(every=5))
    back = FrameTable.from_arrow(table.to_arrow())
    assert back.pts == table.pts
    assert back.is_key == table.is_key
    assert back.difference == pytest.approx(table.difference)
    assert (back.time_base, back.rotation, back.width) == (table.time_base, 0, 64)


@pytest.mark.parametrize("options", [{}, {"every": 2, "scenes": 0.3}, {"every": 1, "at": (1,)}])
def test_frames_are_chosen_in_exactly_one_way(options: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="chosen by one of every, at and scenes"):
        Frames(**options)


def test_without_pyav_the_extra_is_named(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = film(tmp_path / "a.mp4", GRAYS[:2])
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(Missing) as caught:
        extract(video, out, Frames(every=1))
    assert "loopworks[video]" in caught.value.hint


def test_videos_are_known_by_their_names() -> None:
    assert is_video("a/B.MP4")
    assert not is_video("a.jpg")
