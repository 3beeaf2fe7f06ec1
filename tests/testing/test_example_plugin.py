"""The example package, installed into a folder as pip would do it, is found by name and keeps its contract."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugin"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    return install(EXAMPLE, tmp_path)


def install(example: Path, tmp_path: Path) -> Path:
    """An example's module and metadata, laid out like a wheel: building one would need the network."""
    project = tomllib.loads((example / "pyproject.toml").read_text(encoding="utf-8"))
    for module in project["tool"]["setuptools"]["py-modules"]:
        (tmp_path / f"{module}.py").write_bytes((example / f"{module}.py").read_bytes())
    name, version = project["project"]["name"], project["project"]["version"]
    info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    groups = project["project"]["entry-points"]
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), str(ROOT / "src")])}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_an_installed_package_is_found_by_name_without_being_imported(installed: Path) -> None:
    code = (
        "from loopworks.core import params\nfrom loopworks.core.registry import plugins\n"
        "kind = plugins.get('label.spread')\n"
        "print(kind.__module__, params.build(kind, {'sure': '0.5'}), 'label.spread' in plugins.names('label'))"
    )
    done = run(installed, "-c", code)
    assert done.stdout.strip() == "loopworks_spread SpreadSampler(sure=0.5) True", done.stderr


def test_a_range_of_an_outside_plugin_is_kept(installed: Path) -> None:
    code = (
        "from loopworks.core import params\nfrom loopworks.core.registry import plugins\n"
        "params.build(plugins.get('label.spread'), {'sure': 2}, 'label.spread')"
    )
    done = run(installed, "-c", code)
    assert "label.spread.sure must be less than or equal to 1; got 2" in done.stderr


def test_the_examples_own_tests_pass(installed: Path) -> None:
    tests = str(EXAMPLE / "test_loopworks_spread.py")
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", tests)
    assert done.returncode == 0, done.stdout
    assert "[100%]" in done.stdout


@pytest.mark.train
def test_a_recipe_of_one_file_is_found_and_keeps_its_contract(tmp_path: Path) -> None:
    example = ROOT / "examples" / "recipe"
    installed = install(example, tmp_path)
    code = (
        "from loopworks.train.recipes import recipes\n"
        "print([(one['tasks'], one['is_tunable']) for one in recipes() if one['name'] == 'means'])"
    )
    assert run(installed, "-c", code).stdout.strip() == "[(['image-classification'], True)]"
    tests = str(example / "test_loopworks_means.py")
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", tests)
    assert done.returncode == 0, done.stdout
    assert "[100%]" in done.stdout
