"""The console's rules: formatting, situations, bubbles, names, links and limits; and that both catalogues are whole."""

from __future__ import annotations

import re
import string
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from console.access.logins import ATTEMPT_SECONDS, ATTEMPTS, IDLE_SECONDS, LINK_SECONDS, LOGIN_SECONDS, Attempts, Logins
from console.app import STATIC
from console.audit_log import EVENTS
from console.rules.bubbles import make_bubbles
from console.rules.charts import SPANS, make_chart, span_of
from console.rules.contents import Card, Option, Poll, cards, location_of, notice, poll, waveform
from console.rules.formatting import to_html
from console.rules.people import Names
from console.rules.situations import NAMELESS, TONES, UNREAD, judge
from console.rules.timelines import LOOKS, first_event, make_timeline
from console.texts import LANGUAGES, choose, texts
from worker.commands.coverage import REASONS
from worker.ingest.rules.normalise import Reason as DiscardReason
from worker.session.report import State

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
HTML = STATIC.parent / "html"
ROOT = Path(__file__).resolve().parents[2]


# ── formatting ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain", "plain"),
        ("a *bold* b", "a <strong>bold</strong> b"),
        ("_it_ ~gone~", "<em>it</em> <s>gone</s>"),
        ("*_both_*", "<strong><em>both</em></strong>"),
        ("*bold _torn* end_", "<strong>bold _torn</strong> end_"),
        ("2*3*4", "2*3*4"),
        ("a * no * b", "a * no * b"),
        ("* one *", '<span class="item">* one *</span>'),
        ("snake_case_name", "snake_case_name"),
        ("**", "**"),
        ("*open", "*open"),
        ("*a\nb*", "*a<br>b*"),
        ("`*code*`", "<code>*code*</code>"),
        ("a ```x\n<y>``` b", "a <pre>x\n&lt;y&gt;</pre> b"),
        ("a ```open", "a ```open"),
        ("``````", "``````"),
        ("``` ``` ```x```", "``` ``` <pre>x</pre>"),
        ("```a```\nb\n```c``` ```", "<pre>a</pre>b<pre>c</pre> ```"),
        ("> said", '<span class="cited">said</span>'),
        ("- one\n2. two", '<span class="item">- one</span><br><span class="item">2. two</span>'),
        ("<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        ("javascript:alert(1)", "javascript:alert(1)"),
        (
            "see https://a.example/x?y=1&z=2.",
            'see <a href="https://a.example/x?y=1&amp;z=2" target="_blank" rel="noopener noreferrer nofollow">'
            "https://a.example/x?y=1&amp;z=2</a>.",
        ),
        ("hi @12345", 'hi <span class="mention">@Ana &lt;3</span>'),
        ("hi @99999", "hi @99999"),
    ],
)
def test_formatting(text: str, html: str) -> None:
    assert to_html(text, {"12345": "Ana <3"}.get) == html


@pytest.mark.parametrize("piece", ["*", "*a", "*a* ", "_*~", "`", "```", "h", "http://", "@1", "> ", "\n", "*_a_* ~"])
def test_formatting_takes_time_in_step_with_the_text(piece: str) -> None:
    """Ten times the text takes about ten times as long; what looks back again and again takes a hundred times."""

    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            to_html(text)
            best = min(best, time.process_time() - start)
        return max(best, 1e-4)

    assert seconds(4_000) / seconds(400) < 40


# ── situations ──────────────────────────────────────────────────────────────────────────────────────────────────────


def view(status: str, held: bool = True, **detail: Any) -> dict[str, Any]:
    number = "49151" if status == "connected" else None
    return {
        "now": NOW.isoformat(),
        "status": status,
        "detail": detail,
        "wa_name": None,
        "wa_number": number,
        "lease_held": held,
    }


def soon(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).isoformat()


QR: dict[str, Any] = {"state": "waiting_for_scan", "qr": "2@x", "expiresAt": soon(20)}
CODE: dict[str, Any] = {"pairing_code": "ABCD1234", "pairing_code_expires_at": soon(90)}


