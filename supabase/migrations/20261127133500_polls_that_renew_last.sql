-- A claim whose answer was lost is handed to its host again at its next poll. The poll reads first and renews last, so
-- that commits wait for its rows only briefly. A worker that takes a session rejects requests older than ten minutes.

drop function wa.free_sessions(text, boolean);

drop function wa.claim_sessions(text, integer, double precision, boolean, interval);

drop trigger wanted_again on public.wa_sessions;

drop function wa.note_wanted_again();

create or replace function wa.free_sessions(p_owner text, p_sessions text[], p_all boolean)
returns setof public.wa_sessions
language plpgsql stable security invoker set search_path = '' set enable_seqscan = off as $$
begin
  if p_all then
    return query
    select s.*
    from public.wa_sessions as s
    where s.wanted and (
      s.lease_owner is null or s.lease_expires_at <= clock_timestamp()
      or (
        s.lease_owner = p_owner and s.id <> all(p_sessions)
        and s.lease_expires_at <= s.host_since + make_interval(secs => s.lease_seconds)
      )
    )
      and (s.not_before is null or s.not_before <= now() or (s.start_failures < 2 and s.failed_owner <> p_owner));
  else
    return query
    select s.*
    from public.wa_sessions as s
    where s.wanted and s.lease_owner is null
      and (s.not_before is null or s.not_before <= now() or (s.start_failures < 2 and s.failed_owner <> p_owner));
  end if;
end
$$;

create or replace function wa.claim_sessions(
  p_owner text, p_sessions text[], p_most integer, p_seconds double precision, p_all boolean, p_waited interval
) returns jsonb
language sql volatile security invoker set search_path = '' set enable_seqscan = off as $$
  with free as materialized (
    select s.id, clock_timestamp() as at
    from public.wa_sessions as s
    where s.id = any(array(
      select f.id
      from wa.free_sessions(p_owner, p_sessions, p_all) as f
      where f.lease_owner = p_owner
        or coalesce(f.lease_expires_at, f.host_since, f.created_at) <= clock_timestamp() - p_waited
      order by coalesce(f.lease_expires_at, f.host_since, f.created_at)
      limit p_most
    ))
      and s.wanted
      and (s.lease_owner is null or s.lease_owner = p_owner or s.lease_expires_at <= clock_timestamp())
    for no key update skip locked
  ),

  claimed as (
    update public.wa_sessions as s
    set
      lease_owner = p_owner, lease_seconds = p_seconds, fence = s.fence + 1, host_since = free.at,
      lease_expires_at = free.at + make_interval(secs => p_seconds)
    from free
    where s.id = free.id
    returning s.id, s.fence, s.lease_expires_at, s.settings
  )

  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'session', c.id, 'fence', c.fence::text, 'until', c.lease_expires_at, 'now', clock_timestamp(),
        'settings', wa.told_settings(c.settings)
      ) order by c.id
    ),
    '[]'
  )
  from claimed as c
$$;

