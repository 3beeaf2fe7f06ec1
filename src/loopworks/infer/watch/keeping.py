"""From chosen inputs to the inbox: what may be kept, once each, in the dataset or, for rows, beside it."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loopworks.core import image, turning
from loopworks.core.bundle import Bundle
from loopworks.core.content import content_id
from loopworks.core.contracts import Rule
from loopworks.core.errors import LoopworksError
from loopworks.core.row import RowRule
from loopworks.core.values import ImageRule, Problem, Shape
from loopworks.data import inbox
from loopworks.data.inbox import Incoming
from loopworks.data.stage import Dataset
from loopworks.infer.watch import privacy, traits
from loopworks.infer.watch.judge import Seen
from loopworks.infer.watch.rules import Rules
from loopworks.store import watching
from loopworks.store.home import Home
from loopworks.store.ids import now
from loopworks.store.watching import Captured

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """An input that rules chose."""

    seen: Seen
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Kept:
    """What became of chosen inputs."""

    kept: int = 0
    again: int = 0
    """That were captured before: they are counted there, and stored once."""
    problems: list[Problem] = field(default_factory=list)


def row_id(row: Mapping[str, Any]) -> str:
    """Id of a row: the same for every way that it came."""
    return content_id(json.dumps(dict(row), sort_keys=True, default=str, ensure_ascii=False).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Keeps chosen inputs of one deployment."""

    home: Home
    deployment: str
    revision: int
    model: str
    """NAME:NUMBER."""
    bundle: Bundle
    rules: Rules
    dataset: Dataset | None
    """Whose inbox it is; ``None``: inputs are only counted."""

    def keep(self, chosen: Sequence[Chosen]) -> Kept:
        """Write what was chosen; one that cannot be kept is told, the rest is kept.

        Raises: NoSpace, Busy, Denied: nothing of it was kept.
        """
        done = Kept()
        merged: dict[str, Chosen] = {}
        times: dict[str, int] = {}
        for one in chosen:
            item = one.seen.item
            times[item] = times.get(item, 0) + 1
            earlier = merged.get(item)
            reasons = tuple(dict.fromkeys([*(earlier.reasons if earlier else ()), *one.reasons]))
            merged[item] = Chosen(one.seen, reasons)
        with self.home.catalog.read() as tx:
            known = watching.known(tx, self.deployment, merged)
        fresh = {item: one for item, one in merged.items() if item not in known}
        rows = [self._again(known[item], merged[item], times[item]) for item in known]
        done.again = sum(times[item] for item in known) + sum(times[item] - 1 for item in fresh)
        rows += self._fresh(fresh, times, done)
        with self.home.catalog.begin() as tx:
            watching.keep(tx, rows)
        done.kept = len(rows) - len(known)
        return done

    def _again(self, before: Captured, one: Chosen, times: int) -> Captured:
        reasons = tuple(dict.fromkeys([*before.reasons, *one.reasons]))
        return replace(before, count=before.count + times, reasons=reasons, last_at=now())

    def _fresh(self, fresh: Mapping[str, Chosen], times: Mapping[str, int], done: Kept) -> list[Captured]:
        incoming: dict[str, Incoming] = {}
        contents: dict[str, Any] = {}
        for item, one in fresh.items():
            if self.dataset is None or self.rules.privacy.keep == "off":
                continue
            try:
                if self.bundle.rule.media == "row":
                    contents[item] = self._row(one.seen)
                else:
                    incoming[item] = self._item(one)
            except LoopworksError as error:
                where = one.seen.name
                done.problems.append(Problem(where=where, error=error.code, message=error.message, hint=error.hint))
        added: frozenset[str] = frozenset()
        if incoming and self.dataset is not None:
            received = inbox.receive(self.home, self.dataset, list(incoming.values()))
            added = received.added
            done.problems += received.problems
        failed = {problem.where for problem in done.problems}
        moment = now()
        rows = []
        for item, one in fresh.items():
            stored = incoming[item].item if item in incoming else item
            is_kept = item in contents or (item in incoming and f"inbox/{stored[:16]}" not in failed)
            is_counted_only = self.dataset is None or self.rules.privacy.keep == "off"
            if not is_kept and not is_counted_only:
                continue
            rows.append(
                Captured(
                    deployment=self.deployment,
                    item=item,
                    dataset=self.dataset.id if is_kept and self.dataset is not None else "",
                    stored=stored if item in incoming and is_kept else "",
                    model=self.model,
                    revision=self.revision,
                    reasons=one.reasons,
                    count=times[item],
                    label=traits.answer_text(one.seen.said),
                    score=traits.confidence(one.seen.said),
                    content=contents.get(item),
                    state=watching.INBOX,
                    is_ours=stored in added or item in contents,
                    first_at=moment,
                    last_at=moment,
                )
            )
        return rows

    def _row(self, seen: Seen) -> dict[str, Any]:
        rule = self.bundle.rule
        assert isinstance(rule, RowRule)
        return privacy.row(seen.content, self.rules.privacy, rule, privacy.secret_of(self.home), key=self.rules.key)

    def _item(self, one: Chosen) -> Incoming:
        seen = one.seen
        facts = {
            "deployment": self.deployment,
            "prediction": f"{self.deployment}/{self.revision}/{seen.item}",
            "reason": ", ".join(one.reasons),
        }
        if isinstance(seen.content, str):
            return Incoming(item=seen.item, content=seen.content, attributes=facts, model=self.model, said=seen.said)
        content, said = self._picture(seen)
        return Incoming(item=content_id(content), content=content, attributes=facts, model=self.model, said=said)

    def _picture(self, seen: Seen) -> tuple[bytes, Sequence[tuple[Shape, float]]]:
        """The file to keep, and the answer in pixels of that file as it is stored."""
        rule, most = self.bundle.rule, self.home.settings.max_image_pixels
        assert isinstance(rule, ImageRule)
        content = privacy.picture(seen.content, self.rules.privacy, rule, seen.said, most)
        if not any(shape.points for shape, _ in seen.said):
            return content, seen.said
        width, height, _ = image.probe(content, seen.name, most)
        turn = image.orientation(content, seen.name, most)
        shown = turning.shown_size((width, height), turn)
        said = seen.said
        if seen.size and seen.size != shown:
            if rule.fit != "stretch":
                return content, ()  # places do not carry over to what was cut or padded; the label queue asks again
            said = [(_scaled(shape, shown[0] / seen.size[0], shown[1] / seen.size[1]), sure) for shape, sure in said]
        return content, [(turning.stored(shape, (width, height), turn), sure) for shape, sure in said]