@pytest.mark.parametrize(
    ("seen", "name", "because"),
    [
        (None, "no_session", "no worker was ever there"),
        (view("connected", held=False), "no_worker", "what the last one left behind"),
        (view("connecting", held=False, **QR), "no_worker", "its code cannot be scanned any more"),
        (view("connected"), "connected", ""),
        (view("connecting", **QR), "scan", ""),
        (view("connecting", **(QR | {"expiresAt": soon(-1)})), "next_code", "the code has expired"),
        (view("connecting", **(QR | {"expiresAt": "soon"})), "next_code", "no time that we can read"),
        (view("connected", **QR), "connected", "a code is not shown though linked"),
        (view("connecting", **QR, **CODE), "code", "asked for, so it comes first"),
        (view("connecting", state="waiting_for_scan", **CODE), "code", "it outlives the last QR"),
        (view("connecting", **QR, passkey={"options": {}, "expiresAt": soon(9)}), "scan", "nothing to sign"),
        (view("connecting", **QR, passkey={"options": {"a": 1}, "expiresAt": soon(9)}), "passkey", ""),
        (view("connecting", **QR, passkey={"options": {"a": 1}, "expiresAt": soon(-9)}), "scan", "it is over"),
        (view("connecting", passkey={"code": "AB12", "expiresAt": soon(9)}), "compare", ""),
        (view("connecting", **QR, passkey="AB12"), "scan", "not a shape that we know"),
        (view("disconnected", state="idle"), "idle", ""),
        (view("disconnected", state="reconnecting"), "unreachable", "no connection was lost: none ever was"),
        (view("disconnected", state="reconnecting") | {"wa_number": "49151"}, "reconnecting", ""),
        (view("disconnected", state="something_new", say="Hm."), "other", "a newer worker"),
        (view("disconnected"), "starting", "a worker that has said nothing yet"),
    ],
)
def test_a_session_is_in_one_situation(seen: dict[str, Any] | None, name: str, because: str) -> None:
    assert judge(seen).name == name, because


def test_every_state_of_the_worker_has_a_situation() -> None:
    assert set(get_args(State)) <= TONES.keys() | NAMELESS


# ── what a page shows of a message ──────────────────────────────────────────────────────────────────────────────────


def row(number: int, **columns: Any) -> dict[str, Any]:
    return {"id": number, "album_id": None, "parent_id": None, **columns}


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([row(1), row(2)], {1: [], 2: []}),
        ([row(1), row(2, parent_id=1)], {1: [2]}),
        ([row(2, parent_id=1)], {2: []}),
        ([row(1), row(2, album_id=1), row(3, album_id=1)], {1: [2, 3]}),
        ([row(1), row(2, album_id=1), row(3, parent_id=2)], {1: [2], 3: []}),
        ([row(1, parent_id=2), row(2, parent_id=1)], {1: [], 2: []}),
        ([row(1, parent_id=1)], {1: []}),
    ],
)
def test_what_belongs_together_is_one_bubble(rows: list[dict[str, Any]], shown: dict[int, list[int]]) -> None:
    assert {each.head["id"]: [part["id"] for part in each.parts] for each in make_bubbles(rows)} == shown


def test_a_person_is_called_by_what_is_known() -> None:
    names = Names()
    names.learn([{"sender": "1@lid", "sender_alt": "49151@s.whatsapp.net", "push_name": "Ana"}])
    names.learn([{"sender": "2222@lid", "sender_alt": "49152@s.whatsapp.net", "push_name": None}])
    assert [names.of(each) for each in ("1@lid", "49151@s.whatsapp.net", "2222@lid", "987654@lid", None, "")] == [
        *("Ana", "Ana", "+49152", "~7654", "?", "?")
    ]
    assert names.mentioned("49151") == "Ana"
    assert names.mentioned("2222") is None


@pytest.mark.parametrize("raw", [None, {}, [], "x", {"message": {"audioMessage": 1}}, {"message": [1], "contacts": 1}])
def test_a_payload_of_any_shape_is_read(raw: Any) -> None:
    odd = {"raw": raw, "content": raw, "text": None, "kind": "location"}
    assert location_of(odd) is None
    assert cards(odd) == []
    assert waveform(odd) == []
    assert notice(odd) == ("", [])


