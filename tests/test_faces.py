"""Public methods of the data stage, and of a workspace on models, have a command and a route; a new one fails here."""

import importlib.util
import inspect
from pathlib import Path

import pytest

from loopworks.data.clean.stage import Clean
from loopworks.data.look import Look
from loopworks.data.stage import Dataset
from loopworks.data.tables.table import Table
from loopworks.data.tables.version import TableVersion
from loopworks.data.version import Version
from loopworks.infer.live.stage import Live
from loopworks.server.app import ROUTES
from loopworks.workspace import Workspace

DATASET = "/api/datasets/{dataset}"
MODEL = "/api/models/{model}"
DEPLOYMENT = "/api/deployments/{deployment}"
WATCH = "/api/deployments/{deployment}/watch"
ELSEWHERE = (
    "aliases answer bundle chain_bundles champion close compared deploy deployment deployments draw "
    "find_version folder in_use info jobs labeling lineage live model models optimize optimize_job predict "
    "asked predict_many result scorer serve_on_ray settings stop_on_ray train train_job used_tokens work"
)
"""Of a workspace: what other tests hold, or what others of its methods stand on."""

FACES: dict[type, dict[str, tuple[str, str]]] = {
    Workspace: {
        "add": ("data add", f"POST {DATASET}/add"),
        "add_token": ("token add", "POST /api/tokens"),
        "alias": ("models alias", f"POST {MODEL}/alias"),
        "add_chain": ("chain add", "POST /api/chains"),
        "chain": ("chain show", "GET /api/chains/{chain}"),
        "chains": ("chain ls", "GET /api/chains"),
        "chain_history": ("chain show", "GET /api/chains/{chain}"),
        "draw_chain": ("chain show", "GET /api/chains/{chain}"),
        "rollback_chain": ("chain rollback", "POST /api/chains/{chain}/rollback"),
        "remove_chain": ("chain rm", "POST /api/chains/{chain}/remove"),
        "edge_key": ("bundle", "GET /api/bundle-key"),
        "pack_edge": ("bundle", "GET /api/bundles/{name}"),
        "board": ("models board", f"GET {MODEL}/board"),
        "card": ("models card", f"GET {MODEL}/card"),
        "compare": ("models compare", "GET /api/compare"),
        "evaluation": ("models card", f"GET {MODEL}/evaluation"),
        "front": ("models front", f"GET {MODEL}/front"),
        "record": ("optimize", f"POST {MODEL}/measured"),
        "explain": ("explain", f"POST {MODEL}/explain"),
        "promote": ("promote", f"POST {DEPLOYMENT}/promote"),
        "recipes": ("train", "GET /api/recipes"),
        "register": ("models add", "POST /api/models"),
        "revoke_token": ("token revoke", "POST /api/tokens/{token}/revoke"),
        "rollback": ("rollback", f"POST {DEPLOYMENT}/rollback"),
        "tokens": ("token list", "GET /api/tokens"),
        "traffic": ("deployments", f"GET {DEPLOYMENT}"),
        "undeploy": ("undeploy", f"POST {DEPLOYMENT}/undeploy"),
        "search": ("train", "POST /api/search"),
        "search_job": ("train", "POST /api/search"),
        "score_files": ("score", "POST /api/score"),
        "score_files_job": ("score", "POST /api/score"),
        "check_job": ("data check", f"POST {DATASET}/check"),
        "dataset": ("data create", "POST /api/datasets"),
        "datasets": ("data ls", "GET /api/datasets"),
        "embed_job": ("data embed", f"POST {DATASET}/embed"),
        "gc": ("data gc", "POST /api/gc"),
        "pull": ("data pull", f"POST {DATASET}/pull"),
        "score": ("data score", f"POST {DATASET}/score"),
        "score_job": ("data score", f"POST {DATASET}/score"),
        "drift": ("watch drift", f"POST {WATCH}/drift"),
        "feedback": ("watch feedback", "POST /api/feedback"),
        "captured": ("watch captured", f"GET {WATCH}/inbox/{{revision}}/{{item}}"),
        "inbox": ("watch inbox", f"GET {WATCH}/inbox"),
        "live_accuracy": ("watch show", f"GET {WATCH}"),
        "purge": ("watch purge", f"POST {WATCH}/purge"),
        "retrain": ("watch retrain", f"POST {WATCH}/retrain"),
        "truth": ("watch truth", f"POST {WATCH}/truth"),
        "unwatch": ("watch stop", f"DELETE {WATCH}"),
        "watch": ("watch set", f"POST {WATCH}"),
        "watches": ("watch ls", "GET /api/watches"),
        "watch_events": ("watch events", f"GET {WATCH}/events"),
        "watch_rules": ("watch show", f"GET {WATCH}"),
        "watched": ("watch show", f"GET {WATCH}"),
        "version": ("data version", f"GET {DATASET}/versions/{{version}}"),
    },
    Dataset: {
        "add": ("data add", f"POST {DATASET}/add"),
        "add_classes": ("label classes", f"POST {DATASET}/classes"),
        "assign": ("data assign", f"POST {DATASET}/assign"),
        "branch": ("data branch", f"POST {DATASET}/branch"),
        "clear_labels": ("label clear", f"POST {DATASET}/clear-labels"),
        "counts": ("data ls", f"GET {DATASET}"),
        "delete": ("data delete", f"POST {DATASET}/delete"),
        "describe": ("data describe", f"POST {DATASET}/describe"),
        "embed": ("data embed", f"POST {DATASET}/embed"),
        "erase": ("data erase", f"POST {DATASET}/erase"),
        "export": ("data export", f"GET {DATASET}/export"),
        "find": ("data find", f"GET {DATASET}/items"),
        "freeze": ("data freeze", f"POST {DATASET}/freeze"),
        "history": ("label history", f"GET {DATASET}/items/{{item}}/history"),
        "ids": ("data find", f"GET {DATASET}/items"),
        "item": ("data show", f"GET {DATASET}/items/{{item}}"),
        "items": ("data ls", f"GET {DATASET}/items"),
        "label": ("label set", f"POST {DATASET}/labels"),
        "map": ("data map", f"GET {DATASET}/map"),
        "merge": ("data merge", f"POST {DATASET}/merge"),
        "operations": ("data operations", f"GET {DATASET}/operations"),
        "push": ("data push", f"POST {DATASET}/push"),
        "read": ("data export", f"GET {DATASET}/items/{{item}}/image"),
        "restore": ("data restore", f"POST {DATASET}/restore"),
        "schema": ("label classes", f"GET {DATASET}/classes"),
        "similar": ("data similar", f"GET {DATASET}/similar"),
        "split": ("data split", f"POST {DATASET}/split"),
        "split_figures": ("data split", f"GET {DATASET}/split"),
        "tag": ("data tag", f"POST {DATASET}/tags"),
        "tag_items": ("data tag-items", f"POST {DATASET}/tag-items"),
        "tags": ("data tags", f"GET {DATASET}/tags"),
        "to_json": ("data ls", f"GET {DATASET}"),
        "undo": ("data undo", f"POST {DATASET}/undo"),
        "untag": ("data untag-items", f"POST {DATASET}/untag-items"),
        "verify": ("data show", f"GET {DATASET}/items/{{item}}"),
        "version": ("data version", f"GET {DATASET}/versions/{{version}}"),
        "versions": ("data versions", f"GET {DATASET}/versions"),
    },
    Clean: {
        "check": ("data check", f"POST {DATASET}/check"),
        "finding": ("data findings", f"GET {DATASET}/findings/{{finding}}"),
        "findings": ("data findings", f"GET {DATASET}/findings"),
        "fix": ("data fix", f"POST {DATASET}/findings/{{finding}}/fix"),
        "ignore": ("data ignore", f"POST {DATASET}/findings/{{finding}}/ignore"),
        "page": ("data findings", f"GET {DATASET}/findings"),
        "report": ("data findings", f"GET {DATASET}/findings"),
    },
    Look: {
        "count": ("data count", f"GET {DATASET}/count"),
        "figures": ("data count", f"GET {DATASET}/count"),
        "find": ("data find", f"GET {DATASET}/items"),
        "ids": ("data find", f"GET {DATASET}/items"),
        "remove_view": ("data remove-view", f"DELETE {DATASET}/views/{{view}}"),
        "save_view": ("data save-view", f"POST {DATASET}/views"),
        "scored": ("data scored", f"GET {DATASET}/scored"),
        "search": ("data search", f"GET {DATASET}/search"),
        "views": ("data views", f"GET {DATASET}/views"),
    },
    Table: {
        "add": ("data table add", f"POST {DATASET}/table/add"),
        "choose": ("data table choose", f"POST {DATASET}/table/choose"),
        "counts": ("data ls", f"GET {DATASET}"),
        "delete": ("data table delete", f"POST {DATASET}/table/delete"),
        "diff": ("data table diff", f"GET {DATASET}/table/diff"),
        "export": ("data table export", f"POST {DATASET}/table/export"),
        "find": ("data table rows", f"GET {DATASET}/table/rows"),
        "freeze": ("data table freeze", f"POST {DATASET}/table/freeze"),
        "page": ("data table rows", f"GET {DATASET}/table/rows"),
        "profile": ("data table profile", f"GET {DATASET}/table/profile"),
        "schema": ("data table schema", f"GET {DATASET}/table/schema"),
        "split": ("data table split", f"POST {DATASET}/table/split"),
        "states": ("data table states", f"GET {DATASET}/table/states"),
        "undo": ("data table undo", f"POST {DATASET}/table/undo"),
        "versions": ("data versions", f"GET {DATASET}/versions"),
    },
    Live: {
        "add": ("live add", "POST /api/live"),
        "list": ("live list", "GET /api/live"),
        "remove": ("live remove", "DELETE /api/live/{name}"),
        "run": ("live run", "POST /api/live/{name}/start"),
        "start": ("live start", "POST /api/live/{name}/start"),
        "status": ("live status", "GET /api/live/{name}"),
        "stop": ("live stop", "POST /api/live/{name}/stop"),
    },
    Version: {
        "authors": ("data version", f"GET {DATASET}/versions/{{version}}"),
        "diff": ("data diff", f"GET {DATASET}/diff"),
        "export": ("data export", f"GET {DATASET}/export"),
        "facts": ("data version-items", f"GET {DATASET}/versions/{{version}}/items/{{item}}"),
        "rows": ("data version-items", f"GET {DATASET}/versions/{{version}}/items"),
        "to_json": ("data version", f"GET {DATASET}/versions/{{version}}"),
    },
}
FACES[TableVersion] = FACES[Version]
PYTHON: dict[type, dict[str, str]] = {
    Workspace: dict.fromkeys(ELSEWHERE.split(), "another test's"),
    Dataset: {
        "clean": "hands out Clean",
        "comparable": "asks for `embed` and `similar`",
        "id": "in no face: the name is the id there",
        "is_table": "told by the task",
        "look": "hands out Look",
        "name": "asked by",
        "node": "for lineage",
        "table": "hands out Table",
        "task": "in to_json",
    },
    Clean: {},
    Live: dict.fromkeys(["begin", "claim", "kept", "names", "running", "tell"], "for whoever runs pipelines"),
    Look: {"keep": "what `score` does with a model's answers", "said": "asked by the label stage"},
    Table: dict.fromkeys(
        ["commit", "dataset", "home", "live", "name", "rows", "scan", "task"], "for the modules beside it"
    ),
    Version: {
        "inputs": "arrays in memory",
        "pixels": "an array in memory",
        "targets": "an array in memory",
        "node": "for lineage",
        "schema": "in to_json",
        "task": "in to_json",
        **dict.fromkeys(
            [
                "author",
                "counts",
                "created_at",
                "id",
                "is_by_reference",
                "message",
                "number",
                "parent",
                "problems",
                "schema",
                "task",
            ],
            "in to_json",
        ),
    },
}
PYTHON[TableVersion] = {
    **PYTHON[Version],
    **dict.fromkeys(["cells", "columns", "manifest", "source", "tables"], "Arrow in memory, and what is read by"),
}


