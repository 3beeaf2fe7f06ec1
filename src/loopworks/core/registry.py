"""Plug-ins by name. What ships with Loopworks is registered the same way as an outside package's plug-ins.

An outside package declares an entry point in the group ``loopworks.plugins`` that names a module; importing the
module runs its ``@plugins.add("train.mine")`` lines. Loopworks declares ``loopworks.builtins`` that way itself.
"""

import importlib.metadata
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from loopworks.core.errors import Conflict, Invalid, NotFound

T = TypeVar("T")
GROUP = "loopworks.plugins"
_NAME = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)+")


class Registry:
    """Name -> plug-in. Names are ``stage.name`` in lower case, e.g. ``train.small-cnn``."""

    def __init__(self, group: str = GROUP) -> None:
        """An empty registry that fills itself from the entry points of ``group`` on the first look-up."""
        self._group = group
        self._found: dict[str, Any] = {}
        self._broken: dict[str, str] = {}
        self._loaded = False
        # Two locks: one thread may import a plug-in's module (and so wait for ``_lock`` in ``add``) while another
        # one loads the entry points (and waits for that module). With one lock they would wait for each other.
        self._lock = threading.Lock()
        self._loading = threading.RLock()

    def add(self, name: str) -> Callable[[T], T]:
        """Register the decorated class or function under ``name``; a name is taken once."""
        if not _NAME.fullmatch(name):
            raise Invalid("plug-in name", "stage.name in lower-case letters, digits and hyphens", name)

        def keep(plugin: T) -> T:
            with self._lock:
                other = self._found.setdefault(name, plugin)
                if other is not plugin and _origin(other) != _origin(plugin):
                    raise Conflict(
                        f"plug-in {name!r} is registered by {_origin(other)} and by {_origin(plugin)}",
                        "give one of them another name",
                    )
                self._found[name] = plugin
            return plugin

        return keep

    def get(self, name: str) -> Any:
        """The plug-in called ``name``; ``NotFound`` names those of the same stage.

        The entry points are looked at only for a name that is not registered yet.
        """
        if name not in self._found:
            self.load()
        if name not in self._found:
            stage = name.partition(".")[0]
            broken = "; ".join(f"{k} could not be loaded: {v}" for k, v in self._broken.items())
            known = self.names(stage)
            raise NotFound("plug-in", name, known, f"known: {', '.join(known)}; {broken}" if broken else "")
        return self._found[name]

    def names(self, stage: str = "") -> list[str]:
        """Names of all plug-ins, or of one stage's, sorted."""
        self.load()
        with self._lock:
            found = list(self._found)
        return sorted(n for n in found if not stage or n.partition(".")[0] == stage)

    def broken(self) -> dict[str, str]:
        """Entry points that could not be loaded, with the reason; ``loopworks doctor`` shows them."""
        self.load()
        return dict(self._broken)

    def load(self) -> None:
        """Import the entry points once. A broken outside package is remembered, never fatal to the rest."""
        with self._loading:
            if self._loaded:
                return
            self._loaded = True
            for point in importlib.metadata.entry_points(group=self._group):
                try:
                    point.load()
                except (Exception, SystemExit) as error:  # an outside package may raise anything at import
                    self._broken[f"{point.name} ({point.value})"] = f"{type(error).__name__}: {error}"


def _origin(plugin: Any) -> str:
    return f"{getattr(plugin, '__module__', '?')}.{getattr(plugin, '__qualname__', repr(plugin))}"


plugins = Registry()
