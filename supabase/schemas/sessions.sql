-- One linked account: its status for the web app, its credentials, and the lease of the worker that serves it.
--
-- `wanted` is the desired state: a host should serve it (hosts.sql). `run` and `up` serve the session they are told to,
-- and never read it.
--
-- A worker serves a session while it holds its lease. Every take-over raises `fence`; every connection raises `epoch`;
-- `seq` counts the batches of one epoch; `batch` names the latest one that was begun: its number, and a digest of its
-- items. What came until `complete_to`, on the connection `complete_epoch`, is durable, and so is everything that had
-- waited (coverage.sql). Each writer names the fence it holds, and is refused if the session has a newer one.
-- docs/schema.md explains the columns of all tables.

-- A function may call one that is in a later file.
set check_function_bodies = off;

-- Steps that only other functions take. The Data API does not expose this schema.
create schema wa;

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
  updated_at timestamptz not null default now(),
  batch text,
  oldest_cursor bigint not null default 0,
  lease_seconds double precision,
  complete_to timestamptz,
  complete_epoch bigint,
  search_language text not null default 'simple',
  search_done bigint not null default 0,
  wanted boolean not null default false,
  settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object') check (
    octet_length(settings::text) <= 4000
    and not settings @? 'strict $.* ? (@.type() == "object" || @.type() == "array")'
  ),
  owner_id uuid,
  host_since timestamptz,
  start_failures integer not null default 0,
  failed_owner text,
  not_before timestamptz
);

-- What hosts look for: sessions that nobody holds, and those whose lease may have expired. Neither index has a column
-- that a commit or a renewal changes, so that these stay cheap (HOT).
create index wa_sessions_free on public.wa_sessions (id) where wanted and lease_owner is null;

create index wa_sessions_wanted on public.wa_sessions (id) where wanted;

-- The last fence of deleted sessions: a new session of the same name starts above it. Otherwise a worker that slept
-- through both would hold the fence of the new one. Deleted after 90 days.
create table public.wa_removed_sessions (
  id text primary key,
  fence bigint not null,
  removed_at timestamptz not null default clock_timestamp()
);

-- By triggers, whoever deletes or creates a session.
create function wa.note_removed_session() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.wa_removed_sessions where removed_at < clock_timestamp() - interval '90 days';
  insert into public.wa_removed_sessions (id, fence) values (old.id, old.fence)
  on conflict (id) do update set fence = excluded.fence, removed_at = excluded.removed_at;
  return null;
end
$$;

create function wa.start_fence() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  new.fence := greatest(
    new.fence, (select r.fence from public.wa_removed_sessions as r where r.id = new.id)
  );
  return new;
end
$$;

create trigger note_removed_session after delete on public.wa_sessions
for each row execute function wa.note_removed_session();

create trigger start_fence before insert on public.wa_sessions
for each row execute function wa.start_fence();

-- Baileys' Signal keys, one row each: one blob would be rewritten at every message.
create table public.wa_session_keys (
  session_id text not null references public.wa_sessions (id),
  type text not null,
  key_id text not null,
  value text not null,
  primary key (session_id, type, key_id)
);

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

-- Locks the session row for the rest of the transaction; refuses a fence that is not the current one. Not `for update`:
-- writers of rows that reference the session need not wait.
create function wa.lock_session(p_session text, p_fence bigint) returns public.wa_sessions
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
begin
  select * into v_row from public.wa_sessions where id = p_session for no key update;
  if v_row.id is null or v_row.fence is distinct from p_fence then
    raise exception 'stale_fence' using errcode = 'PT409';
  end if;
  return v_row;
end
$$;

-- When a lease that is renewed now expires: never earlier than before. Null: nobody holds it.
create function wa.renewed_lease(p_owner text, p_ends timestamptz, p_seconds double precision)
returns timestamptz
language plpgsql volatile security invoker set search_path = '' as $$
begin
  if p_owner is null then
    return null;
  end if;
  return greatest(p_ends, clock_timestamp() + make_interval(secs => p_seconds));
end
$$;

