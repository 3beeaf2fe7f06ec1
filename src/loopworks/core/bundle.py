"""A bundle: the folder that holds a model in all its forms, and says everything about it in ``bundle.json``.

Readers need numpy and Pillow alone. Nothing in a bundle is ever unpickled; every file is named with its SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from loopworks.core.errors import Damaged, Invalid, NotFound, TooNew
from loopworks.core.values import ImageRule, LabelSchema, Score, TensorSpec

FORMAT = 1
FILE = "bundle.json"


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
            "is_refused": self.is_refused,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Variant":
        """The variant that ``to_json`` wrote."""
        return cls(
            name=body["name"],
            runtime=body["runtime"],
            precision=body["precision"],
            file=body["file"],
            files=tuple(body["files"]),
            size_bytes=body["size_bytes"],
            metrics={
                split: {name: Score.from_json(score) for name, score in scores.items()}
                for split, scores in body["metrics"].items()
            },
            agreement=body["agreement"],
            latency_ms=dict(body["latency_ms"]),
            throughput_per_s=body["throughput_per_s"],
            is_refused=body["is_refused"],
            note=body["note"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What ``bundle.json`` says. ``folder`` is where it was read from; it is not part of the file."""

    task: str
    schema: LabelSchema
    rule: ImageRule
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
            "notes": list(self.notes),
            "sha256": dict(sorted(self.sha256.items())),
        }


def write(bundle: Bundle, folder: Path) -> Bundle:
    """Write ``bundle.json`` beside the files that lie in ``folder``; their checksums are taken here."""
    sums = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
    done = replace(bundle, sha256=sums, folder=folder)
    text = json.dumps(done.to_json(), indent=2, ensure_ascii=False, sort_keys=True)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
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
    except (ValueError, UnicodeDecodeError) as error:
        raise Invalid(str(path), "JSON", str(error)) from None
    bundle = parse(body, str(path))
    bundle = replace(bundle, folder=folder)
    if verify:
        check_files(bundle)
    return bundle


def parse(body: Any, name: str = FILE) -> Bundle:
    """A bundle from the content of ``bundle.json``."""
    if not isinstance(body, dict) or not isinstance(body.get("format"), int):
        raise Invalid(name, "an object with a whole number 'format'", type(body).__name__)
    if body["format"] > FORMAT:
        raise TooNew(f"{name} must be of bundle format {FORMAT} or older; got {body['format']}", "update loopworks")
    try:
        return Bundle(
            task=body["task"],
            schema=LabelSchema.from_json(body["schema"]),
            rule=ImageRule.from_json(body["preprocessing"]),
            inputs=tuple(TensorSpec.from_json(spec) for spec in body["inputs"]),
            outputs=tuple(TensorSpec.from_json(spec) for spec in body["outputs"]),
            version=body["version"],
            recipe=body["recipe"],
            params=body["params"],
            variants=tuple(Variant.from_json(variant) for variant in body["variants"]),
            chosen=body["chosen"],
            metrics={
                split: {metric: Score.from_json(score) for metric, score in scores.items()}
                for split, scores in body["metrics"].items()
            },
            measured_on=body["measured_on"],
            notes=tuple(body["notes"]),
            sha256=_safe_paths(body["sha256"], name),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Invalid(name, "of the bundle format (docs/bundle.md)", f"{type(error).__name__}: {error}") from None


def check_files(bundle: Bundle) -> None:
    """Compare every file with its recorded SHA-256; ``Damaged`` names the first that differs."""
    for relative, expected in bundle.sha256.items():
        path = bundle.folder / relative
        if not path.is_file():
            raise Damaged(f"bundle file {relative} must exist; got nothing", f"in {bundle.folder}")
        if (actual := _sha256(path)) != expected:
            raise Damaged(f"bundle file {relative} must have SHA-256 {expected}; got {actual}")


def _safe_paths(sums: Mapping[str, str], name: str) -> dict[str, str]:
    for relative in sums:
        pure = PurePosixPath(relative)
        if pure.is_absolute() or ".." in pure.parts or "\\" in relative:
            raise Invalid(f"{name} sha256", "relative paths inside the bundle", relative)
    return dict(sums)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
