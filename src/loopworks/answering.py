"""The models of a workspace and what they answer: the part of ``Workspace`` that speaks to predictors."""

from collections.abc import Iterable, Sequence
from typing import Any

from loopworks.core import image
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Learnable, Predictor
from loopworks.core.errors import Invalid, LoopworksError, from_json
from loopworks.core.registry import plugins
from loopworks.core.settings import Settings
from loopworks.core.values import ImageRule, Problem
from loopworks.infer import local
from loopworks.optimize import hosts
from loopworks.store import bundles, deployments, lineage, models
from loopworks.store.deployments import Deployment
from loopworks.store.home import Home
from loopworks.store.ids import batches
from loopworks.store.lineage import Node
from loopworks.store.models import Model

DRAWN_PX = 1600
"""Longer side of a drawn picture, in pixels, at most."""


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

    def deploy(self, model: Model | str, name: str = "", *, variant: str = "", host: str = "") -> Deployment:
        """Put a model to use under ``name`` (default: the model's); the revisions before stay on record.

        ``variant`` is the model's own choice by default, or the best on the machine ``host``; see ``record``.
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
        with self.home.catalog.begin() as tx:
            done = deployments.add(tx, name or found.name, model=found.name, number=found.number, variant=chosen.name)
            lineage.link(tx, Node("model", found.ref), Node("deployment", done.ref))
        return done

    def deployments(self) -> list[Deployment]:
        """What answers requests now, by name."""
        with self.home.catalog.read() as tx:
            return deployments.every(tx)

    def deployment(self, name: str, revision: int | None = None) -> Deployment:
        """The deployment called ``name``: as it is, or as an earlier revision was."""
        with self.home.catalog.read() as tx:
            return deployments.get(tx, name, revision)

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
        answers: list[dict[str, Any]] = []
        task = plugins.get(f"task.{bundle.task}")
        for part in batches(found, batch):
            good, tensors, bad = local.packed(bundle.rule, part, self.settings.max_image_pixels)
            problems += bad
            if not good:
                continue
            outputs = self._predictor(bundle, used.variant).predict(tensors)
            sizes = [asked.size for asked in good if asked.size is not None]
            for asked, answer in zip(good, task.decode(outputs, bundle.schema, sizes), strict=True):
                answers.append({"id": used.prediction(asked.item), "name": asked.name, "item": asked.item, **answer})
        return answers, problems

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
        asked = found[0]
        width, height = asked.size or (1, 1)
        share = min(1.0, DRAWN_PX / max(width, height))
        size = (max(1, round(width * share)), max(1, round(height * share)))
        rule = ImageRule(width=size[0], height=size[1])
        pixels = image.decode(asked.content, rule, asked.name, self.settings.max_image_pixels)
        task: Learnable = plugins.get(f"task.{bundle.task}")
        outputs = self.answer(bundle, [asked.content], used.variant)
        (said,) = task.labels(outputs, bundle.schema, used.model, [size])
        return image.encode_png(task.draw(pixels, [shape for shape, _ in said]))

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
