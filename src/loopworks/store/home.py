"""The opened storage of a workspace folder: settings, catalog and blobs."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from loopworks.core import lettering
from loopworks.core import settings as core_settings
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.settings import Settings
from loopworks.store import info
from loopworks.store.blobs import BlobStore, LocalBlobs, open_blobs, write_error
from loopworks.store.catalog import Catalog, open_catalog

log = logging.getLogger(__name__)

FOLDERS = ("blobs", "cache", "jobs", "runs")
GITIGNORE = "# All of it but loopworks.toml: large, or made anew.\n/*\n!/.gitignore\n!/loopworks.toml\n"


class Home:
    """Everything of one workspace that lies on disk or behind a URL. Close it, or use it as a context manager."""

    def __init__(self, folder: Path, settings: Settings, catalog: Catalog, blobs: BlobStore) -> None:
        """Hold what ``open_home`` opened."""
        self.folder = folder
        self.settings = settings
        self.catalog = catalog
        self.blobs = blobs

    @property
    def cache(self) -> Path:
        """Folder of what can be made again; may be emptied at any time."""
        return self.folder / "cache"

    @property
    def jobs(self) -> Path:
        """Folder of the job queue."""
        return self.folder / "jobs"

    @property
    def runs(self) -> Path:
        """Folder of training runs."""
        return self.folder / "runs"

    @property
    def id(self) -> str:
        """Id of the workspace, made with its catalog."""
        with self.catalog.read() as tx:
            return info.get(tx, "workspace")

    def close(self) -> None:
        """Close database and blobs; calling it twice is harmless."""
        self.catalog.close()
        self.blobs.close()

    def __enter__(self) -> Self:
        """Leaving the block closes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def create_home(folder: Path, flags: Mapping[str, Any] | None = None) -> Home:
    """Make a workspace in ``folder``, which must be empty or not there yet, and open it.

    Args:
        folder: where; parents are made too.
        flags: settings by name; those that differ from the default are written to ``loopworks.toml``.
    Raises:
        Conflict: the folder is a workspace already, or holds something else.
        Denied: it cannot be written.
        NoSpace: the disk is full.
    """
    folder = folder.expanduser().absolute()
    if (folder / core_settings.FILE).exists():
        raise Conflict(f"{folder} must not be a workspace yet; got a {core_settings.FILE}", "open it instead")
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    core_settings.load(folder, given)
    made = not folder.exists()
    _check_empty(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FOLDERS:
            (folder / name).mkdir(exist_ok=True)  # left by an init that was killed
        # A folder without this file is no workspace, so one that was cut off half-way is not taken for one.
        _write(folder / core_settings.FILE, settings_text(given))
        if {"token", "catalog", "tracking"} & given.keys():
            (folder / core_settings.FILE).chmod(0o600)  # it holds a secret, or a URL that may hold one
        _write(folder / ".gitignore", GITIGNORE)
        return open_home(folder, given)
    except OSError as error:
        _undo(folder, remove=made)
        raise write_error(folder, error) from None
    except BaseException:
        _undo(folder, remove=made)
        raise


def open_home(folder: Path, flags: Mapping[str, Any] | None = None, *, create: bool = False) -> Home:
    """Open the workspace in ``folder``.

    Args:
        folder: the one with ``loopworks.toml``.
        flags: settings by name, over environment and file; ``None`` values are ignored.
        create: make the workspace where there is none yet.
    Raises:
        NotFound: no workspace there.
        Invalid: a setting is wrong.
        TooNew: written by a newer Loopworks.
        Denied: the folder cannot be written.
        Busy, NoSpace, Damaged, Unreachable: from the database.
    """
    folder = folder.expanduser().absolute()
    if not (folder / core_settings.FILE).is_file():
        if create:
            return create_home(folder, flags)
        raise NotFound("workspace", str(folder), hint=f"loopworks init {folder} makes one")
    settings = core_settings.load(folder, flags)
    if settings.font:
        lettering.prefer(settings.font)
    try:
        for name in FOLDERS:
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None
    if not os.access(folder, os.W_OK):
        raise write_error(folder, PermissionError(13, "no right to write"))
    url = settings.catalog or f"sqlite:///{folder / 'catalog.db'}"
    catalog = open_catalog(url, busy_timeout_s=settings.busy_timeout_s)
    try:
        blobs = open_blobs(settings.blobs, folder / "blobs")
        info.prepare(catalog)
        if isinstance(blobs, LocalBlobs):
            blobs.sweep()
    except BaseException:
        catalog.close()
        raise
    return Home(folder, settings, catalog, blobs)


def settings_text(given: Mapping[str, Any]) -> str:
    """``loopworks.toml`` with every setting, its meaning, and its default as a comment."""
    lines = ["# Settings of this workspace. Flags and LOOPWORKS_... variables go before them."]
    for name, field in Settings.model_fields.items():
        lines += ["", f"# {field.description}"]
        if name in given:
            lines.append(f"{name} = {_toml(given[name])}")
        else:
            lines.append(f"# {name} = {_toml(field.default)}")
    return "\n".join(lines) + "\n"


def _check_empty(folder: Path) -> None:
    """Refuse a folder with anything in it but the empty folders of an init that was killed."""
    try:
        if not folder.exists():
            return
        for path in folder.iterdir():
            if path.name not in FOLDERS or not path.is_dir() or any(path.iterdir()):
                message = f"{folder} must be empty to become a workspace; got {path.name} in it"
                raise Conflict(message, "choose another folder")
    except OSError as error:
        raise write_error(folder, error) from None


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    text = str(value)
    if any(ord(c) < 32 for c in text):
        raise Invalid("setting", "text without control characters", repr(text))
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _undo(folder: Path, *, remove: bool) -> None:
    """Leave a folder as it was found: gone, or empty."""
    if remove:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob("catalog.db*"):
        path.unlink(missing_ok=True)
    for name in (".gitignore", core_settings.FILE):
        (folder / name).unlink(missing_ok=True)
