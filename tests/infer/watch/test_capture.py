"""Inputs of a model in use come to the inbox of its dataset: which, how many, how often, and what of them."""

import errno
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.infer.watch.conftest import Watching, people
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Invalid, NotFound
from loopworks.infer.watch import privacy, rules
from loopworks.infer.watch.judge import Budget, Recent, Seen
from loopworks.infer.watch.log import Log
from loopworks.infer.watch.rules import Privacy

Photo = Callable[..., bytes]
Start = Callable[[lw.Workspace], Watching]
QUIET: dict[str, Any] = {"drift": {"is_on": False}}


def items_of(space: lw.Workspace) -> dict[str, Any]:
    return {item.id: item for item in space.dataset("photos").find("tag = 'inbox'")}


def test_an_unsure_answer_comes_to_the_inbox_with_what_the_model_said(
    space: lw.Workspace, start: Start, photo: Photo
) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "uncertain", "above": 0.5}]})
    on = start(space)
    sure, unsure = on.ask(photo("red")), on.ask(photo("red", strength=5))
    on.flush()
    found = items_of(space)
    assert list(found) == [unsure["item"]]
    item = found[unsure["item"]]
    assert item.state == "unlabeled"
    assert item.attributes["reason"] == "uncertain"
    assert item.attributes["prediction"] == unsure["id"]
    assert space.dataset("photos").read(item) == photo("red", strength=5)
    assert [one.item for one in space.inbox("colors")] == [unsure["item"]]
    # what the model said is there to be looked at and sorted by
    scored = space.dataset("photos").find("prediction.model = 'colors:1' and prediction.label = 'red'")
    assert [one.id for one in scored] == [unsure["item"]]
    # the label queue proposes it: the one unlabelled item
    (pick,) = space.labeling("photos").next(5)
    assert (pick.item, pick.proposal) == (unsure["item"], ("red",))
    assert sure["item"] not in found


def test_the_same_input_is_counted_and_stored_once(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    for _ in range(3):
        on.ask(photo("blue"))
    on.flush()
    on.ask(photo("blue"))
    on.flush()
    (one,) = space.inbox("colors")
    assert (one.count, one.reasons, one.is_ours) == (4, ("random",), True)
    assert len(items_of(space)) == 1
    counts = space.watched("colors")["counts"]
    assert (counts["captured"], counts["again"], counts["seen"]) == (1, 3, 4)


def test_an_input_that_the_dataset_has_stays_as_it_is(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    known = on.ask(photo("red", seed=1_000))
    on.flush()
    item = space.dataset("photos").item(known["item"])
    assert (item.state, item.tags) == ("labeled", ())
    (one,) = space.inbox("colors", state="")
    assert not one.is_ours


def test_what_a_random_rule_chooses_is_its_share(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 0.5}]})
    on = start(space)
    for seed in range(40):
        on.ask(photo("red", seed=seed, size=8))
    on.flush()
    assert 8 <= len(items_of(space)) <= 32  # 20 expected, standard deviation 3.2


def test_what_is_unlike_the_training_data_is_far(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {"capture": [{"when": "far"}]})
    on = start(space)
    on.ask(photo("red", seed=7))
    on.flush()  # begins to look at the training data
    on.settle("colors")
    usual = [on.ask(photo(color, seed=900 + n)) for n, color in enumerate(("red", "green", "blue") * 5)]
    board = np.indices((16, 16)).sum(axis=0) % 4 < 2
    made = io.BytesIO()
    Image.fromarray(np.repeat(board[..., None] * np.uint8(255), 3, axis=2)).save(made, "PNG")
    strange = on.ask(made.getvalue())
    on.flush()
    found = items_of(space)
    assert strange["item"] in found
    assert sum(one["item"] in found for one in usual) <= 2


def test_where_another_model_disagrees_the_input_is_kept(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "disagree", "model": "contrary", "share": 1}]})
    on = start(space)
    one = on.ask(photo("green"))
    on.flush()
    assert list(items_of(space)) == [one["item"]]
    space.watch("colors", {**QUIET, "capture": [{"when": "disagree", "model": "colors:1", "share": 1}]})
    on.ask(photo("green", seed=5))
    on.flush()
    assert len(items_of(space)) == 1, "a model never disagrees with itself"