def test_coordinates_are_numbers_on_this_earth() -> None:
    place = {"latitude": 52.5, "longitude": 13.25}
    found = location_of({"content": place})
    assert found
    assert found.url == "https://www.openstreetmap.org/?mlat=52.500000&mlon=13.250000&zoom=16"
    for wrong in (91, "52", True, None, float("inf")):
        assert location_of({"content": {**place, "latitude": wrong}}) is None


def test_contacts_and_results_come_from_the_content_else_from_the_text() -> None:
    contact = {"name": "Bob", "phones": [{"number": "+49 151"}, {"number": "+49 151"}, "x", {"type": "cell"}]}
    assert cards({"content": {"contacts": [contact, 1, {"phones": []}]}, "text": "Bob"}) == [
        Card(name="Bob", phones=("+49 151",))
    ]
    assert cards({"content": None, "text": "Bob\nEve"}) == [Card(name="Bob"), Card(name="Eve")]
    results = {"results": [{"option": "Mon", "votes": 3}, 1]}
    told = poll({"content": results, "text": "When?\nMon"})
    assert told == Poll(question="When?", options=(Option(text="Mon", votes=3, share=100),))
    asked = {"content": {}, "text": "When?\nMon\nTue"}
    assert poll(asked) == Poll(question="When?", options=(Option(text="Mon"), Option(text="Tue")))
    votes = {"voters": 5, "options": [{"option": "Tue", "votes": 4}, {"option": "Wed", "votes": 1}]}
    assert poll({**asked, "result": votes}) == Poll(
        question="When?",
        options=(
            Option(text="Mon", votes=0),
            Option(text="Tue", votes=4, share=100),
            Option(text="Wed", votes=1, share=25),
        ),
        voters=5,
    )
    odds: list[list[dict[str, Any]]] = [[{"option": 1, "votes": "x"}], [{}], [{"votes": -1}]]
    for odd in odds:
        assert [each.votes for each in poll({"content": {"results": odd}, "text": None}).options] == [0]


# ── charts and timelines ────────────────────────────────────────────────────────────────────────────────────────────


def counts(*found: tuple[str | None, int, int]) -> dict[str, Any]:
    return {
        "since": NOW.isoformat(),
        "counted_from": None,
        "counts": [{"group_id": group, "at": at, "count": count} for group, at, count in found],
    }


def test_a_chart_stacks_the_largest_series_lowest_and_the_rest_on_top() -> None:
    day = span_of("day")
    chart = make_chart(
        counts(("1", 3, 1), ("2", 3, 2), (None, 3, 5), ("2", 143, 1), ("2", 144, 9)),
        day,
        "group_id",
        {"1": "A", "2": "B"}.get,
    )
    assert [(each.name, each.total) for each in chart.series] == [("B", 3), ("A", 1), (None, 5)]
    assert [(bar.x, bar.y, bar.height) for bar in chart.bars] == [
        *((3, 75.0, 25.0), (3, 62.5, 12.5), (3, 0.0, 62.5), (143, 87.5, 12.5))
    ]
    assert len({each.look for each in chart.series}) == 3
    assert [(line.at, line.counts) for line in chart.lines] == [
        (NOW + timedelta(minutes=1430), (1, 0, 0)),
        (NOW + timedelta(minutes=30), (2, 1, 5)),
    ]
    assert (chart.total, chart.highest, chart.highest_a_minute) == (9, 8, 0.8)
    assert chart.until - chart.since == timedelta(days=1)


def test_a_fixed_series_has_its_colour_and_place_whatever_is_counted() -> None:
    def looks(*found: tuple[str | None, int, int]) -> dict[str | None, str]:
        chart = make_chart(counts(*found), SPANS[0], "group_id", str, ("a", "b", "c"))
        return {each.name: each.look for each in chart.series}

    every = looks(("c", 1, 1), ("b", 1, 9), ("a", 1, 3), ("new", 1, 100))
    assert list(every) == ["a", "b", "c", "new"]
    assert len(set(every.values())) == 4
    assert looks(("c", 1, 7)) == {"c": every["c"]}


