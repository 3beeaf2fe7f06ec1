"""A bundle: the folder that holds a model in all its forms, and says everything about it in ``bundle.json``.

Readers need numpy and Pillow alone. Nothing in a bundle is ever unpickled; every file is named with its SHA-256.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from loopworks.core import rules
from loopworks.core.errors import Conflict, Damaged, Invalid, NotFound, TooNew
from loopworks.core.fields import Fields, is_text
from loopworks.core.values import LabelSchema, Score, TensorSpec

if TYPE_CHECKING:
    from loopworks.core.contracts import Rule

FORMAT = 1
FILE = "bundle.json"
PARTIAL = f".{FILE}.partial"
_LATER = ("throughput_batch", "memory_bytes", "start_s")
"""Figures of a variant that bundles may lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One executable form of a model, with what was measured of it."""

    name: str  # e.g. onnx-fp32, onnx-int8, openvino-int8
    runtime: str  # plug-in runtime.NAME that loads it
    precision: str  # fp32, bf16, int8
    file: str  # relative path of the file that the runtime opens
    files: tuple[str, ...] = ()
    """All files of the variant, ``file`` among them."""
    size_bytes: int = 0
    metrics: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    """Split (val, test) -> metric -> score."""
    agreement: float | None = None
    """Share of validation items, in 0..1, with the same answer as the first variant."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """p50 and p99 of one item alone, in milliseconds, on the machine named in ``Bundle.measured_on``."""
    throughput_per_s: float | None = None
    """Items per second at the best batch size."""
    throughput_batch: int | None = None
    """That batch size."""
    memory_bytes: int | None = None
    """Most memory (resident) of a process that does nothing but load the variant and answer."""
    start_s: float | None = None
    """Seconds from the start of loading to the first answer in such a process, the runtime's library included."""
    is_refused: bool = False
    """Measured, and not allowed to be chosen: outside the accuracy budget."""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "runtime": self.runtime,
            "precision": self.precision,
            "file": self.file,
            "files": list(self.files),
            "size_bytes": self.size_bytes,
            "metrics": {
                split: {name: score.to_json() for name, score in scores.items()}
                for split, scores in self.metrics.items()
            },
            "agreement": self.agreement,
            "latency_ms": dict(self.latency_ms),
            "throughput_per_s": self.throughput_per_s,
            **{name: value for name in _LATER if (value := getattr(self, name)) is not None},
            "is_refused": self.is_refused,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, body: Any, where: str = "variant") -> "Variant":
        """The variant that ``to_json`` wrote."""
        fields = Fields.of(body, where)
        return cls(
            name=fields.text("name"),
            runtime=fields.text("runtime"),
            precision=fields.text("precision"),
            file=_safe(fields.text("file"), fields.path("file")),
            files=tuple(_safe(file, fields.path("files")) for file in fields.texts("files")),
            size_bytes=fields.whole("size_bytes"),
            metrics=fields.values("metrics", _scores),
            agreement=None if fields.any("agreement") is None else fields.number("agreement"),
            latency_ms=fields.numbers("latency_ms"),
            throughput_per_s=None if fields.any("throughput_per_s") is None else fields.number("throughput_per_s"),
            throughput_batch=fields.whole("throughput_batch", 1) if "throughput_batch" in fields.body else None,
            memory_bytes=fields.whole("memory_bytes") if "memory_bytes" in fields.body else None,
            start_s=fields.number("start_s") if "start_s" in fields.body else None,
            is_refused=fields.flag("is_refused"),
            note=fields.text("note"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What ``bundle.json`` says. ``folder`` is where it was read from; it is not part of the file."""

    task: str
    schema: LabelSchema
    rule: "Rule"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    version: str
    """Id of the dataset version that the model learnt from."""
    recipe: str
    """Plug-in that trained it, e.g. train.small-cnn."""
    params: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    chosen: str = ""
    """Name of the variant that answers by default."""
    metrics: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    """Split (val, test) -> metric -> score, of the model as it was trained."""
    measured_on: Mapping[str, Any] = field(default_factory=dict)
    """The machine that latency and throughput were measured on."""
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of another machine -> what was measured there: ``machine``, ``variants`` (name -> figures), ``chosen``."""
    notes: tuple[str, ...] = ()
    """What a user must know, e.g. that training began from random weights."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Relative path -> SHA-256 of each file beside ``bundle.json``."""
    folder: Path = field(default=Path(), compare=False)

    def variant(self, name: str = "") -> Variant:
        """The variant called ``name``, or the chosen one."""
        wanted = name or self.chosen
        for variant in self.variants:
            if variant.name == wanted:
                return variant
        raise NotFound("variant", wanted, [v.name for v in self.variants])

    def path(self, relative: str) -> Path:
        """Full path of one of the bundle's files."""
        return self.folder / relative

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, as written to ``bundle.json``."""
        return {
            "format": FORMAT,
            "task": self.task,
            "schema": self.schema.to_json(),
            "preprocessing": self.rule.to_json(),
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "version": self.version,
            "recipe": self.recipe,
            "params": dict(self.params),
            "variants": [variant.to_json() for variant in self.variants],
            "chosen": self.chosen,
            "metrics": {
                split: {name: score.to_json() for name, score in scores.items()}
                for split, scores in self.metrics.items()
            },
            "measured_on": dict(self.measured_on),
            **({"hosts": {name: dict(told) for name, told in self.hosts.items()}} if self.hosts else {}),
            "notes": list(self.notes),
            "sha256": dict(sorted(self.sha256.items())),
        }


def write(bundle: Bundle, folder: Path) -> Bundle:
    """Write ``bundle.json`` beside the files that lie in ``folder``; their checksums are taken here.

    Raises: Invalid: what was written could not be read back, e.g. a metric is not a number.
    """
    sums = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in (folder / FILE, folder / PARTIAL)
    }
    done = replace(bundle, sha256=sums, folder=folder)
    parse(done.to_json())  # so that nothing is ever written that ``read`` refuses
    try:
        text = json.dumps(done.to_json(), indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise Invalid(FILE, "of finite numbers", str(error), "a metric or parameter is not a number") from None
    partial = folder / PARTIAL
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / FILE)  # a reader finds the old file or the new one, never half of it
    return done


def read(folder: Path, *, verify: bool = True) -> Bundle:
    """The bundle in ``folder``.

    Raises:
        NotFound: no ``bundle.json`` there.
        TooNew: written by a newer Loopworks.
        Invalid: not of the bundle format.
        Damaged: with ``verify``, a file is missing or its checksum differs.
    """
    path = folder / FILE
    if not path.is_file():
        raise NotFound("bundle", str(folder), hint=f"a bundle is a folder with a {FILE}")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Invalid(str(path), "JSON in UTF-8", str(error)) from None
    bundle = parse(body, str(path))
    bundle = replace(bundle, folder=folder)
    if verify:
        check_files(bundle)
    return bundle


def parse(body: Any, name: str = FILE) -> Bundle:
    """A bundle from the content of ``bundle.json``.

    Raises:
        TooNew: written by a newer Loopworks.
        Invalid: naming the first field that is not of the format, or that points out of the bundle.
    """
    fields = Fields(Fields.of(body, name).body, f"{name} ")
    if (format_ := fields.whole("format", 1)) > FORMAT:
        raise TooNew(f"{name} must be of bundle format {FORMAT} or older; got {format_}", "update loopworks")
    bundle = Bundle(
        task=fields.text("task"),
        schema=LabelSchema.from_json(fields.any("schema"), fields.path("schema")),
        rule=rules.read(fields.any("preprocessing"), fields.path("preprocessing")),
        inputs=fields.each("inputs", TensorSpec.from_json),
        outputs=fields.each("outputs", TensorSpec.from_json),
        version=fields.text("version"),
        recipe=fields.text("recipe"),
        params=fields.object("params"),
        variants=fields.each("variants", Variant.from_json),
        chosen=fields.text("chosen"),
        metrics=fields.values("metrics", _scores),
        measured_on=fields.object("measured_on"),
        hosts=fields.values("hosts", _host) if "hosts" in fields.body else {},
        notes=fields.texts("notes"),
        sha256={
            _safe(file, fields.path("sha256")): _sum(sum_, file, name) for file, sum_ in fields.object("sha256").items()
        },
    )
    _check_variants(bundle, name)
    return bundle


def _check_variants(bundle: Bundle, name: str) -> None:
    """Every variant's name is taken once, its files are checksummed, and the chosen one exists."""
    names = [variant.name for variant in bundle.variants]
    if len(set(names)) != len(names):
        raise Invalid(f"{name} variants", "of different names", ", ".join(names))
    if bundle.chosen and bundle.chosen not in names:
        raise Invalid(f"{name} chosen", f"one of the variants ({', '.join(names) or 'none'})", bundle.chosen)
    for host, told in bundle.hosts.items():
        if told["chosen"] not in told["variants"] or set(told["variants"]) - set(names):
            known = f"one of the variants ({', '.join(names)})"
            raise Invalid(f"{name} hosts.{host}", known, f"{', '.join(told['variants'])}; {told['chosen']}")
    for variant in bundle.variants:
        for file in (variant.file, *variant.files):
            if file not in bundle.sha256:
                raise Invalid(f"{name} variant {variant.name}", "of files that sha256 names", file)


def check_files(bundle: Bundle) -> None:
    """Compare every file with its recorded SHA-256; ``Damaged`` names the first that differs."""
    _check(bundle, bundle.sha256)


def check_variant(bundle: Bundle, variant: Variant) -> None:
    """``check_files`` of one variant's files."""
    _check(bundle, {variant.file, *variant.files})


def _check(bundle: Bundle, files: Iterable[str]) -> None:
    for relative in files:
        expected, path = bundle.sha256[relative], bundle.folder / relative
        if not path.is_file():
            raise Damaged(f"bundle file {relative} must exist; got nothing", f"in {bundle.folder}")
        if (actual := _sha256(path)) != expected:
            raise Damaged(f"bundle file {relative} must have SHA-256 {expected}; got {actual}")


def _host(body: Any, where: str) -> dict[str, Any]:
    fields = Fields.of(body, where)
    fields.object("machine")
    fields.values("variants", lambda told, at: Fields.of(told, at).body)
    fields.text("chosen")
    return dict(fields.body)


def _scores(body: Any, where: str) -> dict[str, Score]:
    return {name: Score.from_json(score, f"{where}.{name}") for name, score in Fields.of(body, where).body.items()}


def _safe(relative: str, where: str) -> str:
    """``relative`` where it stays inside the bundle on every operating system and has one spelling."""
    pure = PurePosixPath(relative)
    is_portable = is_text(relative) and not any(c in relative for c in "\\:\0")
    is_inside = not pure.is_absolute() and ".." not in pure.parts and relative not in (".", FILE, PARTIAL)
    is_short = max(map(len, pure.parts), default=0) <= 255
    if not (is_portable and is_inside and is_short and pure.as_posix() == relative):
        raise Invalid(where, "relative paths inside the bundle", relative)
    return relative


def _sum(value: Any, file: str, name: str) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise Invalid(f"{name} sha256.{file}", "64 hex digits in lower case", value)
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_of(folder: Path) -> Path:
    """An empty folder beside ``folder``, which must not hold anything; what a killed run left there goes."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"folder {folder} must be empty or absent; got something in it", "choose another folder")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def settle(part: Path, folder: Path) -> None:
    """Put the finished folder in its place."""
    if folder.exists():
        folder.rmdir()
    part.rename(folder)
