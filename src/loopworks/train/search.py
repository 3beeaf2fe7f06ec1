"""The search for a recipe and its parameters: Optuna proposes, trials train, the validation split alone decides."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Failed, Invalid, Missing, NotFound
from loopworks.core.registry import plugins
from loopworks.core.units import seconds, seconds_text
from loopworks.data.source import Source
from loopworks.train import judge, recipes, stage
from loopworks.train import trial as trials_
from loopworks.train.contracts import PLAIN_FITNESS, Fit, Heavy, Packed, Tunable
from loopworks.train.sealed import seal
from loopworks.train.trial import Order, Trial, attempt, made_of

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
T = TypeVar("T")
FILE = "search.json"
STATE, JOURNAL = "state.json", "optuna.journal"
LEAST_S = 30.0
"""A budget under which there is no time for a second trial worth its name."""
LOOKING = 0.6
"""Share of the budget that goes into trials; the rest trains the best of them for longer."""
TRIALS, SHORTEST_S = 12, 10.0
"""Trials that a budget is shared out among, at least, and the shortest that one may be."""
RESERVE_S = 1.5
"""For the files at the end, beside the evaluation."""
BUCKETS = 10
"""Moments of a trial's time at which it is compared with the others."""
WARMUP, PEERS = 3, 3
"""Moments that no trial is given up before, and trials that must have come as far to be compared with."""
SUITED = 0.5
"""Recipes are tried whose fitness is at least this share of the best one's."""
BOARD = 500
PLAIN = (str, int, float, bool)

Cluster = Callable[[Sequence[Order], Callable[[], None]], Iterator[tuple[Trial, Mapping[str, bytes]]]]
"""Runs orders elsewhere, side by side; gives each trial as it ends, and its files; calls the second while it waits."""


