-- Coverage: the mark up to which everything is durable, a ledger of gaps, and what answers from both. What an
-- earlier version stored has no ledger: 'not_recorded'.

set check_function_bodies = off;

alter table public.wa_sessions add column complete_to timestamptz, add column complete_epoch bigint;
alter table public.wa_monitored_versions add column taken bigint;
alter table public.wa_refused_stanzas add column sent_at timestamptz;

-- Times of which something is missing for good, and why. `chat_id` null: of all groups. `from_at` '-infinity': since
-- ever; `to_at` null: it goes on. `count`: how many messages, if that is known. What is still in other tables (refused
-- items, stubs) is not repeated here.
create table public.coverage_gaps (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id) on delete cascade,
  chat_id text,
  reason text not null check (
    reason in ('not_monitored', 'unlinked', 'away', 'too_old', 'waited_too_long', 'deleted', 'not_recorded')
  ),
  from_at timestamptz not null,
  to_at timestamptz,
  count bigint,
  check (to_at >= from_at)
);

create index coverage_gaps_chat on public.coverage_gaps (session_id, chat_id, reason, to_at);

create unique index coverage_gaps_open on public.coverage_gaps (session_id, coalesce(chat_id, ''), reason)
where to_at is null;

-- The stubs of a group: messages that could not be read, yet or for ever.
create index messages_unreadable on public.messages (session_id, chat_id, ts) where kind = 'undecryptable';

create index wa_refused_stanzas_sent_at on public.wa_refused_stanzas (session_id, chat_id, coalesce(sent_at, at));

-- Notes that a group was switched on or off, whoever did it: with the rights of the owner, because the writer may have
-- none on the ledger.
--
-- Off: what has not come yet is lost, so the gap begins with the mark. On: a worker that holds the lease learns of it
-- at its next poll, which ends the gap (wa.monitored_taken); any other reads it before it connects.
create or replace function wa.note_monitored() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_mark timestamptz;
  v_lease_ends timestamptz;
  v_last timestamptz;
begin
  select s.complete_to, s.lease_expires_at into v_mark, v_lease_ends
  from public.wa_sessions as s where s.id = new.session_id;
  select coalesce(max(c.to_at), '-infinity') into v_last
  from public.coverage_gaps as c
  where c.session_id = new.session_id and c.chat_id = new.wa_group_id and c.reason = 'not_monitored';
  if not new.monitor or v_last = '-infinity' then
    insert into public.coverage_gaps (session_id, chat_id, reason, from_at)
    values (
      new.session_id, new.wa_group_id, 'not_monitored',
      case when new.monitor then '-infinity' else greatest(v_last, least(coalesce(v_mark, '-infinity'), now())) end
    )
    on conflict (session_id, coalesce(chat_id, ''), reason) where to_at is null do nothing;
  end if;
  if new.monitor and coalesce(v_lease_ends <= now(), true) then
    update public.coverage_gaps
    set to_at = greatest(from_at, now())
    where session_id = new.session_id and chat_id = new.wa_group_id and reason = 'not_monitored' and to_at is null;
  end if;
  return null;
end
$$;

create trigger groups_coverage_inserted after insert on public.groups
for each row when (new.monitor) execute function wa.note_monitored();

create trigger groups_coverage_updated after update on public.groups
for each row when (old.monitor <> new.monitor) execute function wa.note_monitored();

-- The worker has this version of the monitored groups: what comes from now on is stored. Waits for nobody; what is
-- locked is left to the next poll.
create or replace function wa.monitored_taken(p_session text, p_version bigint) returns void
language plpgsql volatile security invoker set search_path = '' as $$
begin
  perform 1 from public.wa_monitored_versions as m
  where m.session_id = p_session and m.version = p_version
  for update skip locked;
  if not found then
    return;
  end if;
  update public.coverage_gaps
  set to_at = greatest(from_at, now())
  where id = any(array(
    select c.id
    from public.coverage_gaps as c
    inner join public.groups as g on c.session_id = g.session_id and c.chat_id = g.wa_group_id
    where c.session_id = p_session and c.reason = 'not_monitored' and c.to_at is null and g.monitor
    for update of c skip locked
  ));
  update public.wa_monitored_versions
  set taken = p_version
  where session_id = p_session and not exists (
    select 1
    from public.coverage_gaps as c
    inner join public.groups as g on c.session_id = g.session_id and c.chat_id = g.wa_group_id
    where c.session_id = p_session and c.reason = 'not_monitored' and c.to_at is null and g.monitor
  );
