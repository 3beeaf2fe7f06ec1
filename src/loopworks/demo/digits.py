"""The demo's own images: 1,797 scans of handwritten digits that scikit-learn ships, as a user's folders would be.

Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits" (UCI; the test part).
"""

from pathlib import Path

import numpy as np

from loopworks.core.errors import Missing
from loopworks.core.image import encode_png


def write(folder: Path) -> int:
    """Write ``folder/<digit>/NNNN.png``, 8 x 8 pixels each, and return how many; files that exist are left alone."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise Missing("scikit-learn", "train", "it ships the demo's images") from None
    found = load_digits()
    for i, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        path = folder / str(label) / f"{i:04}.png"
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.rint(pixels * (255 / 16)).astype(np.uint8)  # the scans have 17 levels, 0..16
        partial = path.with_suffix(".partial")
        partial.write_bytes(encode_png(np.repeat(grey[:, :, None], 3, axis=2)))
        partial.replace(path)
    return len(found.target)