@dataclass(slots=True, kw_only=True)
class Searcher:
    """One search as it goes on; ``search`` runs it."""

    source: Source
    """Without its test split."""
    names: Sequence[str]
    """Recipes to try."""
    params: Mapping[str, Any]
    """Fixed by the user."""
    budget_s: float | None
    trials: int | None
    ctx: Context
    threads: int
    start: Bundle | None
    on_trial: Callable[[Trial], None]
    cluster: Cluster | None = None
    lanes: int = 1
    """Trials that run side by side on the cluster."""
    weigh: trials_.Weigh | None = None
    latency_ms: float | None = None
    """The budget that ``weigh`` is compared with."""
    done: list[Trial] = field(default_factory=list)
    spent_s: float = 0.0
    """Before this process."""
    began: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where trials lie."""
        return self.ctx.scratch / "search"

    @property
    def trial_s(self) -> float | None:
        """Seconds of one trial; ``None``: as long as its recipe wants."""
        if self.budget_s is None:
            return None
        count = self.trials or TRIALS
        return max(SHORTEST_S, LOOKING * self.budget_s * self.lanes / max(count, self.lanes))

    def spent(self) -> float:
        """Seconds so far, over all processes."""
        return self.spent_s + time.monotonic() - self.began

    @property
    def best(self) -> Trial | None:
        """The best trial by val; the earliest of equals."""
        ended = [one for one in self.done if one.state == "done" and one.value is not None and not one.is_too_slow]
        return max(ended, key=lambda one: (one.value or 0.0, -one.number), default=None)

    def has_time(self) -> bool:
        """Whether another trial is to begin."""
        if self.trials is not None and len(self.done) >= self.trials:
            return False
        if self.budget_s is None or self.trial_s is None:
            return True
        # The first one always runs; another only where most of its time is left.
        return not self.done or LOOKING * self.budget_s - self.spent() >= 0.7 * self.trial_s

    def run(self) -> None:
        """Trials until time or count are used up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        study = self._study()
        self._resume()
        for made in self.done:
            _close(study, made)  # a kill may have come between the two files
        while self.has_time():
            asked = [self._ask(study) for _ in range(self._width())]
            for made in self._elsewhere(asked) if self.cluster else self._here(asked):
                self._tell(study, made)

    def _width(self) -> int:
        return 1 if self.cluster is None else min(self.lanes, (self.trials or math.inf) - len(self.done))  # type: ignore[return-value]

    def _here(self, asked: Sequence[tuple["optuna.Trial", Order]]) -> Iterator[Trial]:
        for trial, order in asked:
            self._say(order)
            ctx = replace(self.ctx, report=lambda _share, _text: self._say(order))  # noqa: B023 - used before it changes
            yield attempt(
                order, self.source, self._of(order.number), ctx, start=self.start, watch=self._watch(trial, order)
            )

    def _elsewhere(self, asked: Sequence[tuple["optuna.Trial", Order]]) -> Iterator[Trial]:
        assert self.cluster is not None
        for trial, files in self.cluster([order for _, order in asked], lambda: self._say(asked[0][1])):
            folder = self._of(trial.number)
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            yield trial

    def _study(self) -> "optuna.Study":
        tools = library()
        backend = tools.storages.journal.JournalFileBackend(str(self.folder / JOURNAL))
        study: optuna.Study = tools.create_study(
            study_name="search",
            storage=tools.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
            pruner=tools.pruners.MedianPruner(n_startup_trials=PEERS, n_warmup_steps=WARMUP, n_min_trials=PEERS),
        )
        return study

    def _ask(self, study: "optuna.Study") -> tuple["optuna.Trial", Order]:
        """The next trial: one that a kill left undone, else each recipe's defaults, else what Optuna proposes."""
        optuna = library()
        known = {one.number for one in self.done}
        pending = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        left = [one for one in pending if one.number not in known and one.user_attrs.get("at") != self.began]
        # One seed per trial, so that a search that was killed goes on as it would have.
        number = left[0].number if left else len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(
            seed=self.ctx.seed + number, n_startup_trials=max(5, 2 * len(self.names)), constant_liar=self.lanes > 1
        )
        if left:
            trial = optuna.Trial(study, left[0]._trial_id)
        else:
            if number < len(self.names):
                study.enqueue_trial({"recipe": self.names[number]})
            trial = study.ask()
        trial.set_user_attr("at", self.began)
        name = trial.suggest_categorical("recipe", list(self.names))
        kind = plugins.get(name)
        drawn: dict[str, Any] = {}
        if trial.number >= len(self.names) and isinstance(kind, Tunable):
            drawn = dict(kind.space(_Draw(trial, name), self.source))
        order = Order(
            number=trial.number,
            recipe=name,
            params={**drawn, **self.params},
            budget_s=self.trial_s,
            seed=self.ctx.seed,
            threads=self.threads,
        )
        return trial, order

    def _watch(self, trial: "optuna.Trial", order: Order) -> trials_.Watch:
        began, told = time.monotonic(), set[int]()
        best = -math.inf

        def watch(step: int, value: float) -> bool:
            nonlocal best
            best = max(best, value)
            # Trials with a time limit are compared at the same time, others after the same number of epochs.
            at = step if order.budget_s is None else int(BUCKETS * (time.monotonic() - began) / order.budget_s)
            if at in told:
                return False
            told.add(at)
            if at not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
                trial.report(best, at)
            # The trials with the recipes' own defaults are what others are measured by: they run to their end.
            return trial.number >= len(self.names) and trial.should_prune()

        return watch

    def _tell(self, study: "optuna.Study", made: Trial) -> None:
        before = self.best
        if self.weigh is not None and self.latency_ms is not None and made.state == "done":
            made = trials_.weighed(made, self.source, self._of(made.number), self.weigh, self.latency_ms)
        self.done.append(made)
        self._drop(made, before)
        self._save()
        _close(study, made)
        self.on_trial(made)
        log.info("trial ended number=%s recipe=%s state=%s value=%s", made.number, made.recipe, made.state, made.value)

    def _drop(self, made: Trial, before: Trial | None) -> None:
        """Files of trials that are not the best are of no more use."""
        best = self.best
        for one in (made, before):
            if one is not None and (best is None or one.number != best.number):
                shutil.rmtree(self._of(one.number), ignore_errors=True)

    def _save(self) -> None:
        body = {"spent_s": self.spent(), "trials": [{**one.to_json(), "points": one.points} for one in self.done]}
        part = self.folder / f"{STATE}.part"
        part.write_text(json.dumps(body), encoding="utf-8")
        part.replace(self.folder / STATE)

    def _resume(self) -> None:
        path = self.folder / STATE
        if path.is_file():
            body = json.loads(path.read_text(encoding="utf-8"))
            self.spent_s = float(body["spent_s"])
            self.done = [Trial(**one) for one in body["trials"]]
            for one in self.done:
                self.on_trial(one)

    def _of(self, number: int) -> Path:
        return self.folder / f"trial-{number}"

    def _say(self, order: Order) -> None:
        best = self.best
        head = "" if best is None or best.value is None else f", best {best.value:.3f}"
        of = f" of {self.trials}" if self.trials else ""
        share = self.spent() / self.budget_s if self.budget_s else len(self.done) / (self.trials or 1)
        self.ctx.tick(min(share, 0.99), f"trial {order.number + 1}{of} ({order.recipe.partition('.')[2]}{head})")


