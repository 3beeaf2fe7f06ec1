"""The honest evaluation: slices that chance does not explain, calibration, curves, mistakes, a sealed test split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.train.marked import Marked, marked

from loopworks.core import bundle as bundles
from loopworks.core.contracts import Arrays, Chances, Context, Learnable, Odds, Told, Translated
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.data.source import Rows, Sized, Texts
from loopworks.testing import context
from loopworks.train import card, curves, judge, stage
from loopworks.train.contracts import Lesson, Made
from loopworks.train.sealed import seal
from loopworks.train.slices import slices

SCHEMA = LabelSchema(classes=("a", "b", "c"))


def task(name: str = "image-classification") -> Learnable:
    found: Learnable = plugins.get(f"task.{name}")
    return found


def answers(count: int, right: NDArray[np.bool_], seed: int = 0) -> tuple[NDArray[np.float32], Arrays]:
    """Truths in turn, and answers that are right where ``right`` says so."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    said = np.where(right, truth, (truth + 1) % 3)
    scores = rng.uniform(0, 0.2, (count, 3)).astype(np.float32)
    scores[np.arange(count), said] += 0.7
    return np.eye(3, dtype=np.float32)[truth], {"scores": scores / scores.sum(axis=1, keepdims=True)}


def headline(targets: NDArray[Any], outputs: Arrays) -> Any:
    return task().metrics(targets, outputs, SCHEMA)["accuracy"]


def sliced(count: int, right: NDArray[np.bool_], facts: Sequence[Mapping[str, Any]]) -> list[Any]:
    targets, outputs = answers(count, right)
    return slices(facts, task().quality(targets, outputs, SCHEMA), headline(targets, outputs), seed=0)


def test_a_slice_that_is_worse_is_found_among_many_that_are_not() -> None:
    rng = np.random.default_rng(1)
    count = 400
    is_night = rng.random(count) < 0.2
    right = rng.random(count) < np.where(is_night, 0.55, 0.95)
    facts = [
        {
            "name": f"{i}",
            "tags": ["night"] if is_night[i] else ["day"],
            **{f"x{j}": int(rng.integers(4)) for j in range(9)},
        }
        for i in range(count)
    ]
    found = sliced(count, right, facts)
    worse = [(one.column, one.value) for one in found if one.is_worse]
    assert worse == [("tags", "night")]
    assert found[0].score.value == pytest.approx(right[is_night].mean())
    assert found[0].rest == pytest.approx(right[~is_night].mean())
    assert found[0].score.low <= found[0].score.value <= found[0].score.high
    assert len(found) > 20


def test_where_nothing_is_worse_nothing_is_named_in_19_of_20_draws() -> None:
    wrongly = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        right = rng.random(200) < 0.8
        facts = [{f"x{j}": int(rng.integers(5)) for j in range(8)} for _ in range(200)]
        wrongly += any(one.is_worse for one in sliced(200, right, facts))
    assert wrongly <= 8  # 3 are to be expected; more than 8 has a chance of 0.2 % (binomial)


def test_numbers_are_binned_by_quarters_and_missing_ones_are_a_slice() -> None:
    count = 200
    facts = [{"age": None if i % 10 == 0 else float(i), "name": str(i), "item": str(i)} for i in range(count)]
    found = sliced(count, np.arange(count) >= 50, facts)
    assert {one.column for one in found} == {"age"}
    assert "missing" in {one.value for one in found}
    worst = found[0]
    assert worst.is_worse
    assert worst.value.startswith("1 to ")
    assert worst.score.value < 0.1
    assert sum(one.score.count for one in found) == count
    told = worst.to_json()
    assert (told["group"], told["value"]) == (worst.value, worst.score.value)


def test_odd_facts_are_borne() -> None:
    facts: list[dict[str, Any]] = [{"mixed": [None, "x", 3, True, "é|\n"][i % 5]} for i in range(100)]
    facts += [{"list": ("a", 3)}, {}, {"nan": float("nan")}] * 10
    found = sliced(130, np.ones(130, np.bool_), facts)
    assert found
    assert not any(one.is_worse for one in found)
    assert sliced(10, np.ones(10, np.bool_), [{}] * 10) == []


