"""Following boxes from frame to frame: ByteTrack.

Source: Zhang et al. 2022, "ByteTrack: Multi-Object Tracking by Associating Every Detection Box": boxes of a high score
are matched first, to where a Kalman filter expects the tracks; those of a low score then to the tracks that are left,
because a thing half hidden scores low and is still there. The filter is that of Wojke et al. 2017, "Simple Online and
Realtime Tracking with a Deep Association Metric": centre, aspect and height with their speeds, noise in shares of the
height. Here times are real: a frame that was dropped makes the next step longer, and tracks end by seconds, not frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Missing
from loopworks.infer.live.definition import Track as Settings

Floats = NDArray[np.float64]
_PLACE, _SPEED = 1 / 20, 1 / 160
"""Standard deviations of place and speed in one step, in heights of the box."""
LOW_OVERLAP = 0.5
"""Least overlap of a box of a low score with its track, as in the paper."""
NEW = 0.1
"""How far above ``high`` a score must be to begin a track, as in the authors' code."""


@dataclass(slots=True)
class _Track:
    id: int
    label: int
    mean: Floats
    """Centre x, centre y, width / height, height, and the speeds of these per step."""
    covariance: Floats
    seen_s: float
    is_confirmed: bool
    """Seen twice: one box alone may be noise."""
    is_lost: bool = False

    def box(self) -> Floats:
        """x, y, width, height where it is now, or should be."""
        x, y, aspect, height = self.mean[:4]
        return np.array([x - aspect * height / 2, y - height / 2, aspect * height, height])


class Tracker:
    """Gives each box the number of its track. One per pipeline; frames in their order."""

    def __init__(self, settings: Settings) -> None:
        """Begin without tracks."""
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError:
            raise Missing("scipy", "live", "tracking") from None
        self._assign: Any = linear_sum_assignment
        self._settings = settings
        self._tracks: list[_Track] = []
        self._last_id = 0
        self._time_s: float | None = None
        self._gap_s = 0.0
        """The usual time between frames."""

    @property
    def alive(self) -> frozenset[int]:
        """Tracks that are seen, or not yet given up."""
        return frozenset(track.id for track in self._tracks)

    def update(self, boxes: Floats, scores: Floats, labels: NDArray[np.int64], time_s: float) -> list[tuple[int, int]]:
        """Follow the boxes of one frame.

        Args:
            boxes: x, y, width, height, shape ``(boxes, 4)``.
            scores: in 0..1, shape ``(boxes,)``.
            labels: classes, shape ``(boxes,)``; a track keeps its class.
            time_s: of the frame; it grows.
        Returns: place of a box and number of its track, for the boxes that have one.
        """
        self._predict(time_s)
        high = np.flatnonzero(scores >= self._settings.high)
        low = np.flatnonzero((scores >= self._settings.low) & (scores < self._settings.high))
        found: dict[int, _Track] = {}
        known = [track for track in self._tracks if track.is_confirmed]
        rest, high = self._match(known, high, boxes, scores, labels, self._settings.overlap, found)
        seen = [track for track in rest if not track.is_lost]
        rest, _ = self._match(seen, low, boxes, np.ones_like(scores), labels, LOW_OVERLAP, found)
        for track in rest:
            track.is_lost = True
        tentative = [track for track in self._tracks if not track.is_confirmed]
        gone, high = self._match(tentative, high, boxes, scores, labels, self._settings.overlap, found)
        for at, track in found.items():
            _correct(track, _measured(boxes[at]))
            track.is_confirmed, track.is_lost, track.seen_s = True, False, time_s
        dropped = {track.id for track in gone}
        is_first = not self._last_id
        self._tracks = [
            track
            for track in self._tracks
            if track.id not in dropped and time_s - track.seen_s <= self._settings.keep_s
        ]
        for place in high:
            if scores[place] >= min(self._settings.high + NEW, 1.0):
                found[int(place)] = self._begin(boxes[place], int(labels[place]), time_s, is_first)
        return sorted((place, track.id) for place, track in found.items() if track.is_confirmed)

    def _predict(self, time_s: float) -> None:
        step = 1.0
        if self._time_s is not None and time_s > self._time_s:
            gap = time_s - self._time_s
            self._gap_s = gap if not self._gap_s else min(gap, 0.9 * self._gap_s + 0.1 * gap)
            step = min(gap / self._gap_s, 30.0)
        self._time_s = time_s
        move = np.eye(8)
        move[:4, 4:] = np.eye(4) * step
        for track in self._tracks:
            height = max(track.mean[3], 1e-3)
            noise = np.array([_PLACE * height] * 4 + [_SPEED * height] * 4)
            noise[2], noise[6] = 1e-2, 1e-5
            if track.is_lost:
                track.mean[7] = 0.0  # a thing that is hidden keeps its size
            track.mean = move @ track.mean
            track.covariance = move @ track.covariance @ move.T + np.diag(noise**2) * step

    def _match(
        self,
        tracks: list[_Track],
        places: NDArray[np.intp],
        boxes: Floats,
        scores: Floats,
        labels: NDArray[np.int64],
        least: float,
        found: dict[int, _Track],
    ) -> tuple[list[_Track], NDArray[np.intp]]:
        """Fill ``found`` with the pairs of the largest overlap in all; give the tracks and places that are left."""
        if not tracks or not len(places):
            return tracks, places
        expected = np.stack([track.box() for track in tracks])
        share = overlaps(expected, boxes[places]) * scores[places]
        share[np.array([track.label for track in tracks])[:, None] != labels[places]] = 0.0
        taken_tracks, taken_places = set(), set()
        for row, column in zip(*self._assign(1.0 - share), strict=True):
            if share[row, column] >= least:
                found[int(places[column])] = tracks[row]
                taken_tracks.add(int(row))
                taken_places.add(int(column))
        return (
            [track for row, track in enumerate(tracks) if row not in taken_tracks],
            np.array([place for i, place in enumerate(places) if i not in taken_places], np.intp),
        )

    def _begin(self, box: Floats, label: int, time_s: float, is_first: bool) -> _Track:
        self._last_id += 1
        measured = _measured(box)
        height = measured[3]
        spread = np.array([2 * _PLACE * height] * 4 + [10 * _SPEED * height] * 4)
        spread[2], spread[6] = 1e-2, 1e-5
        mean = np.concatenate([measured, np.zeros(4)])
        # What is there in the first frame needs no second look: nothing could have been seen before.
        track = _Track(self._last_id, label, mean, np.diag(spread**2), time_s, is_first)
        self._tracks.append(track)
        return track


def overlaps(left: Floats, right: Floats) -> Floats:
    """Intersection over union of boxes (x, y, width, height), shape ``(left, right)``."""
    a, b = left[:, None], right[None]
    corner = np.maximum(a[..., :2], b[..., :2])
    end = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inside = np.clip(end - corner, 0, None).prod(axis=-1)
    return np.asarray(inside / np.maximum(a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - inside, 1e-9))


def _measured(box: Floats) -> Floats:
    x, y, width, height = box
    height = max(float(height), 1e-3)
    return np.array([x + width / 2, y + height / 2, width / height, height])


def _correct(track: _Track, measured: Floats) -> None:
    noise = np.full(4, _PLACE * max(track.mean[3], 1e-3))
    noise[2] = 1e-1
    see = track.covariance[:4, :4] + np.diag(noise**2)
    gain = np.linalg.solve(see, track.covariance[:4]).T
    track.mean = track.mean + gain @ (measured - track.mean[:4])
    track.covariance = track.covariance - gain @ see @ gain.T
