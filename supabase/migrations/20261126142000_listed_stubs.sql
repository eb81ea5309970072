-- The good copy of a listed stub is listed too; a stub of a group that was switched off gets no content; the lease does
-- not wait for rows that refer to the session.

set check_function_bodies = off;

-- Whether this kept body (base64) is that of a message that could not be decrypted.
create or replace function wa.holds_stub(p_body text) returns boolean
language sql immutable security invoker set search_path = '' as $$
  select position('"undecryptable"'::bytea in decode(p_body, 'base64')) > 0
$$;

-- Refused items: [{item, state, chat_id, sender, wa_msg_id, code, reason, body, encoding}]. Bodies are kept as base64,
-- and only if the chat is monitored: content of other chats reaches no table. One that is listed already stays as it
-- is; but the good copy of a listed stub is listed beside it.
create or replace function wa.write_refused(p_session text, p_refused jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_refused_stanzas (
    session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding, item, state, next_at
  )
  select
    p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
    left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
    kept.body, 'base64', coalesce(r ->> 'item', 'message'), coalesce(r ->> 'state', 'refused'),
    case when r ->> 'state' = 'waiting' then now() + interval '1 minute' end
  from jsonb_array_elements(coalesce(nullif(p_refused, 'null'), '[]')) with ordinality as t (r, ord)
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
      and not (coalesce(wa.holds_stub(s.body), false) and not coalesce(wa.holds_stub(kept.body), true))
  )
  order by t.ord
$$;

