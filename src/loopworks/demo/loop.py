"""``loopworks demo``: the whole loop on real images, with the annotator played by labels that were hidden before.

Every step asks the workspace what is done already, so a run that was stopped goes on where it was.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from loopworks import workspace as spaces
from loopworks.core.bundle import Bundle
from loopworks.core.errors import Conflict, Invalid, Missing
from loopworks.core.units import bytes_text, seconds_text
from loopworks.data import splits
from loopworks.data.stage import Dataset, Item, State, Version
from loopworks.demo import digits, report
from loopworks.workspace import Model, Workspace

if TYPE_CHECKING:
    from loopworks.jobs import Job

ROUNDS = 3
START = 60
STEP = 80
TEST = 0.2
VAL = 0.2
ANNOTATOR = "hidden-labels"
MAX_DROP = 0.01


class Voice(Protocol):
    """Where the demo's words go; the command line's ``Out`` is one."""

    def say(self, text: str) -> None:
        """One line."""

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """A table."""

    def progress(self, text: str) -> AbstractContextManager[Callable[[float, str], None]]:
        """A progress bar."""

    def job(self, text: str) -> AbstractContextManager["Callable[[Job], None]"]:
        """A progress bar for a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What this demo workspace is about; kept in its ``demo.json``, so that a second run does the same."""

    data: str
    seed: int
    start: int
    step: int

    def expected(self, round: int) -> int:
        """Labels that the annotator has given before training number ``round`` (0 is the first)."""
        return self.start + round * self.step


def run(folder: Path, source: Path | None, *, seed: int, out: Voice) -> dict[str, Any]:
    """Run the demo in the workspace ``folder`` and return its figures.

    Args:
        folder: a new folder, or that of an earlier demo, which is then continued.
        source: a folder with one sub-folder of images per class; ``None`` takes scikit-learn's digits.
        seed: of splits, picks and trainings.
        out: where to speak.
    """
    began = time.monotonic()
    _need_client()
    with spaces.open(folder) as space:
        plan, names = _imported(space, source, seed, out)
        curves = _learn(space, plan, names, out)
        best, bundle = _optimize(space, curves[-1]["active"]["model"], out)
        served = _serve(space, best, bundle, out)
        figures = {
            "workspace": str(folder),
            "data": plan.data,
            "rounds": curves,
            "saved": saved(curves),
            "model": best.ref,
            "chosen": bundle.chosen,
            "variants": [variant.to_json() for variant in bundle.variants],
            "served": served,
            "seconds": round(time.monotonic() - began, 1),
        }
        page = report.write(folder / "report.html", figures, bundle)
        figures["report"] = str(page)
        _end(figures, bundle, out)
        return figures


# ---- 1. data


def _imported(space: Workspace, source: Path | None, seed: int, out: Voice) -> tuple[Plan, tuple[str, str]]:
    """Two datasets with the same images, test set and first labels: one learns actively, one at random."""
    if source is None:
        source = space.folder / "demo-images"
        count = digits.write(source)
        out.say(f"1. Data: {count} scans of handwritten digits, written as PNG files into {source}")
    else:
        out.say(f"1. Data: your images in {source}")
    names = ("active", "random")
    plan = _plan(space, source, seed)
    for name in names:
        dataset = space.dataset(name, task="image-classification")
        if plan is None or dataset.counts()["items"] == 0 or not _is_split(dataset):
            with out.progress(f"   importing ({name})") as update:
                added = dataset.add(
                    source,
                    labels="folders",
                    author="import",
                    progress=lambda done, total: update(done / max(total, 1), f"{done}/{total}"),
                )
            for problem in added.problems[:5]:
                out.say(f"   left out: {problem.message}")
            _set_aside(dataset, seed)
        if plan is None:
            plan = _keep_plan(space, source, seed, dataset)
        _hide(dataset, plan, out)
    assert plan is not None
    counts = space.dataset(names[0]).counts()
    out.say(
        f"   {counts['items']} images, {len(counts['by_class'])} classes; {counts['by_split'].get('test', 0)} are the "
        f"frozen test set; all labels but {plan.start} are hidden from training"
    )
    return plan, names


def _set_aside(dataset: Dataset, seed: int) -> None:
    """The frozen test set: a fifth of each class."""
    labels = {item.id: [shape.label for shape in item.labels] for item in _all(dataset, "labeled")}
    chosen = splits.assign(labels, dict.fromkeys(labels, ""), test=TEST, val=0.0, seed=seed)
    dataset.assign([item for item, split in chosen.items() if split == "test"], "test", author="demo")


def _plan(space: Workspace, source: Path, seed: int) -> Plan | None:
    file = space.folder / "demo.json"
    if not file.is_file():
        return None
    plan = Plan(**json.loads(file.read_text(encoding="utf-8")))
    if (plan.data, plan.seed) != (_name(space, source), seed):
        raise Conflict(
            f"the demo in {space.folder} must be continued with the same images and seed; it has {plan.data}, "
            f"seed {plan.seed}",
            "give another --workspace, or remove that folder",
        )
    return plan


def _keep_plan(space: Workspace, source: Path, seed: int, dataset: Dataset) -> Plan:
    counts = dataset.counts()
    classes = len(counts["by_class"])
    pool = counts["items"] - counts["by_split"].get("test", 0)
    start = max(START, 4 * classes)
    step = min(STEP, (pool - start) // (ROUNDS + 1))
    if step < 1:
        raise Invalid(
            "images for the demo",
            f"at least {round((start + ROUNDS + 1) / (1 - TEST)) + 1} readable ones",
            counts["items"],
        )
    plan = Plan(data=_name(space, source), seed=seed, start=start, step=step)
    partial = space.folder / "demo.json.partial"
    partial.write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")
    partial.replace(space.folder / "demo.json")
    return plan


def _name(space: Workspace, source: Path) -> str:
    return "digits" if source == space.folder / "demo-images" else str(source.resolve())


def _is_split(dataset: Dataset) -> bool:
    return bool(dataset.counts()["by_split"].get("test"))


def _pool(dataset: Dataset, state: State) -> list[Item]:
    return [item for item in _all(dataset, state) if item.split != "test"]


def _all(dataset: Dataset, state: State) -> list[Item]:
    found: list[Item] = []
    while page := dataset.items(state=state, limit=1000, after=found[-1].id if found else None):
        found += page
    return found


def _hide(dataset: Dataset, plan: Plan, out: Voice) -> None:
    """Take all labels of the pool away but ``plan.start``, the same ones in both datasets; the history keeps them."""
    labeled = _pool(dataset, "labeled")
    if len(labeled) <= plan.expected(ROUNDS):
        return  # hidden by an earlier run
    rng = np.random.default_rng(plan.seed)
    by_class: dict[str, list[Item]] = {}
    for item in sorted(labeled, key=lambda item: item.id):
        by_class.setdefault(_truth(item), []).append(item)
    for items in by_class.values():
        rng.shuffle(items)
    kept: set[str] = set()
    depth = 0
    while len(kept) < plan.start:  # one of each class in turn
        for items in by_class.values():
            if depth < len(items) and len(kept) < plan.start:
                kept.add(items[depth].id)
        depth += 1
    dataset.clear_labels([item.id for item in labeled if item.id not in kept], author="demo")


def _truth(item: Item) -> str:
    """The hidden label: the folder that the file came from."""
    return Path(item.name).parts[0]


# ---- 2. label and train


def _learn(space: Workspace, plan: Plan, names: tuple[str, str], out: Voice) -> list[dict[str, Any]]:
    out.say(
        f"2. Label and train: {ROUNDS} rounds of {plan.step} labels. The annotator is played by the hidden true\n"
        "   labels; beside the images that the model picks, the same number is picked at random for comparison"
    )
    rounds: list[dict[str, Any]] = []
    for round in range(ROUNDS + 1):
        row: dict[str, Any] = {"labels": plan.expected(round)}
        for name in names:
            dataset = space.dataset(name)
            if round:
                _annotate(space, dataset, plan, round, name)
            if round == 0 and name == "random":
                row[name] = row["active"]  # the same labels, so the same model
                continue
            version = _version(dataset, plan, round)
            text = f"   {row['labels']} labels, {'picked by the model' if name == 'active' else 'picked at random'}"
            with out.job(text if round else f"   {row['labels']} labels to start with") as follow:
                model = space.train(version, seed=plan.seed, on_progress=follow, key=f"demo-{name}-{round}")
            row[name] = {"model": model.ref, "version": version.id, **model.metrics["test"]["accuracy"]}
        rounds.append(row)
    out.table(
        ("labels", "model picks", "95 % interval", "random picks", "95 % interval"),
        [
            (row["labels"], *(x for name in names for x in (f"{row[name]['value']:.3f}", _interval(row[name]))))
            for row in rounds
        ],
        title="   accuracy on the frozen test set",
    )
    out.say("   " + saved(rounds))
    return rounds


def _annotate(space: Workspace, dataset: Dataset, plan: Plan, round: int, name: str) -> None:
    """Label as many items as are missing for this round."""
    missing = plan.expected(round) - len(_pool(dataset, "labeled"))
    if missing <= 0:
        return
    sampler = "random" if name == "random" else ""
    picks = space.labeling(name).next(missing, sampler=sampler, seed=plan.seed + round)
    truth = {item.id: _truth(item) for item in _pool(dataset, "unlabeled")}
    dataset.label({pick.item: [truth[pick.item]] for pick in picks}, author=ANNOTATOR)


def _version(dataset: Dataset, plan: Plan, round: int) -> Version:
    """The frozen version of this round; an earlier run may have frozen it, and labelled further since."""
    message = f"round {round}: {plan.expected(round)} labels"
    for version in dataset.versions():
        if version.message == message:
            return version
    labeled = _pool(dataset, "labeled")
    labels = {item.id: [shape.label for shape in item.labels] for item in labeled}
    chosen = splits.assign(labels, {item.id: item.split for item in labeled}, test=0.0, val=VAL, seed=plan.seed)
    for split in ("train", "val"):
        dataset.assign([item for item, found in chosen.items() if found == split], split, author="demo")
    return dataset.freeze(message, author="demo")


def saved(rounds: Sequence[Mapping[str, Any]]) -> str:
    """What active learning saved, in words; it says so as well where it saved nothing, or where that may be chance."""
    last = rounds[-1]
    goal = last["active"]["value"]
    mine = _labels_for([(row["labels"], row["active"]["value"]) for row in rounds], goal)
    other = _labels_for([(row["labels"], row["random"]["value"]) for row in rounds], goal)
    doubt = ""
    if last["active"]["low"] <= last["random"]["high"] and last["random"]["low"] <= last["active"]["high"]:
        doubt = " The last intervals overlap, so the difference may be chance."
    if other is None:
        best = max(row["random"]["value"] for row in rounds)
        return (
            f"The model's picks reached {goal:.3f} with about {mine} labels; random picks had not reached it with "
            f"{last['labels']} ({best:.3f} at best).{doubt}"
        )
    assert mine is not None
    if mine < other:
        return (
            f"The model's picks reached {goal:.3f} with about {mine} labels, random picks with about {other}: "
            f"{1 - mine / other:.0%} fewer labels.{doubt}"
        )
    return (
        f"The model's picks reached {goal:.3f} with about {mine} labels, random picks with {other}: nothing saved here."
    )


def _labels_for(curve: Sequence[tuple[int, float]], accuracy: float) -> int | None:
    """Labels at which a curve first reaches ``accuracy``, linear between its points; ``None`` where it does not."""
    before = curve[0]
    for labels, value in curve:
        if value >= accuracy:
            (n0, a0), (n1, a1) = before, (labels, value)
            return n1 if a1 <= a0 else round(n0 + (n1 - n0) * (accuracy - a0) / (a1 - a0))
        before = (labels, value)
    return None


def _interval(score: Mapping[str, float]) -> str:
    return f"{score['low']:.3f}-{score['high']:.3f}"


# ---- 3. optimize


def _optimize(space: Workspace, trained: str, out: Voice) -> tuple[Model, Bundle]:
    out.say(f"3. Optimize: every form of the final model; at most {MAX_DROP:.0%} of accuracy may be lost on validation")
    with out.job(f"   measuring the variants of {trained}") as follow:
        best = space.optimize(trained, max_drop=MAX_DROP, on_progress=follow, key="demo-optimize")
    return best, space.bundle(best)


# ---- 4. deploy, serve, ask


def _need_client() -> None:
    try:
        import tritonclient.http  # noqa: F401
    except ImportError:
        raise Missing("tritonclient", "demo", "the demo asks the server through a client nobody here wrote") from None


def _serve(space: Workspace, best: Model, bundle: Bundle, out: Voice) -> dict[str, Any]:
    """Deploy, start the server, and ask it for every test image through tritonclient (Open Inference Protocol v2)."""
    import tritonclient.http as client

    from loopworks.server.run import ServerThread

    current = {d.name: d for d in space.deployments()}.get("demo")
    if current is None or (current.model, current.number) != (best.name, best.number):
        current = space.deploy(best, name="demo")
    rows = space.version(bundle.version).rows("test")
    spec = bundle.inputs[0]
    output = bundle.outputs[0].name
    right, took = 0, []
    with ServerThread(space) as server:
        out.say(f"4. Serve: {current.model}:{current.number} as {current.variant} answers on {server.url}")
        remote = client.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            meta = remote.get_model_metadata("demo")
            with out.progress(f"   asking tritonclient for {len(rows)} test images") as update:
                for i, row in enumerate(rows):
                    pixels = bundle.rule.pack([row.read()])[spec.name]
                    asked = client.InferInput(spec.name, list(pixels.shape), spec.datatype)
                    asked.set_data_from_numpy(pixels)
                    began = time.perf_counter()
                    scores = remote.infer("demo", [asked]).as_numpy(output)
                    took.append(time.perf_counter() - began)
                    right += bundle.schema.classes[int(scores.argmax())] == row.shapes[0].label
                    update((i + 1) / len(rows), "")
        finally:
            remote.close()
    accuracy = right / len(rows)
    out.say(
        f"   protocol v2: model {meta['name']} versions {meta['versions']}; {right} of {len(rows)} right "
        f"({accuracy:.3f}), p50 {np.median(took) * 1000:.2f} ms a request over HTTP"
    )
    answer = space.predict("demo", rows[0].read())
    out.say(f"5. Trace: image {rows[0].name} is said to be {answer['chosen'][0]!r}; where does that come from?")
    chain = space.lineage(answer["id"])
    for depth, node in enumerate(chain):
        facts = ", ".join(f"{k} {v}" for k, v in node.facts.items() if v not in ("", None) and k != "item")
        out.say(f"   {'  ' * depth}{node.kind} {node.id[:48]}" + (f" ({facts})" if facts else ""))
    return {
        "deployment": current.ref,
        "requests": len(rows),
        "accuracy": accuracy,
        "p50_ms": float(np.median(took)) * 1000,
        "prediction": answer["id"],
        "lineage": [node.to_json() for node in chain],
    }


# ---- 5. the end


def _end(figures: Mapping[str, Any], bundle: Bundle, out: Voice) -> None:
    out.table(
        ("variant", "val", "test", "95 % interval", "p50 ms", "images/s", "size", ""),
        [
            (
                v.name,
                f"{v.metrics['val']['accuracy'].value:.3f}",
                f"{v.metrics['test']['accuracy'].value:.3f}",
                _interval(v.metrics["test"]["accuracy"].to_json()),
                f"{v.latency_ms['p50']:.3f}",
                "-" if v.throughput_per_s is None else f"{v.throughput_per_s:.0f}",
                bytes_text(v.size_bytes),
                "chosen" if v.name == bundle.chosen else "refused" if v.is_refused else "",
            )
            for v in bundle.variants
        ],
        title="Result: chosen by the validation split alone; the test set is only reported",
    )
    for note in bundle.notes:
        out.say(f"note: {note}")
    out.say(f"{figures['report']} shows the curves; {seconds_text(figures['seconds'])} in all")
