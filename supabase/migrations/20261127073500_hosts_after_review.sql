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

-- The last fence of sessions that were deleted: one of the same name goes on behind it. Else a worker that slept
-- through both would hold the fence of the new one. Forgotten after 90 days.
create table public.wa_removed_sessions (
  id text primary key,
  fence bigint not null,
  removed_at timestamptz not null default clock_timestamp()
);

create or replace function wa.note_removed_session() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.wa_removed_sessions where removed_at < clock_timestamp() - interval '90 days';
  insert into public.wa_removed_sessions (id, fence) values (old.id, old.fence)
  on conflict (id) do update set fence = excluded.fence, removed_at = excluded.removed_at;
  return null;
end
$$;

create or replace function wa.start_fence() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  new.fence := greatest(
    new.fence, (select r.fence from public.wa_removed_sessions as r where r.id = new.id)
  );
  return new;
end
$$;

create or replace function public.wa_set_session(
  p_session text, p_fence bigint, p_patch jsonb, p_audits jsonb default '[]'
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.lock_session(p_session, p_fence);
  update public.wa_sessions
  set
    status = coalesce(p_patch ->> 'status', status),
    detail = case when p_patch ? 'detail' then coalesce(nullif(p_patch -> 'detail', 'null'), '{}') else detail end,
    wa_name = case when p_patch ? 'wa_name' then p_patch ->> 'wa_name' else wa_name end,
    wa_number = case when p_patch ? 'wa_number' then p_patch ->> 'wa_number' else wa_number end,
    start_failures = case when p_patch ->> 'status' = 'connected' then 0 else start_failures end,
    updated_at = now()
  where id = p_session;
  if p_patch ->> 'status' = 'connected' then
    update public.coverage_gaps
    set to_at = greatest(from_at, now())
    where session_id = p_session and chat_id is null and reason = 'unlinked' and to_at is null;
  end if;
  perform wa.write_audits(p_session, p_audits);
  return '{"done": true}'::jsonb;
end
$$;

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

create or replace function public.wa_host_poll(
  p_owner text, p_capacity integer, p_held jsonb, p_lease_seconds double precision default null
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_until timestamptz;
  v_due boolean;
  v_moves boolean;
  v_news jsonb;
  v_alive integer := 0;
  v_claimed text[] := '{}';
  v_steady integer := 0;
  v_answer jsonb := '{}';
  v_fill_until timestamptz;
begin
  for v_held in
    select h.session, h.fence, h.monitored, h.media, h.epoch, h.complete_to, h.claimed, h.settings
    from jsonb_to_recordset(p_held) as h (
      session text, fence bigint, monitored bigint, media integer, epoch bigint, complete_to timestamptz,
      claimed boolean, settings text
    )
    order by h.session
  loop
    select
      s.fence, s.lease_owner, s.lease_expires_at, make_interval(secs => s.lease_seconds) as lease, s.epoch,
      s.complete_epoch, s.complete_to, s.wanted, s.settings,
      s.host_since <= clock_timestamp() - make_interval(secs => s.lease_seconds) as is_steady
    into v_row
    from public.wa_sessions as s where s.id = v_held.session;
    if v_row.fence is distinct from v_held.fence or v_row.lease_owner is distinct from p_owner then
      v_answer := jsonb_set(v_answer, '{lost}', coalesce(v_answer -> 'lost', '[]') || to_jsonb(v_held.session));
      continue;
    end if;
    v_alive := v_alive + 1;
    v_due := v_row.lease_expires_at <= clock_timestamp() + v_row.lease * 2 / 3;
    v_moves := v_held.epoch = v_row.epoch and v_held.complete_to is not null and (
      v_row.complete_epoch is distinct from v_row.epoch
      or v_held.complete_to > coalesce(v_row.complete_to, '-infinity') + v_row.lease / 3
    );
    if v_due or v_moves then
      update public.wa_sessions as s
      set lease_expires_at = clock_timestamp() + v_row.lease
      where s.id = (
        select f.id
        from public.wa_sessions as f
        where f.id = v_held.session and f.fence = v_held.fence and f.lease_owner = p_owner
        for no key update skip locked
      )
      returning s.lease_expires_at into v_until;
      if found and v_moves then
        perform wa.move_mark(v_held.session, v_held.epoch, v_held.complete_to);
      end if;
      if v_until is not null then
        v_answer := jsonb_set(
          v_answer, '{renewed}',
          coalesce(v_answer -> 'renewed', '{}') || jsonb_build_object(v_held.session, v_until)
        );
      elsif v_due then
        v_answer := jsonb_set(v_answer, '{busy}', coalesce(v_answer -> 'busy', '[]') || to_jsonb(v_held.session));
      end if;
    end if;
    v_news := wa.news_of(v_held.session, v_held.monitored, v_held.media);
    if v_held.claimed then
      v_claimed := v_claimed || v_held.session;
      v_steady := v_steady + coalesce(v_row.is_steady, true)::integer;
      if not v_row.wanted then
        v_news := v_news || '{"stop": true}';
      end if;
      if v_held.settings is distinct from wa.settings_version(v_row.settings) then
        v_news := v_news || jsonb_build_object('settings', wa.told_settings(v_row.settings));
      end if;
    end if;
    if v_news <> '{}' then
      v_answer := jsonb_set(
        v_answer, '{news}', coalesce(v_answer -> 'news', '{}') || jsonb_build_object(v_held.session, v_news)
      );
    end if;
  end loop;
  if p_capacity is not null and (p_capacity > 0 or cardinality(v_claimed) > 0) then
    v_answer := v_answer || wa.share_sessions(
      p_owner, v_claimed, v_steady, greatest(p_capacity, 0), coalesce(p_lease_seconds, 60)
    );
  end if;
  -- All sessions together have this time, because their rows are locked until the poll ends; whoever is first has most.
  v_fill_until := clock_timestamp() + interval '200 ms';
  for v_held in
    select h.session
    from jsonb_to_recordset(p_held) as h (session text)
    where not coalesce(v_answer -> 'lost' ? h.session, false)
    order by random()
  loop
    exit when clock_timestamp() > v_fill_until;
    perform wa.search_fill(v_held.session, 500);
  end loop;
  return v_answer || jsonb_build_object('alive', v_alive);
end
$$;

create or replace function public.wa_host_leave(p_owner text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.wa_hosts where owner = p_owner;
  return jsonb_build_object('left', found);
end
$$;

create trigger note_removed_session after delete on public.wa_sessions
for each row execute function wa.note_removed_session();

create trigger start_fence before insert on public.wa_sessions
for each row execute function wa.start_fence();

alter table public.wa_removed_sessions enable row level security;

revoke all on public.wa_removed_sessions from anon, authenticated;
grant select, insert, update, delete on public.wa_removed_sessions to service_role;

revoke execute on function
public.wa_host_leave,
wa.note_removed_session,
wa.start_fence
from public, anon, authenticated;

grant execute on function
public.wa_host_leave,
wa.note_removed_session,
wa.start_fence
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127073500')
$$;

notify pgrst, 'reload schema';
