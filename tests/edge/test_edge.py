"""An edge bundle runs with a runtime, numpy and Pillow alone, and answers as the workspace and the server do."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import loopworks as lw
from loopworks.cli.main import app
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.errors import Conflict, Damaged, Invalid, LoopworksError, NotFound
from loopworks.infer import edge as maker
from loopworks.infer.code import closure
from loopworks.server.app import create_app
from loopworks.store import bundles, models
from loopworks.store.keys import signing_key
from loopworks_edge import __main__ as command
from loopworks_edge import manifest, model
from loopworks_edge.manifest import Manifest

ALONE = Path(__file__).with_name("alone.py")


def register(space: lw.Workspace, bundle: Bundle, name: str) -> str:
    key = bundles.save(space.home.blobs, bundle.folder)
    with space.home.catalog.begin() as tx:
        return models.add(
            tx, name, bundle=key, run="", version=bundle.version, task=bundle.task, variant=bundle.chosen
        ).ref


def unzip(archive: Path, into: Path) -> Path:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(into)
    (folder,) = into.iterdir()
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, kinds: Mapping[str, Any]) -> Iterator[lw.Workspace]:
    """A workspace with a deployment per task kind; ``light`` is a model that is not deployed."""
    with lw.open(tmp_path_factory.mktemp("edge") / "space") as made:
        for task, kind in kinds.items():
            made.deploy(register(made, kind.bundle, task), task)
        register(made, kinds["image-classification"].bundle, "light")
        yield made


@pytest.fixture(scope="module")
def packed(space: lw.Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The edge bundle of the image classifier, to copy."""
    return space.pack_edge("image-classification", tmp_path_factory.mktemp("packed") / "out").path


@pytest.fixture
def bundle(packed: Path, tmp_path: Path) -> Path:
    """The same, for one test alone."""
    return Path(shutil.copytree(packed, tmp_path / "bundle"))


def test_every_task_kind_answers_alone_bit_for_bit_as_the_workspace(
    space: lw.Workspace, kinds: Mapping[str, Any], tmp_path: Path
) -> None:
    folders = []
    for task, kind in kinds.items():
        done = space.pack_edge(task, tmp_path / f"{task}.zip", is_zip=True)
        folder = unzip(done.path, tmp_path / task)
        told = [one.hex() if isinstance(one, bytes) else one for one in kind.contents]
        (folder.parent / "contents.json").write_text(json.dumps(told), encoding="utf-8")
        folders.append(folder)
    words = [sys.executable, str(ALONE), *map(str, folders)]
    environment = {"PYTHONPATH": str(folders[0]), "PATH": ""}
    done_ = subprocess.run(words, cwd=folders[0], env=environment, capture_output=True, text=True, timeout=120)
    assert done_.returncode == 0, done_.stderr
    told = json.loads(done_.stdout)
    site = {"__main__", "_distutils_hack"}  # setuptools has Python load the second before anything else
    assert set(told["loaded"]) - site == {"numpy", "PIL", "onnxruntime", "loopworks", "loopworks_edge"}
    assert told["found"].keys() == kinds.keys()
    for task, kind in kinds.items():
        found = told["found"][task]
        used = space.deployment(task)
        predictor = predictors.load(kind.bundle.variant(used.variant), kind.bundle.folder, kind.bundle.rule, threads=1)
        expected = predictor.predict(kind.bundle.rule.pack(kind.contents))
        assert found["tensors"] == {name: np.ascontiguousarray(one).tobytes().hex() for name, one in expected.items()}
        answers, problems = space.predict_many(task, list(kind.contents))
        assert not problems
        assert found["problems"] == []
        assert [one["id"] for one in found["answers"]] == [one["id"] for one in answers]
        assert found["answers"] == json.loads(json.dumps(answers))
        assert len({json.dumps(one["item"]) for one in answers}) == len(kind.contents)


def test_the_fence_of_that_test_holds(packed: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ALONE.parent)!r}); import alone\n"
        "sys.meta_path.insert(0, alone.Fence())\nimport numpy\nimport pydantic"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "No module named 'pydantic' (fenced)" in done.stderr


def test_only_what_answers_goes_in(packed: Path) -> None:
    assert sorted(path.name for path in (packed / "bundle").iterdir()) == ["bundle.json", "model.onnx"]
    assert {path.name for path in packed.iterdir()} == {
        "LICENSE", "NOTICE.md", "README.md", "bundle", "demo.py", "demo.sh", "loopworks", "loopworks_edge",
        "manifest.json", "manifest.sig", "requirements.txt",
    }  # fmt: skip
    assert not list((packed / "loopworks").glob("store*"))
    assert [line.partition("==")[0] for line in (packed / "requirements.txt").read_text().split()] == [
        "numpy",
        "pillow",
        "onnxruntime",
    ]
    assert "Apache License" in (packed / "LICENSE").read_text()


def test_the_code_needs_nothing_but_the_standard_library_a_runtime_numpy_and_pillow() -> None:
    _, outside = closure(maker.ROOTS, maker.FOLDERS)
    assert outside - sys.stdlib_module_names == {
        "numpy", "PIL", "onnxruntime", "openvino", "orjson", "simplejpeg", "tokenizers"
    }  # fmt: skip