def test_a_wrong_answer_is_kept_when_the_user_says_so(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "feedback"}]})
    on = start(space)
    right, wrong = on.ask(photo("red")), on.ask(photo("blue"))
    good = on.client.post("/api/feedback", json={"id": right["id"], "right": True}).json()
    assert (good["is_wrong"], good["is_captured"]) == (False, False)
    bad = on.client.post("/api/feedback", json={"id": wrong["id"], "label": "green"}).json()
    assert (bad["is_wrong"], bad["is_captured"]) == (True, True)
    assert list(items_of(space)) == [wrong["item"]]
    told = space.live_accuracy("colors")
    assert told["measured"] is None, "what users complain of is no sample"
    assert (told["feedback"]["value"], told["feedback"]["count"]) == (0.5, 2)
    refused = on.client.post("/api/feedback", json={"id": "colors/1/beef", "right": True})
    assert refused.status_code == 422


def test_budgets_hold(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1, "per_hour": 3}]})
    on = start(space)
    for seed in range(8):
        on.ask(photo("red", seed=seed))
    on.flush()
    assert len(items_of(space)) == 3
    assert space.watched("colors")["counts"]["over_budget"] == 5


def test_a_budget_comes_back_with_time() -> None:
    now = [0.0]
    budget = Budget(2, 3, clock=lambda: now[0])
    assert [budget.take() for _ in range(3)] == [True, True, False]
    now[0] = 3_600.0
    assert [budget.take() for _ in range(2)] == [True, False]  # the day's third, and no more
    now[0] = 86_400.0
    assert budget.take()
    assert not Budget(0, 10).take()


def test_requests_by_tensor_are_captured_once_and_as_pixels(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    on.ask(photo("red"))  # brings its original: its run is not captured once more
    pixels = np.full((1, 8, 8, 3), 77, np.uint8)
    body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels.ravel().tolist()}]}
    assert on.client.post("/v2/models/colors/infer", json=body).status_code == 200
    on.flush()
    found = items_of(space)
    assert len(found) == 2
    sizes = sorted((item.width, item.height) for item in found.values())
    assert sizes == [(8, 8), (16, 16)]
    small = next(item for item in found.values() if item.width == 8)
    with Image.open(io.BytesIO(space.dataset("photos").read(small))) as opened:
        assert (np.asarray(opened) == 77).all()


def test_a_full_disk_and_a_locked_catalog_fail_no_request(
    space: lw.Workspace, start: Start, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1}]})
    on = start(space)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("loopworks.store.blobs._write_synced", full)
        assert on.ask(photo("red"))["chosen"] == ["red"]
        on.flush()
        assert items_of(space) == {}
        failed = on.metric("loopworks_capture_failed_total")
        assert failed["colors", "no_space"] >= 1
        assert on.ask(photo("red", seed=1))["chosen"] == ["red"], "the server goes on"
    on.flush()
    assert len(items_of(space)) == 1, "and what comes after is kept"
    with space.home.catalog.begin():  # another process holds the catalog
        monkeypatch.setattr(space.home.catalog, "begin", _busy)
        assert on.ask(photo("red", seed=2))["chosen"] == ["red"]
        on.flush()
    assert on.metric("loopworks_capture_failed_total")["colors", "busy"] >= 1


def _busy() -> Any:
    from loopworks.core.errors import Busy

    raise Busy("the catalog must be free to write; got a lock")


