"""The pipelines of a workspace: kept in its folder, run by its server, or here and now."""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loopworks.core.errors import Busy, Conflict, Damaged, Failed, LoopworksError, NotFound
from loopworks.infer.live import definition as said
from loopworks.infer.live import runner
from loopworks.infer.live.definition import NAME, FileSource, Pipeline
from loopworks.infer.live.looking import Pick
from loopworks.infer.live.runner import Runner
from loopworks.jobs import lock
from loopworks.store.blobs import write_error
from loopworks.store.home import Home

ORDER, STATUS, LOCK = "pipeline.json", "status.json", "lock"
TELL_S = 0.5
"""How often it is written down how a pipeline goes."""
Serve = Callable[[str], contextlib.AbstractContextManager[Pick]]
"""Opens an engine with one deployment in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A pipeline as it is kept."""

    pipeline: Pipeline
    is_wanted: bool
    """Whether it shall run: the server of the workspace sees to it, also after a restart."""
    created_at: str


class Live:
    """Add, start, stop, list and look at pipelines: the same by Python, command line and HTTP."""

    def __init__(self, home: Home, media: Callable[[str], str], serve: Serve) -> None:
        """Pipelines of a workspace.

        Args:
            home: the workspace.
            media: what the model behind a deployment takes; ``NotFound`` where there is none.
            serve: opens an engine here, for ``run``.
        """
        self._home, self._media, self._serve = home, media, serve
        self.folder = home.folder / "live"

    def add(
        self, definition: str | Path | Mapping[str, Any], *, start: bool = True, replace: bool = False
    ) -> dict[str, Any]:
        """Keep a pipeline; the server of the workspace starts it within a second.

        Args:
            definition: a YAML or JSON file, or a mapping; docs/live.md says what is in it.
            start: whether it shall run.
            replace: take the place of one with the same name.
        Returns: as ``status``.
        Raises:
            Invalid: something in it is wrong; the hint names all else that is.
            NotFound: no such deployment, or video.
            Conflict: the name is taken.
        """
        pipeline = said.read(definition)
        runner.check(pipeline, lambda: self._media(pipeline.model))
        if start and isinstance(pipeline.source, FileSource) and not os.path.isfile(pipeline.source.path):
            raise NotFound("video", pipeline.source.path, hint="check the path; --no-start keeps it for later")
        folder = self.folder / pipeline.name
        if (folder / ORDER).exists() and not replace:
            raise Conflict(
                f"pipeline {pipeline.name!r} must not exist yet; it does", "replace it (--replace), or use another name"
            )
        for name in (STATUS, "seen.txt"):  # of one with the same name before
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
        self._keep(Kept(pipeline=pipeline, is_wanted=start, created_at=datetime.now(UTC).isoformat()))
        return self.status(pipeline.name)

    def start(self, name: str) -> dict[str, Any]:
        """Let it run; a file that has ended begins anew. Gives its status."""
        kept = self.kept(name)
        told = self._told(name)
        if told.get("state") in ("done", "failed"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name / STATUS).unlink()
        self._keep(Kept(pipeline=kept.pipeline, is_wanted=True, created_at=kept.created_at))
        return self.status(name)

    def stop(self, name: str) -> dict[str, Any]:
        """Let it run no longer; gives its status, in which it may still be ending."""
        kept = self.kept(name)
        self._keep(Kept(pipeline=kept.pipeline, is_wanted=False, created_at=kept.created_at))
        return self.status(name)

    def remove(self, name: str) -> None:
        """Forget a pipeline; what its sinks wrote elsewhere stays.

        Raises: Busy: it runs; stop it first.
        """
        self.kept(name)
        self.stop(name)
        folder = self.folder / name
        held = lock.take(folder / LOCK, 3.0)
        if held is None:
            raise Busy(f"pipeline {name!r} must have ended; it still runs", "try again in a moment")
        try:
            shutil.rmtree(folder)
        finally:
            os.close(held)

    def list(self) -> list[dict[str, Any]]:
        """The status of each pipeline, by name."""
        return [self.status(name) for name in self.names()]

    def names(self) -> tuple[str, ...]:
        """All pipelines."""
        return tuple(sorted(path.parent.name for path in self.folder.glob(f"*/{ORDER}")))

    def status(self, name: str) -> dict[str, Any]:
        """How a pipeline goes: ``state``, frames ``in``, ``out``, ``dropped``, ``fps``, ``lag_s``, counts, sinks.

        ``state``: starting, waiting (for its model), running, reconnecting, done, failed, stopped; idle where no server
        runs it.
        """
        kept = self.kept(name)
        told = {"state": "idle", **self._told(name)}
        if told["state"] not in ("done", "failed", "stopped") and not lock.is_held(self.folder / name / LOCK):
            told["state"] = "idle" if kept.is_wanted else "stopped"
        return {
            "name": name,
            "model": kept.pipeline.model,
            "is_wanted": kept.is_wanted,
            "created_at": kept.created_at,
            "definition": said.shown(kept.pipeline.to_json()),
            **told,
        }

    def run(self, name: str, *, on_status: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Run a pipeline here, without a server, until its file has ended or the caller is interrupted.

        Returns: its last status. Raises: Busy: it runs elsewhere. Failed: it cannot run, for the reason given.
        """
        kept = self.kept(name)
        with self._serve(kept.pipeline.model) as pick, self.running(name, pick) as found:
            while not found.join(TELL_S):
                self.tell(found)
                if on_status is not None:
                    on_status(found.status())
            told = found.status()
        if told["state"] == "failed":
            raise Failed(f"pipeline {name} failed: {told['error']}")
        return self.status(name)

    # ---- for whoever runs them

    @contextlib.contextmanager
    def running(self, name: str, pick: Pick) -> Iterator[Runner]:
        """A pipeline at work in this process, until the block ends. ``Busy`` where it runs elsewhere."""
        claim = self.claim(name)
        try:
            found = self.begin(name, pick)
            try:
                yield found
            finally:
                found.stop()
                self.tell(found)
        finally:
            os.close(claim)

    def claim(self, name: str) -> int:
        """The right to run a pipeline, which ends with this process at the latest; close it. ``Busy`` else."""
        held = lock.take(self.folder / name / LOCK)
        if held is None:
            raise Busy(f"pipeline {name!r} must run once; another process runs it", "stop it there first")
        return held

    def begin(self, name: str, pick: Pick) -> Runner:
        """Start a pipeline; one that was interrupted goes on where it is known to have been."""
        kept = self.kept(name)
        told = self._told(name)
        resumes = told.get("state") not in ("done", "failed")
        found = Runner(kept.pipeline, self.folder / name, self._home, pick, before=told if resumes else {})
        found.start()
        return found

    def tell(self, found: Runner) -> None:
        """Write down how a pipeline goes, for all who ask; one that has ended by itself is wanted no longer."""
        name = found.pipeline.name
        folder = self.folder / name
        if not (folder / ORDER).exists():
            return  # removed meanwhile
        body = {**found.status(), "told_at": time.time()}
        _replace(folder / STATUS, body)
        if body["state"] in ("done", "failed"):
            kept = self.kept(name)
            if kept.is_wanted:
                self._keep(Kept(pipeline=kept.pipeline, is_wanted=False, created_at=kept.created_at))

    def kept(self, name: str) -> Kept:
        """A pipeline as it is kept; ``NotFound`` lists those that exist."""
        if not re.match(NAME, name) or not (self.folder / name / ORDER).is_file():
            raise NotFound("pipeline", name, self.names())
        path = self.folder / name / ORDER
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            return Kept(
                pipeline=said.read(body["definition"]),
                is_wanted=bool(body["is_wanted"]),
                created_at=str(body["created_at"]),
            )
        except (ValueError, KeyError, TypeError, LoopworksError) as error:
            raise Damaged(f"{path} must hold a pipeline; got: {error}", "remove the folder, and add it again") from None

    def _told(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            found: dict[str, Any] = json.loads((self.folder / name / STATUS).read_text(encoding="utf-8"))
            return found
        return {}

    def _keep(self, kept: Kept) -> None:
        folder = self.folder / kept.pipeline.name
        body = {
            "definition": kept.pipeline.to_json(),
            "is_wanted": kept.is_wanted,
            "created_at": kept.created_at,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / ORDER, body)
        except OSError as error:
            raise write_error(folder, error) from None


def _replace(path: Path, body: Mapping[str, Any]) -> None:
    """Whole or not at all; readable for its owner alone, as URLs may hold passwords."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(body, file)
    os.replace(temp, path)
