"""Models from elsewhere: an ONNX file, or a folder as the Hugging Face hub has them, becomes a bundle like ours."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Chances, Context, Learnable, Rule
from loopworks.core.errors import Invalid, LoopworksError, Missing
from loopworks.core.values import Fit, ImageRule, LabelSchema
from loopworks.data.source import Source
from loopworks.train import judge, stage
from loopworks.train.contracts import Made, Packed

MODEL, CONFIG, WEIGHTS = "model.onnx", "config.json", "model.safetensors"
LARGEST_BYTES = (1 << 31) - 1
"""Of an ONNX file: what protobuf can hold."""
Answers = Literal["auto", "chances", "logits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What cannot be read from the file: how an image becomes its input, and what its answer means."""

    image_size: int = 0
    """Height and width in pixels; 0: as the file says."""
    fit: Fit = "stretch"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Per channel (red, green, blue), in 0..255: taken from the pixels."""
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    """Per channel: what the rest is divided by."""
    answers: Answers = "auto"
    """chances: in 0..1; logits: a softmax (multi-label: a sigmoid) makes chances of them; auto: by trying."""
    output: str = ""
    """Name of the output that holds the answer; empty: the one whose shape fits."""
    rule: Rule | None = None
    """Of another medium, or a graph that takes what this rule encodes as it is; empty: an image rule is made."""


def signature(body: Mapping[str, Any]) -> Signature:
    """A signature as people write it: ``mean`` and ``std`` also as text, ``1,2,3``.

    Raises: Invalid: naming the field.
    """
    given = dict(body)
    for name in ("mean", "std"):
        if name in given:
            given[name] = _three(given[name], name, least=0.0 if name == "mean" else 1e-6)
    size = given.get("image_size", 0)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= 8192:
        raise Invalid("image_size", "between 0 and 8192 pixels", size)
    for name, options in (("fit", get_args(Fit)), ("answers", get_args(Answers))):
        if name in given and given[name] not in options:
            raise Invalid(name, ", ".join(options), given[name])
    if unknown := sorted(set(given) - {"image_size", "fit", "mean", "std", "answers", "output"}):
        raise Invalid("signature", "of known fields", unknown[0])
    if not isinstance(given.get("output", ""), str):
        raise Invalid("output", "text", given["output"])
    return Signature(**given)


def _three(value: Any, name: str, least: float) -> tuple[float, float, float]:
    parts = value.split(",") if isinstance(value, str) else value
    try:
        red, green, blue = (float(one) for one in parts)
    except (TypeError, ValueError):
        raise Invalid(name, "three numbers, for red, green and blue", value) from None
    if not all(least <= one <= 255 for one in (red, green, blue)):
        raise Invalid(name, f"three numbers in {least:g}..255", value, "pixels are in 0..255 here, not in 0..1")
    return red, green, blue


def adopt(
    path: Path,
    *,
    task: Learnable,
    classes: Sequence[str] = (),
    is_multi: bool = False,
    signature: Signature | None = None,
    source: Source | None = None,
    folder: Path,
    ctx: Context,
    threads: int = 0,
) -> Bundle:
    """Take a model in: check it, try it once, score it where there is a version, and write the bundle.

    Args:
        path: an ONNX file; or a folder with ``config.json`` and ``model.safetensors`` of an image classifier (timm or
            transformers), or with ``tokenizer.json`` too, of a text classifier (transformers).
        task: its task kind.
        classes: in the order of the model's answer; empty: those of the folder, or of the version.
        is_multi: whether an item may carry several of them.
        signature: what the file does not say.
        source: a version to score it on; its classes are then those of the bundle, in its order.
        folder: where the bundle is written; appears whole or not at all.
        ctx: progress, seed.
        threads: 0 is one per core.
    Raises: Invalid: no model, or one that does not fit the task kind; the error says what was found. Missing.
    """
    signature = signature or Signature()
    if not path.exists():
        raise Invalid("model to add", f"an .onnx file or a folder with {CONFIG} and {WEIGHTS}", str(path))
    part = bundles.part_of(folder)
    try:
        take = _texts if path.is_dir() and task.media == "text" else _graph
        made, schema = take(path, task, part, classes, is_multi, source, signature)
        recipe = "import.hugging-face" if path.is_dir() else "import.onnx"
        _try(made, task, schema, part, threads)
        ctx.tick(0.3, "tried")
        if source is None:
            done = _unscored(task, schema, made, recipe, part)
        else:
            inputs = Packed(source)
            done = stage.finish(source, recipe, made, inputs, part, {}, threads=threads, ctx=ctx.part(0.3, 1.0))
        bundles.settle(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    ctx.tick(1.0, "taken in")
    return replace(done, folder=folder)


def _graph(
    path: Path,
    task: Learnable,
    part: Path,
    classes: Sequence[str],
    is_multi: bool,
    source: Source | None,
    signature: Signature,
) -> tuple[Made, LabelSchema]:
    """An ONNX file, or the network of a folder, as a graph that takes packed items."""
    told: tuple[str, ...] = ()
    graph = path
    if path.is_dir():
        signature, told = _from_folder(path, task, part, signature)
        graph = part / MODEL
    known = _schema(classes or told, is_multi, source)
    rule = _fitted(graph, part / MODEL, task, known, source, signature)
    variant = Variant(
        name="onnx-fp32",
        runtime="onnxruntime",
        precision="fp32",
        file=MODEL,
        files=(MODEL,),
        size_bytes=(part / MODEL).stat().st_size,
    )
    return Made(variant=variant, rule=rule, notes=(_taken(path),)), source.schema if source is not None else known


def _texts(
    path: Path,
    task: Learnable,
    part: Path,
    classes: Sequence[str],
    is_multi: bool,
    source: Source | None,
    _signature: Signature,
) -> tuple[Made, LabelSchema]:
    """A folder of a text classifier, whose tokenizer goes into the bundle."""
    from loopworks.train.texts import folder

    if task.name != "text-classification":
        raise Invalid("task kind of a folder of texts", "text-classification", task.name)
    found = folder.read(path)
    count = found.model.config.num_labels
    known = _schema(classes or found.classes, is_multi or found.is_multi, source)
    if len(known.classes) != count:
        raise Invalid("classes", f"{count}, as the model gives so many", len(known.classes))
    schema = source.schema if source is not None else known
    order = [known.classes.index(name) for name in schema.classes]
    rule, variant = folder.adopt(found, path, part, order=order, is_multi=schema.is_multi)
    return Made(variant=variant, rule=replace(rule, folder=None), notes=(_taken(path),)), schema


def _taken(path: Path) -> str:
    return f"taken in from {path.name}; it was not trained here"


def _schema(classes: Sequence[str], is_multi: bool, source: Source | None) -> LabelSchema:
    """Classes in the model's order."""
    if source is None:
        if not classes:
            raise Invalid("classes", "given in the order of the model's answer", "none", "--class NAME for each")
        return LabelSchema(classes=tuple(classes), is_multi=is_multi)
    if not classes:
        return source.schema
    if set(classes) != set(source.schema.classes):
        apart = sorted(set(classes) ^ set(source.schema.classes))
        raise Invalid("classes of the model", "those of the version", f"a difference in {', '.join(apart)}")
    return LabelSchema(classes=tuple(classes), is_multi=source.schema.is_multi)


