"""Where names go beside the points of a picture, so that none lies over another name or a point."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LETTER_PX, ABOVE_PX, BELOW_PX = 5.8, 9.0, 3.0
"""Of a text of 11 pixels: width of a letter (a generous mean), height over its base line, depth below it."""
GAP_PX, RADIUS_PX, ROW_PX, COLUMN_PX = 8.0, 5.5, 13.0, 40.0
"""From a point to its name; of a point; steps in which places are tried."""
NEAR_PX = 14.0
"""Distance from which a line must say which point a name belongs to."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point to name, in pixels from the top left corner."""

    x: float
    y: float
    low: float
    """Lower end of the line through it."""
    high: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A name in its place."""

    left: float
    baseline: float
    width: float
    is_away: bool
    """Whether it is so far from its point that a line must lead there."""

    @property
    def box(self) -> Box:
        """What it covers."""
        return self.left, self.baseline - ABOVE_PX, self.left + self.width, self.baseline + BELOW_PX

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The place on its edge that is nearest to another place."""
        left, top, right, bottom = self.box
        return min(max(x, left), right), min(max(y, top), bottom)


def place(points: Sequence[Point], frame: Box) -> list[Label]:
    """A place for the name of each point, one after the other: the nearest that is free.

    Names keep off all points and names, and off the lines through other points as long as there is room. Where a frame
    is so full that nothing is free, a name goes where it covers least.

    Args:
        points: in the order in which they may choose.
        frame: what names must stay inside.
    """
    dots = [(p.x - RADIUS_PX, p.y - RADIUS_PX, p.x + RADIUS_PX, p.y + RADIUS_PX) for p in points]
    lines = [(p.x - 1, min(p.low, p.high), p.x + 1, max(p.low, p.high)) for p in points]
    found: list[Label] = []
    for at, point in enumerate(points):
        taken = [*dots, *(label.box for label in found)]
        others = [line for number, line in enumerate(lines) if number != at]
        tried = list(_tried(point, frame))
        costs = [
            (_covered(label.box, taken), _covered(label.box, others) > 0, number) for number, label in enumerate(tried)
        ]
        found.append(tried[min(costs)[2]])
    return found


def _tried(point: Point, frame: Box) -> Iterator[Label]:
    """All places inside the frame, the nearest first; on the right before the left."""
    width = LETTER_PX * (len(point.text) + 1)  # a blank lies between two names side by side
    beside = (point.x + GAP_PX, point.x - GAP_PX - width)
    columns = [*beside, *_steps(frame[0], frame[2] - width, COLUMN_PX)]
    rows = [point.y + 4, *_steps(frame[1] + ABOVE_PX, frame[3] - BELOW_PX, ROW_PX)]
    rows += [point.y + 4 + side * ROW_PX * step for side in (-1, 1) for step in (1, 2, 3)]
    found = []
    for left in columns:
        for baseline in rows:
            label = Label(left=left, baseline=baseline, width=width, is_away=False)
            if _inside(label.box, frame):
                x, y = label.nearest(point.x, point.y)
                far = ((x - point.x) ** 2 + (y - point.y) ** 2) ** 0.5
                found.append((far, left < point.x, abs(baseline - point.y), label))
    found.sort(key=lambda one: one[:3])
    for far, _, _, label in found:
        yield Label(left=label.left, baseline=label.baseline, width=width, is_away=far > NEAR_PX)
    if not found:  # a name longer than the frame is wide
        yield Label(left=frame[0], baseline=point.y + 4, width=width, is_away=True)


def _steps(start: float, end: float, step: float) -> list[float]:
    return [start + step * number for number in range(max(0, int((end - start) / step) + 1))]


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _covered(box: Box, others: Sequence[Box]) -> float:
    """Pixels that it shares with the others."""
    shared = 0.0
    for other in others:
        wide = min(box[2], other[2]) - max(box[0], other[0])
        high = min(box[3], other[3]) - max(box[1], other[1])
        shared += max(0.0, wide) * max(0.0, high)
    return shared
