"""Settings of a workspace: flags > environment > ``loopworks.toml`` > default. No other file reads the environment."""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.limits import Limits, Quota
from loopworks.core.params import expectation

FILE = "loopworks.toml"
PREFIX = "LOOPWORKS_"


_QUOTA = {f"requests_{short}": short for short in ("per_s", "per_day", "per_s_token", "per_day_token")}
"""Of the limits below, those that are how often, by their names in ``Quota``."""


class LimitSettings(BaseModel):
    """What one deployed model may take of the machine, and how often it may be asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Requests that are computed at once; 0 is one per core (setting ``threads``)."""
    max_batch: Annotated[int, Field(ge=1, le=65536)] = 32
    """Most rows of one run."""
    max_queue: Annotated[int, Field(ge=1)] = 1024
    """Most requests that wait; one more is 503 with ``Retry-After``."""
    max_concurrent: Annotated[int, Field(ge=0)] = 0
    """Most requests that wait or run, together; one more is 429 with ``Retry-After``; 0 is no limit."""
    target_ms: Annotated[float, Field(ge=0)] = 0.0
    """Time of one run that batches are kept small enough for, in milliseconds; 0 is none."""
    isolation: Literal["none", "process"] = "none"
    """``process``: each worker has a process of its own, so that a model that crashes takes nothing with it."""
    memory_mb: Annotated[int, Field(ge=0)] = 0
    """Memory of such a process, in megabytes; 0 is no limit."""
    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    """Where ONNX Runtime computes."""
    requests_per_s: Annotated[float, Field(ge=0)] = 0.0
    """Requests that may be made of it a second, on average, by all callers together; more are 429 with
    ``Retry-After``; 0 is any number."""
    requests_per_day: Annotated[int, Field(ge=0)] = 0
    """Requests that may be made of it in a day of UTC, by all callers together; 0 is any number."""
    requests_per_s_token: Annotated[float, Field(ge=0)] = 0.0
    """Requests that one token may make of it a second, on average; 0 is any number."""
    requests_per_day_token: Annotated[int, Field(ge=0)] = 0
    """Requests that one token may make of it in a day of UTC; 0 is any number."""


