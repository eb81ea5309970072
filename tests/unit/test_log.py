"""The log: nothing secret gets through, whoever logs it, in either form."""

import io
import json
from collections.abc import Iterator

import pytest
from loguru import logger

from worker import log
from worker.log import redact, set_up_log

BASE64_KEY = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    logger.remove()
    logger.configure(patcher=lambda record: None)
    log._planted.clear()


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
        ("from 4915112345678@s.whatsapp.net", "4915112345", "a person's number"),
        ("from 4915112345678:12@s.whatsapp.net", "4915112345", "… with its device"),
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


def test_a_lone_surrogate_does_not_break_the_log() -> None:
    stream = written("info", human=False)
    logger.info("{}", "\ud800")
    assert json.loads(stream.getvalue())["msg"] == "?"
