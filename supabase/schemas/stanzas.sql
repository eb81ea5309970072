-- What is kept of a stanza besides its message: its hash, its refusal, or only that it was dropped.

-- sha256 of every ciphertext that was decrypted and committed, of any chat: how a redelivery is recognised. Also hashes
-- of the names of stanzas discarded undecrypted, so that each is counted once.
create table public.decrypted_stanzas (
  session_id text not null references public.wa_sessions (id),
  hash bytea not null check (length(hash) = 32),
  at timestamptz not null default now(),
  primary key (session_id, hash)
);

create index decrypted_stanzas_at on public.decrypted_stanzas (at);

-- Messages and changes (edits, revokes, reactions) that could not be stored: kept whole, with the reason. `refused`:
-- Postgres would refuse it again (SQLSTATE classes 22, 23, 54). `waiting`: it may succeed later, and is retried with
-- growing pauses. `undecrypted`: the stanza of a message that was not decrypted, because it killed sidecars; deleted
-- when the good copy replaces the message's stub.
create table public.wa_refused_stanzas (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  at timestamptz not null default now(),
  chat_id text,
  sender text,
  wa_msg_id text,
  code text not null,
  reason text not null,
  body text,
  encoding text not null default 'json' check (encoding in ('json', 'base64')),
  item text not null default 'message' check (item in ('message', 'change')),
  state text not null default 'refused' check (state in ('refused', 'waiting', 'undecrypted')),
  tries integer not null default 0,
  next_at timestamptz,
  sent_at timestamptz,
  -- Of a message: its file, once stored, and when it disappears.
  media_id bigint references public.media (id),
  expires_at timestamptz
);

create index wa_refused_stanzas_session_id on public.wa_refused_stanzas (session_id, at);

create index wa_refused_stanzas_name on public.wa_refused_stanzas (session_id, wa_msg_id, chat_id, sender);

create index wa_refused_stanzas_next_at on public.wa_refused_stanzas (session_id, next_at) where state = 'waiting';

create index wa_refused_stanzas_media_id on public.wa_refused_stanzas (media_id) where media_id is not null;

create index wa_refused_stanzas_expires_at on public.wa_refused_stanzas (session_id, expires_at)
where expires_at is not null and body is not null;

-- Stanzas (sha256 of the first ciphertext) whose decryption ended sidecars: `deaths` on their own, `kills` by a signal
-- from outside. docs/architecture.md, "A stanza that kills".
create table public.wa_suspects (
  session_id text not null references public.wa_sessions (id),
  hash bytea not null check (length(hash) = 32),
  deaths integer not null default 0,
  kills integer not null default 0,
  last_death text not null,
  at timestamptz not null default now(),
  primary key (session_id, hash)
);

-- How many messages were dropped on purpose, by reason (too old, unmonitored, …). Counts only, never content.
create table public.wa_discards (
  session_id text not null references public.wa_sessions (id),
  reason text not null,
  count bigint not null default 0,
  last_at timestamptz not null default now(),
  primary key (session_id, reason)
);

