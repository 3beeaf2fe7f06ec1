"""DVC: put a folder of images and labels under control, change 20 files, do it again, compare. Arguments: images,
labels, scratch folder. Each step is the command a user types, so its start is part of it."""

import shutil
import subprocess
import sys
from pathlib import Path

from clock import Clock

images, labels, scratch = sys.argv[1:]
repo = Path(scratch) / "repo"
shutil.copytree(images, repo / "data" / "images")
shutil.copy(labels, repo / "data" / "labels.json")
clock = Clock()


def run(*words: str) -> str:
    done = subprocess.run(words, cwd=repo, check=True, capture_output=True, text=True)
    return done.stdout


for words in (("init", "-q"), ("config", "user.email", "bench@localhost"), ("config", "user.name", "bench")):
    run("git", *words)
dvc = str(Path(sys.executable).with_name("dvc"))
run(dvc, "init", "-q")
run(dvc, "config", "core.analytics", "false")
run("git", "add", ".dvc", ".dvcignore")
run("git", "commit", "-qm", "start")
clock.time("freeze", lambda: run(dvc, "add", "-q", "data"))
run("git", "add", "-A")
run("git", "commit", "-qm", "first")
for number, path in enumerate(sorted((repo / "data" / "images").rglob("*.jpg"))[:20]):
    path.write_bytes(path.read_bytes() + bytes([number]))
clock.time("refreeze", lambda: run(dvc, "add", "-q", "data"))
found = clock.time("diff", lambda: run(dvc, "diff", "--json", "HEAD"))
assert '"modified"' in found
clock.done()
