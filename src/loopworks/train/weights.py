"""Pretrained weights: from a file, from the cache of the Hugging Face hub, or from the hub; no hang, no pickle."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, LoopworksError, Missing, Unreachable

T = TypeVar("T")
FILE, CONFIG = "model.safetensors", "config.json"
REACH_S = 4.0
"""How long the hub may take to say that it is there."""
DOWNLOAD_S = 1800.0


def cached(repo: str, others: Sequence[str] = ()) -> Path | None:
    """Weights of a hub repository that lie in the cache already, with ``others`` of its files beside them."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = [try_to_load_from_cache(repo, file) for file in (FILE, *others)]
    return Path(str(found[0])) if all(isinstance(path, str) for path in found) else None


def find(repo: str, ctx: Context, others: Sequence[str] = ()) -> tuple[Path | None, str]:
    """Weights of a hub repository: cached ones first, then a download.

    Args:
        repo: owner/name on the hub; empty where the backbone has no published weights.
        ctx: ticked while a download runs.
        others: further files of the repository that are needed beside the weights.
    Returns: the weights' file, or ``None``; and why there is none, in a few words.
    Raises: Cancelled.
    """
    if not repo:
        return None, "no pretrained weights are published for it"
    if (path := cached(repo, others)) is not None:
        return path, ""
    try:
        from huggingface_hub import constants
    except ImportError:
        raise Missing("huggingface_hub", "train", "pretrained weights") from None
    if constants.HF_HUB_OFFLINE:
        return None, "HF_HUB_OFFLINE is set and they are not in the cache"
    try:
        _within(lambda: _probe(repo), REACH_S, ctx, "asking the hub for weights")
        for file in others:
            _within(partial(_download, repo, file), DOWNLOAD_S, ctx, f"downloading {file}")
        return _within(partial(_download, repo, FILE), DOWNLOAD_S, ctx, "downloading weights"), ""
    except Unreachable as error:
        return None, error.message


def folder(model: str, weights: str, ctx: Context) -> tuple[Path | None, str]:
    """The folder of a network of transformers.

    Args:
        model: a folder, or owner/name on the hub.
        weights: auto, or random: then a folder needs no weights, and the hub is not asked.
        ctx: ticked while a download runs.
    Returns: where ``config.json`` and the weights lie; ``None``, and why, where there are none.
    Raises: Invalid, Cancelled.
    """
    path = Path(model)
    if weights not in ("auto", "random"):
        raise Invalid("weights", "auto or random", weights, "model=FOLDER names a folder of your own")
    if path.is_dir():
        needed = (CONFIG,) if weights == "random" else (CONFIG, FILE)
        if missing := [name for name in needed if not (path / name).is_file()]:
            raise Invalid(f"model {path}", f"a folder with {', '.join(needed)}", f"no {missing[0]}")
        return path, ""
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise Invalid("model", "a folder, or owner/name on the hub", model)
    if weights == "random":
        return None, "asked for"
    found, why = find(model, ctx, (CONFIG,))
    return (found.parent if found is not None else None), why


def fetch(url: str, path: Path, ctx: Context) -> tuple[Path | None, str]:
    """A published file: ``path`` where it lies there already, else it is downloaded to there.

    Args:
        url: its name ends in the first digits of its SHA-256, as torch's hub has it.
        path: where it is kept.
        ctx: ticked while a download runs.
    Returns: the file, or ``None``; and why there is none, in a few words.
    Raises: Cancelled.
    """
    if path.is_file():
        return path, ""

    def download() -> Path:
        from torch import hub

        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
        return path

    try:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return None, "HF_HUB_OFFLINE is set and they are not in the cache"
    except ImportError:
        pass  # then nobody can have asked for that
    try:
        _within(lambda: _head(url), REACH_S, ctx, "asking for published weights")
        return _within(download, DOWNLOAD_S, ctx, "downloading weights"), ""
    except Unreachable as error:
        return None, error.message.replace("the hub", "their server")


def _head(url: str) -> None:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_S):
        pass


def local(path: Path) -> Path:
    """``path``, if it is a safetensors file; pickled checkpoints are refused, because loading one runs its code."""
    if not path.is_file():
        raise Invalid("weights", "auto, random, or an existing .safetensors file", str(path))
    if path.suffix != ".safetensors":
        raise Invalid("weights", "a .safetensors file (pickled checkpoints can run code)", str(path))
    return path


def _probe(repo: str) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(repo, FILE), timeout=REACH_S)


def _download(repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, file, etag_timeout=REACH_S))


def _within(work: Callable[[], T], limit_s: float, ctx: Context, text: str) -> T:
    """Run ``work`` in a thread of its own, because a name look-up without a network cannot be given a time limit.

    Raises: Unreachable: it failed or took longer. Cancelled: the user asked to stop.
    """
    result: list[T] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as error:  # whatever the network or the hub's client raises means: not reachable
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True, name="loopworks-hub")
    thread.start()
    deadline = time.monotonic() + limit_s
    while thread.is_alive() and time.monotonic() < deadline:
        ctx.tick(0.0, text)
        thread.join(0.1)
    if result:
        return result[0]
    if failure and isinstance(failure[0], LoopworksError):
        raise failure[0]
    raise Unreachable(f"the hub cannot be reached ({type(failure[0]).__name__ if failure else 'no answer in time'})")
