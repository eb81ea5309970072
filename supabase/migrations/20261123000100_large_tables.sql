-- What became slow with millions of messages, and what two connections did to each other.
--
-- Found by review, on PostgreSQL 16 with 1,000,000 messages: a new pair of LID and number could read the whole table of
-- messages; a merge of 100,000 messages took 14 s in one commit, more than any client waits; the status counted all
-- rows. And: a call that waited for a commit only to name the session, and a message refused because a user deleted the
-- one before it. What writes identities, and what takes the steps of a merge, is in the migration after this one.

-- Entries went to a pending list first, which every look-up reads as a whole: the planner then preferred a scan of the
-- table, for each new pair. Without the list a look-up costs the same always.
alter index public.messages_mentions set (fastupdate = false);

select gin_clean_pending_list('public.messages_mentions');

-- The newest error of a session, however long ago.
create index audit_log_error on public.audit_log (session_id, at) where event = 'error';

-- Pairs whose merge would take a commit too long: done in steps by public.wa_prune. `chats`: where links are to be made
-- anew at the end.
create table public.wa_merges_due (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  lid text not null,
  pn text not null,
  chats text[] not null default '{}',
  at timestamptz not null default now(),
  unique (session_id, pn, lid)
);

alter table public.wa_merges_due enable row level security;

revoke all on public.wa_merges_due from anon, authenticated;
grant select, insert, update, delete on public.wa_merges_due to service_role;

-- Locks the session row for the rest of the transaction; refuses a fence that is not the present one. Not `for update`:
-- whoever writes a row that names the session need not wait, nor be waited for.
create or replace function public.wa_lock_session(p_session text, p_fence bigint) returns public.wa_sessions
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
begin
  select * into v_row from public.wa_sessions where id = p_session for no key update;
  if v_row.id is null or v_row.fence is distinct from p_fence then
    raise exception 'stale_fence' using errcode = 'PT409';
  end if;
  return v_row;
end
$$;

-- The same as public.wa_store_messages, but what Postgres refuses is no error: the batch is halved until the offender
-- stands alone, which becomes a refused row. A row that somebody deletes at this moment (a parent, the group) is no
-- reason to refuse: the next attempt does not see it.
create or replace function public.wa_store_messages_or_refuse(p_session text, p_messages jsonb) returns jsonb
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
      return public.wa_store_messages(p_session, p_messages);
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded then
        get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
    end;
    exit when v_code <> '23503';
  end loop;

  if v_half = 0 then
    perform public.wa_write_refused(p_session, jsonb_build_array(jsonb_build_object(
      'chat_id', p_messages -> 0 ->> 'chat_id', 'sender', p_messages -> 0 ->> 'sender',
      'wa_msg_id', p_messages -> 0 ->> 'wa_msg_id', 'code', v_code, 'reason', v_reason, 'body', p_messages ->> 0
    )));
    return '{"stored": 0, "upgraded": 0, "duplicates": 0, "skipped": 0, "jobs": 0, "refused": 1}'::jsonb;
  end if;

  select jsonb_agg(m order by ord) filter (where ord <= v_half), jsonb_agg(m order by ord) filter (where ord > v_half)
  into v_first, v_second
  from jsonb_array_elements(p_messages) with ordinality as t (m, ord);
  v_first := public.wa_store_messages_or_refuse(p_session, v_first);
  v_second := public.wa_store_messages_or_refuse(p_session, v_second);
  return (
    select jsonb_object_agg(f.key, f.value::bigint + (v_second ->> f.key)::bigint)
    from jsonb_each_text(v_first) as f
  );
end
$$;

-- One change of a batch: 'done', 'held' or 'dropped' (public.wa_take_changes).
create function public.wa_take_change(p_session text, p_change jsonb) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_change public.wa_held_changes;
  v_result text;
