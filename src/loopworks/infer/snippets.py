"""Lines to paste: how to ask one deployment, in the languages that people ask from."""

from collections.abc import Mapping
from urllib.parse import quote

from loopworks.core.bundle import Bundle

FILES = {"image": "photo.jpg", "text": "text.txt", "row": "rows.csv"}
KINDS = {"image": "image/jpeg", "text": "text/plain", "row": "text/csv"}


def write(name: str, bundle: Bundle, *, url: str, grpc: str = "", has_token: bool = False) -> Mapping[str, str]:
    """Language -> a whole program that asks the deployment ``name``.

    Args:
        name, bundle: the deployment and what it runs.
        url: where the server answers.
        grpc: HOST:PORT of its gRPC port; empty where it has none.
        has_token: whether clients must send one; it is read from the variable LOOPWORKS_TOKEN.
    Tensors go as binary data: as JSON a picture takes a hundred times as long to read.
    """
    media = bundle.rule.media
    target, file, kind = f"{url}/predict/{quote(name)}", FILES[media], KINDS[media]
    found = {
        "curl": _curl(target, file, kind, has_token),
        "python": _python(target, file, kind, has_token),
        "javascript": _javascript(target, file, kind, has_token),
    }
    if media == "image":
        found["tritonclient"] = _triton(name, bundle, url, has_token)
        if grpc:
            found["tritonclient-grpc"] = _triton(name, bundle, grpc, has_token, module="grpc")
    return found


def _curl(target: str, file: str, kind: str, has_token: bool) -> str:
    token = ' -H "Authorization: Bearer $LOOPWORKS_TOKEN"' if has_token else ""
    return f"curl --fail-with-body --data-binary @{file} -H 'Content-Type: {kind}'{token} '{target}'\n"


def _python(target: str, file: str, kind: str, has_token: bool) -> str:
    more = ', "Authorization": f"Bearer {os.environ[\'LOOPWORKS_TOKEN\']}"' if has_token else ""
    return f"""import json
{"import os" + chr(10) if has_token else ""}import urllib.request
from pathlib import Path

request = urllib.request.Request(
    "{target}",
    data=Path("{file}").read_bytes(),
    headers={{"Content-Type": "{kind}"{more}}},
)
with urllib.request.urlopen(request) as answer:
    print(json.load(answer)["predictions"])
"""


def _javascript(target: str, file: str, kind: str, has_token: bool) -> str:
    more = ", Authorization: `Bearer ${process.env.LOOPWORKS_TOKEN}`" if has_token else ""
    return f"""import {{ readFile }} from "node:fs/promises";

const answer = await fetch("{target}", {{
  method: "POST",
  headers: {{ "Content-Type": "{kind}"{more} }},
  body: await readFile("{file}"),
}});
if (!answer.ok) throw new Error(await answer.text());
console.log((await answer.json()).predictions);
"""


def _triton(name: str, bundle: Bundle, address: str, has_token: bool, module: str = "http") -> str:
    (spec,) = bundle.inputs
    height, width = spec.shape[1:3]
    head = ', headers={"authorization": f"Bearer {os.environ[\'LOOPWORKS_TOKEN\']}"}' if has_token else ""
    output = bundle.outputs[0].name
    return f"""{"import os" + chr(10) + chr(10) if has_token else ""}import numpy as np
import tritonclient.{module} as client
from PIL import Image

with Image.open("photo.jpg") as photo:  # the server's /predict route cuts and turns pictures as the model learnt them
    pixels = np.asarray(photo.convert("RGB").resize(({width}, {height})))[None]
asked = client.InferInput("{spec.name}", list(pixels.shape), "{spec.datatype}")
asked.set_data_from_numpy(pixels)
remote = client.InferenceServerClient("{address.removeprefix("http://")}")
print(remote.infer("{name}", [asked]{head}).as_numpy("{output}"))
"""
