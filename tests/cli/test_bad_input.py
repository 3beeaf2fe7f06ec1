"""Every kind of bad input through the command line: one sentence, a hint, the right exit code, never a traceback."""

import json
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import loopworks as lw
from loopworks.cli.main import app

Pictures = Callable[..., Path]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--json"])


def refused(result: Result, exit_code: int, code: str) -> dict[str, str]:
    """The error of a command that must have failed so."""
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    error: dict[str, str] = json.loads(result.stdout)["error"]
    assert error["code"] == code
    assert f"error[{code}]: " in result.stderr
    return error


@pytest.fixture
def space(tmp_path: Path) -> str:
    with lw.open(tmp_path / "space") as made:
        return str(made.folder)


def add(space: str, source: Path, *more: str) -> Result:
    return run("data", "add", "d", str(source), "-w", space, *more)


def test_a_missing_folder(space: str, tmp_path: Path) -> None:
    error = refused(add(space, tmp_path / "nope"), 2, "not_found")
    assert "nope" in error["message"]


def test_an_empty_folder(space: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = refused(add(space, tmp_path / "empty"), 2, "invalid")
    assert "images" in error["message"]


def test_bad_files_are_listed_and_good_ones_kept(space: str, tmp_path: Path, pictures: Pictures) -> None:
    folder = pictures(tmp_path / "photos", {"a": 3, "b": 3})
    whole = (folder / "a" / "000.png").read_bytes()
    (folder / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "a" / "text.jpg").write_text("hello", encoding="utf-8")
    (folder / "b" / "empty.png").write_bytes(b"")
    (folder / "b" / "bomb.png").write_bytes(png_header(60_000, 60_000))
    result = add(space, folder)
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert report["added"] == 6
    assert {Path(p["where"]).name for p in report["problems"]} == {"cut.png", "text.jpg", "empty.png", "bomb.png"}
    assert all(p["message"] and p["error"] == "invalid" for p in report["problems"])
    assert "100000000 pixels" in next(p["message"] for p in report["problems"] if "bomb" in p["where"])


def png_header(width: int, height: int) -> bytes:
    """A file that says it is a PNG of this size, and holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_nothing_readable_at_all_is_a_failure(space: str, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_text("no image", encoding="utf-8")
    result = add(space, tmp_path / "bad")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["problems"]) == 1


def test_classes_that_differ_in_case(space: str, tmp_path: Path, pictures: Pictures) -> None:
    error = refused(add(space, pictures(tmp_path / "p", {"Glass": 2, "glass": 2})), 2, "invalid")
    assert "Glass" in error["message"]
    assert "glass" in error["message"]
    refused(run("data", "ls", "d", "-w", space), 2, "not_found")  # nothing was made


def test_one_class_can_be_added_and_not_frozen(space: str, tmp_path: Path, pictures: Pictures) -> None:
    assert add(space, pictures(tmp_path / "p", {"a": 4}), "--labels", "folders").exit_code == 0
    error = refused(run("data", "freeze", "d", "-w", space), 2, "invalid")
    assert "two classes" in error["message"]


def test_a_class_with_one_image_is_frozen_with_a_warning(space: str, tmp_path: Path, pictures: Pictures) -> None:
    assert add(space, pictures(tmp_path / "p", {"a": 6, "b": 1})).exit_code == 0
    result = run("data", "freeze", "d", "-w", space)
    assert result.exit_code == 0
    assert any("'b'" in p["message"] or "b" in p["where"] for p in json.loads(result.stdout)["problems"])


def test_a_path_with_dots_means_what_it_says(space: str, tmp_path: Path, pictures: Pictures) -> None:
    pictures(tmp_path / "p", {"a": 2, "b": 2})
    assert add(space, tmp_path / "p" / "a" / ".." / ".." / "p").exit_code == 0
    names = [item["name"] for item in json.loads(run("data", "ls", "d", "-w", space).stdout)["items"]]
    assert len(names) == 4
    assert not any(".." in name for name in names)


def test_a_loop_of_links(space: str, tmp_path: Path, pictures: Pictures) -> None:
    folder = pictures(tmp_path / "p", {"a": 2, "b": 2})
    os.symlink(folder, folder / "a" / "again")
    result = add(space, folder)
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["added"] == 4
    assert any("again" in p["where"] for p in report["problems"])


def test_no_disk_space(space: str, tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(fd: int) -> None:
        real(fd)
        raise OSError(28, "No space left on device")

    folder = pictures(tmp_path / "p", {"a": 2, "b": 2})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(add(space, folder), 1, "no_space")
    assert add(space, folder).exit_code == 0
    assert len(json.loads(run("data", "ls", "d", "-w", space).stdout)["items"]) == 4


def test_a_workspace_of_a_newer_version(space: str) -> None:
    with sqlite3.connect(Path(space) / "catalog.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    error = refused(run("data", "ls", "-w", space), 1, "too_new")
    assert error["hint"]


def test_a_locked_database(space: str, tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "p", {"a": 2, "b": 2})
    assert add(space, folder).exit_code == 0
    monkeypatch.setenv("LOOPWORKS_BUSY_TIMEOUT_S", "0.2")
    other = sqlite3.connect(Path(space) / "catalog.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        error = refused(run("label", "set", "d", "a/000.png", "b", "-w", space), 1, "busy")
        assert error["hint"]
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert run("label", "set", "d", "a/000.png", "b", "-w", space).exit_code == 0


def test_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    error = refused(run("data", "ls", "-w", str(tmp_path)), 2, "not_found")
    assert "loopworks init" in error["hint"]


def test_a_wrong_setting_names_the_variable(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWORKS_PORT", "seventy")
    error = refused(run("data", "ls", "-w", space), 2, "invalid")
    assert "LOOPWORKS_PORT" in error["message"]


def test_a_fault_of_ours_is_one_sentence_with_a_way_on(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(lw.Workspace, "datasets", broken)
    error = refused(run("data", "ls", "-w", space), 1, "internal")
    assert "ZeroDivisionError" in error["message"]
    assert "--debug" in error["hint"]


def test_a_turned_transparent_picture_is_no_problem(space: str, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    Image.new("RGBA", (5, 9), (1, 2, 3, 0)).save(tmp_path / "p" / "clear.png")
    assert json.loads(add(space, tmp_path / "p").stdout)["added"] == 1