def _unscored(task: Learnable, schema: LabelSchema, made: Made, recipe: str, part: Path) -> Bundle:
    judge.write(task, {}, {}, part)
    return bundles.write(
        Bundle(
            task=task.name,
            schema=schema,
            rule=made.rule,
            inputs=made.rule.inputs(),
            outputs=task.outputs(schema),
            version="",
            recipe=recipe,
            variants=(made.variant,),
            chosen=made.variant.name,
            notes=(*made.notes, "warning: no version was given: how good it is is not known"),
        ),
        part,
    )


def _try(made: Made, task: Learnable, schema: LabelSchema, part: Path, threads: int) -> None:
    """Ask the finished file once, in batches of one and three, and read the answer as the task kind does."""
    if not isinstance(made.rule, ImageRule):
        return  # the version's own items are the trial: nothing is known of what else such a model reads
    predictor = predictors.load(made.variant, part, made.rule, threads=threads)
    try:
        for count in (1, 3):
            shape = (count, made.rule.height, made.rule.width, 3)
            pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            outputs = predictor.predict({made.rule.inputs()[0].name: pixels})
            for spec in task.outputs(schema):
                if spec.name not in outputs or outputs[spec.name].ndim != len(spec.shape):
                    raise Invalid("answer of the model", f"{spec.name} of shape {list(spec.shape)}", _shapes(outputs))
            task.decode(outputs, schema, [(made.rule.width, made.rule.height)] * count)
    finally:
        predictor.close()


