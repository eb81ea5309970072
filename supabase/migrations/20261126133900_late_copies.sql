-- The good copy of a message is taken whatever its age as long as its row is a stub, pending or given up.

set check_function_bodies = off;

-- The good copy of a message that is too old to be stored by itself: it only takes the place of its stub.
create or replace function wa.is_late(p_body jsonb) returns boolean
language sql immutable security invoker set search_path = '' as $$
  select coalesce((p_body ->> 'late')::boolean, false)
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

-- One change of a batch: 'done', 'held' or 'dropped' (wa.take_changes).
create or replace function wa.take_change(p_session text, p_change jsonb) returns text
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
    if v_change.message_id is null
      and not wa.is_listed(p_session, v_change.chat_id, v_change.author, v_change.change_id) then
      return 'dropped';
    end if;
  else
    -- The message that brings the change may have left a stub before it became readable.
    delete from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id and m.kind = 'undecryptable';
    if not found and wa.is_late(p_change) then
      perform wa.count_discard(p_session, 'too_old', 1);
      return 'dropped';
    end if;
  end if;
  if v_change.kind = 'revoke' and coalesce((v_change.payload -> 'blank') = 'true', false)
    and wa.may_revoke(v_change) = 'allowed' then
    update public.wa_refused_stanzas as r
    set body = null, state = 'refused'
    where r.session_id = p_session and r.chat_id = v_change.chat_id and r.sender = v_change.target_sender
      and r.wa_msg_id = v_change.target_id;
  end if;
  v_result := wa.apply_change(v_change);
  if v_result = 'done' then
    return 'done';
  elsif v_result = 'refused' then
    perform wa.note_refusal(v_change);
    return 'dropped';
  end if;
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.author = v_change.author
    offset 999
  ) then
    perform wa.count_discard(p_session, 'change_flood', 1);
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

revoke execute on function wa.is_late from public, anon, authenticated;
grant execute on function wa.is_late to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126133900')
$$;

notify pgrst, 'reload schema';
