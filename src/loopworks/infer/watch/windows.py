"""Windows of drift on disk, so that they go on after a restart.

They lie in the workspace's cache beside what they are compared with: erasing an item empties both.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopworks.infer.watch import arrays
from loopworks.infer.watch.drift import Window
from loopworks.infer.watch.traits import Traits

log = logging.getLogger(__name__)
_PARTS = ("inputs", "answers")


@dataclass(frozen=True, slots=True)
class Kept:
    """A window as it was left."""

    window: Window
    since: float
    """When it began, in seconds since 1970."""


def path_of(cache: Path, deployment: str, version: str, variant: str) -> Path:
    """Where the window of one revision lies."""
    key = hashlib.sha256("\n".join((deployment, version, variant)).encode()).hexdigest()[:32]
    return cache / "watch" / f"window-{key}.npz"


def write(path: Path, window: Window, since: float, private: Iterable[str] = ()) -> None:
    """Keep a window, without the ``private`` columns; where there are some, without points, which hold them too.

    Raises: NoSpace, Denied: it could not be written, and what was there is as before.
    """
    parts = dict(zip(_PARTS, (_public(part, private) for part in window.seen()), strict=True))
    into: arrays.Arrays = {}
    told = {"since": since, **{part: arrays.pack(found, part, into) for part, found in parts.items()}}
    arrays.write(path, into, told)


def take(path: Path, size: int) -> Kept | None:
    """The window that was kept there, if any, for ``size`` items from now on. It is taken: nobody finds it again."""
    try:
        with np.load(path, allow_pickle=False) as there:
            told = json.loads(there[arrays.TOLD].tobytes())
            inputs, answers = (arrays.unpack(told[part], part, there) for part in _PARTS)
        found = Kept(Window(size), float(told["since"]))
        found.window.add(inputs, answers)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:  # half a file, or one of another release
        log.warning("window of drift begins anew path=%s error=%s", path.name, error)
        found = None
    drop(path)
    return found


def drop(path: Path) -> None:
    """Forget what was kept there."""
    path.unlink(missing_ok=True)


def _public(found: Traits, private: Iterable[str]) -> Traits:
    hidden = tuple(private)

    def is_shown(name: str) -> bool:
        return not any(name in (one, f"{one} (characters)") or name.startswith(f"{one}.") for one in hidden)

    numbers = {name: values for name, values in found.numbers.items() if is_shown(name)}
    categories = {name: values for name, values in found.categories.items() if is_shown(name)}
    return Traits(numbers, categories, None if hidden else found.points, None if hidden else found.marks)
