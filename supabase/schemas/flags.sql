-- Requests from the web app and the command line.

-- `value` is {"at": ISO}. Keys of other sessions than 'default' are prefixed with 'session:'.
create table public.runtime_flags (
  key text primary key,
  value jsonb not null default '{}' check (octet_length(value::text) <= 65536),
  handled_at timestamptz,
  handled_value jsonb,
  session_id text generated always as (
    case when strpos(key, ':') = 0 then 'default' else nullif(split_part(key, ':', 1), 'default') end
  ) stored
);

-- Requests that may be pending, by session: a poll reads no others.
create index runtime_flags_pending on public.runtime_flags (session_id)
where value is distinct from handled_value;

-- A text as a time in the years 1970 to 2199; null if it is none. Postgres reads a number as a date of a far century.
create function wa.parse_time(p_text text) returns timestamptz
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_time timestamptz;
begin
  v_time := p_text::timestamptz;
  return case when v_time >= '1970-01-01 00:00:00+00' and v_time < '2200-01-01 00:00:00+00' then v_time end;
exception
  when data_exception then
    return null;
end
$$;

-- Flags of the web app that are newer than the last one handled, with names that the worker knows (`Ask` in
-- worker/session/flags.py). A request from a clock that is ahead is remembered by its value, so that it neither repeats
-- nor hides later ones. `at` is null if `value` holds no time: such a flag is reported until it is marked as handled.
-- `given` is the rest of a passkey flag's value.
--
-- Anyone who may raise flags of one session can write anything, and a poll is for many sessions. So all texts are
-- bounded; `given` is a text of at most 16 kB, else null, which its own session reads.
create function public.wa_pending_flags(p_session text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select jsonb_build_object(
    'flags', coalesce(
      jsonb_agg(
        jsonb_build_object(
          'key', f.name, 'at', f.at, 'at_text', left(f.value ->> 'at', 100), 'malformed', f.at is null,
          'phone', left(f.value ->> 'phone', 100), 'given', f.given, 'age_s', extract(epoch from (now() - f.at))
        ) order by f.at, f.name
      ),
      '[]'
    )
  )
  from (
    select
      n.name, r.value, r.handled_at, wa.parse_time(r.value ->> 'at') as at,
      case
        when n.name in ('wa_passkey_answered', 'wa_passkey_compared') and jsonb_typeof(r.value) = 'object'
          and octet_length(r.value::text) <= 16384
          then (r.value - 'at')::text
      end as given
    from unnest(array[
      'fetch_groups_requested', 'wa_refresh_qr_requested', 'wa_disconnect_requested', 'wa_pairing_code_requested',
      'wa_passkey_answered', 'wa_passkey_compared'
    ]) as n (name)
    inner join public.runtime_flags as r
      on r.key = case when p_session = 'default' then n.name else p_session || ':' || n.name end
    where r.session_id = p_session and r.value is distinct from r.handled_value
  ) as f
  where f.at is null or f.handled_at is null or f.at > f.handled_at
$$;

-- Marks the request that carried `p_at_text` as done; a newer one that came meanwhile stays pending. The answer of a
-- passkey is not kept.
create function public.wa_flag_handled(p_session text, p_key text, p_at_text text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_key text := case when p_session = 'default' then p_key else p_session || ':' || p_key end;
  v_at timestamptz := wa.parse_time(p_at_text);
  v_value jsonb;
  v_is_it boolean;
begin
  select r.value, left(r.value ->> 'at', 100) is not distinct from p_at_text into v_value, v_is_it
  from public.runtime_flags as r
  where r.key = v_key
  for update;
  if v_is_it and jsonb_typeof(v_value) = 'object' then
    v_value := v_value - 'assertion';
  end if;
  update public.runtime_flags
  set
    handled_at = case when v_at is null then handled_at else greatest(handled_at, least(v_at, now())) end,
    value = v_value,
    handled_value = case when v_is_it then v_value else handled_value end
  where key = v_key;
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
        select r.handled_value is not distinct from r.value or r.handled_at >= wa.parse_time(p_at)
        from public.runtime_flags as r
        where r.key = case when p_session = 'default' then p_flag else p_session || ':' || p_flag end
      ),
      true
    )
  )
$$;

-- Requests to a session, one row each, as an alternative to the flags: none overwrites another, and each has a result.
create table public.wa_requests (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id) on delete cascade,
  name text not null check (name in ('fetch_groups', 'refresh_qr', 'pairing_code', 'disconnect')),
  args jsonb not null default '{}' check (jsonb_typeof(args) = 'object') check (
    octet_length(args::text) <= 1000 and not args @? 'strict $.* ? (@.type() == "object" || @.type() == "array")'
  ),
  created_at timestamptz not null default now(),
  handled_at timestamptz,
  result text
);

create index wa_requests_pending on public.wa_requests (session_id, id) where handled_at is null;

create index wa_requests_handled on public.wa_requests (session_id, handled_at) where handled_at is not null;

-- Adds a request. While ten wait, refuses with `too_many_requests`.
create function public.wa_ask(p_session text, p_name text, p_args jsonb default '{}') returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_id bigint;
begin
  if (
    select count(*) from public.wa_requests as r where r.session_id = p_session and r.handled_at is null
  ) >= 10 then
    raise exception 'too_many_requests' using errcode = 'PT409';
  end if;
  insert into public.wa_requests (session_id, name, args) values (p_session, p_name, p_args) returning id into v_id;
  return jsonb_build_object('id', v_id::text);
end
$$;

-- Marks a request as done, carried out or not: `p_result` says which, for people. The first mark stays.
create function public.wa_request_handled(p_session text, p_id bigint, p_result text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_requests
  set handled_at = clock_timestamp(), result = left(p_result, 1000), args = '{}'
  where id = p_id and session_id = p_session and handled_at is null;
  return jsonb_build_object('found', found);
end
$$;

-- The state of a request: {handled, result}; `gone` if it is no longer known.
create function public.wa_request_state(p_session text, p_id bigint) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    (
      select jsonb_build_object('handled', r.handled_at is not null, 'result', r.result, 'gone', false)
      from public.wa_requests as r
      where r.session_id = p_session and r.id = p_id
    ),
    '{"handled": true, "result": null, "gone": true}'
  )
$$;

-- Requests that wait, oldest first, at most ten: [{id, name, args}].
create function wa.pending_requests(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('id', r.id::text, 'name', r.name, 'args', r.args) order by r.id), '[]')
  from (
    select q.id, q.name, q.args
    from public.wa_requests as q
    where q.session_id = p_session and q.handled_at is null
    order by q.id
    limit 10
  ) as r
$$;
