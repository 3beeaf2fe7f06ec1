"""One watched deployment: its rules at work on what it is asked and answers."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import LoopworksError, NotFound
from loopworks.core.units import seconds
from loopworks.data.learning import source_of
from loopworks.data.stage import Dataset, open_dataset, open_version
from loopworks.infer.watch import drift, keeping, privacy, reference, traits, windows
from loopworks.infer.watch.alerts import Alerts
from loopworks.infer.watch.drift import Window
from loopworks.infer.watch.judge import Judge, Second, Seen
from loopworks.infer.watch.keeping import Chosen, Keeper
from loopworks.infer.watch.log import Entry, Log, days_ago
from loopworks.infer.watch.reference import Reference
from loopworks.infer.watch.rules import Rules
from loopworks.store import bundles, models, watching
from loopworks.store.home import Home

if TYPE_CHECKING:
    from loopworks.infer.watch.watcher import Answered, Figures

log = logging.getLogger(__name__)
LOG_S, LOG_ROWS, MOST_LOG = 10.0, 20_000, 200_000
COUNT_S = 5.0
TIDY_S = 3_600.0
DRIFT_S = 60.0
"""Least time between two comparisons."""
CLOSE_S = 5.0
KEEP_S = 30.0
"""How often windows are written to disk: a server that is killed loses what came since."""
ALERT_S = 86_400.0
"""An alarm that goes on is told again after this time."""
KEPT_EVENTS = 200


@dataclass(frozen=True, slots=True)
class Clock:
    """The time, which tests move."""

    wall: Any = time.time
    monotonic: Any = time.monotonic


class Watched:
    """The rules of one deployment, with what they have under way."""

    def __init__(
        self, home: Home, name: str, rev: int, rules: Rules, figures: "Figures", clock: Clock, alerts: Alerts
    ) -> None:
        """Nothing is looked at yet."""
        self.home, self.name, self.rev, self.rules = home, name, rev, rules
        self._figures, self._clock, self._alerts = figures, clock, alerts
        self._judge = Judge(rules, clock=clock.wall)
        self._log = Log(home, name)
        self._entries: list[Entry] = []
        self._counts: Counter[str] = Counter()
        self._originals: Counter[bytes] = Counter()
        self._references: dict[tuple[str, str], Reference | None] = {}
        self._seconds: dict[str, tuple[str, Predictor]] = {}
        self.threads: list[threading.Thread] = []
        """That look at training data, or did."""
        self._keepers: dict[tuple[str, str], Keeper] = {}
        self._windows: dict[tuple[str, str], tuple[Window, float]] = {}
        self._kept_at: dict[tuple[str, str], tuple[float, int]] = {}
        """When a window was last written, and how many items it had then."""
        now = clock.monotonic()
        self._logged_at = self._counted_at = self._tidied_at = now
        self._compared_at: dict[tuple[str, str], float] = {}
        self._alarmed: tuple[frozenset[str], float] | None = None
        self._served: Answered | None = None

    def close(self) -> None:
        """Keep windows, free other models that were loaded, wait a moment for whoever still looks at training data."""
        try:
            self._keep_windows(is_all=True)
        except LoopworksError as error:  # a full disk: the next server begins with an empty window
            log.warning("window of drift is lost deployment=%s: %s", self.name, error)
        for thread in self.threads:
            thread.join(CLOSE_S)
        self._free()

    def _free(self) -> None:
        for _, predictor in self._seconds.values():
            predictor.close()
        self._seconds.clear()

    @staticmethod
    def ref(served: "Answered") -> str:
        """NAME:NUMBER of the model that answered."""
        return f"{served.facts.get('model', served.name)}:{served.facts.get('number', served.version)}"

    # ---- what was asked

    def offered(self, served: "Answered", items: Sequence[Seen], inputs: Arrays, outputs: Arrays) -> list[Seen]:
        """Items as they came, with the tensors made of them; gives them with their answers."""
        self._served = served
        for mark in keeping.fingerprints(inputs, len(items)):
            self._originals[mark] += 1
        sizes = [one.size for one in items if one.size is not None]
        said = traits.answers(served.bundle, outputs, self.ref(served), sizes)
        told = [replace(one, said=answer, key=self._key(one.content)) for one, answer in zip(items, said, strict=True)]
        self._take(served, told, inputs, outputs)
        return told

    def ran(self, served: "Answered", inputs: Arrays, outputs: Arrays, count: int) -> None:
        """The engine ran: all of it counts for drift; what no original was brought for is judged as it is."""
        rule = served.bundle.rule
        self._served = served
        self._counts["seen"] += count
        said = traits.answers(served.bundle, outputs, self.ref(served))
        self._drift(served, inputs, said)
        at = list(range(count))
        if self._originals:
            at = [i for i, mark in enumerate(keeping.fingerprints(inputs, count)) if not self._is_original(mark)]
        if not at or not (self.rules.capture or self.rules.log.is_on):
            return
        some = {name: values[at] for name, values in inputs.items()}
        answers = {name: values[at] for name, values in outputs.items()}
        ids = keeping.ids_of(rule, some, len(at))
        sizes = [self._shape(some)] * len(at) if rule.media == "image" else []
        said = traits.answers(served.bundle, answers, self.ref(served), sizes)
        keys = self._keys(served, some, len(at))
        told = [
            Seen(item=item, name=self.name, content=None, said=answer, key=key, size=sizes[0] if sizes else None)
            for item, answer, key in zip(ids, said, keys, strict=True)
        ]
        self._take(served, told, some, answers)

    def _keys(self, served: "Answered", inputs: Arrays, count: int) -> list[str]:
        if self.rules.key and self.rules.key in inputs:
            return [self._private(self._told(value)) for value in inputs[self.rules.key].ravel().tolist()]
        return [""] * count

    @staticmethod
    def _told(value: Any) -> str:
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)

    def _key(self, content: Any) -> str:
        if not self.rules.key or not isinstance(content, Mapping) or content.get(self.rules.key) is None:
            return ""
        return self._private(self._told(content[self.rules.key]))

    def _private(self, key: str) -> str:
        return privacy.key(key, self.rules, self.home)

    @staticmethod
    def _shape(inputs: Arrays) -> tuple[int, int]:
        pixels = next(iter(inputs.values()))
        return int(pixels.shape[2]), int(pixels.shape[1])

    def _is_original(self, mark: bytes) -> bool:
        if mark not in self._originals:
            return False
        self._originals[mark] -= 1
        if not self._originals[mark]:
            del self._originals[mark]
        return True

    # ---- capture and log

    def _take(self, served: "Answered", items: Sequence[Seen], inputs: Arrays, outputs: Arrays) -> None:
        if self.rules.log.is_on:
            self._note(served, items)
        if not self.rules.capture:
            return
        needs_far = self.rules.rule("far") is not None
        reasons = self._judge.reasons(
            served.bundle,
            inputs,
            outputs,
            reference=self._reference(served) if needs_far else None,
            second=self._second(served),
        )
        chosen = []
        for at, (one, why) in enumerate(zip(items, reasons, strict=True)):
            for name in why:
                self._counts[f"chosen.{name}"] += 1
            allowed = self._judge.spend(why)
            self._counts["over_budget"] += bool(why) and not allowed
            if allowed:
                if one.content is None:
                    one = replace(one, content=keeping.content_of(served.bundle.rule, inputs, at))
                chosen.append(Chosen(one, tuple(allowed)))
        if chosen:
            self._keep(served, chosen)

    def capture_one(self, seen: Seen, _ref: str) -> bool:
        """Keep one input that a user complained about; ``False`` where the budget is spent."""
        served = self._served
        if served is None or not self._judge.spend(["feedback"]):
            return False
        self._counts["chosen.feedback"] += 1
        self._keep(served, [Chosen(seen, ("feedback",))])
        return True

    def _keep(self, served: "Answered", chosen: Sequence[Chosen]) -> None:
        done = self._keeper(served).keep(chosen)
        self._counts["captured"] += done.kept
        self._counts["again"] += done.again
        for problem in done.problems:
            self._figures.failed[self.name, problem.error] += 1
            log.warning("capture left out deployment=%s: %s", self.name, problem.message)
        for one in chosen:
            for name in one.reasons:
                self._figures.captured[self.name, name] += 1

    def _keeper(self, served: "Answered") -> Keeper:
        key = (served.version, served.variant.name)
        if key not in self._keepers:
            self._keepers[key] = Keeper(
                home=self.home,
                deployment=self.name,
                revision=int(served.version),
                model=self.ref(served),
                bundle=served.bundle,
                rules=self.rules,
                dataset=inbox_of(self.home, self.rules, served.bundle),
            )
        return self._keepers[key]

    def _note(self, served: "Answered", items: Sequence[Seen]) -> None:
        room = MOST_LOG - len(self._entries)
        if room < len(items):
            self._figures.dropped[self.name] += len(items) - max(0, room)
        for one in items[: max(0, room)]:
            self._entries.append(
                Entry(
                    item=one.item,
                    revision=int(served.version),
                    key=one.key,
                    answer=traits.answer_text(one.said),
                    score=traits.confidence(one.said),
                    at=datetime.fromtimestamp(one.at, UTC),
                )
            )

    def _second(self, served: "Answered") -> Second | None:
        """The other model of the rule ``disagree``; ``None`` where there is no rule, or it is the one in use."""
        rule = self.rules.rule("disagree")
        if rule is None:
            return None
        name = str(served.facts.get("model", served.name))
        wanted = rule.model or (f"{self.ref(served)}" if rule.variant else f"{name}@champion")
        with self.home.catalog.read() as tx:
            try:
                found = models.get(tx, wanted)
            except NotFound:
                return None
        if found.ref == self.ref(served) and rule.variant in ("", served.variant.name):
            return None
        if self._seconds.get("second", ("", None))[0] != found.ref:
            bundle = bundles.load(self.home.blobs, found.bundle, self.home.cache)
            if bundle.inputs != served.bundle.inputs or bundle.schema.classes != served.bundle.schema.classes:
                return None  # they cannot be asked the same, or answer another question
            self._free()
            loaded = predictors.load(bundle.variant(rule.variant), bundle.folder, bundle.rule, threads=1)
            self._seconds["second"] = (found.ref, loaded)
        return self._seconds["second"][1].predict

    # ---- drift

    def _drift(self, served: "Answered", inputs: Arrays, said: Sequence[traits.Said]) -> None:
        if not self.rules.drift.is_on or self._reference(served) is None:
            return
        key = (served.version, served.variant.name)
        if key not in self._windows:
            self._windows[key] = self._window(key)
        window = self._windows[key][0]
        if window.count >= window.size:
            return
        window.add(traits.of_inputs(served.bundle.rule, inputs), traits.of_answers(said))

    def _window(self, key: tuple[str, str]) -> tuple[Window, float]:
        """The window that was kept when the server stopped or the rules changed; else an empty one."""
        size, now = self.rules.drift.window, self._clock.monotonic()
        found = windows.take(self._path_of(key), size)
        if found is None:
            return Window(size), now
        return found.window, now - max(0.0, self._clock.wall() - found.since)

    def _path_of(self, key: tuple[str, str]) -> Path:
        return windows.path_of(self.home.cache, self.name, *key)

    def _keep_windows(self, *, is_all: bool) -> None:
        """Write the windows that have grown, where that is allowed and time."""
        if self.rules.privacy.keep == "off":
            return
        now = self._clock.monotonic()
        for key, (window, since) in self._windows.items():
            at, count = self._kept_at.get(key, (since, 0))
            if window.count != count and (is_all or now - at >= KEEP_S):
                self._kept_at[key] = now, window.count
                began = self._clock.wall() - (now - since)
                windows.write(self._path_of(key), window, began, (*self.rules.privacy.drop, *self.rules.privacy.hash))

    def _reference(self, served: "Answered") -> Reference | None:
        """The training data of the model in use, once a thread of its own has looked at it."""
        key = (served.version, served.variant.name)
        if key not in self._references:
            self._references[key] = None
            thread = threading.Thread(target=self._refer, args=(served, key), name="watch-reference", daemon=True)
            self.threads.append(thread)
            self.threads[-1].start()
        return self._references[key]

    def _refer(self, served: "Answered", key: tuple[str, str]) -> None:
        try:
            found = reference_of(self.home, served.bundle, served.variant.name)
        except Exception as error:  # the top of a thread; a version may be erased, a file damaged
            self._figures.failed[self.name, getattr(error, "code", "internal")] += 1
            log.warning("no reference for deployment=%s: %s", self.name, error)
            return
        self._references[key] = found

    def _compare(self) -> None:
        for key, (window, since) in list(self._windows.items()):
            ready = self._references.get(key)
            now = self._clock.monotonic()
            is_due = window.count >= window.size or (
                window.count >= drift.LEAST and now - since >= seconds(self.rules.drift.every, "drift.every")
            )
            if ready is None or not is_due or now - self._compared_at.get(key, -DRIFT_S) < DRIFT_S:
                continue
            self._compared_at[key] = now
            self._windows[key] = Window(window.size), now
            self._kept_at.pop(key, None)
            windows.drop(self._path_of(key))
            report = drift.compare(ready, *window.seen(), privacy.of_drift(self.rules)).to_json()
            told = {**report, "revision": int(key[0]), "variant": key[1]}
            with self.home.catalog.begin() as tx:
                watching.add_event(tx, self.name, "drift", told)
                watching.prune_events(tx, self.name, "drift", keep=KEPT_EVENTS)
            if report["is_drift"]:
                self._alarm(told)

    def _alarm(self, report: Mapping[str, Any]) -> None:
        """Say it once, and again when other columns move or a day has gone by."""
        moved = frozenset(column["name"] for column in report["columns"] if column["is_drift"])
        now = self._clock.monotonic()
        before, at = self._alarmed or self._told_before(now)
        if moved <= before and now - at < ALERT_S:
            return
        self._alarmed = (moved | before if now - at < ALERT_S else moved, now)
        self._figures.alarms[self.name] += 1
        told = {"kind": "drift", "deployment": self.name, "text": drift.sentence(self.name, report), **report}
        with self.home.catalog.begin() as tx:
            watching.add_event(tx, self.name, "alarm", told)
        for alert in self.rules.alerts:
            self._alerts.send(alert, self.name, told)

    def _told_before(self, now: float) -> tuple[frozenset[str], float]:
        """What moved in the last alarm that an earlier server told, and when."""
        with self.home.catalog.read() as tx:
            last = watching.events(tx, self.name, "alarm", limit=1)
        if not last:
            return frozenset(), now - ALERT_S
        moved = frozenset(column["name"] for column in last[0].body["columns"] if column["is_drift"])
        return moved, now - max(0.0, self._clock.wall() - last[0].at.timestamp())

    # ---- writing

    def write(self, *, is_all: bool) -> None:
        """Write the log, the counts and drift, where it is time; ``is_all``: also where it is not."""
        now = self._clock.monotonic()
        if self._entries and (is_all or now - self._logged_at >= LOG_S or len(self._entries) >= LOG_ROWS):
            self._logged_at = now
            self._log.add(self._entries)  # where that fails, they wait for the next time
            self._entries = []
        if self._counts and (is_all or now - self._counted_at >= COUNT_S):
            self._counted_at = now
            counts = {name: count for name, count in self._counts.items() if count}
            with self.home.catalog.begin() as tx:
                watching.add_counts(tx, self.name, counts)
            self._counts.clear()
        self._compare()
        self._keep_windows(is_all=False)
        if now - self._tidied_at >= TIDY_S:
            self._tidied_at = now
            self._originals.clear()
            self._log.drop(days_ago(self.rules.log.days))
            returned(self.home, self.name)


def inbox_of(home: Home, rules: Rules, bundle: Bundle) -> Dataset | None:
    """The dataset whose inbox takes a deployment's inputs; ``None`` where there is none that fits."""
    name = rules.dataset
    if not name:
        try:
            name = open_version(home, bundle.version).dataset if bundle.version else ""
        except LoopworksError:  # the version was erased, or the model came from elsewhere
            name = ""
    if not name:
        return None
    found = open_dataset(home, name)
    return found if found.task.media == bundle.rule.media else None


def reference_of(home: Home, bundle: Bundle, variant: str) -> Reference:
    """The training data behind a bundle, and its answers; made once and kept.

    Raises: NotFound: the version is gone. Invalid: the model has none, or it is too small.
    """

    def make_one() -> Reference:
        if not bundle.version:
            raise NotFound("version of the model", "", hint="drift is told against the data that it learnt from")
        source = source_of(open_version(home, bundle.version))
        predictor = predictors.load(bundle.variant(variant), bundle.folder, bundle.rule, threads=1)
        try:
            return reference.make(source, bundle, predictor, seed=home.settings.seed)
        finally:
            predictor.close()

    return reference.cached(home.cache, bundle, variant, make_one)


def returned(home: Home, deployment: str) -> int:
    """Note which captured items somebody has labelled meanwhile."""
    with home.catalog.begin() as tx:
        found = watching.labeled(tx, deployment)
        watching.set_state(tx, deployment, found, watching.RETURNED)
    return len(found)