begin
  v_change := jsonb_populate_record(null::public.wa_held_changes, p_change - 'id' - 'message_id' - 'held_at');
  v_change.session_id := p_session;
  v_change.payload := coalesce(nullif(v_change.payload, 'null'), '{}');
  if v_change.kind in ('quote', 'album') then
    select m.id into v_change.message_id
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id;
    if v_change.message_id is null then
      return 'dropped';
    end if;
  else
    -- Before it could be read, the message that brings the change may have left a stub.
    delete from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id and m.kind = 'undecryptable';
  end if;
  v_result := public.wa_apply_change(v_change);
  if v_result = 'done' then
    return 'done';
  elsif v_result = 'refused' then
    perform public.wa_count_discard(p_session, v_change.kind || '_by_other', 1);
    return 'dropped';
  end if;
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.author = v_change.author
    offset 999
  ) then
    perform public.wa_count_discard(p_session, 'change_flood', 1);
    return 'dropped';
  end if;
  insert into public.wa_held_changes (
    session_id, chat_id, kind, target_sender, target_id, author, change_id, at, payload, message_id
  )
  values (
    p_session, v_change.chat_id, v_change.kind, v_change.target_sender, v_change.target_id, v_change.author,
    v_change.change_id, v_change.at, v_change.payload, v_change.message_id
  )
  on conflict (session_id, chat_id, author, change_id, kind) do nothing;
  return 'held';
end
$$;

-- The changes of a batch: [{kind, chat_id, target_sender, target_id, author, change_id, at, payload}]. Those of chats
-- that are not monitored are dropped. Who sends more than 1,000 changes about nothing has the rest dropped and counted.
-- A target that somebody deletes at this moment is one that is not there: the next attempt does not see it.
create or replace function public.wa_take_changes(p_session text, p_changes jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_in jsonb;
  v_result text;
  v_done integer := 0;
  v_held integer := 0;
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
        v_result := public.wa_take_change(p_session, v_in);
      exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      end;
      exit when v_result is not null or v_code <> '23503';
    end loop;
    if v_result is null then
      perform public.wa_write_refused(p_session, jsonb_build_array(jsonb_build_object(
        'chat_id', v_in ->> 'chat_id', 'sender', v_in ->> 'author', 'wa_msg_id', v_in ->> 'change_id',
        'code', v_code, 'reason', v_reason, 'body', v_in::text
      )));
    end if;
    v_done := v_done + coalesce(v_result = 'done', false)::integer;
    v_held := v_held + coalesce(v_result = 'held', false)::integer;
  end loop;
  return jsonb_build_object('changed', v_done, 'held', v_held);
end
$$;

-- What merging this pair costs, in rows to rewrite; a row that is only read counts as a tenth. Not above `p_most` + 1
-- by much: who asks wants to know whether it is more than that.
create function public.wa_merge_cost(p_session text, p_lid text, p_pn text, p_most integer) returns integer
language sql volatile security invoker set search_path = '' set enable_seqscan = off as $$
  select (
    (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.sender = p_pn and m.sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as written
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.quoted_sender = p_pn and m.quoted_sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as quoted
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.revoked_by = p_pn and m.revoked_by like '%@s.whatsapp.net'
        limit p_most + 1
      ) as revoked
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.mentions is not null and m.mentions @> array[p_pn] and m.session_id = p_session
        limit p_most + 1
      ) as mentioned
    ) + (
      select count(*) from (
        select 1 from public.message_reactions as r
        where r.session_id = p_session and r.sender = p_pn and r.sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as reacted
    ) + (
      select count(*) / 10 from (
        select 1
        from public.groups as g
        cross join lateral (
          select 1 as one from public.messages as m
          where m.session_id = p_session and m.chat_id = g.wa_group_id and m.sender = p_lid
          limit p_most * 10 + 10
        ) as own
        where g.session_id = p_session and exists (
          select 1 from public.messages as n
          where n.session_id = p_session and n.chat_id = g.wa_group_id and n.sender = p_pn
        )
        limit p_most * 10 + 10
      ) as walked
    )
  )::integer
