"""Workspace folders: made whole or not at all, opened, refused with the reason."""

import errno
import tomllib
from pathlib import Path

import pytest

from loopworks.core.errors import Conflict, Denied, Invalid, NoSpace, NotFound, TooNew
from loopworks.core.settings import Settings
from loopworks.store import home as home_module
from loopworks.store import tables
from loopworks.store.catalog import open_catalog
from loopworks.store.home import create_home, open_home, settings_text


def test_a_new_workspace_has_its_places_and_opens_again(tmp_path: Path) -> None:
    with create_home(tmp_path / "deep" / "city") as home:
        names = {path.name for path in home.folder.iterdir() if not path.name.startswith("catalog.db-")}
        assert names == {"loopworks.toml", ".gitignore", "catalog.db", "blobs", "cache", "jobs", "runs"}
        made = home.id
        key = home.blobs.put_bytes(b"x")
    with open_home(tmp_path / "deep" / "city") as home:
        assert home.id == made
        assert home.blobs.read(key) == b"x"
        assert len(made) == 32


def test_two_workspaces_have_two_ids(tmp_path: Path) -> None:
    with create_home(tmp_path / "a") as a, create_home(tmp_path / "b") as b:
        assert a.id != b.id


def test_the_settings_file_names_every_setting_and_its_default() -> None:
    text = settings_text({})
    assert tomllib.loads(text) == {}
    uncommented = "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line)
    assert Settings.model_validate(tomllib.loads(uncommented)) == Settings()


def test_given_settings_are_written_and_read_back(tmp_path: Path) -> None:
    with create_home(tmp_path / "w", {"port": 0, "seed": 7, "host": 'a"\\b', "token": None}):
        pass
    with open_home(tmp_path / "w") as home:
        assert (home.settings.port, home.settings.seed, home.settings.host) == (0, 7, 'a"\\b')
    with open_home(tmp_path / "w", {"seed": 8}) as home:
        assert home.settings.seed == 8


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(Conflict, match="must be empty to become a workspace"):
        create_home(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_called_like_one_of_ours_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").write_text("x", encoding="utf-8")
    with pytest.raises(Conflict, match="must be empty"):
        create_home(tmp_path)


def test_a_file_called_like_one_of_our_folders_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("x", encoding="utf-8")
    with pytest.raises(Conflict, match="must be empty"):
        create_home(tmp_path)
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "x"


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("x", encoding="utf-8")
    with pytest.raises(Invalid, match="a folder that can be written"):
        create_home(tmp_path / "w")
    assert (tmp_path / "w").read_text(encoding="utf-8") == "x"


def test_an_init_that_was_killed_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    with create_home(tmp_path) as home:
        assert home.id


def test_a_workspace_is_not_made_twice(tmp_path: Path) -> None:
    create_home(tmp_path).close()
    with pytest.raises(Conflict, match="must not be a workspace yet"):
        create_home(tmp_path)


def test_opening_what_is_no_workspace_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        open_home(tmp_path / "nowhere")
    assert "loopworks init" in caught.value.hint
    with open_home(tmp_path / "nowhere", create=True) as home:
        assert home.folder == tmp_path / "nowhere"


def test_a_wrong_setting_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="port"):
        create_home(tmp_path / "w", {"port": -1})
    with pytest.raises(Invalid, match="catalog URL"):
        create_home(tmp_path / "w", {"catalog": "mysql://x/y"})
    assert not (tmp_path / "w").exists()


def test_an_empty_folder_that_could_not_be_used_is_empty_again(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="catalog URL"):
        create_home(tmp_path, {"catalog": "mysql://x/y"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EACCES, Denied), (errno.EROFS, Denied)])
def test_a_folder_that_cannot_be_written_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fail(path: Path, text: str) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(home_module, "_write", fail)
    with pytest.raises(kind):
        create_home(tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_workspace_of_a_newer_layout_is_refused(tmp_path: Path) -> None:
    with create_home(tmp_path) as home, home.catalog.begin() as tx:
        tx.execute(tables.info.update().where(tables.info.c.key == "format").values(value="2"))
    with pytest.raises(TooNew, match="must be of format 1 or older; got 2"):
        open_home(tmp_path)


def test_a_workspace_may_keep_its_catalog_elsewhere(tmp_path: Path, catalog_url: str) -> None:
    with create_home(tmp_path / "w", {"catalog": catalog_url}) as home:
        made = home.id
        assert not (home.folder / "catalog.db").exists()
    catalog = open_catalog(catalog_url, busy_timeout_s=1)
    with catalog.read() as tx:
        assert made in [row.value for row in tx.execute(tables.info.select())]
    catalog.close()


def test_a_workspace_may_keep_its_blobs_in_s3(
    tmp_path: Path, bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    with create_home(tmp_path / "w", {"blobs": f"s3://{bucket}/team"}) as home:
        key = home.blobs.put_bytes(b"far away")
    with open_home(tmp_path / "w") as home:
        assert home.blobs.read(key) == b"far away"
        assert list((home.folder / "blobs").iterdir()) == []
