"""The part of a workspace that carries models elsewhere: edge bundles."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loopworks.answering import Answering
from loopworks.core.errors import Invalid, NotFound

if TYPE_CHECKING:
    from loopworks.infer.edge import Packed


class Packing(Answering):
    """Models for machines where Loopworks is not installed."""

    def pack_edge(
        self, name: str, out: str | Path = "", *, variants: Sequence[str] | None = (), is_zip: bool = False
    ) -> "Packed":
        """Write a deployment or model as an edge bundle: a folder or zip that runs with a runtime, numpy and Pillow.

        Args:
            name: a deployment, or a model as NAME, NAME:NUMBER or NAME@ALIAS; of two of one name the deployment.
            out: folder (new or empty) or zip file (new); default ``NAME-edge`` or ``NAME-edge.zip`` here.
            variants: names; the first answers by default. Empty: the deployed or chosen one. ``None``: all but those
                outside the accuracy budget.
            is_zip: one file.
        Raises: NotFound, Invalid, Conflict: no such name or variant, or something lies at ``out``.
        """
        from loopworks.infer import edge
        from loopworks.store.keys import signing_key
        from loopworks_edge.manifest import Manifest

        label, revision, chosen, ref = self._named(name)
        model = self.model(ref)
        bundle = self.bundle(model)
        first = chosen or bundle.variant().name
        if variants is None:
            others = [v.name for v in bundle.variants if not v.is_refused and v.name != first]
            picked: Sequence[str] = (first, *others)
        else:
            picked = tuple(dict.fromkeys(variants)) or (first,)
        for variant in map(bundle.variant, picked):
            if variant.is_refused:
                raise Invalid("variant", "one inside the accuracy budget", f"{variant.name}: {variant.note}")
        key = signing_key(self.home.folder)
        about = Manifest(
            name=label,
            revision=revision,
            model=model.name,
            number=model.number,
            variants=tuple(picked),
            max_pixels=self.settings.max_image_pixels,
            loopworks="",
            key=key.public,
        )
        target = Path(out or f"{label}-edge{'.zip' if is_zip else ''}")
        return edge.write(bundle, about, target, key.sign, is_zip=is_zip)

    def edge_key(self) -> str:
        """The public key that this workspace's edge bundles are signed with, in hex."""
        from loopworks.store.keys import signing_key

        return signing_key(self.home.folder).public

    def _named(self, name: str) -> tuple[str, int, str, str]:
        """Name, revision, variant and model of a deployment; of a model revision 0 and no variant."""
        if ":" not in name and "@" not in name:
            try:
                used = self.deployment(name)
                return used.name, used.revision, used.variant, f"{used.model}:{used.number}"
            except NotFound:
                if name not in {model.name for model in self.models()}:
                    known = sorted({d.name for d in self.deployments()} | {m.name for m in self.models()})
                    raise NotFound("deployment or model", name, known) from None
        model = self.model(name)
        return model.name, 0, "", model.ref