def test_calibration_of_two_bins_worked_out_by_hand() -> None:
    # Eight items said 0.95 of which six are right (0.75); two said 0.55, of which one is right.
    chances = np.array([[0.95, 0.05]] * 8 + [[0.55, 0.45]] * 2)
    truth = np.zeros((10, 2), np.bool_)
    truth[[0, 1, 2, 3, 4, 5, 8], 0] = True
    truth[[6, 7, 9], 1] = True
    found = curves.calibration(Odds(chances=chances, truth=truth, is_exclusive=True, answers=chances > 0.5), seed=0)
    assert found["error"] == pytest.approx(0.8 * 0.20 + 0.2 * 0.05)
    assert [(one["count"], one["right"]) for one in found["bins"]] == [(2, 0.5), (8, 0.75)]
    assert found["brier"] == pytest.approx((6 * 0.005 + 2 * 1.805 + 0.405 + 0.605) / 10)


def test_sound_chances_stay_under_what_chance_explains_and_boasting_ones_do_not() -> None:
    rng = np.random.default_rng(3)
    said = rng.uniform(0.5, 1, 2000)
    chances = np.stack([said, 1 - said], axis=1)
    first = rng.random(2000) < said
    truth = np.stack([first, ~first], axis=1)
    sound = Odds(chances=chances, truth=truth, is_exclusive=True, answers=chances > 0.5)
    found = curves.calibration(sound, seed=0)
    assert found["error"] <= found["by_chance"]
    boasts = replace(sound, chances=np.stack([np.full(2000, 0.99), np.full(2000, 0.01)], axis=1))
    found = curves.calibration(boasts, seed=0)
    assert found["error"] > 5 * found["by_chance"]


def test_curves_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    rng = np.random.default_rng(5)
    targets, outputs = answers(30, rng.random(30) < 0.6)
    assert isinstance(task(), Chances)
    odds = task().odds(targets, outputs, SCHEMA)  # type: ignore[attr-defined]
    for one in curves.curves(odds, SCHEMA.classes):
        column = SCHEMA.classes.index(one["class"])
        truth, scores = odds.truth[:, column], odds.chances[:, column]
        assert one["auc"] == pytest.approx(roc_auc_score(truth, scores))
        assert one["average_precision"] == pytest.approx(average_precision_score(truth, scores))
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        assert np.allclose(np.asarray(one["roc"]), np.stack([fpr, tpr], axis=1), atol=1e-4)
        precision, recall, _ = precision_recall_curve(truth, scores)
        pairs = {(round(r, 4), round(p, 4)) for r, p in zip(recall, precision, strict=True)}
        assert {tuple(point) for point in one["pr"][1:]} <= pairs


def test_confusion_counts_what_is_taken_for_what() -> None:
    targets = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2]]
    scores = np.eye(3)[[0, 1, 1, 1, 0]]
    odds = task().odds(targets, {"scores": scores}, SCHEMA)  # type: ignore[attr-defined]
    found = curves.confusion(odds, SCHEMA.classes)
    assert found["matrix"] == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert found["pairs"][0] == {"truth": "a", "answer": "b", "count": 2}
    dear = replace(SCHEMA, costs=(1.0, 1.0, 5.0))
    odds = task().odds(targets, {"scores": np.tile([[0.5, 0.2, 0.3]], (5, 1))}, dear)  # type: ignore[attr-defined]
    assert curves.confusion(odds, SCHEMA.classes)["matrix"] == [[0, 0, 3], [0, 0, 1], [0, 0, 1]]


