"""Lines to paste: each of them is run as it stands."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.server.run import ServerThread

PATIENCE_S = 60.0
COMMANDS = {
    "curl": ["bash", "snippet"],
    "python": [sys.executable, "-W", "error", "snippet"],
    "tritonclient": [sys.executable, "snippet"],
    "tritonclient-grpc": [sys.executable, "snippet"],
    "javascript": ["node", "--input-type=module", "-e", ""],
}


def get(server: ServerThread, name: str, token: str = "") -> dict[str, str]:
    import httpx2 as httpx

    head = {"authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"{server.url}/api/snippets/{name}", headers=head)
    found: dict[str, str] = answer.json()["snippets"]
    return found


def run(language: str, text: str, folder: Path, token: str = "") -> str:
    import shutil

    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (folder / "snippet").write_text(text, encoding="utf-8")
    if language == "javascript":
        command = [*command[:-1], text]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LOOPWORKS_TOKEN": token},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def server(space: lw.Workspace, photo: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import io

    settings = space.settings.model_copy(update={"token": "secret"})
    monkeypatch.setattr(type(space), "settings", property(lambda self: settings))
    with Image.open(io.BytesIO(photo("green"))) as picture:
        picture.save(tmp_path / "photo.jpg", quality=95)
    with ServerThread(space, grpc=True) as running:
        yield running


@pytest.mark.parametrize("language", ["curl", "python", "javascript"])
def test_a_snippet_for_people_runs_as_it_stands(server: ServerThread, tmp_path: Path, language: str) -> None:
    text = get(server, "colors", "secret")[language]
    assert "secret" not in text
    assert "green" in run(language, text, tmp_path, "secret")


def test_the_protocols_snippets_run_as_they_stand(server: ServerThread, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.http")
    found = get(server, "colors", "secret")
    for language in ("tritonclient", "tritonclient-grpc"):
        said = run(language, found[language], tmp_path, "secret").replace("[", "").replace("]", "").split()
        assert max(range(3), key=lambda i: float(said[i])) == 1  # noqa: B023 - called at once


def test_without_a_token_or_grpc_none_is_spoken_of(client: TestClient) -> None:
    found = client.get("/api/snippets/colors").json()["snippets"]
    assert set(found) == {"curl", "python", "javascript", "tritonclient"}
    assert not any("TOKEN" in text for text in found.values())
    assert "http://127.0.0.1/predict/colors" in found["curl"]
    assert client.get("/api/snippets/other").status_code == 404


def test_a_host_name_that_is_none_does_not_get_into_a_program(space: lw.Workspace) -> None:
    from starlette.requests import Request

    from loopworks.server.routes import snippets
    from loopworks.server.serving import Serving

    serving = Serving(space)
    try:
        app = type("App", (), {"state": type("State", (), {"serving": serving})})
        scope = {
            "type": "http",
            "scheme": "http",
            "headers": [(b"host", b'x"; rm -rf "')],
            "path_params": {"deployment": "colors"},
            "app": app,
        }
        text = bytes(snippets.write(Request(scope)).body).decode()
    finally:
        serving.close()
    assert "rm -rf" not in text
    assert "http://127.0.0.1:8700/predict/colors" in text
