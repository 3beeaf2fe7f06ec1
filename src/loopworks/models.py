"""What a workspace does with its models: compare them, crown a champion, show their cards and reasons, take in others.

``Workspace`` inherits ``Models``; nothing else does.
"""

import base64
import io
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.answering import error_of
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Context, learnable
from loopworks.core.errors import Conflict, Invalid, LoopworksError, NotFound
from loopworks.core.registry import plugins
from loopworks.data.learning import source_of
from loopworks.data.source import Source
from loopworks.data.version import VersionRow
from loopworks.infer import local
from loopworks.optimize import front as fronts
from loopworks.optimizing import Optimizing
from loopworks.store import bundles, deployments, lineage, models
from loopworks.store.lineage import Node
from loopworks.store.models import Model
from loopworks.tasks.answers import answers, rows
from loopworks.train import card as cards
from loopworks.train import compare as paired
from loopworks.train import judge, recipes
from loopworks.train import search as searches
from loopworks.train.compare import Comparison

if TYPE_CHECKING:
    from loopworks.data.stage import Version
    from loopworks.train.adopt import Signature
    from loopworks.train.explain import Reasons

log = logging.getLogger(__name__)

CHAMPION = "champion"
TEST = "test"
THUMBNAIL_PX = 256


class Models(Optimizing):
    """The part of a workspace that looks after models."""

    if TYPE_CHECKING:  # what Workspace has

        def version(self, version: str) -> Version:
            """A frozen version by its id."""

    # ---- who is there

    def aliases(self) -> dict[str, list[str]]:
        """Reference of a model -> its aliases, such as champion."""
        told: dict[str, list[str]] = {}
        with self.home.catalog.read() as tx:
            for name in {model.name for model in models.every(tx)}:
                for alias, number in models.aliases(tx, name).items():
                    told.setdefault(f"{name}:{number}", []).append(alias)
        return told

    def recipes(self, task: str = "") -> list[dict[str, Any]]:
        """Every recipe, or those that learn a task kind: ``name``, ``about``, ``tasks``, ``is_tunable``, ``schema``."""
        return recipes.recipes(task)

    def board(self, ref: Model | str) -> dict[str, Any]:
        """The leader board of the search that a model comes from: its trials, the best first.

        Raises: NotFound: the model does not come from a search.
        """
        return searches.board(self.bundle(ref))

    # ---- compare

    def compare(self, left: Model | str, right: Model | str) -> Comparison:
        """The left model against the right one, on the test items of the newer of their two versions.

        Both answer the same items; items that either learnt from, or was chosen by, are left out. The verdict is by the
        task's headline: better or worse where the 95 % interval of the paired difference leaves zero out, else not
        separable.

        Raises: Conflict: they answer different questions. Invalid: too few items are left.
        """
        first, second = self.model(left), self.model(right)
        ours, theirs = self.bundle(first), self.bundle(second)
        task = paired.same_task(ours, theirs)
        for model in (first, second):
            if not model.version:
                raise Invalid(f"model {model.ref}", "one with a version", "none", "add it with a version, then compare")
        versions = [self.version(model.version) for model in (first, second)]
        newer = max(versions, key=lambda version: (version.created_at, version.number))
        source = source_of(newer)
        kept = _unseen(source, [version for version in versions if version.id != newer.id])
        outputs = [
            paired.translated(task, self._answers(bundle, source, kept), bundle.schema, source.schema, model.ref)
            for bundle, model in ((ours, first), (theirs, second))
        ]
        schemas = paired.with_costs(source.schema, ours.schema), paired.with_costs(source.schema, theirs.schema)
        verdict, metrics = paired.compare(task, schemas, source.targets(TEST)[kept], *outputs, seed=self.settings.seed)
        notes = list(paired.class_notes(source.schema, [(first.ref, ours.schema), (second.ref, theirs.schema)]))
        if versions[0].id != versions[1].id:
            notes.append(f"they learnt from different versions; both were asked about test items of {newer.id[:12]}")
        if dropped := source.counts[TEST] - len(kept):
            notes.append(
                f"{dropped} test items were left out: one of the models learnt from them or was chosen by them"
            )
        return Comparison(
            left=first.ref,
            right=second.ref,
            headline=task.headline,
            verdict=verdict,
            metrics=metrics,
            version=newer.id,
            items=len(kept),
            left_out=dropped,
            notes=tuple(notes),
        )

    def alias(self, ref: Model | str, alias: str, *, force: bool = False) -> Comparison | None:
        """Point ``alias`` of the model's name to this number; deployments that follow the alias follow at once.

        A new ``champion`` must be better than the one before on the same test items. MLflow's registry gets the
        alias too; where it does not answer, the log says so.

        Args:
            ref: the model.
            alias: champion, challenger, or any word.
            force: make it champion also where it is worse or not separable.
        Returns: for a new champion, how it compares with the one before; ``None`` where there was none to compare with.
        Raises: Conflict: not better than the champion; the error says the figures.
        """
        found = self.model(ref)
        told = None
        if alias == CHAMPION and (before := self.champion(found.name)) is not None and before.ref != found.ref:
            told = self._challenge(found, before, force)
        with self.home.catalog.begin() as tx:
            models.set_alias(tx, found.name, alias, found.number)
            deployments.follow(tx, found.name, alias)
        self._mirror(found, alias)
        return told

    def _mirror(self, model: Model, alias: str) -> None:
        """The same alias in MLflow's registry, for whoever looks there; the one of the catalog is what counts."""
        if not (model.run or self.settings.tracking or any(self.home.runs.glob("*.db"))):
            return  # MLflow was never used here
        from loopworks.store.runs import Runs, place

        try:
            Runs(*place(self.home.runs, self.settings.tracking)).mirror(model.name, alias, model.run)
        except LoopworksError as error:
            log.warning("alias not mirrored to MLflow model=%s alias=%s error=%s", model.ref, alias, error.message)

    def champion(self, name: str) -> Model | None:
        """The champion of a name, if there is one."""
        with self.home.catalog.read() as tx:
            number = models.aliases(tx, name).get(CHAMPION)
            return None if number is None else models.get(tx, f"{name}:{number}")

    def _challenge(self, model: Model, before: Model, force: bool) -> Comparison | None:
        try:
            found = self.compare(model, before)
        except LoopworksError as error:
            if force:
                return None
            raise Conflict(
                f"a new champion must be better than {before.ref}; they cannot be compared: {error.message}",
                error.hint or "force (--force) takes it all the same",
            ) from None
        if found.verdict != "better" and not force:
            raise Conflict(
                f"a new champion must be better than {before.ref}; got: {found.sentence()}",
                "a larger test split separates closer models; force (--force) takes it all the same",
            )
        return found

    def _answers(self, bundle: Bundle, source: Source, kept: Any) -> Arrays:
        predictor = predictors.load(bundle.variant(), bundle.folder, bundle.rule, threads=self.settings.threads)
        try:
            return answers(predictor, rows(source.inputs(bundle.rule, TEST), kept))
        finally:
            predictor.close()

    # ---- card

    def evaluation(self, ref: Model | str) -> dict[str, Any]:
        """Everything that was measured of a model on val and test; docs/train.md says what each part is.

        Raises: NotFound: nothing was measured, e.g. of a model that came from elsewhere.
        """
        return judge.read(self.bundle(self.model(ref)))

    def card(self, ref: Model | str, *, form: str = "html") -> str:
        """The card of a model: what it is, how it was made, how good it is and where it is not.

        Args:
            ref: the model.
            form: html (one page with pictures and the worst mistakes), or markdown.
        """
        if form not in ("html", "markdown"):
            raise Invalid("form of a card", "html or markdown", form)
        model = self.model(ref)
        bundle = self.bundle(model)
        try:
            evaluation = judge.read(bundle)
        except NotFound:
            evaluation = {}
        if form == "markdown":
            return cards.markdown(bundle, evaluation, model.ref)
        names = [alias for alias, number in self._numbers(model.name).items() if number == model.number]
        facts = [("model", model.ref), *([("aliases", ", ".join(names))] if names else [])]
        facts += [("made", f"{model.created_at:%Y-%m-%d %H:%M} UTC"), ("run", model.run)]
        if model.parent:
            facts.append(("made from", model.parent))
        media = self._media(model, evaluation)
        return cards.html(bundle, evaluation, f"Model {model.ref}", media, facts, _fronts(bundle))

    # ---- models from elsewhere

    def register(
        self,
        path: str | Path,
        name: str,
        *,
        task: str = "",
        version: "Version | str" = "",
        classes: Sequence[str] = (),
        is_multi: bool = False,
        signature: "Signature | None" = None,
    ) -> Model:
        """Take in a model that was trained elsewhere; it is then compared, optimized, deployed and asked like ours.

        Args:
            path: an ONNX file, or a folder with ``config.json`` and ``model.safetensors`` of an image classifier (timm
                or transformers), or with ``tokenizer.json`` too, of a text classifier (transformers).
            name: of the model.
            task: its task kind; default that of the version, else image-classification.
            version: to score it on (val and test); without one nothing is known of how good it is.
            classes: in the order of the model's answer; default those of the folder, or of the version.
            is_multi: whether an item may carry several classes; as the version says, where there is one.
            signature: what the file does not say: size and normalization of images, what the answer means.
        Raises: Invalid: no model, or one that does not fit; the error says what was found in the file.
        """
        from loopworks.train.adopt import adopt

        if not models.NAME.fullmatch(name):
            raise Invalid("model name", "1 to 64 letters, digits, - or _", repr(name))
        found = self.version(version) if isinstance(version, str) and version else version or None
        source = None if found is None or isinstance(found, str) else source_of(found)
        kind = plugins.get(f"task.{task or (source.task.name if source else 'image-classification')}")
        if source is not None and source.task.name != kind.name:
            raise Invalid("task", f"{source.task.name}, as the version's", kind.name)
        with tempfile.TemporaryDirectory(prefix="loopworks-add-", dir=self.home.cache) as scratch:
            ctx = Context(
                seed=self.settings.seed,
                scratch=Path(scratch) / "scratch",
                report=lambda share, text: None,
                stopped=lambda: False,
            )
            bundle = adopt(
                Path(path).expanduser(),
                task=learnable(kind),
                classes=classes,
                is_multi=is_multi,
                signature=signature,
                source=source,
                folder=Path(scratch) / "bundle",
                ctx=ctx,
                threads=self.settings.threads,
            )
            key = bundles.save(self.home.blobs, bundle.folder)
        with self.home.catalog.begin() as tx:
            model = models.add(
                tx,
                name,
                bundle=key,
                run="",
                version=bundle.version,
                task=bundle.task,
                variant=bundle.chosen,
                metrics=bundle.to_json()["metrics"],
            )
            if bundle.version:
                lineage.link(tx, Node("version", bundle.version), Node("model", model.ref))
        return model

    # ---- reasons

    def explain(self, ref: Model | str, source: local.Asked, *, label: str = "") -> "Reasons":
        """Why a model or deployment answers as it does for one item.

        Args:
            ref: name of a deployment, or NAME, NAME:NUMBER or NAME@ALIAS of a model.
            source: an image (a path or the bytes of a file), a text, or a row (a mapping).
            label: a class; empty is the one that the model gives.
        Returns: words or columns with their weights; of an image, a map and a picture of it.
        Raises: NotFound: no such model, deployment or class. Invalid: it cannot be explained, or the item not be read.
        """
        from loopworks.train.explain import explain

        bundle, variant = self._asked(ref)
        found, problems = local.load([source], bundle.rule.media, self.settings.max_image_pixels)
        if problems:
            raise error_of(problems[0])
        return explain(bundle, found[0].content, label, variant)

    def _asked(self, ref: Model | str) -> tuple[Bundle, str]:
        if isinstance(ref, str):
            for used in self.deployments():
                if used.name == ref:
                    return self.bundle(used), used.variant
        return self.bundle(self.model(ref)), ""

    def _numbers(self, name: str) -> dict[str, int]:
        with self.home.catalog.read() as tx:
            return models.aliases(tx, name)

    def _media(self, model: Model, evaluation: Mapping[str, Any]) -> dict[str, str]:
        """HTML of the items of the worst mistakes; what is gone or cannot be read is left out."""
        splits = evaluation.get("splits", {})
        where = TEST if TEST in splits else "val"
        wanted = {one["item"] for one in splits.get(where, {}).get("mistakes", ())}
        if not wanted:
            return {}
        try:
            found = [row for row in self.version(model.version).rows(where) if row.item_id in wanted]
        except (LoopworksError, AttributeError):  # the version is erased, or one of a table, whose rows are no files
            return {}
        return {row.item_id: shown for row in found if (shown := _shown(row))}


