"""Tabular recipes from rows to a bundle."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from tests.train.tables.source import Table, table

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Failed, Invalid, NotFound
from loopworks.core.row import FEATURES
from loopworks.optimize import stage as optimizing
from loopworks.train import recipes, stage
from loopworks.train.tables import calibrate, explain, lightgbm, stacked
from loopworks.train.tables.blend import Blend
from loopworks.train.tables.lightgbm import LightGbm

pytestmark = pytest.mark.train
RECIPES = ("lightgbm", "linear", "stacked")
QUICK: dict[str, dict[str, Any]] = {
    "lightgbm": {"rounds": 60, "patience": 20}, "linear": {}, "stacked": {"rounds": 30, "patience": 10, "members": 3},
}  # fmt: skip


def train(folder: Path, source: Table, recipe: str = "lightgbm", seed: int = 0, **more: Any) -> Bundle:
    stop = more.pop("stopped", lambda: False)
    report = more.pop("report", lambda share, text: None)
    (folder / "scratch").mkdir(exist_ok=True, parents=True)
    ctx = Context(seed=seed, scratch=folder / "scratch", report=report, stopped=stop)
    params = {**QUICK[recipe], **more.pop("params", {})}
    return stage.train(source, recipe=recipe, params=params, folder=folder / "bundle", ctx=ctx, threads=1, **more)


def answer(bundle: Bundle, rows: Any) -> Any:
    predictor = predictors.load(bundle.variants[0], bundle.folder, bundle.rule, threads=1)
    try:
        return predictor.predict(bundle.rule.pack(rows))[bundle.outputs[0].name]
    finally:
        predictor.close()


def worth(bundle: Bundle, source: Table, split: str = "test") -> float:
    return bundle.metrics[split][source.task.headline].value


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Bundle, Table]]:
    """``made(recipe, classes)`` is a bundle and what it was learnt from, trained once."""
    kept: dict[tuple[str, int], tuple[Bundle, Table]] = {}

    def make(recipe: str, classes: int) -> tuple[Bundle, Table]:
        if (recipe, classes) not in kept:
            source = table(classes=classes)
            folder = tmp_path_factory.mktemp("made")
            kept[recipe, classes] = train(folder, source, recipe), source
        return kept[recipe, classes]

    return make


def test_a_stack_that_lost_folds_to_its_budget_is_calibrated_on_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    whole, choose = lightgbm.grow_folds, calibrate.choose

    def one_fold(*given: Any, **more: Any) -> Any:
        return {0: whole(*given, **more)[0]}

    def watch(raw: Any, truth: Any, seed: int) -> Any:
        seen.append((np.isnan(raw).any(), len(raw), len(truth)))
        return choose(raw, truth, seed)

    monkeypatch.setattr(stacked, "grow_folds", one_fold)
    monkeypatch.setattr(calibrate, "choose", watch)
    source = table(classes=2)
    bundle = train(tmp_path, source, "stacked", params={"members": 1, "rounds": 10})
    ((has_unknown, rows, labels),) = seen
    assert not has_unknown
    assert 0 < rows == labels < source.counts["train"]
    assert worth(bundle, source) > 0.6


@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_learns_and_its_file_answers_as_it_did_in_training(made: Any, recipe: str, classes: int) -> None:
    bundle, source = made(recipe, classes)
    assert bundles.read(bundle.folder) == bundle
    schema = json.loads((Path(bundles.__file__).parent / "bundle.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((bundle.folder / bundles.FILE).read_text(encoding="utf-8")), schema)
    assert worth(bundle, source) > {0: 0.55, 2: 0.8, 3: 0.75}[classes]
    assert not any(path.suffix in (".pkl", ".joblib") for path in bundle.folder.iterdir())
    blend = Blend.read(bundle.folder)
    features = bundle.rule.encode(bundle.rule.pack(source.rows("test")))[FEATURES]
    if "isotonic" not in " ".join(bundle.notes):
        np.testing.assert_allclose(answer(bundle, source.rows("test")), blend.answer(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_gives_the_same_files(made: Any, recipe: str, tmp_path: Path) -> None:
    bundle, source = made(recipe, 2)
    again = train(tmp_path, source, recipe)
    assert again.sha256 == bundle.sha256
    assert again.to_json() == bundle.to_json()


@pytest.mark.parametrize("classes", [0, 2, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_contributions_add_up_to_the_score(made: Any, recipe: str, classes: int) -> None:
    bundle, source = made(recipe, classes)
    rows = source.rows("test").slice(0, 20)
    told = explain.contributions(bundle, rows)
    for one in told:
        assert one.score == pytest.approx(one.base + sum(one.columns.values()), abs=1e-9)
        assert set(one.columns) == {column.name for column in bundle.rule.columns}
    found = answer(bundle, rows)
    if classes == 0:
        np.testing.assert_allclose([one.score for one in told], found[:, 0], rtol=1e-5)
    elif classes == 2:
        assert {one.label for one in told} == {"yes"}
        if "isotonic" not in " ".join(bundle.notes):
            np.testing.assert_allclose([1 / (1 + np.exp(-one.score)) for one in told], found[:, 1], atol=1e-5)
    else:
        assert [one.label for one in told] == [source.classes[i] for i in found.argmax(axis=1)]
    if classes:
        first = explain.contributions(bundle, rows, source.classes[0])
        assert {one.label for one in first} == {source.classes[0]}
        assert classes > 2 or [one.score for one in first] == pytest.approx([-one.score for one in told])
        with pytest.raises(NotFound, match="class 'maybe' does not exist"):
            explain.contributions(bundle, rows, "maybe")
    strongest = {next(iter(one.columns)) for one in told}
    assert strongest & {"number", "city", "age", "at"}
    assert "paid" not in strongest


def test_only_a_tabular_model_is_explained(made: Any) -> None:
    bundle, source = made("lightgbm", 2)
    with pytest.raises(Invalid, match="model to explain must be a tabular one"):
        explain.contributions(replace(bundle, sha256={}), source.rows("test"))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("after", [0, 3, 12])
def test_a_training_stops_when_asked(recipe: str, after: int, tmp_path: Path) -> None:
    asked = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > after

    with pytest.raises(Cancelled):
        train(tmp_path, table(), recipe, stopped=stopped)
    assert len(asked) == after + 1
    assert not (tmp_path / "bundle").exists()


def test_a_stack_that_was_killed_goes_on_to_the_same_files(made: Any, tmp_path: Path) -> None:
    bundle, source = made("stacked", 2)

    class Killed(BaseException):
        pass

    def report(share: float, text: str) -> None:
        if text.startswith("shallow, round 3") or text.startswith("shallow 2"):
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, source, "stacked", report=report)
    assert sorted(path.name for path in (tmp_path / "scratch/members").glob("*.json")) == ["linear.json", "trees.json"]
    said: list[str] = []
    again = train(tmp_path, source, "stacked", report=lambda share, text: said.append(text))
    assert again.sha256 == bundle.sha256
    assert not any(text.startswith(("trees", "linear")) for text in said)
    other = train(tmp_path / "b", source, "stacked", seed=1)
    assert other.sha256 != bundle.sha256


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_budget_of_a_second_still_gives_a_model(recipe: str, tmp_path: Path) -> None:
    params = {"rounds": 20000, "patience": 10000} if recipe != "linear" else {}
    bundle = train(tmp_path, table(), recipe, params=params, budget_s=1.0)
    assert worth(bundle, table()) > 0.6
    if recipe != "linear":
        assert any("time budget" in note for note in bundle.notes)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("classes", [0, 2])
def test_without_other_splits_folds_take_their_place(recipe: str, classes: int, tmp_path: Path) -> None:
    source = table(400, 0, 0, classes=classes)
    bundle = train(tmp_path, source, recipe)
    assert bundle.metrics == {}
    fresh = table(400, 0, 200, classes=classes, seed=0)
    found = answer(bundle, fresh.rows("test"))
    truth = fresh.targets("test")
    score = source.task.metrics(truth, {bundle.outputs[0].name: found}, source.schema)[source.task.headline]
    assert score(np.arange(len(truth))) > 0.5


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_three_rows_are_enough_to_answer(recipe: str, classes: int, tmp_path: Path) -> None:
    whole = table(3, 0, 0, classes=classes)
    source = replace(whole, answers={"train": np.arange(3) % max(classes, 1) if classes else np.array([1.0, 2, 4])})
    found = answer(train(tmp_path, source, recipe), source.rows("train"))
    assert np.isfinite(found).all()
    if classes:
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_odd_columns_are_borne(recipe: str, tmp_path: Path) -> None:
    count = 700
    rng = np.random.default_rng(1)
    source = table(
        constant=[7] * count,
        nothing=pa.nulls(count, pa.float64()),
        void=pa.nulls(count),
        many=[f"value {i % 650}" for i in rng.permutation(count)],
        endless=np.where(rng.random(count) < 0.2, np.inf, rng.normal(size=count)),
        huge=rng.normal(size=count) * 1e300,
        late=[None] * 500 + ["only in val and test"] * 200,
        rare=["x"] + [None] * (count - 1),
    )
    bundle = train(tmp_path, source, recipe)
    assert worth(bundle, source) > 0.75
    told = " ".join(bundle.notes)
    assert "one value in all rows): constant" in told
    assert "no value in the train split): nothing, void" in told
    assert np.isfinite(answer(bundle, source.rows("test"))).all()
    assert np.isfinite(answer(bundle, [{"number": 1.0}, {"many": "never seen", "endless": float("-inf")}])).all()


def test_ten_thousand_categories_are_kept_small(tmp_path: Path) -> None:
    count = 12_000
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.arange(10_000), rng.integers(0, 50, 2_000)])
    source = table(11_000, 500, 500, many=[f"v{i}" for i in rng.permutation(codes)])
    for recipe in ("lightgbm", "linear"):
        bundle = train(tmp_path / recipe, source, recipe)
        (column,) = [c for c in bundle.rule.columns if c.name == "many"]  # type: ignore[attr-defined]
        assert 10 < len(column.values) <= 1000
        assert bundle.variants[0].size_bytes < 3_000_000
        assert worth(bundle, source) > 0.8
    assert count == len(codes)


@pytest.mark.parametrize("recipe", RECIPES)
def test_targets_that_teach_nothing_are_refused(recipe: str, tmp_path: Path) -> None:
    one = replace(table(), answers={split: np.zeros(400, np.int64) for split in ("train", "val", "test")})
    with pytest.raises(Invalid, match="at least two classes; got only no"):
        train(tmp_path, one, recipe)
    endless = table(classes=0)
    endless.answers["train"][7] = np.inf
    with pytest.raises(Invalid, match="target must be finite numbers; got 1 that are not"):
        train(tmp_path, endless, recipe)


def test_a_table_of_nothing_is_refused(tmp_path: Path) -> None:
    source = table()
    empty = {split: told.select(["paid"]) for split, told in source.tables.items()}
    with pytest.raises(Invalid, match="columns to learn from must be at least one"):
        train(tmp_path, replace(source, tables=empty), params={"leave_out": ["paid"]})
    with pytest.raises(Invalid, match=r"leave_out must be columns of the table \(number, age"):
        train(tmp_path, source, params={"leave_out": ["paid", "payd"]})


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"costs": {"maybe": 2}}, r"costs must be of classes \(no, yes\); got maybe"),
        ({"costs": {"yes": 0}}, "costs must be above 0"),
        ({"monotone": {"city": 1}}, r"monotone must be of columns of numbers \(number, age, paid\); got city"),
        ({"monotone": {"age": 2}}, "monotone.age must be"),
        ({"rate": -1}, "rate must be greater than or equal to 0"),
    ],
)
def test_wrong_parameters_are_one_clear_error(params: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=words):
        train(tmp_path, table(), params=params)


def test_costs_move_the_threshold_of_the_answer(made: Any, tmp_path: Path) -> None:
    plain, source = made("lightgbm", 2)
    costly = train(tmp_path, source, params={"costs": {"yes": 4}})
    assert costly.schema.costs == (1.0, 4.0)
    assert bundles.read(costly.folder).schema == costly.schema
    assert any("chosen by costs" in note for note in costly.notes)
    rows = source.rows("test")
    found = answer(costly, rows)
    np.testing.assert_array_equal(found, answer(plain, rows))
    chosen = [one["chosen"] for one in source.task.decode({"scores": found}, costly.schema)]
    assert chosen == [["yes"] if yes > 0.2 else ["no"] for yes in found[:, 1]]
    assert chosen != [one["chosen"] for one in source.task.decode({"scores": found}, plain.schema)]
    truth = source.answers["test"]
    missed = [sum(("yes" in c) != t for c, t in zip(chosen, truth, strict=True) if t) / truth.sum()]
    assert missed[0] < 0.15
    assert costly.metrics["test"]["accuracy"].value == np.mean([
        ("yes" in c) == t for c, t in zip(chosen, truth, strict=True)
    ])


def test_class_weights_are_undone_by_calibration(tmp_path: Path) -> None:
    source = table(1200, 600, 300)
    rare = {split: np.where(np.arange(len(x)) % 4 == 0, x, 0) for split, x in source.answers.items()}
    source = replace(source, answers=rare)
    raw = train(tmp_path / "a", source, params={"class_weights": "balanced", "calibrate": False})
    good = train(tmp_path / "b", source, params={"class_weights": "balanced"})
    assert any("calibrated" in note for note in good.notes)
    assert good.metrics["test"]["log_loss"].value < raw.metrics["test"]["log_loss"].value - 0.05
    share = float(answer(good, source.rows("test"))[:, 1].mean())
    assert share == pytest.approx(float(rare["test"].mean()), abs=0.05)


def test_monotone_constraints_hold_everywhere(tmp_path: Path) -> None:
    source = table(noise=3.0)
    bundle = train(tmp_path, source, params={"monotone": {"age": 1}, "leave_out": ["at"]})
    rows = source.rows("test").slice(0, 40).to_pylist()
    for before, after in ((18, 30), (30, 52), (52, 79)):
        low, high = (answer(bundle, [{**row, "age": age} for row in rows])[:, 1] for age in (before, after))
        assert (high >= low - 1e-7).all()


def test_a_column_that_knows_the_target_is_told(tmp_path: Path) -> None:
    source = table()
    answers = np.concatenate([source.answers[split] for split in ("train", "val", "test")])
    bundle = train(tmp_path, table(after=answers * 3 + 1))
    assert any(note.startswith("leak? ") and "'after'" in note for note in bundle.notes)
    assert not any(note.startswith("leak? ") for note in train(tmp_path / "b", source).notes)


def test_sentences_are_learnt_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["the", "water", "is", "cold", "street", "lamp", "broken", "dog", "tree", "noise"])
    texts = [" ".join(rng.permutation(words)[:5]) + f" {i}" for i in range(700)]
    answers = np.array([("lamp" in t.split()) ^ (i % 20 == 0) for i, t in enumerate(texts)]).astype(np.int64)
    plain = table(said=texts)
    cut = {"train": answers[:400], "val": answers[400:550], "test": answers[550:]}
    source = replace(plain, answers=cut)
    for recipe in ("lightgbm", "linear"):
        bundle = train(tmp_path / recipe, source, recipe, params={"terms": 20})
        assert worth(bundle, source) > 0.85
        (first,) = explain.contributions(bundle, [{"said": "the lamp is out"}])
        assert next(iter(first.columns)) == "said"
        assert first.columns["said"] > 0


def test_a_column_of_names_is_a_category_not_a_text(made: Any) -> None:
    bundle, _ = made("lightgbm", 2)
    kinds = {column.name: column.kind for column in bundle.rule.columns}
    assert kinds == {"number": "number", "age": "number", "city": "category", "at": "moment", "paid": "bool"}
    (at,) = [column for column in bundle.rule.columns if column.kind == "moment"]
    assert at.parts == ("month", "day", "weekday", "hour", "minute", "yearday", "days")  # all of one year


def test_an_image_recipe_is_told_apart(tmp_path: Path) -> None:
    from tests.train.source import squares

    with pytest.raises(Invalid, match="recipe must be one that learns image-classification"):
        train(tmp_path, squares())  # type: ignore[arg-type]


def test_optimizing_leaves_out_what_is_for_networks(made: Any, tmp_path: Path) -> None:
    bundle, source = made("lightgbm", 2)
    ctx = Context(seed=0, scratch=tmp_path, report=lambda share, text: None, stopped=lambda: False)
    best = optimizing.optimize(bundle, source, folder=tmp_path / "best", ctx=ctx, threads=1)
    assert [variant.name for variant in best.variants] == ["onnx-fp32", "lightgbm"]
    assert best.variant("lightgbm").agreement == 1.0
    assert best.variants[0].latency_ms["p50"] > 0
    told = [note for note in best.notes if "left out" in note]
    assert len(told) == 9
    assert sum("trees (TreeEnsemble), which OpenVINO lacks" in note or "bfloat16" in note for note in told) == 3
    assert sum("layers of weights" in note for note in told) == 2
    assert sum("a model of images" in note for note in told) == 2
    assert not any("could not be made" in note for note in best.notes)
    assert (best.folder / "parts.json").is_file()


@pytest.mark.parametrize(
    ("rows", "budget_s", "recipe"),
    [(300, None, "lightgbm"), (300, 60.0, "stacked"), (100, None, "linear"), (300, 5.0, "lightgbm")],
)
def test_the_data_and_the_budget_choose_the_recipe(rows: int, budget_s: float | None, recipe: str) -> None:
    name, why = recipes.choose(table(rows, 50, 0), budget_s)
    assert name == f"train.{recipe}"
    assert why


def test_every_draw_of_a_search_is_a_recipe(tmp_path: Path) -> None:
    class Edge:
        def __init__(self, is_high: bool) -> None:
            self.is_high = is_high

        def number(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            return high if self.is_high else low

        def whole(self, name: str, low: int, high: int, *, log: bool = False) -> int:
            return high if self.is_high else low

    for is_high in (False, True):
        params = LightGbm.space(Edge(is_high), table())
        bundle = train(tmp_path / str(is_high), table(), params={**params, "rounds": 3})
        assert bundle.params["leaves"] == params["leaves"]


def test_a_loss_that_is_no_number_is_an_error() -> None:
    from loopworks.train.tables.sheet import finite

    with pytest.raises(Failed, match="the loss must stay a number; got nan"):
        finite(float("nan"))
