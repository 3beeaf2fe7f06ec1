"""``loopworks deploy --ray``."""

import threading
from typing import TYPE_CHECKING

from loopworks.cli.output import Out

if TYPE_CHECKING:
    from loopworks.store.deployments import Deployment
    from loopworks.workspace import Workspace


def put_on(space: "Workspace", out: Out, used: "Deployment", *, replicas: int, port: int) -> None:
    """Let a deployment answer on Ray; on this machine until Ctrl-C, on a cluster until it is taken off."""
    done = space.serve_on_ray(used.name, replicas=replicas, port=port)
    is_here = not space.settings.ray_address
    out.say(f"{done.name} answers on {done.url}, {done.replicas} replicas" + (" (Ctrl-C ends it)" if is_here else ""))
    out.done({"deployment": used.to_json(), "ray": done.to_json()})
    if not is_here:
        return
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        out.say("stopping")
    finally:
        space.stop_on_ray(done.name)


def take_off(space: "Workspace", out: Out, name: str) -> None:
    """Take a deployment off the cluster."""
    space.stop_on_ray(name)
    out.say(f"{name} answers no more on Ray")
    out.done({"ray": {"name": name, "replicas": 0}})
