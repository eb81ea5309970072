-- Messages of monitored groups: storing them, and their parent links.

-- Orders contents by the time they were stored. Each call of wa.store_messages takes one number; they are a million
-- apart, and a message's place in its batch is added.
create sequence public.messages_content_order increment by 1000000;

-- Senders choose message ids, so a message is identified by (chat, sender, id). `content_order` is set when content is
-- stored, also when it replaces a stub; null means a stub, or stored before this column existed, which counts as
-- earliest. `revoke_claimed_at`: revoked by somebody who may not be allowed to; not known yet. `rendition`: which
-- version of another message the sender says it is (a better copy, a motion photo's video), `rendition_of` that
-- message.
create table public.messages (
  id bigint generated always as identity primary key,
  session_id text not null default 'default' references public.wa_sessions (id),
  group_id bigint not null references public.groups (id),
  wa_msg_id text not null check (length(wa_msg_id) between 1 and 256),
  chat_id text not null check (length(chat_id) between 1 and 256),
  sender text not null check (length(sender) between 1 and 256),
  sender_alt text,
  push_name text,
  from_me boolean not null default false,
  ts timestamptz not null check (ts >= '1970-01-01 00:00:00+00' and ts < '2200-01-01 00:00:00+00'),
  received_at timestamptz not null default now(),
  kind text not null check (length(kind) between 1 and 64),
  text text,
  raw jsonb not null default '{}',
  file_name text,
  media_id bigint references public.media (id),
  media_status text check (media_status ~ '^[a-z_]{1,32}$'),
  parent_id bigint references public.messages (id) on delete set null,
  pending boolean not null default false,
  lost_at timestamptz,
  edited_at timestamptz,
  revoked_at timestamptz,
  edit_msg_id text,
  revoked_by text,
  blanked boolean not null default false,
  quoted_msg_id text,
  quoted_sender text,
  quoted_id bigint references public.messages (id) on delete set null,
  album_id bigint references public.messages (id) on delete set null,
  mentions text[],
  mention_count integer not null default 0,
  forwarded boolean not null default false,
  forward_score integer not null default 0,
  content_order bigint,
  revoke_claimed_at timestamptz,
  revoke_claimed_by text,
  content jsonb check (jsonb_typeof(content) = 'object'),
  expires_at timestamptz,
  rendition text check (rendition in ('hd', 'hevc', 'motion')),
  rendition_of bigint references public.messages (id) on delete set null,
  unique (session_id, chat_id, sender, wa_msg_id)
);

-- A message is the parent of one other at most.
create unique index messages_parent_id on public.messages (parent_id) where parent_id is not null;

-- For both scans of wa.link_parents.
create index messages_linkable on public.messages (session_id, chat_id, sender, ts, id)
where (kind = 'text' or media_status is not null) and rendition is null;

-- For apps (docs/app-queries.md): pages of a group, of the session, of a person; pictures of a group.
create index messages_group_ts on public.messages (group_id, ts, id);

-- In order of arrival, however quiet this session is beside others.
create index messages_session_id on public.messages (session_id, id);

create index messages_session_ts on public.messages (session_id, ts, id);

create index messages_sender_ts on public.messages (session_id, sender, ts, id);

create index messages_gallery on public.messages (group_id, kind, ts, id) where media_id is not null;

create index messages_media_id on public.messages (media_id) where media_id is not null;

create index messages_pending on public.messages (session_id, received_at) where pending;

create index messages_quoted_id on public.messages (quoted_id) where quoted_id is not null;

create index messages_album_id on public.messages (album_id) where album_id is not null;

create index messages_rendition_of on public.messages (rendition_of) where rendition_of is not null;

-- For public.wa_expire: messages that disappear.
create index messages_expires_at on public.messages (session_id, expires_at)
where expires_at is not null and not blanked;

create index messages_keeps on public.messages (session_id, chat_id, (content -> 'target' ->> 'wa_msg_id'), ts)
where kind = 'keep';

-- For wa.merge_identity: where a person is still stored under the number.
create index messages_number on public.messages (session_id, sender) where sender like '%@s.whatsapp.net';

create index messages_quoted_number on public.messages (session_id, quoted_sender)
where quoted_sender like '%@s.whatsapp.net';

create index messages_revoked_number on public.messages (session_id, revoked_by)
where revoked_by like '%@s.whatsapp.net';

-- Without a pending list: each look-up reads it whole, and for new pairs the planner preferred to scan the table.
create index messages_mentions on public.messages using gin (mentions) with (fastupdate = false)
where mentions is not null;

-- The key that opens encrypted edits. Not in `raw`, so that readers of messages need not see keys. Written with nearly
-- every message, so it has no foreign key and only one index; public.wa_prune deletes it after a week.
create table public.message_secrets (
  message_id bigint primary key,
  session_id text not null,
  secret text not null check (length(secret) between 1 and 64),
  at timestamptz not null default now()
);

-- Parent links of one sender in one chat (docs/contract.md §7), over the messages from `p_first` on, in (ts, id) order:
-- a text and a media message that follow each other within 90 s are a pair, and the later one points to the earlier
-- one. Each message is in at most one pair; earlier pairs win. Messages that are neither text nor media do not count.
--
-- Messages before the first new one keep their links, which depend only on earlier messages. So the scan reads one row
-- before it, and ends after the last new message as soon as a stored link is already right.
create function wa.link_parents(
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
    and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
    and (m.ts, m.id) < (p_first_ts, p_first_id)
  order by m.ts desc, m.id desc
  limit 1;

  for v_row in
    select m.id, m.ts, m.kind = 'text' as is_text, m.parent_id
    from public.messages as m
    where m.session_id = p_session and m.chat_id = p_chat and m.sender = p_sender
      and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
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

  -- Clear all links before setting any: the unique index on parent_id is checked row by row.
  update public.messages set parent_id = null where id = any(v_changed) and parent_id is not null;
  update public.messages as m
  set parent_id = c.parent_id
  from unnest(v_changed, v_parents) as c (id, parent_id)
  where m.id = c.id and c.parent_id is not null;
end
$$;

-- The row of a message as the worker sends it: an object whose keys are columns, with its file as `media` and with
-- `secret`, which are stored elsewhere (docs/schema.md). `p_order` counts for content only.
create function wa.message_row(p_session text, p_group bigint, p_message jsonb, p_order bigint)
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

-- The good copy of a message that is too old to be stored by itself: it only replaces its stub.
create function wa.is_late(p_body jsonb) returns boolean
language plpgsql immutable security invoker set search_path = '' as $$
begin
  return coalesce((p_body ->> 'late')::boolean, false);
end
$$;

-- Gives a stored message the content of another row: every column that a sender fills, but not who sent it, where and
-- when. Names that the other row lacks stay. The kept stanza of a stub that gets its content is deleted.
create function wa.replace_content(p_message bigint, p_from public.messages) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages as m
  set
    kind = p_from.kind, text = p_from.text, raw = p_from.raw, content = p_from.content,
    file_name = p_from.file_name, media_id = p_from.media_id, media_status = p_from.media_status,
    sender_alt = coalesce(p_from.sender_alt, m.sender_alt), push_name = coalesce(p_from.push_name, m.push_name),
    quoted_msg_id = p_from.quoted_msg_id, quoted_sender = p_from.quoted_sender, mentions = p_from.mentions,
    mention_count = p_from.mention_count, forwarded = p_from.forwarded, forward_score = p_from.forward_score,
    pending = p_from.pending, lost_at = p_from.lost_at, content_order = p_from.content_order,
    expires_at = p_from.expires_at, rendition = p_from.rendition
  where m.id = p_message;

  select wa.unlist_undecrypted(m.session_id, m.chat_id, array[m.sender, m.sender_alt], m.wa_msg_id)
  from public.messages as m
  where m.id = p_message and m.kind <> 'undecryptable';
$$;

-- Stores messages of monitored groups, with their media jobs and parent links. A copy of a stored message changes
-- nothing, except that content replaces an undecryptable stub. Set-based; the tables that grow are never joined.
create function wa.store_messages(p_session text, p_messages jsonb) returns jsonb
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
    returning id, chat_id, sender, wa_msg_id, ts, kind, media_status, rendition
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
    select s.id, s.chat_id, s.sender, s.ts
    from stored as s
    where (s.kind = 'text' or s.media_status is not null) and s.rendition is null
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
      if (v_new.kind = 'text' or v_new.media_status is not null) and v_new.rendition is null then
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
          and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
          and (m.ts, m.id) < (r.first_ts, r.first_id)
        order by m.ts desc, m.id desc
        limit 1
      )
      union all
      (
        select m.kind = 'text'
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
          and (m.ts, m.id) >= (r.first_ts, r.first_id) and (m.ts, m.id) <= (r.last_ts, r.last_id)
      )
      union all
      (
        select m.kind = 'text'
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
          and (m.ts, m.id) > (r.last_ts, r.last_id)
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

-- Calls wa.store_messages; if Postgres refuses the batch, bisects it until the offending message is alone, which
-- becomes a refused row. If somebody deletes a referenced row meanwhile (a parent, the group), tries again, up to three
-- times: the next attempt does not see the row.
create function wa.store_messages_or_refuse(p_session text, p_messages jsonb) returns jsonb
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

-- Gives up stubs whose good copy did not arrive in time: marks the row and audits it. At most 500 a call.
create function public.wa_mark_lost(p_session text, p_older_than_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_lost integer;
begin
  with lost as (
    update public.messages
    set pending = false, lost_at = now()
    where id = any(array(
      select m.id
      from public.messages as m
      where m.session_id = p_session and m.pending
        and m.received_at <= now() - make_interval(secs => p_older_than_seconds)
      order by m.received_at
      limit 500
      for update skip locked
    ))
    returning wa_msg_id, chat_id
  ),

  audited as (
    insert into public.audit_log (session_id, event, payload)
    select p_session, 'error', jsonb_build_object(
      'code', 'MESSAGE_LOST', 'msg', 'never became readable', 'wa_msg_id', l.wa_msg_id,
      'ctx', jsonb_build_object('wa_msg_id', l.wa_msg_id, 'chat_id', l.chat_id)
    )
    from lost as l
  )

  select count(*) into v_lost from lost;
  return jsonb_build_object('lost', v_lost);
end
$$;