class Settings(BaseModel):
    """Every setting with its meaning; ``docs/reference.md`` is written from this class."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    catalog: str = ""
    """Database URL of the catalog: empty for SQLite inside the workspace, or postgresql://user@host/name."""
    blobs: str = ""
    """Where media and models lie: empty for a folder inside the workspace, or s3://bucket/prefix."""
    tracking: str = ""
    """MLflow tracking URI for runs and models: empty for SQLite inside the workspace."""
    host: str = "127.0.0.1"
    """Address that the server binds; another than loopback needs ``token``."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8700
    """Port of the server; 0 takes a free one."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of the inference protocol over gRPC, on the same address; 0 opens none."""
    token: str = ""
    """Secret whose bearer may do everything over HTTP (``Authorization: Bearer ...``), beside those of ``tokens``."""
    requests_per_s: Annotated[float, Field(ge=0)] = 0.0
    """Requests that one token may make a second, on average; more are 429 with ``Retry-After``; 0 is any number."""
    requests_per_s_address: Annotated[float, Field(ge=0)] = 0.0
    """Requests that one network address may make a second, on average, with or without a token; 0 is any number."""
    request_burst: Annotated[int, Field(ge=0)] = 0
    """Requests that may come at once after a pause, under every limit a second; 0 is as many as in a second."""
    access_log: Literal["", "text", "json"] = ""
    """A line for each request that the server answers, as text or as JSON; empty is none."""
    access_log_file: str = ""
    """File that the access log goes on in; empty is the standard error."""
    tracing: bool = False
    """Send OpenTelemetry spans of requests; where to, the standard variables say (OTEL_EXPORTER_OTLP_ENDPOINT ...)."""
    font: str = ""
    """Font file for names in drawn pictures; empty finds one of this machine's that has their letters."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of one training or prediction; 0 is one per core."""
    max_image_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    """Largest image that is decoded, in pixels (width x height); larger ones are refused before decoding."""
    max_unpacked_bytes: Annotated[int, Field(ge=1)] = 1_000_000_000_000
    """Largest archive that is unpacked, in bytes when unpacked; larger ones are refused."""
    max_unpacked_files: Annotated[int, Field(ge=1)] = 5_000_000
    """Most files in an archive that is unpacked."""
    max_unpack_ratio: Annotated[int, Field(ge=1)] = 250
    """Largest ratio of unpacked to packed bytes of an archive, no unit; counts from 100 MB unpacked on."""
    max_body_bytes: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Largest request body that the server reads, in bytes."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes of a Ray cluster that train one network together, each with its share of every batch; 1 trains here."""
    limits: LimitSettings = LimitSettings()
    """What every deployed model may take: see below."""
    limits_of: dict[str, LimitSettings] = {}
    """Deployment -> limits that differ from ``limits`` for it, e.g. ``max_queue`` in a table ``[limits_of.litter]``."""
    max_model_mb: Annotated[int, Field(ge=0)] = 0
    """Memory of all loaded models, in megabytes; those unused longest make room and come back when asked; 0: any."""
    runner: Literal["local", "ray"] = "local"
    """Where ingest, hashing, embedding and the search for duplicates run: on this machine, or as Ray Data jobs."""
    ray_address: str = ""
    """Of the Ray cluster: HOST:PORT, ray://HOST:10001 or auto; empty starts Ray on this machine."""
    watch_secret: str = ""
    """Secret that alerts of watched deployments are signed by, and private columns hashed by; empty signs nothing."""
    gc_grace_s: Annotated[float, Field(ge=0)] = 86_400.0
    """How old a blob that nothing leads to must be before garbage collection removes it, in seconds."""
    busy_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """How long to wait for a locked database before giving up, in seconds."""
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """What an hour of this machine costs, in any currency: what ``money`` of a search is counted by; 0 is not known."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Default seed of splits, picks and trainings."""

    @field_validator("limits", "limits_of", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """An environment variable has them as JSON."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a JSON object") from None

    def limits_for(self, deployment: str) -> Limits:
        """What this deployment may take."""
        given = self._limits_for(deployment)
        return Limits(**{name: value for name, value in given.items() if name not in _QUOTA})

    def quota_for(self, deployment: str) -> Quota:
        """How often this deployment may be asked."""
        given = self._limits_for(deployment)
        return Quota(**{short: given[name] for name, short in _QUOTA.items()})

    def _limits_for(self, deployment: str) -> dict[str, Any]:
        own = self.limits_of.get(deployment)
        given = {} if own is None else {name: getattr(own, name) for name in own.model_fields_set}
        return {**self.limits.model_dump(), **given}


def load(folder: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings of the workspace in ``folder``.

    Args:
        folder: where ``loopworks.toml`` may lie; a missing file means defaults.
        flags: what the user gave on the command line or in a call; ``None`` values are ignored.
    Raises: Invalid: naming the file or variable, what it must be and what it is.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, values in (
        (str(folder / FILE), _file(folder / FILE)),
        ("environment", _environment()),
        ("argument", {k: v for k, v in (flags or {}).items() if v is not None}),
    ):
        for name, value in values.items():
            merged[name] = value
            origin[name] = f"{PREFIX}{name.upper()}" if source == "environment" else f"{name} ({source})"
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise invalid(error, origin) from None


def own(folder: Path) -> dict[str, Any]:
    """What the workspace in ``folder`` says itself of where its catalog and blobs lie.

    For a second workspace beside the one that the environment's variables are meant for.
    Raises: Invalid: its file cannot be read.
    """
    told = _file(folder / FILE)
    return {name: told.get(name, "") for name in ("catalog", "blobs")}


QUIET = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NNCF_CI": "1",
    # On a busy machine Ray Serve's front door needs more than 5 s to start, and is killed and started anew.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # its 15 starves what answers requests beside any other work
    # Threads that wait by spinning steal the cores of whoever they wait for: with two other busy processes on two
    # cores a training step took 2.3 times as long.
    "OMP_WAIT_POLICY": "passive",
}
"""Switches of libraries that report their use, draw bars or spin, unless the user's environment says otherwise."""


def quiet_libraries() -> None:
    """Switch off what libraries do unasked; before their import, because they read the switches there.

    A variable that the user has set already stays as it is.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def invalid(error: ValidationError, origin: Mapping[str, str] | None = None) -> LoopworksError:
    """A pydantic error's first complaint in our sentence form."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    root, *inner = [str(part) for part in first["loc"]] or [""]
    where = ".".join([(origin or {}).get(root, root), *inner])
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(Settings.model_fields)) if origin is not None else ""
        return Invalid(where, "a known name", name, f"known: {known}" if known else "")
    return Invalid(where, expectation(first["msg"]), first["input"])


def _file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(str(path), "valid TOML in UTF-8", str(error)) from None
    except OSError as error:
        raise Invalid(str(path), "a readable file", error.strerror or str(error)) from None


def _environment() -> dict[str, str]:
    names = {f"{PREFIX}{name.upper()}": name for name in Settings.model_fields}
    return {names[key]: value for key, value in os.environ.items() if key in names}
