-- Every table of wa-worker.
--
-- Row level security is on everywhere and there are no policies: only the service role, which bypasses it, can read
-- or write. Columns are explained in docs/schema.md.

-- One linked WhatsApp account: its status for the web app, its credentials, and the lease of the worker that serves it.
create table public.wa_sessions (
  id text primary key default 'default' check (length(id) between 1 and 100),
  status text not null default 'disconnected' check (status in ('connecting', 'connected', 'disconnected')),
  detail jsonb not null default '{}',
  wa_name text,
  wa_number text,
  creds_json text,
  lease_owner text,
  lease_expires_at timestamptz,
  fence bigint not null default 0,
  epoch bigint not null default 0,
  seq bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

-- Baileys' Signal keys, a row each: one blob would be rewritten at every message.
create table public.wa_session_keys (
  session_id text not null references public.wa_sessions (id),
  type text not null,
  key_id text not null,
  value text not null,
  primary key (session_id, type, key_id)
);

-- The two forms of one person (FACTS 3): LID and phone number, without a device.
create table public.wa_identities (
  session_id text not null references public.wa_sessions (id),
  lid text not null,
  pn text not null,
  updated_at timestamptz not null default now(),
  primary key (session_id, lid)
);

create index wa_identities_pn on public.wa_identities (session_id, pn);

-- Groups of the account. `monitor` belongs to the user; the worker never writes it.
create table public.groups (
  id bigint generated always as identity primary key,
  session_id text not null default 'default' references public.wa_sessions (id),
  wa_group_id text not null check (length(wa_group_id) between 1 and 256),
  name text,
  monitor boolean not null default false,
  left_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (session_id, wa_group_id)
);

-- One row per content, whoever sent it.
create table public.media (
  id bigint generated always as identity primary key,
  sha256 text not null unique check (sha256 ~ '^[0-9a-f]{64}$'),
  mime text not null,
  bytes bigint not null check (bytes >= 0),
  width integer,
  height integer,
  duration_s double precision,
  storage_path text not null,
  created_at timestamptz not null default now()
);

-- Ciphertexts that were once downloaded and verified: a forward of one needs no second download.
create table public.media_verified (
  file_enc_sha256 text not null,
  media_key_sha256 text not null,
  media_id bigint not null references public.media (id) on delete cascade,
  primary key (file_enc_sha256, media_key_sha256)
);

create index media_verified_media_id on public.media_verified (media_id);

-- Messages of monitored groups. Ids are chosen by senders, so identity is (chat, sender, id).
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
  unique (session_id, chat_id, sender, wa_msg_id)
);

-- One-to-one parent links, and the two walks of public.wa_link_parents.
create unique index messages_parent_id on public.messages (parent_id) where parent_id is not null;

create index messages_linkable on public.messages (session_id, chat_id, sender, ts, id)
where kind = 'text' or media_status is not null;

create index messages_group_ts on public.messages (group_id, ts);

create index messages_media_id on public.messages (media_id) where media_id is not null;

create index messages_pending on public.messages (session_id, received_at) where pending;

-- Media that is still to be fetched. `descriptor` holds the media key; the row is deleted when the job ends.
create table public.media_jobs (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  message_id bigint not null unique references public.messages (id) on delete cascade,
  descriptor jsonb not null,
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default now(),
  lease_owner text,
  lease_expires_at timestamptz,
  last_error text,
  created_at timestamptz not null default now()
);

create index media_jobs_next_attempt_at on public.media_jobs (next_attempt_at);

create index media_jobs_session_id on public.media_jobs (session_id);

-- sha256 of every ciphertext that was decrypted and committed, of any chat: how a redelivery is recognised.
create table public.decrypted_stanzas (
  session_id text not null references public.wa_sessions (id),
  hash bytea not null check (length(hash) = 32),
  at timestamptz not null default now(),
  primary key (session_id, hash)
);

create index decrypted_stanzas_at on public.decrypted_stanzas (at);

-- What could not be stored as a message: kept whole, with the reason, so that nothing vanishes.
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

create table public.audit_log (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  session_id text not null default 'default',
  event text not null,
  payload jsonb not null default '{}'
);

create index audit_log_session_at on public.audit_log (session_id, at);

-- Requests of the web app: {"at": ISO}. Keys of other sessions than 'default' are prefixed with 'session:'.
create table public.runtime_flags (
  key text primary key,
  value jsonb not null default '{}',
  handled_at timestamptz,
  handled_value jsonb
);

alter table public.wa_sessions enable row level security;
alter table public.wa_session_keys enable row level security;
alter table public.wa_identities enable row level security;
alter table public.groups enable row level security;
alter table public.media enable row level security;
alter table public.media_verified enable row level security;
alter table public.messages enable row level security;
alter table public.media_jobs enable row level security;
alter table public.decrypted_stanzas enable row level security;
alter table public.wa_refused_stanzas enable row level security;
alter table public.wa_discards enable row level security;
alter table public.audit_log enable row level security;
alter table public.runtime_flags enable row level security;

revoke all on
public.wa_sessions, public.wa_session_keys, public.wa_identities, public.groups, public.media, public.media_verified,
public.messages, public.media_jobs, public.decrypted_stanzas, public.wa_refused_stanzas, public.wa_discards,
public.audit_log, public.runtime_flags
from anon, authenticated;

grant select, insert, update, delete on
public.wa_sessions, public.wa_session_keys, public.wa_identities, public.groups, public.media, public.media_verified,
public.messages, public.media_jobs, public.decrypted_stanzas, public.wa_refused_stanzas, public.wa_discards,
public.audit_log, public.runtime_flags
to service_role;

-- The contract's `keys_json`, assembled: {type: {id: value}}. A computed field: `select=id,keys_json`.
-- Values stay strings: they may be ciphertext, and JSON text with an escaped NUL is no valid jsonb.
create function public.keys_json(p_session public.wa_sessions) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_object_agg(by_type.type, by_type.ids), '{}')
  from (
    select k.type, jsonb_object_agg(k.key_id, k.value) as ids
    from public.wa_session_keys as k
    where k.session_id = p_session.id
    group by k.type
  ) as by_type
$$;

revoke execute on function public.keys_json from public, anon, authenticated;
grant execute on function public.keys_json to service_role;
