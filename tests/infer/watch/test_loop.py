"""From what a model in use was asked, over truth that came later, to a challenger: with real trainings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.infer.watch.conftest import Watching

import loopworks as lw

pytestmark = [pytest.mark.train, pytest.mark.slow]
RETRAIN = {"new_labels": 40, "cool_down": "0.001s", "recipe": "linear", "budget": None}
RULES = {"key": "id", "capture": [{"when": "random", "share": 1}], "retrain": RETRAIN, "drift": {"is_on": False}}


@pytest.fixture
def scans() -> list[dict[str, Any]]:
    """Handwritten zeros and ones (scikit-learn's, UCI), as rows of 64 pixels with their label."""
    datasets = pytest.importorskip("sklearn.datasets", reason="needs the [train] extra")
    found = datasets.load_digits(n_class=2)
    return [
        {"id": f"s{at}", "digit": ("zero", "one")[label], **{f"p{i}": int(v) for i, v in enumerate(pixels)}}
        for at, (pixels, label) in enumerate(zip(found.data, found.target, strict=True))
    ]


def test_truth_of_live_inputs_starts_a_training_that_makes_the_challenger(
    tmp_path: Path, start: Callable[[lw.Workspace], Watching], scans: list[dict[str, Any]]
) -> None:
    (tmp_path / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scans[:120]), encoding="utf-8")
    with lw.open(tmp_path / "space", threads=1) as ws:
        table = ws.dataset("digits", task="tabular-classification").table
        table.add(tmp_path / "first.jsonl")
        table.choose(target="digit", id="id")
        ws.deploy(ws.train(table.freeze("first"), recipe="linear", name="digits"), "digits")
        ws.watch("digits", RULES)
        on = start(ws)
        live = {row["id"]: row for row in scans[120:170]}
        asked = [{name: value for name, value in row.items() if name != "digit"} for row in live.values()]
        assert on.client.post("/predict/digits", json={"rows": asked}).status_code == 200
        on.flush()
        assert ws.retrain("digits")["state"] == "idle", "nothing is labelled yet"
        assert ws.truth("digits", {name: row["digit"] for name, row in live.items()})["labeled"] == 50
        assert ws.live_accuracy("digits")["measured"]["value"] > 0.9
        begun = ws.retrain("digits")
        assert (begun["state"], begun["reasons"]) == ("started", ["50 new labels (from 40 on)"])
        ws.result(ws.jobs.get(begun["job"]))
        done = ws.retrain("digits")
        assert (done["state"], done["model"], done["against"]) == ("challenger", "digits:2", "digits:1")
        assert done["verdict"] in ("better", "not separable")
        made = ws.model("digits@challenger")
        assert (made.number, made.version) == (2, begun["version"])
        assert ws.version(begun["version"]).counts["items"] == 170
        assert made.metrics["test"]["accuracy"]["value"] > 0.9
        assert ws.deployment("digits").number == 1, "nothing is promoted unless the rules say so"
        assert ws.retrain("digits")["state"] == "idle", "the labels are in the version that was trained on"
