"""Settings: the contract's defaults, and one line that names whatever is wrong."""

import base64
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.settings import Settings, load_settings, misspelt, unknown_names

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
        ({"WORKER_SESSION": "null"}, "WORKER_SESSION", "a filter of the embedded Supabase reads it as no text"),
        ({"WA_VERSION": "2.3000"}, "WA_VERSION", "two numbers"),
        ({"WA_SOCKET_URL": "http://x"}, "WA_SOCKET_URL", "no web socket"),
        ({"WA_MEDIA_CA": "/nonexistent.pem"}, "WA_MEDIA_CA", "no such file"),
        ({"WA_ROOT_KEY": "AAAA"}, "WA_ROOT_KEY", "not 32 bytes"),
        ({"WORKER_KEEP_DAYS": "1", "WORKER_CATCH_UP_S": "90000"}, "WORKER_KEEP_DAYS", "would be deleted at once"),
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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WORKER_POL_MS", "did you mean WORKER_POLL_MS?"),
        ("WA_VERSON", "did you mean WA_VERSION?"),
        ("SUPABASE_SERVICE_ROLE_KEY", "did you mean SUPABASE_SERVICE_KEY?"),
        ("WORKER_COLOUR", "see .env.example"),
    ],
)
def test_a_slip_of_the_pen_is_found_in_the_environment_and_in_the_env_file(
    tmp_path: Path, name: str, meant: str
) -> None:
    assert unknown_names({name: "1", "WORKER_POLL_MS": "1", "PATH": "/"}) == [name]
    assert misspelt(name) == f"{name} is not a setting of this program; {meant}"
    (tmp_path / ".env").write_text(f"WORKER_POLL_MS=1\n{name}=1\n", "utf-8")
    assert unknown_names() == [name]


@pytest.mark.parametrize("name", ["SUPABASE_DB_URL", "SUPABASE_ANON_KEY", "SUPABASE_SECRET_KEY", "LOGNAME", "PATH"])
def test_what_other_programs_read_from_the_same_file_is_no_slip(name: str) -> None:
    assert unknown_names({name: "1"}) == []


def test_a_key_under_another_name_is_named_where_it_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", PAIR["SUPABASE_URL"])
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", PAIR["SUPABASE_SERVICE_KEY"])
    with pytest.raises(SettingsError, match=r"SUPABASE_SERVICE_ROLE_KEY .* did you mean SUPABASE_SERVICE_KEY\?"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("WORKER_POLL_MS=500\nSUPABASE_URL https://x.supabase.co\n", 2),
        ("SUPABASE_URL\n", 1),
        ('\n\nSUPABASE_URL="https://x.supabase.co\nWORKER_POLL_MS=500\n', 3),
        ("=500\n", 1),
    ],
    ids=["no sign of equality", "a name alone", "a quote that is not closed", "no name"],
)
def test_a_line_of_the_env_file_that_would_be_passed_over_stops_the_start(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / ".env").write_text(text, "utf-8")
    with pytest.raises(SettingsError, match=rf"^\.env: line {line} cannot be read") as wrong:
        load_settings()
    assert "supabase.co" not in str(wrong.value)


def test_an_env_file_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match=r"^\.env: is a folder"):
        load_settings()


def test_another_env_file_takes_the_place_of_the_one_in_this_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("WORKER_POLL_MS=500\n", "utf-8")
    other = tmp_path / "wa-worker.env"
    other.write_text("WORKER_HTTP_PORT=4000\nWORKER_POL_MS=1\n", "utf-8")
    monkeypatch.setenv("WORKER_ENV_FILE", str(other))
    settings = load_settings()
    assert (settings.worker_poll_ms, settings.worker_http_port) == (2000, 4000)
    assert unknown_names() == ["WORKER_POL_MS"]
    other.unlink()
    with pytest.raises(SettingsError, match=r"wa-worker\.env: there is no such file; --env-file needs one"):
        load_settings()


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("sb_publishable_0123456789", "is the publishable key"),
        ("sb_secret_…", "contains characters that no key has"),
        ("sb_secret_0123 sb_secret_4567", "contains characters that no key has"),
    ],
)
def test_a_wrong_key_is_recognised_and_not_repeated(monkeypatch: pytest.MonkeyPatch, key: str, says: str) -> None:
    for name, value in {**PAIR, "SUPABASE_SERVICE_KEY": key}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^SUPABASE_SERVICE_KEY: {says}") as wrong:
        load_settings()
    assert key not in str(wrong.value)


def test_quotes_comments_and_line_ends_of_windows_are_no_part_of_a_value(tmp_path: Path) -> None:
    lines = [
        "# Mine",
        'SUPABASE_URL="https://x.supabase.co"',
        "SUPABASE_SERVICE_KEY='k' # mine",
        "",
        "export LOG_LEVEL=debug",
    ]
    text = "\r\n".join(lines)
    (tmp_path / ".env").write_text(text, "utf-8", newline="")
    settings = load_settings()
    assert (settings.supabase_url, settings.log_level) == ("https://x.supabase.co", "debug")
    assert settings.supabase_service_key
    assert settings.supabase_service_key.get_secret_value() == "k"


def test_blanks_around_what_was_pasted_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", " https://x.supabase.co/ ")
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", "sb_secret_planted\r\n")
    monkeypatch.setenv("WORKER_STATE_KEY", f"{KEY}\n")
    monkeypatch.setenv("LOG_LEVEL", " Warn ")
    monkeypatch.setenv("WA_STRICT_CERTS", "false\r")
    settings = load_settings()
    assert (settings.log_level, settings.wa_strict_certs) == ("warning", False)
    assert settings.supabase_url == "https://x.supabase.co"
    assert settings.supabase_service_key
    assert settings.supabase_service_key.get_secret_value() == "sb_secret_planted"
    assert settings.state_key == bytes(32)


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_a_value_of_nothing_but_blanks_is_named_and_not_taken_for_none(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A blank WORKER_STATE_KEY would store the account's credentials as they are, and nobody would know."""
    monkeypatch.setenv(name, " \t")
    with pytest.raises(SettingsError, match=rf"^{name}: is blank; write a value, or leave it out$"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://x.supabase.co", True),
        ("https://x.supabase.co/", True),
        ("http://127.0.0.1:54321", True),
        ("https://office.example/supabase", True),  # a gateway of one's own may lie below a path
        ("https://x.supabase.co/rest/v1/", False),
        ("https://office.example/rest/v1", False),
        ("https://x.supabase.co/project", False),
        ("https://supabase.com/dashboard/project/x", False),
        ("https://x.supabase.co?apikey=1", False),
        ("https://user:planted@office.example", False),  # it would end up in the log, and in place of the key
    ],
)
def test_the_address_is_the_projects_own(monkeypatch: pytest.MonkeyPatch, url: str, good: bool) -> None:
    monkeypatch.setenv("SUPABASE_URL", url)
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", PAIR["SUPABASE_SERVICE_KEY"])
    if good:
        assert load_settings().supabase_url == url.rstrip("/")
    else:
        with pytest.raises(SettingsError, match=r"^SUPABASE_URL: should ") as wrong:
            load_settings()
        assert "planted" not in str(wrong.value)


@pytest.mark.parametrize("value", ["-5", "abc", "1e9", "2.5", "99999999999999999999"])
@pytest.mark.parametrize(
    "name", [n for n, field in Settings.model_fields.items() if field.annotation in (int, int | None)]
)
def test_every_number_says_which_numbers_it_may_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(SettingsError, match=rf"^{name.upper()}: should be a whole number from \d+ to \d+$"):
        load_settings()