def test_a_chart_without_messages_is_empty() -> None:
    for span in SPANS:
        chart = make_chart(counts(), span, "group_id", str)
        assert (chart.total, chart.highest, chart.bars, chart.lines) == (0, 0, (), ())
    assert span_of("century") is span_of(None) is SPANS[0]


def gap(reason: str, begins: float | None, ends: float | None) -> dict[str, Any]:
    """Hours after NOW."""
    times = [None if hours is None else (NOW + timedelta(hours=hours)).isoformat() for hours in (begins, ends)]
    return {"reason": reason, "from": times[0], "to": times[1], "count": None}


def test_a_timeline_shows_each_gap_where_it_lies() -> None:
    gaps = [
        gap("not_monitored", None, 10),
        gap("too_old", 50, 50),
        gap("away", 90, None),
        gap("lost", 100, 100),
        gap("refused", -5, -1),
        gap("of a newer version", 20, 30),
    ]
    line = make_timeline({"gaps": gaps, "gap_count": 106}, NOW, NOW + timedelta(hours=100))
    assert [(mark.gap["reason"], mark.x, mark.width, mark.look) for mark in line.marks] == [
        ("not_monitored", 0.0, 100.0, "off"),
        ("away", 900.0, 100.0, "open"),
        ("too_old", 500.0, 3.0, "lost"),
        ("lost", 997.0, 3.0, "lost"),
        ("of a newer version", 200.0, 100.0, "lost"),
    ]
    assert line.more == 100


def test_a_timeline_begins_a_little_before_its_first_event_and_shows_a_day_at_least() -> None:
    assert first_event([], NOW) == NOW - timedelta(days=1) * 1.05
    assert first_event([gap("lost", -1, -1)], NOW) == NOW - timedelta(days=1) * 1.05
    assert first_event([gap("not_monitored", None, -1000), gap("lost", -1, -1)], NOW) == NOW - timedelta(hours=1050)
    assert first_event([gap("not_monitored", None, None)], NOW) == NOW - timedelta(days=1) * 1.05


def test_every_reason_of_a_gap_has_a_look_and_words() -> None:
    words = {key.removeprefix("coverage.reason.") for key in texts("en").keys if key.startswith("coverage.reason.")}
    assert LOOKS.keys() == words == REASONS.keys()


