"""Counting at lines and in zones, by what is followed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loopworks.infer.live.definition import Line, Point, Zone
from loopworks.infer.live.frames import Found

MARGIN = 0.004
"""So near to a line, as a share of the picture, its side is not decided: what trembles is not counted twice."""


@dataclass(slots=True)
class _Crossings:
    line: Line
    into: Counter[str] = field(default_factory=Counter)
    out: Counter[str] = field(default_factory=Counter)
    decided: dict[int, Point] = field(default_factory=dict)
    """Track -> where it last was clearly on a side."""

    def see(self, track: int, label: str, at: Point) -> str:
        """``in`` or ``out`` where the track has just crossed the line, else empty."""
        side = _side(self.line, at)
        if abs(side) < MARGIN:
            return ""
        before = self.decided.get(track)
        self.decided[track] = at
        if before is None or (_side(self.line, before) > 0) == (side > 0) or not _meets(self.line, before, at):
            return ""
        (self.into if side > 0 else self.out)[label] += 1
        return "in" if side > 0 else "out"


@dataclass(slots=True)
class _Stays:
    zone: Zone
    inside: dict[int, tuple[str, float, float]] = field(default_factory=dict)
    """Track -> class, since when, last seen there."""
    entered: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    stayed_s: Counter[str] = field(default_factory=Counter)
    """Class -> time in all, of those that have left."""
    longest_s: float = 0.0
    now: Counter[str] = field(default_factory=Counter)

    def see(self, track: int | None, label: str, at: Point, time_s: float) -> bool:
        is_inside = _contains(self.zone.corners, at)
        if is_inside:
            self.now[label] += 1
        if track is None:
            return is_inside
        if is_inside:
            if track not in self.inside:
                self.entered[label] += 1
            _, since, _ = self.inside.get(track, (label, time_s, time_s))
            self.inside[track] = (label, since, time_s)
        elif track in self.inside:
            self.leave(track, time_s)
        return is_inside

    def leave(self, track: int, time_s: float | None = None) -> None:
        label, since, seen = self.inside.pop(track)
        stay = (seen if time_s is None else time_s) - since
        self.left[label] += 1
        self.stayed_s[label] += stay  # type: ignore[assignment]  # Counter adds floats as well
        self.longest_s = max(self.longest_s, stay)


class Places:
    """The lines and zones of a pipeline; a box stands where the middle of its lower side is."""

    def __init__(self, lines: Sequence[Line], zones: Sequence[Zone]) -> None:
        """Begin with nothing counted."""
        self._lines = [_Crossings(line) for line in lines]
        self._zones = [_Stays(zone) for zone in zones]

    def resume(self, counts: Mapping[str, Any]) -> None:
        """Go on counting from what ``counts`` gave before a restart; who was in a zone then will enter it anew."""
        for crossings in self._lines:
            before = counts.get("lines", {}).get(crossings.line.name, {})
            crossings.into.update(before.get("in", {}))
            crossings.out.update(before.get("out", {}))
        for stays in self._zones:
            before = counts.get("zones", {}).get(stays.zone.name, {})
            stays.left.update(before.get("left", {}))
            stays.entered.update(stays.left)
            stays.stayed_s.update({k: mean * stays.left[k] for k, mean in before.get("mean_stay_s", {}).items()})
            stays.longest_s = before.get("longest_stay_s", 0.0)

    def update(self, objects: Sequence[Found], size: tuple[int, int], time_s: float, alive: Iterable[int]) -> None:
        """Say of each object which lines it crossed and which zones it is in, and count.

        Args:
            objects: of one frame; those with a box are looked at.
            size: width and height of the frame, in pixels.
            time_s: of the frame.
            alive: tracks that are not given up; the others have left their zones when they were last seen.
        """
        living = frozenset(alive)
        for stays in self._zones:
            stays.now.clear()
            for gone in [one for one in stays.inside if one not in living]:
                stays.leave(gone)
        for crossings in self._lines:
            for gone in [one for one in crossings.decided if one not in living]:
                del crossings.decided[gone]
        for found in objects:
            if found.box is None:
                continue
            x, y, width, height = found.box
            at = ((x + width / 2) / size[0], (y + height) / size[1])
            track = found.track
            found.zones = tuple(s.zone.name for s in self._zones if s.see(track, found.label, at, time_s))
            if track is not None:
                sides = [(one.line.name, one.see(track, found.label, at)) for one in self._lines]
                found.crossed = tuple(f"{name}:{side}" for name, side in sides if side)

    def counts(self) -> dict[str, Any]:
        """Per line ``in`` and ``out`` by class; per zone who is there ``now``, came, left, and how long they stayed."""
        told: dict[str, Any] = {}
        if self._lines:
            told["lines"] = {one.line.name: {"in": dict(one.into), "out": dict(one.out)} for one in self._lines}
        if self._zones:
            told["zones"] = {
                one.zone.name: {
                    "now": dict(one.now),
                    "entered": dict(one.entered),
                    "left": dict(one.left),
                    "mean_stay_s": {k: round(v / one.left[k], 3) for k, v in one.stayed_s.items() if one.left[k]},
                    "longest_stay_s": round(one.longest_s, 3),
                }
                for one in self._zones
            }
        return told


def _side(line: Line, at: Point) -> float:
    """Distance from the line, as a share of the picture; positive on its right, looking from start to end."""
    (x0, y0), (x1, y1) = line.start, line.end
    dx, dy = x1 - x0, y1 - y0
    length: float = (dx * dx + dy * dy) ** 0.5
    return (dx * (at[1] - y0) - dy * (at[0] - x0)) / length  # y grows downwards, so right is positive


def _meets(line: Line, before: Point, now: Point) -> bool:
    """Whether the way from ``before`` to ``now``, which lie on different sides, passes between the line's ends."""
    a, b = _side(line, before), _side(line, now)
    share = a / (a - b)
    x, y = before[0] + share * (now[0] - before[0]), before[1] + share * (now[1] - before[1])
    (x0, y0), (x1, y1) = line.start, line.end
    along = (x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)
    return bool(0 <= along <= (x1 - x0) ** 2 + (y1 - y0) ** 2)


def _contains(corners: Sequence[Point], at: Point) -> bool:
    """Whether a point is inside a polygon: a ray from it crosses the outline an odd number of times."""
    x, y = at
    is_inside = False
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            is_inside = not is_inside
    return is_inside