create or replace function wa.share_sessions(
  p_owner text, p_sessions text[], p_steady integer, p_room integer, p_seconds double precision
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held integer := cardinality(p_sessions);
  v_due boolean := wa.note_host(p_owner, v_held, p_steady, p_room, p_seconds);
  v_free integer;
  v_share integer;
  v_claimed jsonb := '[]';
  v_sessions text[];
  v_given text;
begin
  if p_room > 0 then
    select count(*) into v_free from wa.free_sessions(p_owner, p_sessions, v_due);
  end if;
  if v_free > 0 then
    v_share := least(p_room, wa.fair_share(v_free) - v_held);
    if coalesce(v_share, p_room) > 0 then
      v_claimed := wa.claim_sessions(p_owner, p_sessions, coalesce(v_share, p_room), p_seconds, v_due, '0 s');
    end if;
    if jsonb_array_length(v_claimed) < p_room then
      v_sessions := p_sessions || array(select c.it ->> 'session' from jsonb_array_elements(v_claimed) as c (it));
      v_claimed := v_claimed || wa.claim_sessions(
        p_owner, v_sessions, p_room - jsonb_array_length(v_claimed), p_seconds, v_due, '10 s'
      );
    end if;
    update public.wa_hosts
    set held = held + jsonb_array_length(v_claimed), room = room - jsonb_array_length(v_claimed)
    where owner = p_owner and v_claimed <> '[]';
  elsif v_due then
    v_given := wa.session_to_give(p_owner, p_sessions);
  end if;
  return case when v_claimed <> '[]' then jsonb_build_object('claimed', v_claimed) else '{}' end
    || case when v_given is not null then jsonb_build_object('give_up', jsonb_build_array(v_given)) else '{}' end;
end
$$;

create or replace function wa.renew_leases(p_owner text, p_held jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_until timestamptz;
  v_due boolean;
  v_moves boolean;
  v_renewed jsonb := '{}';
  v_busy jsonb := '[]';
begin
  for v_held in
    select h.session, h.fence, h.epoch, h.complete_to
    from jsonb_to_recordset(p_held) as h (session text, fence bigint, epoch bigint, complete_to timestamptz)
    order by h.session
  loop
    select
      s.lease_expires_at, make_interval(secs => s.lease_seconds) as lease, s.epoch, s.complete_epoch, s.complete_to
    into v_row
    from public.wa_sessions as s
    where s.id = v_held.session and s.fence = v_held.fence and s.lease_owner = p_owner;
    v_due := v_row.lease_expires_at <= clock_timestamp() + v_row.lease * 2 / 3;
    v_moves := v_held.epoch = v_row.epoch and v_held.complete_to is not null and (
      v_row.complete_epoch is distinct from v_row.epoch
      or v_held.complete_to > coalesce(v_row.complete_to, '-infinity') + v_row.lease / 3
    );
    continue when not coalesce(v_due or v_moves, false);
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
      v_renewed := v_renewed || jsonb_build_object(v_held.session, v_until);
    elsif v_due then
      v_busy := v_busy || to_jsonb(v_held.session);
    end if;
  end loop;
  return case when v_renewed <> '{}' then jsonb_build_object('renewed', v_renewed) else '{}' end
    || case when v_busy <> '[]' then jsonb_build_object('busy', v_busy) else '{}' end;
end
$$;

create or replace function public.wa_host_poll(
  p_owner text, p_capacity integer, p_held jsonb, p_lease_seconds double precision default null
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_news jsonb;
  v_alive integer := 0;
  v_claimed text[] := '{}';
  v_steady integer := 0;
  v_answer jsonb := '{}';
  v_fill_until timestamptz;
begin
  for v_held in
    select h.session, h.fence, h.monitored, h.media, h.claimed, h.settings
    from jsonb_to_recordset(p_held) as h (
      session text, fence bigint, monitored bigint, media integer, claimed boolean, settings text
    )
    order by h.session
  loop
    select
      s.fence, s.lease_owner, s.wanted, s.settings,
      s.host_since <= clock_timestamp() - make_interval(secs => s.lease_seconds) as is_steady
    into v_row
    from public.wa_sessions as s where s.id = v_held.session;
    if v_row.fence is distinct from v_held.fence or v_row.lease_owner is distinct from p_owner then
      v_answer := jsonb_set(v_answer, '{lost}', coalesce(v_answer -> 'lost', '[]') || to_jsonb(v_held.session));
      continue;
    end if;
    v_alive := v_alive + 1;
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
  if p_capacity is not null and (p_capacity > 0 or cardinality(v_claimed) > 0) then
    v_answer := v_answer || wa.share_sessions(
      p_owner, v_claimed, v_steady, greatest(p_capacity, 0), coalesce(p_lease_seconds, 60)
    );
  end if;
  return v_answer || wa.renew_leases(p_owner, p_held) || jsonb_build_object('alive', v_alive);
end
$$;

create or replace function wa.reject_old_requests() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_requests
  set handled_at = clock_timestamp(), result = 'turned down: asked too long ago', args = '{}'
  where id in (
    select r.id
    from public.wa_requests as r
    where r.session_id = new.id and r.handled_at is null
      and r.created_at < clock_timestamp() - interval '10 minutes'
    for no key update skip locked
  );
  return null;
end
$$;

create trigger reject_old_requests after update of lease_owner on public.wa_sessions
for each row when (new.lease_owner is not null and new.lease_owner is distinct from old.lease_owner)
execute function wa.reject_old_requests();

revoke execute on function
wa.claim_sessions,
wa.free_sessions,
wa.reject_old_requests,
wa.renew_leases
from public, anon, authenticated;

grant execute on function
wa.claim_sessions,
wa.free_sessions,
wa.reject_old_requests,
wa.renew_leases
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127133500')
$$;

notify pgrst, 'reload schema';