# ── logins ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_login_ends_when_idle_and_after_a_week() -> None:
    clock = Clock()
    logins = Logins("token", clock)
    idle, busy = logins.open("a"), logins.open("b")
    for _ in range(int(LOGIN_SECONDS // IDLE_SECONDS)):
        clock.now += IDLE_SECONDS - 1
        assert logins.find(busy)
    assert logins.find(idle) is None
    clock.now += IDLE_SECONDS - 1
    assert logins.find(busy) is None
    assert logins.find("") is None
    assert logins.find(None) is None


def test_a_link_ends_after_an_hour() -> None:
    clock = Clock()
    logins = Logins(None, clock)
    fresh, stale = logins.make_link(), logins.make_link()
    assert logins.use_link(fresh)
    assert not logins.use_link(fresh)
    clock.now += LINK_SECONDS
    assert not logins.use_link(stale)


def test_an_address_may_try_again_after_a_minute_and_others_at_once() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(ATTEMPTS):
        assert attempts.wait_seconds("a") == 0
        attempts.note_wrong("a")
    assert attempts.wait_seconds("a") == ATTEMPT_SECONDS
    assert attempts.wait_seconds("b") == 0
    clock.now += ATTEMPT_SECONDS
    assert attempts.wait_seconds("a") == 0


# ── the catalogue ───────────────────────────────────────────────────────────────────────────────────────────────────


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_language_has_every_text_with_the_same_values() -> None:
    english = texts("en")
    for language in LANGUAGES:
        other = texts(language)
        assert other.keys == english.keys
        for key in english.keys:
            assert fields(other(key)) == fields(english(key)), (language, key)


def test_every_text_that_a_template_names_is_there() -> None:
    named = {
        (page.name, key)
        for page in HTML.glob("*.html")
        for key in re.findall(r'\bt\("([a-z_.A-Z]+)"[,)]', page.read_text())
    }
    assert len(named) > 100
    assert {(page, key) for page, key in named if key not in texts("en").keys and not key.endswith(".")} == set()


@pytest.mark.parametrize(
    ("language", "number", "rate", "size", "span"),
    [("en", "1,234,567", "1,234.5", "2.3 MB", "3 days"), ("de", "1.234.567", "1.234,5", "2,3 MB", "3 Tage")],
)
def test_numbers_are_written_as_the_language_does(language: str, number: str, rate: str, size: str, span: str) -> None:
    t = texts(language)
    assert t.number(1_234_567) == number
    assert t.number(1234.54, 1) == rate
    assert t.size(2_345_678) == size
    assert t.span(3 * 86_400 + 5) == span
    assert number in t("group.writers_hint", count=1_234_567)


def test_no_template_writes_numbers_by_itself() -> None:
    assert [page.name for page in HTML.glob("*.html") if "{:," in page.read_text()] == []


@pytest.mark.parametrize("name", ["יעל", "محمد", "\u202eevil", "\u2066open", "a\u2069\u202eb"])
def test_a_name_does_not_turn_the_words_around_it(name: str) -> None:
    told = texts("en")("message.revoked", who=name)
    assert told == f"Deleted for everyone by \u2068{name.replace(chr(0x2069), '')}\u2069"


def test_every_reason_to_leave_something_out_says_what_to_do() -> None:
    """The worker's, and those that SQL counts itself."""
    ours = set(get_args(DiscardReason))
    sql = "\n".join(file.read_text() for file in (ROOT / "supabase" / "schemas").glob("*.sql"))
    counted = set(re.findall(r"count_discard\([\w.]+, '(\w+)'", sql))
    held = re.search(r"check \(kind in \(('edit'[^)]+)\)\)", sql)
    assert held
    assert counted
    kinds = set(re.findall(r"'(\w+)'", held[1])) - {"quote"}
    unmatched = {f"{kind}_unmatched" for kind in kinds - {"album", "rendition"}}
    refused = {f"{kind}_by_other" for kind in kinds - {"reaction", "sealed_edit"}}
    for reason in ours | counted | unmatched | refused:
        assert f"discard.{reason}" in texts("en").keys, reason


def test_the_log_can_be_filtered_by_every_event_that_is_written() -> None:
    code = "\n".join(file.read_text() for file in (ROOT / "worker").rglob("*.py"))
    sql = "\n".join(file.read_text() for file in (ROOT / "supabase" / "schemas").glob("*.sql"))
    written = set(re.findall(r"\baudit\(\s*\"(\w+)\"", code)) | set(re.findall(r"wa_audit\([\w.]+, '(\w+)'", sql))
    assert len(written) > 8
    assert written - set(EVENTS) == set()


@pytest.mark.parametrize("name", TONES)
@pytest.mark.parametrize("part", ["pill", "title", "do"])
def test_every_situation_says_what_it_is_and_what_to_do(name: str, part: str) -> None:
    assert f"situation.{name}.{part}" in texts("en").keys


@pytest.mark.parametrize(
    ("wanted", "accepted", "language"),
    [("de", "en", "de"), (None, "de-CH", "de"), ("xx", "fr;q=1,de", "de"), (None, "", "en"), (None, "*;q=,,", "en")],
)
def test_the_language_is_the_one_chosen_else_the_browser_s(wanted: str | None, accepted: str, language: str) -> None:
    assert choose(wanted, accepted) == language


@pytest.mark.parametrize("name", sorted(UNREAD))
@pytest.mark.parametrize("part", ["banner.{}", "error.{}.title", "error.{}.do"])
def test_a_database_that_could_not_be_asked_has_a_banner_and_an_error_page(name: str, part: str) -> None:
    assert part.format(name) in texts("en").keys
