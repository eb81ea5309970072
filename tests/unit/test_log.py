"""The log: nothing secret gets through, whoever logs it, in either form."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator

import anyio
import pytest
from loguru import logger

from worker import log
from worker.bridge.stderr import relay_stderr
from worker.log import redact, set_up_log
from worker.log_limits import LINES_REMEMBERED, REPEAT_SECONDS, REPEATS_WRITTEN, Budgets, Repeats

BASE64_KEY = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    logger.remove()
    logger.configure(patcher=lambda record: None, extra={})
    log._planted.clear()
    logging.captureWarnings(False)
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, log._Libraries)]


@pytest.mark.parametrize(
    ("text", "secret", "because"),
    [
        ("key sb_secret_Ab12_cd-34 refused", "Ab12", "Supabase's new keys"),
        ("with eyJhbGciOi.eyJyb2xlIjoi.c2lnbmF0dXJl", "eyJyb2xl", "Supabase's old keys are JSON web tokens"),
        ("Authorization: Bearer abc.def", "abc.def", "a header"),
        ("authorization='Basic dXNlcjpwdw'", "dXNlcjpwdw", "a header in a dict"),
        (f"noise {BASE64_KEY}", BASE64_KEY, "32 bytes in base64"),
        ("pub BSs4FbYiQuEWlzT1Fq83vEjRWeJCrze8SNFZ4kKvN7xI", "Fq83vEjRWe", "33 bytes have no padding"),
        ("<Buffer 05 3a ff 00 11 22>", "3a ff", "how libsignal prints keys"),
        ("05:3a:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd", "3a:ff", "hex with separators"),
        ("{privKey: 'abc', pubKey: 'def'}", "'abc'", "a field's name says it"),
        ('{"rootKey":"short"}', "short", "in JSON too"),
        ("advSecretKey=hello", "hello", "as an assignment"),
        (
            "GET https://mmg.whatsapp.net/v/t62.7118-24/x.enc?oh=abc&oe=1 failed",
            "oh=abc",
            "media addresses are keys to files",
        ),
        ("GET https://mmg.whatsapp.net/v/t62.7118-24/x.enc failed", "t62", "even without their query"),
        ("https://user:pw@host/path?x=1", "pw", "credentials in an address"),
        ("no answer from http://user:pw@proxy.example:3128", "pw", "a proxy's, however short"),
        ("postgres://user:p@w@host/postgres", "p@w", "with the sign that ends it"),
        ("from 4915112345678@s.whatsapp.net", "4915112345", "a person's number"),
        ("from 4915112345678:12@s.whatsapp.net", "4915112345", "… with its device"),
        ("in 4915112345678-1400000000@g.us", "4915112345", "older groups carry their maker's number"),
    ],
)
def test_a_secret_is_hidden(text: str, secret: str, because: str) -> None:
    assert secret in text
    assert secret not in redact(text), because


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("wa-media/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824/original.jpg", "a hash is a name"),
        ("/work/main/node_modules/baileys/lib/Socket/MessagesRecv/index2", "a path"),
        ("group 120363000000000001@g.us renamed", "a group is no person"),
        ("message 3EB06173A217FB6F0EF53C", "a message's id"),
        ("http://127.0.0.1:3001/healthz", "an address without a query"),
        ("the database does not answer; attempt 3 of 5", "plain words"),
    ],
)
def test_what_helps_is_kept(text: str, because: str) -> None:
    assert redact(text) == text, because


def test_a_planted_secret_is_hidden_whatever_it_looks_like() -> None:
    log.hide("correct horse")
    assert "horse" not in redact("the correct horse came")


def test_a_secret_is_hidden_until_nobody_needs_that_any_more() -> None:
    with log.hidden("planted by two"):
        with log.hidden("planted by two"):
            assert redact("planted by two") == log.HIDDEN
        assert redact("planted by two") == log.HIDDEN
    assert redact("planted by two") == "planted by two"


def written(level: str, *, human: bool) -> io.StringIO:
    stream = io.StringIO()
    set_up_log(level, stream=stream, human=human)
    return stream


@pytest.mark.parametrize("human", [True, False])
def test_nothing_secret_is_written_at_level_trace(human: bool) -> None:
    stream = written("trace", human=human)
    log.hide("sb-service-key-planted")
    logger.trace("state {}", BASE64_KEY)
    logger.bind(creds='{"noiseKey": 1}', mediaKey=BASE64_KEY, nested={"token": "abc", "n": [BASE64_KEY]}).debug("batch")
    try:
        secret = {"privKey": BASE64_KEY}
        raise ValueError(f"cannot read {secret} with sb-service-key-planted")
    except ValueError:
        logger.exception("failed {braces} and {extra[x]}")
    text = stream.getvalue()
    assert "batch" in text
    assert "ValueError" in text
    for planted in (BASE64_KEY, "noiseKey", "abc", "sb-service-key-planted"):
        assert planted not in text


def test_lines_are_json_unless_a_person_reads_them() -> None:
    stream = written("info", human=False)
    logger.bind(count=3, part="sidecar").info("it's {}", "“fine” {really}")
    logger.debug("not shown")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 1
    assert lines[0]["msg"] == "it's “fine” {really}"
    assert (lines[0]["level"], lines[0]["count"], lines[0]["part"]) == ("info", 3, "sidecar")


def test_people_read_a_line_with_time_level_and_fields() -> None:
    stream = written("info", human=True)
    logger.bind(attempt=2).warning("trying again <in> {a} moment")
    assert "WARNING trying again <in> {a} moment  (attempt=2)" in stream.getvalue()


@pytest.mark.parametrize(
    ("hostile", "shown", "because"),
    [
        ("A\x1b]0;owned\x07", r"A\u001b]0;owned\u0007", "it would name the operator's window"),
        ("A\n12:00:00 ERROR   forged", r"A\u000a12:00:00 ERROR   forged", "it would be a line of its own"),
        ("A\u202egpj.exe", r"A\u202egpj.exe", "it would read backwards"),
        ("A\ud800", r"A\ud800", "a terminal's UTF-8 refuses it, and the line would be lost"),
        ("Ä…漢", "Ä…漢", "what is only foreign stays"),
    ],
)
def test_an_id_that_a_sender_chose_plays_no_tricks_on_a_terminal(hostile: str, shown: str, because: str) -> None:
    stream = written("info", human=True)
    with logger.contextualize(wa_msg_id=hostile):
        logger.info("a file is stored")
    assert stream.getvalue().endswith(f"a file is stored  (wa_msg_id={shown})\n"), because
    assert stream.getvalue().count("\n") == 1, because


def test_a_json_line_that_is_read_on_a_terminal_plays_no_tricks_either() -> None:
    stream, hostile = written("info", human=False), "A\x9b2J\u202egpj.exe\x7f\u2028Ä"
    with logger.contextualize(wa_msg_id=hostile):
        logger.info("a file is stored")
    assert not set(stream.getvalue()) & set(hostile[1:2] + "\u202e\x7f\u2028")
    assert json.loads(stream.getvalue())["wa_msg_id"] == hostile, "and is the same to a program"


def test_a_text_of_several_lines_cannot_pass_for_several_records() -> None:
    stream = written("info", human=True)
    logger.info("{}", "one\n12:00:00 ERROR   forged\x1b[2J")
    assert stream.getvalue().endswith("one\n  12:00:00 ERROR   forged\\u001b[2J\n")


def test_a_lone_surrogate_does_not_break_the_log() -> None:
    stream = written("info", human=False)
    logger.info("{}", "\ud800")
    assert json.loads(stream.getvalue())["msg"] == "?"


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_names_the_session_and_a_message_s_lines_the_message_and_its_group() -> None:
    stream = io.StringIO()
    set_up_log("info", session="shop", stream=stream, human=False)
    logger.info("started")
    with logger.contextualize(wa_msg_id="3EB06173A217FB6F0EF53C", group="120363000000000001@g.us"):
        logger.warning("abandoned")
    first, second = entries(stream)
    assert first["session"] == "shop"
    assert (second["session"], second["wa_msg_id"]) == ("shop", "3EB06173A217FB6F0EF53C")
    assert second["group"] == "120363000000000001@g.us"


def test_people_are_not_told_the_one_session_that_they_look_at() -> None:
    stream = io.StringIO()
    set_up_log("info", session="shop", stream=stream, human=True)
    logger.bind(wa_msg_id="3EB0").info("started")
    assert "started  (wa_msg_id=3EB0)" in stream.getvalue()


def test_a_line_that_repeats_itself_is_counted_and_the_count_is_told() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    told = [repeats.take("the database does not answer") for _ in range(REPEATS_WRITTEN + 7)]
    assert told == [{}] * (REPEATS_WRITTEN - 1) + [{"more_in_s": 60}] + [None] * 7
    assert repeats.take("something else") == {}
    now[0] = REPEAT_SECONDS
    assert repeats.take("the database does not answer") == {"left_out": 7}
    assert repeats.take("the database does not answer") == {}


def test_many_different_lines_cost_no_memory() -> None:
    repeats = Repeats(lambda: 0.0)
    for number in range(5000):
        assert repeats.take(number) == {}
    assert len(repeats._lines) == LINES_REMEMBERED


def test_repeats_are_of_one_message_and_only_from_level_info() -> None:
    stream = written("debug", human=False)
    for number in range(2 * REPEATS_WRITTEN):
        logger.warning("a file failed")
        logger.bind(wa_msg_id=str(number)).warning("a file of a message failed")
        logger.debug("asked for everything")
    lines = [entry["msg"] for entry in entries(stream)]
    assert lines.count("a file failed") == REPEATS_WRITTEN
    assert lines.count("a file of a message failed") == 2 * REPEATS_WRITTEN
    assert lines.count("asked for everything") == 2 * REPEATS_WRITTEN


def test_what_libraries_say_is_a_line_of_this_log_and_redacted() -> None:
    stream = written("info", human=False)
    log.hide("sb-service-key-planted")
    logging.getLogger("httpx").info("not shown")
    try:
        raise ValueError(f"with {BASE64_KEY}")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception with %s", "sb-service-key-planted")
    warnings.showwarning(UserWarning(f"old {BASE64_KEY}"), UserWarning, "file.py", 1)
    first, second = entries(stream)
    assert (first["level"], first["library"]) == ("error", "asyncio")
    assert "ValueError" in str(first["error"])
    assert (second["level"], second["library"]) == ("warning", "py.warnings")
    assert BASE64_KEY not in stream.getvalue()
    assert "planted" not in stream.getvalue()


def test_a_stream_that_ends_with_the_server_is_no_error() -> None:
    stream = written("info", human=False)
    try:
        raise asyncio.CancelledError
    except asyncio.CancelledError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("human", [True, False])
def test_secrets_are_hidden_wherever_in_a_record_they_are_planted(human: bool) -> None:
    stream = written("trace", human=human)
    log.hide("planted-secret-0815")
    deep: object = "planted-secret-0815"
    for _ in range(8):
        deep = {"inner": [deep]}
    logger.bind(deep=deep, group="planted-secret-0815", data=b"planted-secret-0815").info("fields")
    logger.bind(service_key="sb_x", qr="2@abc", Authorization="Bearer x.y").info("by their names")
    try:
        try:
            raise KeyError("planted-secret-0815")
        except KeyError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        logger.exception("a chain")
    text = stream.getvalue()
    assert "a chain" in text
    assert "outer" in text
    for planted in ("planted-secret-0815", "sb_x", "2@abc", "x.y"):
        assert planted not in text


@pytest.mark.anyio
async def test_the_sidecar_s_lines_are_among_them_without_what_is_planted_there() -> None:
    stream = written("trace", human=False)
    said = [
        {"level": "warn", "msg": f"session {BASE64_KEY}", "count": 3, "text": "see you at nine"},
        {"level": "debug", "msg": "recv from 4915112345678@s.whatsapp.net", "qr": "2@abc", "mediaKey": BASE64_KEY},
        {"level": "error", "msg": "<Buffer 05 3a ff 00>", "body": {"conversation": "see you at nine"}},
    ]
    sending, receiving = anyio.create_memory_object_stream[bytes](10)
    async with sending, receiving:
        for line in (*(json.dumps(each) for each in said), f"see you at nine {BASE64_KEY}"):
            sending.send_nowait(line.encode() + b"\n")
        sending.close()
        await relay_stderr(receiving)  # type: ignore[arg-type]
    lines = entries(stream)
    assert [(line["level"], line["part"]) for line in lines] == [
        ("warning", "sidecar"),
        ("debug", "sidecar"),
        ("warning", "sidecar"),
        ("warning", "sidecar"),
    ]
    assert lines[0]["count"] == 3
    for planted in (BASE64_KEY, "see you at nine", "4915112345", "2@abc", "3a ff"):
        assert planted not in stream.getvalue()


def test_a_session_that_floods_the_log_takes_no_line_from_another() -> None:
    now = [0.0]
    budgets = Budgets(lambda: now[0])
    flood = [budgets.take("noisy") for _ in range(2000)]
    assert 0 < flood.count(None) < 2000
    assert budgets.take("quiet") == {}
    now[0] += 60
    assert budgets.take("noisy") == {"too_many_left_out": flood.count(None)}
    assert budgets.take("noisy") == {}


def test_the_same_line_of_two_sessions_is_no_repeat() -> None:
    stream = io.StringIO()
    set_up_log("info", stream=stream, human=False)
    for session in ("first", "second"):
        with logger.contextualize(session=session):
            for _ in range(REPEATS_WRITTEN + 5):
                logger.info("the same")
    told = [json.loads(line)["session"] for line in stream.getvalue().splitlines()]
    assert told == ["first"] * REPEATS_WRITTEN + ["second"] * REPEATS_WRITTEN


def test_a_terminal_names_the_session_of_a_line_unless_there_is_but_one() -> None:
    for own, named in ((None, True), ("first", False)):
        stream = io.StringIO()
        set_up_log("info", session=own, stream=stream, human=True)
        with logger.contextualize(session="first"):
            logger.info("a line")
        assert ("session=first" in stream.getvalue()) is named
