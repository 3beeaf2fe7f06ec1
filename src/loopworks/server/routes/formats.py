"""Data in and out over HTTP: formats, an upload that is added, an export as a zip stream."""

import io
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from loopworks.core.errors import Invalid
from loopworks.data import frames
from loopworks.data.formats import detect
from loopworks.server import answer, fields
from loopworks.server.nearby import nearby
from loopworks.server.route import Api
from loopworks.server.serving import Serving

PIECE = 1 << 20  # bytes that are read at a time
MAX_FILES = 10_000
_SAME_TIME = (1980, 1, 1, 0, 0, 0)  # equal exports are equal bytes


def formats(request: Request) -> Response:
    """All formats with their options."""
    return answer.json({"formats": detect.describe()})


async def add(request: Request) -> Response:
    """Add what is sent: an archive or file as the body (``name`` says what it is called), or the files of a form."""
    asked = request.query_params
    space = cast(Serving, request.app.state.serving).space
    how = _how(request)
    folder = space.home.cache / "uploads" / secrets.token_hex(8)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        folder.mkdir(parents=True)
        if kind == "multipart/form-data":
            async with request.form(max_files=MAX_FILES) as form:
                for _, value in form.multi_items():
                    if isinstance(value, UploadFile):
                        data = await value.read()
                        await run_in_threadpool(_save, folder, value.filename or "file", data)
            source = folder
        else:
            source = await run_in_threadpool(_save, folder, asked.get("name", "upload"), await request.body())
        name = request.path_params["dataset"]
        report = await run_in_threadpool(lambda: space.add(name, source, **how))
    finally:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
    body = report.to_json()
    for problem in body["problems"]:
        problem.update({key: text.replace(f"{folder}/", "") for key, text in problem.items()})
    return answer.json({"dataset": name, **body})


async def add_paths(request: Request) -> Response:
    """Add what lies on the server's disk or behind URLs: ``{"paths": [...], "by": "copy"}``."""
    body = await answer.body(request)
    paths, by = fields.names(body, "paths"), fields.text(body, "by", "copy")
    if not paths:
        raise Invalid("paths", "a list of paths or URLs, one or more", paths)
    space, name = cast(Serving, request.app.state.serving).space, request.path_params["dataset"]
    how = _how(request)
    report = await run_in_threadpool(lambda: space.add(name, paths if len(paths) > 1 else paths[0], by=by, **how))
    return answer.json({"dataset": name, **report.to_json()})


def _how(request: Request) -> dict[str, Any]:
    asked = request.query_params
    every, jpeg = fields.whole(request, "every", 0, least=0), fields.whole(request, "jpeg", 0, least=0, most=100)
    try:
        scenes = float(asked.get("scenes", "0"))
    except ValueError:
        raise Invalid("scenes", "a number in 0..1", asked["scenes"]) from None
    return {
        "task": asked.get("task", ""),
        "is_multi": asked.get("multi", "") in ("1", "true"),
        "format": asked.get("format", "auto"),
        "options": _options(request),
        "labels": asked.get("labels", "auto"),
        "split": asked.get("split", ""),
        "author": asked.get("author", ""),
        "frames": frames.chosen(every, asked.get("frames", ""), scenes, jpeg),
    }


def export(request: Request) -> Response:
    """A version, or the live set, as a zip of any format."""
    asked = request.query_params
    space = cast(Serving, request.app.state.serving).space
    target = space.dataset(request.path_params["dataset"])
    source = target.version(asked["version"]) if asked.get("version") else target
    folder = space.home.cache / "exports" / secrets.token_hex(8)
    format = asked.get("format", "folders")
    try:
        report = source.export(
            folder, format=format, options=_options(request), by="link", media=asked.get("media", "true") != "false"
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    headers = {
        "Content-Disposition": f'attachment; filename="{target.name}-{format}.zip"',
        "X-Loopworks-Items": str(report.items),
        "X-Loopworks-Problems": str(len(report.problems)),
    }
    return StreamingResponse(_zipped(folder), headers=headers, media_type="application/zip")


class _Pipe(io.RawIOBase):
    """Takes what is written, to be sent on; a zip file that cannot be sought is written in one go."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        found = b"".join(self._parts)
        self._parts.clear()
        return found


def _zipped(folder: Path) -> Iterator[bytes]:
    pipe = _Pipe()
    try:
        with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _SAME_TIME)
                with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as out:
                    while piece := source.read(PIECE):
                        out.write(piece)
                        yield pipe.taken()
        yield pipe.taken()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(folder: Path, name: str, data: bytes) -> Path:
    pure = PurePosixPath(name.replace("\\", "/"))
    if not pure.name or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0] or "\0" in name:
        raise Invalid("name of a file", "a path without ..", name)
    if not data:
        raise Invalid(name, "a file", "no bytes", "send the archive or file as the body, or files of a form")
    path = folder / pure
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _options(request: Request) -> dict[str, str]:
    """Options of the format: query parameters that begin with ``option.``."""
    pairs = request.query_params.items()
    return {name.removeprefix("option."): value for name, value in pairs if name.startswith("option.")}


_DATASET = "/api/datasets/{dataset}"
_HOW = {
    "format": "name of a format, default auto",
    "option.NAME": "an option of the format",
    "task": "task kind of a new dataset, default the one that fits",
    "multi": "true: a new dataset's items may carry several classes",
    "labels": "of plain images: auto, folders or none",
    "split": "train, val or test for all",
    "author": "who gave the labels",
    "every": "of videos: every N-th frame",
    "frames": "of videos: frames by index, e.g. 0,25,100-120",
    "scenes": "of videos: one frame for each scene, 0..1",
    "jpeg": "keep frames as JPEG of this quality",
}
ROUTES = (
    Api(method="GET", path="/api/formats", endpoint=formats, summary="Formats that are read and written"),
    Api(
        method="POST",
        path=f"{_DATASET}/add",
        endpoint=add,
        summary="Add an archive or files",
        query={"name": "what the body is called, e.g. street.zip", **_HOW},
        body={"type": "string", "format": "binary"},
        media="application/octet-stream",
    ),
    Api(
        method="POST",
        path=f"{_DATASET}/add-paths",
        endpoint=nearby(add_paths),
        summary="Add what lies on the server's disk or behind URLs",
        query=_HOW,
        body={
            "type": "object",
            "required": ["paths"],
            "properties": {
                "paths": {"type": "array", "items": {"type": "string"}, "description": "files, folders, globs, URLs"},
                "by": {"type": "string", "description": "copy, link or reference"},
            },
        },
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/export",
        endpoint=export,
        summary="A version or the live set as a zip",
        query={
            "version": "version id or its start, default the items as they are now",
            "format": "name of a format, default folders",
            "option.NAME": "an option of the format",
            "media": "false: annotations alone",
        },
        answer="application/zip",
    ),
)
