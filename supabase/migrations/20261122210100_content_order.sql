-- Of two rows that turn out to be one message, the content that came first stays; and such a merge in few statements.

-- One number for each call of public.wa_store_messages, a million apart: a message's place in its batch is added. Set
-- when content is stored, also when it takes a stub's place. Null: still a stub, or stored before this migration, which
-- counts as the earliest.
create sequence public.messages_content_order increment by 1000000;

revoke all on sequence public.messages_content_order from anon, authenticated;
grant usage on sequence public.messages_content_order to service_role;

alter table public.messages add column content_order bigint;

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
  v_order bigint := nextval('public.messages_content_order');
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
      forward_score, content_order
    )
    select
      p_session, a.group_id, a.wa_msg_id, a.chat_id, a.sender, a.sender_alt, a.push_name, coalesce(a.from_me, false),
      a.ts, coalesce(a.received_at, now()), a.kind, a.text, coalesce(nullif(a.raw, 'null'), '{}'),
      a.media ->> 'file_name', a.media_status, a.kind = 'undecryptable' and coalesce(a.pending, true),
      a.quoted_msg_id, a.quoted_sender, a.mentions, coalesce(a.mention_count, 0), coalesce(a.forwarded, false),
      coalesce(a.forward_score, 0), case when a.kind <> 'undecryptable' then v_order + a.ordinality end
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
        m.quoted_sender, m.mentions, m.mention_count, m.forwarded, m.forward_score, m.secret, m.ordinality,
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
        forwarded = coalesce(v_row.forwarded, false), forward_score = coalesce(v_row.forward_score, 0),
        content_order = v_order + v_row.ordinality
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

-- Two rows of one message become one, as if the person had been known from the start: the older row stays, with the
-- content that came first, and everything that hangs on the other one moves over.
create or replace function public.wa_collapse_messages(p_kept bigint, p_gone bigint, p_sender text, p_alt text)
returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_kept public.messages;
  v_gone public.messages;
  v_source public.messages;
  v_other public.messages;
  v_first_text text;
  v_edits jsonb;
  v_job bigint;
  v_row record;
begin
  select * into v_kept from public.messages where id = p_kept;
  select * into v_gone from public.messages where id = p_gone;
  v_source := v_kept;
  v_other := v_gone;
  if v_gone.kind <> 'undecryptable' and (
    v_kept.kind = 'undecryptable'
    or (coalesce(v_gone.content_order, 0), p_gone) < (coalesce(v_kept.content_order, 0), p_kept)
  ) then
    v_source := v_gone;
    v_other := v_kept;
  end if;
  v_first_text := v_source.text;
  if v_source.edited_at is not null then
    select e.text into v_first_text
    from public.message_edits as e
    where e.message_id = v_source.id and e.edit_msg_id = '';
  end if;
  select jsonb_agg(to_jsonb(e)) into v_edits
  from (
    select f.edit_msg_id, f.text, f.at
    from public.message_edits as f
    where f.message_id in (p_kept, p_gone) and f.edit_msg_id <> ''
    union all
    select m.edit_msg_id, m.text, m.edited_at
    from public.messages as m
    where m.id in (p_kept, p_gone) and m.edited_at is not null
  ) as e;

  update public.messages set quoted_id = p_kept where quoted_id = p_gone;
  update public.messages set album_id = p_kept where album_id = p_gone;
  delete from public.wa_held_changes where message_id = v_other.id and kind in ('quote', 'album');
  update public.wa_held_changes set message_id = p_kept where message_id = p_gone;
  for v_row in select * from public.message_reactions as r where r.message_id = p_gone loop
    perform public.wa_apply_reaction(v_row.session_id, p_kept, v_row.sender, v_row.emoji, v_row.at, v_row.wa_msg_id);
  end loop;
  -- The secret of the content, or else the other's.
  delete from public.message_secrets
  where message_id = p_kept and v_source.id = p_gone
    and exists (select 1 from public.message_secrets as s where s.message_id = p_gone);
  insert into public.message_secrets (message_id, session_id, secret, at)
  select p_kept, s.session_id, s.secret, s.at from public.message_secrets as s where s.message_id = p_gone
  on conflict (message_id) do nothing;
  -- Of the file the best that either has: it is stored, it will be fetched, it was given up.
  if v_source.media_status is not null and v_source.media_id is null then
    if v_other.media_id is not null then
      v_source.media_id := v_other.media_id;
      v_source.media_status := v_other.media_status;
    else
      select j.id into v_job
      from public.media_jobs as j
      where j.message_id in (p_kept, p_gone)
      order by j.message_id = v_source.id desc
      limit 1;
      if v_job is not null then
        v_source.media_status := 'pending';
      end if;
    end if;
  end if;
  delete from public.media_jobs where message_id in (p_kept, p_gone) and id is distinct from v_job;
  update public.media_jobs set message_id = p_kept where id = v_job;
  delete from public.wa_media_abandoned
  where message_id in (p_kept, p_gone)
    and (message_id <> v_source.id or v_source.media_id is not null or v_job is not null);
  update public.wa_media_abandoned set message_id = p_kept where message_id = v_source.id;
  delete from public.message_edits where message_id = p_kept;
  delete from public.message_secrets where message_id = p_gone;
  delete from public.messages where id = p_gone;
  update public.messages
  set
    sender = p_sender, sender_alt = p_alt, kind = v_source.kind, text = v_first_text, raw = v_source.raw,
    file_name = v_source.file_name, media_id = v_source.media_id, media_status = v_source.media_status,
    push_name = coalesce(v_source.push_name, v_other.push_name), quoted_msg_id = v_source.quoted_msg_id,
    quoted_sender = v_source.quoted_sender, quoted_id = case when v_source.quoted_id not in (p_kept, p_gone) then v_source.quoted_id end,
    album_id = case when v_source.album_id not in (p_kept, p_gone) then v_source.album_id end, mentions = v_source.mentions,
    mention_count = v_source.mention_count, forwarded = v_source.forwarded, forward_score = v_source.forward_score,
    pending = v_source.pending, lost_at = v_source.lost_at, content_order = v_source.content_order, edited_at = null,
    edit_msg_id = null
  where id = p_kept;

  if v_gone.revoked_at is not null then
    perform public.wa_apply_revoke(p_kept, v_gone.revoked_by, v_gone.revoked_at, false);
  end if;
  if v_kept.blanked or v_gone.blanked then
    perform public.wa_blank_message(p_kept);
  end if;
  for v_row in select * from jsonb_to_recordset(v_edits) as e (edit_msg_id text, text text, at timestamptz) loop
    perform public.wa_apply_edit(p_kept, v_row.edit_msg_id, v_row.text, v_row.at);
  end loop;
