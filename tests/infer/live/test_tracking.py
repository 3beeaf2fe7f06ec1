"""Tracks on boxes whose truth is known: through crossings and occlusions, with noise and gaps; and exact counts."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopworks.infer.live.definition import Line, Track, Zone
from loopworks.infer.live.frames import Found
from loopworks.infer.live.places import Places
from loopworks.infer.live.tracking import Tracker, overlaps

Row = tuple[float, float, float, float, float, int]
"""x, y, width, height, score, class."""
STEP_S = 0.1
pytestmark = pytest.mark.live


def follow(frames: Sequence[Sequence[Row]], tracker: Tracker | None = None, step_s: float = STEP_S) -> list[list[int]]:
    """Per frame the track of each box, 0 where it has none."""
    tracker = tracker or Tracker(Track())
    told = []
    for time, rows in enumerate(frames):
        table = np.array(rows, np.float64).reshape(-1, 6)
        found = dict(tracker.update(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), time * step_s))
        told.append([found.get(place, 0) for place in range(len(rows))])
    return told


def test_overlap_by_hand() -> None:
    left = np.array([[0, 0, 10, 10], [20, 20, 5, 5]], float)
    right = np.array([[5, 0, 10, 10], [0, 0, 10, 10]], float)
    assert overlaps(left, right) == pytest.approx(np.array([[50 / 150, 1.0], [0.0, 0.0]]))


def test_two_things_that_cross_keep_their_numbers() -> None:
    """They meet in the middle at different heights, so that their boxes overlap there."""
    frames = [[(10 + 6 * t, 50, 30, 60, 0.9, 0), (250 - 6 * t, 70, 30, 60, 0.9, 0)] for t in range(41)]
    assert follow(frames) == [[1, 2]] * 41


def test_a_thing_behind_another_for_a_short_time_comes_back_under_its_number() -> None:
    def row(t: int) -> Row:
        return (10 + 5 * t, 50, 30, 60, 0.9, 0)

    frames = [[row(t)] if not 15 <= t < 22 else [] for t in range(40)]
    told = follow(frames)
    assert {one for some in told for one in some} == {1}
    gone = [[row(t)] if not 15 <= t < 27 else [] for t in range(40)]  # longer than keep_s = 1 s
    assert {one for some in follow(gone) for one in some} - {0} == {1, 2}


def test_a_low_score_keeps_a_track_and_begins_none() -> None:
    frames: list[list[Row]] = [[(10 + 4 * t, 50, 30, 60, 0.9 if t < 5 else 0.3, 0)] for t in range(30)]
    assert follow(frames) == [[1]] * 30
    assert follow([[(10, 50, 30, 60, 0.3, 0)]] * 10) == [[0]] * 10


def test_one_box_alone_is_no_track() -> None:
    steady: Row = (10, 10, 30, 60, 0.9, 0)
    frames = [[steady], [steady, (200, 10, 30, 60, 0.9, 0)], [steady], [steady]]
    assert follow(frames) == [[1], [1, 0], [1], [1]]


def test_a_track_keeps_its_class() -> None:
    rows: list[Row] = [(10, 10, 30, 60, 0.9, int(time >= 3)) for time in range(6)]
    told = follow([[row] for row in rows])
    assert told[:3] == [[1]] * 3
    assert 1 not in [one for some in told[3:] for one in some]


def test_dropped_frames_do_not_shorten_a_track() -> None:
    """Ten frames a second, then two: by frames the track would end, by time it goes on."""
    tracker = Tracker(Track(keep_s=2.0))
    times = [*(t * 0.1 for t in range(10)), *(1.0 + 0.5 * t for t in range(8))]
    for time in times:
        box = np.array([[10 + 40 * time, 50, 30, 60]])
        assert tracker.update(box, np.array([0.9]), np.array([0]), time) == [(0, 1)], time


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_noisy_boxes_on_lanes_keep_their_numbers(seed: int, count: int) -> None:
    """Things of different speeds on lanes of their own, shaken by 2 % of their height; each tenth box is missing."""
    rng = np.random.default_rng(seed)
    speeds, begins = rng.uniform(-6, 6, count), rng.uniform(200, 400, count)
    tracker = Tracker(Track())
    seen: dict[int, set[int]] = {}
    for time in range(40):
        there = [i for i in range(count) if time < 2 or rng.uniform() > 0.1]
        rows = [
            (
                begins[i] + speeds[i] * time + rng.normal(0, 1.2),
                100.0 * i + rng.normal(0, 1.2),
                40.0 + rng.normal(0, 0.8),
                60.0 + rng.normal(0, 1.2),
            )
            for i in there
        ]
        found = tracker.update(
            np.array(rows).reshape(-1, 4), np.full(len(there), 0.9), np.zeros(len(there), np.int64), time * STEP_S
        )
        for place, track in found:
            seen.setdefault(there[place], set()).add(track)
    assert all(len(tracks) == 1 for tracks in seen.values())
    assert len({min(tracks) for tracks in seen.values()}) == count


# ---- lines and zones


def thing(x: float, y: float, track: int, label: str = "car") -> Found:
    """A small box that stands at this place of a picture of 100 x 100."""
    return Found(label=label, score=0.9, box=(x - 2, y - 4, 4, 4), track=track)


DOWN = Line(name="gate", start=(0.5, 0.2), end=(0.5, 0.8))


def walk(places: Places, ways: dict[int, list[tuple[float, float]]], labels: dict[int, str] | None = None) -> None:
    for time in range(max(map(len, ways.values()))):
        there = {track: way[time] for track, way in ways.items() if time < len(way)}
        objects = [thing(x, y, track, (labels or {}).get(track, "car")) for track, (x, y) in there.items()]
        places.update(objects, (100, 100), float(time), there)


def test_lines_count_by_class_and_direction() -> None:
    places = Places([DOWN], [])
    ways: dict[int, list[tuple[float, float]]] = {
        1: [(x, 50.0) for x in range(30, 71, 5)],
        2: [(x, 40.0) for x in range(70, 29, -5)],
        3: [(x, 30.0) for x in range(70, 29, -5)],
        4: [(x, 90.0) for x in range(30, 71, 5)],  # passes below the line's end
        5: [(30.0, 50.0), (45.0, 50.0), (30.0, 50.0)],  # turns back
    }
    walk(places, ways, {3: "bus"})
    # Looking from the upper end down, the line's left is the picture's right: towards smaller x is in.
    assert places.counts()["lines"]["gate"] == {"in": {"car": 1, "bus": 1}, "out": {"car": 1}}


def test_what_trembles_on_a_line_is_counted_once() -> None:
    places = Places([DOWN], [])
    near = [(50.0 + 0.3 * (-1) ** i, 50.0) for i in range(20)]
    walk(places, {1: [(40.0, 50.0), *near, (60.0, 50.0)]})
    assert places.counts()["lines"]["gate"] == {"in": {}, "out": {"car": 1}}


def test_a_fast_thing_that_jumps_over_a_line_is_counted() -> None:
    places = Places([DOWN], [])
    walk(places, {1: [(5.0, 50.0), (95.0, 50.0)], 2: [(5.0, 10.0), (95.0, 12.0)]})
    assert places.counts()["lines"]["gate"]["out"] == {"car": 1}  # the second passes above its end


def test_zones_say_who_is_there_and_for_how_long() -> None:
    zone = Zone(name="island", corners=((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)))
    places = Places([], [zone])
    ways: dict[int, list[tuple[float, float]]] = {
        1: [(30.0, 50.0), (45.0, 50.0), (50.0, 50.0), (55.0, 50.0), (70.0, 50.0), (80.0, 50.0)],  # inside from 1 to 4
        2: [(50.0, 50.0)] * 6,
        3: [(50.0, 45.0)] * 2,  # is lost inside: last seen at 1
    }
    walk(places, ways)
    told = places.counts()["zones"]["island"]
    assert told["now"] == {"car": 1}
    assert told["entered"] == {"car": 3}
    assert told["left"] == {"car": 2}
    assert told["mean_stay_s"] == {"car": (3.0 + 1.0) / 2}
    assert told["longest_stay_s"] == 3.0


def test_zones_of_any_form() -> None:
    horseshoe = Zone(
        name="u",
        corners=((0.1, 0.1), (0.3, 0.1), (0.3, 0.7), (0.7, 0.7), (0.7, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)),
    )
    places = Places([], [horseshoe])
    objects = [thing(20, 50, 1), thing(50, 50, 2), thing(80, 50, 3), thing(50, 80, 4)]
    places.update(objects, (100, 100), 0.0, {1, 2, 3, 4})
    assert [found.zones for found in objects] == [("u",), (), ("u",), ("u",)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 99), st.floats(21, 79)), min_size=2, max_size=30))
def test_crossings_in_minus_out_is_where_it_ended(way: list[tuple[float, float]]) -> None:
    """Whatever the way: who begins left of an endless line and ends right of it crossed once more in one direction."""
    places = Places([Line(name="gate", start=(0.5, 0.0), end=(0.5, 1.0))], [])
    walk(places, {1: way})
    decided = [x for x, _ in way if abs(x - 50) >= 0.4]
    told = places.counts()["lines"]["gate"]
    if decided:
        gone = int(decided[0] > 50) - int(decided[-1] > 50)
        assert told["in"].get("car", 0) - told["out"].get("car", 0) == gone
