"""Runs and registered models in MLflow."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from loopworks.core.errors import Invalid, NotFound
from loopworks.store.runs import Runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(place: Path) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        real = socket.socket.connect

        def refuse(self: socket.socket, address: object) -> None:
            assert self.family == socket.AF_UNIX, f"nothing may be called; got {address}"
            real(self, address)  # type: ignore[arg-type]

        patch.setattr(socket.socket, "connect", refuse)
        yield Runs(f"sqlite:///{place / 'mlflow.db'}", (place / "files").as_uri())


def test_a_run_keeps_params_curve_and_status(runs: Runs) -> None:
    run = runs.start("litter", "first", {"rate": 0.01, "wide": {"a": [1]}, "long": "x" * 9000}, {"job": "7"})
    for step in range(5):
        runs.metric(run, "val_accuracy", step, step / 10)
    runs.end(run, "done")
    assert runs.curve(run, "val_accuracy") == [(step, step / 10) for step in range(5)]
    kept = runs._client.get_run(run)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["rate"] == "0.01"
    assert kept.data.params["wide"] == '{"a": [1]}'
    assert len(kept.data.params["long"]) == 6000
    assert kept.data.tags["job"] == "7"


def test_points_wait_until_they_are_flushed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.start("litter", "batched")
    written: list[int] = []
    real = runs._client.log_batch

    def log_batch(run: str, metrics: Sequence[Any] = (), **more: Any) -> None:
        written.append(len(metrics))
        real(run, metrics, **more)

    monkeypatch.setattr(runs._client, "log_batch", log_batch)
    runs.flush()
    for step in range(450):
        runs._flushed = float("inf")
        runs.metric(run, "loss", step, 1.0)
    runs.end(run, "failed")
    assert written == [200, 200, 50]
    assert runs._client.get_run(run).info.status == "FAILED"


def test_artifacts_lie_under_the_given_folder(runs: Runs, place: Path) -> None:
    run = runs.start("litter", "with files")
    (place / "one.txt").write_text("1", encoding="utf-8")
    folder = place / "plots"
    folder.mkdir()
    (folder / "two.txt").write_text("2", encoding="utf-8")
    runs.artifact(run, place / "one.txt")
    runs.artifact(run, folder)
    found = sorted(path.name for path in (place / "files" / "litter" / run).rglob("*.txt"))
    assert found == ["one.txt", "two.txt"]
    with pytest.raises(NotFound):
        runs.artifact(run, place / "nothing.txt")


def test_models_are_numbered_and_aliases_move(runs: Runs) -> None:
    run = runs.start("litter", "to register")
    assert runs.register("litter", run, "bundles/abc", {"version": "v1"}) == 1
    assert runs.register("litter", run, "bundles/def") == 2
    assert runs.alias("litter", "champion") is None
    runs.set_alias("litter", "champion", 1)
    runs.set_alias("litter", "champion", 2)
    assert runs.alias("litter", "champion") == 2
    first, second = runs.get("litter", 1), runs.get("litter", 2)
    assert (first.source, dict(first.tags), first.aliases) == ("bundles/abc", {"version": "v1"}, ())
    assert (second.run, second.aliases) == (run, ("champion",))
    assert second.to_json()["number"] == 2


def test_an_alias_follows_the_version_that_a_run_made(runs: Runs) -> None:
    first, second = runs.start("mirror", "a"), runs.start("mirror", "b")
    runs.register("mirrored", first, "loopworks-bundle:a")
    runs.register("mirrored", second, "loopworks-bundle:b")
    runs.mirror("mirrored", "champion", second)
    assert runs.alias("mirrored", "champion") == 2
    runs.mirror("mirrored", "champion", first)
    assert runs.alias("mirrored", "champion") == 1
    runs.mirror("mirrored", "champion", "")
    assert runs.alias("mirrored", "champion") is None, "a model that MLflow does not know took the alias"
    runs.mirror("never registered", "champion", "")
    assert runs.alias("never registered", "champion") is None


def test_a_second_process_of_the_same_database_sees_the_runs(runs: Runs, place: Path) -> None:
    run = runs.start("shared", "one")
    runs.metric(run, "loss", 1, 0.5)
    runs.end(run)
    again = Runs(f"sqlite:///{place / 'mlflow.db'}")
    assert again.curve(run, "loss") == [(1, 0.5)]
    assert again.start("shared", "two") != run


def test_what_does_not_exist_is_not_found(runs: Runs) -> None:
    with pytest.raises(NotFound):
        runs.get("litter", 99)
    with pytest.raises(NotFound):
        runs.set_alias("nobody", "champion", 1)
    with pytest.raises(NotFound):
        runs.end("0" * 32)


def test_a_bad_address_or_status_is_refused(runs: Runs) -> None:
    with pytest.raises(Invalid, match="sqlite:///"):
        Runs("mysql://somewhere/x")
    with pytest.raises(Invalid, match="done, failed or cancelled"):
        runs.end("0" * 32, "finished")  # type: ignore[arg-type]


def test_usage_reports_are_off(runs: Runs) -> None:
    import mlflow.telemetry
    from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY

    assert MLFLOW_DISABLE_TELEMETRY.get() is True  # type: ignore[no-untyped-call]
    assert mlflow.telemetry.get_telemetry_client() is None
