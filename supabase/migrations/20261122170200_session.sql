-- The life of one session: lease, epoch, account state, status, flags, audit.
--
-- A worker serves a session while it holds its lease. Every take-over raises `fence`; every connection raises `epoch`;
-- batches of one epoch are counted by `seq`. Writers name the fence they hold and are refused if it is not the present
-- one.

-- Locks the session row for the rest of the transaction; refuses a fence that is not the present one.
create function public.wa_lock_session(p_session text, p_fence bigint) returns public.wa_sessions
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
begin
  select * into v_row from public.wa_sessions where id = p_session for update;
  if v_row.id is null or v_row.fence is distinct from p_fence then
    raise exception 'stale_fence' using errcode = 'PT409';
  end if;
  return v_row;
end
$$;

-- Takes or renews the lease. The same owner renews and keeps its fence; a free or expired one is taken with fence + 1.
-- The clock is read after the row lock: waiting for it must not make a lease look younger than it is.
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

-- Gives the lease back, so that the next worker need not wait. Not the holder (any more): changes nothing.
create function public.wa_lease_release(p_session text, p_owner text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_sessions
  set lease_owner = null, lease_expires_at = null
  where id = p_session and lease_owner = p_owner and fence = p_fence;
  return jsonb_build_object('released', found);
end
$$;

-- A new connection begins: whatever an older one still sends is refused from here on.
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

-- Changes what the web app sees of the session. `p_patch` may hold status, detail (replaces the old one), wa_name,
-- wa_number; what it does not name stays. `p_audits` are written in the same transaction.
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

-- A time as text, or null if it is none (or not finite).
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
-- by its value, so that it neither repeats nor hides later ones. `at` is null if `value` holds no time: such a flag
-- is reported until it is marked as handled.
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

revoke execute on function
public.wa_lock_session, public.wa_lease_acquire, public.wa_lease_release, public.wa_begin_epoch, public.wa_load_state,
public.wa_get_keys, public.wa_known_stanzas, public.wa_get_identities, public.wa_write_audits, public.wa_audit,
public.wa_set_session, public.wa_wipe_credentials, public.wa_parse_time, public.wa_pending_flags,
public.wa_flag_handled
from public, anon, authenticated;

grant execute on function
public.wa_lock_session, public.wa_lease_acquire, public.wa_lease_release, public.wa_begin_epoch, public.wa_load_state,
public.wa_get_keys, public.wa_known_stanzas, public.wa_get_identities, public.wa_write_audits, public.wa_audit,
public.wa_set_session, public.wa_wipe_credentials, public.wa_parse_time, public.wa_pending_flags,
public.wa_flag_handled
to service_role;
