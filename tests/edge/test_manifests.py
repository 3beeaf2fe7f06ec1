"""The container file runs as nobody, pinned; KServe's schema takes the manifest."""

import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core.errors import Invalid
from loopworks.infer import manifests
from loopworks.store import bundles, models
from loopworks_edge import __main__ as command
from loopworks_edge import manifest

SCHEMA = json.loads(Path(__file__).with_name("kserve.schema.json").read_text(encoding="utf-8"))
TASK = "image-classification"


@pytest.fixture
def space(tmp_path: Path, kinds: Mapping[str, Any]) -> Iterator[lw.Workspace]:
    with lw.open(tmp_path / "space") as made:
        key = bundles.save(made.home.blobs, kinds[TASK].bundle.folder)
        with made.home.catalog.begin() as tx:
            models.add(tx, "Street_Light", bundle=key, run="", version="0" * 64, task=TASK, variant="first")
        yield made


def test_the_command_adds_both_signed_with_the_rest(space: lw.Workspace, tmp_path: Path) -> None:
    words = ["bundle", "Street_Light", "--kserve", "--image", "registry.example.org/team/light:7"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "-w", str(space.folder)])
    assert done.exit_code == 0, done.output
    found = manifest.verify(tmp_path / "out")
    assert {"Containerfile", ".containerignore", "kserve.yaml"} <= found.sha256.keys()
    body = yaml.safe_load((tmp_path / "out" / "kserve.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(body, SCHEMA, jsonschema.Draft202012Validator)
    (container,) = body["spec"]["predictor"]["containers"]
    assert body["metadata"]["name"] == "street-light"
    assert container["image"] == "registry.example.org/team/light:7"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/Street_Light/ready"
    assert container["securityContext"]["runAsNonRoot"] is True
    text = (tmp_path / "out" / "Containerfile").read_text(encoding="utf-8")
    assert f"FROM docker.io/library/python:{platform.python_version()}-slim" in text
    assert f'verify", "--key", "{space.edge_key()}"' in text
    words_of = {name: json.loads(value) for name, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.M)}
    assert text.index("USER 10001:10001") < text.index("ENTRYPOINT")
    assert json.loads(re.findall(r"^  CMD (\[.*\])$", text, re.M)[0])[0] == "python"
    assert compile(json.loads(re.findall(r"^  CMD (\[.*\])$", text, re.M)[0])[2], "healthcheck", "exec")
    for arguments in (words_of["CMD"], container["args"]):
        asked = command._parser().parse_args([*words_of["ENTRYPOINT"][3:], *arguments])
        assert (asked.host, asked.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
        assert asked.open or asked.token_file
    assert all("==" in line for line in (tmp_path / "out" / "requirements.txt").read_text().splitlines())


def test_a_container_file_alone_brings_no_manifest(space: lw.Workspace, tmp_path: Path) -> None:
    done = space.pack_edge("Street_Light", tmp_path / "out", container=True)
    assert (done.path / "Containerfile").is_file()
    assert not (done.path / "kserve.yaml").exists()


@pytest.mark.parametrize("image", ["Big/Name", "a b", "x;rm", "-a", "a:"])
def test_what_is_no_image_is_refused(space: lw.Workspace, tmp_path: Path, image: str) -> None:
    with pytest.raises(Invalid, match="image must be a name such as"):
        space.pack_edge("Street_Light", tmp_path / "out", kserve=True, image=image)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda body: body.update(apiVersion="v1"),
        lambda body: body["spec"]["predictor"].update(replicas=1),
        lambda body: body["spec"]["predictor"]["containers"][0].update(port=1),
        lambda body: body["spec"]["predictor"]["containers"][0]["resources"]["limits"].update(memory="2 GB"),
        lambda body: body["spec"]["predictor"]["containers"][0]["ports"][0].update(containerPort="8080"),
        lambda body: body["metadata"].update(name="Street_Light"),
    ],
)
def test_the_schema_sees_a_wrong_manifest(
    space: lw.Workspace, tmp_path: Path, harm: Callable[[dict[str, Any]], object]
) -> None:
    done = space.pack_edge("Street_Light", tmp_path / "out", kserve=True)
    body = yaml.safe_load((done.path / "kserve.yaml").read_text(encoding="utf-8"))
    harm(body)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("name", "label"), [("litter", "litter"), ("A_b", "a-b"), ("9", "model-9"), ("_", "model"), ("x" * 64, "x" * 50)]
)
def test_every_name_has_a_label(name: str, label: str) -> None:
    assert manifests._label(name) == label


def test_a_token_file_that_is_not_there_is_told(
    space: lw.Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = space.pack_edge("Street_Light", tmp_path / "out")
    assert command.main(["serve", "--folder", str(done.path), "--token-file", str(tmp_path / "none")]) == 2
    assert "error[not_found]" in capsys.readouterr().err