def test_mistakes_name_the_items_the_least_right_first() -> None:
    targets, outputs = answers(60, np.arange(60) != 17)
    facts = [{"item": f"i{i}", "name": f"n{i}"} for i in range(60)]
    _, body = judge.evaluate(task(), SCHEMA, targets, outputs, facts, seed=0)
    first = body["mistakes"][0]
    assert (first["item"], first["name"], first["truth"]) == ("i17", "n17", "c")
    assert first["answer"].startswith("a 0.")
    assert len(body["mistakes"]) == judge.MISTAKES


def test_a_task_without_chances_has_neither_calibration_nor_curves(tmp_path: Path) -> None:
    numbers = task("tabular-regression")
    assert isinstance(numbers, Told)
    assert not isinstance(numbers, Chances)
    truth = np.arange(50, dtype=np.float64)[:, None]
    facts = [{"city": "ab"[i % 2]} for i in range(50)]
    metrics, body = judge.evaluate(numbers, LabelSchema(), truth, {"value": truth + 1}, facts, seed=0)
    assert metrics["mae"].value == pytest.approx(1)
    assert set(body) == {"count", "metrics", "by_class", "slices", "mistakes"}
    assert body["mistakes"][0]["truth"] == "0"
    judge.write(numbers, {"test": body}, {}, tmp_path)


def test_the_file_stays_small_with_many_classes_and_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = tuple(f"class number {i} of very many" for i in range(1000))
    schema = LabelSchema(classes=classes)
    targets = np.eye(1000, dtype=np.float32)[rng.integers(0, 1000, 3000)]
    outputs = {"scores": rng.dirichlet(np.ones(1000), 3000)}
    facts = [{f"c{j}": str(rng.integers(30)) * 60 for j in range(30)} for _ in range(3000)]
    _, body = judge.evaluate(task(), schema, targets, outputs, facts, seed=0)
    judge.write(task(), {"val": body, "test": body}, {"val_loss": [[i, 0.5] for i in range(120)]}, tmp_path)
    assert (tmp_path / judge.FILE).stat().st_size < judge.LARGEST_BYTES / 4


def test_answers_are_read_by_another_list_of_classes() -> None:
    kind = task()
    assert isinstance(kind, Translated)
    before, now = LabelSchema(classes=("a", "b", "gone")), LabelSchema(classes=("new", "b", "a"))
    found = kind.translate({"scores": np.array([[0.1, 0.7, 0.2]])}, before, now)
    assert found["scores"].tolist() == [[0.0, 0.7, 0.1]]


# ---- the test split


def test_a_sealed_source_has_no_test_split_and_keeps_what_else_it_can_do() -> None:
    sealed = seal(marked())
    assert dict(sealed.counts) == {"train": 24, "val": 24}
    assert isinstance(sealed, Sized)
    assert not isinstance(sealed, Texts)
    assert not isinstance(sealed, Rows)
    assert sealed.typical_size == (16, 16)
    assert len(sealed.targets("val")) == 24
    for ask in (sealed.targets, sealed.facts):
        with pytest.raises(Conflict, match="test split must stay unread"):
            ask("test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curious:
    """Looks at the test split."""

    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})

    def run(self, source: Lesson, ctx: Context) -> Made:
        source.source.targets("test")
        raise AssertionError


def test_no_recipe_can_read_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.names()
    monkeypatch.setitem(plugins._found, "train.curious", Curious)
    with pytest.raises(Conflict, match="test split must stay unread"):
        stage.train(marked(), recipe="curious", folder=tmp_path / "b", ctx=context(tmp_path / "s"))


