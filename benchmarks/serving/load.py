"""A closed loop of clients from another process: wrk where it is installed, otherwise our own."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients saw of a server."""

    per_s: float
    p50_ms: float
    p99_ms: float
    per_cpu_s: float
    """Answers per second that the server's processes computed: what one core of its own would give."""


def measure(
    server: psutil.Process, url: str, path: str, body: bytes, headers: Mapping[str, str], clients: int, seconds: float
) -> Load:
    """So many clients, each asking again as soon as it has its answer."""
    with tempfile.TemporaryDirectory() as name:
        content = Path(name) / "body"
        content.write_bytes(body)
        before = _cpu_s(server)
        if program := shutil.which("wrk"):
            script = Path(name) / "ask.lua"
            told = "".join(f'wrk.headers["{n}"]="{v}"\n' for n, v in headers.items())
            script.write_text(f'wrk.method="POST"\n{told}local f=io.open("{content}","rb")\nwrk.body=f:read("*a")\n')
            words = [program, "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(script), url + path]
            out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            found = _wrk(out)
        else:
            words = [sys.executable, "-m", __name__, url, path, str(content), json.dumps(dict(headers))]
            done = subprocess.run([*words, str(clients), f"{seconds}"], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
        used = _cpu_s(server) - before
    return Load(**{name: found[name] for name in ("per_s", "p50_ms", "p99_ms")}, per_cpu_s=found["count"] / used)


def _cpu_s(server: psutil.Process) -> float:
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _wrk(out: str) -> dict[str, float]:
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(out)

    def ms(share: str) -> float:
        found = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", out)
        assert found is not None, out
        return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]

    per_s, count = re.search(r"Requests/sec:\s+([\d.]+)", out), re.search(r"(\d+) requests in", out)
    assert per_s is not None, out
    assert count is not None, out
    return {"per_s": float(per_s[1]), "count": float(count[1]), "p50_ms": ms("50"), "p99_ms": ms("99")}


async def ask(
    url: str, path: str, body: bytes, headers: Mapping[str, str], clients: int, seconds: float
) -> list[float]:
    """The times of all answers, in seconds."""
    parts = urlsplit(url)
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{told}Content-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while (began := time.perf_counter()) < end:
            writer.write(request)
            got = await reader.readuntil(b"\r\n\r\n")
            if not got.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(got)
            length = re.search(rb"content-length: (\d+)", got)
            assert length is not None
            await reader.readexactly(int(length[1]))
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return sorted(took)


if __name__ == "__main__":
    address, route, file, given, many, duration = sys.argv[1:]
    times = asyncio.run(ask(address, route, Path(file).read_bytes(), json.loads(given), int(many), float(duration)))
    at = {name: times[int(share * (len(times) - 1))] * 1000 for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))}
    print(json.dumps({"per_s": len(times) / float(duration), "count": len(times), **at}))
