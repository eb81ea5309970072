-- No function answers with an empty object or a list: a gateway may say these, and they must not be taken for "there is
-- none".

set check_function_bodies = off;

-- Keys of one type: {keys: {id: value}}; absent ids are left out. `p_ids` is a JSON array of strings.
create or replace function public.wa_get_keys(p_session text, p_type text, p_ids jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('keys', coalesce(jsonb_object_agg(k.key_id, k.value), '{}'))
  from public.wa_session_keys as k
  where k.session_id = p_session and k.type = p_type
    and k.key_id = any(array(select jsonb_array_elements_text(p_ids)))
$$;

-- The other form of each given person: {id: other}, by LID or by number; '' for a number that has moved.
create or replace function public.wa_get_identities(p_session text, p_ids jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with wanted as materialized (select array(select jsonb_array_elements_text(p_ids)) as ids)
  select jsonb_build_object('identities', coalesce(jsonb_object_agg(pairs.id, pairs.other), '{}'))
  from (
    select i.lid as id, i.pn as other
    from public.wa_identities as i
    where i.session_id = p_session and i.lid = any((select wanted.ids from wanted)::text [])
    union all
    (
      select distinct on (i.pn) i.pn, i.lid
      from public.wa_identities as i
      where i.session_id = p_session and i.pn = any((select wanted.ids from wanted)::text []) and not exists (
        select 1 from public.wa_numbers_moved as n where n.session_id = p_session and n.pn = i.pn
      )
      order by i.pn, i.updated_at desc
    )
    union all
    select n.pn, ''
    from public.wa_numbers_moved as n
    where n.session_id = p_session and n.pn = any((select wanted.ids from wanted)::text [])
  ) as pairs
$$;

-- The waiting items that are due: [id]. Counts this try and sets the next, later each time, up to a day: an item that
-- ends the call that tries it must not be tried for ever.
create or replace function public.wa_due_refused(p_session text, p_limit integer) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  with due as (
    update public.wa_refused_stanzas
    set tries = tries + 1, next_at = now() + least(interval '1 minute' * 2 ^ least(tries, 11), interval '1 day')
    where id = any(array(
      select r.id
      from public.wa_refused_stanzas as r
      where r.session_id = p_session and r.state = 'waiting' and r.next_at <= now()
      order by r.next_at
      limit p_limit
      for update skip locked
    ))
    returning id
  )

  select jsonb_build_object('items', coalesce(jsonb_agg(due.id::text order by due.id), '[]')) from due
$$;

-- Up to `p_limit` messages of a group after `p_after`, by id, with file, earlier texts and reactions.
create or replace function public.wa_export_messages(p_session text, p_group bigint, p_after bigint, p_limit integer)
returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('messages', coalesce(jsonb_agg(e.document order by e.id), '[]'))
  from (
    select
      m.id,
      to_jsonb(m) || jsonb_build_object(
        'id', m.id::text, 'group_id', m.group_id::text, 'media_id', m.media_id::text,
        'parent_id', m.parent_id::text, 'quoted_id', m.quoted_id::text, 'album_id', m.album_id::text,
        'media', (
          select to_jsonb(f) || jsonb_build_object('id', f.id::text, 'bytes', f.bytes::text)
          from public.media as f where f.id = m.media_id
        ),
        'edits', (
          select coalesce(jsonb_agg(jsonb_build_object('text', d.text, 'at', d.at) order by d.at, d.id), '[]')
          from public.message_edits as d where d.message_id = m.id
        ),
        'reactions', (
          select coalesce(
            jsonb_agg(jsonb_build_object('sender', r.sender, 'emoji', r.emoji, 'at', r.at) order by r.at, r.sender),
            '[]'
          )
          from public.message_reactions as r where r.message_id = m.id and r.emoji is not null
        )
      ) as document
    from public.messages as m
    where m.session_id = p_session and m.group_id = p_group and m.id > p_after
    order by m.id
    limit p_limit
  ) as e
$$;

-- Which of these ciphertext hashes (JSON array of hex) were decrypted and committed before.
create or replace function public.wa_known_stanzas(p_session text, p_hashes jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('hashes', coalesce(jsonb_agg(encode(d.hash, 'hex')), '[]'))
  from public.decrypted_stanzas as d
  where d.session_id = p_session
    and d.hash = any(array(
      select decode(h, 'hex') from jsonb_array_elements_text(p_hashes) as h where h ~ '^[0-9a-f]{64}$'
    ))
$$;

-- All groups with their last message (by `ts`) and the number of messages in the last 24 hours.
create or replace function public.wa_list_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'groups', coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', g.id::text, 'wa_group_id', g.wa_group_id, 'name', g.name, 'monitor', g.monitor,
          'left_at', g.left_at,
          'today', (
            select count(*)
            from public.messages as m
            where m.group_id = g.id and m.ts > now() - interval '24 hours'
          ),
          'last', last.message
        ) order by g.monitor desc, g.left_at is not null, g.name nulls last, g.id
      ),
      '[]'
    )
  )
  from public.groups as g
  left join lateral (
    select jsonb_build_object(
      'id', m.id::text, 'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
      'from_me', m.from_me, 'kind', m.kind, 'text', left(m.text, 200), 'media_status', m.media_status,
      'revoked_at', m.revoked_at, 'revoke_claimed_at', m.revoke_claimed_at
    ) as message
    from public.messages as m
    where m.group_id = g.id
    order by m.ts desc, m.id desc
    limit 1
  ) as last on true
  where g.session_id = p_session
