"""Settings: flags over environment over file over default, and a sentence for every mistake."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.core.settings import FILE, PREFIX, Settings, load


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)


def write(folder: Path, text: str) -> Path:
    (folder / FILE).write_text(text, encoding="utf-8")
    return folder


def test_defaults_bind_loopback_and_ask_for_nothing(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found == Settings()
    assert found.host == "127.0.0.1"


def test_each_source_wins_over_the_one_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "port = 1\nthreads = 1\nseed = 1\n")
    monkeypatch.setenv("LOOPWORKS_PORT", "2")
    monkeypatch.setenv("LOOPWORKS_THREADS", "2")
    found = load(tmp_path, {"port": 3})
    assert (found.port, found.threads, found.seed, found.busy_timeout_s) == (3, 2, 1, 10.0)


def test_a_flag_that_was_not_given_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWORKS_PORT", "2")
    assert load(tmp_path, {"port": None}).port == 2


def test_a_flag_of_zero_or_empty_counts_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWORKS_PORT", "2")
    monkeypatch.setenv("LOOPWORKS_TOKEN", "secret")
    found = load(tmp_path, {"port": 0, "token": ""})
    assert (found.port, found.token) == (0, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 70000", "port ({file}) must be less than or equal to 65535; got 70000"),
        ("port = -1", "port ({file}) must be greater than or equal to 0; got -1"),
        ('port = "x"', "port ({file}) must be a valid integer, unable to parse string as an integer; got x"),
        ("seed = 4294967296", "seed ({file}) must be less than 4294967296; got 4294967296"),
        ("busy_timeout_s = nan", "busy_timeout_s ({file}) must be less than or equal to 3600; got nan"),
        ("host = 7", "host ({file}) must be a valid string; got 7"),
        ("prot = 1", "prot ({file}) must be a known name; got prot"),
    ],
)
def test_a_wrong_value_in_the_file_is_named_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(Invalid) as caught:
        load(tmp_path)
    assert caught.value.message == message.format(file=tmp_path / FILE)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        load(write(tmp_path, "prot = 1"))
    assert caught.value.hint == f"known: {', '.join(sorted(Settings.model_fields))}"


def test_a_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWORKS_THREADS", "many")
    with pytest.raises(Invalid, match=r"^LOOPWORKS_THREADS must be a valid integer.*; got many$"):
        load(tmp_path)


def test_a_wrong_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"^port \(argument\) must be less than or equal to 65535; got 70000$"):
        load(tmp_path, {"port": 70000})


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "[[[", "\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(write(tmp_path, text))
    assert caught.value.message.startswith(f"{tmp_path / FILE} must be valid TOML in UTF-8; got ")


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes('host = "größe"'.encode("latin-1"))
    with pytest.raises(Invalid, match="must be valid TOML in UTF-8"):
        load(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.binary(max_size=80) | st.text(alphabet="port=seed[]{}\"'.0\n# ", max_size=40).map(str.encode))
def test_any_file_gives_settings_or_one_clear_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    found: Settings | LoopworksError
    try:
        found = load(tmp_path)
    except LoopworksError as error:
        found = error
    assert isinstance(found, Settings) or " must be " in found.message


def test_settings_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


def test_every_setting_says_what_it_means() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]
