"""What ``loopworks doctor`` looks at: packages, machine, plug-ins, and the soundness of a workspace."""

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopworks.core.errors import LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.units import bytes_text

EXTRAS = {
    "train": ("torch", "torchvision", "timm", "lightning", "onnx", "onnxscript", "safetensors", "sklearn"),
    "optimize": ("openvino", "nncf", "onnx"),
    "postgres": ("psycopg",),
    "s3": ("obstore",),
    "demo": ("tritonclient",),
}
FREE_BYTES = 2_000_000_000
SAMPLE = 200
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "sve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    what: str
    found: str
    is_ok: bool = True
    is_needed: bool = True
    """Whether a failed check makes the doctor's verdict bad; a missing extra does not."""
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "what": self.what,
            "found": self.found,
            "is_ok": self.is_ok,
            "is_needed": self.is_needed,
            "hint": self.hint,
        }


def examine(folder: Path) -> list[Check]:
    """All checks; those of a workspace only where ``folder`` lies in one."""
    return [*_program(), *_extras(), *_machine(folder), *_plugins(), *_workspace(folder)]


def _program() -> Iterator[Check]:
    from loopworks import __version__

    yield Check(what="loopworks", found=__version__)
    version = platform.python_version()
    is_ok = sys.version_info >= (3, 11)
    yield Check(what="python", found=version, is_ok=is_ok, hint="" if is_ok else "loopworks needs Python 3.11 or newer")


def _extras() -> Iterator[Check]:
    owners = importlib.metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            yield Check(
                what=f"extra [{extra}]",
                found=f"missing: {', '.join(missing)}",
                is_ok=False,
                is_needed=False,
                hint=f"pip install 'loopworks[{extra}]'",
            )
            continue
        names = (owners.get(name, [name])[0] for name in modules)
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        yield Check(what=f"extra [{extra}]", found=versions)


def _machine(folder: Path) -> Iterator[Check]:
    import psutil

    cores = psutil.cpu_count(logical=True) or 1
    yield Check(
        what="cpu", found=f"{cpu_model()}, {cores} cores, {', '.join(cpu_flags()) or 'no vector extensions known'}"
    )
    memory = psutil.virtual_memory()
    yield Check(what="memory", found=f"{bytes_text(memory.total)}, {bytes_text(memory.available)} free")
    yield Check(what="gpu", found=_gpu())
    here = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(here).free
    yield Check(
        what="disk",
        found=f"{bytes_text(free)} free",
        is_ok=free > FREE_BYTES,
        hint="" if free > FREE_BYTES else "free some space: training and versions need a few GB",
    )


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """The vector extensions that matter to models and that this processor has."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return []
    words: set[str] = set()
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            words.update(line.partition(":")[2].split())
    return [flag for flag in _FLAGS if flag in words]


def _gpu() -> str:
    if importlib.util.find_spec("torch") is None:
        return "not looked for: torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return "none that PyTorch can use; training runs on the CPU"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _plugins() -> Iterator[Check]:
    yield Check(what="plug-ins", found=f"{len(plugins.names())}: {', '.join(plugins.names())}")
    for name, why in plugins.broken().items():
        yield Check(what=f"plug-in package {name}", found=why, is_ok=False, hint="repair or uninstall the package")


def _workspace(folder: Path) -> Iterator[Check]:
    import loopworks
    from loopworks.core.errors import NotFound

    try:
        space = loopworks.open(folder, create=False)
    except NotFound:
        yield Check(what="workspace", found=f"none in {folder}", is_needed=False, hint="loopworks init")
        return
    except LoopworksError as error:
        yield Check(what="workspace", found=error.message, is_ok=False, hint=error.hint)
        return
    with space:
        info = space.info()
        yield Check(
            what="workspace",
            found=f"{info['datasets']} datasets, {info['models']} models, {info['deployments']} deployments",
        )
        for check in (_media, _models, _jobs):
            try:
                yield check(space)
            except LoopworksError as error:
                yield Check(what=check.__name__.strip("_"), found=error.message, is_ok=False, hint=error.hint)


def _media(space: Any) -> Check:
    """Reads a sample of each dataset's files and compares checksums."""
    seen, bad = 0, []
    for facts in space.datasets():
        dataset = space.dataset(facts["name"])
        for item in dataset.items(limit=SAMPLE):
            seen += 1
            try:
                dataset.verify(item)
            except LoopworksError as error:
                bad.append(error.message)
    found = f"{seen} files read, all as they were written" if not bad else f"{len(bad)} of {seen} damaged: {bad[0]}"
    return Check(what="media", found=found, is_ok=not bad, hint="" if not bad else "add the damaged files again")


def _models(space: Any) -> Check:
    """Reads every deployed bundle and compares checksums."""
    from loopworks.core.bundle import check_files

    used = space.deployments()
    for deployment in used:
        check_files(space.bundle(deployment))
    return Check(what="models", found=f"{len(used)} deployed bundles, all as they were written")


def _jobs(space: Any) -> Check:
    problems = space.jobs.check()
    if problems:
        return Check(what="jobs", found=problems[0].message, is_ok=False, hint=problems[0].hint)
    return Check(what="jobs", found="the queue is in order")