QUICK = {"epochs": 3, "width": 4, "image_size": 16, "batch": 8, "light": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[bundles.Bundle, Marked]:
    folder = tmp_path_factory.mktemp("judge")
    source = marked()
    made = stage.train(
        source, recipe="small-cnn", params=QUICK, folder=folder / "b", ctx=context(folder / "s"), threads=1
    )
    return made, source


@pytest.mark.train
def test_the_test_split_is_read_once_and_last(trained: tuple[bundles.Bundle, Marked]) -> None:
    _, source = trained
    first = min(i for i, (_, split) in enumerate(source.asked) if split == "test")
    assert {split for _, split in source.asked[first:]} == {"test"}
    assert sorted(what for what, split in source.asked if split == "test") == ["facts", "inputs", "targets"]


@pytest.mark.train
def test_other_labels_in_the_test_split_change_nothing_but_its_scores(
    trained: tuple[bundles.Bundle, Marked], tmp_path: Path
) -> None:
    made, source = trained
    turned = replace(source, labels={**source.labels, "test": np.tile(np.eye(3, dtype=np.float32)[:1], (48, 1))})
    again = stage.train(
        turned, recipe="small-cnn", params=QUICK, folder=tmp_path / "b", ctx=context(tmp_path / "s"), threads=1
    )
    assert again.sha256["model.onnx"] == made.sha256["model.onnx"]
    assert again.metrics["val"] == made.metrics["val"]
    assert again.metrics["test"] != made.metrics["test"]


@pytest.mark.train
def test_the_bundle_holds_an_evaluation_and_a_card(trained: tuple[bundles.Bundle, Marked]) -> None:
    made, _ = trained
    body = judge.read(made)
    assert body["splits"]["test"]["metrics"]["accuracy"]["value"] == pytest.approx(
        made.metrics["test"]["accuracy"].value, rel=1e-5
    )
    assert [step for step, _ in body["learning"]["val_headline"]] == [1, 2, 3]
    text = made.path(card.FILE).read_text(encoding="utf-8")
    for words in ("## Scores", "accuracy", "## Worst slices (test)", "## By class (test)", "## Limits", made.version):
        assert words in text
    page = card.html(made, body, "squares:1", {"test000": "<img>"})
    for words in ("Calibration", "Confusion", "ROC", "Loss while learning", "<title>squares:1</title>"):
        assert words in page
    assert "<script" not in page


@pytest.mark.train
def test_a_bundle_without_an_evaluation_says_so(trained: tuple[bundles.Bundle, Marked]) -> None:
    made, _ = trained
    with pytest.raises(NotFound, match="evaluation"):
        judge.read(replace(made, sha256={}))


def test_curves_of_a_killed_training_go_on_and_those_of_another_do_not(tmp_path: Path) -> None:
    first = judge.Learning(tmp_path / "x.tsv", "one")
    for step in range(300):
        first("val_loss", step, 1 / (step + 1))
    with (tmp_path / "x.tsv").open("a", encoding="utf-8") as file:
        file.write("val_lo")
    again = judge.Learning(tmp_path / "x.tsv", "one")
    again("val_loss", 299, 0.5)
    points = again.to_json()["val_loss"]
    assert len(points) == judge.Learning.MOST
    assert points[0] == [0, 1.0]
    assert points[-1] == [299, 0.5]
    assert judge.Learning(tmp_path / "x.tsv", "two").to_json() == {}


def test_names_cannot_break_out_of_the_page() -> None:
    targets, outputs = answers(40, np.arange(40) % 2 == 0)
    bad = LabelSchema(classes=("<script>a", "b|b", "c"))
    facts = [
        {"item": f"i{i}", "name": "<img src=x onerror=alert(1)>", "tag": "<b>" if i % 2 else "|"} for i in range(40)
    ]
    _, body = judge.evaluate(task(), bad, targets, outputs, facts, seed=0)
    made = bundles.Bundle(
        task="image-classification",
        schema=bad,
        rule=ImageRule(height=8, width=8),
        inputs=(),
        outputs=(),
        version="v",
        recipe="r",
    )
    evaluation = {"splits": {"test": json.loads(json.dumps(body))}, "headline": "accuracy"}
    page = card.html(made, evaluation, "<script>", {"i1": "<img>"})
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert "b\\|b" in card.markdown(made, evaluation)


def test_too_large_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"evaluation\.json must be of at most"):
        judge.write(task(), {"test": {"x": "y" * 2_000_000}}, {}, tmp_path)
