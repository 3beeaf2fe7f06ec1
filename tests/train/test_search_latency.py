"""A search with a latency budget: recipe, size of the images and precision together; nothing is trained with torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.optimize import nets
from tests.train import means
from tests.train.marked import marked

import loopworks as lw
from loopworks import steps
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Failed, Invalid
from loopworks.core.values import ImageRule
from loopworks.optimize import measure
from loopworks.optimize.stage import weigh
from loopworks.testing import context
from loopworks.train import search
from loopworks.train.trial import Trial

pytestmark = pytest.mark.train


@pytest.fixture(scope="module", autouse=True)
def _means() -> None:
    pytest.importorskip("optuna")
    means.load()


def side(bundle: Bundle, folder: Path) -> tuple[str, float, float]:
    """Instead of a measurement: a millisecond per pixel of the side, and accuracy grows with it."""
    assert (bundle.folder / "model.onnx").is_file()
    assert isinstance(bundle.rule, ImageRule)
    return "onnx-int8", float(bundle.rule.height), bundle.rule.height / 100


def run(folder: Path, told: list[Trial], **more: Any) -> Bundle:
    given: dict[str, Any] = {"trials": 12, "names": ["means"], "ctx": context(folder / "scratch", seed=3)}
    given |= {"weigh": side, "on_trial": told.append}
    return search.search(marked(), folder=folder / "bundle", **{**given, **more})


def test_the_best_inside_the_latency_budget_wins(tmp_path: Path) -> None:
    free: list[Trial] = []
    run(tmp_path / "free", free, latency_ms=1e6)
    sides = sorted({one.latency_ms for one in free if one.latency_ms is not None})
    assert len(sides) > 1, "the search tries several sizes"
    limit = sides[-1] - 0.5  # the largest images, which would win, are too slow
    told: list[Trial] = []
    bundle = run(tmp_path / "tight", told, latency_ms=limit)
    board = search.board(bundle)
    best = board["trials"][0]
    assert board["latency_ms"] == limit
    assert best["number"] == board["best"]
    assert best["latency_ms"] == max(one.latency_ms for one in told if one.latency_ms and not one.is_too_slow) < limit
    assert best["variant"] == "onnx-int8"
    assert isinstance(bundle.rule, ImageRule)
    assert bundle.rule.height == best["latency_ms"]
    slow = [one for one in told if one.is_too_slow]
    assert slow
    assert all(one.note.endswith("ms, too slow") for one in slow)
    assert not any((tmp_path / "tight" / "scratch" / "search").rglob("weighed"))


def test_a_budget_that_no_model_keeps_says_how_far_it_is(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"inside its latency budget; the quickest of 3 trials takes \d+ ms"):
        run(tmp_path, [], trials=3, latency_ms=0.5)
    assert not (tmp_path / "bundle").exists()


def test_a_trial_that_cannot_be_weighed_has_failed_and_a_cancel_goes_through(tmp_path: Path) -> None:
    def broken(bundle: Bundle, folder: Path) -> tuple[str, float, float]:
        raise Invalid("model", "sound", "broken")

    def stopped(bundle: Bundle, folder: Path) -> tuple[str, float, float]:
        raise Cancelled

    told: list[Trial] = []
    with pytest.raises(Failed, match="all 2 trials failed: model must be sound"):
        run(tmp_path / "a", told, trials=2, latency_ms=1.0, weigh=broken)
    assert [one.state for one in told] == ["failed", "failed"]
    with pytest.raises(Cancelled):
        run(tmp_path / "b", [], trials=2, latency_ms=1.0, weigh=stopped)


@pytest.mark.optimize
def test_a_model_is_weighed_by_its_quickest_form_without_the_test_split(tmp_path: Path) -> None:
    model = nets.colors(tmp_path / "m")
    source = nets.pictures(test=0)
    name, ms, value = weigh(model, source, folder=tmp_path / "w", max_drop=0.05, ctx=context(tmp_path), threads=1)
    assert name in ("onnx-fp32", "onnx-int8", "openvino-int8", "openvino-bf16")
    assert 0 < ms < 1e4
    assert value > 0.9
    assert [path.name for path in tmp_path.iterdir() if path.name != "m"] == [], "nothing is left"


@pytest.mark.optimize
@pytest.mark.slow
def test_the_winner_is_optimized_and_kept(
    tmp_path: Path, pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SLOT_S", 0.001)
    monkeypatch.setattr(measure, "STARTS", 0)
    with lw.open(tmp_path / "space", threads=1) as ws:
        photos = ws.dataset("photos", task="image-classification")
        photos.add(pictures(tmp_path / "in", {"a": 20, "b": 20}, size=16))
        photos.split(test=0.25, val=0.25)
        version = photos.freeze("first").id
        with pytest.raises(Invalid, match="latency_ms must be above zero"):
            ws.search_job(version, trials=2, latency_ms=0)
    params: dict[str, Any] = {
        "version": version, "name": "quick", "recipes": ["means"], "params": {}, "budget_s": None, "trials": 2,
        "start": "", "seed": 0, "latency_ms": 1000.0, "max_drop": 0.1,
    }  # fmt: skip
    ctx = Context(
        seed=0, scratch=tmp_path / "scratch", report=lambda share, text: None, stopped=lambda: False, job="job-1"
    )
    made = steps.search(str(tmp_path / "space"), params, ctx)
    with lw.open(tmp_path / "space", create=False) as ws:
        bundle = ws.bundle(made["model"])
        assert len(bundle.variants) > 1
        assert bundle.variant().latency_ms["p50"] < 1000
        board = ws.board(made["model"])
        assert board["latency_ms"] == 1000.0
        assert all(one["variant"] for one in board["trials"])
        assert ws.front(made["model"])["chosen"] == bundle.chosen