$$;

-- For a number that is not known to be anywhere the planner would read the whole table.
alter function public.wa_merge_identity(text, text, text) set enable_seqscan = off;

-- One step of the oldest merge that is due: at most `p_limit` rows are rewritten, or the links of one chat are made
-- anew. The end is as if public.wa_merge_identity had done it at once. For callers that hold the session row.
create function public.wa_merge_step(p_session text, p_limit integer) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_due public.wa_merges_due;
  v_ids bigint [];
  v_twin record;
  v_reaction public.message_reactions;
  v_first record;
  v_last record;
begin
  select * into v_due from public.wa_merges_due where session_id = p_session order by id limit 1;
  if v_due.id is null then
    return;
  end if;

  v_ids := array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.sender = v_due.pn and m.sender like '%@s.whatsapp.net'
    limit p_limit
  );
  if v_ids <> '{}' then
    update public.wa_merges_due
    set chats = array(
      select c.chat from unnest(v_due.chats) as c (chat)
      union
      select m.chat_id from public.messages as m where m.id = any(v_ids)
    )
    where id = v_due.id;
    for v_twin in
      select m.id as written, twin.id as known
      from public.messages as m
      cross join lateral (
        select n.id from public.messages as n
        where n.session_id = p_session and n.chat_id = m.chat_id and n.sender = v_due.lid
          and n.wa_msg_id = m.wa_msg_id
      ) as twin
      where m.id = any(v_ids)
    loop
      perform public.wa_collapse_messages(
        least(v_twin.written, v_twin.known), greatest(v_twin.written, v_twin.known), v_due.lid, v_due.pn
      );
    end loop;
    update public.messages set sender = v_due.lid, sender_alt = v_due.pn where id = any(v_ids) and sender = v_due.pn;
    return;
  end if;

  update public.messages set quoted_sender = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.quoted_sender = v_due.pn and m.quoted_sender like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages set revoked_by = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.revoked_by = v_due.pn and m.revoked_by like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages as m
  set
    mentions = array(
      select who.jid
      from unnest(array_replace(m.mentions, v_due.pn, v_due.lid)) with ordinality as who (jid, ord)
      group by who.jid
      order by min(who.ord)
    )
  where m.id = any(array(
    select n.id from public.messages as n
    where n.mentions is not null and n.mentions @> array[v_due.pn] and n.session_id = p_session
    limit p_limit
  ));
  if found then
    return;
  end if;
  for v_reaction in
    delete from public.message_reactions as r
    where r.sender = v_due.pn and r.message_id = any(array(
      select n.message_id from public.message_reactions as n
      where n.session_id = p_session and n.sender = v_due.pn and n.sender like '%@s.whatsapp.net'
      limit p_limit
    ))
    returning r.*
  loop
    perform public.wa_apply_reaction(
      p_session, v_reaction.message_id, v_due.lid, v_reaction.emoji, v_reaction.at, v_reaction.wa_msg_id
    );
  end loop;
  if found then
    return;
  end if;

  if v_due.chats <> '{}' then
    select m.ts, m.id into v_first
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null)
    order by m.ts, m.id
    limit 1;
    select m.ts, m.id into v_last
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null)
    order by m.ts desc, m.id desc
    limit 1;
    if v_first.id is not null then
      perform public.wa_link_parents(
        p_session, v_due.chats[1], v_due.lid, v_first.ts, v_first.id, v_last.ts, v_last.id
      );
    end if;
    update public.wa_merges_due set chats = v_due.chats[2:] where id = v_due.id;
    return;
  end if;

  -- What is left is small: held changes, and whatever came meanwhile.
  perform public.wa_merge_identity(p_session, v_due.lid, v_due.pn);
  delete from public.wa_merges_due where id = v_due.id;
end
$$;

