"""What of an input may be kept: all of it, what the model sees, or nothing; without what is private in it."""

import hashlib
import hmac
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from loopworks.core import image
from loopworks.core.bundle import Bundle
from loopworks.core.errors import Conflict, Invalid
from loopworks.core.row import RowRule
from loopworks.core.values import ImageRule, Shape
from loopworks.infer.watch.rules import Drift, Privacy, Rules
from loopworks.store.home import Home

HASH_DIGITS = 16


def check(rules: Privacy, bundle: Bundle) -> None:
    """Raise ``Invalid`` where the rules speak of what the model does not have: they would protect nothing."""
    if rules.blur:
        if bundle.rule.media != "image":
            raise Invalid("privacy.blur", "empty for a model that sees no images", rules.blur)
        if unknown := sorted(set(rules.blur) - set(bundle.schema.classes)):
            raise Invalid("privacy.blur", f"classes of the model ({', '.join(bundle.schema.classes)})", unknown[0])
        if bundle.task == "image-classification":
            raise Invalid("privacy.blur", "empty for a model that says no places", rules.blur)
    if (rules.drop or rules.hash) and bundle.rule.media != "row":
        raise Invalid("privacy.drop and privacy.hash", "empty for a model of no table", [*rules.drop, *rules.hash])


def row(content: Mapping[str, Any], rules: Privacy, rule: RowRule, secret: bytes, *, key: str = "") -> dict[str, Any]:
    """A row as it may be kept; ``key``: the column by which truth comes, kept beside the model's own."""
    known = {column.name for column in rule.columns} | ({key} if key else set())
    found: dict[str, Any] = {}
    for name, value in content.items():
        if name in rules.drop or (rules.keep == "tensors" and name not in known):
            continue
        found[name] = keyed(value, secret) if name in rules.hash and value is not None else value
    return found


def secret_of(home: Home) -> bytes:
    """Key of hashes: the setting, or where there is none, the workspace's own id."""
    return (home.settings.watch_secret or home.id).encode()


def key(value: str, rules: Rules, home: Home) -> str:
    """The key of a row as the log has it: hashed, or left out, where the rules say so of its column."""
    if rules.key in rules.privacy.drop:
        return ""
    return keyed(value, secret_of(home)) if value and rules.key in rules.privacy.hash else value


def of_drift(rules: Rules) -> Drift:
    """The rules of drift, which leave private columns out: reports and alarms tell values."""
    hidden = (*rules.drift.ignore, *rules.privacy.drop, *rules.privacy.hash)
    return rules.drift.model_copy(update={"ignore": tuple(dict.fromkeys(hidden))})


def keyed(value: Any, secret: bytes) -> str:
    """A keyed hash of a value (HMAC-SHA256): equal values give equal text, nobody without the key finds the value."""
    told = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hmac.new(secret, told.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:HASH_DIGITS]


def picture(
    content: bytes, rules: Privacy, rule: ImageRule, said: Sequence[tuple[Shape, float]], max_pixels: int
) -> bytes:
    """An image file as it may be kept.

    Args:
        content: the file.
        rules: what may be kept.
        rule: how the model sees it.
        said: the model's answer, in pixels of the image as it is shown.
        max_pixels: larger images are refused.
    Raises: Invalid: no image. Conflict: a place to blur is of no known kind.
    """
    hidden = [shape for shape, _ in said if shape.label in rules.blur]
    if hidden:
        content = blurred(content, hidden, max_pixels)
    if rules.keep == "tensors":
        return image.encode_png(image.decode(content, rule, "image", max_pixels))
    return content


def blurred(content: bytes, places: Sequence[Shape], max_pixels: int) -> bytes:
    """The image upright, with the boxes around ``places`` blurred beyond recognition; PNG, without metadata."""
    from PIL import Image, ImageFilter, ImageOps

    image.probe(content, "image", max_pixels)
    with Image.open(io.BytesIO(content)) as opened:
        found = ImageOps.exif_transpose(opened).convert("RGB")
    for shape in places:
        box = _box(shape, found.size)
        if box is None:
            continue
        part = found.crop(box)
        # Eight pixels over the longer side, smoothed: a strong blur alone can partly be undone.
        scale = 8 / max(part.size)
        small = part.resize(
            (max(1, round(part.width * scale)), max(1, round(part.height * scale))), Image.Resampling.BOX
        )
        found.paste(small.resize(part.size).filter(ImageFilter.GaussianBlur(max(part.size) / 16)), box)
    kept = io.BytesIO()
    found.save(kept, "PNG")
    return kept.getvalue()


def _box(shape: Shape, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom around a shape, inside the image; ``None`` where nothing of it is."""
    if shape.bounds is None:
        raise Conflict(
            f"what is blurred must be a box or polygon; got {shape.kind}", "keep nothing (privacy.keep: off)"
        )
    x, y, width, height = shape.bounds
    left, right = max(0, int(x)), min(size[0], int(x + width) + 1)
    top, bottom = max(0, int(y)), min(size[1], int(y + height) + 1)
    return (left, top, right, bottom) if left < right and top < bottom else None
