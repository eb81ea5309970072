-- What a review of hosts found: bounds of what a poll hands out, and how hosts share, leave and start again.

set check_function_bodies = off;

-- No request that the worker knows is as long.
delete from public.runtime_flags
where octet_length(value::text) > 65536;

alter table public.runtime_flags
add constraint runtime_flags_value_check check (octet_length(value::text) <= 65536);

alter table public.wa_requests
add constraint wa_requests_args_check1 check (
  octet_length(args::text) <= 1000 and not args @? 'strict $.* ? (@.type() == "object" || @.type() == "array")'
);

alter table public.wa_sessions
add constraint wa_sessions_settings_check1 check (
  octet_length(settings::text) <= 4000
  and not settings @? 'strict $.* ? (@.type() == "object" || @.type() == "array")'
);

create or replace function public.wa_pending_flags(p_session text) returns jsonb
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

create or replace function public.wa_flag_handled(p_session text, p_key text, p_at_text text) returns jsonb
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

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127073500')
$$;

notify pgrst, 'reload schema';
