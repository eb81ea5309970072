-- The columns of messages stand in the table, and in one function that copies content; a message that arrives becomes a
-- row by the names of its keys. Also: anon and authenticated lose the sequences of identity columns.

set check_function_bodies = off;

-- The row of a message as the worker sends it: an object whose keys are columns, with its file as `media` and with
-- `secret`, which are stored elsewhere (docs/schema.md). `p_order` counts for content only.
create function wa.message_row(p_session text, p_group bigint, p_message jsonb, p_order bigint)
returns public.messages
language sql stable security invoker set search_path = '' as $$
  select jsonb_populate_record(
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
  )
$$;

-- Gives a stored message the content of another row: every column that a sender fills, but not who sent it, where and
-- when. Names that the other row lacks stay.
create function wa.replace_content(p_message bigint, p_from public.messages) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages as m
  set
    kind = p_from.kind, text = p_from.text, raw = p_from.raw, file_name = p_from.file_name,
    media_id = p_from.media_id, media_status = p_from.media_status,
    sender_alt = coalesce(p_from.sender_alt, m.sender_alt), push_name = coalesce(p_from.push_name, m.push_name),
    quoted_msg_id = p_from.quoted_msg_id, quoted_sender = p_from.quoted_sender, mentions = p_from.mentions,
    mention_count = p_from.mention_count, forwarded = p_from.forwarded, forward_score = p_from.forward_score,
    pending = p_from.pending, lost_at = p_from.lost_at, content_order = p_from.content_order
  where m.id = p_message;
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
    select (a.new).* from arrived as a order by a.place
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
      where e.body ->> 'kind' <> 'undecryptable'
      order by e.place
    loop
      v_new := wa.message_row(p_session, null, v_row.body, v_order + v_row.place);
      select * into v_stub
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_new.chat_id and m.sender = v_new.sender
        and m.wa_msg_id = v_new.wa_msg_id and m.kind = 'undecryptable'
      for no key update;
      continue when not found;
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

-- Two rows of one message become one, as if the person had been known from the start: the older row stays, with the
-- content that came first, and everything that refers to the other row moves to it.
create or replace function wa.merge_messages(p_kept bigint, p_gone bigint, p_sender text, p_alt text)
returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_kept public.messages;
  v_gone public.messages;
  v_source public.messages;
  v_other public.messages;
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
  v_source.push_name := coalesce(v_source.push_name, v_other.push_name);
  if v_source.edited_at is not null then
    select e.text into v_source.text
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
    perform wa.apply_reaction(v_row.session_id, p_kept, v_row.sender, v_row.emoji, v_row.at, v_row.wa_msg_id);
  end loop;
  -- Keep the secret of the content that stays, or else the other one.
  delete from public.message_secrets
  where message_id = p_kept and v_source.id = p_gone
    and exists (select 1 from public.message_secrets as s where s.message_id = p_gone);
  insert into public.message_secrets (message_id, session_id, secret, at)
  select p_kept, s.session_id, s.secret, s.at from public.message_secrets as s where s.message_id = p_gone
  on conflict (message_id) do nothing;
  -- Keep the better state of the file: stored before pending, pending before given up.
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
  perform wa.replace_content(p_kept, v_source);
  update public.messages
  set
    sender = p_sender, sender_alt = p_alt, edited_at = null, edit_msg_id = null,
    quoted_id = case when v_source.quoted_id not in (p_kept, p_gone) then v_source.quoted_id end,
    album_id = case when v_source.album_id not in (p_kept, p_gone) then v_source.album_id end
  where id = p_kept;

  if v_gone.revoked_at is not null then
    perform wa.apply_revoke(p_kept, v_gone.revoked_by, v_gone.revoked_at, false);
  end if;
  if v_kept.blanked or v_gone.blanked then
    perform wa.blank_message(p_kept);
  end if;
  for v_row in select * from jsonb_to_recordset(v_edits) as e (edit_msg_id text, text text, at timestamptz) loop
    perform wa.apply_edit(p_kept, v_row.edit_msg_id, v_row.text, v_row.at);
  end loop;
end
$$;

drop type public.wa_message_in;

revoke execute on function wa.message_row, wa.replace_content from public, anon, authenticated;
grant execute on function wa.message_row, wa.replace_content to service_role;

revoke all on sequence
public.audit_log_id_seq, public.groups_id_seq, public.media_id_seq, public.media_jobs_id_seq,
public.message_edits_id_seq, public.messages_content_order, public.messages_id_seq, public.wa_held_changes_id_seq,
public.wa_merges_due_id_seq, public.wa_refused_stanzas_id_seq
from anon, authenticated;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126130900')
$$;

notify pgrst, 'reload schema';
