"""The models of a workspace and what they answer: the part of ``Workspace`` that speaks to predictors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loopworks.core import image
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Invalid, LoopworksError, NotFound, from_json
from loopworks.core.settings import Settings
from loopworks.core.values import Problem
from loopworks.infer import items, local, shown
from loopworks.optimize import hosts
from loopworks.store import agreements, bundles, chains, deployments, models
from loopworks.store.agreements import Agreement
from loopworks.store.deployments import Deployment, Role, Rollout
from loopworks.store.home import Home
from loopworks.store.models import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Everything of a deployment."""

    name: str
    used: tuple[Deployment, ...]
    """Live, then canary, then shadows; empty where it was ended."""
    history: tuple[Deployment, ...]
    """All revisions, oldest first."""
    rollouts: tuple[Rollout, ...]
    """All changes, newest first."""
    agreements: tuple[Agreement, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "used": [row.to_json() for row in self.used],
            "history": [row.to_json() for row in self.history],
            "rollouts": [row.to_json() for row in self.rollouts],
            "agreements": [row.to_json() for row in self.agreements],
        }


class Answering:
    """Models, deployments and predictions of a workspace; ``Workspace`` is one."""

    home: Home
    _predictors: dict[tuple[str, str], Predictor]

    @property
    def settings(self) -> Settings:
        """Settings in force."""
        return self.home.settings

    def models(self) -> list[Model]:
        """All models, newest first."""
        with self.home.catalog.read() as tx:
            return models.every(tx)

    def model(self, ref: "Model | str") -> Model:
        """A model by NAME (its newest number), NAME:NUMBER or NAME@ALIAS."""
        if isinstance(ref, Model):
            return ref
        with self.home.catalog.read() as tx:
            return models.get(tx, ref)

    def bundle(self, ref: "Model | Deployment | str") -> Bundle:
        """The bundle of a model or deployment, as a folder on this machine."""
        if isinstance(ref, Deployment):
            ref = f"{ref.model}:{ref.number}"
        return bundles.load(self.home.blobs, self.model(ref).bundle, self.home.cache)

    def deploy(
        self,
        model: Model | str,
        name: str = "",
        *,
        variant: str = "",
        host: str = "",
        canary: float | None = None,
        shadow: bool = False,
        author: str = "",
    ) -> Deployment:
        """Put a model to use under ``name`` (default: the model's); the revisions before stay on record.

        Args:
            model: what answers. By an alias (``litter@champion``) the deployment follows the alias when it moves.
            name: of the deployment.
            variant: a variant of the model; default the chosen one.
            host: take the best variant on this machine instead; see ``record``.
            canary: let it answer this part of the requests beside the live revision, in percent, above 0 and below 100.
            shadow: let it answer after the live revision, only to be compared with it.
            author: who does it.
        Raises:
            Invalid: the variant is refused, or the canary or shadow takes other tensors than the live revision.
            Conflict: the canary or shadow is what is live already, or a chain has the name.
        """
        found = self.model(model)
        bundle = self.bundle(found)
        if host and variant:
            raise Invalid("variant and host", "one of the two", f"{variant} and {host}")
        variant = hosts.chosen_for(bundle, host) if host else variant
        chosen = bundle.variant(variant)
        if chosen.is_refused:
            raise Invalid(
                "variant", "one inside the accuracy budget", f"{chosen.name}: {chosen.note}", "deploy another variant"
            )
        if canary is not None and (shadow or not 0 < canary < 100):
            raise Invalid("canary", "a part in percent, above 0 and below 100, and no shadow", canary)
        alias = model.partition("@")[2] if isinstance(model, str) else ""
        if alias and variant:
            raise Invalid("variant", "left out where a deployment follows an alias", variant, "name the model's number")
        name = name or found.name
        role: Role = "shadow" if shadow else "canary" if canary is not None else "live"
        if role != "live":
            self._check_beside(bundle, self.deployment(name), role)
        with self.home.catalog.begin() as tx:
            chains.check_free(tx, name)
            return deployments.add(
                tx,
                name,
                model=found.name,
                number=found.number,
                variant=chosen.name,
                author=author,
                role=role,
                share=float(canary or 0),
                alias=alias,
            )

    def _check_beside(self, bundle: Bundle, live: Deployment, role: str) -> None:
        """Both must understand the same requests: a client cannot know which of them it will reach."""
        ours = self.bundle(live)
        if bundle.task != ours.task or [s.to_json() for s in bundle.inputs] != [s.to_json() for s in ours.inputs]:
            raise Invalid(
                f"a {role} of {live.name!r}",
                f"of task {ours.task} with the inputs of the live revision",
                f"{bundle.task} with inputs {', '.join(f'{s.name} {list(s.shape)}' for s in bundle.inputs)}",
                "deploy it under a name of its own, or in the place of the live revision",
            )

    def promote(self, name: str, revision: int | None = None, *, author: str = "") -> Deployment:
        """Let the canary of a deployment, or the canary or shadow of that number, answer all requests."""
        with self.home.catalog.begin() as tx:
            return deployments.promote(tx, name, revision, author=author)

    def rollback(self, name: str, revision: int | None = None, *, author: str = "") -> Deployment:
        """Take the canary back; where there is none, let the revision before, or the one named, be live again.

        Returns: what is live afterwards. It follows no alias, until it is deployed by one again.
        """
        with self.home.catalog.begin() as tx:
            return deployments.rollback(tx, name, revision, author=author)

    def undeploy(self, name: str, revision: int | None = None, *, author: str = "") -> Deployment:
        """Take a deployment out of use, or only its canary or shadow of that number; everything stays on record.

        Raises: Conflict: a chain asks it.
        """
        with self.home.catalog.begin() as tx:
            if revision is None:
                chains.check_unused(tx, name)
            return deployments.end(tx, name, revision, author=author)

    def deployments(self) -> list[Deployment]:
        """What is live, by name."""
        with self.home.catalog.read() as tx:
            return deployments.every(tx)

    def deployment(self, name: str, revision: int | None = None) -> Deployment:
        """The deployment called ``name``: as it is live, or another of its revisions."""
        with self.home.catalog.read() as tx:
            return deployments.get(tx, name, revision)

    def in_use(self, name: str = "") -> list[Deployment]:
        """What is live, canary or shadow now, of one deployment or of all."""
        with self.home.catalog.read() as tx:
            return deployments.in_use(tx, name)

    def compared(self, counts: Iterable[Agreement]) -> None:
        """Add to what is known of how revisions agree; servers call it."""
        with self.home.catalog.begin() as tx:
            for more in counts:
                agreements.count(tx, more)

    def traffic(self, name: str) -> Traffic:
        """Everything of a deployment: what is in use, how canary and shadows agree with the live one, each change."""
        with self.home.catalog.read() as tx:
            history = deployments.history(tx, name)
            if not history:
                raise NotFound("deployment", name, [row.name for row in deployments.every(tx)])
            return Traffic(
                name=name,
                used=tuple(deployments.in_use(tx, name)),
                history=tuple(history),
                rollouts=tuple(deployments.rollouts(tx, name)),
                agreements=tuple(agreements.of(tx, name)),
            )

    def predict(self, deployment: str, source: local.Asked) -> dict[str, Any]:
        """What a deployment says of one item: an image (a path or the bytes of a file), a text, or a row (a mapping).

        For a file with many rows see ``predict_many``.

        Returns: the task's answer, with ``id`` (see ``lineage``), ``name`` and ``item``.
        """
        answers, problems = self.predict_many(deployment, [source])
        if problems:
            raise error_of(problems[0])
        return answers[0]

    def predict_many(
        self, deployment: str, sources: Sequence[local.Asked], *, batch: int = 32
    ) -> tuple[list[dict[str, Any]], list[Problem]]:
        """Answers for many items (the path of a CSV, TSV, JSON or Parquet file stands for all of its rows), in order.

        Those that cannot be read are listed and left out.
        """
        used = self.deployment(deployment)
        bundle = self.bundle(used)
        found, problems = local.load(sources, bundle.rule.media, self.settings.max_image_pixels)
        predictor, limit = self._predictor(bundle, used.variant), self.settings.max_image_pixels
        said, bad = items.answered(predictor, bundle, found, batch=batch, max_pixels=limit)
        answers = [
            {"id": used.prediction(asked.item), "name": asked.name, "item": asked.item, **answer}
            for asked, answer in said
        ]
        return answers, problems + bad

    def draw(self, deployment: str, source: local.Asked) -> bytes:
        """A picture (PNG) of an image with what a deployment says of it; large images at a smaller size.

        Raises: Invalid: the deployment is none for images.
        """
        used = self.deployment(deployment)
        bundle = self.bundle(used)
        if bundle.rule.media != "image":
            raise Invalid("deployment to draw", "one for images", f"{deployment}, for media {bundle.rule.media}")
        found, problems = local.load([source], "image", self.settings.max_image_pixels)
        if problems:
            raise error_of(problems[0])
        outputs = self.answer(bundle, [found[0].content], used.variant)
        said = shown.Said(
            bundle=bundle,
            author=used.model,
            items=found,
            outputs=outputs,
            values=(),
            max_pixels=self.settings.max_image_pixels,
        )
        return image.encode_png(shown.drawn(said))

    def answer(self, bundle: Bundle, contents: Iterable[Any], variant: str = "", *, batch: int = 64) -> Arrays:
        """A model's raw answer for items (bytes of image files, texts, rows), in order."""
        limit = self.settings.max_image_pixels
        return local.answer(self._predictor(bundle, variant), bundle, contents, batch=batch, max_pixels=limit)

    def _predictor(self, bundle: Bundle, variant: str) -> Predictor:
        chosen = bundle.variant(variant)
        key = (str(bundle.folder), chosen.name)
        if key not in self._predictors:
            self._predictors[key] = predictors.load(chosen, bundle.folder, bundle.rule, threads=self.settings.threads)
        return self._predictors[key]


def error_of(problem: Problem) -> LoopworksError:
    """The error behind a problem."""
    return from_json({"error": {"code": problem.error, "message": problem.message, "hint": problem.hint}})
