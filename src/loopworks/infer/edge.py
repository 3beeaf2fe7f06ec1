"""Writing an edge bundle: a model or chain with the code that runs it, signed, for machines without Loopworks."""

import importlib.metadata
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import loopworks
import loopworks_edge
from loopworks import __version__
from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Opened
from loopworks.core.errors import Conflict, Invalid
from loopworks.infer import readme
from loopworks.infer.chains.graph import Graph
from loopworks.infer.code import closure
from loopworks_edge import chained, manifest
from loopworks_edge.chained import Node
from loopworks_edge.manifest import Manifest

ROOTS = ("loopworks_edge.__main__", "loopworks_edge.demo", "loopworks_edge.server")
FOLDERS = {
    "loopworks": Path(loopworks.__file__).parent,
    "loopworks_edge": Path(loopworks_edge.__file__).parent,
}
RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
"""Runtime -> the package that it needs."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every file in a zip, so that the same bundle gives the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """An edge bundle that was written."""

    path: Path
    """Folder or zip file."""
    manifest: Manifest
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "path": str(self.path),
            "name": self.manifest.name,
            "model": f"{self.manifest.model}:{self.manifest.number}",
            "is_chain": self.manifest.is_chain,
            "variants": list(self.manifest.variants),
            "key": self.manifest.key,
            "files": len(self.manifest.sha256),
            "size_bytes": self.size_bytes,
        }


def write(
    bundle: Bundle,
    about: Manifest,
    out: Path,
    sign: Callable[[bytes], bytes],
    *,
    is_zip: bool = False,
    extra: Callable[[Bundle, Manifest], dict[str, str]],
) -> Packed:
    """Write the edge bundle of a model.

    Args:
        bundle: the model.
        about: the manifest without ``sha256``; its variants go in, the first as the default.
        out: folder (new or empty), or with ``is_zip`` the zip file (new).
        sign: signs with the key that ``about`` names.
        is_zip: one file instead of a folder.
        extra: more files to write, name -> text, e.g. a container file.
    Raises: Conflict: something lies at ``out``. Invalid: a file of the bundle is missing there.
    """

    def fill(folder: Path) -> dict[str, str]:
        kept = pruned(bundle, about.variants, folder / manifest.MODEL)
        return {**readme.files(kept, about, requirements([kept])), **extra(kept, about)}

    return _write(about, out, sign, fill, is_zip=is_zip)


def write_chain(
    graph: Graph,
    nodes: Mapping[str, Node],
    models: Mapping[str, Bundle],
    about: Manifest,
    out: Path,
    sign: Callable[[bytes], bytes],
    *,
    is_zip: bool = False,
    extra: Callable[[Sequence[Bundle], Manifest], dict[str, str]],
) -> Packed:
    """Write the edge bundle of a chain, as ``write``; ``nodes`` and ``models`` are by the graph's nodes."""

    def fill(folder: Path) -> dict[str, str]:
        kept: dict[str, Bundle] = {}
        for name, node in nodes.items():
            if node.folder not in kept:
                kept[node.folder] = pruned(models[name], [node.variant], folder / node.folder)
        (folder / chained.FILE).write_text(chained.written(graph, nodes), encoding="utf-8")
        needed = requirements(list(kept.values()))
        return {**readme.chain_files(graph, nodes, kept, about, needed), **extra(list(kept.values()), about)}

    return _write(about, out, sign, fill, is_zip=is_zip)


def _write(
    about: Manifest, out: Path, sign: Callable[[bytes], bytes], fill: Callable[[Path], dict[str, str]], *, is_zip: bool
) -> Packed:
    """Write what ``fill`` puts into a folder, and the texts that it gives, with the code, signed."""
    out = out.expanduser().absolute()
    if out.exists() and (is_zip or not out.is_dir() or any(out.iterdir())):
        raise Conflict(f"{out} must not exist yet{'' if is_zip else ', or be an empty folder'}", "choose another --out")
    if not out.parent.is_dir():
        raise Invalid("folder for the edge bundle", "one that exists", str(out.parent))
    with tempfile.TemporaryDirectory(prefix=".edge-", dir=out.parent) as scratch:
        folder = Path(scratch) / about.name
        folder.mkdir()
        _code(folder)
        for name, text in fill(folder).items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "demo.sh").chmod(0o755)
        done = _signed(folder, about, sign)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if is_zip:
            packed = Path(scratch) / "bundle.zip"
            _zip(folder, packed)
            os.replace(packed, out)
            size = out.stat().st_size
        else:
            os.replace(folder, out)
    return Packed(path=out, manifest=done, size_bytes=size)


def requirements(kept: Sequence[Bundle]) -> list[str]:
    """What must be installed, with the versions of this machine: the same runtime gives the same bits."""
    names = ["numpy", "pillow"]
    names += sorted({RUNTIMES.get(variant.runtime, variant.runtime) for one in kept for variant in one.variants})
    if any(isinstance(one.rule, Opened) for one in kept):
        names.append("tokenizers")
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def pruned(bundle: Bundle, variants: Sequence[str], folder: Path) -> Bundle:
    """The bundle in ``folder`` with only what answers: the variants with their files, and the file of its rule."""
    chosen = tuple(bundle.variant(name) for name in variants)
    files = {file for variant in chosen for file in (variant.file, *variant.files)}
    if isinstance(bundle.rule, Opened):
        files.add(bundle.rule.file)
    for file in sorted(files):
        source, target = bundle.path(file), folder / file
        if not source.is_file():
            raise Invalid(f"bundle file {file}", "there", "nothing", f"in {bundle.folder}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return bundles.write(replace(bundle, variants=chosen, chosen=chosen[0].name), folder)


def _code(folder: Path) -> None:
    modules, _ = closure(ROOTS, FOLDERS)
    for name, path in modules.items():
        package = name.partition(".")[0]
        target = folder / package / path.relative_to(FOLDERS[package])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _signed(folder: Path, about: Manifest, sign: Callable[[bytes], bytes]) -> Manifest:
    sums = {path.relative_to(folder).as_posix(): manifest.sha256(path) for path in folder.rglob("*") if path.is_file()}
    done = replace(about, loopworks=__version__, sha256=sums)
    content = done.to_bytes()
    (folder / manifest.FILE).write_bytes(content)
    (folder / manifest.SIGNATURE).write_text(sign(content).hex() + "\n", encoding="ascii")
    return manifest.verify(folder, done.key)


def _zip(folder: Path, out: Path) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (path.stat().st_mode & 0o777) << 16
                with path.open("rb") as source, packed.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
