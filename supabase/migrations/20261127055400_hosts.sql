-- Sessions that hosts serve: which are wanted, their settings, requests of each, and how hosts share them.

set check_function_bodies = off;

alter table public.wa_sessions
add column wanted boolean not null default false,
add column settings jsonb not null default '{}' check (jsonb_typeof(settings) = 'object'),
add column owner_id uuid,
add column host_since timestamptz,
add column start_failures integer not null default 0,
add column failed_owner text,
add column not_before timestamptz;

create index wa_sessions_free on public.wa_sessions (id) where wanted and lease_owner is null;

create index wa_sessions_wanted on public.wa_sessions (id) where wanted;

create table public.wa_requests (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id) on delete cascade,
  name text not null check (name in ('fetch_groups', 'refresh_qr', 'pairing_code', 'disconnect')),
  args jsonb not null default '{}' check (jsonb_typeof(args) = 'object'),
  created_at timestamptz not null default now(),
  handled_at timestamptz,
  result text
);

create index wa_requests_pending on public.wa_requests (session_id, id) where handled_at is null;

create index wa_requests_handled on public.wa_requests (session_id, handled_at) where handled_at is not null;

create table public.wa_hosts (
  owner text primary key,
  held integer not null,
  steady integer not null,
  room integer not null,
  lease_seconds double precision not null,
  seen_at timestamptz not null default clock_timestamp(),
  gave_up_at timestamptz,
  failed_at timestamptz
);

drop function public.wa_lease_release(text, text, bigint);

drop function public.wa_host_poll(text, integer, jsonb);

create or replace function public.wa_lease_acquire(p_session text, p_owner text, p_seconds double precision)
returns jsonb
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

create or replace function public.wa_lease_release(
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

create or replace function public.wa_ask(p_session text, p_name text, p_args jsonb default '{}') returns jsonb
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

create or replace function public.wa_request_handled(p_session text, p_id bigint, p_result text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_requests
  set handled_at = clock_timestamp(), result = left(p_result, 1000), args = '{}'
  where id = p_id and session_id = p_session and handled_at is null;
  return jsonb_build_object('found', found);
end
$$;

create or replace function public.wa_request_state(p_session text, p_id bigint) returns jsonb
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

create or replace function wa.pending_requests(p_session text) returns jsonb
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

create or replace function public.wa_prune(
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
  v_unsearched boolean := wa.search_fill(p_session, 2000);
begin
  if exists (select 1 from public.wa_merges_due as d where d.session_id = p_session) then
    perform 1 from public.wa_sessions where id = p_session for no key update;
    for v_attempt in 1..3 loop
      begin
        perform wa.merge_step(p_session, 2000);
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
        and not wa.is_listed(p_session, h.chat_id, h.target_sender, h.target_id)
        and not wa.is_listed(p_session, h.chat_id, h.author, h.change_id)
      order by h.held_at
      limit 10000
    ))
    returning kind
  ),

  counted as (
    select count(wa.count_discard(p_session, k.kind || '_unmatched', k.count))
    from (
      select g.kind, count(*) as count from gone as g where g.kind not in ('quote', 'album', 'rendition') group by g.kind
    ) as k
  )

  select count(*) into v_changes from gone as g cross join counted;
  delete from public.message_secrets
  where message_id = any(array(
    select s.message_id
    from public.message_secrets as s
    where s.session_id = p_session and s.at < now() - interval '7 days'
      and not exists (
        select 1 from public.messages as m where m.id = s.message_id and m.kind in ('poll', 'event')
      )
    order by s.message_id
    limit 10000
  ));
  get diagnostics v_secrets = row_count;
  delete from public.wa_requests where session_id = p_session and handled_at < now() - interval '7 days';
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'changes', v_changes, 'secrets', v_secrets,
    'more', v_unsearched or 10000 in (v_stanzas, v_audits, v_changes, v_secrets)
    or exists (select 1 from public.wa_merges_due as d where d.session_id = p_session)
  );
end
$$;

create or replace function wa.settings_version(p_settings jsonb) returns text
language sql immutable security invoker set search_path = '' as $$
  select md5(p_settings::text)
$$;

create or replace function wa.told_settings(p_settings jsonb) returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', wa.settings_version(p_settings), 'values', p_settings)
$$;

create or replace function wa.news_of(p_session text, p_monitored bigint, p_media integer) returns jsonb
language plpgsql volatile security invoker set search_path = '' as $$
declare
  v_news jsonb := '{}';
  v_flags jsonb;
  v_version bigint;
  v_taken bigint;
