"""Training, server and edge see the same pixels of a file: they share one function, and this holds them to it."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import loopworks as lw
from loopworks.core import image
from loopworks.core.bundle import Bundle
from loopworks.core.values import ImageRule
from loopworks.infer import stage
from loopworks.infer.engine import Engine

EDGE = """
import sys, hashlib
from pathlib import Path
from loopworks.core import image
from loopworks.core.bundle import read
bundle = read(Path(sys.argv[1]))
pixels = image.decode(Path(sys.argv[2]).read_bytes(), bundle.rule)
print(hashlib.sha256(pixels.tobytes()).hexdigest())
ours = {name.split(".")[1] for name in sys.modules if name.startswith("loopworks.")}
assert ours == {"core"}, ours
"""


def photos(folder: Path) -> list[Path]:
    """A turned JPEG larger than the target, a transparent PNG, a grey one and a palette one."""
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (90, 140, 3), dtype=np.uint8)
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).resize((1400, 900)).save(folder / "a" / "turned.jpg", quality=90, exif=exif)
    Image.fromarray(np.dstack([noise, noise[:, :, 0]])).save(folder / "a" / "clear.png")
    Image.fromarray(noise[:, :, 0]).save(folder / "b" / "grey.png")
    Image.fromarray(noise).quantize(16).save(folder / "b" / "palette.gif")
    return sorted(folder.rglob("*.*"))


def test_training_server_and_edge_see_the_same_pixels(tmp_path: Path, colors: Any) -> None:
    bundle: Bundle = colors.write(tmp_path / "bundle")
    files = photos(tmp_path / "photos")
    with lw.open(tmp_path / "space") as ws:
        dataset = ws.dataset("d", task="image-classification")
        dataset.add(tmp_path / "photos")
        dataset.assign([item.id for item in dataset.items()], "train")
        version = dataset.freeze()
        names = [row.name for row in version.rows("train")]
        trained_on = dict(zip(names, version.inputs(bundle.rule, "train")["image"], strict=True))
    with Engine() as engine:
        served = engine.load("tiny", bundle)
        asked = stage.join([stage.pack(served, file.read_bytes()) for file in files])["image"]
    for file, pixels in zip(files, asked, strict=True):
        name = file.relative_to(tmp_path / "photos").as_posix()
        assert np.array_equal(trained_on[name], pixels), name
        found = subprocess.run(
            [sys.executable, "-c", EDGE, str(bundle.folder), str(file)], capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == image_hash(pixels), name


def image_hash(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def test_the_rule_is_written_out_in_full() -> None:
    rule = ImageRule(height=32, width=48, fit="pad")
    assert rule.to_json() == {
        "kind": "image",
        "height": 32,
        "width": 48,
        "fit": "pad",
        "color": "RGB",
        "orientation": "exif",
        "alpha": "over-black",
        "resize": "pillow-bilinear-antialias",
        "jpeg_draft": True,
        "layout": "NHWC",
        "dtype": "uint8",
    }
    assert image.decode(image.encode_png(np.full((10, 10, 3), 7, np.uint8)), rule).shape == (32, 48, 3)