-- Takes or renews the lease. The same owner renews it and keeps its fence; a free or expired lease is taken with fence
-- + 1. The clock is read after the row is locked, so that the wait for the lock does not lengthen an expired lease.
-- Rows that reference the session in somebody's open transaction do not delay the lease.
create function public.wa_lease_acquire(p_session text, p_owner text, p_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
  v_now timestamptz;
  v_acquired boolean := true;
begin
  insert into public.wa_sessions (id, status) values (p_session, 'disconnected') on conflict (id) do nothing;
  select * into v_row from public.wa_sessions where id = p_session for no key update;
  v_now := clock_timestamp();
  if v_row.lease_owner is distinct from p_owner then
    v_acquired := v_row.lease_owner is null or v_row.lease_expires_at <= v_now;
    v_row.fence := v_row.fence + v_acquired::integer;
  end if;
  if v_acquired then
    v_row.lease_owner := p_owner;
    v_row.lease_expires_at := v_now + make_interval(secs => p_seconds);
    update public.wa_sessions
    set
      lease_owner = v_row.lease_owner, lease_expires_at = v_row.lease_expires_at, lease_seconds = p_seconds,
      fence = v_row.fence, host_since = case when v_row.fence = fence then host_since else v_now end
    where id = p_session;
  end if;
  return jsonb_build_object(
    'acquired', v_acquired, 'fence', v_row.fence::text, 'epoch', v_row.epoch::text,
    'holder', v_row.lease_owner, 'expires_at', v_row.lease_expires_at, 'now', v_now
  );
end
$$;

-- Releases the lease, so that the next worker need not wait. Does nothing for anyone but the holder. `p_failed`: the
-- session failed to start. Then this owner does not claim it again for 10, 20, 40 … seconds, at most five minutes;
-- another may at once, but if it failed there too, everybody waits.
create function public.wa_lease_release(
  p_session text, p_owner text, p_fence bigint, p_failed boolean default false
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_sessions
  set
    lease_owner = null, lease_expires_at = null, host_since = clock_timestamp(),
    start_failures = case when p_failed then start_failures + 1 else 0 end,
    failed_owner = case when p_failed then p_owner end,
    not_before = case
      when p_failed then clock_timestamp() + make_interval(secs => least(300, 10 * 2 ^ least(start_failures, 10)))
    end
  where id = p_session and lease_owner = p_owner and fence = p_fence;
  if not found then
    return '{"released": false}'::jsonb;
  end if;
  update public.wa_hosts
  set held = greatest(held - 1, 0), failed_at = case when p_failed then clock_timestamp() else failed_at end
  where owner = p_owner;
  return '{"released": true}'::jsonb;
end
$$;

-- Starts a new connection: batches of older ones are refused from here on.
create function public.wa_begin_epoch(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, p_fence);
begin
  update public.wa_sessions set epoch = v_row.epoch + 1, seq = 0, batch = null where id = p_session;
  return jsonb_build_object('epoch', (v_row.epoch + 1)::text);
end
$$;

-- The credentials, byte for byte as they were committed; null only if there are none.
create function public.wa_load_state(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, p_fence);
begin
  return jsonb_build_object(
    'creds', v_row.creds_json,
    'has_keys', exists (select 1 from public.wa_session_keys as k where k.session_id = p_session)
  );
end
$$;

-- Keys of one type: {keys: {id: value}}; missing ids are left out. `p_ids` is a JSON array of strings.
create function public.wa_get_keys(p_session text, p_type text, p_ids jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('keys', coalesce(jsonb_object_agg(k.key_id, k.value), '{}'))
  from public.wa_session_keys as k
  where k.session_id = p_session and k.type = p_type
    and k.key_id = any(array(select jsonb_array_elements_text(p_ids)))
$$;

-- Keys: [{type, id, value or null}]; null deletes; the last entry for a key wins.
create function wa.write_keys(p_session text, p_keys jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  if coalesce(p_keys in ('[]', 'null'), true) then
    return;
  end if;
  with latest as materialized (
    select distinct on (k ->> 'type', k ->> 'id') k ->> 'type' as type, k ->> 'id' as id, k ->> 'value' as value
    from jsonb_array_elements(p_keys) with ordinality as t (k, ord)
    order by k ->> 'type', k ->> 'id', t.ord desc
  ),

  gone as (
    delete from public.wa_session_keys as s
    using latest
    where s.session_id = p_session and s.type = latest.type and s.key_id = latest.id and latest.value is null
  )

  insert into public.wa_session_keys (session_id, type, key_id, value)
  select p_session, latest.type, latest.id, latest.value from latest where latest.value is not null
  on conflict (session_id, type, key_id) do update set value = excluded.value;
end
$$;

-- Changes what the web app sees of the session. `p_patch` may hold status, detail (replaces the old one), wa_name,
-- wa_number; the rest stays. `p_audits` are written in the same transaction. Once connected, no start has failed.
create function public.wa_set_session(p_session text, p_fence bigint, p_patch jsonb, p_audits jsonb default '[]')
returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.lock_session(p_session, p_fence);
  if p_patch ->> 'status' = 'connected' then
    perform wa.note_linked(p_session);
  end if;
  update public.wa_sessions
  set
    status = coalesce(p_patch ->> 'status', status),
    detail = case when p_patch ? 'detail' then coalesce(nullif(p_patch -> 'detail', 'null'), '{}') else detail end,
    wa_name = case when p_patch ? 'wa_name' then p_patch ->> 'wa_name' else wa_name end,
    wa_number = case when p_patch ? 'wa_number' then p_patch ->> 'wa_number' else wa_number end,
    start_failures = case when p_patch ->> 'status' = 'connected' then 0 else start_failures end,
    updated_at = now()
  where id = p_session;
  perform wa.write_audits(p_session, p_audits);
  return '{"done": true}'::jsonb;
end
$$;

-- Forgets the account (logged out). The epoch is raised, so that no batch in flight can bring its keys back.
create function public.wa_wipe_credentials(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, p_fence);
begin
  -- Until a phone is linked again nothing is kept for us.
  if v_row.creds_json is not null and v_row.wa_number is not null then
    insert into public.coverage_gaps (session_id, reason, from_at)
    values (p_session, 'unlinked', least(coalesce(v_row.complete_to, v_row.created_at), now()))
    on conflict (session_id, coalesce(chat_id, ''), reason) where to_at is null do nothing;
  end if;
  delete from public.wa_session_keys where session_id = p_session;
  update public.wa_sessions
  set
    creds_json = null, wa_name = null, wa_number = null, epoch = v_row.epoch + 1, seq = 0, batch = null,
    updated_at = now()
  where id = p_session;
  return jsonb_build_object('epoch', (v_row.epoch + 1)::text);
end
$$;