begin
  if exists (
    select 1 from public.runtime_flags as r
    where r.session_id = p_session and r.value is distinct from r.handled_value
  ) then
    v_flags := public.wa_pending_flags(p_session) -> 'flags';
    if v_flags <> '[]' then
      v_news := v_news || jsonb_build_object('flags', v_flags);
    end if;
  end if;
  -- Before the groups, which may then be newer than the version: they are only read once more.
  select m.version, m.taken into v_version, v_taken
  from public.wa_monitored_versions as m where m.session_id = p_session;
  v_version := coalesce(v_version, 0);
  if v_version = p_monitored and v_taken is distinct from v_version and v_version > 0 then
    perform wa.monitored_taken(p_session, v_version);
  end if;
  if v_version is distinct from p_monitored then
    v_news := v_news || jsonb_build_object(
      'monitored', public.wa_monitored_groups(p_session) || jsonb_build_object('version', v_version::text)
    );
  end if;
  if p_media > 0 and exists (
    select 1 from public.media_jobs as j
    where j.session_id = p_session and j.next_attempt_at <= now()
      and (j.lease_expires_at is null or j.lease_expires_at <= now()) and (p_media > 1 or j.wants_phone_at is null)
  ) then
    v_news := v_news || '{"media": true}';
  end if;
  if exists (
    select 1 from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.state = 'waiting' and r.next_at <= now()
  ) then
    v_news := v_news || '{"refused": true}';
  end if;
  if exists (select 1 from public.wa_requests as r where r.session_id = p_session and r.handled_at is null) then
    v_news := v_news || jsonb_build_object('requests', wa.pending_requests(p_session));
  end if;
  return v_news;
end
$$;

create or replace function wa.live_hosts() returns setof public.wa_hosts
language sql stable security invoker set search_path = '' as $$
  select h.*
  from public.wa_hosts as h
  where h.seen_at > clock_timestamp() - make_interval(secs => h.lease_seconds / 2)
$$;

create or replace function wa.note_host(
  p_owner text, p_held integer, p_steady integer, p_room integer, p_lease double precision
) returns boolean
language plpgsql security invoker set search_path = '' as $$
declare
  v_host public.wa_hosts;
begin
  select * into v_host from public.wa_hosts as h where h.owner = p_owner;
  if v_host.owner is null then
    delete from public.wa_hosts where seen_at < clock_timestamp() - interval '1 day';
    insert into public.wa_hosts (owner, held, steady, room, lease_seconds)
    values (p_owner, p_held, p_steady, p_room, p_lease)
    on conflict (owner) do nothing;
    return true;
  end if;
  if (v_host.held, v_host.steady, v_host.room, v_host.lease_seconds) = (p_held, p_steady, p_room, p_lease)
    and v_host.seen_at > clock_timestamp() - make_interval(secs => p_lease / 6) then
    return false;
  end if;
  update public.wa_hosts
  set held = p_held, steady = p_steady, room = p_room, lease_seconds = p_lease, seen_at = clock_timestamp()
  where owner = p_owner;
  return true;
end
$$;

create or replace function wa.free_sessions(p_owner text, p_all boolean) returns setof public.wa_sessions
language plpgsql stable security invoker set search_path = '' set enable_seqscan = off as $$
begin
  if p_all then
    return query
    select s.*
    from public.wa_sessions as s
    where s.wanted and (s.lease_owner is null or s.lease_expires_at <= clock_timestamp())
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

create or replace function wa.fair_share(p_free integer) returns integer
language sql stable security invoker set search_path = '' as $$
  with hosts as (
    select
      h.held + h.room as most,
      coalesce(sum(h.held + h.room) over smaller, 0) as before,
      count(*) over larger as hosts,
      sum(h.held) over () + p_free as sessions
    from wa.live_hosts() as h
    window
      smaller as (order by h.held + h.room, h.owner rows between unbounded preceding and 1 preceding),
      larger as (order by h.held + h.room, h.owner rows between current row and unbounded following)
  )

  select ceil((h.sessions - h.before)::numeric / h.hosts)::integer
  from hosts as h
  where ceil((h.sessions - h.before)::numeric / h.hosts) <= h.most
  order by h.most
  limit 1
$$;

