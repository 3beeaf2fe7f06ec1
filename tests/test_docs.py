"""Docs name everything, are written from the code where they can be, run, and hold nothing of the machine."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from loopworks.core.errors import error_classes
from loopworks.core.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
GENERATED = ("reference.md", "openapi.json")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = [page for page in PAGES if page.name not in GENERATED]


def load_generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generate()


def text(pages: list[Path]) -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def unnamed(names: list[str], pages: list[Path], form: str = "`{}`") -> list[str]:
    """Names that no page holds in the given form."""
    found = text(pages)
    return [name for name in names if form.format(name) not in found]


def test_every_error_code_is_explained() -> None:
    assert unnamed(sorted(error_classes()), [ROOT / "docs" / "errors.md"], "## `{}`") == []


def test_no_error_is_explained_that_does_not_exist() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `(\w+)`$", page, re.MULTILINE)) == set(error_classes())


def test_every_setting_is_named() -> None:
    reference = [ROOT / "docs" / "reference.md"]
    assert unnamed(list(Settings.model_fields), reference) == []
    assert unnamed([f"{PREFIX}{name.upper()}" for name in Settings.model_fields], reference) == []


def test_every_plugin_is_named_in_a_page_that_a_person_wrote() -> None:
    assert unnamed(generate.shipped(), WRITTEN) == []


def test_every_command_is_named_in_a_page_that_a_person_wrote() -> None:
    names = [" ".join(path) for path, _ in generate.command_tree()]
    assert names
    assert [name for name in names if not re.search(rf"(`|loopworks ){re.escape(name)}\b", text(WRITTEN))] == []


@pytest.mark.parametrize("path", list(generate.pages()), ids=lambda p: p.name)
def test_a_generated_page_is_what_the_code_says(path: Path) -> None:
    make: Callable[[], str] = generate.pages()[path]
    assert path.read_text(encoding="utf-8") == make(), "run make docs"


def test_the_check_of_generated_pages_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stale := tmp_path / "reference.md").write_text("old", encoding="utf-8")
    monkeypatch.setattr(generate, "pages", lambda: {stale: lambda: "new"})
    assert generate.main(["--check"]) == 1
    assert stale.read_text(encoding="utf-8") == "old"
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def blocks() -> list[tuple[str, str]]:
    """Every block marked ``python``, with where it stands."""
    found = []
    for page in WRITTEN:
        content = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", content, re.MULTILINE | re.DOTALL):
            line = content.count("\n", 0, match.start()) + 2
            found.append((f"{page.relative_to(ROOT)}:{line}", match[1]))
    return found


@pytest.mark.parametrize(("where", "code"), blocks(), ids=[where for where, _ in blocks()])
def test_every_python_block_compiles(where: str, code: str) -> None:
    compile(code, where, "exec")


@pytest.mark.parametrize(("where", "code"), blocks(), ids=[where for where, _ in blocks()])
def test_what_a_python_block_imports_from_us_exists(where: str, code: str) -> None:
    lines = [line for line in code.splitlines() if re.match(r"(from|import) loopworks\b", line)]
    exec("\n".join(lines), {})


def tracked() -> list[Path]:
    """Files that git keeps, and those that it would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:  # an unpacked archive has no git: look at everything that we ship
        return [p for folder in ("src", "tests", "docs", "examples", "benchmarks") for p in (ROOT / folder).rglob("*")]
    return [ROOT / line for line in done.stdout.splitlines()]


LOCAL = re.compile(
    r"(?<![\w.}:/-])/(?:work|home|root|Users)/[\w.]"  # a person's or build machine's folder
    r"|/tmp/(?!x\b)[a-z]+/"  # noqa: S108
    r"|index-url|find-links|extra-index|files\.pythonhosted|pypi\.(?:org|python)|mirrors?\.[a-z]|/simple/",
    re.IGNORECASE,
)
ALLOWED = {"tests/test_docs.py", "Makefile"}
"""This file holds the patterns; the Makefile names options that leave addresses out of the lock file."""


def leaks(content: str) -> list[str]:
    return [content[max(0, m.start() - 20) : m.end() + 20] for m in LOCAL.finditer(content)]


@pytest.mark.parametrize(
    "line",
    [
        "see " + "/".join(("", "work", "main", "x")),
        "cd /home/ann/x",
        "'/tmp/trees/a'",
        "--index-url https://x",
        "https://files.pythonhosted.org/a",
    ],
)
def test_the_search_for_addresses_of_the_build_machine_finds_them(line: str) -> None:
    assert leaks(line)


def test_no_file_holds_a_path_or_package_index_of_the_build_machine() -> None:
    found: dict[str, list[str]] = {}
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if name in ALLOWED or not path.is_file():
            continue
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        if hits := leaks(content):
            found[name] = hits
    assert found == {}


def test_the_licence_is_apache_2() -> None:
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_every_decision_is_a_page_of_the_same_form() -> None:
    """Problem, choice, what else was measured, cost, when to look again; numbered without gaps."""
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(r.name[:4]) for r in records] == list(range(1, len(records) + 1))
    heads = ["## Problem", "## Choice", "## What else was measured", "## Cost", "## When to look again"]
    for record in records:
        lines = record.read_text(encoding="utf-8").splitlines()
        assert [line for line in lines if line.startswith("## ")] == heads, record.name
        assert lines[0].startswith(f"# {int(record.name[:4])}. "), record.name
        assert len(lines) <= 70, f"{record.name} must fit on a page"


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in WRITTEN:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")) and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_generate_runs_as_a_script() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
