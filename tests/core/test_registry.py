"""Plug-ins by name, from our own modules and from outside packages."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.core.registry import Registry, plugins


@pytest.fixture
def registry() -> Registry:
    return Registry(group="loopworks.tests.nothing")


def outside(folder: Path, name: str, entries: dict[str, str], modules: dict[str, str]) -> None:
    """Write an installed package as pip leaves it: modules and a ``dist-info`` with entry points."""
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = "\n".join(f"{key} = {value}" for key, value in entries.items())
    (info / "entry_points.txt").write_text(f"[loopworks.tests]\n{lines}\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages; modules imported from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


ADD = "from loopworks_tests_registry import registry\n@registry.add({name!r})\nclass Mine:\n    pass\n"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that outside modules can import, filled from the group ``loopworks.tests``."""
    import types

    module = types.ModuleType("loopworks_tests_registry")
    registry = Registry(group="loopworks.tests")
    module.__dict__["registry"] = registry
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return registry


def test_a_plugin_is_found_by_its_name(registry: Registry) -> None:
    @registry.add("train.mine")
    class Mine:
        pass

    assert registry.get("train.mine") is Mine
    assert registry.names() == ["train.mine"]
    assert registry.names("train") == ["train.mine"]
    assert registry.names("label") == []


def test_an_unknown_name_lists_those_of_its_stage(registry: Registry) -> None:
    for name in ("train.b", "train.a", "label.c"):
        registry.add(name)(type(name, (), {}))
    with pytest.raises(NotFound) as caught:
        registry.get("train.nope")
    assert caught.value.message == "plug-in 'train.nope' does not exist"
    assert caught.value.hint == "known: train.a, train.b"


@pytest.mark.parametrize(
    "name", ["", "train", "train.", ".mine", "Train.mine", "train.my plug-in", "train.mine\n", "a..b"]
)
def test_a_name_of_another_form_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(Invalid, match="must be stage.name"):
        registry.add(name)


def test_two_plugins_cannot_share_a_name(registry: Registry) -> None:
    class First:
        pass

    class Second:
        pass

    registry.add("train.mine")(First)
    with pytest.raises(Conflict) as caught:
        registry.add("train.mine")(Second)
    assert "First" in caught.value.message
    assert "Second" in caught.value.message
    assert registry.get("train.mine") is First


def test_a_module_that_is_imported_again_replaces_its_own_plugin(registry: Registry) -> None:
    def define() -> type:
        @registry.add("train.mine")
        class Mine:
            pass

        return Mine

    define()
    again = define()
    assert registry.get("train.mine") is again


def test_an_outside_package_registers_through_its_entry_point(site: Path, shared: Registry) -> None:
    outside(site, "good", {"plugins": "good_plugin"}, {"good_plugin": ADD.format(name="label.good")})
    assert shared.names() == ["label.good"]
    assert shared.get("label.good").__module__ == "good_plugin"
    assert shared.broken() == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_package_at_all", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
        ("import sys; sys.exit('licence expired')", "SystemExit: licence expired"),
        ("def broken(:", "SyntaxError"),
        (ADD.format(name="Wrong Name"), "Invalid: plug-in name must be"),
    ],
    ids=["import", "raises", "exits", "syntax", "name"],
)
def test_a_broken_outside_package_is_reported_and_never_fatal(
    site: Path, shared: Registry, text: str, reason: str
) -> None:
    outside(site, "bad", {"plugins": "bad_plugin"}, {"bad_plugin": text})
    outside(site, "good", {"plugins": "good_plugin"}, {"good_plugin": ADD.format(name="label.good")})
    assert shared.names() == ["label.good"]
    assert list(shared.broken()) == ["plugins (bad_plugin)"]
    assert shared.broken()["plugins (bad_plugin)"].startswith(reason)
    with pytest.raises(NotFound) as caught:
        shared.get("label.bad")
    assert "plugins (bad_plugin) could not be loaded" in caught.value.hint
    assert "label.good" in caught.value.hint


def test_two_outside_packages_with_one_name_are_reported(site: Path, shared: Registry) -> None:
    text = ADD.format(name="label.same")
    outside(site, "one", {"plugins": "one_plugin"}, {"one_plugin": text})
    outside(site, "two", {"plugins": "two_plugin"}, {"two_plugin": text})
    assert shared.names() == ["label.same"]
    (reason,) = shared.broken().values()
    assert "one_plugin.Mine" in reason
    assert "two_plugin.Mine" in reason


def test_entry_points_are_loaded_once(site: Path, shared: Registry) -> None:
    outside(site, "good", {"plugins": "good_plugin"}, {"good_plugin": ADD.format(name="label.good")})
    first = shared.get("label.good")
    del sys.modules["good_plugin"]
    assert shared.get("label.good") is first


def test_a_plugin_may_look_up_others_while_it_is_loaded(site: Path, shared: Registry) -> None:
    text = "from loopworks_tests_registry import registry\nregistry.names()\n" + ADD.format(name="label.good")
    outside(site, "good", {"plugins": "good_plugin"}, {"good_plugin": text})
    assert shared.names() == ["label.good"]
    assert shared.broken() == {}


def test_loading_and_importing_a_plugin_at_once_does_not_deadlock(site: Path, shared: Registry) -> None:
    """One thread loads the entry points while another one imports the same module by hand."""
    text = "from loopworks_tests_registry import started, go\nstarted.set()\ngo.wait(20)\n" + ADD.format(
        name="label.slow"
    )
    outside(site, "slow", {"plugins": "slow_plugin"}, {"slow_plugin": text})
    started, go = threading.Event(), threading.Event()
    sys.modules["loopworks_tests_registry"].__dict__.update(started=started, go=go)
    importer = threading.Thread(target=__import__, args=("slow_plugin",), daemon=True)
    importer.start()
    assert started.wait(20)
    loader = threading.Thread(target=shared.load, daemon=True)
    loader.start()  # takes the loading lock, then waits for the module that the importer holds
    loader.join(0.3)
    go.set()
    importer.join(20)
    loader.join(20)
    assert not importer.is_alive()
    assert not loader.is_alive()
    assert shared.names() == ["label.slow"]


def test_our_own_plugins_are_registered_the_way_an_outside_package_registers() -> None:
    assert "task.image-classification" in plugins.names("task")
    assert "runtime.onnxruntime" in plugins.names("runtime")
    assert not [name for name in plugins.broken() if "loopworks" in name]