def search(
    source: Source,
    *,
    budget_s: float | None = None,
    trials: int | None = None,
    names: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
    folder: Path,
    ctx: Context,
    start: Bundle | None = None,
    threads: int = 0,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    cluster: Cluster | None = None,
    lanes: int = 1,
    weigh: trials_.Weigh | None = None,
    latency_ms: float | None = None,
) -> Bundle:
    """Search for the best recipe and parameters, and write the bundle of the best model.

    Each recipe's defaults are tried first, so the result is never worse on val than training without a search in the
    time of one trial. Then Optuna (TPE) proposes; trials that lag behind the median of the others are given up early.
    What remains of the budget trains the best parameters for longer, if that is better on val.

    Args:
        source: labeled items; the validation split must hold some: it alone decides.
        budget_s: seconds for everything, kept within 10 %; trials take 60 % of it.
        trials: how many; with a budget they share its time.
        names: recipes to try, with or without ``train.``; default those that suit the data.
        params: fixed for all trials.
        folder: of the bundle; appears whole or not at all.
        ctx: a killed search that runs again with the same ``ctx.scratch`` goes on with the trial it was at.
        start: earlier model to begin each trial from.
        threads: of one trial; 0 is one per core.
        on_trial: called with each trial as it ends (again, for a search that goes on after a kill).
        cluster: runs trials elsewhere, ``lanes`` of them side by side; they are not given up early then.
        lanes: see there.
        weigh: finds the quickest form of a trial's model that is accurate enough.
        latency_ms: of one item in that form, at most: slower trials are left aside, and the search learns from them.
    Raises: Invalid: no budget and no count, a short budget, or no validation split. Missing: Optuna is not installed.
        Failed: no trial made a model. Cancelled.
    """
    _check(source, budget_s, trials, threads)
    library()
    learnt = seal(source)
    chosen = [recipes.full(name) for name in names] or suited(learnt, budget_s, params or {})
    for name in chosen:
        recipes.step(name, params or {}, source.task.name)
        if isinstance(kind := plugins.get(name), Heavy):
            kind.load()
    part = bundles.part_of(folder)
    searcher = Searcher(
        source=learnt,
        names=chosen,
        params=dict(params or {}),
        budget_s=budget_s,
        trials=trials,
        ctx=ctx,
        threads=threads,
        start=start,
        on_trial=on_trial,
        cluster=cluster,
        lanes=lanes,
        weigh=weigh,
        latency_ms=latency_ms,
    )
    try:
        searcher.run()
        best = searcher.best
        if best is None:
            raise Failed(*_why_none(searcher.done))
        final = _refitted(searcher, best, source.counts)
        place = searcher.folder / (FINAL if final.number == REFIT else f"trial-{final.number}")
        shutil.copytree(place / trials_.FILES, part, dirs_exist_ok=True)
        made = made_of(place)
        made = replace(made, notes=(_told(searcher, final), *made.notes))
        board = {
            "headline": source.task.headline,
            "chosen_by": "val",
            "budget_s": budget_s,
            "latency_ms": latency_ms,
            "best": best.number,
            "is_refitted": final.number == REFIT,
            "trials": [one.to_json() for one in sorted(searcher.done, key=_rank)[:BOARD]],
        }
        (part / FILE).write_text(json.dumps(board, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        bundle = stage.finish(
            source, final.recipe, made, Packed(source), part, final.points, threads=threads, ctx=ctx.part(0.99, 1.0)
        )
        bundles.settle(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    ctx.tick(1.0, "searched")
    return replace(bundle, folder=folder)


def budget_of(budget: str | float | None, money: float | None, price_per_hour: float) -> float | None:
    """Seconds that time and money allow, whichever ends first; ``None`` where neither is given.

    Raises: Invalid: not above zero, or money without a price.
    """
    limits = [] if budget is None else [seconds(budget)]
    if money is not None:
        if not 0 < money < 1e9:
            raise Invalid("money", "above zero", money)
        if not price_per_hour:
            hint = "set price_per_hour in loopworks.toml, or LOOPWORKS_PRICE_PER_HOUR"
            raise Invalid("price_per_hour", "set where a search is given money", 0, hint)
        limits.append(money / price_per_hour * 3600)
    return min(limits, default=None)


def board(bundle: Bundle) -> dict[str, Any]:
    """The leader board of a search, best first, as it lies in the bundle.

    Raises: NotFound: the model does not come from a search.
    """
    if FILE not in bundle.sha256:
        raise NotFound("search of model", bundle.recipe, hint="loopworks train --search makes one")
    found: dict[str, Any] = json.loads(bundle.path(FILE).read_text(encoding="utf-8"))
    return found


def suited(source: Source, budget_s: float | None, params: Mapping[str, Any]) -> list[str]:
    """Recipes that learn the task, suit the data by their own word, and take the parameters; the best first."""
    first, _ = recipes.choose(source, budget_s, params)
    found = []
    for name in recipes.learning(source.task.name):
        kind = plugins.get(name)
        share = kind.fitness(source, budget_s)[0] if isinstance(kind, Fit) else PLAIN_FITNESS
        if set(params) <= recipes.parameters(kind):
            found.append((share, name))
    most = max(share for share, _ in found)
    rest = [name for share, name in sorted(found, key=lambda one: (-one[0], one[1])) if share >= SUITED * most]
    return [first, *(name for name in rest if name != first)]


REFIT, FINAL = -1, "final"


def _refitted(searcher: Searcher, best: Trial, counts: Mapping[str, int]) -> Trial:
    """The best trial's parameters with the time that is left, or the trial itself where that is no better."""
    if searcher.budget_s is None:
        return best
    left = searcher.budget_s - searcher.spent() - RESERVE_S - judge.seconds(counts)
    if left < 1.2 * best.seconds:
        return best
    order = Order(
        number=REFIT,
        recipe=best.recipe,
        params=best.params,
        budget_s=left,
        seed=searcher.ctx.seed,
        threads=searcher.threads,
    )
    ctx = replace(searcher.ctx, report=lambda _share, _text: _say_final(searcher, best))
    again = attempt(order, searcher.source, searcher.folder / FINAL, ctx, start=searcher.start)
    is_better = again.value is not None and best.value is not None and again.value >= best.value
    return again if is_better else best


def _say_final(searcher: Searcher, best: Trial) -> None:
    share = searcher.spent() / (searcher.budget_s or 1.0)
    searcher.ctx.tick(min(share, 0.99), f"training the best for longer ({best.recipe.partition('.')[2]})")


def _check(source: Source, budget_s: float | None, trials: int | None, threads: int) -> None:
    stage.check(source, budget_s, threads)
    if budget_s is None and trials is None:
        raise Invalid("search", "given a budget or a number of trials", "neither", 'budget="10m", or trials=20')
    if budget_s is not None and budget_s < LEAST_S:
        raise Invalid(
            "budget of a search", f"at least {LEAST_S:.0f} s", seconds_text(budget_s), "train without a search"
        )
    if trials is not None and not 1 <= trials <= 10_000:
        raise Invalid("trials", "between 1 and 10000", trials)
    if not source.counts.get("val", 0):
        raise Invalid("val split", "of at least one item, as it decides", dict(source.counts), "split with val=0.2")


def _told(searcher: Searcher, final: Trial) -> str:
    states = [one.state for one in searcher.done]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "pruned", "failed") if state in states)
    best = searcher.best
    what = f"trial {best.number}" if best is not None else "none"
    longer = ", trained again with the rest of the time" if final.number == REFIT else ""
    return f"found by a search of {len(states)} trials ({counts}): {what}, chosen by val{longer}"


def _close(study: "optuna.Study", made: Trial) -> None:
    states = library().trial.TrialState
    if made.state == "done" and not made.is_too_slow:
        study.tell(made.number, made.value, skip_if_finished=True)
    else:
        # One that was given up, or is too slow, is worse than all that were not: the next proposals keep away from it.
        state = states.FAIL if made.state == "failed" else states.PRUNED
        study.tell(made.number, state=state, skip_if_finished=True)


def _why_none(done: Sequence[Trial]) -> tuple[str, str]:
    if slow := [one.latency_ms for one in done if one.is_too_slow and one.latency_ms is not None]:
        quickest = f"the quickest of {len(done)} trials takes {min(slow):.3g} ms"
        return f"a search must find a model inside its latency budget; {quickest}", "give it more, or smaller recipes"
    notes = sorted({one.note for one in done if one.note})
    return f"a search must end with a model; all {len(done)} trials failed: {notes[0] if notes else 'no reason'}", ""


def _rank(one: Trial) -> tuple[bool, float, int]:
    return one.value is None or one.is_too_slow, -(one.value or 0.0), one.number


class _Draw:
    """Optuna's trial as a recipe sees it."""

    def __init__(self, trial: "optuna.Trial", recipe: str) -> None:
        self._trial, self._recipe = trial, recipe

    def number(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._trial.suggest_float(f"{self._recipe}.{name}", low, high, log=log)

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._trial.suggest_int(f"{self._recipe}.{name}", low, high, log=log)

    def choice(self, name: str, options: Sequence[T]) -> T:
        if not all(isinstance(one, PLAIN) for one in options):
            raise Invalid(f"options of {self._recipe}.{name}", "texts, numbers, true or false", list(options))
        found: T = self._trial.suggest_categorical(f"{self._recipe}.{name}", list(options))  # type: ignore[arg-type,assignment]
        return found


def library() -> Any:
    """Optuna, quiet.

    Raises: Missing: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise Missing("optuna", "train", "a search") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