create or replace function wa.claim_sessions(
  p_owner text, p_most integer, p_seconds double precision, p_all boolean, p_waited interval
) returns jsonb
language sql volatile security invoker set search_path = '' set enable_seqscan = off as $$
  with free as materialized (
    select s.id
    from public.wa_sessions as s
    where s.id = any(array(
      select f.id
      from wa.free_sessions(p_owner, p_all) as f
      where coalesce(f.lease_expires_at, f.host_since, f.created_at) <= clock_timestamp() - p_waited
      order by coalesce(f.lease_expires_at, f.host_since, f.created_at)
      limit p_most
    )) and s.wanted and (s.lease_owner is null or s.lease_expires_at <= clock_timestamp())
    for no key update skip locked
  ),

  claimed as (
    update public.wa_sessions as s
    set
      lease_owner = p_owner, lease_seconds = p_seconds, fence = s.fence + 1, host_since = clock_timestamp(),
      lease_expires_at = clock_timestamp() + make_interval(secs => p_seconds)
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

create or replace function wa.session_to_give(p_owner text, p_sessions text[]) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_mine public.wa_hosts;
  v_excess integer;
  v_session text;
begin
  select * into v_mine from public.wa_hosts as h where h.owner = p_owner;
  v_excess := v_mine.held - wa.fair_share(0);
  if coalesce(v_excess, 0) <= 0
    or v_mine.gave_up_at > clock_timestamp() - interval '1 minute' / ((v_excess + 1) * (v_excess + 2))
    or not exists (
      select 1
      from wa.live_hosts() as h
      where h.owner <> p_owner and h.room > 0 and h.held <= v_mine.held - 2
        and (h.steady > 0 or coalesce(h.failed_at < clock_timestamp() - interval '5 minutes', true))
    ) then
    return null;
  end if;
  select s.id into v_session
  from public.wa_sessions as s
  where s.id = any(p_sessions) and s.lease_owner = p_owner and s.status <> 'connecting'
    and s.host_since <= clock_timestamp() - make_interval(secs => s.lease_seconds)
  order by s.status = 'connected', s.host_since
  limit 1;
  if v_session is not null then
    update public.wa_hosts set gave_up_at = clock_timestamp() where owner = p_owner;
  end if;
  return v_session;
end
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
  v_given text;
begin
  if p_room > 0 then
    select count(*) into v_free from wa.free_sessions(p_owner, v_due);
  end if;
  if v_free > 0 then
    v_share := least(p_room, wa.fair_share(v_free) - v_held);
    if coalesce(v_share, p_room) > 0 then
      v_claimed := wa.claim_sessions(p_owner, coalesce(v_share, p_room), p_seconds, v_due, '0 s');
    end if;
    if jsonb_array_length(v_claimed) < p_room then
      v_claimed := v_claimed || wa.claim_sessions(
        p_owner, p_room - jsonb_array_length(v_claimed), p_seconds, v_due, '10 s'
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
      set lease_expires_at = clock_timestamp() + v_row.lease, start_failures = 0
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
    perform wa.search_fill(v_held.session, 500);
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
  if p_capacity > 0 or cardinality(v_claimed) > 0 then
    v_answer := v_answer || wa.share_sessions(
      p_owner, v_claimed, v_steady, greatest(p_capacity, 0), coalesce(p_lease_seconds, 60)
    );
  end if;
  return v_answer || jsonb_build_object('alive', v_alive);
end
$$;

alter table public.wa_hosts enable row level security;
alter table public.wa_requests enable row level security;

revoke all on public.wa_hosts, public.wa_requests from anon, authenticated;
grant select, insert, update, delete on public.wa_hosts, public.wa_requests to service_role;
revoke all on sequence public.wa_requests_id_seq from anon, authenticated;

revoke execute on function
public.wa_ask,
public.wa_host_poll,
public.wa_lease_release,
public.wa_request_handled,
public.wa_request_state,
wa.claim_sessions,
wa.fair_share,
wa.free_sessions,
wa.live_hosts,
wa.note_host,
wa.pending_requests,
wa.session_to_give,
wa.settings_version,
wa.share_sessions,
wa.told_settings
from public, anon, authenticated;

grant execute on function
public.wa_ask,
public.wa_host_poll,
public.wa_lease_release,
public.wa_request_handled,
public.wa_request_state,
wa.claim_sessions,
wa.fair_share,
wa.free_sessions,
wa.live_hosts,
wa.note_host,
wa.pending_requests,
wa.session_to_give,
wa.settings_version,
wa.share_sessions,
wa.told_settings
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127055400')
$$;

notify pgrst, 'reload schema';