def public(kind: type) -> set[str]:
    return {
        name
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
    }


def commands() -> set[str]:
    spec = importlib.util.spec_from_file_location("docs_commands", Path(__file__).parents[1] / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {" ".join(path) for path, _ in module.command_tree()}


@pytest.mark.parametrize("kind", FACES, ids=lambda kind: kind.__name__)
def test_every_public_method_has_a_command_and_a_route(kind: type) -> None:
    listed, alone = set(FACES[kind]), set(PYTHON[kind])
    assert public(kind) - listed - alone == set(), "give these a command and a route, and list them in this file"
    assert (listed | alone) - public(kind) == set(), "these are listed and do not exist"
    assert listed & alone == set()


def test_the_commands_and_routes_that_are_listed_exist() -> None:
    words, paths = commands(), {f"{api.method} {api.path}" for api in ROUTES}
    pairs = [pair for kind in FACES for pair in FACES[kind].values()]
    assert {command for command, _ in pairs} - words == set()
    assert {route for _, route in pairs} - paths == set()


def test_every_command_and_route_of_the_stage_is_some_methods() -> None:
    pairs = [pair for kind in FACES for pair in FACES[kind].values()]
    mine = {command for command in commands() if command.startswith("data ")}
    assert mine - {command for command, _ in pairs} == {"data formats"}  # of no dataset
    here = {f"{api.method} {api.path}" for api in ROUTES if api.path.startswith(DATASET)}
    others = {f"POST {DATASET}/similar", f"POST {DATASET}/add-paths", f"GET {DATASET}/next", f"GET {DATASET}/events"}
    assert here - {route for _, route in pairs} - others == set()
