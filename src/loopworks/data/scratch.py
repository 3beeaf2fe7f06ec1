"""Folders for what an import unpacks, fetches or decodes: kept over a kill, removed when it is done."""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopworks.core.errors import Busy, NoSpace
from loopworks.core.values import Problem
from loopworks.jobs import lock
from loopworks.store.blobs import write_error
from loopworks.store.home import Home

FOLDER = "sources"
AGE_S = 7 * 86_400.0  # an import that nobody took up again for a week is forgotten
ROOM = 1 << 28  # bytes that must stay free on the disk beside what is unpacked


class Scratch:
    """A folder that belongs to one thing to read (an archive as it is now, a URL, a video and its options).

    Only one import holds it at a time. ``content`` holds the files; ``finish`` says that they are all there.
    """

    def __init__(self, home: Home, what: str) -> None:
        """Take the folder of ``what``, a text that changes whenever the content would.

        Raises:
            Busy: another import holds it.
            Denied, NoSpace: the workspace cannot be written.
        """
        root = home.cache / FOLDER
        name = hashlib.sha256(what.encode("utf-8", "backslashreplace")).hexdigest()[:32]
        self.folder = root / name
        self.content = self.folder / "content"
        self._ready = self.folder / "ready.json"
        try:
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            held = lock.take(root / f"{name}.lock")
            if held is None:
                where = what.partition("\n")[0]
                raise Busy(f"{where} must be read by one import at a time; got another", "wait until it has ended")
            self._lock: int | None = held
            self.content.mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)
        except OSError as error:
            raise write_error(root, error) from None

    def ready(self) -> dict[str, Any] | None:
        """What ``finish`` kept, where an earlier run came so far; ``None``: there is more to do."""
        try:
            found = json.loads(self._ready.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def finish(self, facts: dict[str, Any]) -> None:
        """All files are there; ``facts`` (plain JSON) are given back by ``ready``."""
        temp = self.folder / "ready.tmp"
        with told(self.folder):
            temp.write_text(json.dumps(facts), encoding="utf-8")
            temp.replace(self._ready)

    def check_room(self, size_bytes: int) -> None:
        """``NoSpace`` where the disk has no room for so many bytes more."""
        free = shutil.disk_usage(self.folder).free
        if size_bytes + ROOM > free:
            raise NoSpace(
                f"{self.folder.parent} must have room for {size_bytes} bytes; got {free} free",
                "free some space, or keep the workspace on another disk",
            )

    def remove(self) -> None:
        """Throw the files away, and let go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let go and keep the files, so that another run can go on with them."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def told(folder: Path) -> Any:
    """Say what a failed write means."""
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from None


def problems_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Problems for ``finish``."""
    return [one.to_json() for one in problems]


def problems_from(found: Any) -> list[Problem]:
    """Problems that ``problems_json`` wrote."""
    return [Problem(**one) for one in found]


def _sweep(root: Path) -> None:
    """Remove what imports left that were never taken up again."""
    limit = time.time() - AGE_S
    for entry in list(os.scandir(root)):
        with contextlib.suppress(OSError):  # another process may sweep too
            if entry.stat().st_mtime > limit:
                continue
            path = Path(entry.path)
            if not entry.is_dir():
                if not path.with_suffix("").exists() and not lock.is_held(path):
                    path.unlink()
            elif not lock.is_held(root / f"{entry.name}.lock"):
                shutil.rmtree(path)