def _shapes(outputs: Arrays) -> str:
    return ", ".join(f"{name} {list(values.shape)}" for name, values in outputs.items())


def _fitted(
    graph: Path, target: Path, task: Learnable, known: LabelSchema, source: Source | None, signature: Signature
) -> Rule:
    """Write the graph so that it takes packed items and gives the task kind's outputs; returns its rule."""
    try:
        import onnx
    except ImportError:
        raise Missing("onnx", "train", "models from elsewhere") from None
    if graph.stat().st_size > LARGEST_BYTES:
        raise Invalid(graph.name, "an ONNX file of at most 2 GB", graph.stat().st_size)
    try:
        model = onnx.load(str(graph))
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and the checker's own kinds for whatever else the file is
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(graph.name, "an ONNX model", first[:200]) from None
    if signature.rule is not None:
        target.write_bytes(model.SerializeToString(deterministic=True))
        return signature.rule
    if not isinstance(task, Chances) or task.media != "image":
        raise Invalid(
            "task kind of a model without a rule", "image-classification", task.name, "give the rule of its inputs too"
        )
    from loopworks.train import graft

    columns = None
    if source is not None and source.schema.classes != known.classes:
        columns = [known.classes.index(name) for name in source.schema.classes]
    rule = graft.image_rule(model, graph.name, signature.image_size, signature.fit)
    output = graft.output(model, graph.name, len(known.classes), signature.output)
    graft.before(model, rule, signature.mean, signature.std)
    if signature.answers == "auto":
        is_logits = not _are_chances(graft.raw(model, rule, output), known.is_multi)
    else:
        is_logits = signature.answers == "logits"
    name = task.outputs(known)[0].name
    graft.after(model, output, name, "" if not is_logits else "Sigmoid" if known.is_multi else "Softmax", columns)
    onnx.checker.check_model(model)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return rule


def _are_chances(scores: NDArray[Any], is_multi: bool) -> bool:
    inside = bool((scores >= -1e-4).all() and (scores <= 1 + 1e-4).all())
    return inside and (is_multi or bool(np.allclose(scores.sum(axis=1), 1, atol=1e-3)))


def _from_folder(path: Path, task: Learnable, part: Path, signature: Signature) -> tuple[Signature, tuple[str, ...]]:
    """Export a folder's network to ``part``; what it says of its images and classes."""
    if task.name != "image-classification":
        raise Invalid("task kind of a model folder", "image-classification", task.name, "export it to ONNX, add that")
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise Invalid(f"folder {path.name}", f"one with {CONFIG} and {WEIGHTS}", f"none called {name}")
    try:
        config: Mapping[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise Invalid(str(path / CONFIG), "JSON in UTF-8", str(error)) from None
    if not isinstance(config, dict):
        raise Invalid(str(path / CONFIG), "an object", type(config).__name__)
    from loopworks.train import hub

    try:
        network = hub.of_timm(path, config) if "architecture" in config else hub.of_transformers(path, config)
    except LoopworksError:
        raise
    except Exception as error:  # whatever a library raises for weights that do not fit what the file says of them
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Invalid(f"folder {path.name}", "a model that its library can load", first[:200]) from None
    size = signature.image_size or network.size
    fit: Fit = signature.fit if signature.fit != "stretch" else network.fit
    hub.write(network, size, part / MODEL)
    shutil.copyfile(path / WEIGHTS, part / WEIGHTS)
    # What the exported file takes are pixels already: nothing is to be done before it.
    return replace(signature, image_size=size, fit=fit, answers="logits"), network.classes
