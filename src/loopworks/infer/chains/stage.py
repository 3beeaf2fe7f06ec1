"""The chains of a workspace: kept in its folder, asked by Python, the command line and the server."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopworks.core import image
from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.data.stage import read_file
from loopworks.infer.chains.ask import Pick, ask
from loopworks.infer.chains.definition import NAME, Chain, read
from loopworks.store.blobs import write_error
from loopworks.store.home import Home

Serve = Callable[[Sequence[str]], contextlib.AbstractContextManager[Pick]]
"""Opens an engine with some deployments in this process."""


def find(home: Home, name: str) -> Chain | None:
    """The chain called so, if there is one."""
    path = home.folder / "chains" / f"{name}.json"
    return read(path) if path.is_file() else None


class Chains:
    """Add, list, remove and ask chains."""

    def __init__(self, home: Home, media: Callable[[str], str], serve: Serve) -> None:
        """Chains of a workspace.

        Args:
            home: the workspace.
            media: what the model behind a deployment takes; ``NotFound`` where there is none.
            serve: opens an engine here.
        """
        self._home, self._media, self._serve = home, media, serve
        self._folder = home.folder / "chains"

    def add(self, definition: str | Path | Mapping[str, Any], *, replace: bool = False) -> Chain:
        """Keep a chain, from a YAML or JSON file or a mapping.

        Raises:
            Invalid: something in it is wrong, or a model is none of images.
            NotFound: no such deployment.
            Conflict: the name is taken, by a chain or a deployment.
        """
        chain = read(definition)
        for step in chain.steps:
            if (media := self._media(step.model)) != "image":
                raise Invalid(f"model of step {step.name}", "one for images", f"{step.model}, for {media}s")
        if self._is_deployed(chain.name):
            raise Conflict(f"chain {chain.name!r} must not be called like a deployment; it is", "use another name")
        path = self._folder / f"{chain.name}.json"
        if path.exists() and not replace:
            raise Conflict(f"chain {chain.name!r} must not exist yet; it does", "replace it (--replace)")
        try:
            self._folder.mkdir(exist_ok=True)
            temp = path.with_suffix(".partial")
            temp.write_text(json.dumps(chain.to_json()), encoding="utf-8")
            os.replace(temp, path)
        except OSError as error:
            raise write_error(self._folder, error) from None
        return chain

    def list(self) -> list[Chain]:
        """All chains, by name."""
        return [self.get(path.stem) for path in sorted(self._folder.glob("*.json"))]

    def get(self, name: str) -> Chain:
        """A chain by its name; ``NotFound`` lists those that exist."""
        path = self._folder / f"{name}.json"
        if not re.match(NAME, name) or not path.is_file():
            raise NotFound("chain", name, sorted(path.stem for path in self._folder.glob("*.json")))
        return read(path)

    def remove(self, name: str) -> None:
        """Forget a chain."""
        self.get(name)
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def ask(self, name: str, source: str | Path | bytes, *, pick: Pick | None = None) -> dict[str, Any]:
        """What a chain says of an image: the path or the bytes of a file.

        Args:
            name: of the chain.
            source: the image.
            pick: gives the loaded models; without it they are loaded for this call.
        Returns: ``chain``, and ``objects``, each with what later steps say of it in ``then``; places are in pixels of
            the whole picture.
        """
        chain = self.get(name)
        content = source if isinstance(source, bytes) else read_file(Path(source))
        limit = self._home.settings.max_image_pixels
        where = "image" if isinstance(source, bytes) else str(source)
        pixels = image.whole(content, where, limit)
        if pick is not None:
            return {"chain": name, **ask(chain, pick, pixels).to_json()}
        with self._serve([step.model for step in chain.steps]) as own:
            return {"chain": name, **ask(chain, own, pixels).to_json()}

    def _is_deployed(self, name: str) -> bool:
        try:
            self._media(name)
        except NotFound:
            return False
        return True
