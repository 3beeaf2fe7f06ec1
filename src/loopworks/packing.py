"""The part of a workspace that carries models elsewhere: edge bundles, Ray Serve."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loopworks import __version__
from loopworks.answering import Answering
from loopworks.core.errors import Invalid, NotFound

if TYPE_CHECKING:
    from loopworks.core.bundle import Bundle
    from loopworks.infer.edge import Packed
    from loopworks.infer.rayserve import OnRay
    from loopworks.store.chains import Chain
    from loopworks.store.keys import SigningKey
    from loopworks_edge.manifest import Manifest


class Packing(Answering):
    """Models for machines where Loopworks is not installed."""

    def pack_edge(
        self,
        name: str,
        out: str | Path = "",
        *,
        variants: Sequence[str] | None = (),
        is_zip: bool = False,
        container: bool = False,
        kserve: bool = False,
        image: str = "",
    ) -> "Packed":
        """Write a deployment, model or chain as an edge bundle: it runs with a runtime, numpy and Pillow.

        Args:
            name: a deployment, a chain, or a model as NAME, NAME:NUMBER or NAME@ALIAS; of two of one name the first.
            out: folder (new or empty) or zip file (new); default ``NAME-edge`` or ``NAME-edge.zip`` here.
            variants: names; the first answers by default. Empty: the deployed or chosen one. ``None``: all but those
                outside the accuracy budget. A chain's models go in as they are deployed or chosen.
            is_zip: one file.
            container: add a ``Containerfile``.
            kserve: add a ``kserve.yaml`` (an InferenceService), and the ``Containerfile`` of its image.
            image: name of that image; default ``NAME:NUMBER``.
        Raises: NotFound, Invalid, Conflict: no such name or variant, or something lies at ``out``.
        """
        from loopworks.infer import edge, manifests
        from loopworks.store.keys import signing_key

        key = signing_key(self.home.folder)
        if (chain := self._chain(name)) is not None:
            return self._pack_chain(chain, key, out, variants, is_zip, container, kserve, image)
        bundle, about = self._packable(name, variants, key.public)
        target = Path(out or f"{about.name}-edge{'.zip' if is_zip else ''}")

        def more(kept: "Bundle", signed: "Manifest") -> dict[str, str]:
            found = manifests.container(signed) if container or kserve else {}
            return {**found, **(manifests.kserve(kept, signed, image) if kserve else {})}

        return edge.write(bundle, about, target, key.sign, is_zip=is_zip, extra=more)

    def _pack_chain(
        self,
        chain: "Chain",
        key: "SigningKey",
        out: str | Path,
        variants: Sequence[str] | None,
        is_zip: bool,
        container: bool,
        kserve: bool,
        image: str,
    ) -> "Packed":
        from loopworks.infer import edge, manifests
        from loopworks.infer.chains import graph as graphs
        from loopworks_edge.chained import Node
        from loopworks_edge.manifest import CHAIN, Manifest

        if variants is None or variants:
            hint = "deploy the variants that its nodes shall have"
            raise Invalid("variants of a chain", "left out", ", ".join(variants or ("all",)), hint)
        graph = graphs.read(chain.graph, f"chain {chain.name}")
        nodes, models = {}, {}
        for node, ref in graph.nodes.items():
            _, _, chosen, found = self._named(ref)
            model = self.model(found)
            models[node] = self.bundle(model)
            variant = chosen or models[node].variant().name
            folder = f"models/{model.name}-{model.number}-{variant}"
            nodes[node] = Node(model=model.name, number=model.number, variant=variant, folder=folder)
        graphs.check(graph, models)
        about = Manifest(
            name=chain.name,
            revision=chain.revision,
            model=chain.name,
            number=chain.revision,
            variants=(CHAIN,),
            max_pixels=self.settings.max_image_pixels,
            loopworks=__version__,
            key=key.public,
            format=2,
        )

        def more(kept: "Sequence[Bundle]", signed: Manifest) -> dict[str, str]:
            told = manifests.container(signed) if container or kserve else {}
            return {**told, **(manifests.kserve(kept, signed, image) if kserve else {})}

        target = Path(out or f"{about.name}-edge{'.zip' if is_zip else ''}")
        return edge.write_chain(graph, nodes, models, about, target, key.sign, is_zip=is_zip, extra=more)

    def _chain(self, name: str) -> "Chain | None":
        from loopworks.store import chains

        with self.home.catalog.read() as tx:
            return chains.find(tx, name)

    def edge_key(self) -> str:
        """The public key that this workspace's edge bundles are signed with, in hex."""
        from loopworks.store.keys import signing_key

        return signing_key(self.home.folder).public

    def serve_on_ray(
        self,
        name: str,
        *,
        variant: str = "",
        replicas: int = 1,
        workers: int = 1,
        port: int = 0,
    ) -> "OnRay":
        """Let a deployment or model answer through Ray Serve, on the cluster at ``ray_address`` or on this machine.

        The engine, rule and batching are the server's. It stays until ``stop_on_ray``, on this machine until the
        process ends. Address and token are the settings ``host`` and ``token``.

        Args:
            name: as for ``pack_edge``.
            variant: default the deployed or chosen one.
            replicas: processes, spread over the cluster.
            workers: processors, and threads that run the model, of each.
            port: of Ray Serve's front door where it does not run yet; 0 takes a free one.
        Raises: NotFound, Invalid, Missing, Unreachable, Denied, Failed: each says what to do.
        """
        from loopworks.infer import rayserve
        from loopworks.jobs.spread import connect

        bundle, about = self._packable(name, (variant,) if variant else (), "")
        settings = self.settings
        shipped = rayserve.ship(bundle, about, host=settings.host, token=settings.token, workers=workers)
        rayserve.check(shipped, replicas)
        connect(settings.ray_address)
        return rayserve.start(shipped, port=port or _free_port(settings.host), replicas=replicas)

    def stop_on_ray(self, name: str) -> None:
        """Take a deployment off Ray; ``NotFound`` where it is not there."""
        from loopworks.infer import rayserve
        from loopworks.jobs.spread import connect

        connect(self.settings.ray_address)
        rayserve.stop(name)

    def _packable(self, name: str, variants: Sequence[str] | None, key: str) -> "tuple[Bundle, Manifest]":
        """A bundle, and the manifest of what of it travels."""
        from loopworks_edge.manifest import Manifest

        label, revision, chosen, ref = self._named(name)
        model = self.model(ref)
        bundle = self.bundle(model)
        first = chosen or bundle.variant().name
        picked = tuple(dict.fromkeys(variants or ())) or (first,)
        if variants is None:
            picked += tuple(v.name for v in bundle.variants if not v.is_refused and v.name != first)
        for variant in map(bundle.variant, picked):
            if variant.is_refused:
                raise Invalid("variant", "one inside the accuracy budget", f"{variant.name}: {variant.note}")
        return bundle, Manifest(
            name=label,
            revision=revision,
            model=model.name,
            number=model.number,
            variants=picked,
            max_pixels=self.settings.max_image_pixels,
            loopworks=__version__,
            key=key,
        )

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


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])
