-- The poll: one call for everything that an idle process must do for its sessions. And hosts: processes that serve any
-- number of wanted sessions, which they claim by the poll.

-- Hosts that have polled. Written every sixth of a lease, or when a figure changes; one that stops leaves. A host that
-- was not seen for half a lease does not count (wa.live_hosts). Only a hint for sharing: the lease says who serves a
-- session.
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

-- The version of a session's settings, so that a process that has them is not sent them again.
create function wa.settings_version(p_settings jsonb) returns text
language sql immutable security invoker set search_path = '' as $$
  select md5(p_settings::text)
$$;

create function wa.told_settings(p_settings jsonb) returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', wa.settings_version(p_settings), 'values', p_settings)
$$;

create function wa.live_hosts() returns setof public.wa_hosts
language sql stable security invoker set search_path = '' as $$
  select h.*
  from public.wa_hosts as h
  where h.seen_at > clock_timestamp() - make_interval(secs => h.lease_seconds / 2)
$$;

-- Records that a host is alive, and what it holds. Returns whether that was due; expensive work is only done then.
create function wa.note_host(
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

-- Sessions that `p_owner` may claim, besides `p_sessions`, which it has. `p_all`: also those of a holder whose lease
-- expired, and those that this host claimed without learning of it, because the answer to its poll was lost: it has
-- never renewed them. That reads every wanted session; without it, only those that nobody holds.
create function wa.free_sessions(p_owner text, p_sessions text[], p_all boolean)
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

-- How many sessions each host should hold, with `p_free` more to come: the smallest number at which the live hosts have
-- room for all. If all have room, it is all sessions divided by the hosts, rounded up. Null: there is no room for all.
create function wa.fair_share(p_free integer) returns integer
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

-- Claims up to `p_most` of wa.free_sessions, the longest-waiting first, each with a new fence. Waits for no lock, so
-- two hosts never take the same one. `p_waited`: only those that have been free for this long.
create function wa.claim_sessions(
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

-- A session of `p_sessions` that this host should give up, because it holds more than its share and another has room;
-- null: none. The surplus goes within a minute: with n too many the pause is 30 s / (n + 1) (n + 2), which adds up to
-- 15 s, and a host asks only every sixth of a lease or when it has given one up. A session that has just come stays for
-- a lease, and one that is connecting or shows a code stays until that is over. A host whose starts fail and that keeps
-- none gets nothing. As the other holds two fewer, nothing moves back.
create function wa.session_to_give(p_owner text, p_sessions text[]) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_mine public.wa_hosts;
  v_excess integer;
  v_session text;
begin
  select * into v_mine from public.wa_hosts as h where h.owner = p_owner;
  v_excess := v_mine.held - wa.fair_share(0);
  if coalesce(v_excess, 0) <= 0
    or v_mine.gave_up_at > clock_timestamp() - interval '30 seconds' / ((v_excess + 1) * (v_excess + 2))
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

-- A host's turn in a poll: {claimed?, give_up?}. First it fills up to its share. Beyond that it takes what has been
-- free for ten seconds, because the hosts whose turn it was do not come. `p_sessions`: those that it has claimed.
create function wa.share_sessions(
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

-- What is new for a held session: {flags?, monitored?, media?, refused?, requests?}, as public.wa_host_poll returns it.
create function wa.news_of(p_session text, p_monitored bigint, p_media integer) returns jsonb
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

-- Renews those of the leases `p_held` that are due, and moves their marks: {renewed?, busy?}, as public.wa_host_poll
-- returns them.
create function wa.renew_leases(p_owner text, p_held jsonb) returns jsonb
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

-- Renews the leases that `p_owner` holds, and reports what is new. `p_held`: [{session, fence, monitored, media,
-- epoch?, complete_to?, claimed?, settings?}]; `monitored` is the version of the monitored groups that the process has,
-- null if it has none; `media` says which jobs it could take now: 0 none, 1 files, 2 also those that wait for the
-- phone; what came until `complete_to` on the connection `epoch` is durable (wa.move_mark); `claimed` says that it came
-- by a poll, and `settings` which version of its settings the process has. `p_capacity`: how many more sessions it
-- could take now. 0, with none of its sessions claimed: not a host. Null: a query for these sessions alone, which says
-- nothing about the host and shares nothing. `p_lease_seconds`: how long a claimed lease lasts, 60 if null.
--
-- Also writes the next search entries, at most 500 a session, and for all sessions together as many as fit into 200 ms
-- (wa.search_fill).
--
-- Waits for no lock. A lease is written after a third of its time. If the session's row is locked then, because its
-- holder commits, the session is `busy`: its lease stays as it is, and the commit renews it. Commits wait for the rows
-- that this poll has written, so it reads first and renews last.
--
-- Answer: {alive: how many sessions are still held, lost?: [session], busy?: [session], renewed?: {session: until},
-- news?: {session: wa.news_of}, claimed?: [{session, fence, until, now, settings}], give_up?: [session]}. In the news,
-- `flags` are those of public.wa_pending_flags, `monitored` is {version, groups}; `media` and `refused` say that
-- public.wa_media_claim or public.wa_due_refused would find something; `requests` are those of wa.pending_requests. A
-- host also gets `stop`: the session is no longer wanted, and `settings`: {version, values}, if they have changed.
-- `give_up`: stop and release it, for balance.
create function public.wa_host_poll(
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

-- A host stops: others no longer count on its room. It releases the sessions it still holds itself.
create function public.wa_host_leave(p_owner text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.wa_hosts where owner = p_owner;
  return jsonb_build_object('left', found);
end
$$;