def test_queues_are_bounded_and_what_is_left_out_is_counted(
    space: lw.Workspace, start: Start, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    monkeypatch.setattr("loopworks.infer.watch.watcher.MOST_OFFERS", 2)
    for seed in range(5):
        on.ask(photo("red", seed=seed))
    assert on.metric("loopworks_watch_dropped_total")["colors",] == 3


def test_an_unwatched_deployment_holds_nothing(space: lw.Workspace, start: Start, photo: Photo) -> None:
    on = start(space)
    on.ask(photo("red"))
    assert (len(on.watcher._offers), len(on.watcher._runs)) == (0, 0)
    with pytest.raises(NotFound, match="watch of deployment 'colors' does not exist"):
        space.watched("colors")


def test_only_what_may_be_kept_is_kept(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "privacy": {"keep": "tensors"}, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    asked = on.ask(photo("red"))
    on.flush()
    ((_, item),) = items_of(space).items()
    assert (item.width, item.height) == (8, 8), "the size that the model sees"
    (one,) = space.inbox("colors")
    assert (one.item, one.stored) == (asked["item"], item.id)
    space.watch("colors", {**QUIET, "privacy": {"keep": "off"}, "capture": [{"when": "random", "share": 1}]})
    on.ask(photo("blue"))
    on.flush()
    assert len(items_of(space)) == 1
    assert [(one.dataset, one.label) for one in space.inbox("colors")][0] == ("", "blue"), "only counted"


def test_columns_are_dropped_and_hashed(table_space: lw.Workspace, start: Start) -> None:
    table_space.watch(
        "churn",
        {
            **QUIET,
            "key": "id",
            "privacy": {"drop": ["age"], "hash": ["city"]},
            "capture": [{"when": "random", "share": 1}],
        },
    )
    on = start(table_space)
    on.ask_rows([{"id": "a", "age": 41, "city": "bonn", "name": "Eva"}, {"id": "b", "age": 42, "city": "bonn"}])
    on.flush()
    first, second = sorted((one.content for one in table_space.inbox("churn")), key=lambda row: str(row["id"]))
    assert set(first) == {"id", "city", "name"}
    assert first["city"] == second["city"] != "bonn"
    assert len(first["city"]) == 16
    table_space.watch("churn", {**QUIET, "key": "id", "privacy": {"hash": ["id"]}})
    on.ask_rows([{"id": "secret-7", "age": 41, "city": "bonn"}])
    on.flush()
    keys = Log(table_space.home, "churn").read().column("key").to_pylist()
    assert keys[:2] == ["a", "b"]
    assert "secret" not in keys[2]
    assert table_space.truth("churn", {"secret-7": "no"})["known"] == 1
    told = json.dumps([event.to_json() for event in table_space.watch_events("churn")])
    assert "Eva" not in told


def test_faces_are_blurred_beyond_recognition() -> None:
    from loopworks.core.values import Shape

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    face = Shape(label="face", kind="box", points=((8.0, 8.0, 32.0, 32.0),))
    with Image.open(io.BytesIO(privacy.blurred(made.getvalue(), [face], 10_000))) as opened:
        found = np.asarray(opened)
    inside = found[8:40, 8:40].astype(float)
    assert (found[45:] == pixels[45:]).all(), "the rest is untouched"
    assert inside.std() < 0.2 * pixels[8:40, 8:40].std()


def test_old_captures_are_erased_for_good(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "retention": {"days": 1e-9}, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    lost, labeled, known = on.ask(photo("red")), on.ask(photo("blue")), on.ask(photo("red", seed=1_000))
    on.flush()
    space.dataset("photos").label({labeled["item"]: ["blue"]}, author="ann")
    assert space.purge("colors", dry_run=True)["items"] == 1
    assert lost["item"] in items_of(space)
    assert space.purge("colors")["items"] == 1
    there = set(space.dataset("photos").ids())
    assert lost["item"] not in there
    assert {labeled["item"], known["item"]} <= there
    on.ask(photo("red"))
    on.flush()
    assert lost["item"] not in space.dataset("photos").ids(), "what was erased does not come back"
    assert on.metric("loopworks_capture_failed_total")["colors", "denied"] == 1


def test_what_was_captured_and_labelled_is_returned(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    one = on.ask(photo("blue"))
    on.flush()
    space.dataset("photos").label({one["item"]: ["blue"]}, author="ann")
    assert space.inbox("colors") == []
    assert [found.item for found in space.inbox("colors", state="returned")] == [one["item"]]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"capture": [{"when": "random"}]}, "must be given a share where it is random"),
        ({"capture": [{"when": "sometimes"}]}, "must be 'uncertain', 'random'"),
        ({"capture": [{"when": "feedback"}] * 2}, "must be of one capture rule of a kind, not two (feedback)"),
        ({"captures": []}, "watch rules captures must be a known name; got captures"),
        ({"alerts": [{"url": "file:///etc/passwd"}]}, "must be a URL that begins with http:// or https://"),
        ({"privacy": {"blur": ["face"]}}, "must be classes of the model (red, green, blue); got face"),
        ({"privacy": {"blur": ["red"]}}, "must be empty for a model that says no places"),
        ({"privacy": {"drop": ["age"]}}, "must be empty for a model of no table"),
        ({"drift": {"every": "soon"}}, "must be a duration above zero"),
        ([], "watch rules must be an object; got list"),
    ],
)
def test_rules_that_make_no_sense_are_refused(space: lw.Workspace, body: Any, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        space.watch("colors", body)
    assert told in caught.value.message


def test_rules_come_from_yaml_json_and_http_alike(space: lw.Workspace, start: Start, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("capture:\n  - {when: random, share: 0.5}\nkey: id\n", encoding="utf-8")
    by_file = space.watch("colors", tmp_path / "rules.yaml").to_json()
    on = start(space)
    by_http = on.client.post(
        "/api/deployments/colors/watch", json={"capture": [{"when": "random", "share": 0.5}], "key": "id"}
    ).json()
    assert by_http["rules"] == by_file
    told = CliRunner().invoke(
        app, ["watch", "set", "colors", str(tmp_path / "rules.yaml"), "-w", str(space.folder), "--json"]
    )
    assert json.loads(told.stdout)["rules"] == by_file
    (tmp_path / "evil.yaml").write_text("!!python/object/apply:os.system [id]", encoding="utf-8")
    with pytest.raises(Invalid, match="must be YAML or JSON"):
        rules.read(tmp_path / "evil.yaml")
    assert on.client.delete("/api/deployments/colors/watch").json()["was_watched"] is True
    assert on.client.get("/api/deployments/colors/watch").status_code == 404


def test_where_no_model_learnt_from_the_inbox_its_predictions_are_proposed(
    space: lw.Workspace, start: Start, photo: Photo
) -> None:
    space.dataset("other", task="image-classification", classes=("red", "green", "blue"))
    space.watch("colors", {**QUIET, "dataset": "other", "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    sure, unsure = on.ask(photo("red")), on.ask(photo("blue", strength=20))
    on.flush()
    picks = space.labeling("other").next(5)
    assert [(pick.item, pick.proposal) for pick in picks] == [(unsure["item"], ("blue",)), (sure["item"], ("red",))]
    assert picks[0].uncertainty > picks[1].uncertainty


def test_what_is_erased_leaves_the_log_with_the_next_purge(space: lw.Workspace, start: Start, photo: Photo) -> None:
    space.watch("colors", {**QUIET, "capture": [{"when": "random", "share": 1}]})
    on = start(space)
    one, _ = on.ask(photo("red")), on.ask(photo("blue"))
    on.flush()
    space.dataset("photos").erase([one["item"]], reason="asked for")
    assert [found.item for found in space.inbox("colors")] != [one["item"]]
    space.purge("colors")
    assert Log(space.home, "colors").rows() == 1


def test_recent_inputs_are_bounded_in_bytes() -> None:
    held = Recent(most=10, most_bytes=25)
    for n in range(4):
        held.add("d", Seen(item=str(n), name="", content=b"0123456789", said=()), "m:1")
    assert [held.get("d", str(n)) is not None for n in range(4)] == [False, False, True, True]


def test_rows_wait_for_their_truth_and_then_go_to_the_table(table_space: lw.Workspace, start: Start) -> None:
    table_space.watch("churn", {**QUIET, "key": "id", "capture": [{"when": "random", "share": 1}]})
    on = start(table_space)
    on.ask_rows(people(3, 77))
    on.flush()
    assert len(table_space.inbox("churn")) == 3
    done = table_space.truth("churn", {"p77-0": "yes", "p77-1": "no", "nobody": "no"})
    assert (done["known"], done["labeled"]) == (2, 2)
    assert [problem.where for problem in done["problems"]] == ["nobody"]
    rows = table_space.dataset("churn").table
    assert rows.rows == 602
    assert rows.find("id = 'p77-0' and churn = 'yes'").count == 1
    assert len(table_space.inbox("churn")) == 1


def test_who_asks_for_a_row_whose_time_is_over_is_told_so(table_space: lw.Workspace, start: Start) -> None:
    rules = {**QUIET, "key": "id", "capture": [{"when": "random", "share": 1}], "log": {"is_on": True}}
    table_space.watch("churn", {**rules, "retention": {"days": 1e-9}})
    on = start(table_space)
    row, other = people(2, 78)
    (asked,) = on.ask_rows([row])
    on.flush()
    assert table_space.captured(asked["id"]).content["age"] == row["age"]
    assert table_space.purge("churn")["rows"] == 1
    with pytest.raises(NotFound) as caught:
        table_space.captured(asked["id"])
    assert re.fullmatch(r"it was kept until 20\d\d-.* UTC, then removed by retention", caught.value.hint)
    path = asked["id"].replace("churn/", "")
    told = on.client.get(f"/api/deployments/churn/watch/inbox/{path}")
    assert (told.status_code, "removed by retention" in told.text) == (404, True)
    with pytest.raises(NotFound, match="does not exist") as unknown:
        table_space.captured("churn/1/" + "0" * 64)
    assert "no rule chose it" in unknown.value.hint
    done = table_space.truth("churn", {row["id"]: "yes"})
    assert (done["known"], done["labeled"]) == (1, 0)  # it counts for the accuracy, and labels nothing
    assert "must be here still to be labelled" in done["problems"][0].message
    assert "removed by retention" in done["problems"][0].hint
    on.ask_rows([row, other])
    on.flush()
    assert table_space.captured(asked["id"]).state == "inbox"  # it came again, and is here again
    assert table_space.truth("churn", {row["id"]: "yes"})["labeled"] == 1


def test_private_rules_are_the_default_of_nothing() -> None:
    assert Privacy().keep == "full"
    assert rules.parse({}).capture == (), "nothing is captured unless somebody says so"
