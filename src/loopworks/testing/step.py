"""What every plug-in with parameters promises, and what a step promises on top of it."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from loopworks.core import params as parameters
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Invalid
from loopworks.core.registry import plugins
from loopworks.testing.context import Recorder
from loopworks.testing.snapshot import difference, snapshot


class PluginContract:
    """A plug-in is a frozen dataclass: its fields are its parameters, and building it does no work.

    Set ``plugin`` (the class); ``params`` where a field has no default or the default is slow to test; ``refused``
    to values outside a parameter's range; ``name`` to prove that the registry knows it.
    """

    plugin: ClassVar[type[Any]]
    params: ClassVar[Mapping[str, Any]] = {}
    refused: ClassVar[Mapping[str, Any]] = {}
    """Parameter -> a value that must be refused."""
    name: ClassVar[str] = ""
    """Name in the registry, e.g. ``train.mine``; empty leaves that check out."""

    def build(self) -> Any:
        """The plug-in under test."""
        return self.plugin(**self.params)

    def test_parameters_are_the_fields_of_a_frozen_dataclass(self) -> None:
        assert dataclasses.is_dataclass(self.plugin), f"{self.plugin.__name__} must be a dataclass"
        assert self.plugin.__dataclass_params__.frozen, f"{self.plugin.__name__} must be a frozen dataclass"  # type: ignore[attr-defined]
        twins = self.build(), self.build()
        assert twins[0] == twins[1], "two plug-ins with equal parameters must be equal: a field is not a parameter"

    def test_building_does_no_work(self) -> None:
        self.build()  # a plug-in may import its own parts once
        before = set(sys.modules)
        with _watched() as events:
            self.build()
        assert not events, f"building must do no work; it did {', '.join(sorted(set(events)))}"
        new = sorted(set(sys.modules) - before)
        assert not new, f"building must import nothing; it imported {', '.join(new)}"

    def test_parameters_can_be_shown_as_a_form(self) -> None:
        form = parameters.schema(self.plugin).get("properties", {})
        known = set(form)
        fields = {field.name for field in dataclasses.fields(self.plugin) if field.init}
        assert known == fields, f"the form must ask for {sorted(fields)}; it asks for {sorted(known)}"
        silent = sorted(name for name, field in form.items() if not field.get("description"))
        assert not silent, f"a text must stand under each parameter (use_attribute_docstrings); none for {silent}"
        unknown = set(self.refused) - fields
        assert not unknown, f"refused names parameters that do not exist: {sorted(unknown)}"

    def test_values_out_of_range_are_refused_by_name(self) -> None:
        for field, value in self.refused.items():
            try:
                parameters.build(self.plugin, {**self.params, field: value}, self.name)
            except Invalid as error:
                assert field in error.message, f"the error must name {field}; got {error.message}"
            else:
                raise AssertionError(f"{field} = {value!r} must be refused with Invalid; it was taken")

    def test_registry_knows_the_name(self) -> None:
        if self.name:
            assert plugins.get(self.name) is self.plugin, f"{self.name} must be {self.plugin.__name__} in the registry"


class StepContract(PluginContract):
    """A step makes the same artifact from the same seed and source, changes nothing else, and stops when asked.

    Give ``source``: what the step is run on, small enough that a run takes a second or two.
    """

    ticks_to_stop: ClassVar[int] = 0
    """How many further ticks a step may make after it was told to stop."""

    def source(self, folder: Path) -> Any:
        """A source for the step; ``folder`` is empty and the test's own. Two calls give equal sources."""
        raise NotImplementedError("give the step's source")

    def artifact(self, result: Any) -> Any:
        """What must be the same in two results; leave out wall times here."""
        return result

    def run(self, source: Any, ctx: Context) -> Any:
        """Run the step under test."""
        return self.build().run(source, ctx)

    def test_same_seed_and_source_give_the_same_artifact(self, tmp_path: Path) -> None:
        found = []
        for turn in ("first", "second"):
            ctx = Recorder().context(_folder(tmp_path, turn), seed=7)
            found.append(snapshot(self.artifact(self.run(self.source(_folder(tmp_path, f"{turn}-source")), ctx))))
        apart = difference(*found)
        assert not apart, f"same seed and source must give the same artifact; they differ at {apart}"

    def test_source_is_left_untouched(self, tmp_path: Path) -> None:
        source = self.source(_folder(tmp_path, "source"))
        before = snapshot(source)
        self.run(source, Recorder().context(_folder(tmp_path, "run")))
        apart = difference(before, snapshot(source))
        assert not apart, f"the source must stay as it was; it changed at {apart}"

    def test_progress_is_a_share_between_0_and_1(self, tmp_path: Path) -> None:
        recorder = Recorder()
        self.run(self.source(_folder(tmp_path, "source")), recorder.context(_folder(tmp_path, "run")))
        assert recorder.ticks, "a step must tick, or nobody sees its progress and it cannot be stopped"
        bad = [share for share, _ in recorder.ticks if not 0.0 <= share <= 1.0]
        assert not bad, f"the share done must be in 0..1; got {bad[0]}"

    def test_stops_when_asked_before_the_start(self, tmp_path: Path) -> None:
        self._stop(tmp_path, 0)

    def test_stops_when_asked_halfway(self, tmp_path: Path) -> None:
        recorder = Recorder()
        self.run(self.source(_folder(tmp_path, "whole-source")), recorder.context(_folder(tmp_path, "whole")))
        self._stop(tmp_path, recorder.asked // 2)

    def _stop(self, tmp_path: Path, after: int) -> None:
        source = self.source(_folder(tmp_path, "source"))
        before = snapshot(source)
        recorder = Recorder(stop_after=after)
        try:
            self.run(source, recorder.context(_folder(tmp_path, "run")))
        except Cancelled:
            late = recorder.asked_after_stop
            assert late <= self.ticks_to_stop, f"must stop within {self.ticks_to_stop} ticks; went on for {late}"
            apart = difference(before, snapshot(source))
            assert not apart, f"a stopped step must leave the source as it was; it changed at {apart}"
        else:
            raise AssertionError(f"must raise Cancelled when asked to stop after {after} ticks; it ran to its end")


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


_WORK = frozenset({"open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"})
_events: list[list[str]] = []
_hooked: list[bool] = []


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """What the interpreter's audit hook sees of files, network and processes inside the block."""
    if not _hooked:  # an audit hook stays for the life of the process, so there is one, idle outside of blocks
        sys.addaudithook(lambda event, _: _events[-1].append(event) if _events and event in _WORK else None)
        _hooked.append(True)
    events: list[str] = []
    _events.append(events)
    try:
        yield events
    finally:
        _events.remove(events)