$$;

-- What is listed as refused or waiting, by id, behind `p_after`; without its content.
create or replace function public.wa_list_refused(p_session text, p_after bigint, p_limit integer) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('items', coalesce(jsonb_agg(to_jsonb(listed) order by listed.id), '[]'))
  from (
    select
      r.id, r.at, r.item, r.state, r.chat_id, r.sender, r.wa_msg_id, r.code, r.reason, r.tries, r.next_at,
      r.body is not null as has_body
    from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.id > p_after
    order by r.id
    limit p_limit
  ) as listed
$$;

-- The ids of all groups that are switched on, as a JSON array.
create or replace function public.wa_monitored_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('groups', coalesce(jsonb_agg(g.wa_group_id order by g.wa_group_id), '[]'))
  from public.groups as g
  where g.session_id = p_session and g.monitor
$$;

-- Flags of the web app that are newer than the last one handled. A request from a clock that runs ahead is remembered
-- by its value, so that it neither repeats nor hides later ones. `at` is null if `value` holds no time: such a flag is
-- reported until it is marked as handled. `given` is all that came beside the time.
create or replace function public.wa_pending_flags(p_session text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select jsonb_build_object(
    'flags', coalesce(
      jsonb_agg(
        jsonb_build_object(
          'key', case when p_session = 'default' then f.key else substr(f.key, length(p_session) + 2) end,
          'at', f.at, 'at_text', f.value ->> 'at', 'malformed', f.at is null, 'phone', f.value ->> 'phone',
          'given', case when jsonb_typeof(f.value) = 'object' then f.value - 'at' else '{}' end,
          'age_s', extract(epoch from (now() - f.at))
        ) order by f.at, f.key
      ),
      '[]'
    )
  )
  from (
    select r.key, r.value, r.handled_at, r.handled_value, wa.parse_time(r.value ->> 'at') as at
    from public.runtime_flags as r
    where case when p_session = 'default' then strpos(r.key, ':') = 0 else starts_with(r.key, p_session || ':') end
  ) as f
  where f.value is distinct from f.handled_value and (f.at is null or f.handled_at is null or f.at > f.handled_at)
$$;

-- What can be decrypted now, because its target and the target's secret are stored: edits, and votes and the like,
-- whose payload has `use`. With both addresses of the target's sender and, for a poll, its options.
create or replace function public.wa_sealed_edits(p_session text, p_limit integer) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('edits', coalesce(jsonb_agg(to_jsonb(sealed) order by sealed.id), '[]'))
  from (
    select
      h.id::text, h.target_id, h.payload, s.secret, m.sender, m.sender_alt,
      coalesce(m.content -> 'options', '[]') as options
    from public.wa_held_changes as h
    inner join public.messages as m
      on
        m.session_id = p_session and m.chat_id = h.chat_id and m.sender = h.target_sender
        and m.wa_msg_id = h.target_id
    inner join public.message_secrets as s on m.id = s.message_id
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
    order by h.id
    limit p_limit
  ) as sealed
$$;

create or replace function public.wa_audit(p_session text, p_event text, p_payload jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.write_audits(
    p_session, jsonb_build_array(jsonb_build_object('event', p_event, 'payload', p_payload))
  );
  return '{"done": true}'::jsonb;
end
$$;

-- Changes what the web app sees of the session. `p_patch` may hold status, detail (replaces the old one), wa_name,
-- wa_number; the rest stays. `p_audits` are written in the same transaction.
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
  perform wa.write_audits(p_session, p_audits);
  return '{"done": true}'::jsonb;
end
$$;

-- Refreshes the planner's statistics, because the embedded Supabase has no autovacuum. Only the tables' owner may
-- analyse them, hence `security definer`; it takes no argument and returns nothing.
create or replace function public.wa_analyze() returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  analyze public.wa_session_keys, public.messages, public.media_jobs, public.media, public.decrypted_stanzas,
    public.audit_log, public.message_edits, public.message_reactions, public.message_secrets, public.wa_held_changes;
  return '{"done": true}'::jsonb;
end
$$;

-- Retention, third step: these objects (JSON array of sha256) are deleted from the bucket. An object that was stored
-- again after it was listed may still be there: the next second step lists it once more.
create or replace function public.wa_mark_media_deleted(p_sha256 jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_media_doomed
  set deleted_at = now()
  where sha256 = any(array(select jsonb_array_elements_text(p_sha256))) and not stored_again;
  delete from public.wa_media_doomed where deleted_at < now() - interval '1 day';
  return '{"done": true}'::jsonb;
end
$$;

-- One batch, or what its parts have left of it: {fence, epoch, seq, digest?, creds?, keys, messages, changes, hashes,
-- audits, identities, groups, refused, discards}. Only the next batch is applied; one that was applied before is
-- answered as durable, and nothing is written. Errors (PT409): stale_fence, stale_epoch, sequence_gap, other_items.
create or replace function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
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
    creds_json = coalesce(p_batch ->> 'creds', creds_json)
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(p_session, p_batch -> 'hashes', p_batch -> 'discards');
  if p_batch ? 'groups' then
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
    v_sealed := jsonb_array_length(public.wa_sealed_edits(p_session, 1) -> 'edits');
  end if;
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126203500')
$$;

notify pgrst, 'reload schema';
