"""Steps that the tests of jobs run; the worker imports this module because the tests name it in ``preload``."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins


@plugins.add("job.test-add")
def add(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    print("adding", params["left"], params["right"])
    print("a warning", file=sys.stderr)
    for step in range(3):
        ctx.metric("loss", step, 1.0 / (step + 1))
    ctx.tick(0.5, "half")
    return {"sum": params["left"] + params["right"], "location": location, "seed": ctx.seed}


@plugins.add("job.test-refuse")
def refuse(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    raise Invalid("epochs", "at least 1", params["epochs"], "give more")


@plugins.add("job.test-break")
def break_(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    raise ZeroDivisionError("nothing to divide by")


@plugins.add("job.test-odd-result")
def odd_result(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    return {"path": Path(location)}


@plugins.add("job.test-count")
def count(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Count to ``until`` with a checkpoint a step; wait at ``gate`` for the file ``go``; ``pids`` tells who counted."""
    done = ctx.scratch / "done"
    values = [int(line) for line in done.read_text().split()] if done.exists() else []
    with (ctx.scratch / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for value in range(len(values), params["until"]):
        while value == params["gate"] and not (ctx.scratch / "go").exists():
            ctx.tick(value / params["until"], f"at {value}")
            time.sleep(0.01)
        values.append(value * value)
        done.write_text("\n".join(map(str, values)))
        ctx.tick((value + 1) / params["until"], f"counted {value}")
        ctx.metric("value", value, values[-1])
    return {"sum": sum(values)}


@plugins.add("job.test-hold")
def hold(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Run until the file ``let-go`` is there; ``deaf`` ignores the wish to stop."""
    (ctx.scratch / "pid").write_text(str(os.getpid()))
    ctx.report(0.1, "holding")
    while not (ctx.scratch / "let-go").exists():
        if not params.get("deaf"):
            ctx.tick(0.1, "holding")
        time.sleep(0.01)
    return {}


@plugins.add("job.test-die")
def die(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Die ``times`` times, then say how often the step was started."""
    starts = ctx.scratch / "starts"
    seen = int(starts.read_text()) if starts.exists() else 0
    starts.write_text(str(seen + 1))
    if seen < params["times"]:
        os.kill(os.getpid(), signal.Signals(params.get("signal", signal.SIGKILL)))
        time.sleep(60)
    return {"starts": seen + 1}


@plugins.add("job.test-spawn")
def spawn(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Start a process that would stay for long, and hold."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    (ctx.scratch / "grandchild").write_text(str(pid))
    return hold(location, {"deaf": True}, ctx)


@plugins.add("job.test-chatter")
def chatter(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    for number in range(params["lines"]):
        print("x" * 200, number)
        ctx.report(number / params["lines"], f"line {number}")
    sys.stdout.write("no newline at the end")
    return {"lines": params["lines"]}


@plugins.add("job.test-first-line")
def first_line(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    return {"at": time.time()}


@plugins.add("job.test-torch")
def with_torch(location: str, params: Mapping[str, Any], ctx: Context) -> dict[str, Any]:
    """Use OpenMP and autograd after the fork."""
    was_there = "torch" in sys.modules
    import torch

    torch.set_num_threads(2)
    weights = torch.ones(512, 512, requires_grad=True)
    total = (torch.ones(512, 512) @ weights).sum()
    (grad,) = torch.autograd.grad(total, [weights])
    return {"was_there": was_there, "grad": float(grad[0, 0])}
