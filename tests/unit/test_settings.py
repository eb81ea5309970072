"""Settings: the contract's defaults, and one line that names whatever is wrong."""

import base64
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.settings import Settings, load_settings, unknown_names

KEY = base64.b64encode(bytes(32)).decode()
PAIR = {"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_SERVICE_KEY": "sb_secret_planted"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env of the machine that runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_nothing_set_gives_the_contracts_defaults() -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.log_level == "info"
    assert settings.worker_poll_ms == 2000
    assert settings.worker_max_media_mb == 25
    assert (settings.worker_backoff_base_ms, settings.worker_backoff_max_ms) == (1000, 30_000)
    assert (settings.worker_http_host, settings.worker_http_port) == ("0.0.0.0", 3001)  # noqa: S104
    assert (settings.worker_live_window_s, settings.worker_catch_up_s) == (30, 0)


@pytest.mark.parametrize(
    ("given", "named", "because"),
    [
        ({"WORKER_HTTP_PORT": "http"}, "WORKER_HTTP_PORT", "no number"),
        ({"WORKER_HTTP_PORT": "65536"}, "WORKER_HTTP_PORT", "no such port"),
        ({"WORKER_POLL_MS": "0"}, "WORKER_POLL_MS", "a hot loop"),
        ({"WORKER_LIVE_WINDOW_S": "-1"}, "WORKER_LIVE_WINDOW_S", "nothing would be live"),
        ({"WORKER_MEDIA_CONCURRENCY": "1000"}, "WORKER_MEDIA_CONCURRENCY", "would starve everything else"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL", "no such level"),
        ({"SUPABASE_SERVICE_KEY": "sb_secret_x"}, "SUPABASE_URL", "a key without its address"),
        ({"SUPABASE_URL": "https://x.supabase.co"}, "SUPABASE_SERVICE_KEY", "an address without its key"),
        ({**PAIR, "SUPABASE_URL": "x.supabase.co"}, "SUPABASE_URL", "no scheme"),
        ({**PAIR, "SUPABASE_URL": "postgres://x"}, "SUPABASE_URL", "the database's address, not the API's"),
        ({**PAIR, "SUPABASE_URL": "https://u:planted@x.io"}, "SUPABASE_URL", "/readyz would show the password"),
        ({"WORKER_STATE_KEY": "short"}, "WORKER_STATE_KEY", "not 32 bytes"),
        ({"WORKER_STATE_KEY_PREVIOUS": KEY}, "WORKER_STATE_KEY", "an old key without a new one"),
        ({"WORKER_SESSION": "a:b"}, "WORKER_SESSION", "a colon separates session and flag"),
        ({"WA_VERSION": "2.3000"}, "WA_VERSION", "two numbers"),
        ({"WA_SOCKET_URL": "http://x"}, "WA_SOCKET_URL", "no web socket"),
        ({"WA_MEDIA_CA": "/nonexistent.pem"}, "WA_MEDIA_CA", "no such file"),
        ({"WA_ROOT_KEY": "AAAA"}, "WA_ROOT_KEY", "not 32 bytes"),
        ({"WORKER_BACKOFF_BASE_MS": "5000", "WORKER_BACKOFF_MAX_MS": "10"}, "WORKER_BACKOFF_MAX_MS", "below the base"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: str, because: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    lines = str(wrong.value).splitlines()
    assert len(lines) == 1, because
    assert lines[0].startswith(f"{named}: ")


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_HTTP_PORT", "x")
    monkeypatch.setenv("LOG_LEVEL", "x")
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert {line.split(":")[0] for line in str(wrong.value).splitlines()} == {"WORKER_HTTP_PORT", "LOG_LEVEL"}


def test_an_error_does_not_repeat_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_STATE_KEY", "hunter2-hunter2")
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", "sb_secret_planted")
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert "hunter2" not in str(wrong.value)
    assert "planted" not in str(wrong.value)


def test_secrets_do_not_show_in_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**PAIR, "WORKER_STATE_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    shown = repr(load_settings())
    assert "planted" not in shown
    assert KEY not in shown


def test_an_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKER_POLL_MS=500\nWORKER_HTTP_PORT=4000\nSUPABASE_URL=\n", "utf-8")
    monkeypatch.setenv("WORKER_HTTP_PORT", "5000")
    settings = load_settings()
    assert (settings.worker_poll_ms, settings.worker_http_port) == (500, 5000)
    assert settings.embedded, "an empty variable is an unset one"


def test_the_example_file_is_valid_and_names_every_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / ".env.example").read_text("utf-8")
    (tmp_path / ".env").write_text(text, "utf-8")
    assert load_settings().worker_catch_up_s == 86_400
    named = {line.lstrip("#").split("=")[0] for line in text.splitlines() if "=" in line}
    assert {name.upper() for name in Settings.model_fields} <= named


def test_a_version_is_three_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WA_VERSION", "2.3000.1023223821")
    assert load_settings().wa_version == (2, 3000, 1023223821)


def test_settings_for_a_local_server_are_listed_for_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WA_SOCKET_URL", "ws://127.0.0.1:1")
    monkeypatch.setenv("WA_STRICT_CERTS", "false")
    assert load_settings().local_server() == ["WA_SOCKET_URL", "WA_STRICT_CERTS"]


def test_a_slip_of_the_pen_is_found() -> None:
    assert unknown_names({"WORKER_POL_MS": "1", "WORKER_POLL_MS": "1", "PATH": "/"}) == ["WORKER_POL_MS"]
