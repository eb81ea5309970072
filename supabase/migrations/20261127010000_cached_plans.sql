-- Commits: plans are made once for each connection, empty parts are skipped, and only senders whose messages can be
-- pairs are walked for parent links.

set check_function_bodies = off;

create or replace function wa.renewed_lease(p_owner text, p_ends timestamptz, p_seconds double precision)
returns timestamptz
language plpgsql volatile security invoker set search_path = '' as $$
begin
  if p_owner is null then
    return null;
  end if;
  return greatest(p_ends, clock_timestamp() + make_interval(secs => p_seconds));
end
$$;

create or replace function wa.write_keys(p_session text, p_keys jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  if coalesce(p_keys in ('[]', 'null'), true) then
    return;
  end if;
  with latest as materialized (
    select distinct on (k ->> 'type', k ->> 'id') k ->> 'type' as type, k ->> 'id' as id, k ->> 'value' as value
    from jsonb_array_elements(p_keys) with ordinality as t (k, ord)
    order by k ->> 'type', k ->> 'id', t.ord desc
  ),

  gone as (
    delete from public.wa_session_keys as s
    using latest
    where s.session_id = p_session and s.type = latest.type and s.key_id = latest.id and latest.value is null
  )

  insert into public.wa_session_keys (session_id, type, key_id, value)
  select p_session, latest.type, latest.id, latest.value from latest where latest.value is not null
  on conflict (session_id, type, key_id) do update set value = excluded.value;
end
$$;

create or replace function wa.write_audits(p_session text, p_audits jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  if coalesce(p_audits in ('[]', 'null'), true) then
    return;
  end if;
  insert into public.audit_log (session_id, event, payload)
  select p_session, left(coalesce(a ->> 'event', 'error'), 64), coalesce(nullif(a -> 'payload', 'null'), '{}')
  from jsonb_array_elements(p_audits) with ordinality as t (a, ord)
  order by t.ord;
end
$$;

create or replace function wa.write_refused(p_session text, p_refused jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  if coalesce(p_refused in ('[]', 'null'), true) then
    return;
  end if;
  insert into public.wa_refused_stanzas (
    session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding, item, state, next_at
  )
  select
    p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
    left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
    kept.body, 'base64', coalesce(r ->> 'item', 'message'), coalesce(r ->> 'state', 'refused'),
    case when r ->> 'state' = 'waiting' then now() + interval '1 minute' end
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

create or replace function wa.write_hashes_and_discards(p_session text, p_hashes jsonb, p_discards jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_hashes bytea [];
begin
  if p_hashes not in ('[]', 'null') then
    v_hashes := array(select decode(h, 'hex') from jsonb_array_elements_text(p_hashes) as h where h ~ '^[0-9a-f]{64}$');
    insert into public.decrypted_stanzas (session_id, hash)
    select p_session, h from unnest(v_hashes) as h
    on conflict do nothing;
    delete from public.wa_suspects where session_id = p_session and hash = any(v_hashes);
  end if;
  if p_discards not in ('{}', 'null') then
    insert into public.wa_discards (session_id, reason, count)
    select p_session, left(d.key, 64), sum(d.value::bigint)
    from jsonb_each_text(p_discards) as d
    where d.value ~ '^[0-9]{1,18}$'
    group by left(d.key, 64)
    on conflict (session_id, reason) do update
    set count = public.wa_discards.count + excluded.count, last_at = now();
  end if;
end
$$;

create or replace function wa.message_row(p_session text, p_group bigint, p_message jsonb, p_order bigint)
returns public.messages
language plpgsql stable security invoker set search_path = '' as $$
begin
  return jsonb_populate_record(
    null::public.messages,
    jsonb_build_object(
      'received_at', now(), 'from_me', false, 'mention_count', 0, 'forwarded', false, 'forward_score', 0
    ) || p_message || jsonb_build_object(
      'session_id', p_session, 'group_id', p_group, 'blanked', false,
      'raw', coalesce(nullif(p_message -> 'raw', 'null'), '{}'),
      'file_name', p_message -> 'media' ->> 'file_name',
      'media_status', case
        when jsonb_typeof(p_message -> 'media') = 'object' then coalesce(p_message ->> 'media_status', 'pending')
        else p_message ->> 'media_status'
      end,
      'pending', p_message ->> 'kind' = 'undecryptable' and coalesce((p_message ->> 'pending')::boolean, true),
      'content_order', case when p_message ->> 'kind' <> 'undecryptable' then p_order end
    )
  );
end
$$;

create or replace function wa.is_late(p_body jsonb) returns boolean
language plpgsql immutable security invoker set search_path = '' as $$
begin
  return coalesce((p_body ->> 'late')::boolean, false);
end
$$;

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

  -- Most senders need no walk: all their messages there, the neighbours on both sides too, are texts, or none is.
  for v_row in
    select r.*
    from (
      select
        n.chat_id, n.sender,
        min(n.ts) as first_ts, (array_agg(n.id order by n.ts, n.id))[1] as first_id,
        max(n.ts) as last_ts, (array_agg(n.id order by n.ts desc, n.id desc))[1] as last_id
      from unnest(v_ids, v_chats, v_senders, v_times) as n (id, chat_id, sender, ts)
      group by n.chat_id, n.sender
    ) as r
    cross join lateral (
      (
        select m.kind = 'text' as is_text
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null) and (m.ts, m.id) < (r.first_ts, r.first_id)
        order by m.ts desc, m.id desc
        limit 1
      )
      union all
      (
        select m.kind = 'text'
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null)
          and (m.ts, m.id) >= (r.first_ts, r.first_id) and (m.ts, m.id) <= (r.last_ts, r.last_id)
      )
      union all
      (
        select m.kind = 'text'
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null) and (m.ts, m.id) > (r.last_ts, r.last_id)
        order by m.ts, m.id
        limit 1
      )
    ) as near
    group by r.chat_id, r.sender, r.first_ts, r.first_id, r.last_ts, r.last_id
    having count(distinct near.is_text) > 1
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

create or replace function wa.begin_part(p_session text, p_batch jsonb) returns boolean
language plpgsql security invoker set search_path = '' as $$
begin
  if wa.begin_batch(p_session, p_batch) then
    return true;
  end if;
  update public.wa_sessions as s
  set
    batch = concat_ws(' ', p_batch ->> 'seq', p_batch ->> 'digest'),
    lease_expires_at = wa.renewed_lease(s.lease_owner, s.lease_expires_at, s.lease_seconds)
  where s.id = p_session;
  return false;
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
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

revoke execute on function wa.renewed_lease from public, anon, authenticated;

grant execute on function wa.renewed_lease to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127010000')
$$;

notify pgrst, 'reload schema';
