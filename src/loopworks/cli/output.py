"""How every command speaks: people read text, scripts read one JSON object, and both get the same errors."""

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopworks.core.errors import LoopworksError
from loopworks.core.units import bytes_text

if TYPE_CHECKING:
    from rich.progress import Progress

    from loopworks.jobs import Job
    from loopworks.workspace import Workspace

WorkspaceOption = Annotated[
    str, typer.Option("--workspace", "-w", envvar="LOOPWORKS_WORKSPACE", help="Folder of the workspace.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, text on stderr.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for it, or leave it to the worker as a job.")]
ReportOption = Annotated[str, typer.Option(help="Also write a page with pictures or plots to this HTML file.")]

EXIT_BUG = 1
EXIT_STOPPED = 130
FILE_WIDTH = 140  # columns of a table that goes to a file or a pipe


class Options:
    """Options of the whole program."""

    debug: bool = False
    """Show the traceback of an unexpected error."""


class Out:
    """Where a command's words go: with ``--json`` text goes to stderr and the result to stdout."""

    def __init__(self, as_json: bool) -> None:
        """Speak to people, or to a script."""
        from rich.console import Console

        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = FILE_WIDTH

    def say(self, text: str) -> None:
        """One line for people."""
        self.console.print(text, markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """A table for people; numbers stand on the right."""
        if not rows:
            self.say(f"no {columns[0]} yet" if columns[0] else "nothing")
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for i, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[i], int | float) or row[i] == "-" for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row))
        self.console.print(table)

    def done(self, result: Mapping[str, Any]) -> None:
        """The command's result, for scripts."""
        if self.as_json:
            import orjson

            sys.stdout.write(orjson.dumps(result, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
            sys.stdout.flush()

    def problems(self, problems: Sequence[Any], limit: int = 20) -> None:
        """What was wrong with parts of a batch, one line each."""
        for problem in problems[:limit]:
            hint = f" ({problem.hint})" if problem.hint else ""
            text = problem.message
            if problem.where not in text.replace("'", ""):  # some say what is wrong, and leave it to us to say where
                text = f"{problem.where}: {text}"
            self.say(f"  problem: {text}{hint}")
        if len(problems) > limit:
            self.say(f"  ... and {len(problems) - limit} more; --json lists them all")

    @contextmanager
    def progress(self, text: str) -> "Iterator[Update]":
        """A bar with the rate and the time left; see ``Update``."""
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[note]}", markup=True),
        )
        with Progress(*columns, console=self.console, transient=False) as bar:
            yield Update(bar, text)

    @contextmanager
    def job(self, text: str) -> Iterator["Callable[[Job], None]"]:
        """``progress`` for a job that is followed."""
        with self.progress(text) as update:
            yield lambda job: update(job.share, job.text)


class Update:
    """Moves a progress bar. A new piece of work begins where the share falls back: its rate is its own."""

    def __init__(self, bar: "Progress", text: str) -> None:
        """Draw on ``bar``."""
        self._bar = bar
        self._text = text
        self._task = bar.add_task(text, total=1.0, note="")
        self._share = 0.0
        self._count, self._bytes = Pace(), Pace()

    def __call__(self, share: float, note: str = "", *, done: int = 0, total: int = 0, size: int = 0) -> None:
        """Say how far it is.

        Args:
            share: done, in 0..1.
            note: short text; what is counted, where ``done`` is given.
            done: how many, for the rate; 0: the rate is that of the share.
            total: of how many; 0: not known.
            size: bytes done; 0: they do not matter.
        """
        if share < self._share:
            self._bar.reset(self._task, description=self._text)
            self._count, self._bytes = Pace(), Pace()
        self._share = share
        words = [note]
        if done:
            words = [f"{done:,}/{total:,} {note}".rstrip() if total else f"{done:,} {note}".rstrip()]
            words.append(f"{self._count.rate(done):,.0f}/s")
            if size:
                words += [bytes_text(size), f"{bytes_text(self._bytes.rate(size))}/s"]
        elif pace := self._count.rate(share * 100):
            words.append(f"{pace * 60:.3g} %/min")
        shown = ", ".join(word for word in words if word)
        self._bar.update(self._task, completed=share, note=shown.replace("[", "\\["))


class Pace:
    """How fast a count grows, over the last seconds."""

    def __init__(self, window_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Look back ``window_s`` seconds of ``clock``."""
        self._window_s = window_s
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()

    def rate(self, count: float) -> float:
        """Growth per second, now that the count is ``count``; 0 at first."""
        now = self._clock()
        if not self._seen or now - self._seen[-1][0] > 0.05:  # a fast loop must not keep millions of them
            self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] > self._window_s:
            self._seen.popleft()
        since, before = self._seen[0]
        return (count - before) / (now - since) if now > since else 0.0


def left(out: Out, job: "Job") -> None:
    """Say that a job is left to the worker."""
    out.say(f"job {job.id} waits for a worker: loopworks worker, loopworks serve, or loopworks jobs follow {job.id}")
    out.done({"job": job.to_json()})


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def face(as_json: bool) -> Iterator[Out]:
    """Run a command; every error becomes one sentence (or the JSON shape) and an exit code."""
    out = Out(as_json)
    try:
        yield out
    except LoopworksError as error:
        _show(out, error.code, error.message, error.hint, error.to_json())
        raise typer.Exit(error.exit_code) from None
    except typer.Exit:
        raise  # a command that has spoken already, and ends with its own code
    except KeyboardInterrupt:
        hint = "run the same command again to go on where it stopped"
        body = {"error": {"code": "cancelled", "message": "stopped by the user", "hint": hint}}
        _show(out, "cancelled", "stopped by the user", hint, body)
        raise typer.Exit(EXIT_STOPPED) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; Python would complain about it at exit
        raise typer.Exit(EXIT_BUG) from None
    except Exception as error:  # the top of the program: a fault of ours must not become a traceback
        if Options.debug:
            traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        hint = "this is a fault of loopworks; run again with --debug before the command to see where"
        body = {"error": {"code": "internal", "message": message, "hint": hint}}
        _show(out, "internal", message, hint, body)
        raise typer.Exit(EXIT_BUG) from None


def _show(out: Out, code: str, message: str, hint: str, body: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error[{code}]: {message}", markup=False, style="red" if console.is_terminal else None)
    if hint:
        console.print(f"  hint: {hint}", markup=False)
    out.done(body)


@contextmanager
def opened(workspace: str) -> "Iterator[Workspace]":
    """The workspace of a command, closed at its end."""
    import loopworks

    with loopworks.open(workspace, create=False) as space:
        yield space
