"""The texts that lie in an edge bundle: what it is, how it runs, under which licences."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from textwrap import indent

from loopworks.core.bundle import Bundle, Variant
from loopworks.infer.chains.drawn import tree
from loopworks.infer.chains.graph import Graph
from loopworks_edge.chained import Node
from loopworks_edge.manifest import Manifest

DEMO_PY = '''"""Check this bundle, ask its model, and ask it again over HTTP: python demo.py [FILE ...]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from loopworks_edge.demo import main

main([Path(word) for word in sys.argv[1:]])
'''
DEMO_SH = """#!/bin/sh
# Make a virtual environment beside this folder's files, install what the model needs, and run the demonstration.
set -e
cd "$(dirname "$0")"
python=${PYTHON:-python3}
venv=${VENV:-$(mktemp -d)/venv}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q -r requirements.txt
exec "$venv/bin/python" demo.py "$@"
"""
ASKING = {
    "image": ("photo.jpg", "image/jpeg", "--data-binary @photo.jpg"),
    "text": ("--text 'the light is broken'", "text/plain", "--data 'the light is broken'"),
    "row": ("rows.csv", "text/csv", "--data-binary @rows.csv"),
}
"""Medium -> words of the command line, content type, words of curl."""
NOTICES = {
    "numpy": ("NumPy", "BSD-3-Clause", "https://numpy.org"),
    "pillow": ("Pillow", "MIT-CMU", "https://python-pillow.github.io"),
    "onnxruntime": ("ONNX Runtime", "MIT", "https://onnxruntime.ai"),
    "openvino": ("OpenVINO", "Apache-2.0", "https://openvino.ai"),
    "tokenizers": ("tokenizers", "Apache-2.0", "https://github.com/huggingface/tokenizers"),
}


def files(bundle: Bundle, about: Manifest, requirements: Sequence[str]) -> dict[str, str]:
    """File name -> text."""
    model = f"{about.model}:{about.number}"
    return {
        **_fixed(requirements),
        "README.md": readme(bundle, about, requirements),
        "NOTICE.md": _notice([("bundle", model, bundle)], requirements),
    }


def _fixed(requirements: Sequence[str]) -> dict[str, str]:
    return {
        "LICENSE": importlib.metadata.distribution("loopworks").read_text("licenses/LICENSE") or "Apache-2.0\n",
        "requirements.txt": "".join(f"{line}\n" for line in requirements),
        "demo.py": DEMO_PY,
        "demo.sh": DEMO_SH,
    }


def chain_files(
    graph: Graph, nodes: Mapping[str, Node], kept: Mapping[str, Bundle], about: Manifest, requirements: Sequence[str]
) -> dict[str, str]:
    """File name -> text, of a chain; ``kept`` are its models by folder."""
    rows = "\n".join(
        f"| {name} | {node.model}:{node.number} | {kept[node.folder].task} | {found.runtime} | {found.precision} | "
        f"{_bytes(kept[node.folder], found)} | {_ms(found)} |"
        for name, node in nodes.items()
        for found in [kept[node.folder].variant(node.variant)]
    )
    head = f"""# {about.name}

A chain, revision {about.number}: models of images that ask each other (`chain.json`).

{indent(tree(graph), "    ")}

"""
    table = f"""| node | model | task | runtime | precision | bytes | p50 ms where it was measured |
|---|---|---|---|---|---|---|
{rows}

Answers are those of the first node; labels hold the next answers in `then`. `bench FILE ...` measures with your
images: what they show says how many crops the other nodes get.
"""
    written = [(node.folder, f"{node.model}:{node.number}") for node in nodes.values()]
    return {
        **_fixed(requirements),
        "README.md": _readme(head, table, about, requirements, "image"),
        "NOTICE.md": _notice([(f, r, kept[f]) for f, r in dict.fromkeys(written)], requirements),
    }


def readme(bundle: Bundle, about: Manifest, requirements: Sequence[str]) -> str:
    """What the bundle is and how it runs."""
    more = ", ".join(bundle.schema.classes[:20]) + (" ..." if len(bundle.schema.classes) > 20 else "")
    variants = "\n".join(
        f"| {v.name} | {v.runtime} | {v.precision} | {_bytes(bundle, v)} | {_ms(v)} |" for v in bundle.variants
    )
    notes = "".join(["\n\n", *(f"* {note}\n" for note in bundle.notes)]) if bundle.notes else "\n"
    head = f"""# {about.name}

Model {about.model}:{about.number} for {bundle.task}{f", classes {more}" if more else ""}.
"""
    table = f"""| variant | runtime | precision | bytes | p50 ms where it was measured |
|---|---|---|---|---|
{variants}

The first answers; `--variant NAME` picks another.{notes}"""
    return _readme(head, table, about, requirements, bundle.rule.media)


def _readme(head: str, table: str, about: Manifest, requirements: Sequence[str], media: str) -> str:
    words, kind, curl = ASKING[media]
    return f"""{head}It runs with Python 3.11 or newer and

    pip install {" ".join(requirements)}

(`requirements.txt`; these versions give the answers of the server that it comes from, bit for bit). Loopworks itself is
not needed. Run the commands in this folder; `sh demo.sh` makes an environment and tries the model.

    python -m loopworks_edge verify --key {about.key}
    python -m loopworks_edge predict {words}
    python -m loopworks_edge serve --port 8700
    python -m loopworks_edge bench --out bench.json

{table}
## Over HTTP

`serve` speaks the Open Inference Protocol v2 (REST, JSON and binary tensors) and plain predictions:

    curl http://127.0.0.1:8700/v2/models/{about.name}
    curl -X POST http://127.0.0.1:8700/predict/{about.name} -H 'Content-Type: {kind}' {curl}

`GET /v2`, `/v2/health/live`, `/v2/health/ready`, `/v2/models/{about.name}[/versions/N][/ready]`;
`POST /v2/models/{about.name}[/versions/N]/infer`, `POST /predict/{about.name}`. Bodies of at most 64 MiB, sent whole.
It answers this machine alone; other machines need `--host 0.0.0.0 --token-file FILE` (or `--open` behind a gateway).

## Who made it

`manifest.json` holds the SHA-256 of every file, `manifest.sig` its Ed25519 signature; every command checks both
first and refuses a changed, missing or added file. That finds damage. To know who made the bundle, check the key
with the maker, and run `verify --key` from a copy of `loopworks_edge` that you trust:
`python -m loopworks_edge verify --folder THIS`.
"""


def _bytes(bundle: Bundle, variant: Variant) -> int:
    return sum(bundle.path(file).stat().st_size for file in {variant.file, *variant.files})


def _ms(variant: Variant) -> str:
    return f"{variant.latency_ms['p50']:.3g}" if "p50" in variant.latency_ms else "-"


def _notice(kept: Sequence[tuple[str, str, Bundle]], requirements: Sequence[str]) -> str:
    """Under which licences the parts are; ``kept``: folder, NAME:NUMBER and bundle of each model."""
    lines = [
        "# Licences",
        "",
        "* `loopworks/`, `loopworks_edge/`, `demo.py`, `demo.sh`: Loopworks, Apache-2.0 (`LICENSE`).",
        *(
            f"* `{folder}/`: the model {ref}, made with recipe {bundle.recipe} from dataset version "
            f"{bundle.version}; its owner says under which terms it may be used, and so does the owner of that data."
            for folder, ref, bundle in kept
        ),
        "",
        "Not in the bundle, and installed from their makers:",
        "",
    ]
    for line in requirements:
        name, licence, url = NOTICES[line.partition("==")[0]]
        lines.append(f"* {name}: {licence}, {url}")
    return "\n".join(lines) + "\n"