-- How many messages a session has: exactly up to 10,000, above that the planner's estimate.
create function public.wa_count_messages(p_session text) returns jsonb
language plpgsql volatile security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_count bigint;
  v_plan json;
begin
  select count(*) into v_count
  from (select 1 from public.messages as m where m.session_id = p_session limit 10001) as some_of_them;
  if v_count <= 10000 then
    return jsonb_build_object('count', v_count, 'exact', true);
  end if;
  execute format('explain (format json) select 1 from public.messages where session_id = %L', p_session) into v_plan;
  return jsonb_build_object(
    'count', greatest(v_count, (v_plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint), 'exact', false
  );
end
$$;

-- What a status command shows. Without the QR itself: it is a way into the account. Its cost does not grow with the
-- tables: `messages` and `media` are estimates above 10,000 (`messages_exact`), `last_message_at` is that of the
-- groups' newest messages.
create or replace function public.wa_status(p_session text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  with counted as materialized (select public.wa_count_messages(p_session) as messages)

  select jsonb_build_object(
    'schema_version', public.wa_schema_version() ->> 'version',
    'now', now(),
    'session', (
      select to_jsonb(s) - 'creds_json' - 'detail' || jsonb_build_object(
        'fence', s.fence::text, 'epoch', s.epoch::text, 'seq', s.seq::text,
        'detail', s.detail - 'qr', 'has_qr', s.detail ? 'qr', 'has_creds', s.creds_json is not null,
        'lease_held', coalesce(s.lease_expires_at > now(), false)
      )
      from public.wa_sessions as s where s.id = p_session
    ),
    'groups', (select count(*) from public.groups as g where g.session_id = p_session and g.left_at is null),
    'monitored', (select count(*) from public.groups as g where g.session_id = p_session and g.monitor),
    'messages', (select c.messages -> 'count' from counted as c),
    'messages_exact', (select c.messages -> 'exact' from counted as c),
    'last_message_at', (
      select max(last.received_at)
      from public.groups as g
      cross join lateral (
        select m.received_at from public.messages as m where m.group_id = g.id order by m.ts desc limit 1
      ) as last
      where g.session_id = p_session
    ),
    'pending_stubs', (select count(*) from public.messages as m where m.session_id = p_session and m.pending),
    'media', (
      select
        case
          when count(*) <= 10000 then count(*)
          else greatest(
            count(*), (select c.reltuples::bigint from pg_catalog.pg_class as c where c.oid = 'public.media'::regclass)
          )
        end
      from (select 1 from public.media limit 10001) as some_of_them
    ),
    'media_jobs', (select count(*) from public.media_jobs as j where j.session_id = p_session),
    'media_jobs_due', (
      select count(*) from public.media_jobs as j where j.session_id = p_session and j.next_attempt_at <= now()
    ),
    'refused', (select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session),
    'discards', (
      select coalesce(jsonb_object_agg(d.reason, d.count::text), '{}')
      from public.wa_discards as d where d.session_id = p_session
    ),
    'last_error', (
      select jsonb_build_object('at', a.at, 'payload', a.payload)
      from public.audit_log as a where a.session_id = p_session and a.event = 'error' order by a.at desc limit 1
    )
  )
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261123000100')
$$;

revoke execute on function
public.wa_lock_session, public.wa_apply_revoke, public.wa_store_messages_or_refuse, public.wa_take_change,
public.wa_take_changes, public.wa_merge_cost, public.wa_write_identities, public.wa_merge_step, public.wa_prune,
public.wa_count_messages, public.wa_status, public.wa_schema_version
from public, anon, authenticated;

grant execute on function
public.wa_lock_session, public.wa_apply_revoke, public.wa_store_messages_or_refuse, public.wa_take_change,
public.wa_take_changes, public.wa_merge_cost, public.wa_write_identities, public.wa_merge_step, public.wa_prune,
public.wa_count_messages, public.wa_status, public.wa_schema_version
to service_role;