def _scaled(shape: Shape, x: float, y: float) -> Shape:
    if shape.kind not in ("box", "polygon", "polyline", "points", "obb"):
        return shape
    return replace(
        shape, points=tuple(tuple(v * (y if at % 2 else x) for at, v in enumerate(row)) for row in shape.points)
    )


def ids_of(rule: Rule, inputs: Mapping[str, Any], count: int) -> list[str]:
    """Ids of inputs that came as tensors."""
    if isinstance(rule, RowRule):
        return [row_id(row) for row in traits.rows_of(rule, inputs)]
    if rule.media == "image":
        return [content_id(pixels.tobytes()) for pixels in next(iter(inputs.values()))[:count]]
    return [content_id(text.encode("utf-8", "replace")) for text in traits.texts(inputs)]


def content_of(rule: Rule, inputs: Mapping[str, Any], at: int) -> Any:
    """One input that came as tensors, as the content of an item: pixels as PNG, a text, a row."""
    one = {name: values[at : at + 1] for name, values in inputs.items()}
    if isinstance(rule, RowRule):
        return traits.rows_of(rule, one)[0]
    if rule.media == "image":
        return image.encode_png(next(iter(one.values()))[0])
    return traits.texts(one)[0]


def fingerprints(inputs: Mapping[str, Any], count: int) -> list[bytes]:
    """A short hash of each row of packed tensors: the same input, the same hash, however it came."""
    found = []
    for at in range(count):
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(inputs):
            row = inputs[name][at]
            digest.update(name.encode())
            if row.dtype == object:
                for cell in row.ravel().tolist():
                    data = cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "replace")
                    digest.update(len(data).to_bytes(8, "little") + data)
            else:
                digest.update(row.tobytes())
        found.append(digest.digest())
    return found