def test_the_same_model_gives_the_same_bytes(space: lw.Workspace, tmp_path: Path) -> None:
    first, second = (
        space.pack_edge("image-classification", tmp_path / name, is_zip=True).path.read_bytes() for name in ("a", "b")
    )
    assert first == second


def test_variants_are_picked_or_all_taken_but_those_outside_the_accuracy_budget(
    space: lw.Workspace, tmp_path: Path
) -> None:
    assert space.pack_edge("light", tmp_path / "a").manifest.variants == ("first",)
    assert space.pack_edge("light:1", tmp_path / "b", variants=None).manifest.variants == ("first", "second")
    done = space.pack_edge("light", tmp_path / "c", variants=["second", "first"])
    assert model.open(done.path).variant() == "second"
    assert model.open(done.path).manifest.ref == "light:1"
    with pytest.raises(Invalid, match="variant must be one inside the accuracy budget; got bad"):
        space.pack_edge("light", tmp_path / "d", variants=["bad"])
    with pytest.raises(NotFound, match="variant 'none' does not exist"):
        space.pack_edge("light", tmp_path / "d", variants=["none"])
    with pytest.raises(NotFound, match="deployment or model 'nobody' does not exist"):
        space.pack_edge("nobody", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_nothing_is_overwritten(space: lw.Workspace, bundle: Path) -> None:
    before = manifest.read(bundle)
    with pytest.raises(Conflict, match="must not exist yet"):
        space.pack_edge("light", bundle)
    with pytest.raises(Invalid, match="folder for the edge bundle must be one that exists"):
        space.pack_edge("light", bundle / "no" / "where")
    assert manifest.verify(bundle) == before
    assert not list(bundle.parent.glob(".edge-*"))


# ---- who made it


def test_the_workspaces_key_is_kept_and_belongs_to_its_owner_alone(space: lw.Workspace, packed: Path) -> None:
    assert space.edge_key() == signing_key(space.folder).public == manifest.verify(packed, space.edge_key()).key
    path = space.folder / "keys" / "bundle.pem"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "bundle.pem").write_text("no key", encoding="utf-8")
    with pytest.raises(Damaged, match="must be a private key in PEM"):
        signing_key(tmp_path)


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: change(folder / "bundle" / "model.onnx"), "bundle/model.onnx must be as it was signed"),
        (
            lambda folder: change(folder / "loopworks" / "core" / "image.py"),
            "loopworks/core/image.py must be as it was",
        ),
        (lambda folder: (folder / "demo.py").unlink(), "demo.py must be there"),
        (lambda folder: (folder / "numpy.py").write_text(""), "signed files alone; got numpy.py"),
        (lambda folder: (folder / "loopworks" / "x.pyc").write_bytes(b""), "got loopworks/x.pyc"),
        (lambda folder: change(folder / "manifest.sig"), "manifest.sig must be|as it was signed"),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace('"number": 1', '"number": 2')
            ),
            "manifest.json must be as it was signed",
        ),
        (lambda folder: (folder / "manifest.sig").write_text("zz"), "manifest.sig must be 128 hex digits"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json must be JSON"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "kind must be given"),
        (lambda folder: (folder / "manifest.sig").unlink(), "does not exist"),
    ],
)
def test_a_changed_bundle_is_refused_by_verify_and_by_predict(
    bundle: Path, harm: Callable[[Path], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(bundle)
    with pytest.raises(LoopworksError, match=words):
        manifest.verify(bundle)
    assert command.main(["predict", "--folder", str(bundle), "x.png"]) in (1, 2)
    assert capsys.readouterr().err.startswith("error[")


def test_a_link_in_place_of_a_file_is_refused(bundle: Path) -> None:
    (bundle / "demo.py").rename(bundle.parent / "demo.py")
    (bundle / "demo.py").symlink_to(bundle.parent / "demo.py")
    with pytest.raises(Damaged, match="demo.py must be a file; got a link"):
        manifest.verify(bundle)


def test_a_bundle_of_another_key_is_refused_when_the_makers_key_is_given(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who changes a file and signs anew must do it with another key."""
    (tmp_path / "other").mkdir()
    other = signing_key(tmp_path / "other")
    was = manifest.read(bundle)
    body = {**was.to_json(), "key": other.public}
    content = (json.dumps(body, indent=2) + "\n").encode()
    (bundle / "manifest.json").write_bytes(content)
    (bundle / "manifest.sig").write_text(other.sign(content).hex())
    assert manifest.verify(bundle).key == other.public
    with pytest.raises(Damaged, match="must be signed by key"):
        manifest.verify(bundle, was.key)
    assert command.main(["verify", "--folder", str(bundle), "--key", was.key]) == 1
    capsys.readouterr()
    assert command.main(["verify", "--folder", str(bundle)]) == 0
    assert "compare the key with the maker's" in capsys.readouterr().out


def test_a_manifest_may_not_name_files_outside(bundle: Path) -> None:
    body = manifest.read(bundle).to_json()
    body["sha256"]["../secret"] = "0" * 64
    (bundle / "manifest.json").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(Invalid, match="sha256 must be relative paths inside the bundle"):
        manifest.read(bundle)


# ---- the command line


def test_predict_says_what_loopworks_predict_says(
    space: lw.Workspace, kinds: Mapping[str, Any], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for place, content in enumerate(kinds["image-classification"].contents):
        (path := tmp_path / f"{place}.png").write_bytes(content)
        files.append(str(path))
    (broken := tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    files.append(str(broken))
    assert command.main(["predict", "--folder", str(bundle), "--json", *files]) == 3
    told = json.loads(capsys.readouterr().out)
    said = CliRunner().invoke(app, ["predict", "image-classification", *files, "-w", str(space.folder), "--json"])
    assert told == json.loads(said.stdout)
    assert [problem["where"] for problem in told["problems"]] == [str(broken)]
    assert command.main(["predict", "--folder", str(bundle)]) == 2


def test_rows_of_a_csv_file_are_read_as_the_workspace_reads_them(
    space: lw.Workspace, kinds: Mapping[str, Any], tmp_path: Path
) -> None:
    done = space.pack_edge("tabular-classification", tmp_path / "rows")
    (path := tmp_path / "rows.csv").write_text(
        'age,city,at\n31,Bern,2024-05-31T13:45:00\n,"Oslo, N",\n7.5,Rome\n7.5,Rome,1999-01-01T00:00:00\n', "utf-8"
    )
    edge = model.open(done.path)
    answers, problems = edge.predict(edge.load(), [path])
    expected, known = space.predict_many("tabular-classification", [path])
    assert [{**one, "name": ""} for one in answers] == [{**one, "name": ""} for one in expected]
    assert len(problems) == len(known) == 1
    assert problems[0].message == f"{path} line 4 must be 3 cells, as the header; got 2"


def test_bench_measures_every_variant_in_the_shared_form(
    space: lw.Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = space.pack_edge("light", tmp_path / "light", variants=None)
    out = tmp_path / "bench.json"
    assert (
        command.main(["bench", "--folder", str(done.path), "--seconds", "0.01", "--rounds", "1", "--out", str(out)])
        == 0
    )
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["format"], found["kind"], found["model"]) == (1, "loopworks-bench", {"name": "light", "number": 1})
    assert found["host"].keys() == {"name", "cpu", "cores", "memory_mb", "os", "python", "runtimes"}
    assert [one["name"] for one in found["variants"]] == ["first", "second"]
    for one in found["variants"]:
        assert 0 < one["latency_ms"]["p50"] <= one["latency_ms"]["p99"]
        assert one["throughput_per_s"] > 0
        assert one["batch"] in (1, 2, 4, 8, 16, 32)
        assert 0 < one["start_s"] < 60
        assert 20 < one["memory_mb"] < 2000
        assert one["size_bytes"] == (done.path / "bundle" / "model.onnx").stat().st_size


def test_the_demonstration_runs(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "demo.py"], cwd=bundle, env={"PATH": ""}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "the answers over HTTP are the same, bit for bit" in done.stdout
    assert manifest.verify(bundle)  # running it has not made it another one


# ---- making it by command and route


def test_command_and_route_give_the_same_bundle(space: lw.Workspace, tmp_path: Path) -> None:
    words = ["bundle", "light", "--all-variants", "--zip", "--out", str(tmp_path / "a.zip"), "-w", str(space.folder)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["bundle"]
    assert told["variants"] == ["first", "second"]
    assert told["key"] == space.edge_key()
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        reply = client.get("/api/bundles/light", params={"variants": "all"})
        assert reply.headers["x-loopworks-key"] == client.get("/api/bundle-key").json()["key"] == space.edge_key()
        assert client.get("/api/bundles/nobody").status_code == 404
    assert reply.content == (tmp_path / "a.zip").read_bytes()
    assert not list((space.home.cache / "exports").glob("*.zip"))
    assert CliRunner().invoke(app, ["bundle", "--key", "-w", str(space.folder)]).output.strip() == space.edge_key()
    assert CliRunner().invoke(app, ["bundle", "-w", str(space.folder)]).exit_code == 2


def test_a_model_on_tokens_brings_its_tokenizer_and_says_what_it_needs(
    kinds: Mapping[str, Any], tmp_path: Path
) -> None:
    from dataclasses import replace

    from loopworks.core.text import TokenRule

    was = kinds["text-classification"].bundle
    folder = Path(shutil.copytree(was.folder, tmp_path / "tokens"))
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tmp_path / "home").mkdir()
    key = signing_key(tmp_path / "home")
    about = Manifest(
        name="t", revision=1, model="t", number=1, variants=("first",), max_pixels=1, loopworks="", key=key.public
    )
    done = maker.write(
        replace(was, rule=TokenRule(), folder=folder), about, tmp_path / "out", key.sign, extra=lambda *_: {}
    )
    assert (done.path / "bundle" / "tokenizer.json").is_file()
    assert "tokenizers==" in (done.path / "requirements.txt").read_text()
