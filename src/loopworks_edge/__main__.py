"""``python -m loopworks_edge``: the command line of an edge bundle."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopworks.core.content import read_file
from loopworks.core.errors import Invalid, LoopworksError
from loopworks.infer.items import Asked
from loopworks_edge import bench, manifest, model


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 done, 1 failure, 2 wrong usage or data, 3 some left out."""
    asked = _parser().parse_args(words)
    try:
        code: int = asked.run(asked)
    except LoopworksError as error:
        print(f"error[{error.code}]: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return code


def _predict(asked: argparse.Namespace) -> int:
    sources: list[Asked] = [*asked.text, *asked.files]
    if not sources:
        raise Invalid("what to predict", "at least one file, or --text", "nothing")
    edge = model.open(asked.folder)
    predictor = edge.load(asked.variant, threads=asked.threads)
    try:
        answers, problems = edge.predict(predictor, sources)
    finally:
        predictor.close()
    if asked.json:
        body = {"deployment": edge.manifest.name, "predictions": answers, "problems": [p.to_json() for p in problems]}
        _print(body)
    else:
        for answer in answers:
            facts = {key: value for key, value in answer.items() if key not in ("id", "name", "item")}
            print(f"{answer['name']}: {json.dumps(facts, ensure_ascii=False)}")
    for problem in problems:
        print(f"{problem.where}: error[{problem.error}]: {problem.message}", file=sys.stderr)
    return (3 if answers else 2) if problems else 0


def _serve(asked: argparse.Namespace) -> int:
    from loopworks_edge.server import EdgeServer

    edge = model.open(asked.folder)
    token = asked.token or (read_file(asked.token_file).decode("utf-8", "replace").strip() if asked.token_file else "")
    server = EdgeServer(
        edge,
        host=asked.host,
        port=asked.port,
        token=token,
        is_open=asked.open,
        variant=asked.variant,
        workers=asked.threads or bench.host()["cores"],
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    print(f"{edge.manifest.name} answers on {server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.close()
    return 0


def _bench(asked: argparse.Namespace) -> int:
    if asked.only:
        _print(bench.one(asked.folder, asked.only, asked.seconds, asked.threads, asked.files))
        return 0
    found = bench.measure(
        asked.folder, seconds=asked.seconds, threads=asked.threads, rounds=asked.rounds, files=asked.files
    )
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        there = "" if found["kind"] == bench.KIND_CHAIN else "; on the machine that made the bundle: "
        print(f"written to {asked.out}{there}" + (f"loopworks optimize --on {asked.out.name}" if there else ""))
    else:
        _print(found)
    return 0


def _verify(asked: argparse.Namespace) -> int:
    found = manifest.verify(asked.folder, asked.key)
    print(f"{len(found.sha256)} files are as they were signed by key {found.key}")
    if not asked.key:
        print("compare the key with the maker's (loopworks bundle --key), or give it with --key")
    if caches := manifest.caches(asked.folder):
        print(f"{caches} files of compiled Python (__pycache__) are not signed; Python makes them anew when removed")
    return 0


def _print(body: Any) -> None:
    print(json.dumps(body, indent=2, ensure_ascii=False))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loopworks_edge", description="Run the model or chain of this bundle."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("--folder", type=Path, default=model.HOME, help="the bundle; default the one of this code")
        return made

    def runs(made: argparse.ArgumentParser) -> None:
        made.add_argument("--threads", type=int, default=0, help="threads; 0 is one per core")

    predict = command("predict", _predict, "Answer files: images, texts, or CSV, TSV, JSON and JSON lines with rows.")
    predict.add_argument("files", type=Path, nargs="*", metavar="FILE")
    predict.add_argument("--text", action="append", default=[], help="a text to ask about; repeat it")
    predict.add_argument("--json", action="store_true", help="print JSON")
    serve = command("serve", _serve, "Answer over HTTP: Open Inference Protocol v2 and POST /predict/NAME.")
    serve.add_argument("--host", default="127.0.0.1", help="address to bind")
    serve.add_argument("--port", type=int, default=8700, help="port; 0 takes a free one")
    serve.add_argument("--token", default="", help="secret that clients must send")
    serve.add_argument("--token-file", type=Path, help="file that holds the secret")
    serve.add_argument("--open", action="store_true", help="answer other machines without a token")
    measure = command("bench", _bench, "Measure latency, throughput, memory and start of every variant.")
    measure.add_argument("files", type=Path, nargs="*", metavar="FILE", help="of a chain: images; default noise")
    measure.add_argument("--seconds", type=float, default=2.0, help="per variant, round and half of the work")
    measure.add_argument("--rounds", type=int, default=bench.ROUNDS, help="how often each variant is visited")
    measure.add_argument("--out", type=Path, help="JSON file to write")
    measure.add_argument("--only", default="", help=argparse.SUPPRESS)
    verify = command("verify", _verify, "Check every file against the signed manifest.")
    verify.add_argument("--key", default="", help="public key of the maker, in hex")
    for made in (predict, serve):
        made.add_argument("--variant", default="", help="which variant answers; default the chosen one")
    for made in (predict, serve, measure):
        runs(made)
    return parser


if __name__ == "__main__":
    sys.exit(main())
