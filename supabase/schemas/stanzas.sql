-- What is remembered of a stanza without a message: its hash, its refusal, or only that it was dropped.

-- sha256 of every ciphertext that was decrypted and committed, of any chat: how a redelivery is recognised.
create table public.decrypted_stanzas (
  session_id text not null references public.wa_sessions (id),
  hash bytea not null check (length(hash) = 32),
  at timestamptz not null default now(),
  primary key (session_id, hash)
);

create index decrypted_stanzas_at on public.decrypted_stanzas (at);

-- Stanzas that could not be stored as a message: kept whole, with the reason.
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
  encoding text not null default 'json' check (encoding in ('json', 'base64'))
);

create index wa_refused_stanzas_session_id on public.wa_refused_stanzas (session_id, at);

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
  select coalesce(jsonb_agg(encode(d.hash, 'hex')), '[]')
  from public.decrypted_stanzas as d
  where d.session_id = p_session
    and d.hash = any(array(
      select decode(h, 'hex') from jsonb_array_elements_text(p_hashes) as h where h ~ '^[0-9a-f]{64}$'
    ))
$$;

-- Refused stanzas: [{chat_id, sender, wa_msg_id, code, reason, body, encoding}]. The body is kept only if the chat is
-- monitored: content of other chats reaches no table.
create function wa.write_refused(p_session text, p_refused jsonb) returns void
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

-- Ciphertext hashes ([hex]) and discards ({reason: count}) of a batch.
create function wa.write_hashes_and_discards(p_session text, p_hashes jsonb, p_discards jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
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

-- Adds to a count of public.wa_discards.
create function wa.count_discard(p_session text, p_reason text, p_count bigint) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_discards (session_id, reason, count)
  select p_session, p_reason, p_count
  where p_count > 0
  on conflict (session_id, reason) do update
  set count = public.wa_discards.count + excluded.count, last_at = now();
$$;