def _fronts(bundle: Bundle) -> list[str]:
    """Pictures of what variants are worth: on this machine, then on others."""
    here = [fronts.HERE] if any(variant.latency_ms for variant in bundle.variants) else []
    return [picture for host in (*here, *sorted(bundle.hosts)) if (picture := fronts.svg(fronts.front(bundle, host)))]


def _unseen(source: Source, others: Iterable["Version"]) -> Any:
    """Positions of the test items that are in no other version's train or val."""
    count = source.counts.get(TEST, 0)
    if not count:
        raise Invalid("version to compare by", "one with test items", f"{source.id[:12]} without", "split with test=")
    used = {
        str(row["item"])
        for version in map(source_of, others)
        for split in ("train", "val")
        if version.counts.get(split, 0)
        for row in version.facts(split)
    }
    kept = np.asarray([i for i, row in enumerate(source.facts(TEST)) if str(row["item"]) not in used], np.int64)
    if len(kept) < paired.LEAST:
        raise Invalid(
            "test items that neither model learnt from",
            f"at least {paired.LEAST}",
            f"{len(kept)} of {count} in version {source.id[:12]}",
            "keep the splits of earlier versions, or train both models on one version",
        )
    return kept


def _shown(row: VersionRow) -> str:
    """An item as HTML: a thumbnail, or the start of its text."""
    if row.text:
        return f"<p>{escape(row.text[:400])}</p>"
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(row.read())) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    except (OSError, ValueError, LoopworksError):  # the file is gone or broken since: the card stays whole without it
        return ""
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=80)
    return f'<img alt="{escape(row.name)}" src="data:image/jpeg;base64,{base64.b64encode(kept.getvalue()).decode()}">'