end
$$;

-- A person who wrote under a number turns out to have this LID: whatever is stored under the number goes under the LID,
-- as if both had been known from the start. Set-based: a person may have written a hundred thousand.
create or replace function public.wa_merge_identity(p_session text, p_lid text, p_pn text) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_pair record;
  v_twin text;
  v_reaction public.message_reactions;
  v_ranges jsonb;
  v_range record;
begin
  -- Links change only where both addresses wrote. There they are made anew over all rows of both: a row that goes takes
  -- its child's link with it, and a shorter walk would stop at that child.
  select jsonb_agg(to_jsonb(r)) into v_ranges
  from (
    select
      m.chat_id,
      min(m.ts) as first_ts, (array_agg(m.id order by m.ts, m.id))[1] as first_id,
      max(m.ts) as last_ts, (array_agg(m.id order by m.ts desc, m.id desc))[1] as last_id
    from public.messages as m
    where m.session_id = p_session and m.chat_id = any(array(
      select distinct n.chat_id
      from public.messages as n
      where n.session_id = p_session and n.sender = p_pn and n.sender like '%@s.whatsapp.net'
    )) and m.sender in (p_pn, p_lid)
    group by m.chat_id
    having count(*) filter (where m.sender = p_lid) > 0
  ) as r;

  for v_range in select * from jsonb_to_recordset(v_ranges) as r (chat_id text) loop
    -- An intersection, no join: its cost is the same whatever is known of the table.
    for v_twin in
      select m.wa_msg_id
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_range.chat_id and m.sender = p_pn
      intersect
      select m.wa_msg_id
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_range.chat_id and m.sender = p_lid
    loop
      select min(m.id) as kept, max(m.id) as gone into v_pair
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_range.chat_id and m.sender in (p_pn, p_lid)
        and m.wa_msg_id = v_twin;
      perform public.wa_collapse_messages(v_pair.kept, v_pair.gone, p_lid, p_pn);
    end loop;
  end loop;
  update public.messages set sender = p_lid, sender_alt = p_pn
  where session_id = p_session and sender = p_pn and sender like '%@s.whatsapp.net';

  for v_reaction in
    delete from public.message_reactions as r
    where r.session_id = p_session and r.sender = p_pn and r.sender like '%@s.whatsapp.net'
    returning r.*
  loop
    perform public.wa_apply_reaction(
      p_session, v_reaction.message_id, p_lid, v_reaction.emoji, v_reaction.at, v_reaction.wa_msg_id
    );
  end loop;
  update public.messages
  set quoted_sender = p_lid
  where session_id = p_session and quoted_sender = p_pn and quoted_sender like '%@s.whatsapp.net';
  update public.messages
  set revoked_by = p_lid
  where session_id = p_session and revoked_by = p_pn and revoked_by like '%@s.whatsapp.net';
  update public.messages as m
  set
    mentions = array(
      select who.jid
      from unnest(array_replace(m.mentions, p_pn, p_lid)) with ordinality as who (jid, ord)
      group by who.jid
      order by min(who.ord)
    )
  where m.mentions is not null and m.mentions @> array[p_pn] and m.session_id = p_session;

  update public.wa_held_changes set target_sender = p_lid where session_id = p_session and target_sender = p_pn;
  delete from public.wa_held_changes as h
  using public.wa_held_changes as twin
  where h.session_id = p_session and h.author = p_pn and twin.session_id = p_session and twin.author = p_lid
    and twin.chat_id = h.chat_id and twin.change_id = h.change_id and twin.kind = h.kind;
  update public.wa_held_changes set author = p_lid where session_id = p_session and author = p_pn;
  perform public.wa_retry_changes(p_session, array(
    select h.id from public.wa_held_changes as h
    where h.session_id = p_session and (h.target_sender = p_lid or h.author = p_lid)
  ));

  for v_range in
    select *
    from jsonb_to_recordset(v_ranges) as r (
      chat_id text, first_ts timestamptz, first_id bigint, last_ts timestamptz, last_id bigint
    )
  loop
    perform public.wa_link_parents(
      p_session, v_range.chat_id, p_lid, v_range.first_ts, v_range.first_id, v_range.last_ts, v_range.last_id
    );
  end loop;
end
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261122210100')
$$;

revoke execute on function
public.wa_store_messages, public.wa_collapse_messages, public.wa_merge_identity, public.wa_schema_version
from public, anon, authenticated;

grant execute on function
public.wa_store_messages, public.wa_collapse_messages, public.wa_merge_identity, public.wa_schema_version
to service_role;
