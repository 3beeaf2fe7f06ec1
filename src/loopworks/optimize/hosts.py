"""What was measured of a model's variants on another machine: read from its file, kept in the bundle, chosen by."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.errors import Conflict, Invalid, NotFound, TooNew
from loopworks.core.fields import Fields
from loopworks.optimize.stage import Target, check_request, choose

FORMAT, KIND = 1, "loopworks-bench"
LARGEST_BYTES = 1 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The content of a file of measurements."""

    model: str
    """``NAME:NUMBER``."""
    host: str
    machine: Mapping[str, Any]
    """What the machine says of itself: cpu, cores, memory_mb, os, python, runtimes."""
    variants: Mapping[str, Mapping[str, Any]]
    """Name -> ``latency_ms`` (p50, p99), ``throughput_per_s``, ``throughput_batch``, ``memory_bytes``, ``start_s``."""


def read(path: Path) -> Measured:
    """A file that ``bench`` of an edge bundle wrote.

    Raises: NotFound, TooNew. Invalid: naming the first field that is not as it should be.
    """
    if not path.is_file():
        raise NotFound("file of measurements", str(path), hint="python -m loopworks_edge bench writes one")
    if (size := path.stat().st_size) > LARGEST_BYTES:
        raise Invalid(path.name, f"at most {LARGEST_BYTES} bytes", size)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Invalid(path.name, "JSON in UTF-8", str(error)) from None
    return parse(body, path.name)


def parse(body: Any, name: str = "measurements") -> Measured:
    """The same from the file's content."""
    fields = Fields(Fields.of(body, name).body, f"{name} ")
    if (kind := fields.text("kind")) != KIND:
        raise Invalid(fields.path("kind"), KIND, kind)
    if (format_ := fields.whole("format", 1)) > FORMAT:
        raise TooNew(f"{name} must be of format {FORMAT} or older; got {format_}", "update loopworks")
    model = Fields.of(fields.any("model"), fields.path("model"))
    host = Fields.of(fields.any("host"), fields.path("host"))
    machine = {key: value for key, value in host.body.items() if key != "name"}
    if not NAME.fullmatch(host.text("name")):
        raise Invalid(host.path("name"), "1 to 64 letters, digits, dots, - or _", host.text("name"))
    told = fields.each("variants", _figures)
    if not told:
        raise Invalid(fields.path("variants"), "at least one variant", "none")
    variants = dict(told)
    if len(variants) != len(told):
        raise Invalid(fields.path("variants"), "of different names", ", ".join(one for one, _ in told))
    return Measured(
        model=f"{model.text('name')}:{model.whole('number', 1)}",
        host=host.text("name"),
        machine=machine,
        variants=variants,
    )


def _figures(body: Any, where: str) -> tuple[str, dict[str, Any]]:
    fields = Fields.of(body, where)
    times = Fields.of(fields.any("latency_ms"), fields.path("latency_ms"))
    p50, p99 = _above_zero(times, "p50"), _above_zero(times, "p99")
    if p99 < p50:
        raise Invalid(times.path("p99"), f"at least p50 ({p50:g})", p99)
    return fields.text("name"), {
        "latency_ms": {"p50": p50, "p99": p99},
        "throughput_per_s": _above_zero(fields, "throughput_per_s"),
        "throughput_batch": fields.whole("batch", 1),
        "memory_bytes": round(_above_zero(fields, "memory_mb") * MB),
        "start_s": _above_zero(fields, "start_s"),
    }


def _above_zero(fields: Fields, key: str) -> float:
    value = float(fields.number(key))
    if value <= 0:
        raise Invalid(fields.path(key), "above zero", value)
    return value


def record(bundle: Bundle, told: Measured, *, folder: Path, target: Target = "latency") -> Bundle:
    """A bundle with the same files, which also knows what its variants are worth on another machine.

    What may be chosen there was decided by its answers here: accuracy does not depend on the machine.

    Args:
        bundle: an optimized model.
        told: what was measured.
        folder: where the new bundle is written; appears whole or not at all.
        target: latency, throughput or size.
    Raises: Invalid: a variant that the model does not have, or none of those that may be chosen was measured.
    """
    check_request(0.0, target, None)
    known = {variant.name: variant for variant in bundle.variants}
    for name in told.variants:
        if name not in known:
            raise Invalid(f"variant measured on {told.host}", f"one of {', '.join(known)}", name)
    measured = [
        _with(variant, told.variants[variant.name]) for variant in bundle.variants if variant.name in told.variants
    ]
    allowed = [variant for variant in measured if not variant.is_refused]
    if not allowed:
        raise Invalid(f"variants measured on {told.host}", "one that is not refused at least", ", ".join(told.variants))
    chosen = choose(allowed, target)
    host = {
        "machine": dict(told.machine),
        "variants": {name: dict(figures) for name, figures in told.variants.items()},
        "chosen": chosen.name,
        "target": target,
    }
    part = bundles.part_of(folder)
    try:
        for name in bundle.sha256:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), part / name)
        done = bundles.write(replace(bundle, hosts={**bundle.hosts, told.host: host}), part)
        bundles.settle(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return replace(done, folder=folder)


def chosen_for(bundle: Bundle, host: str) -> str:
    """The variant that was chosen for a machine.

    Raises: NotFound: nothing was recorded of it. Conflict: the variant is gone or refused since.
    """
    if host not in bundle.hosts:
        raise NotFound("host", host, list(bundle.hosts), "" if bundle.hosts else "loopworks optimize MODEL --on FILE")
    name = str(bundle.hosts[host]["chosen"])
    if bundle.variant(name).is_refused:
        raise Conflict(f"the variant for {host} must not be refused; {name} is", "measure there again")
    return name


def _with(variant: Variant, figures: Mapping[str, Any]) -> Variant:
    return replace(
        variant,
        latency_ms=figures["latency_ms"],
        throughput_per_s=figures["throughput_per_s"],
        throughput_batch=figures["throughput_batch"],
        memory_bytes=figures["memory_bytes"],
        start_s=figures["start_s"],
    )