end
$$;

-- Moves the mark: everything that came until `p_to` on the connection `p_epoch` is durable, and so is what had waited.
-- For a caller that has locked the session's row. WhatsApp promises to keep nothing for longer than 14 days.
create or replace function wa.move_mark(p_session text, p_epoch bigint, p_to timestamptz) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.coverage_gaps (session_id, reason, from_at, to_at)
  select s.id, 'away', s.complete_to, p_to - interval '14 days'
  from public.wa_sessions as s
  where s.id = p_session and s.complete_epoch is distinct from p_epoch
    and s.complete_to < p_to - interval '14 days'
    and not exists (
      select 1
      from public.coverage_gaps as c
      where c.session_id = p_session and c.chat_id is null and c.reason = 'unlinked' and c.from_at >= s.complete_to
    );

  update public.wa_sessions
  set complete_to = greatest(complete_to, p_to), complete_epoch = p_epoch
  where id = p_session and epoch = p_epoch;
$$;

-- What a batch has dropped for its age: [{chat_id, reason, from, to, count}], in order of time. Called when the batch's
-- messages are stored. A gap of this time away is extended, unless something stored lies in between.
create or replace function wa.write_dropped(p_session text, p_dropped jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_new record;
  v_old public.coverage_gaps;
  v_mark timestamptz;
begin
  if coalesce(p_dropped in ('[]', 'null'), true) then
    return;
  end if;
  for v_new in
    select d ->> 'chat_id' as chat_id, d ->> 'reason' as reason, wa.parse_time(d ->> 'from_at') as from_at,
      wa.parse_time(d ->> 'to_at') as to_at, (d ->> 'count')::bigint as count
    from jsonb_array_elements(p_dropped) with ordinality as t (d, ord)
    order by t.ord
  loop
    continue when v_new.from_at is null or v_new.to_at is null;
    select s.complete_to into v_mark from public.wa_sessions as s where s.id = p_session;
    select * into v_old
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id = v_new.chat_id and c.reason = v_new.reason
      and c.to_at >= coalesce(v_mark, '-infinity')
    order by c.to_at desc
    limit 1;
    if found and not exists (
      select 1
      from public.groups as g
      inner join public.messages as m on g.id = m.group_id
      where g.session_id = p_session and g.wa_group_id = v_new.chat_id
        and m.ts > least(v_old.to_at, v_new.to_at) and m.ts < greatest(v_old.from_at, v_new.from_at)
    ) then
      update public.coverage_gaps
      set
        from_at = least(from_at, v_new.from_at), to_at = greatest(to_at, v_new.to_at),
        count = count + v_new.count
      where id = v_old.id;
    else
      insert into public.coverage_gaps (session_id, chat_id, reason, from_at, to_at, count)
      values (p_session, v_new.chat_id, v_new.reason, v_new.from_at, v_new.to_at, v_new.count);
    end if;
  end loop;
end
$$;

-- Notes that messages sent before `p_before` were deleted.
create or replace function wa.note_deleted(p_session text, p_before timestamptz) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  update public.coverage_gaps
  set to_at = greatest(to_at, p_before)
  where session_id = p_session and chat_id is null and reason = 'deleted';
  if not found then
    insert into public.coverage_gaps (session_id, reason, from_at, to_at)
    values (p_session, 'deleted', '-infinity', p_before);
  end if;
end
$$;

-- Every gap of a group between two times: those of the ledger, and those that other tables tell. Those of the present
-- have the reasons `away` (no worker runs), `not_connected`, `backlog` (connected, but WhatsApp has not said that it
-- sent everything that had waited) and `left`.
create or replace function wa.gaps_of(p_session text, p_group text, p_from timestamptz, p_to timestamptz)
returns table (reason text, from_at timestamptz, to_at timestamptz, count bigint)
language sql stable security invoker set search_path = '' as $$
  with present as (
    select
      s.complete_to, s.status = 'connected' as connected, coalesce(s.lease_expires_at > now(), false) as held,
      s.complete_epoch is not distinct from s.epoch as delivered
    from public.wa_sessions as s
    where s.id = p_session
  ),

  ledger as (
    select c.chat_id, c.reason, c.from_at, c.to_at, c.count
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id = p_group
    union all
    select c.chat_id, c.reason, c.from_at, c.to_at, c.count
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id is null
  ),

  every as (
    select l.reason, l.from_at, l.to_at, l.count from ledger as l
    union all
    select 'not_monitored', '-infinity'::timestamptz, null, null
    where not exists (
      select 1
      from public.groups as g
      where g.session_id = p_session and g.wa_group_id = p_group and g.monitor
    )
    and not exists (select 1 from ledger as l where l.reason = 'not_monitored' and l.to_at is null)
    union all
    select
      case when not p.held then 'away' when p.connected then 'backlog' else 'not_connected' end,
      greatest(
        coalesce(p.complete_to, '-infinity'),
        (select max(l.to_at) from ledger as l where l.reason = 'unlinked')
      ),
      null, null
    from present as p
    where not (p.held and p.connected and p.delivered)
      and not exists (select 1 from ledger as l where l.reason = 'unlinked' and l.to_at is null)
    union all
    select 'left', g.left_at, null, null
    from public.groups as g
    where g.session_id = p_session and g.wa_group_id = p_group and g.left_at is not null
    union all
    select r.state, coalesce(r.sent_at, r.at), coalesce(r.sent_at, r.at), 1
    from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.chat_id = p_group and r.state <> 'undecrypted'
      and coalesce(r.sent_at, r.at) > p_from and coalesce(r.sent_at, r.at) <= p_to
    union all
    select case when m.pending then 'undecryptable' else 'lost' end, m.ts, m.ts, 1
    from public.messages as m
    where m.session_id = p_session and m.chat_id = p_group and m.kind = 'undecryptable'
      and m.ts > p_from and m.ts <= p_to
  )

  select e.reason, e.from_at, e.to_at, e.count
  from every as e
  where e.from_at <= p_to and coalesce(e.to_at, 'infinity') > p_from
$$;

-- Whether the archive of a group (its WhatsApp id) is complete after `p_from` (null: since ever) and up to `p_to`
-- (null, or later than now: now): {complete, since, complete_to, gaps: [{reason, from, to, count}], gap_count}.
-- `since`: where the last gap ends, null if one goes on. `from` null: since ever; `to` null: it goes on; `count` null:
-- not known. At most `p_limit` gaps, the newest, in order of time. `complete_to`: what has come until then is durable;
-- later than that, the answer is what the worker believes.
create or replace function public.coverage(
  p_session text, p_group text, p_from timestamptz default null, p_to timestamptz default null,
  p_limit integer default 1000
) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with gaps as materialized (
    select g.reason, g.from_at, g.to_at, g.count
    from wa.gaps_of(p_session, p_group, coalesce(p_from, '-infinity'), least(coalesce(p_to, now()), now())) as g
  ),

  newest as (
    select g.reason, g.from_at, g.to_at, g.count
    from gaps as g
    order by g.to_at desc nulls first, g.from_at desc, g.reason
    limit p_limit
  )

  select jsonb_build_object(
    'complete', not exists (select 1 from gaps),
    'since', (select case when count(*) = count(g.to_at) then max(g.to_at) end from gaps as g),
    'complete_to', (select s.complete_to from public.wa_sessions as s where s.id = p_session),
    'gap_count', (select count(*) from gaps),
    'gaps', (
      select coalesce(jsonb_agg(
        jsonb_build_object(
          'reason', n.reason, 'from', nullif(n.from_at, '-infinity'), 'to', n.to_at, 'count', n.count
        ) order by n.from_at, n.to_at nulls last, n.reason
      ), '[]')
      from newest as n
    )
  )
$$;

-- The coverage of every group that is or was switched on, since ever, with its 20 newest gaps: {groups: [{wa_group_id,
-- name, monitor, …public.coverage}]}.
create or replace function public.wa_coverage(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('groups', coalesce(
    jsonb_agg(
      jsonb_build_object('wa_group_id', g.wa_group_id, 'name', g.name, 'monitor', g.monitor)
      || public.coverage(p_session, g.wa_group_id, null, null, 20)
      order by g.name, g.wa_group_id
    ), '[]'
  ))
  from public.groups as g
  where g.session_id = p_session and (g.monitor or exists (
    select 1
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id = g.wa_group_id and c.reason = 'not_monitored'
  ))
$$;

create or replace function public.wa_set_session(
  p_session text, p_fence bigint, p_patch jsonb, p_audits jsonb default '[]'
)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.lock_session(p_session, p_fence);
  update public.wa_sessions
  set
    status = coalesce(p_patch ->> 'status', status),
    detail = case when p_patch ? 'detail' then coalesce(nullif(p_patch -> 'detail', 'null'), '{}') else detail end,
    wa_name = case when p_patch ? 'wa_name' then p_patch ->> 'wa_name' else wa_name end,
    wa_number = case when p_patch ? 'wa_number' then p_patch ->> 'wa_number' else wa_number end,
    updated_at = now()
  where id = p_session;
  if p_patch ->> 'status' = 'connected' then
    update public.coverage_gaps
    set to_at = greatest(from_at, now())
    where session_id = p_session and chat_id is null and reason = 'unlinked' and to_at is null;
  end if;
  perform wa.write_audits(p_session, p_audits);
  return '{"done": true}'::jsonb;
end
$$;

create or replace function public.wa_wipe_credentials(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, p_fence);
begin
  -- Until a phone is linked again nothing is kept for us.
  if v_row.creds_json is not null and v_row.wa_number is not null then
    insert into public.coverage_gaps (session_id, reason, from_at)
    values (p_session, 'unlinked', least(coalesce(v_row.complete_to, v_row.created_at), now()))
    on conflict (session_id, coalesce(chat_id, ''), reason) where to_at is null do nothing;
  end if;
  delete from public.wa_session_keys where session_id = p_session;
  update public.wa_sessions
  set
    creds_json = null, wa_name = null, wa_number = null, epoch = v_row.epoch + 1, seq = 0, batch = null,
    updated_at = now()
  where id = p_session;
  return jsonb_build_object('epoch', (v_row.epoch + 1)::text);
end
$$;

create or replace function wa.write_refused(p_session text, p_refused jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  if coalesce(p_refused in ('[]', 'null'), true) then
    return;
  end if;
  insert into public.wa_refused_stanzas (
    session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding, item, state, next_at, sent_at
  )
  select
    p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
    left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
    kept.body, 'base64', coalesce(r ->> 'item', 'message'), coalesce(r ->> 'state', 'refused'),
    case when r ->> 'state' = 'waiting' then now() + interval '1 minute' end, wa.parse_time(r ->> 'sent_at')
  from jsonb_array_elements(p_refused) with ordinality as t (r, ord)
  left join public.groups as g on g.session_id = p_session and g.wa_group_id = r ->> 'chat_id'
  cross join lateral (
    select case
      when not coalesce(g.monitor, false) then null
      when r ->> 'encoding' = 'base64' then r ->> 'body'
      else replace(encode(convert_to(r ->> 'body', 'UTF8'), 'base64'), e'\n', '')
    end as body
  ) as kept
  where not exists (
    select 1 from public.wa_refused_stanzas as s
    where s.session_id = p_session and s.wa_msg_id = left(r ->> 'wa_msg_id', 256)
      and s.chat_id is not distinct from left(r ->> 'chat_id', 256)
      and s.sender is not distinct from left(r ->> 'sender', 256)
      and s.item = coalesce(r ->> 'item', 'message')
      and (s.state = 'undecrypted') = (coalesce(r ->> 'state', 'refused') = 'undecrypted')
      and not (coalesce(wa.holds_stub(s.body), false) and not coalesce(wa.holds_stub(kept.body), true))
  )
  and not (r ->> 'state' is not distinct from 'undecrypted' and (kept.body is null or exists (
    select 1 from public.messages as m
    where m.session_id = p_session and m.chat_id = r ->> 'chat_id' and m.sender = r ->> 'sender'
      and m.wa_msg_id = r ->> 'wa_msg_id' and m.kind <> 'undecryptable'
  )))
  order by t.ord;
end
$$;

create or replace function wa.store_messages_or_refuse(p_session text, p_messages jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_code text;
  v_reason text;
  v_half integer := jsonb_array_length(p_messages) / 2;
  v_first jsonb;
  v_second jsonb;
begin
  if jsonb_array_length(p_messages) = 0 then
    return '{"stored": 0, "upgraded": 0, "duplicates": 0, "skipped": 0, "jobs": 0, "refused": 0}'::jsonb;
  end if;
  for v_attempt in 1..3 loop
    begin
      return wa.store_messages(p_session, p_messages);
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded then
        get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
    end;
    exit when v_code <> '23503';
  end loop;

  if v_half = 0 then
    perform wa.write_refused(p_session, jsonb_build_array(jsonb_build_object(
      'chat_id', p_messages -> 0 ->> 'chat_id', 'sender', p_messages -> 0 ->> 'sender',
      'wa_msg_id', p_messages -> 0 ->> 'wa_msg_id', 'code', v_code, 'reason', v_reason, 'body', p_messages ->> 0,
      'sent_at', p_messages -> 0 ->> 'ts'
    )));
    return '{"stored": 0, "upgraded": 0, "duplicates": 0, "skipped": 0, "jobs": 0, "refused": 1}'::jsonb;
  end if;

  select jsonb_agg(m order by ord) filter (where ord <= v_half), jsonb_agg(m order by ord) filter (where ord > v_half)
  into v_first, v_second
  from jsonb_array_elements(p_messages) with ordinality as t (m, ord);
  v_first := wa.store_messages_or_refuse(p_session, v_first);
  v_second := wa.store_messages_or_refuse(p_session, v_second);
  return wa.add_counts(v_first, v_second);
end
$$;

create or replace function wa.take_changes(p_session text, p_changes jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_in jsonb;
  v_result text;
  v_done integer := 0;
  v_held integer := 0;
  v_refused integer := 0;
  v_code text;
  v_reason text;
begin
  for v_in in
    select c.change
    from jsonb_array_elements(p_changes) with ordinality as c (change, ord)
    inner join public.groups as g on g.session_id = p_session and g.wa_group_id = c.change ->> 'chat_id' and g.monitor
    order by c.ord
  loop
    v_result := null;
    for v_attempt in 1..3 loop
      begin
        v_result := wa.take_change(p_session, v_in);
      exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      end;
      exit when v_result is not null or v_code <> '23503';
    end loop;
    if v_result is null then
      perform wa.write_refused(p_session, jsonb_build_array(jsonb_build_object(
        'item', 'change', 'chat_id', v_in ->> 'chat_id', 'sender', v_in ->> 'author',
        'wa_msg_id', v_in ->> 'change_id', 'code', v_code, 'reason', v_reason, 'body', v_in::text,
        'sent_at', v_in ->> 'at'
      )));
      v_refused := v_refused + 1;
    end if;
    v_done := v_done + coalesce(v_result = 'done', false)::integer;
    v_held := v_held + coalesce(v_result = 'held', false)::integer;
  end loop;
  return jsonb_build_object('changed', v_done, 'held', v_held, 'refused', v_refused);
end
$$;

create or replace function public.wa_delete_messages(
  p_session text, p_before timestamptz, p_limit integer
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_messages integer;
  v_refused integer;
begin
  delete from public.messages
  where id = any(array(
    select m.id
    from public.groups as g
    inner join public.messages as m on g.id = m.group_id
    where g.session_id = p_session and m.ts < p_before
    limit p_limit
  ));
  get diagnostics v_messages = row_count;
  delete from public.wa_refused_stanzas
  where id = any(array(
    select r.id from public.wa_refused_stanzas as r where r.session_id = p_session and r.at < p_before limit p_limit
  ));
  get diagnostics v_refused = row_count;
  if v_messages + v_refused > 0 then
    perform wa.note_deleted(p_session, p_before);
  end if;
  return jsonb_build_object(
    'messages', v_messages, 'refused', v_refused, 'more', p_limit in (v_messages, v_refused)
  );
end
$$;

create or replace function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_counts jsonb;
  v_sealed integer := 0;
begin
  if wa.begin_batch(p_session, p_batch) then
    return jsonb_build_object('seq', v_seq::text, 'duplicate', true);
  end if;

  perform wa.write_keys(p_session, p_batch -> 'keys');
  update public.wa_sessions
  set
    seq = v_seq, batch = concat_ws(' ', v_seq, p_batch ->> 'digest'),
    creds_json = coalesce(p_batch ->> 'creds', creds_json),
    lease_expires_at = wa.renewed_lease(lease_owner, lease_expires_at, lease_seconds)
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(p_session, p_batch -> 'hashes', p_batch -> 'discards');
  if p_batch -> 'groups' not in ('[]', 'null') then
    perform wa.write_groups(p_session, p_batch -> 'groups');
  end if;

  perform wa.write_refused(p_session, p_batch -> 'refused');
  v_counts := wa.take_items(
    p_session, coalesce(nullif(p_batch -> 'messages', 'null'), '[]'),
    coalesce(nullif(p_batch -> 'changes', 'null'), '[]')
  );
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
  ) then
    v_sealed := cardinality(wa.openable_edits(p_session, 1));
  end if;
  perform wa.write_dropped(p_session, p_batch -> 'dropped');
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

create or replace function wa.news_of(p_session text, p_monitored bigint, p_media integer) returns jsonb
language plpgsql volatile security invoker set search_path = '' as $$
declare
  v_news jsonb := '{}';
  v_flags jsonb;
  v_version bigint;
  v_taken bigint;
begin
  if exists (
    select 1 from public.runtime_flags as r
    where r.session_id = p_session and r.value is distinct from r.handled_value
  ) then
    v_flags := public.wa_pending_flags(p_session) -> 'flags';
    if v_flags <> '[]' then
      v_news := v_news || jsonb_build_object('flags', v_flags);
    end if;
  end if;
  -- Before the groups, which may then be newer than the version: they are only read once more.
  select m.version, m.taken into v_version, v_taken
  from public.wa_monitored_versions as m where m.session_id = p_session;
  v_version := coalesce(v_version, 0);
  if v_version = p_monitored and v_taken is distinct from v_version and v_version > 0 then
    perform wa.monitored_taken(p_session, v_version);
  end if;
  if v_version is distinct from p_monitored then
    v_news := v_news || jsonb_build_object(
      'monitored', public.wa_monitored_groups(p_session) || jsonb_build_object('version', v_version::text)
    );
  end if;
  if p_media > 0 and exists (
    select 1 from public.media_jobs as j
    where j.session_id = p_session and j.next_attempt_at <= now()
      and (j.lease_expires_at is null or j.lease_expires_at <= now()) and (p_media > 1 or j.wants_phone_at is null)
  ) then
    v_news := v_news || '{"media": true}';
  end if;
  if exists (
    select 1 from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.state = 'waiting' and r.next_at <= now()
  ) then
    v_news := v_news || '{"refused": true}';
  end if;
  return v_news;
end
$$;

create or replace function public.wa_host_poll(p_owner text, p_capacity integer, p_held jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_until timestamptz;
  v_due boolean;
  v_moves boolean;
  v_news jsonb;
  v_alive integer := 0;
  v_answer jsonb := '{}';
begin
  for v_held in
    select h.session, h.fence, h.monitored, h.media, h.epoch, h.complete_to
    from jsonb_to_recordset(p_held) as h (
      session text, fence bigint, monitored bigint, media integer, epoch bigint, complete_to timestamptz
    )
    order by h.session
  loop
    select
      s.fence, s.lease_owner, s.lease_expires_at, make_interval(secs => s.lease_seconds) as lease, s.epoch,
      s.complete_epoch, s.complete_to
    into v_row
    from public.wa_sessions as s where s.id = v_held.session;
    if v_row.fence is distinct from v_held.fence or v_row.lease_owner is distinct from p_owner then
      v_answer := jsonb_set(v_answer, '{lost}', coalesce(v_answer -> 'lost', '[]') || to_jsonb(v_held.session));
      continue;
    end if;
    v_alive := v_alive + 1;
    v_due := v_row.lease_expires_at <= clock_timestamp() + v_row.lease * 2 / 3;
    v_moves := v_held.epoch = v_row.epoch and v_held.complete_to is not null and (
      v_row.complete_epoch is distinct from v_row.epoch
      or v_held.complete_to > coalesce(v_row.complete_to, '-infinity') + v_row.lease / 3
    );
    if v_due or v_moves then
      update public.wa_sessions as s
      set lease_expires_at = clock_timestamp() + v_row.lease
      where s.id = (
        select f.id
        from public.wa_sessions as f
        where f.id = v_held.session and f.fence = v_held.fence and f.lease_owner = p_owner
        for no key update skip locked
      )
      returning s.lease_expires_at into v_until;
      if found and v_moves then
        perform wa.move_mark(v_held.session, v_held.epoch, v_held.complete_to);
      end if;
      if v_until is not null then
        v_answer := jsonb_set(
          v_answer, '{renewed}',
          coalesce(v_answer -> 'renewed', '{}') || jsonb_build_object(v_held.session, v_until)
        );
      elsif v_due then
        v_answer := jsonb_set(v_answer, '{busy}', coalesce(v_answer -> 'busy', '[]') || to_jsonb(v_held.session));
      end if;
    end if;
    v_news := wa.news_of(v_held.session, v_held.monitored, v_held.media);
    if v_news <> '{}' then
      v_answer := jsonb_set(
        v_answer, '{news}', coalesce(v_answer -> 'news', '{}') || jsonb_build_object(v_held.session, v_news)
      );
    end if;
  end loop;
  return v_answer || jsonb_build_object('alive', v_alive);
end
$$;

alter table public.coverage_gaps enable row level security;
revoke all on public.coverage_gaps from anon, authenticated;
grant select, insert, update, delete on public.coverage_gaps to service_role;
revoke all on sequence public.coverage_gaps_id_seq from anon, authenticated;

revoke execute on function
public.coverage, public.wa_coverage, wa.gaps_of, wa.monitored_taken, wa.move_mark, wa.note_deleted, wa.note_monitored,
wa.write_dropped
from public, anon, authenticated;

grant execute on function
public.coverage, public.wa_coverage, wa.gaps_of, wa.monitored_taken, wa.move_mark, wa.note_deleted, wa.note_monitored,
wa.write_dropped
to service_role;

insert into public.coverage_gaps (session_id, reason, from_at, to_at)
select
  s.id as session_id,
  'not_recorded' as reason,
  '-infinity' as from_at,
  now() as to_at
from public.wa_sessions as s
where s.creds_json is not null or exists (
  select m.id from public.messages as m
  where m.session_id = s.id
);

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127020000')
$$;

notify pgrst, 'reload schema';
