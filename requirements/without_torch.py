"""Print a lock file without PyTorch and its CUDA libraries, or with --torch only PyTorch's pinned names.

For machines without a GPU: everything else comes from the lock with its hashes, and PyTorch's CPU build, which has
other hashes, is taken by version.
"""

import re
import sys
from pathlib import Path

CUDA = re.compile(r"^(nvidia-|cuda-|triton==)")
TORCH = re.compile(r"^(torch|torchvision)==")


def main(arguments: list[str]) -> None:
    """``[--torch] LOCK``."""
    blocks = re.split(r"\n(?=\S)", Path(arguments[-1]).read_text(encoding="utf-8").strip())
    if "--torch" in arguments:
        sys.stdout.write(" ".join(re.split(r"[ \\;]", b)[0] for b in blocks if TORCH.match(b)) + "\n")
    else:
        sys.stdout.write("\n".join(b for b in blocks if not CUDA.match(b) and not TORCH.match(b)) + "\n")


main(sys.argv[1:])
