-- The commit: everything that one batch of the sidecar makes durable, in one transaction.
--
-- public.wa_commit is the way in; the functions before it are its steps. They take no lock and check no fence: the
-- caller holds the session row.

-- A message as the worker sends it; the columns of public.messages, and its media as an object.
create type public.wa_message_in as (
  wa_msg_id text,
  chat_id text,
  sender text,
  sender_alt text,
  push_name text,
  from_me boolean,
  ts timestamptz,
  received_at timestamptz,
  kind text,
  text text,
  raw jsonb,
  pending boolean,
  media jsonb,
  media_status text
);

-- Keys: [{type, id, value or null}]; null deletes; the last word on a key wins.
create function public.wa_write_keys(p_session text, p_keys jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  with latest as materialized (
    select distinct on (k ->> 'type', k ->> 'id') k ->> 'type' as type, k ->> 'id' as id, k ->> 'value' as value
    from jsonb_array_elements(coalesce(nullif(p_keys, 'null'), '[]')) with ordinality as t (k, ord)
    order by k ->> 'type', k ->> 'id', t.ord desc
  ),

  gone as (
    delete from public.wa_session_keys as s
    using latest
    where s.session_id = p_session and s.type = latest.type and s.key_id = latest.id and latest.value is null
  )

  insert into public.wa_session_keys (session_id, type, key_id, value)
  select p_session, latest.type, latest.id, latest.value from latest where latest.value is not null
  on conflict (session_id, type, key_id) do update set value = excluded.value
$$;

-- Parent links of one sender in one chat (contract 7), over the messages from `p_first` on, in (ts, id) order: a text
-- and a media message that follow each other within 90 s are a pair, the later one points to the earlier one, and each
-- message is in one pair at most, the earliest pairs first. Messages that are neither text nor media do not count.
--
-- What lies before the first new message keeps its links: they depend on earlier messages alone. So one row before it
-- is looked at, and the walk ends after the last new message as soon as a stored link is already right.
create function public.wa_link_parents(
  p_session text, p_chat text, p_sender text,
  p_first_ts timestamptz, p_first_id bigint, p_last_ts timestamptz, p_last_id bigint
) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_row record;
  v_prev_id bigint;
  v_prev_ts timestamptz;
  v_prev_is_text boolean;
  v_prev_is_free boolean;
  v_parent bigint;
  v_changed bigint [] := '{}';
  v_parents bigint [] := '{}';
begin
  select m.id, m.ts, m.kind = 'text', m.parent_id is null
  into v_prev_id, v_prev_ts, v_prev_is_text, v_prev_is_free
  from public.messages as m
  where m.session_id = p_session and m.chat_id = p_chat and m.sender = p_sender
    and (m.kind = 'text' or m.media_status is not null)
    and (m.ts, m.id) < (p_first_ts, p_first_id)
  order by m.ts desc, m.id desc
  limit 1;

  for v_row in
    select m.id, m.ts, m.kind = 'text' as is_text, m.parent_id
    from public.messages as m
    where m.session_id = p_session and m.chat_id = p_chat and m.sender = p_sender
      and (m.kind = 'text' or m.media_status is not null)
      and (m.ts, m.id) >= (p_first_ts, p_first_id)
    order by m.ts, m.id
  loop
    v_parent := null;
    if v_prev_is_free and v_prev_is_text <> v_row.is_text and v_row.ts - v_prev_ts <= interval '90 seconds' then
      v_parent := v_prev_id;
    end if;
    if v_parent is distinct from v_row.parent_id then
      v_changed := v_changed || v_row.id;
      v_parents := v_parents || v_parent;
    elsif (v_row.ts, v_row.id) > (p_last_ts, p_last_id) then
      exit;
    end if;
    v_prev_id := v_row.id;
    v_prev_ts := v_row.ts;
    v_prev_is_text := v_row.is_text;
    v_prev_is_free := v_parent is null;
  end loop;

  -- First all off, then on: the index that holds links one-to-one is checked row by row.
  update public.messages set parent_id = null where id = any(v_changed) and parent_id is not null;
  update public.messages as m
  set parent_id = c.parent_id
  from unnest(v_changed, v_parents) as c (id, parent_id)
  where m.id = c.id and c.parent_id is not null;
end
$$;

-- Messages of monitored groups, with their media jobs and parent links. A copy of a stored message changes nothing,
-- except that content takes the place of an undecryptable stub. Set-based; the tables that grow are never joined.
create function public.wa_store_messages(p_session text, p_messages jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row record;
  v_monitored bigint;
  v_stored bigint;
  v_upgraded bigint := 0;
  v_jobs bigint;
  v_id bigint;
  v_ts timestamptz;
  v_status text;
  v_ids bigint [];
  v_chats text [];
  v_senders text [];
  v_times timestamptz [];
begin
  with arrived as materialized (
    select
      m.wa_msg_id, m.chat_id, m.sender, m.sender_alt, m.push_name, m.from_me, m.ts, m.received_at, m.kind, m.text,
      m.raw, m.pending, m.media, m.ordinality, g.id as group_id,
      case
        when jsonb_typeof(m.media) = 'object' then coalesce(m.media_status, 'pending') else m.media_status
      end as media_status
    from jsonb_populate_recordset(null::public.wa_message_in, p_messages) with ordinality as m
    inner join public.groups as g on g.session_id = p_session and g.wa_group_id = m.chat_id and g.monitor
  ),

  stored as (
    insert into public.messages (
      session_id, group_id, wa_msg_id, chat_id, sender, sender_alt, push_name, from_me, ts, received_at, kind, text,
      raw, file_name, media_status, pending
    )
    select
      p_session, a.group_id, a.wa_msg_id, a.chat_id, a.sender, a.sender_alt, a.push_name, coalesce(a.from_me, false),
      a.ts, coalesce(a.received_at, now()), a.kind, a.text, coalesce(nullif(a.raw, 'null'), '{}'),
      a.media ->> 'file_name', a.media_status, a.kind = 'undecryptable' and coalesce(a.pending, true)
    from arrived as a
    order by a.ordinality
    on conflict (session_id, chat_id, sender, wa_msg_id) do nothing
    returning id, chat_id, sender, wa_msg_id, ts, kind, media_status
  ),

  jobs as (
    insert into public.media_jobs (session_id, message_id, descriptor)
    select p_session, s.id, coalesce(nullif(a.media -> 'descriptor', 'null'), '{}')
    from stored as s
    inner join (
      select distinct on (b.chat_id, b.sender, b.wa_msg_id) b.chat_id, b.sender, b.wa_msg_id, b.media
      from arrived as b
      order by b.chat_id, b.sender, b.wa_msg_id, b.ordinality
    ) as a on s.chat_id = a.chat_id and s.sender = a.sender and s.wa_msg_id = a.wa_msg_id
    where s.media_status = 'pending' and jsonb_typeof(a.media) = 'object'
    returning 1
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

  -- Rare: something was there already. Its place is taken if it was a stub.
  if v_stored < v_monitored then
    for v_row in
      select
        m.wa_msg_id, m.chat_id, m.sender, m.sender_alt, m.push_name, m.kind, m.text, m.raw, m.media,
        case
          when jsonb_typeof(m.media) = 'object' then coalesce(m.media_status, 'pending') else m.media_status
        end as media_status
      from jsonb_populate_recordset(null::public.wa_message_in, p_messages) with ordinality as m
      where m.kind <> 'undecryptable'
      order by m.ordinality
    loop
      update public.messages as m
      set
        kind = v_row.kind, text = v_row.text, raw = coalesce(nullif(v_row.raw, 'null'), '{}'),
        sender_alt = coalesce(v_row.sender_alt, m.sender_alt), push_name = coalesce(v_row.push_name, m.push_name),
        file_name = v_row.media ->> 'file_name', media_status = v_row.media_status, pending = false, lost_at = null
      where m.session_id = p_session and m.chat_id = v_row.chat_id and m.sender = v_row.sender
        and m.wa_msg_id = v_row.wa_msg_id and m.kind = 'undecryptable'
      returning m.id, m.ts, m.media_status into v_id, v_ts, v_status;
      continue when not found;
      v_upgraded := v_upgraded + 1;
      if v_status = 'pending' and jsonb_typeof(v_row.media) = 'object' then
        insert into public.media_jobs (session_id, message_id, descriptor)
        values (p_session, v_id, coalesce(nullif(v_row.media -> 'descriptor', 'null'), '{}'));
        v_jobs := v_jobs + 1;
      end if;
      if v_row.kind = 'text' or v_status is not null then
        v_ids := v_ids || v_id;
        v_chats := v_chats || v_row.chat_id;
        v_senders := v_senders || v_row.sender;
        v_times := v_times || v_ts;
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
    perform public.wa_link_parents(
      p_session, v_row.chat_id, v_row.sender, v_row.first_ts, v_row.first_id, v_row.last_ts, v_row.last_id
    );
  end loop;

  return jsonb_build_object(
    'stored', v_stored, 'upgraded', v_upgraded, 'duplicates', v_monitored - v_stored - v_upgraded,
    'skipped', jsonb_array_length(p_messages) - v_monitored, 'jobs', v_jobs, 'refused', 0
  );
end
$$;

-- Refused stanzas: [{chat_id, sender, wa_msg_id, code, reason, body, encoding}]. The body is kept only if the chat is
-- monitored: content of other chats reaches no table.
create function public.wa_write_refused(p_session text, p_refused jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_refused_stanzas (session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding)
  select
    p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
    left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
    case when g.monitor then r ->> 'body' end,
    case when r ->> 'encoding' = 'base64' then 'base64' else 'json' end
  from jsonb_array_elements(coalesce(nullif(p_refused, 'null'), '[]')) with ordinality as t (r, ord)
  left join public.groups as g on g.session_id = p_session and g.wa_group_id = r ->> 'chat_id'
  order by t.ord
$$;

-- The same as public.wa_store_messages, but what Postgres refuses is no error: the batch is halved until the offender
-- stands alone, which becomes a refused row.
create function public.wa_store_messages_or_refuse(p_session text, p_messages jsonb) returns jsonb
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
  begin
    return public.wa_store_messages(p_session, p_messages);
  exception
    when data_exception or integrity_constraint_violation or program_limit_exceeded then
      get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
  end;

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

-- Identities ([{lid, pn}]), ciphertext hashes ([hex]) and discards ({reason: count}): the small change of a batch.
create function public.wa_write_extras(p_session text, p_identities jsonb, p_hashes jsonb, p_discards jsonb)
returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_identities (session_id, lid, pn)
  select distinct on (i ->> 'lid') p_session, i ->> 'lid', i ->> 'pn'
  from jsonb_array_elements(coalesce(nullif(p_identities, 'null'), '[]')) with ordinality as t (i, ord)
  where length(i ->> 'lid') between 1 and 256 and length(i ->> 'pn') between 1 and 256
  order by i ->> 'lid', t.ord desc
  on conflict (session_id, lid) do update set pn = excluded.pn, updated_at = now()
  where public.wa_identities.pn <> excluded.pn;

  insert into public.decrypted_stanzas (session_id, hash)
  select p_session, decode(h, 'hex')
  from jsonb_array_elements_text(coalesce(nullif(p_hashes, 'null'), '[]')) as h
  where h ~ '^[0-9a-f]{64}$'
  on conflict do nothing;

  insert into public.wa_discards (session_id, reason, count)
  select p_session, left(d.key, 64), sum(d.value::bigint)
  from jsonb_each_text(coalesce(nullif(p_discards, 'null'), '{}')) as d
  where d.value ~ '^[0-9]{1,18}$'
  group by left(d.key, 64)
  on conflict (session_id, reason) do update
  set count = public.wa_discards.count + excluded.count, last_at = now();
$$;

-- One batch: {fence, epoch, seq, creds?, keys, messages, hashes, audits, identities, groups, refused, discards}.
-- It is applied if it is the next one; one that was applied before is answered as durable and writes nothing.
-- Errors (PT409): stale_fence, stale_epoch, sequence_gap.
create function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := public.wa_lock_session(p_session, (p_batch ->> 'fence')::bigint);
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_messages jsonb := coalesce(nullif(p_batch -> 'messages', 'null'), '[]');
  v_counts jsonb;
begin
  if v_row.epoch is distinct from (p_batch ->> 'epoch')::bigint then
    raise exception 'stale_epoch' using errcode = 'PT409';
  end if;
  if v_seq <= v_row.seq then
    return jsonb_build_object('seq', v_seq::text, 'duplicate', true);
  end if;
  if v_seq is distinct from v_row.seq + 1 then
    raise exception 'sequence_gap' using errcode = 'PT409';
  end if;

  perform public.wa_write_keys(p_session, p_batch -> 'keys');
  update public.wa_sessions
  set seq = v_seq, creds_json = coalesce(p_batch ->> 'creds', creds_json)
  where id = p_session;
  perform public.wa_write_extras(p_session, p_batch -> 'identities', p_batch -> 'hashes', p_batch -> 'discards');
  if p_batch ? 'groups' then
    perform public.wa_write_groups(p_session, p_batch -> 'groups');
  end if;

  v_counts := public.wa_store_messages_or_refuse(p_session, v_messages);
  perform public.wa_write_refused(p_session, p_batch -> 'refused');
  perform public.wa_write_audits(p_session, p_batch -> 'audits');
  return v_counts || jsonb_build_object('seq', v_seq::text, 'duplicate', false);
end
$$;

revoke execute on function
public.wa_write_keys, public.wa_link_parents, public.wa_store_messages, public.wa_write_refused,
public.wa_store_messages_or_refuse, public.wa_write_extras, public.wa_commit
from public, anon, authenticated;

grant execute on function
public.wa_write_keys, public.wa_link_parents, public.wa_store_messages, public.wa_write_refused,
public.wa_store_messages_or_refuse, public.wa_write_extras, public.wa_commit
to service_role;
