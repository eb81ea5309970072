-- The tables and functions as of November 2026: what the first fifteen migrations made, in one file.
--
-- Databases that have the last of those, whose number this is, skip it. The present state is in supabase/schemas.

-- A function may call one that stands further down.
set check_function_bodies = off;

-- One linked account: its status for the web app, its credentials, and the lease of the worker that serves it.
--
-- A worker serves a session while it holds its lease. Every take-over raises `fence`; every connection raises `epoch`;
-- `seq` counts the batches of one epoch. Each writer names the fence it holds, and is refused if the session has a
-- newer one. Columns of all tables are explained in docs/schema.md.

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
create function public.wa_lock_session(p_session text, p_fence bigint) returns public.wa_sessions
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

-- Takes or renews the lease. The same owner renews it and keeps its fence; a free or expired lease is taken with fence
-- + 1. The clock is read after the row is locked, so that the wait for the lock does not lengthen an expired lease.
create function public.wa_lease_acquire(p_session text, p_owner text, p_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
  v_now timestamptz;
  v_acquired boolean := true;
begin
  insert into public.wa_sessions (id, status) values (p_session, 'disconnected') on conflict (id) do nothing;
  select * into v_row from public.wa_sessions where id = p_session for update;
  v_now := clock_timestamp();
  if v_row.lease_owner is distinct from p_owner then
    v_acquired := v_row.lease_owner is null or v_row.lease_expires_at <= v_now;
    v_row.fence := v_row.fence + v_acquired::integer;
  end if;
  if v_acquired then
    v_row.lease_owner := p_owner;
    v_row.lease_expires_at := v_now + make_interval(secs => p_seconds);
    update public.wa_sessions
    set lease_owner = v_row.lease_owner, lease_expires_at = v_row.lease_expires_at, fence = v_row.fence
    where id = p_session;
  end if;
  return jsonb_build_object(
    'acquired', v_acquired, 'fence', v_row.fence::text, 'epoch', v_row.epoch::text,
    'holder', v_row.lease_owner, 'expires_at', v_row.lease_expires_at, 'now', v_now
  );
end
$$;

-- Gives the lease back, so that the next worker need not wait. Does nothing for anyone but the holder.
create function public.wa_lease_release(p_session text, p_owner text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_sessions
  set lease_owner = null, lease_expires_at = null
  where id = p_session and lease_owner = p_owner and fence = p_fence;
  return jsonb_build_object('released', found);
end
$$;

-- Starts a new connection: batches of older ones are refused from here on.
create function public.wa_begin_epoch(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := public.wa_lock_session(p_session, p_fence);
begin
  update public.wa_sessions set epoch = v_row.epoch + 1, seq = 0 where id = p_session;
  return jsonb_build_object('epoch', (v_row.epoch + 1)::text);
end
$$;

-- The credentials, byte for byte as they were committed; null only if there are none.
create function public.wa_load_state(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := public.wa_lock_session(p_session, p_fence);
begin
  return jsonb_build_object(
    'creds', v_row.creds_json,
    'has_keys', exists (select 1 from public.wa_session_keys as k where k.session_id = p_session)
  );
end
$$;

-- Keys of one type: {id: value}; absent ids are left out. `p_ids` is a JSON array of strings.
create function public.wa_get_keys(p_session text, p_type text, p_ids jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_object_agg(k.key_id, k.value), '{}')
  from public.wa_session_keys as k
  where k.session_id = p_session and k.type = p_type
    and k.key_id = any(array(select jsonb_array_elements_text(p_ids)))
$$;

-- Keys: [{type, id, value or null}]; null deletes; the last entry for a key wins.
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

-- Changes what the web app sees of the session. `p_patch` may hold status, detail (replaces the old one), wa_name,
-- wa_number; the rest stays. `p_audits` are written in the same transaction.
create function public.wa_set_session(p_session text, p_fence bigint, p_patch jsonb, p_audits jsonb default '[]')
returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform public.wa_lock_session(p_session, p_fence);
  update public.wa_sessions
  set
    status = coalesce(p_patch ->> 'status', status),
    detail = case when p_patch ? 'detail' then coalesce(nullif(p_patch -> 'detail', 'null'), '{}') else detail end,
    wa_name = case when p_patch ? 'wa_name' then p_patch ->> 'wa_name' else wa_name end,
    wa_number = case when p_patch ? 'wa_number' then p_patch ->> 'wa_number' else wa_number end,
    updated_at = now()
  where id = p_session;
  perform public.wa_write_audits(p_session, p_audits);
  return '{}'::jsonb;
end
$$;

-- Forgets the account (logged out). The epoch is raised, so that no batch in flight can bring its keys back.
create function public.wa_wipe_credentials(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := public.wa_lock_session(p_session, p_fence);
begin
  delete from public.wa_session_keys where session_id = p_session;
  update public.wa_sessions
  set creds_json = null, wa_name = null, wa_number = null, epoch = v_row.epoch + 1, seq = 0, updated_at = now()
  where id = p_session;
  return jsonb_build_object('epoch', (v_row.epoch + 1)::text);
end
$$;

-- The audit log.

create table public.audit_log (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  session_id text not null default 'default',
  event text not null,
  payload jsonb not null default '{}'
);

create index audit_log_session_at on public.audit_log (session_id, at);

-- The newest error of a session, however long ago.
create index audit_log_error on public.audit_log (session_id, at) where event = 'error';

-- Appends audit entries: a JSON array of {event, payload}.
create function public.wa_write_audits(p_session text, p_audits jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.audit_log (session_id, event, payload)
  select p_session, left(coalesce(a ->> 'event', 'error'), 64), coalesce(nullif(a -> 'payload', 'null'), '{}')
  from jsonb_array_elements(coalesce(nullif(p_audits, 'null'), '[]')) with ordinality as t (a, ord)
  order by t.ord
$$;

create function public.wa_audit(p_session text, p_event text, p_payload jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform public.wa_write_audits(
    p_session, jsonb_build_array(jsonb_build_object('event', p_event, 'payload', p_payload))
  );
  return '{}'::jsonb;
end
$$;

-- Requests of the web app and of the command line.

-- `value` is {"at": ISO}. Keys of other sessions than 'default' are prefixed with 'session:'.
create table public.runtime_flags (
  key text primary key,
  value jsonb not null default '{}',
  handled_at timestamptz,
  handled_value jsonb
);

-- A text as a finite time; null if it is not one.
create function public.wa_parse_time(p_text text) returns timestamptz
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_time timestamptz;
begin
  v_time := p_text::timestamptz;
  return case when isfinite(v_time) then v_time end;
exception
  when data_exception then
    return null;
end
$$;

-- Flags of the web app that are newer than the last one handled. A request from a clock that runs ahead is remembered
-- by its value, so that it neither repeats nor hides later ones. `at` is null if `value` holds no time: such a flag is
-- reported until it is marked as handled.
create function public.wa_pending_flags(p_session text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'key', case when p_session = 'default' then f.key else substr(f.key, length(p_session) + 2) end,
        'at', f.at, 'at_text', f.value ->> 'at', 'malformed', f.at is null, 'phone', f.value ->> 'phone',
        'age_s', extract(epoch from (now() - f.at))
      ) order by f.at, f.key
    ),
    '[]'
  )
  from (
    select r.key, r.value, r.handled_at, r.handled_value, public.wa_parse_time(r.value ->> 'at') as at
    from public.runtime_flags as r
    where case when p_session = 'default' then strpos(r.key, ':') = 0 else starts_with(r.key, p_session || ':') end
  ) as f
  where f.value is distinct from f.handled_value and (f.at is null or f.handled_at is null or f.at > f.handled_at)
$$;

-- Marks the request that carried `p_at_text` as done; a newer one that came meanwhile stays pending.
create function public.wa_flag_handled(p_session text, p_key text, p_at_text text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_at timestamptz := public.wa_parse_time(p_at_text);
begin
  update public.runtime_flags
  set
    handled_at = case when v_at is null then handled_at else greatest(handled_at, least(v_at, now())) end,
    handled_value = case when value ->> 'at' is not distinct from p_at_text then value else handled_value end
  where key = case when p_session = 'default' then p_key else p_session || ':' || p_key end;
  return jsonb_build_object('found', found);
end
$$;

-- Raises a flag as the web app does, with the database's own clock. Pass the returned `at` to public.wa_flag_state.
create function public.wa_raise_flag(p_session text, p_flag text, p_value jsonb default '{}') returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_at jsonb := to_jsonb(clock_timestamp());
begin
  insert into public.runtime_flags (key, value)
  values (
    case when p_session = 'default' then p_flag else p_session || ':' || p_flag end,
    p_value || jsonb_build_object('at', v_at)
  )
  on conflict (key) do update set value = excluded.value;
  return jsonb_build_object('at', v_at);
end
$$;

-- Whether the request that carried `p_at` was handled. A request that a newer one replaced counts as handled when that
-- one is.
create function public.wa_flag_state(p_session text, p_flag text, p_at text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'handled', coalesce(
      (
        select r.handled_value is not distinct from r.value or r.handled_at >= public.wa_parse_time(p_at)
        from public.runtime_flags as r
        where r.key = case when p_session = 'default' then p_flag else p_session || ':' || p_flag end
      ),
      true
    )
  )
$$;

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

-- Inserts or renames groups: a JSON array of {wa_group_id, name or null, left or absent}; the last entry for a group
-- wins. Takes no lock and checks no fence: for callers that hold the session row.
create function public.wa_write_groups(p_session text, p_groups jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_new record;
  v_old public.groups;
  v_added integer := 0;
  v_renamed integer := 0;
begin
  for v_new in
    select distinct on (g ->> 'wa_group_id')
      g ->> 'wa_group_id' as wa_group_id,
      left(g ->> 'name', 1000) as name,
      coalesce((g -> 'left') = 'true', false) as has_left
    from jsonb_array_elements(coalesce(nullif(p_groups, 'null'), '[]')) with ordinality as t (g, ord)
    where length(g ->> 'wa_group_id') between 1 and 256
    order by g ->> 'wa_group_id', t.ord desc
  loop
    insert into public.groups (session_id, wa_group_id, name, left_at)
    values (p_session, v_new.wa_group_id, v_new.name, case when v_new.has_left then now() end)
    on conflict (session_id, wa_group_id) do nothing;
    if found then
      v_added := v_added + 1;
      continue;
    end if;
    select * into v_old from public.groups
    where session_id = p_session and wa_group_id = v_new.wa_group_id for update;
    if v_new.name is distinct from v_old.name and v_new.name is not null then
      v_renamed := v_renamed + 1;
      if v_old.name is not null then
        perform public.wa_audit(p_session, 'group_rename', jsonb_build_object(
          'from', v_old.name, 'to', v_new.name, 'wa_group_id', v_new.wa_group_id
        ));
      end if;
    end if;
    if v_new.name is distinct from v_old.name or v_new.has_left <> (v_old.left_at is not null) then
      update public.groups
      set
        name = coalesce(v_new.name, name),
        left_at = case when v_new.has_left then coalesce(left_at, now()) end,
        updated_at = now()
      where id = v_old.id;
    end if;
  end loop;
  return jsonb_build_object('added', v_added, 'renamed', v_renamed);
end
$$;

-- Discovery. With `p_complete` the list holds all groups of the account: those it lacks were left, and it is audited.
create function public.wa_upsert_groups(p_session text, p_fence bigint, p_groups jsonb, p_complete boolean)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_result jsonb;
  v_left integer := 0;
begin
  perform public.wa_lock_session(p_session, p_fence);
  v_result := public.wa_write_groups(p_session, p_groups);
  if p_complete then
    update public.groups
    set left_at = now(), updated_at = now()
    where session_id = p_session and left_at is null
      and wa_group_id <> all(array(select g ->> 'wa_group_id' from jsonb_array_elements(p_groups) as g));
    get diagnostics v_left = row_count;
    perform public.wa_audit(p_session, 'discovery', jsonb_build_object('count', jsonb_array_length(p_groups)));
  end if;
  return v_result || jsonb_build_object('count', jsonb_array_length(p_groups), 'left', v_left);
end
$$;

-- The ids of all groups that are switched on, as a JSON array.
create function public.wa_monitored_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_agg(g.wa_group_id order by g.wa_group_id), '[]')
  from public.groups as g
  where g.session_id = p_session and g.monitor
$$;

-- Switches groups (JSON array of ids) on or off for the user: the worker itself never does.
create function public.wa_set_monitor(p_session text, p_groups jsonb, p_monitor boolean) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_changed integer;
begin
  update public.groups
  set monitor = p_monitor, updated_at = now()
  where session_id = p_session and monitor is distinct from p_monitor
    and id = any(array(select g::bigint from jsonb_array_elements_text(p_groups) as g));
  get diagnostics v_changed = row_count;
  return jsonb_build_object('changed', v_changed);
end
$$;

-- Stored files: one row per content, whoever sent it; and their removal by retention.
--
-- Retention takes three small, repeatable steps: messages; rows of public.media; objects of the bucket. A worker may
-- store the same content meanwhile, so each object that is about to go has a row in public.wa_media_doomed, which
-- public.wa_media_done reads.

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

-- Ciphertexts that were downloaded and verified before: forwarding one needs no second download.
create table public.media_verified (
  file_enc_sha256 text not null,
  media_key_sha256 text not null,
  media_id bigint not null references public.media (id) on delete cascade,
  primary key (file_enc_sha256, media_key_sha256)
);

create index media_verified_media_id on public.media_verified (media_id);

-- Contents that retention removes: the row of public.media is gone; the object is about to go (`deleted_at` null) or
-- has just gone. For two minutes after that nobody may make a new row for the content: the object might be the old one.
create table public.wa_media_doomed (
  sha256 text primary key,
  storage_path text not null,
  at timestamptz not null default now(),
  deleted_at timestamptz,
  -- Stored again after retention had listed it, for a message that is gone: it must be removed once more.
  stored_again boolean not null default false
);

-- The media row of a ciphertext that was verified before under the same media key; null if there is none.
create function public.wa_media_known(p_file_enc_sha256 text, p_media_key_sha256 text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select to_jsonb(m) || jsonb_build_object('bytes', m.bytes::text)
  from public.media_verified as v
  inner join public.media as m on v.media_id = m.id
  where v.file_enc_sha256 = p_file_enc_sha256 and v.media_key_sha256 = p_media_key_sha256
$$;

-- What retention would remove: messages sent before `p_before`, refused stanzas, and contents that nothing refers to
-- then.
create function public.wa_retention(p_session text, p_before timestamptz) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with unneeded as (
    select f.bytes
    from public.media as f
    where not exists (
      select 1 from public.messages as m
      where m.media_id = f.id and (m.ts >= p_before or m.session_id <> p_session)
    )
  )

  select jsonb_build_object(
    'messages', (
      select count(*)
      from public.groups as g
      inner join public.messages as m on g.id = m.group_id
      where g.session_id = p_session and m.ts < p_before
    ),
    'refused', (
      select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session and r.at < p_before
    ),
    'media', (select count(*) from unneeded),
    'bytes', (select coalesce(sum(u.bytes), 0)::text from unneeded as u),
    'objects', (select count(*) from public.wa_media_doomed as d where d.deleted_at is null)
  )
$$;

-- Retention, first step: deletes up to `p_limit` messages, and as many refused stanzas, older than `p_before`.
create function public.wa_delete_messages(p_session text, p_before timestamptz, p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_messages integer;
  v_refused integer;
begin
  delete from public.messages
  where id = any(array(
    select m.id
    from public.groups as g
    inner join public.messages as m on g.id = m.group_id
    where g.session_id = p_session and m.ts < p_before
    limit p_limit
  ));
  get diagnostics v_messages = row_count;
  delete from public.wa_refused_stanzas
  where id = any(array(
    select r.id from public.wa_refused_stanzas as r where r.session_id = p_session and r.at < p_before limit p_limit
  ));
  get diagnostics v_refused = row_count;
  return jsonb_build_object(
    'messages', v_messages, 'refused', v_refused, 'more', p_limit in (v_messages, v_refused)
  );
end
$$;

-- Retention, second step: deletes the rows of contents that no message of any session refers to. Lists up to `p_limit`
-- objects to delete from the bucket, including those of an interrupted run. A content whose other object (another
-- extension) is still being removed waits until that is done.
create function public.wa_doom_media(p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_ids bigint [];
  v_objects jsonb;
begin
  v_ids := array(
    select f.id
    from public.media as f
    where not exists (select 1 from public.messages as m where m.media_id = f.id)
      and not exists (
        select 1 from public.wa_media_doomed as d where d.sha256 = f.sha256 and d.deleted_at is null
      )
    limit p_limit
    for update skip locked
  );
  -- Check again under the lock: a message may have been linked meanwhile.
  with gone as (
    delete from public.media as f
    where f.id = any(v_ids) and not exists (select 1 from public.messages as m where m.media_id = f.id)
    returning f.sha256, f.storage_path
  )

  insert into public.wa_media_doomed (sha256, storage_path)
  select g.sha256, g.storage_path from gone as g
  on conflict (sha256) do update
  set storage_path = excluded.storage_path, at = now(), deleted_at = null, stored_again = false;
  with listed as (
    update public.wa_media_doomed
    set stored_again = false
    where sha256 = any(array(
      select d.sha256 from public.wa_media_doomed as d where d.deleted_at is null limit p_limit
    ))
    returning sha256, storage_path
  )

  select coalesce(jsonb_agg(jsonb_build_object('sha256', o.sha256, 'storage_path', o.storage_path)), '[]')
  into v_objects
  from listed as o;
  return jsonb_build_object('objects', v_objects);
end
$$;

-- Retention, third step: these objects (JSON array of sha256) are deleted from the bucket. An object that was stored
-- again after it was listed may still be there: the next second step lists it once more.
create function public.wa_objects_deleted(p_sha256 jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_media_doomed
  set deleted_at = now()
  where sha256 = any(array(select jsonb_array_elements_text(p_sha256))) and not stored_again;
  delete from public.wa_media_doomed where deleted_at < now() - interval '1 day';
  return '{}'::jsonb;
end
$$;

-- Messages of monitored groups: storing them, and their parent links.

-- Orders contents by the time they were stored. Each call of public.wa_store_messages takes one number; they are a
-- million apart, and a message's place in its batch is added.
create sequence public.messages_content_order increment by 1000000;

-- Senders choose message ids, so a message is identified by (chat, sender, id). `content_order` is set when content is
-- stored, also when it replaces a stub; null means a stub, or stored before this column existed, which counts as
-- earliest.
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
  unique (session_id, chat_id, sender, wa_msg_id)
);

-- A message is the parent of one other at most.
create unique index messages_parent_id on public.messages (parent_id) where parent_id is not null;

-- Both walks of public.wa_link_parents.
create index messages_linkable on public.messages (session_id, chat_id, sender, ts, id)
where kind = 'text' or media_status is not null;

create index messages_group_ts on public.messages (group_id, ts);

create index messages_media_id on public.messages (media_id) where media_id is not null;

create index messages_pending on public.messages (session_id, received_at) where pending;

create index messages_quoted_id on public.messages (quoted_id) where quoted_id is not null;

create index messages_album_id on public.messages (album_id) where album_id is not null;

-- Where a person is still stored under the number: what public.wa_merge_identity looks for.
create index messages_number on public.messages (session_id, sender) where sender like '%@s.whatsapp.net';

create index messages_quoted_number on public.messages (session_id, quoted_sender)
where quoted_sender like '%@s.whatsapp.net';

create index messages_revoked_number on public.messages (session_id, revoked_by)
where revoked_by like '%@s.whatsapp.net';

-- Without a pending list: each look-up reads it whole, and for new pairs the planner preferred to scan the table.
create index messages_mentions on public.messages using gin (mentions) with (fastupdate = false)
where mentions is not null;

-- The key that opens encrypted edits. Not in `raw`: whoever reads messages need not read keys. Written with nearly
-- every message, so it has no foreign key and one index only; public.wa_prune deletes it after a week.
create table public.message_secrets (
  message_id bigint primary key,
  session_id text not null,
  secret text not null check (length(secret) between 1 and 64),
  at timestamptz not null default now()
);

-- A message as the worker sends it: the columns of public.messages, its file as the object `media`, and its secret.
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
  media_status text,
  quoted_msg_id text,
  quoted_sender text,
  mentions text [],
  mention_count integer,
  forwarded boolean,
  forward_score integer,
  secret text
);

-- Parent links of one sender in one chat (docs/contract.md §7), over the messages from `p_first` on, in (ts, id) order:
-- a text and a media message that follow each other within 90 s are a pair, and the later one points to the earlier
-- one. Each message is in at most one pair; earlier pairs win. Messages that are neither text nor media do not count.
--
-- Messages before the first new one keep their links, which depend on earlier messages alone. So the walk reads one row
-- before it, and ends after the last new message as soon as a stored link is already right.
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

  -- Clear all links before setting any: the unique index on parent_id is checked row by row.
  update public.messages set parent_id = null where id = any(v_changed) and parent_id is not null;
  update public.messages as m
  set parent_id = c.parent_id
  from unnest(v_changed, v_parents) as c (id, parent_id)
  where m.id = c.id and c.parent_id is not null;
end
$$;

-- Stores messages of monitored groups, with their media jobs and parent links. A copy of a stored message changes
-- nothing, except that content replaces an undecryptable stub. Set-based; the tables that grow are never joined.
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

  -- One JSON document with a lookup by name: joining nearly all rows with nearly all rows would be a nested loop.
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

  -- Rare: some messages were stored before. Content replaces the stubs among them.
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

-- Calls public.wa_store_messages; if Postgres refuses the batch, halves it until the offender stands alone, which
-- becomes a refused row. If somebody deletes a referenced row meanwhile (a parent, the group), tries again, up to three
-- times: the next attempt does not see the row.
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
  for v_attempt in 1..3 loop
    begin
      return public.wa_store_messages(p_session, p_messages);
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded then
        get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
    end;
    exit when v_code <> '23503';
  end loop;

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

-- Files that are still to be fetched.
--
-- Any number of processes claim jobs with a lease. A job ends as done or abandoned, or is tried again.
-- `wants_phone_at` says since when a job waits for the phone. The process that has the phone claims it, has the file
-- uploaded again, and gives the job back with its new place (or ends it).

-- `descriptor` holds the media key.
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
  created_at timestamptz not null default now(),
  wants_phone_at timestamptz
);

create index media_jobs_next_attempt_at on public.media_jobs (next_attempt_at);

create index media_jobs_session_id on public.media_jobs (session_id);

-- Files that were given up, with what another attempt needs.
create table public.wa_media_abandoned (
  message_id bigint primary key references public.messages (id) on delete cascade,
  session_id text not null references public.wa_sessions (id),
  descriptor jsonb not null,
  status text not null,
  code text not null,
  error text,
  attempts integer not null,
  at timestamptz not null default now()
);

create index wa_media_abandoned_session_id on public.wa_media_abandoned (session_id, at);

-- Locks a job that `p_owner` holds; null if the job has ended (an earlier answer was lost). Raises stale_job if another
-- process holds it.
create function public.wa_lock_job(p_job bigint, p_owner text) returns public.media_jobs
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs;
begin
  select * into v_job from public.media_jobs where id = p_job for update;
  if v_job.id is not null and v_job.lease_owner is distinct from p_owner then
    raise exception 'stale_job' using errcode = 'PT409';
  end if;
  return v_job;
end
$$;

-- Locks the message of a job, before the job itself: deletions lock in this order, so it prevents deadlocks.
create function public.wa_lock_message_of(p_job bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1
  from public.messages as m
  where m.id = (select j.message_id from public.media_jobs as j where j.id = p_job)
  for no key update;
end
$$;

-- Claims up to `p_limit` due jobs, of one session or (null) of all, and counts the attempt. `p_phone` false: leaves out
-- those that wait for the phone. `next_in_s`: when the next of the others is due, null if there is none.
create function public.wa_media_claim(
  p_owner text, p_limit integer, p_lease_seconds double precision, p_session text default null,
  p_phone boolean default true
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_ids bigint [];
  v_next timestamptz;
begin
  v_ids := array(
    select j.id
    from public.media_jobs as j
    where j.next_attempt_at <= now() and (j.lease_expires_at is null or j.lease_expires_at <= now())
      and (p_session is null or j.session_id = p_session) and (p_phone or j.wants_phone_at is null)
    order by j.next_attempt_at, j.id
    limit p_limit
    for update skip locked
  );
  update public.media_jobs
  set
    lease_owner = p_owner, lease_expires_at = now() + make_interval(secs => p_lease_seconds), attempts = attempts + 1
  where id = any(v_ids);
  select min(greatest(j.next_attempt_at, coalesce(j.lease_expires_at, j.next_attempt_at))) into v_next
  from public.media_jobs as j
  where j.id <> all(v_ids) and (p_session is null or j.session_id = p_session)
    and (p_phone or j.wants_phone_at is null);
  return jsonb_build_object(
    'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', j.id, 'session_id', j.session_id, 'message_id', j.message_id, 'attempts', j.attempts,
        'descriptor', j.descriptor, 'last_error', j.last_error, 'created_at', j.created_at,
        'wants_phone', j.wants_phone_at is not null,
        'wa_msg_id', m.wa_msg_id, 'chat_id', m.chat_id, 'sender', m.sender, 'sender_alt', m.sender_alt,
        'from_me', m.from_me, 'kind', m.kind, 'file_name', m.file_name
      ) order by j.id), '[]')
      from public.media_jobs as j
      inner join public.messages as m on j.message_id = m.id
      where j.id = any(v_ids)
    ),
    'next_in_s', extract(epoch from (v_next - now()))
  );
end
$$;

-- Extends the lease of a claimed job, during a long transfer or a wait for the phone's re-upload.
create function public.wa_media_renew(p_job bigint, p_owner text, p_lease_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
begin
  update public.media_jobs set lease_expires_at = now() + make_interval(secs => p_lease_seconds) where id = v_job.id;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- The object is in the bucket: {sha256, mime, bytes, width, height, duration_s, storage_path, file_enc_sha256?,
-- media_key_sha256?} becomes, or finds, its media row; the message is linked and the job ends. Raises object_doomed
-- (PT409) while retention is removing that very object: the whole attempt is repeated later.
--
-- A job that has ended, or that another process holds (`stale`), links nothing. Its object still gets a row, or
-- retention would never find it; if retention is removing the object, it will remove it once more, unless a row names
-- it again. `reused`: there was a row already or, if the job is not ours, another object has this content.
create function public.wa_media_done(p_job bigint, p_owner text, p_media jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs;
  v_ours boolean;
  v_media_id bigint;
  v_path text;
  v_reused boolean;
  v_doomed text;
begin
  perform public.wa_lock_message_of(p_job);
  select * into v_job from public.media_jobs where id = p_job for update;
  v_ours := v_job.id is not null and v_job.lease_owner is not distinct from p_owner;

  insert into public.media (sha256, mime, bytes, width, height, duration_s, storage_path)
  values (
    p_media ->> 'sha256', p_media ->> 'mime', (p_media ->> 'bytes')::bigint, (p_media ->> 'width')::integer,
    (p_media ->> 'height')::integer, (p_media ->> 'duration_s')::double precision, p_media ->> 'storage_path'
  )
  on conflict (sha256) do nothing
  returning id, storage_path into v_media_id, v_path;
  v_reused := v_media_id is null;
  if v_reused then
    -- Lock the row, so that retention leaves it alone; there is none if it was just deleted.
    select f.id, f.storage_path into v_media_id, v_path
    from public.media as f where f.sha256 = p_media ->> 'sha256'
    for key share;
  end if;
  -- Read after the insert, which waits for a concurrent deletion: now its result is visible.
  select d.storage_path into v_doomed
  from public.wa_media_doomed as d
  where d.sha256 = p_media ->> 'sha256' and coalesce(d.deleted_at > now() - interval '2 minutes', true);

  if v_ours then
    if v_doomed is not null or v_media_id is null then
      raise exception 'object_doomed' using errcode = 'PT409';
    end if;
    update public.messages set media_id = v_media_id, media_status = 'stored' where id = v_job.message_id;
    delete from public.media_jobs where id = v_job.id;
  elsif v_doomed = p_media ->> 'storage_path' and (not v_reused or v_path is distinct from v_doomed) then
    if not v_reused then
      delete from public.media where id = v_media_id;
      v_media_id := null;
    end if;
    update public.wa_media_doomed set deleted_at = null, stored_again = true where sha256 = p_media ->> 'sha256';
  end if;
  if v_media_id is not null and p_media ->> 'file_enc_sha256' is not null
    and p_media ->> 'media_key_sha256' is not null then
    insert into public.media_verified (file_enc_sha256, media_key_sha256, media_id)
    values (p_media ->> 'file_enc_sha256', p_media ->> 'media_key_sha256', v_media_id)
    on conflict (file_enc_sha256, media_key_sha256) do nothing;
  end if;
  return jsonb_build_object(
    'media_id', v_media_id, 'gone', v_job.id is null, 'stale', v_job.id is not null and not v_ours,
    'reused', case when v_ours then v_reused else v_path is distinct from p_media ->> 'storage_path' end
  );
end
$$;

-- Schedules another attempt in `p_delay_seconds`. A new descriptor means that the phone has uploaded the file again:
-- the job no longer waits for the phone, and any process may claim it.
create function public.wa_media_retry(
  p_job bigint, p_owner text, p_error text, p_delay_seconds double precision, p_descriptor jsonb default null
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
begin
  update public.media_jobs
  set
    lease_owner = null, lease_expires_at = null, last_error = left(p_error, 1000),
    next_attempt_at = now() + make_interval(secs => p_delay_seconds),
    descriptor = coalesce(nullif(p_descriptor, 'null'), descriptor),
    wants_phone_at = case when nullif(p_descriptor, 'null') is null then wants_phone_at end
  where id = v_job.id;
  return jsonb_build_object('attempts', v_job.attempts, 'gone', v_job.id is null);
end
$$;

-- Gives a claimed job at once to the process that has the phone.
create function public.wa_media_ask_phone(p_job bigint, p_owner text, p_error text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
begin
  update public.media_jobs
  set
    lease_owner = null, lease_expires_at = null, last_error = left(p_error, 1000), next_attempt_at = now(),
    wants_phone_at = coalesce(wants_phone_at, now())
  where id = v_job.id;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- Gives a file up until a person asks for it again: sets the message's `media_status` to `p_status`, audits the reason,
-- ends the job. What another attempt needs is kept for 60 days; WhatsApp keeps files for less.
create function public.wa_media_abandon(
  p_job bigint, p_owner text, p_status text, p_code text, p_error text
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs;
  v_msg_id text;
begin
  perform public.wa_lock_message_of(p_job);
  v_job := public.wa_lock_job(p_job, p_owner);
  if v_job.id is not null then
    update public.messages set media_status = p_status where id = v_job.message_id returning wa_msg_id into v_msg_id;
    delete from public.media_jobs where id = v_job.id;
    insert into public.wa_media_abandoned (message_id, session_id, descriptor, status, code, error, attempts)
    values (
      v_job.message_id, v_job.session_id, v_job.descriptor, p_status, p_code, left(p_error, 1000), v_job.attempts
    )
    on conflict (message_id) do update
    set
      descriptor = excluded.descriptor, status = excluded.status, code = excluded.code, error = excluded.error,
      attempts = excluded.attempts, at = now();
    delete from public.wa_media_abandoned
    where session_id = v_job.session_id and at < now() - interval '60 days';
    perform public.wa_audit(v_job.session_id, 'error', jsonb_build_object(
      'code', p_code, 'msg', left(p_error, 1000), 'wa_msg_id', v_msg_id,
      'ctx', jsonb_build_object('wa_msg_id', v_msg_id, 'attempts', v_job.attempts)
    ));
  end if;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- Turns files with these statuses (JSON array) that were given up into jobs again. `without`: how many have nothing to
-- start from. Locks messages before their files' rows, as deletions do.
create function public.wa_media_requeue(p_session text, p_statuses jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_statuses text [] := array(select jsonb_array_elements_text(p_statuses));
  v_without integer;
  v_requeued integer;
begin
  select count(*) into v_without
  from public.groups as g
  inner join public.messages as m on g.id = m.group_id
  left join public.wa_media_abandoned as a on m.id = a.message_id
  where g.session_id = p_session and m.media_status = any(v_statuses) and a.message_id is null;
  perform 1
  from public.messages as m
  where m.id = any(array(
    select a.message_id
    from public.wa_media_abandoned as a
    where a.session_id = p_session and a.status = any(v_statuses)
  ))
  order by m.id
  for no key update;
  with back as (
    delete from public.wa_media_abandoned
    where session_id = p_session and status = any(v_statuses)
    returning message_id, descriptor
  ),

  marked as (
    update public.messages
    set media_status = 'pending'
    where id in (select b.message_id from back as b) and not blanked
    returning id
  )

  insert into public.media_jobs (session_id, message_id, descriptor)
  select p_session, b.message_id, b.descriptor
  from back as b
  inner join marked as k on b.message_id = k.id
  on conflict (message_id) do nothing;
  get diagnostics v_requeued = row_count;
  return jsonb_build_object('requeued', v_requeued, 'without', v_without);
end
$$;

-- Changes to messages: edits, revokes, reactions, quotes, albums.
--
-- A change names its target by (chat, canonical sender, id). It is applied when the target is there, and held until
-- then. Where changes compete, their own content picks the winner, never their order of arrival: any order and any
-- split into batches end in the same rows.

-- Earlier texts of edited messages. `edit_msg_id` is the edit that wrote the text, '' for the original.
create table public.message_edits (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  message_id bigint not null references public.messages (id) on delete cascade,
  edit_msg_id text not null check (length(edit_msg_id) <= 256),
  text text,
  at timestamptz not null,
  unique (message_id, edit_msg_id)
);

create index message_edits_session_id on public.message_edits (session_id);

-- Each person's newest reaction to each message. `emoji` null: removed; the row stays, so that an older reaction cannot
-- return.
create table public.message_reactions (
  message_id bigint not null references public.messages (id) on delete cascade,
  sender text not null check (length(sender) between 1 and 256),
  session_id text not null references public.wa_sessions (id),
  emoji text check (length(emoji) between 1 and 64),
  at timestamptz not null,
  wa_msg_id text not null check (length(wa_msg_id) between 1 and 256),
  primary key (message_id, sender)
);

create index message_reactions_session_id on public.message_reactions (session_id);

create index message_reactions_number on public.message_reactions (session_id, sender)
where sender like '%@s.whatsapp.net';

-- Changes whose target has not arrived. `author` and `change_id` name the message that brought the change; `message_id`
-- is that message's row, where it has one (a quote, a child of an album).
create table public.wa_held_changes (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  chat_id text not null check (length(chat_id) between 1 and 256),
  kind text not null check (kind in ('edit', 'sealed_edit', 'revoke', 'reaction', 'quote', 'album')),
  target_sender text not null check (length(target_sender) between 1 and 256),
  target_id text not null check (length(target_id) between 1 and 256),
  author text not null check (length(author) between 1 and 256),
  change_id text not null check (length(change_id) between 1 and 256),
  at timestamptz not null check (at >= '1970-01-01 00:00:00+00' and at < '2200-01-01 00:00:00+00'),
  payload jsonb not null default '{}',
  message_id bigint references public.messages (id) on delete cascade,
  unreadable boolean not null default false,
  held_at timestamptz not null default now(),
  unique (session_id, chat_id, author, change_id, kind)
);

create index wa_held_changes_target on public.wa_held_changes (session_id, chat_id, target_sender, target_id);

create index wa_held_changes_held_at on public.wa_held_changes (session_id, held_at);

create index wa_held_changes_target_sender on public.wa_held_changes (session_id, target_sender);

create index wa_held_changes_author on public.wa_held_changes (session_id, author);

create index wa_held_changes_message_id on public.wa_held_changes (message_id) where message_id is not null;

create index wa_held_changes_sealed on public.wa_held_changes (session_id, id)
where kind = 'sealed_edit' and not unreadable;

-- Applies one edit: the greatest (at, id) is the message's text, all others are earlier texts, in whatever order they
-- arrive. Of more than 100, keeps the newest and the original.
create function public.wa_apply_edit(p_message bigint, p_edit_msg_id text, p_text text, p_at timestamptz) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_old public.messages;
begin
  select * into v_old from public.messages where id = p_message;
  if v_old.blanked or coalesce(v_old.edit_msg_id = p_edit_msg_id, false) then
    return;
  end if;
  if v_old.edited_at is null
    or (p_at, p_edit_msg_id collate "C") > (v_old.edited_at, v_old.edit_msg_id collate "C") then
    insert into public.message_edits (session_id, message_id, edit_msg_id, text, at)
    values (
      v_old.session_id, p_message, coalesce(v_old.edit_msg_id, ''), v_old.text, coalesce(v_old.edited_at, v_old.ts)
    )
    on conflict (message_id, edit_msg_id) do nothing;
    update public.messages set text = p_text, edited_at = p_at, edit_msg_id = p_edit_msg_id where id = p_message;
  else
    insert into public.message_edits (session_id, message_id, edit_msg_id, text, at)
    values (v_old.session_id, p_message, p_edit_msg_id, p_text, p_at)
    on conflict (message_id, edit_msg_id) do nothing;
  end if;
  delete from public.message_edits
  where id in (
    select e.id
    from public.message_edits as e
    where e.message_id = p_message and e.edit_msg_id <> ''
    order by e.at desc, e.edit_msg_id collate "C" desc
    offset 100
  );
end
$$;

-- Removes the content of a message: text, payload, earlier texts, file, secret and media key. Its row stays.
create function public.wa_blank_message(p_message bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.message_edits where message_id = p_message;
  delete from public.message_secrets where message_id = p_message;
  delete from public.media_jobs where message_id = p_message;
  delete from public.wa_media_abandoned where message_id = p_message;
  update public.messages
  set
    blanked = true, text = null, raw = '{}', file_name = null, mentions = null, mention_count = 0, media_id = null,
    media_status = case when media_status is not null then 'revoked' end, edited_at = null, edit_msg_id = null
  where id = p_message;
end
$$;

-- Applies one revoke; of several the earliest counts. WhatsApp enforces who may revoke. Locks the message before its
-- file's rows, as deletions do.
create function public.wa_apply_revoke(p_message bigint, p_by text, p_at timestamptz, p_blank boolean)
returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1 from public.messages where id = p_message for no key update;
  update public.messages
  set revoked_at = p_at, revoked_by = p_by
  where id = p_message
    and (revoked_at is null or (p_at, p_by collate "C") < (revoked_at, revoked_by collate "C"));
  if p_blank then
    perform public.wa_blank_message(p_message);
  end if;
end
$$;

-- Applies one reaction: each person's greatest (at, id) counts. An empty emoji removes it.
create function public.wa_apply_reaction(
  p_session text, p_message bigint, p_sender text, p_emoji text, p_at timestamptz, p_wa_msg_id text
) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.message_reactions (message_id, sender, session_id, emoji, at, wa_msg_id)
  values (p_message, p_sender, p_session, nullif(p_emoji, ''), p_at, p_wa_msg_id)
  on conflict (message_id, sender) do update
  set emoji = excluded.emoji, at = excluded.at, wa_msg_id = excluded.wa_msg_id
  where (excluded.at, excluded.wa_msg_id collate "C")
    > (public.message_reactions.at, public.message_reactions.wa_msg_id collate "C");
$$;

-- Applies one change if its target is there: 'done', 'waiting' or 'refused'. An edit, and a child of an album, must
-- come from the target's own sender. A number and a LID with an unknown number may be one person, so those wait.
create function public.wa_apply_change(p_change public.wa_held_changes) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_id bigint;
  v_kind text;
begin
  select m.id, m.kind into v_id, v_kind
  from public.messages as m
  where m.session_id = p_change.session_id and m.chat_id = p_change.chat_id and m.sender = p_change.target_sender
    and m.wa_msg_id = p_change.target_id;
  if v_id is null or p_change.kind = 'sealed_edit' then
    return 'waiting';
  end if;
  if p_change.kind in ('edit', 'album') then
    if p_change.author <> p_change.target_sender then
      return case
        when split_part(p_change.author, '@', 2) = split_part(p_change.target_sender, '@', 2) then 'refused'
        when exists (
          select 1 from public.wa_identities as i
          where i.session_id = p_change.session_id
            and (
              (i.lid = p_change.author and i.pn <> p_change.target_sender)
              or (i.lid = p_change.target_sender and i.pn <> p_change.author)
            )
        ) then 'refused'
        else 'waiting'
      end;
    end if;
    if v_kind = 'undecryptable' then
      return 'waiting';
    end if;
  end if;
  case p_change.kind
    when 'edit' then
      perform public.wa_apply_edit(v_id, p_change.change_id, p_change.payload ->> 'text', p_change.at);
    when 'revoke' then
      perform public.wa_apply_revoke(
        v_id, p_change.author, p_change.at, coalesce((p_change.payload -> 'blank') = 'true', false)
      );
    when 'reaction' then
      perform public.wa_apply_reaction(
        p_change.session_id, v_id, p_change.author, p_change.payload ->> 'emoji', p_change.at, p_change.change_id
      );
    when 'quote' then
      update public.messages set quoted_id = v_id where id = p_change.message_id and id <> v_id;
    when 'album' then
      if v_kind <> 'album' then
        return 'refused';
      end if;
      update public.messages set album_id = v_id where id = p_change.message_id and id <> v_id;
    else
      raise exception 'no such change' using errcode = 'invalid_parameter_value';
  end case;
  return 'done';
end
$$;

-- One change of a batch: 'done', 'held' or 'dropped' (public.wa_take_changes).
create function public.wa_take_change(p_session text, p_change jsonb) returns text
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
    if v_change.message_id is null then
      return 'dropped';
    end if;
  else
    -- The message that brings the change may have left a stub before it became readable.
    delete from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id and m.kind = 'undecryptable';
  end if;
  v_result := public.wa_apply_change(v_change);
  if v_result = 'done' then
    return 'done';
  elsif v_result = 'refused' then
    perform public.wa_count_discard(p_session, v_change.kind || '_by_other', 1);
    return 'dropped';
  end if;
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.author = v_change.author
    offset 999
  ) then
    perform public.wa_count_discard(p_session, 'change_flood', 1);
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

-- The changes of a batch: [{kind, chat_id, target_sender, target_id, author, change_id, at, payload}]. Drops those of
-- chats that are not monitored. Of a sender with 1,000 held changes, drops and counts any more that would wait. If
-- somebody deletes a target meanwhile, tries again, up to three times: the next attempt does not see the target.
create function public.wa_take_changes(p_session text, p_changes jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_in jsonb;
  v_result text;
  v_done integer := 0;
  v_held integer := 0;
  v_code text;
  v_reason text;
begin
  for v_in in
    select c.change
    from jsonb_array_elements(p_changes) with ordinality as c (change, ord)
    inner join public.groups as g on g.session_id = p_session and g.wa_group_id = c.change ->> 'chat_id' and g.monitor
    order by c.ord
  loop
    v_result := null;
    for v_attempt in 1..3 loop
      begin
        v_result := public.wa_take_change(p_session, v_in);
      exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      end;
      exit when v_result is not null or v_code <> '23503';
    end loop;
    if v_result is null then
      perform public.wa_write_refused(p_session, jsonb_build_array(jsonb_build_object(
        'chat_id', v_in ->> 'chat_id', 'sender', v_in ->> 'author', 'wa_msg_id', v_in ->> 'change_id',
        'code', v_code, 'reason', v_reason, 'body', v_in::text
      )));
    end if;
    v_done := v_done + coalesce(v_result = 'done', false)::integer;
    v_held := v_held + coalesce(v_result = 'held', false)::integer;
  end loop;
  return jsonb_build_object('changed', v_done, 'held', v_held);
end
$$;

-- Tries held changes again and deletes those that are done or refused; returns how many were applied. If somebody
-- deletes a target meanwhile, tries again, up to three times: the next attempt does not see the target.
create function public.wa_retry_changes(p_session text, p_ids bigint[]) returns integer
language plpgsql security invoker set search_path = '' as $$
declare
  v_held public.wa_held_changes;
  v_result text;
  v_done integer := 0;
begin
  for v_held in
    select * from public.wa_held_changes as h where h.session_id = p_session and h.id = any(p_ids) order by h.id
  loop
    v_result := null;
    for v_attempt in 1..3 loop
      begin
        v_result := public.wa_apply_change(v_held);
      exception
        when foreign_key_violation then
          if v_attempt = 3 then
            raise;
          end if;
      end;
      exit when v_result is not null;
    end loop;
    continue when v_result = 'waiting';
    delete from public.wa_held_changes where id = v_held.id;
    if v_result = 'refused' then
      perform public.wa_count_discard(p_session, v_held.kind || '_by_other', 1);
    else
      v_done := v_done + 1;
    end if;
  end loop;
  return v_done;
end
$$;

-- Encrypted edits that can be decrypted now, because their target and its secret are stored. With both addresses of the
-- target's sender.
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

-- Takes decrypted edits: [{id, text, at}], `at` null to keep the envelope's; or [{id, unreadable: true}], which stays
-- held and is not tried again. A decrypted edit is applied like any other.
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

-- The two addresses of one person (docs/whatsapp.md, "Who sent it"): LID and phone number, without a device; and what
-- happens when a LID turns out to belong to a number under which rows are stored.

create table public.wa_identities (
  session_id text not null references public.wa_sessions (id),
  lid text not null,
  pn text not null,
  updated_at timestamptz not null default now(),
  primary key (session_id, lid)
);

create index wa_identities_pn on public.wa_identities (session_id, pn);

-- Pairs whose merge takes too long for one commit; public.wa_prune does it in steps. `chats`: where to rebuild parent
-- links at the end.
create table public.wa_merges_due (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  lid text not null,
  pn text not null,
  chats text[] not null default '{}',
  at timestamptz not null default now(),
  unique (session_id, pn, lid)
);

-- The other form of each given person: {id: other}, by LID or by number.
create function public.wa_get_identities(p_session text, p_ids jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with wanted as materialized (select array(select jsonb_array_elements_text(p_ids)) as ids)
  select coalesce(jsonb_object_agg(pairs.id, pairs.other), '{}')
  from (
    select i.lid as id, i.pn as other
    from public.wa_identities as i
    where i.session_id = p_session and i.lid = any((select wanted.ids from wanted)::text [])
    union all
    (
      select distinct on (i.pn) i.pn, i.lid
      from public.wa_identities as i
      where i.session_id = p_session and i.pn = any((select wanted.ids from wanted)::text [])
      order by i.pn, i.updated_at desc
    )
  ) as pairs
$$;

-- Identities: [{lid, pn}]; the last entry for a LID wins. Only new pairs can need a merge, and of those only pairs
-- whose number is stored somewhere. Rewrites at most 2,000 rows here, which takes a third of a second, and leaves the
-- other pairs to public.wa_prune. `enable_seqscan`: for a number that is stored nowhere the planner would read the
-- whole table, once per pair.
create function public.wa_write_identities(p_session text, p_identities jsonb) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_pair record;
  v_new jsonb;
  v_cost integer;
  v_left integer := 2000;
begin
  with written as (
    insert into public.wa_identities (session_id, lid, pn)
    select distinct on (i ->> 'lid') p_session, i ->> 'lid', i ->> 'pn'
    from jsonb_array_elements(p_identities) with ordinality as t (i, ord)
    where length(i ->> 'lid') between 1 and 256 and length(i ->> 'pn') between 1 and 256
    order by i ->> 'lid', t.ord desc
    on conflict (session_id, lid) do update set pn = excluded.pn, updated_at = now()
    where public.wa_identities.pn <> excluded.pn
    returning lid, pn
  )

  select jsonb_agg(to_jsonb(w)) into v_new from written as w;
  for v_pair in
    select p.lid, p.pn
    from jsonb_to_recordset(v_new) as p (lid text, pn text)
    where exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.sender = p.pn and m.sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.message_reactions as r
      where r.session_id = p_session and r.sender = p.pn and r.sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.quoted_sender = p.pn and m.quoted_sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.revoked_by = p.pn and m.revoked_by like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.wa_held_changes as h where h.session_id = p_session and h.author in (p.pn, p.lid)
    ) or exists (
      select 1 from public.wa_held_changes as h where h.session_id = p_session and h.target_sender in (p.pn, p.lid)
    ) or exists (
      select 1 from public.messages as m
      where m.mentions is not null and m.mentions @> array[p.pn] and m.session_id = p_session
    )
    order by p.lid
  loop
    v_cost := public.wa_merge_cost(p_session, v_pair.lid, v_pair.pn, v_left);
    if v_cost <= v_left and not exists (
      select 1 from public.wa_merges_due as d where d.session_id = p_session and d.pn = v_pair.pn
    ) then
      v_left := v_left - v_cost;
      perform public.wa_merge_or_again(p_session, v_pair.lid, v_pair.pn);
    else
      insert into public.wa_merges_due (session_id, lid, pn) values (p_session, v_pair.lid, v_pair.pn)
      on conflict (session_id, pn, lid) do nothing;
    end if;
  end loop;
end
$$;

-- The cost of merging this pair, in rows to rewrite; a row that is only read counts as a tenth. Stops counting a little
-- above `p_most`: callers only ask whether the cost exceeds it.
create function public.wa_merge_cost(p_session text, p_lid text, p_pn text, p_most integer) returns integer
language sql volatile security invoker set search_path = '' set enable_seqscan = off as $$
  select (
    (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.sender = p_pn and m.sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as written
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.quoted_sender = p_pn and m.quoted_sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as quoted
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.revoked_by = p_pn and m.revoked_by like '%@s.whatsapp.net'
        limit p_most + 1
      ) as revoked
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.mentions is not null and m.mentions @> array[p_pn] and m.session_id = p_session
        limit p_most + 1
      ) as mentioned
    ) + (
      select count(*) from (
        select 1 from public.message_reactions as r
        where r.session_id = p_session and r.sender = p_pn and r.sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as reacted
    ) + (
      select count(*) / 10 from (
        select 1
        from public.groups as g
        cross join lateral (
          select 1 as one from public.messages as m
          where m.session_id = p_session and m.chat_id = g.wa_group_id and m.sender = p_lid
          limit p_most * 10 + 10
        ) as own
        where g.session_id = p_session and exists (
          select 1 from public.messages as n
          where n.session_id = p_session and n.chat_id = g.wa_group_id and n.sender = p_pn
        )
        limit p_most * 10 + 10
      ) as walked
    )
  )::integer
$$;

-- Merges one person's two addresses. If somebody deletes a message meanwhile, tries again, up to three times: the next
-- attempt does not see the message.
create function public.wa_merge_or_again(p_session text, p_lid text, p_pn text) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  for v_attempt in 1..3 loop
    begin
      perform public.wa_merge_identity(p_session, p_lid, p_pn);
      return;
    exception
      when foreign_key_violation then
        if v_attempt = 3 then
          raise;
        end if;
    end;
  end loop;
end
$$;

-- Moves everything that is stored under a person's number to the LID, as if both had been known from the start.
-- Set-based: a person may have written a hundred thousand messages. `enable_seqscan`: for a number that is stored
-- nowhere the planner would read the whole table.
create function public.wa_merge_identity(p_session text, p_lid text, p_pn text) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_pair record;
  v_twin text;
  v_reaction public.message_reactions;
  v_ranges jsonb;
  v_range record;
begin
  -- Links change only in chats where both addresses wrote. There, rebuild them over all rows of both: deleting a row
  -- also clears its child's link, and a shorter walk would stop at that child.
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
    -- An intersection, not a join: its cost does not depend on the planner's statistics.
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

-- Two rows of one message become one, as if the person had been known from the start: the older row stays, with the
-- content that came first, and everything that refers to the other row moves to it.
create function public.wa_collapse_messages(p_kept bigint, p_gone bigint, p_sender text, p_alt text)
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
  update public.messages
  set
    sender = p_sender, sender_alt = p_alt, kind = v_source.kind, text = v_first_text, raw = v_source.raw,
    file_name = v_source.file_name, media_id = v_source.media_id, media_status = v_source.media_status,
    push_name = coalesce(v_source.push_name, v_other.push_name), quoted_msg_id = v_source.quoted_msg_id,
    quoted_sender = v_source.quoted_sender,
    quoted_id = case when v_source.quoted_id not in (p_kept, p_gone) then v_source.quoted_id end,
    album_id = case when v_source.album_id not in (p_kept, p_gone) then v_source.album_id end,
    mentions = v_source.mentions,
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

-- One step of the oldest merge that is due: rewrites at most `p_limit` rows, or rebuilds the links of one chat. The
-- final result is that of public.wa_merge_identity. For callers that hold the session row.
create function public.wa_merge_step(p_session text, p_limit integer) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_due public.wa_merges_due;
  v_ids bigint [];
  v_twin record;
  v_reaction public.message_reactions;
  v_first record;
  v_last record;
begin
  select * into v_due from public.wa_merges_due where session_id = p_session order by id limit 1;
  if v_due.id is null then
    return;
  end if;

  v_ids := array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.sender = v_due.pn and m.sender like '%@s.whatsapp.net'
    limit p_limit
  );
  if v_ids <> '{}' then
    update public.wa_merges_due
    set chats = array(
      select c.chat from unnest(v_due.chats) as c (chat)
      union
      select m.chat_id from public.messages as m where m.id = any(v_ids)
    )
    where id = v_due.id;
    for v_twin in
      select m.id as written, twin.id as known
      from public.messages as m
      cross join lateral (
        select n.id from public.messages as n
        where n.session_id = p_session and n.chat_id = m.chat_id and n.sender = v_due.lid
          and n.wa_msg_id = m.wa_msg_id
      ) as twin
      where m.id = any(v_ids)
    loop
      perform public.wa_collapse_messages(
        least(v_twin.written, v_twin.known), greatest(v_twin.written, v_twin.known), v_due.lid, v_due.pn
      );
    end loop;
    update public.messages set sender = v_due.lid, sender_alt = v_due.pn where id = any(v_ids) and sender = v_due.pn;
    return;
  end if;

  update public.messages set quoted_sender = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.quoted_sender = v_due.pn and m.quoted_sender like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages set revoked_by = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.revoked_by = v_due.pn and m.revoked_by like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages as m
  set
    mentions = array(
      select who.jid
      from unnest(array_replace(m.mentions, v_due.pn, v_due.lid)) with ordinality as who (jid, ord)
      group by who.jid
      order by min(who.ord)
    )
  where m.id = any(array(
    select n.id from public.messages as n
    where n.mentions is not null and n.mentions @> array[v_due.pn] and n.session_id = p_session
    limit p_limit
  ));
  if found then
    return;
  end if;
  for v_reaction in
    delete from public.message_reactions as r
    where r.sender = v_due.pn and r.message_id = any(array(
      select n.message_id from public.message_reactions as n
      where n.session_id = p_session and n.sender = v_due.pn and n.sender like '%@s.whatsapp.net'
      limit p_limit
    ))
    returning r.*
  loop
    perform public.wa_apply_reaction(
      p_session, v_reaction.message_id, v_due.lid, v_reaction.emoji, v_reaction.at, v_reaction.wa_msg_id
    );
  end loop;
  if found then
    return;
  end if;

  if v_due.chats <> '{}' then
    select m.ts, m.id into v_first
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null)
    order by m.ts, m.id
    limit 1;
    select m.ts, m.id into v_last
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null)
    order by m.ts desc, m.id desc
    limit 1;
    if v_first.id is not null then
      perform public.wa_link_parents(
        p_session, v_due.chats[1], v_due.lid, v_first.ts, v_first.id, v_last.ts, v_last.id
      );
    end if;
    update public.wa_merges_due set chats = v_due.chats[2:] where id = v_due.id;
    return;
  end if;

  -- Little is left: held changes, and rows that arrived meanwhile.
  perform public.wa_merge_identity(p_session, v_due.lid, v_due.pn);
  delete from public.wa_merges_due where id = v_due.id;
end
$$;

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

-- Identities ([{lid, pn}]), ciphertext hashes ([hex]) and discards ({reason: count}) of a batch.
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

-- Adds to a count of public.wa_discards.
create function public.wa_count_discard(p_session text, p_reason text, p_count bigint) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_discards (session_id, reason, count)
  select p_session, p_reason, p_count
  where p_count > 0
  on conflict (session_id, reason) do update
  set count = public.wa_discards.count + excluded.count, last_at = now();
$$;

-- The commit: everything that one batch of the sidecar makes durable, in one transaction. The functions that it calls
-- take no lock and check no fence, because it holds the session row.

-- One batch: {fence, epoch, seq, creds?, keys, messages, changes, hashes, audits, identities, groups, refused,
-- discards}. Only the next batch is applied; one that was applied before is answered as durable, and nothing is
-- written. Messages are stored before changes, whatever their order on the wire: the result is the same. Errors
-- (PT409): stale_fence, stale_epoch, sequence_gap.
create function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
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
  -- Retry the changes that waited for these messages. Most of the time none do.
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

-- What expires, and what keeps the database fast.

-- Deletes ciphertext hashes and, if asked, audit entries past their age; the newest error stays, because the status
-- shows it. After a week deletes held changes, which are counted as `edit_unmatched` and so on, and secrets (WhatsApp
-- accepts edits for a quarter of an hour). At most 10,000 of each a call; `more` says that there are others. Also takes
-- one step of a merge that was too large for its commit.
create function public.wa_prune(
  p_session text, p_stanza_seconds double precision, p_audit_seconds double precision
)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_stanzas integer;
  v_audits integer := 0;
  v_changes integer;
  v_secrets integer;
  v_error bigint;
  v_code text;
  v_reason text;
begin
  if exists (select 1 from public.wa_merges_due as d where d.session_id = p_session) then
    perform 1 from public.wa_sessions where id = p_session for no key update;
    for v_attempt in 1..3 loop
      begin
        perform public.wa_merge_step(p_session, 2000);
        v_code := null;
      exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      end;
      exit when v_code is distinct from '23503';
    end loop;
    if v_code is not null then
      perform public.wa_audit(p_session, 'error', jsonb_build_object(
        'code', 'MERGE_REFUSED', 'msg', left(v_reason, 1000), 'ctx', jsonb_build_object('sqlstate', v_code)
      ));
      delete from public.wa_merges_due
      where id = (select min(d.id) from public.wa_merges_due as d where d.session_id = p_session);
    end if;
  end if;
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
    select a.id into v_error
    from public.audit_log as a
    where a.session_id = p_session and a.event = 'error'
    order by a.at desc
    limit 1;
    delete from public.audit_log
    where id = any(array(
      select a.id
      from public.audit_log as a
      where a.session_id = p_session and a.at < now() - make_interval(secs => p_audit_seconds)
        and a.id is distinct from v_error
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
    or exists (select 1 from public.wa_merges_due as d where d.session_id = p_session)
  );
end
$$;

-- Refreshes the planner's statistics, because the embedded Supabase has no autovacuum. Only the tables' owner may
-- analyse them, hence `security definer`; it takes no argument and returns nothing.
create function public.wa_analyze() returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  analyze public.wa_session_keys, public.messages, public.media_jobs, public.media, public.decrypted_stanzas,
    public.audit_log, public.message_edits, public.message_reactions, public.message_secrets, public.wa_held_changes;
  return '{}'::jsonb;
end
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261123000200')
$$;

-- What an operator sees and asks for from the command line, and the figures of /metrics.

-- The caller's role and the database's clock: for checks of the key and of the calling machine's clock.
create function public.wa_whoami() returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select jsonb_build_object(
    'role', current_user, 'now', clock_timestamp(), 'version', public.wa_schema_version() ->> 'version'
  )
$$;

-- How many messages a session has: exactly up to 10,000, above that the planner's estimate.
create function public.wa_count_messages(p_session text) returns jsonb
language plpgsql volatile security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_count bigint;
  v_plan json;
begin
  select count(*) into v_count
  from (select 1 from public.messages as m where m.session_id = p_session limit 10001) as some_of_them;
  if v_count <= 10000 then
    return jsonb_build_object('count', v_count, 'exact', true);
  end if;
  execute format('explain (format json) select 1 from public.messages where session_id = %L', p_session) into v_plan;
  return jsonb_build_object(
    'count', greatest(v_count, (v_plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint), 'exact', false
  );
end
$$;

-- What a status command shows. Without the QR itself, which gives access to the account. Its cost does not grow with
-- the tables: `messages` and `media` are estimates above 10,000 (`messages_exact`); `last_message_at` reads each
-- group's newest message.
create function public.wa_status(p_session text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  with counted as materialized (select public.wa_count_messages(p_session) as messages)

  select jsonb_build_object(
    'schema_version', public.wa_schema_version() ->> 'version',
    'now', now(),
    'session', (
      select to_jsonb(s) - 'creds_json' - 'detail' || jsonb_build_object(
        'fence', s.fence::text, 'epoch', s.epoch::text, 'seq', s.seq::text,
        'detail', s.detail - 'qr', 'has_qr', s.detail ? 'qr', 'has_creds', s.creds_json is not null,
        'lease_held', coalesce(s.lease_expires_at > now(), false)
      )
      from public.wa_sessions as s where s.id = p_session
    ),
    'groups', (select count(*) from public.groups as g where g.session_id = p_session and g.left_at is null),
    'monitored', (select count(*) from public.groups as g where g.session_id = p_session and g.monitor),
    'messages', (select c.messages -> 'count' from counted as c),
    'messages_exact', (select c.messages -> 'exact' from counted as c),
    'last_message_at', (
      select max(last.received_at)
      from public.groups as g
      cross join lateral (
        select m.received_at from public.messages as m where m.group_id = g.id order by m.ts desc limit 1
      ) as last
      where g.session_id = p_session
    ),
    'pending_stubs', (select count(*) from public.messages as m where m.session_id = p_session and m.pending),
    'media', (
      select
        case
          when count(*) <= 10000 then count(*)
          else greatest(
            count(*), (select c.reltuples::bigint from pg_catalog.pg_class as c where c.oid = 'public.media'::regclass)
          )
        end
      from (select 1 from public.media limit 10001) as some_of_them
    ),
    'media_jobs', (select count(*) from public.media_jobs as j where j.session_id = p_session),
    'media_jobs_due', (
      select count(*) from public.media_jobs as j where j.session_id = p_session and j.next_attempt_at <= now()
    ),
    'refused', (select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session),
    'discards', (
      select coalesce(jsonb_object_agg(d.reason, d.count::text), '{}')
      from public.wa_discards as d where d.session_id = p_session
    ),
    'last_error', (
      select jsonb_build_object('at', a.at, 'payload', a.payload)
      from public.audit_log as a where a.session_id = p_session and a.event = 'error' order by a.at desc limit 1
    )
  )
$$;

-- The database's figures for /metrics and the status command. Without ids and without content.
create function public.wa_figures(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'now', now(),
    'epoch', (select s.epoch::text from public.wa_sessions as s where s.id = p_session),
    'seq', (select s.seq::text from public.wa_sessions as s where s.id = p_session),
    'jobs', (
      select jsonb_build_object(
        'running', count(*) filter (where j.lease_expires_at > now()),
        'due', count(*) filter (
          where j.next_attempt_at <= now() and coalesce(j.lease_expires_at <= now(), true)
        ),
        'waiting', count(*) filter (
          where j.next_attempt_at > now() and coalesce(j.lease_expires_at <= now(), true)
        ),
        'oldest_s', extract(epoch from (now() - min(j.created_at)))
      )
      from public.media_jobs as j where j.session_id = p_session
    ),
    'abandoned', (
      select coalesce(jsonb_object_agg(a.status, a.count), '{}')
      from (
        select w.status, count(*) as count
        from public.wa_media_abandoned as w where w.session_id = p_session group by w.status
      ) as a
    ),
    'pending_stubs', (select count(*) from public.messages as m where m.session_id = p_session and m.pending),
    'refused', (select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session),
    'held_changes', (select count(*) from public.wa_held_changes as h where h.session_id = p_session)
  )
$$;

-- All groups with their last message (by `ts`) and the number of messages in the last 24 hours.
create function public.wa_list_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'id', g.id::text, 'wa_group_id', g.wa_group_id, 'name', g.name, 'monitor', g.monitor, 'left_at', g.left_at,
        'today', (
          select count(*) from public.messages as m where m.group_id = g.id and m.ts > now() - interval '24 hours'
        ),
        'last', last.message
      ) order by g.monitor desc, g.left_at is not null, g.name nulls last, g.id
    ),
    '[]'
  )
  from public.groups as g
  left join lateral (
    select jsonb_build_object(
      'id', m.id::text, 'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
      'from_me', m.from_me, 'kind', m.kind, 'text', left(m.text, 200), 'media_status', m.media_status,
      'revoked_at', m.revoked_at
    ) as message
    from public.messages as m
    where m.group_id = g.id
    order by m.ts desc, m.id desc
    limit 1
  ) as last on true
  where g.session_id = p_session
$$;

-- The session with the QR code, for drawing it: the only function that returns the code.
create function public.wa_pairing_view(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'now', now(), 'status', s.status, 'detail', s.detail, 'wa_name', s.wa_name, 'wa_number', s.wa_number,
    'lease_held', coalesce(s.lease_expires_at > now(), false)
  )
  from public.wa_sessions as s
  where s.id = p_session
$$;

-- Messages after `p_after` (an id) in order of arrival; the newest `p_limit` if it is null. Pass `cursor` to the next
-- call. One session's commits are serial, so no id appears behind a cursor that has passed it.
create function public.wa_tail(p_session text, p_group bigint, p_after bigint, p_limit integer) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_ids bigint [];
begin
  if p_after is null then
    v_ids := array(
      select newest.id
      from public.groups as g
      cross join lateral (
        select m.id, m.ts from public.messages as m where m.group_id = g.id order by m.ts desc, m.id desc limit p_limit
      ) as newest
      where g.session_id = p_session and (p_group is null or g.id = p_group)
      order by newest.ts desc, newest.id desc
      limit p_limit
    );
  else
    v_ids := array(
      select m.id
      from public.messages as m
      where m.session_id = p_session and m.id > p_after and (p_group is null or m.group_id = p_group)
      order by m.id
      limit p_limit
    );
  end if;
  return jsonb_build_object(
    'cursor', case
      when p_after is null
        then (select coalesce(max(m.id), 0)::text from public.messages as m where m.session_id = p_session)
      else greatest(p_after, (select max(i) from unnest(v_ids) as i))::text
    end,
    'messages', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'id', m.id::text, 'group_id', m.group_id::text, 'group_name', g.name, 'wa_msg_id', m.wa_msg_id,
            'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
            'from_me', m.from_me, 'kind', m.kind, 'text', m.text, 'file_name', m.file_name,
            'media_status', m.media_status, 'mime', f.mime, 'bytes', f.bytes::text, 'edited_at', m.edited_at,
            'revoked_at', m.revoked_at
          ) order by case when p_after is null then m.ts end, m.id
        ),
        '[]'
      )
      from public.messages as m
      inner join public.groups as g on m.group_id = g.id
      left join public.media as f on m.media_id = f.id
      where m.id = any(v_ids)
    )
  );
end
$$;

-- Up to `p_limit` messages of a group after `p_after`, by id, with file, earlier texts and reactions.
create function public.wa_export_messages(p_session text, p_group bigint, p_after bigint, p_limit integer)
returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_agg(e.document order by e.id), '[]')
  from (
    select
      m.id,
      to_jsonb(m) || jsonb_build_object(
        'id', m.id::text, 'group_id', m.group_id::text, 'media_id', m.media_id::text,
        'parent_id', m.parent_id::text, 'quoted_id', m.quoted_id::text, 'album_id', m.album_id::text,
        'media', (
          select to_jsonb(f) || jsonb_build_object('id', f.id::text, 'bytes', f.bytes::text)
          from public.media as f where f.id = m.media_id
        ),
        'edits', (
          select coalesce(jsonb_agg(jsonb_build_object('text', d.text, 'at', d.at) order by d.at, d.id), '[]')
          from public.message_edits as d where d.message_id = m.id
        ),
        'reactions', (
          select coalesce(
            jsonb_agg(jsonb_build_object('sender', r.sender, 'emoji', r.emoji, 'at', r.at) order by r.at, r.sender),
            '[]'
          )
          from public.message_reactions as r where r.message_id = m.id and r.emoji is not null
        )
      ) as document
    from public.messages as m
    where m.session_id = p_session and m.group_id = p_group and m.id > p_after
    order by m.id
    limit p_limit
  ) as e
$$;

-- How much there is to export: all messages of a group, and those after `p_after`.
create function public.wa_export_size(p_session text, p_group bigint, p_after bigint) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('all', count(*), 'left', count(*) filter (where m.id > p_after))
  from public.messages as m
  where m.session_id = p_session and m.group_id = p_group
$$;

alter table public.wa_sessions enable row level security;
alter table public.wa_session_keys enable row level security;
alter table public.audit_log enable row level security;
alter table public.runtime_flags enable row level security;
alter table public.groups enable row level security;
alter table public.media enable row level security;
alter table public.media_verified enable row level security;
alter table public.wa_media_doomed enable row level security;
alter table public.messages enable row level security;
alter table public.message_secrets enable row level security;
alter table public.media_jobs enable row level security;
alter table public.wa_media_abandoned enable row level security;
alter table public.message_edits enable row level security;
alter table public.message_reactions enable row level security;
alter table public.wa_held_changes enable row level security;
alter table public.wa_identities enable row level security;
alter table public.wa_merges_due enable row level security;
alter table public.decrypted_stanzas enable row level security;
alter table public.wa_refused_stanzas enable row level security;
alter table public.wa_discards enable row level security;

revoke all on
public.wa_sessions, public.wa_session_keys, public.audit_log, public.runtime_flags, public.groups, public.media,
public.media_verified, public.wa_media_doomed, public.messages, public.message_secrets, public.media_jobs,
public.wa_media_abandoned, public.message_edits, public.message_reactions, public.wa_held_changes,
public.wa_identities, public.wa_merges_due, public.decrypted_stanzas, public.wa_refused_stanzas, public.wa_discards
from anon, authenticated;

grant select, insert, update, delete on
public.wa_sessions, public.wa_session_keys, public.audit_log, public.runtime_flags, public.groups, public.media,
public.media_verified, public.wa_media_doomed, public.messages, public.message_secrets, public.media_jobs,
public.wa_media_abandoned, public.message_edits, public.message_reactions, public.wa_held_changes,
public.wa_identities, public.wa_merges_due, public.decrypted_stanzas, public.wa_refused_stanzas, public.wa_discards
to service_role;

revoke all on sequence public.messages_content_order from anon, authenticated;
grant usage on sequence public.messages_content_order to service_role;

revoke execute on function
public.keys_json, public.wa_analyze, public.wa_apply_change, public.wa_apply_edit, public.wa_apply_reaction,
public.wa_apply_revoke, public.wa_audit, public.wa_begin_epoch, public.wa_blank_message, public.wa_collapse_messages,
public.wa_commit, public.wa_count_discard, public.wa_count_messages, public.wa_delete_messages, public.wa_doom_media,
public.wa_export_messages, public.wa_export_size, public.wa_figures, public.wa_flag_handled, public.wa_flag_state,
public.wa_get_identities, public.wa_get_keys, public.wa_known_stanzas, public.wa_lease_acquire,
public.wa_lease_release, public.wa_link_parents, public.wa_list_groups, public.wa_load_state, public.wa_lock_job,
public.wa_lock_message_of, public.wa_lock_session, public.wa_mark_lost, public.wa_media_abandon,
public.wa_media_ask_phone, public.wa_media_claim, public.wa_media_done, public.wa_media_known, public.wa_media_renew,
public.wa_media_requeue, public.wa_media_retry, public.wa_merge_cost, public.wa_merge_identity,
public.wa_merge_or_again, public.wa_merge_step, public.wa_monitored_groups, public.wa_objects_deleted,
public.wa_open_edits, public.wa_pairing_view, public.wa_parse_time, public.wa_pending_flags, public.wa_prune,
public.wa_raise_flag, public.wa_retention, public.wa_retry_changes, public.wa_schema_version, public.wa_sealed_edits,
public.wa_set_monitor, public.wa_set_session, public.wa_status, public.wa_store_messages,
public.wa_store_messages_or_refuse, public.wa_tail, public.wa_take_change, public.wa_take_changes,
public.wa_upsert_groups, public.wa_whoami, public.wa_wipe_credentials, public.wa_write_audits, public.wa_write_extras,
public.wa_write_groups, public.wa_write_identities, public.wa_write_keys, public.wa_write_refused
from public, anon, authenticated;

grant execute on function
public.keys_json, public.wa_analyze, public.wa_apply_change, public.wa_apply_edit, public.wa_apply_reaction,
public.wa_apply_revoke, public.wa_audit, public.wa_begin_epoch, public.wa_blank_message, public.wa_collapse_messages,
public.wa_commit, public.wa_count_discard, public.wa_count_messages, public.wa_delete_messages, public.wa_doom_media,
public.wa_export_messages, public.wa_export_size, public.wa_figures, public.wa_flag_handled, public.wa_flag_state,
public.wa_get_identities, public.wa_get_keys, public.wa_known_stanzas, public.wa_lease_acquire,
public.wa_lease_release, public.wa_link_parents, public.wa_list_groups, public.wa_load_state, public.wa_lock_job,
public.wa_lock_message_of, public.wa_lock_session, public.wa_mark_lost, public.wa_media_abandon,
public.wa_media_ask_phone, public.wa_media_claim, public.wa_media_done, public.wa_media_known, public.wa_media_renew,
public.wa_media_requeue, public.wa_media_retry, public.wa_merge_cost, public.wa_merge_identity,
public.wa_merge_or_again, public.wa_merge_step, public.wa_monitored_groups, public.wa_objects_deleted,
public.wa_open_edits, public.wa_pairing_view, public.wa_parse_time, public.wa_pending_flags, public.wa_prune,
public.wa_raise_flag, public.wa_retention, public.wa_retry_changes, public.wa_schema_version, public.wa_sealed_edits,
public.wa_set_monitor, public.wa_set_session, public.wa_status, public.wa_store_messages,
public.wa_store_messages_or_refuse, public.wa_tail, public.wa_take_change, public.wa_take_changes,
public.wa_upsert_groups, public.wa_whoami, public.wa_wipe_credentials, public.wa_write_audits, public.wa_write_extras,
public.wa_write_groups, public.wa_write_identities, public.wa_write_keys, public.wa_write_refused
to service_role;

notify pgrst, 'reload schema';
