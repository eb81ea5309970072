"""The session's functions through the store: every one is called twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from testkit.waiting import until
from tests.integration.database import GROUP, OTHER_GROUP, message, rows, switch, table, writer
from tests.integration.reading import monitored_groups, pending_flags
from worker.errors import SequenceGap, StaleEpoch, StaleFence, StoreRefused
from worker.store import AccountState, Audit, Batch, GroupChange, HeldSession, KeyChange, Store

CREDS = '{"b":1,  "a":"\\u0000\\ud800 ü"}'  # spaces, order and escapes that jsonb would change or refuse


async def expire_lease(store: Store, session: str) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    await table(store, "wa_sessions").update({"lease_expires_at": past}).eq("id", session).execute()


async def test_check_accepts_a_migrated_database(store: Store) -> None:
    await store.check()
    await store.check()


async def test_the_first_lease_makes_the_row_and_a_second_call_renews_it(store: Store, session: str) -> None:
    first = await store.lease_acquire(session, "a", 60)
    again = await store.lease_acquire(session, "a", 90)
    assert (first.acquired, first.fence, first.epoch, first.holder) == (True, 1, 0, "a")
    assert (again.acquired, again.fence) == (True, 1)
    assert again.expires_at > first.expires_at > first.now
    found = await table(store, "wa_sessions").select("status,detail").eq("id", session).execute()
    assert found.data == [{"status": "disconnected", "detail": {}}]


async def test_a_held_lease_is_not_given_to_another(store: Store, session: str) -> None:
    await store.lease_acquire(session, "a", 60)
    for _ in range(2):
        other = await store.lease_acquire(session, "b", 60)
        assert (other.acquired, other.holder, other.fence) == (False, "a", 1)


async def test_an_expired_lease_changes_hands_with_a_new_fence(store: Store, session: str) -> None:
    await store.lease_acquire(session, "a", 60)
    await expire_lease(store, session)
    taken = await store.lease_acquire(session, "b", 60)
    assert (taken.acquired, taken.fence) == (True, 2)
    assert not (await store.lease_acquire(session, "a", 60)).acquired


async def test_an_expired_lease_that_nobody_took_is_renewed_with_its_fence(store: Store, session: str) -> None:
    await store.lease_acquire(session, "a", 60)
    await expire_lease(store, session)
    assert (await store.lease_acquire(session, "a", 60)).fence == 1


async def test_a_released_lease_is_free_at_once(store: Store, session: str) -> None:
    lease = await store.lease_acquire(session, "a", 60)
    assert not await store.lease_release(session, "b", lease.fence)
    assert not await store.lease_release(session, "a", lease.fence + 1)
    assert await store.lease_release(session, "a", lease.fence)
    assert not await store.lease_release(session, "a", lease.fence)
    assert (await store.lease_acquire(session, "b", 60)).fence == 2


async def test_who_lost_the_lease_can_write_nothing(store: Store, session: str) -> None:
    old = await writer(store, session)
    await expire_lease(store, session)
    await store.lease_acquire(session, "b", 60)
    with pytest.raises(StaleFence):
        await old.commit(creds="{}")
    with pytest.raises(StaleFence):
        await store.begin_epoch(session, old.fence)
    with pytest.raises(StaleFence):
        await store.load_state(session, old.fence)
    with pytest.raises(StaleFence):
        await store.set_session(session, old.fence, {"status": "connected"})
    with pytest.raises(StaleFence):
        await store.wipe_credentials(session, old.fence)
    with pytest.raises(StaleFence):
        await store.upsert_groups(session, old.fence, [], complete=True)


async def test_a_session_that_is_not_there_has_no_fence(store: Store, session: str) -> None:
    with pytest.raises(StaleFence):
        await store.begin_epoch(session, 0)


async def test_each_epoch_counts_its_batches_anew(store: Store, session: str) -> None:
    old = await writer(store, session)
    await old.commit(creds="1")
    assert await store.begin_epoch(session, old.fence) == old.epoch + 1
    with pytest.raises(StaleEpoch):
        await old.commit(creds="2")
    fresh = Batch(fence=old.fence, epoch=old.epoch + 1, seq=1, creds="3")
    assert (await store.commit(session, fresh)).seq == 1
    assert (await store.load_state(session, old.fence)).creds == "3"


async def test_a_batch_is_applied_once_and_in_order(store: Store, session: str) -> None:
    me = await writer(store, session)
    first = me.batch(creds="1", discards={"too_old": 1})
    assert not (await store.commit(session, first)).duplicate
    assert (await store.commit(session, first)).duplicate
    with pytest.raises(SequenceGap):
        await store.commit(session, Batch(fence=me.fence, epoch=me.epoch, seq=3, creds="3"))
    assert not (await me.commit(creds="2")).duplicate
    assert (await store.commit(session, first)).duplicate
    assert (await store.load_state(session, me.fence)).creds == "2"
    assert (await store.status(session))["discards"] == {"too_old": "1"}


async def test_what_was_discarded_undecrypted_is_counted_once_though_it_comes_again(store: Store, session: str) -> None:
    a, b, c = "aa" * 32, "bb" * 32, "cc" * 32
    me = await writer(store, session)
    await me.commit(discards={"unmonitored": 3, "too_old": 1}, unread={"unmonitored": [a, a], "too_old": [c]})
    assert (await store.status(session))["discards"] == {"unmonitored": "2", "too_old": "1"}, "two copies in one batch"
    await me.commit(
        discards={"unmonitored": 3, "waited_too_long": 1}, unread={"unmonitored": [a, b], "waited_too_long": [c]}
    )
    assert (await store.status(session))["discards"] == {"unmonitored": "4", "too_old": "1"}
    await me.commit(discards={"unmonitored": 1}, unread={"unmonitored": [b]})
    assert (await store.status(session))["discards"] == {"unmonitored": "4", "too_old": "1"}


async def test_credentials_and_keys_come_back_byte_for_byte(store: Store, session: str) -> None:
    me = await writer(store, session)
    assert await store.load_state(session, me.fence) == AccountState(creds=None, has_keys=False)
    await me.commit(creds=CREDS, keys=[KeyChange(type="session", id="ana:0", value=CREDS)])
    assert await store.load_state(session, me.fence) == AccountState(creds=CREDS, has_keys=True)
    await me.commit(keys=[KeyChange(type="session", id="ben:0", value="x")])
    assert (await store.load_state(session, me.fence)).creds == CREDS  # a batch without credentials leaves them
    for _ in range(2):
        assert await store.get_keys(session, "session", ["ana:0", "nobody"]) == {"ana:0": CREDS}
    assert await store.get_keys(session, "pre-key", ["ana:0"]) == {}


async def test_the_last_word_on_a_key_wins(store: Store, session: str) -> None:
    me = await writer(store, session)

    def key(id_: str, value: str | None) -> KeyChange:
        return KeyChange(type="pre-key", id=id_, value=value)

    await me.commit(keys=[key("1", "old"), key("2", "old"), key("1", None), key("2", "new"), key("3", "x")])
    assert await store.get_keys(session, "pre-key", ["1", "2", "3"]) == {"2": "new", "3": "x"}
    await me.commit(keys=[key("2", None), key("1", "again"), key("3", None), key("3", "y"), key("never", None)])
    assert await store.get_keys(session, "pre-key", ["1", "2", "3"]) == {"1": "again", "3": "y"}


async def test_keys_json_is_a_field_of_the_session(store: Store, session: str) -> None:
    me = await writer(store, session)
    keys = [KeyChange(type="pre-key", id=str(i), value=f"v{i}") for i in range(2500)]
    await me.commit(keys=[*keys, KeyChange(type="session", id="a", value="s")])
    found = await table(store, "wa_sessions").select("id,keys_json").eq("id", session).single().execute()
    assert found.data["keys_json"]["session"] == {"a": "s"}
    assert found.data["keys_json"]["pre-key"] == {key.id: key.value for key in keys}


async def test_wiped_credentials_are_gone_and_no_batch_in_flight_brings_them_back(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(creds="1", keys=[KeyChange(type="session", id="a", value="x")])
    assert await store.wipe_credentials(session, me.fence) == me.epoch + 1
    with pytest.raises(StaleEpoch):
        await me.commit(creds="2")
    assert await store.wipe_credentials(session, me.fence) == me.epoch + 2
    assert await store.load_state(session, me.fence) == AccountState(creds=None, has_keys=False)


async def test_a_session_shows_what_was_set_and_keeps_what_was_not(store: Store, session: str) -> None:
    lease = await store.lease_acquire(session, "a", 60)
    detail = {"qr": "2@abc", "expiresAt": "2026-11-22T12:00:00Z"}
    patch = {"status": "connecting", "detail": detail, "wa_name": "Ana", "wa_number": "4917"}
    await store.set_session(session, lease.fence, patch, [Audit(event="qr_generated"), Audit(event="connect")])
    await store.set_session(session, lease.fence, {"status": "connected"})
    found = await table(store, "wa_sessions").select("status,detail,wa_name,wa_number").eq("id", session).execute()
    assert found.data == [patch | {"status": "connected"}]
    await store.set_session(session, lease.fence, {"detail": None, "wa_name": None})
    found = await table(store, "wa_sessions").select("status,detail,wa_name,wa_number").eq("id", session).execute()
    assert found.data == [{"status": "connected", "detail": {}, "wa_name": None, "wa_number": "4917"}]
    assert [row["event"] for row in await rows(store, "audit_log", session)] == ["qr_generated", "connect"]


async def test_a_status_outside_of_the_contract_is_refused(store: Store, session: str) -> None:
    lease = await store.lease_acquire(session, "a", 60)
    with pytest.raises(StoreRefused) as refused:
        await store.set_session(session, lease.fence, {"status": "sleeping"})
    assert refused.value.code in {"23514", "SUP"}  # the embedded one does not name this class


async def test_known_stanzas_are_those_that_were_committed(store: Store, session: str) -> None:
    me = await writer(store, session)
    hashes = [f"{n:064x}" for n in range(5)]
    await me.commit(hashes=[*hashes[:3], "not a hash", hashes[0]])
    await me.commit(hashes=hashes[:1])
    for _ in range(2):
        assert await store.known_stanzas(session, [*hashes, "zz"]) == set(hashes[:3])


async def test_identities_are_found_from_both_ends_and_a_number_that_moved_leads_to_nobody(
    store: Store, session: str
) -> None:
    me = await writer(store, session)
    await me.commit(identities=[("1@lid", "49@pn"), ("2@lid", "50@pn")])
    await me.commit(identities=[("2@lid", "51@pn"), ("2@lid", "52@pn")])
    for _ in range(2):
        found = await store.get_identities(session, ["1@lid", "49@pn", "2@lid", "50@pn", "52@pn"])
        assert found == {"1@lid": "49@pn", "49@pn": "1@lid", "2@lid": "52@pn", "50@pn": "", "52@pn": ""}


async def test_discovery_names_groups_and_never_touches_monitor(store: Store, session: str) -> None:
    lease = await store.lease_acquire(session, "a", 60)
    everything = [GroupChange(wa_group_id=GROUP, name="Family"), GroupChange(wa_group_id=OTHER_GROUP, name="Work")]
    first = await store.upsert_groups(session, lease.fence, everything, complete=True)
    assert (first.count, first.added, first.renamed, first.left) == (2, 2, 0, 0)
    await switch(store, session, GROUP, True)
    again = await store.upsert_groups(session, lease.fence, everything, complete=True)
    assert (again.count, again.added, again.renamed, again.left) == (2, 0, 0, 0)
    renamed = await store.upsert_groups(
        session, lease.fence, [GroupChange(wa_group_id=GROUP, name="Familie")], complete=True
    )
    assert (renamed.renamed, renamed.left) == (1, 1)
    family, work = await rows(store, "groups", session)
    assert (family["name"], family["monitor"], family["left_at"]) == ("Familie", True, None)
    assert (work["monitor"], work["left_at"] is None) == (False, False)
    back = await store.upsert_groups(session, lease.fence, everything, complete=True)
    assert back.renamed == 1
    assert [row["left_at"] for row in await rows(store, "groups", session)] == [None, None]
    assert await monitored_groups(store, session) == {GROUP}
    audits = [(row["event"], row["payload"]) for row in await rows(store, "audit_log", session)]
    assert audits == [
        ("discovery", {"count": 2}),
        ("discovery", {"count": 2}),
        ("group_rename", {"from": "Family", "to": "Familie", "wa_group_id": GROUP}),
        ("discovery", {"count": 1}),
        ("group_rename", {"from": "Familie", "to": "Family", "wa_group_id": GROUP}),
        ("discovery", {"count": 2}),
    ]


async def test_groups_of_a_commit_are_named_left_and_rejoined(store: Store, session: str) -> None:
    me = await writer(store, session)
    await me.commit(groups=[GroupChange(wa_group_id=GROUP, name="New"), GroupChange(wa_group_id="3@g.us", left=True)])
    await me.commit(groups=[GroupChange(wa_group_id=GROUP, left=True), GroupChange(wa_group_id="x" * 300)])
    found = {row["wa_group_id"]: row for row in await rows(store, "groups", session)}
    assert (found[GROUP]["name"], found[GROUP]["left_at"] is None, found[GROUP]["monitor"]) == ("New", False, True)
    assert found["3@g.us"]["left_at"]
    assert len(found) == 3
    await me.commit(groups=[GroupChange(wa_group_id=GROUP)])
    assert (await rows(store, "groups", session))[0]["left_at"] is None


async def raise_flag(store: Store, key: str, value: object) -> None:
    await table(store, "runtime_flags").upsert({"key": key, "value": value}).execute()


async def test_a_flag_is_pending_until_it_is_handled(store: Store, session: str) -> None:
    await raise_flag(store, f"{session}:fetch_groups_requested", {"at": "2026-11-22T12:00:00Z"})
    (flag,) = await pending_flags(store, session)
    assert (flag.key, flag.at, flag.malformed) == (
        "fetch_groups_requested",
        datetime(2026, 11, 22, 12, tzinfo=UTC),
        False,
    )
    assert await pending_flags(store, session) == [flag] or flag.age_seconds
    await store.flag_handled(session, flag)
    await store.flag_handled(session, flag)
    assert await pending_flags(store, session) == []
    await raise_flag(store, f"{session}:fetch_groups_requested", {"at": "2026-11-22T11:00:00Z"})
    assert await pending_flags(store, session) == []  # older than the last one handled
    await raise_flag(store, f"{session}:fetch_groups_requested", {"at": "2026-11-22T12:00:01Z"})
    assert [f.at_text for f in await pending_flags(store, session)] == ["2026-11-22T12:00:01Z"]


async def test_a_request_for_a_pairing_code_brings_its_phone_number(store: Store, session: str) -> None:
    key = f"{session}:wa_pairing_code_requested"
    await raise_flag(store, key, {"at": "2026-11-22T12:00:00Z", "phone": "+49 151 1234567"})
    (flag,) = await pending_flags(store, session)
    assert flag.phone == "+49 151 1234567"
    await raise_flag(store, key, {"at": "2026-11-22T12:00:01Z", "phone": 491511234567})
    (flag,) = await pending_flags(store, session)
    assert flag.phone == "491511234567"


async def test_a_newer_flag_that_came_meanwhile_stays_pending(store: Store, session: str) -> None:
    key = f"{session}:wa_refresh_qr_requested"
    await raise_flag(store, key, {"at": "2026-11-22T12:00:00Z"})
    (flag,) = await pending_flags(store, session)
    await raise_flag(store, key, {"at": "2026-11-22T12:00:05Z"})
    await store.flag_handled(session, flag)
    assert [f.at_text for f in await pending_flags(store, session)] == ["2026-11-22T12:00:05Z"]


async def test_a_flag_from_a_clock_that_runs_ahead_neither_repeats_nor_hides_later_ones(
    store: Store, session: str
) -> None:
    key = f"{session}:wa_disconnect_requested"
    await raise_flag(store, key, {"at": "2031-01-01T00:00:00Z"})
    (flag,) = await pending_flags(store, session)
    await store.flag_handled(session, flag)
    assert await pending_flags(store, session) == []
    await raise_flag(store, key, {"at": (datetime.now(UTC) + timedelta(seconds=5)).isoformat()})
    assert len(await pending_flags(store, session)) == 1


@pytest.mark.parametrize(
    "value",
    [{}, {"at": "soon"}, {"at": "infinity"}, {"at": 5}, {"at": 1764191126}, {"at": "1764191126"}, [], {"at": None}],
)
async def test_a_malformed_flag_is_reported_until_it_is_marked(store: Store, session: str, value: object) -> None:
    key = f"{session}:fetch_groups_requested"
    await raise_flag(store, key, value)
    (flag,) = await pending_flags(store, session)
    assert flag.malformed
    assert flag.at is None
    await store.flag_handled(session, flag)
    assert await pending_flags(store, session) == []
    await raise_flag(store, key, {"at": "2020-01-01T00:00:00Z"})
    assert len(await pending_flags(store, session)) == 1  # it did not count as handled


async def test_the_default_session_has_the_flags_without_a_prefix(store: Store, session: str) -> None:
    await raise_flag(store, "wa_refresh_qr_requested", {"at": "2026-11-22T12:00:00Z"})
    await raise_flag(store, f"{session}:fetch_groups_requested", {"at": "2026-11-22T12:00:00Z"})
    pending = await pending_flags(store, "default")
    assert [flag.key for flag in pending] == ["wa_refresh_qr_requested"]
    await store.flag_handled("default", pending[0])
    assert await pending_flags(store, "default") == []


async def test_audits_are_kept_in_order(store: Store, session: str) -> None:
    await store.audit(session, "connect", {"n": 1})
    await store.audit(session, "disconnect")
    me = await writer(store, session)
    await me.commit(audits=[Audit(event="error", payload={"code": "X"}), Audit(event="ingest")])
    found = [(row["event"], row["payload"]) for row in await rows(store, "audit_log", session)]
    assert found == [("connect", {"n": 1}), ("disconnect", {}), ("error", {"code": "X"}), ("ingest", {})]


async def test_status_tells_of_the_session_but_not_the_code_itself(store: Store, session: str) -> None:
    assert (await store.status(session))["session"] is None
    me = await writer(store, session)
    await me.commit(creds="secret-creds")
    await store.set_session(session, me.fence, {"detail": {"qr": "2@secret-qr", "expiresAt": "x"}})
    status = await store.status(session)
    assert "secret" not in str(status)
    assert status["session"]["has_qr"]
    assert status["session"]["has_creds"]
    assert status["session"]["lease_held"]
    assert (status["groups"], status["monitored"], status["messages"]) == (2, 1, 0)


async def test_statistics_follow_a_table_that_grows_and_leave_one_that_does_not(store: Store, session: str) -> None:
    """Changes are counted by the server up to a second later."""
    me = await writer(store, session)
    await switch(store, session, GROUP, True)
    number = 0

    async def grown() -> bool:
        nonlocal number
        await me.commit(messages=[message(f"A{number + n}") for n in range(200)])
        number += 200
        return "messages" in await store.analyze()

    async def left_alone() -> bool:
        return "messages" not in await store.analyze()

    await until("statistics of the messages", grown)
    await until("a turn without them", left_alone)


async def test_a_wanted_session_is_claimed_served_and_stopped(store: Store, session: str) -> None:
    """What a host does, through the store; its rules: test_sql_hosts.py."""
    wanted = {"id": session, "wanted": True, "settings": {"catch_up_s": 60}}
    await table(store, "wa_sessions").update({"wanted": False}).eq("wanted", True).execute()  # other tests'
    await table(store, "wa_sessions").insert(wanted).execute()
    (claimed,) = (await store.host_poll("host", 1, [], 30.0)).claimed
    assert (claimed.session, claimed.fence, claimed.settings.values) == (session, 1, {"catch_up_s": 60})
    assert (claimed.until - claimed.now).total_seconds() == pytest.approx(30, abs=0.1)

    def held(settings: str) -> list[HeldSession]:
        return [HeldSession(session=session, fence=1, monitored=0, media=0, claimed=True, settings=settings)]

    again = await store.host_poll("host", 0, held(claimed.settings.version), 30.0)
    assert (again.claimed, again.give_up, again.updates) == ([], frozenset(), {})
    await store.console.ask(session, "pairing_code", {"phone": "491511234567"})
    news = (await store.host_poll("host", 0, held("another"), 30.0)).updates[session]
    assert (news.stop, news.settings) == (False, claimed.settings)
    (request,) = news.requests
    assert (request.name, request.args) == ("pairing_code", {"phone": "491511234567"})
    for _ in range(2):
        await store.request_handled(session, request.id, "shown")
    await table(store, "wa_sessions").update({"wanted": False}).eq("id", session).execute()
    news = (await store.host_poll("host", 0, held(claimed.settings.version), 30.0)).updates[session]
    assert (news.stop, news.settings, news.requests) == (True, None, [])
    assert await store.lease_release(session, "host", 1, failed=True)
    assert not await store.lease_release(session, "host", 1, failed=True)
    await table(store, "wa_hosts").delete().eq("owner", "host").execute()