-- Stores messages of monitored groups, with their media jobs and parent links. A copy of a stored message changes
-- nothing, except that content replaces an undecryptable stub. Set-based; the tables that grow are never joined.
create or replace function wa.store_messages(p_session text, p_messages jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row record;
  v_new public.messages;
  v_stub public.messages;
  v_monitored bigint;
  v_stored bigint;
  v_upgraded bigint := 0;
  v_jobs bigint;
  v_order bigint := nextval('public.messages_content_order');
  v_ids bigint [];
  v_chats text [];
  v_senders text [];
  v_times timestamptz [];
begin
  with arrived as materialized (
    select e.body, e.place, wa.message_row(p_session, g.id, e.body, v_order + e.place) as new
    from jsonb_array_elements(p_messages) with ordinality as e (body, place)
    inner join public.groups as g
      on g.session_id = p_session and g.wa_group_id = e.body ->> 'chat_id' and g.monitor
  ),

  stored as (
    insert into public.messages overriding user value
    select (a.new).* from arrived as a where not wa.is_late(a.body) order by a.place
    on conflict (session_id, chat_id, sender, wa_msg_id) do nothing
    returning id, chat_id, sender, wa_msg_id, ts, kind, media_status
  ),

  jobs as (
    insert into public.media_jobs (session_id, message_id, descriptor)
    select p_session, s.id, coalesce(nullif(a.media -> 'descriptor', 'null'), '{}')
    from stored as s
    inner join (
      select distinct on (chat_id, sender, wa_msg_id)
        (b.new).chat_id as chat_id, (b.new).sender as sender, (b.new).wa_msg_id as wa_msg_id, b.body -> 'media' as media
      from arrived as b
      order by chat_id, sender, wa_msg_id, b.place
    ) as a on s.chat_id = a.chat_id and s.sender = a.sender and s.wa_msg_id = a.wa_msg_id
    where s.media_status = 'pending' and jsonb_typeof(a.media) = 'object'
    returning 1
  ),

  -- One JSON document with a lookup by name: joining nearly all rows with nearly all rows would be a nested loop.
  sent as materialized (
    select
      jsonb_object_agg(
        concat_ws(' ', (b.new).chat_id, (b.new).sender, (b.new).wa_msg_id), b.body -> 'secret' order by b.place desc
      ) as by_name
    from arrived as b
    where b.body ->> 'secret' is not null
  ),

  secrets as (
    insert into public.message_secrets (message_id, session_id, secret)
    select s.id, p_session, sent.by_name ->> concat_ws(' ', s.chat_id, s.sender, s.wa_msg_id)
    from stored as s
    cross join sent
    where sent.by_name ? concat_ws(' ', s.chat_id, s.sender, s.wa_msg_id)
  ),

  linkable as (
    select s.id, s.chat_id, s.sender, s.ts from stored as s where s.kind = 'text' or s.media_status is not null
  )

  select
    (select count(*) from arrived), (select count(*) from stored), (select count(*) from jobs),
    (select array_agg(l.id order by l.id) from linkable as l),
    (select array_agg(l.chat_id order by l.id) from linkable as l),
    (select array_agg(l.sender order by l.id) from linkable as l),
    (select array_agg(l.ts order by l.id) from linkable as l)
  into v_monitored, v_stored, v_jobs, v_ids, v_chats, v_senders, v_times;

  -- Rare: some messages were stored before. Content replaces the stubs among them.
  if v_stored < v_monitored then
    for v_row in
      select e.body, e.place
      from jsonb_array_elements(p_messages) with ordinality as e (body, place)
      inner join public.groups as g
        on g.session_id = p_session and g.wa_group_id = e.body ->> 'chat_id' and g.monitor
      where e.body ->> 'kind' <> 'undecryptable'
      order by e.place
    loop
      v_new := wa.message_row(p_session, null, v_row.body, v_order + v_row.place);
      select * into v_stub
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_new.chat_id and m.sender = v_new.sender
        and m.wa_msg_id = v_new.wa_msg_id and m.kind = 'undecryptable'
      for no key update;
      if not found then
        -- A late copy that is neither a stub's nor stored already is the message that is too old.
        perform wa.count_discard(p_session, 'too_old', 1)
        where wa.is_late(v_row.body) and not exists (
          select 1 from public.messages as m
          where m.session_id = p_session and m.chat_id = v_new.chat_id and m.sender = v_new.sender
            and m.wa_msg_id = v_new.wa_msg_id
        );
        continue;
      end if;
      v_upgraded := v_upgraded + 1;
      perform wa.replace_content(v_stub.id, v_new);
      if v_stub.blanked then
        perform wa.blank_message(v_stub.id);
      else
        if v_new.media_status = 'pending' and jsonb_typeof(v_row.body -> 'media') = 'object' then
          insert into public.media_jobs (session_id, message_id, descriptor)
          values (p_session, v_stub.id, coalesce(nullif(v_row.body -> 'media' -> 'descriptor', 'null'), '{}'));
          v_jobs := v_jobs + 1;
        end if;
        insert into public.message_secrets (message_id, session_id, secret)
        select v_stub.id, p_session, v_row.body ->> 'secret' where v_row.body ->> 'secret' is not null
        on conflict (message_id) do nothing;
      end if;
      if v_new.kind = 'text' or v_new.media_status is not null then
        v_ids := v_ids || v_stub.id;
        v_chats := v_chats || v_stub.chat_id;
        v_senders := v_senders || v_stub.sender;
        v_times := v_times || v_stub.ts;
      end if;
    end loop;
  end if;

  for v_row in
    select
      n.chat_id, n.sender,
      min(n.ts) as first_ts, (array_agg(n.id order by n.ts, n.id))[1] as first_id,
      max(n.ts) as last_ts, (array_agg(n.id order by n.ts desc, n.id desc))[1] as last_id
    from unnest(v_ids, v_chats, v_senders, v_times) as n (id, chat_id, sender, ts)
    group by n.chat_id, n.sender
  loop
    perform wa.link_parents(
      p_session, v_row.chat_id, v_row.sender, v_row.first_ts, v_row.first_id, v_row.last_ts, v_row.last_id
    );
  end loop;

  return jsonb_build_object(
    'stored', v_stored, 'upgraded', v_upgraded, 'duplicates', v_monitored - v_stored - v_upgraded,
    'skipped', jsonb_array_length(p_messages) - v_monitored, 'jobs', v_jobs, 'refused', 0
  );
end
$$;

-- Takes or renews the lease. The same owner renews it and keeps its fence; a free or expired lease is taken with fence
-- + 1. The clock is read after the row is locked, so that the wait for the lock does not lengthen an expired lease.
-- Rows that refer to the session in somebody's open transaction do not hold the lease up.
create or replace function public.wa_lease_acquire(p_session text, p_owner text, p_seconds double precision)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
  v_now timestamptz;
  v_acquired boolean := true;
begin
  insert into public.wa_sessions (id, status) values (p_session, 'disconnected') on conflict (id) do nothing;
  select * into v_row from public.wa_sessions where id = p_session for no key update;
  v_now := clock_timestamp();
  if v_row.lease_owner is distinct from p_owner then
    v_acquired := v_row.lease_owner is null or v_row.lease_expires_at <= v_now;
    v_row.fence := v_row.fence + v_acquired::integer;
  end if;
  if v_acquired then
    v_row.lease_owner := p_owner;
    v_row.lease_expires_at := v_now + make_interval(secs => p_seconds);
    update public.wa_sessions
    set lease_owner = v_row.lease_owner, lease_expires_at = v_row.lease_expires_at, fence = v_row.fence
    where id = p_session;
  end if;
  return jsonb_build_object(
    'acquired', v_acquired, 'fence', v_row.fence::text, 'epoch', v_row.epoch::text,
    'holder', v_row.lease_owner, 'expires_at', v_row.lease_expires_at, 'now', v_now
  );
end
$$;

revoke execute on function wa.holds_stub from public, anon, authenticated;
grant execute on function wa.holds_stub to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126142000')
$$;

notify pgrst, 'reload schema';
