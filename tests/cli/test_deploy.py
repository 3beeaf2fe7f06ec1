"""``loopworks deploy`` and what follows it, as people and scripts call it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.store import bundles, models


@pytest.fixture
def space(tmp_path: Path, colors: Any) -> Iterator[lw.Workspace]:
    """Two models of the same name."""
    with lw.open(tmp_path / "space") as made:
        for weight in (12.0, 24.0):
            bundle = colors.write(tmp_path / f"bundle{weight}", weight=weight)
            with made.home.catalog.begin() as tx:
                key = bundles.save(made.home.blobs, bundle.folder)
                models.add(tx, "colors", bundle=key, run="", version="", task=bundle.task, variant=bundle.chosen)
        yield made


def run(space: lw.Workspace, *words: str, fails: int = 0) -> Any:
    done = CliRunner().invoke(app, [*words, "-w", str(space.folder), "--json"])
    assert done.exit_code == fails, done.output
    return json.loads(done.stdout)


def test_the_command_line_does_what_python_does(space: lw.Workspace) -> None:
    assert run(space, "deploy", "colors:1", "--name", "shop", "--author", "ann")["deployment"]["role"] == "live"
    canary = run(space, "deploy", "colors:2", "--name", "shop", "--canary", "12.5")["deployment"]
    assert (canary["role"], canary["share"], canary["revision"]) == ("canary", 12.5, 2)
    assert [d.to_json() for d in space.in_use("shop")][1] == canary
    assert run(space, "promote", "shop")["deployment"]["revision"] == 2
    assert run(space, "deployments")["deployments"] == [d.to_json() for d in space.deployments()]
    assert run(space, "rollback", "shop", "--author", "eve")["deployment"]["revision"] == 1
    told = run(space, "deployments", "shop")["traffic"]
    assert [(c["action"], c["revision"], c["author"]) for c in told["rollouts"]] == [
        ("rollback", 1, "eve"),
        ("promote", 2, ""),
        ("canary", 2, ""),
        ("deploy", 1, "ann"),
    ]
    assert [row["revision"] for row in told["history"]] == [1, 2]
    assert run(space, "deploy", "colors:2", "--name", "shop", "--shadow")["deployment"]["role"] == "shadow"
    run(space, "undeploy", "shop", "--revision", "3")
    assert [d.revision for d in space.in_use("shop")] == [1]
    run(space, "undeploy", "shop")
    assert space.deployments() == []


def test_people_read_tables(space: lw.Workspace) -> None:
    space.deploy("colors:1", "shop")
    space.deploy("colors:2", "shop", canary=10)
    text = CliRunner().invoke(app, ["deployments", "shop", "-w", str(space.folder)]).output
    assert "canary 10 %" in text
    assert "colors:2" in text


def test_what_cannot_be_is_one_error(space: lw.Workspace) -> None:
    assert run(space, "promote", "shop", fails=2)["error"]["code"] == "not_found"
    space.deploy("colors:1", "shop")
    assert run(space, "rollback", "shop", fails=2)["error"]["code"] == "conflict"
    assert run(space, "deploy", "colors:2", "--name", "shop", "--canary", "100", fails=2)["error"]["code"] == "invalid"
