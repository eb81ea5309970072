-- The commit, with changes: public.wa_store_messages has the new columns and secrets, public.wa_commit takes `changes`
-- and tries again what waited for its messages. Nothing else of the two has changed.

-- Messages of monitored groups, with their media jobs and parent links. A copy of a stored message changes nothing,
-- except that content takes the place of an undecryptable stub. Set-based; the tables that grow are never joined.
create or replace function public.wa_store_messages(p_session text, p_messages jsonb) returns jsonb
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
  v_blanked boolean;
  v_ids bigint [];
  v_chats text [];
  v_senders text [];
  v_times timestamptz [];
begin
  with arrived as materialized (
    select
      m.wa_msg_id, m.chat_id, m.sender, m.sender_alt, m.push_name, m.from_me, m.ts, m.received_at, m.kind, m.text,
      m.raw, m.pending, m.media, m.ordinality, m.quoted_msg_id, m.quoted_sender, m.mentions, m.mention_count,
      m.forwarded, m.forward_score, m.secret, g.id as group_id,
      case
        when jsonb_typeof(m.media) = 'object' then coalesce(m.media_status, 'pending') else m.media_status
      end as media_status
    from jsonb_populate_recordset(null::public.wa_message_in, p_messages) with ordinality as m
    inner join public.groups as g on g.session_id = p_session and g.wa_group_id = m.chat_id and g.monitor
  ),

  stored as (
    insert into public.messages (
      session_id, group_id, wa_msg_id, chat_id, sender, sender_alt, push_name, from_me, ts, received_at, kind, text,
      raw, file_name, media_status, pending, quoted_msg_id, quoted_sender, mentions, mention_count, forwarded,
      forward_score
    )
    select
      p_session, a.group_id, a.wa_msg_id, a.chat_id, a.sender, a.sender_alt, a.push_name, coalesce(a.from_me, false),
      a.ts, coalesce(a.received_at, now()), a.kind, a.text, coalesce(nullif(a.raw, 'null'), '{}'),
      a.media ->> 'file_name', a.media_status, a.kind = 'undecryptable' and coalesce(a.pending, true),
      a.quoted_msg_id, a.quoted_sender, a.mentions, coalesce(a.mention_count, 0), coalesce(a.forwarded, false),
      coalesce(a.forward_score, 0)
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

  -- One document, looked into by name: a join of nearly all rows with nearly all rows would be a nested loop.
  sent as materialized (
    select
      jsonb_object_agg(
        concat_ws(' ', b.chat_id, b.sender, b.wa_msg_id), b.secret order by b.ordinality desc
      ) as by_name
    from arrived as b
    where b.secret is not null
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

  -- Rare: something was there already. Its place is taken if it was a stub.
  if v_stored < v_monitored then
    for v_row in
      select
        m.wa_msg_id, m.chat_id, m.sender, m.sender_alt, m.push_name, m.kind, m.text, m.raw, m.media, m.quoted_msg_id,
        m.quoted_sender, m.mentions, m.mention_count, m.forwarded, m.forward_score, m.secret,
        case
          when jsonb_typeof(m.media) = 'object' then coalesce(m.media_status, 'pending') else m.media_status
        end as media_status
      from jsonb_populate_recordset(null::public.wa_message_in, p_messages) with ordinality as m
      where m.kind <> 'undecryptable'
      order by m.ordinality
    loop
      update public.messages as m
      set
        kind = v_row.kind, sender_alt = coalesce(v_row.sender_alt, m.sender_alt),
        push_name = coalesce(v_row.push_name, m.push_name), pending = false, lost_at = null,
        text = case when not m.blanked then v_row.text end,
        raw = case when m.blanked then '{}' else coalesce(nullif(v_row.raw, 'null'), '{}') end,
        file_name = case when not m.blanked then v_row.media ->> 'file_name' end,
        media_status = case
          when m.blanked and v_row.media_status is not null then 'revoked' else v_row.media_status
        end,
        mentions = case when not m.blanked then v_row.mentions end,
        mention_count = case when m.blanked then 0 else coalesce(v_row.mention_count, 0) end,
        quoted_msg_id = v_row.quoted_msg_id, quoted_sender = v_row.quoted_sender,
        forwarded = coalesce(v_row.forwarded, false), forward_score = coalesce(v_row.forward_score, 0)
      where m.session_id = p_session and m.chat_id = v_row.chat_id and m.sender = v_row.sender
        and m.wa_msg_id = v_row.wa_msg_id and m.kind = 'undecryptable'
      returning m.id, m.ts, m.media_status, m.blanked into v_id, v_ts, v_status, v_blanked;
      continue when not found;
      v_upgraded := v_upgraded + 1;
      if v_status = 'pending' and jsonb_typeof(v_row.media) = 'object' then
        insert into public.media_jobs (session_id, message_id, descriptor)
        values (p_session, v_id, coalesce(nullif(v_row.media -> 'descriptor', 'null'), '{}'));
        v_jobs := v_jobs + 1;
      end if;
      if v_row.secret is not null and not v_blanked then
        insert into public.message_secrets (message_id, session_id, secret) values (v_id, p_session, v_row.secret)
        on conflict (message_id) do nothing;
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

-- Encrypted edits that can be opened now: their target and its secret are here. With both forms of the target's sender.
create function public.wa_sealed_edits(p_session text, p_limit integer) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(sealed) order by sealed.id), '[]')
  from (
    select h.id::text, h.target_id, h.payload, s.secret, m.sender, m.sender_alt
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

-- What came out of them: [{id, text, at}], `at` null to keep the envelope's; or [{id, unreadable: true}], which stays
-- held and is not tried again. An edit that is open is an edit like any other.
create function public.wa_open_edits(p_session text, p_fence bigint, p_opened jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_opened record;
  v_ids bigint [] := '{}';
begin
  perform public.wa_lock_session(p_session, p_fence);
  for v_opened in
    select * from jsonb_to_recordset(p_opened) as o (id bigint, text text, at timestamptz, unreadable boolean)
  loop
    if v_opened.unreadable then
      update public.wa_held_changes set unreadable = true
      where session_id = p_session and id = v_opened.id and kind = 'sealed_edit';
    else
      update public.wa_held_changes
      set kind = 'edit', payload = jsonb_build_object('text', v_opened.text), at = coalesce(v_opened.at, at)
      where session_id = p_session and id = v_opened.id and kind = 'sealed_edit';
      v_ids := v_ids || v_opened.id;
    end if;
  end loop;
  return jsonb_build_object('changed', public.wa_retry_changes(p_session, v_ids));
end
$$;

-- One batch: {fence, epoch, seq, creds?, keys, messages, changes, hashes, audits, identities, groups, refused,
-- discards}. It is applied if it is the next one; one that was applied before is answered as durable, nothing written.
-- Messages come before changes, whatever their order on the wire: the result is the same.
-- Errors (PT409): stale_fence, stale_epoch, sequence_gap.
create or replace function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := public.wa_lock_session(p_session, (p_batch ->> 'fence')::bigint);
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_messages jsonb := coalesce(nullif(p_batch -> 'messages', 'null'), '[]');
  v_changes jsonb := coalesce(nullif(p_batch -> 'changes', 'null'), '[]');
  v_counts jsonb;
  v_told jsonb := '{"changed": 0, "held": 0}';
  v_arrived integer := 0;
  v_sealed integer := 0;
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
  perform public.wa_write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform public.wa_write_extras(p_session, null, p_batch -> 'hashes', p_batch -> 'discards');
  if p_batch ? 'groups' then
    perform public.wa_write_groups(p_session, p_batch -> 'groups');
  end if;

  v_counts := public.wa_store_messages_or_refuse(p_session, v_messages);
  -- What waited for these messages. Nothing waits in most sessions, most of the time.
  if v_messages <> '[]' and exists (select 1 from public.wa_held_changes as h where h.session_id = p_session) then
    v_arrived := public.wa_retry_changes(p_session, array(
      select h.id
      from jsonb_to_recordset(v_messages) as m (chat_id text, sender text, wa_msg_id text)
      inner join public.wa_held_changes as h
        on
          h.session_id = p_session and h.chat_id = m.chat_id and h.target_sender = m.sender
          and h.target_id = m.wa_msg_id
    ));
  end if;
  if v_changes <> '[]' then
    v_told := public.wa_take_changes(p_session, v_changes);
  end if;
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
  ) then
    v_sealed := jsonb_array_length(public.wa_sealed_edits(p_session, 1));
  end if;
  perform public.wa_write_refused(p_session, p_batch -> 'refused');
  perform public.wa_write_audits(p_session, p_batch -> 'audits');
  return v_counts || jsonb_build_object(
    'seq', v_seq::text, 'duplicate', false, 'changed', (v_told ->> 'changed')::integer + v_arrived,
    'held', v_told -> 'held', 'sealed', v_sealed
  );
end
$$;

-- Deletes ciphertext hashes, and if asked audit entries, past their age; after a week held changes, which are counted
-- as `edit_unmatched` and so on, and secrets (WhatsApp takes edits for a quarter of an hour). At most 10,000 of each a
-- call; `more` says that there are others.
create or replace function public.wa_prune(
  p_session text, p_stanza_seconds double precision, p_audit_seconds double precision
)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_stanzas integer;
  v_audits integer := 0;
  v_changes integer;
  v_secrets integer;
begin
  delete from public.decrypted_stanzas
  where session_id = p_session and hash = any(array(
    select d.hash
    from public.decrypted_stanzas as d
    where d.session_id = p_session and d.at < now() - make_interval(secs => p_stanza_seconds)
    order by d.at
    limit 10000
  ));
  get diagnostics v_stanzas = row_count;
  if p_audit_seconds is not null then
    delete from public.audit_log
    where id = any(array(
      select a.id
      from public.audit_log as a
      where a.session_id = p_session and a.at < now() - make_interval(secs => p_audit_seconds)
      order by a.at
      limit 10000
    ));
    get diagnostics v_audits = row_count;
  end if;
  with gone as (
    delete from public.wa_held_changes
    where id = any(array(
      select h.id
      from public.wa_held_changes as h
      where h.session_id = p_session and h.held_at < now() - interval '7 days'
      order by h.held_at
      limit 10000
    ))
    returning kind
  ),

  counted as (
    select count(public.wa_count_discard(p_session, k.kind || '_unmatched', k.count))
    from (
      select g.kind, count(*) as count from gone as g where g.kind not in ('quote', 'album') group by g.kind
    ) as k
  )

  select count(*) into v_changes from gone as g cross join counted;
  delete from public.message_secrets
  where message_id = any(array(
    select s.message_id
    from public.message_secrets as s
    where s.session_id = p_session and s.at < now() - interval '7 days'
    order by s.message_id
    limit 10000
  ));
  get diagnostics v_secrets = row_count;
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'changes', v_changes, 'secrets', v_secrets,
    'more', 10000 in (v_stanzas, v_audits, v_changes, v_secrets)
  );
end
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261122190300')
$$;

create or replace function public.wa_analyze() returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  analyze public.wa_session_keys, public.messages, public.media_jobs, public.media, public.decrypted_stanzas,
    public.audit_log, public.message_edits, public.message_reactions, public.message_secrets, public.wa_held_changes;
  return '{}'::jsonb;
end
$$;

revoke execute on function
public.wa_store_messages, public.wa_sealed_edits, public.wa_open_edits, public.wa_commit, public.wa_prune,
public.wa_schema_version, public.wa_analyze
from public, anon, authenticated;

grant execute on function
public.wa_store_messages, public.wa_sealed_edits, public.wa_open_edits, public.wa_commit, public.wa_prune,
public.wa_schema_version, public.wa_analyze
to service_role;
