"""A manifest against KServe's and Kubernetes' own classes: names and types of every field, and required ones.

Reads the paths of YAML files as arguments, and prints path -> list of faults as JSON. The classes are generated from
the same Go types as the cluster's CRD; a cluster drops or refuses what they do not know.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLAIN: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}
QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
"""Source: apimachinery, ``resource.Quantity``."""


def faults(value: Any, kind: str, where: str, classes: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a value that must be of a type, as the generated classes write types."""
    if found := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where} must be a list; got {value!r}"
            return
        for at, one in enumerate(value):
            yield from faults(one, found[1], f"{where}[{at}]", classes)
    elif found := re.fullmatch(r"[dD]ict[\[(]str, (.+)[\])]", kind):
        if not isinstance(value, dict):
            yield f"{where} must be an object; got {value!r}"
            return
        for name, one in value.items():
            yield from faults(one, found[1], f"{where}.{name}", classes)
            if ".resources." in f"{where}." and not QUANTITY.fullmatch(str(one)):
                yield f"{where}.{name} must be a quantity; got {one!r}"
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (kind != "bool" and isinstance(value, bool)):
            yield f"{where} must be {kind}; got {value!r}"
    elif kind in classes:
        yield from _of_class(value, classes[kind], where, classes)
    else:
        raise TypeError(f"{where}: no class {kind}")


def _of_class(value: Any, known: Any, where: str, classes: dict[str, Any]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} must be an object; got {value!r}"
        return
    names = {told: ours for ours, told in known.attribute_map.items()}
    for name, one in value.items():
        if name in names:
            yield from faults(one, known.openapi_types[names[name]], f"{where}.{name}", classes)
        else:
            yield f"{where} must have known fields; got {name}"
    try:  # the constructors check what is required
        known(**{names[name]: one for name, one in value.items() if name in names})
    except ValueError as error:
        yield f"{where}: {error}"


def main(paths: list[str]) -> dict[str, list[str]]:
    """Faults of each file."""
    import kserve
    import yaml
    from kubernetes.client import models

    classes = {**{name: getattr(models, name) for name in dir(models)}, **vars(kserve)}
    PLAIN["IntOrString"] = (int, str)
    found = {}
    for path in paths:
        body = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        told = list(faults(body, "V1beta1InferenceService", body.get("kind", "file"), classes))
        if (body.get("apiVersion"), body.get("kind")) != ("serving.kserve.io/v1beta1", "InferenceService"):
            told.append(f"apiVersion must be serving.kserve.io/v1beta1; got {body.get('apiVersion')!r}")
        found[path] = told
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
