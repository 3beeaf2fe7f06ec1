"""Files that carry an edge bundle into a container and onto Kubernetes: a container file, and KServe's manifest."""

import platform
import re
from collections.abc import Sequence

import yaml

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid
from loopworks_edge.manifest import Manifest

PORT = 8080
USER = 10001
"""Nobody in particular: neither root nor anyone of the base image."""
_IMAGE = re.compile(r"[a-z0-9]([a-z0-9._:/@-]*[a-z0-9])?")
_LOOK = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/v2/health/ready', timeout=5)"


def container(about: Manifest) -> dict[str, str]:
    """``Containerfile`` and what of the folder stays out of the image.

    The base image is that of the Python which wrote the bundle, and the packages are those of ``requirements.txt``.
    Without arguments it asks for a token in ``/run/secrets/loopworks-token``.
    """
    return {
        "Containerfile": f"""# Answers on port {PORT}: podman build --format docker -t {_label(about.name)} .
# podman run -p 127.0.0.1:{PORT}:{PORT} -v ./token:/run/secrets/loopworks-token:ro,Z {_label(about.name)}
FROM docker.io/library/python:{platform.python_version()}-slim-bookworm

WORKDIR /opt/model
COPY requirements.txt ./
RUN pip install --no-cache-dir --no-compile -r requirements.txt
COPY . ./
RUN ["python", "-B", "-m", "loopworks_edge", "verify", "--key", "{about.key}"]

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER {USER}:{USER}
EXPOSE {PORT}
HEALTHCHECK --interval=30s --timeout=6s --start-period=30s --retries=3 \\
  CMD ["python", "-c", "{_LOOK}"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "loopworks_edge", "serve", "--host", "0.0.0.0", "--port", "{PORT}"]
CMD ["--token-file", "/run/secrets/loopworks-token"]
""",
        ".containerignore": "**/__pycache__\n",
    }


def kserve(kept: Bundle | Sequence[Bundle], about: Manifest, image: str = "") -> dict[str, str]:
    """``kserve.yaml``: an InferenceService of the image that ``Containerfile`` builds.

    The cluster's gateway decides who may ask, so the container itself asks for no token.

    Args:
        kept: the model, or the models of a chain, for how much memory they may take.
        about: name and number.
        image: where the cluster pulls it from; default ``NAME:NUMBER``.
    Raises: Invalid: no name of an image.
    """
    image = image or f"{_label(about.name)}:{about.number}"
    if not _IMAGE.fullmatch(image):
        raise Invalid("image", "a name such as registry.example.org/team/litter:2", image)
    models = [kept] if isinstance(kept, Bundle) else kept
    size = sum(one.path(file).stat().st_size for one in models for variant in one.variants for file in variant.files)
    megabytes = 512 + 3 * -(-size // 2**20)
    ready = {"httpGet": {"path": f"/v2/models/{about.name}/ready", "port": PORT}}
    body = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": _label(about.name),
            "labels": {"app.kubernetes.io/managed-by": "loopworks", "app.kubernetes.io/version": str(about.number)},
            "annotations": {"loopworks/model": f"{about.model}:{about.number}", "loopworks/key": about.key},
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "timeout": 60,
                "containers": [
                    {
                        "name": "kserve-container",
                        "image": image,
                        "args": ["--open"],
                        "ports": [{"containerPort": PORT, "name": "http1", "protocol": "TCP"}],
                        "startupProbe": {**ready, "periodSeconds": 2, "failureThreshold": 60},
                        "readinessProbe": {**ready, "periodSeconds": 10, "timeoutSeconds": 5},
                        "livenessProbe": {
                            "httpGet": {"path": "/v2/health/live", "port": PORT},
                            "periodSeconds": 20,
                            "timeoutSeconds": 5,
                        },
                        "resources": {
                            "requests": {"cpu": "1", "memory": f"{megabytes}Mi"},
                            "limits": {"cpu": "2", "memory": f"{2 * megabytes}Mi"},
                        },
                        "securityContext": {
                            "runAsNonRoot": True,
                            "runAsUser": USER,
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                    }
                ],
            }
        },
    }
    return {"kserve.yaml": yaml.safe_dump(body, sort_keys=False)}


def _label(name: str) -> str:
    """A name as Kubernetes and container tools allow it (RFC 1123): small letters, digits and hyphens."""
    found = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-")
    return found if found and found[0].isalpha() else f"model-{found}".strip("-")