-- Which of these ciphertext hashes (JSON array of hex) were decrypted and committed before.
create function public.wa_known_stanzas(p_session text, p_hashes jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('hashes', coalesce(jsonb_agg(encode(d.hash, 'hex')), '[]'))
  from public.decrypted_stanzas as d
  where d.session_id = p_session
    and d.hash = any(array(
      select decode(h, 'hex') from jsonb_array_elements_text(p_hashes) as h where h ~ '^[0-9a-f]{64}$'
    ))
$$;

-- Notes that a sidecar ended while it decrypted this stanza (hex). `p_death` names the end, so that it is counted once.
-- What was committed meanwhile is no suspect. The newest 1,000 of the last 14 days are kept.
create function public.wa_note_death(p_session text, p_fence bigint, p_hash text, p_death text, p_killed boolean)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_hash bytea := decode(p_hash, 'hex');
begin
  perform wa.lock_session(p_session, p_fence);
  insert into public.wa_suspects as s (session_id, hash, deaths, kills, last_death)
  select p_session, v_hash, (not p_killed)::integer, p_killed::integer, p_death
  where not exists (
    select 1 from public.decrypted_stanzas as d where d.session_id = p_session and d.hash = v_hash
  )
  on conflict (session_id, hash) do update
  set
    deaths = s.deaths + excluded.deaths, kills = s.kills + excluded.kills, last_death = excluded.last_death, at = now()
  where s.last_death <> excluded.last_death;
  delete from public.wa_suspects as s
  where s.session_id = p_session and (
    s.at < now() - interval '14 days'
    or s.hash not in (
      select n.hash from public.wa_suspects as n where n.session_id = p_session order by n.at desc, n.hash limit 1000
    )
  );
  return '{"done": true}'::jsonb;
end
$$;

-- The suspects: {suspects: [{hash, deaths, kills}]}.
create function public.wa_list_suspects(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('suspects', coalesce(
    jsonb_agg(jsonb_build_object('hash', encode(s.hash, 'hex'), 'deaths', s.deaths, 'kills', s.kills)), '[]'
  ))
  from public.wa_suspects as s
  where s.session_id = p_session
$$;

-- Whether this kept body (base64) is that of a message that could not be decrypted.
create function wa.holds_stub(p_body text) returns boolean
language sql immutable security invoker set search_path = '' as $$
  select position('"undecryptable"'::bytea in decode(p_body, 'base64')) > 0
$$;

-- Refused items: [{item, state, chat_id, sender, wa_msg_id, code, reason, body, encoding, sent_at}]. Bodies are kept as
-- base64, and only if the chat is monitored: content of other chats reaches no table. An item that is already listed
-- stays as it is; but the good copy of a listed stub is listed beside it. An `undecrypted` one is listed beside the
-- others, except if the chat is not monitored, or the message is stored with its content.
create function wa.write_refused(p_session text, p_refused jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_id bigint;
begin
  if coalesce(p_refused in ('[]', 'null'), true) then
    return;
  end if;
  for v_id in
    insert into public.wa_refused_stanzas (
      session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding, item, state, next_at, sent_at
    )
    select
      p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
      left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
      kept.body, 'base64', coalesce(r ->> 'item', 'message'), coalesce(r ->> 'state', 'refused'),
      case when r ->> 'state' = 'waiting' then now() + interval '1 minute' end, wa.parse_time(r ->> 'sent_at')
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
    order by t.ord
    returning id
  loop
    perform wa.note_kept(v_id);
  end loop;
end
$$;

-- What a listed item would store; null if Postgres cannot read it.
create function wa.kept_item(p_body text, p_encoding text) returns jsonb
language plpgsql immutable security invoker set search_path = '' as $$
begin
  return case when p_encoding = 'json' then p_body else convert_from(decode(p_body, 'base64'), 'UTF8') end::jsonb;
exception
  when data_exception or program_limit_exceeded then
    return null;
end
$$;

-- Notes when a listed message disappears, and creates the job for its file: WhatsApp may no longer have it by the time
-- the message is accepted. Does neither where the sender's values do not fit. If a revoke that came before it is to
-- empty it, nothing of it is kept.
create function wa.note_kept(p_id bigint) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_refused_stanzas;
  v_item jsonb;
begin
  select * into v_row from public.wa_refused_stanzas where id = p_id;
  if v_row.item <> 'message' or num_nulls(v_row.sender, v_row.wa_msg_id) > 0 then
    return;
  end if;
  if exists (
    select 1
    from public.wa_held_changes as h
    where h.session_id = v_row.session_id and h.chat_id = v_row.chat_id and h.target_sender = v_row.sender
      and h.target_id = v_row.wa_msg_id and h.kind = 'revoke' and (h.payload -> 'blank') = 'true'
      and wa.may_revoke(h) = 'allowed'
  ) then
    perform wa.empty_kept(v_row.session_id, v_row.chat_id, v_row.sender, v_row.wa_msg_id);
    return;
  end if;
  if v_row.state = 'undecrypted' then
    return;
  end if;
  v_item := wa.kept_item(v_row.body, v_row.encoding);
  if v_item ->> 'expires_at' is not null then
    update public.wa_refused_stanzas set expires_at = (v_item ->> 'expires_at')::timestamptz where id = p_id;
  end if;
  if jsonb_typeof(v_item -> 'media') = 'object' and coalesce(v_item ->> 'media_status', 'pending') = 'pending' then
    insert into public.media_jobs (session_id, refused_id, descriptor)
    values (v_row.session_id, p_id, coalesce(nullif(v_item -> 'media' -> 'descriptor', 'null'), '{}'))
    on conflict (refused_id) do nothing;
  end if;
exception
  when data_exception or integrity_constraint_violation or program_limit_exceeded then
    null;
end
$$;

-- The message has its content, or was none: its stanza need not be kept. `p_senders`: forms of one person.
create function wa.unlist_undecrypted(p_session text, p_chat text, p_senders text[], p_wa_msg_id text) returns void
language sql volatile security invoker set search_path = '' as $$
  delete from public.wa_refused_stanzas
  where session_id = p_session and wa_msg_id = p_wa_msg_id and chat_id = p_chat and sender = any(p_senders)
    and state = 'undecrypted'
$$;

-- Whether this message is listed as refused.
create function wa.is_listed(p_session text, p_chat text, p_sender text, p_wa_msg_id text) returns boolean
language sql stable security invoker set search_path = '' as $$
  select exists (
    select 1 from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.chat_id = p_chat and r.sender = p_sender and r.wa_msg_id = p_wa_msg_id
      and r.item = 'message'
  )
$$;

-- The discards of a batch ({reason: count}) without those that were counted before. `p_unread` ({reason: [hex sha256]})
-- names those that no ciphertext identifies when they come again, after a kill or a lost receipt.
create function wa.new_discards(p_session text, p_discards jsonb, p_unread jsonb) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  with named as (
    select u.key as reason, decode(h, 'hex') as hash
    from jsonb_each(coalesce(nullif(p_unread, 'null'), '{}')) as u
    cross join jsonb_array_elements_text(u.value) as h
    where h ~ '^[0-9a-f]{64}$'
  ),

  fresh as (
    insert into public.decrypted_stanzas (session_id, hash)
    select distinct p_session, n.hash from named as n
    on conflict do nothing
    returning hash
  ),

  repeated as (
    select n.reason, count(*) - count(distinct f.hash) as count
    from named as n
    left join fresh as f on n.hash = f.hash
    group by n.reason
  )

  select coalesce(jsonb_object_agg(d.key, d.value::bigint - coalesce(r.count, 0)), '{}')
  from jsonb_each_text(coalesce(nullif(p_discards, 'null'), '{}')) as d
  left join repeated as r on d.key = r.reason
  where d.value ~ '^[0-9]{1,18}$'
$$;

-- Ciphertext hashes ([hex]) and discards ({reason: count}) of a batch. What was decrypted is no longer a suspect.
create function wa.write_hashes_and_discards(p_session text, p_hashes jsonb, p_discards jsonb) returns void
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
    where d.value ~ '^[0-9]{1,18}$' and d.value::bigint > 0
    group by left(d.key, 64)
    on conflict (session_id, reason) do update
    set count = public.wa_discards.count + excluded.count, last_at = now();
  end if;
end
$$;

-- Adds to a count of public.wa_discards.
create function wa.count_discard(p_session text, p_reason text, p_count bigint) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_discards (session_id, reason, count)
  select p_session, p_reason, p_count
  where p_count > 0
  on conflict (session_id, reason) do update
  set count = public.wa_discards.count + excluded.count, last_at = now();
$$;
