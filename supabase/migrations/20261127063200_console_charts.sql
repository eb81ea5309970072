-- What the console shows beside messages: how much came when, connections over time, what polls came to; and the
-- coverage of many groups page by page.

set check_function_bodies = off;

-- How many messages there were in each of the last `p_steps` steps of `p_step` seconds, by `ts`: of one group, or of
-- the session (`p_group` null). {now, since, step, steps, total, counted_from, counts: [{group_id, at, count}]}: `at`
-- is the number of the step, from 0 at `since`; `group_id` is one of the six busiest groups, null all the others. Reads
-- the newest `p_limit` messages of this time at most; if there are more, `counted_from` is where the count begins.
create function public.wa_activity(
  p_session text, p_group bigint, p_step integer, p_steps integer, p_limit integer default 200000
) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with span as (
    select
      date_bin(make_interval(secs => p_step), now(), '2000-01-01 00:00:00+00')
      - make_interval(secs => p_step) * (p_steps - 1) as since
  ),

  newest as materialized (
    (
      select m.group_id, m.ts
      from public.messages as m
      where p_group is null and m.session_id = p_session and m.ts >= (select s.since from span as s) and m.ts <= now()
      order by m.ts desc, m.id desc
      limit p_limit + 1
    )
    union all
    (
      select m.group_id, m.ts
      from public.messages as m
      where m.group_id = p_group and m.session_id = p_session and m.ts >= (select s.since from span as s)
        and m.ts <= now()
      order by m.ts desc, m.id desc
      limit p_limit + 1
    )
  ),

  counted as (
    select
      n.group_id, floor(extract(epoch from n.ts - (select s.since from span as s)) / p_step)::integer as at,
      count(*) as count
    from newest as n
    group by 1, 2
  ),

  ranked as (
    select c.group_id, row_number() over (order by sum(c.count) desc, c.group_id) as place
    from counted as c
    group by c.group_id
  ),

  shown as (
    select case when r.place <= 6 then r.group_id end as group_id, c.at, sum(c.count) as count
    from counted as c
    inner join ranked as r on c.group_id = r.group_id
    group by 1, 2
  )

  select jsonb_build_object(
    'now', now(), 'since', (select s.since from span as s), 'step', p_step, 'steps', p_steps,
    'total', (select count(*) from newest),
    'counted_from', (select case when count(*) > p_limit then min(n.ts) end from newest as n),
    'counts', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object('group_id', w.group_id::text, 'at', w.at, 'count', w.count) order by w.at, w.group_id
        ), '[]'
      )
      from shown as w
    )
  )
$$;

-- The same for the audit log: how often an account was connected and disconnected, tried to connect anew, and had an
-- error. {now, since, step, steps, counted_from, counts: [{event, at, count}]}. Reads the newest `p_limit` entries.
create function public.wa_event_counts(p_session text, p_step integer, p_steps integer, p_limit integer default 20000)
returns jsonb
language sql stable security invoker set search_path = '' as $$
  with span as (
    select
      date_bin(make_interval(secs => p_step), now(), '2000-01-01 00:00:00+00')
      - make_interval(secs => p_step) * (p_steps - 1) as since
  ),

  newest as materialized (
    select a.event, a.at
    from public.audit_log as a
    where a.session_id = p_session and a.at >= (select s.since from span as s) and a.at <= now()
    order by a.at desc
    limit p_limit + 1
  ),

  counted as (
    select
      n.event, floor(extract(epoch from n.at - (select s.since from span as s)) / p_step)::integer as at,
      count(*) as count
    from newest as n
    where n.event in ('connect', 'disconnect', 'reconnect', 'error')
    group by 1, 2
  )

  select jsonb_build_object(
    'now', now(), 'since', (select s.since from span as s), 'step', p_step, 'steps', p_steps,
    'counted_from', (select case when count(*) > p_limit then min(n.at) end from newest as n),
    'counts', (
      select coalesce(
        jsonb_agg(jsonb_build_object('event', c.event, 'at', c.at, 'count', c.count) order by c.at, c.event), '[]'
      )
      from counted as c
    )
  )
$$;

-- What polls (a JSON array of message ids) came to: {polls: [{poll_id, voters, options: [{option, votes}]}]}, the most
-- votes first. As the view public.poll_votes has it, and by its index: each person's newest vote. At most 2,000 people
-- a poll, 100 options.
create function public.wa_poll_results(p_session text, p_polls jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('polls', coalesce(
    jsonb_agg(
      jsonb_build_object('poll_id', p.poll #>> '{}', 'voters', result.voters, 'options', result.options)
      order by p.ord
    ), '[]'
  ))
  from jsonb_array_elements(p_polls) with ordinality as p (poll, ord)
  cross join lateral (
    with votes as materialized (
      select distinct on (v.sender)
        case when jsonb_typeof(v.content -> 'choices') = 'array' then v.content -> 'choices' else '[]' end as choices
      from public.messages as v
      where v.content -> 'about' = to_jsonb((p.poll #>> '{}')::bigint) and v.session_id = p_session
        and v.kind = 'poll_vote' and v.content ? 'choices' and v.content ? 'about' and v.revoked_at is null
      order by v.sender asc, v.ts desc, v.id desc
      limit 2000
    ),

    counted as (
      select c.option, count(*) as votes
      from votes as v
      cross join lateral (
        select distinct e.option
        from jsonb_array_elements_text(v.choices) as e (option)
      ) as c
      group by c.option
      order by count(*) desc, c.option
      limit 100
    )

    select
      (select count(*) from votes as v where v.choices <> '[]') as voters,
      coalesce(
        (
          select jsonb_agg(jsonb_build_object('option', c.option, 'votes', c.votes) order by c.votes desc, c.option)
          from counted as c
        ), '[]'
      ) as options
  ) as result
$$;

drop function public.wa_coverage(text);

-- The coverage of every group that is or was switched on, with its 20 newest gaps: {groups: [{wa_group_id, name,
-- monitor, …public.coverage}], group_count}. After `p_from` (null: since ever). Of all groups by name, `p_limit` behind
-- the first `p_offset`; null: all.
create function public.wa_coverage(
  p_session text, p_from timestamptz default null, p_limit integer default null, p_offset integer default 0
) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with listed as materialized (
    select g.wa_group_id, g.name, g.monitor
    from public.groups as g
    where g.session_id = p_session and (g.monitor or exists (
      select 1
      from public.coverage_gaps as c
      where c.session_id = p_session and c.chat_id = g.wa_group_id and c.reason = 'not_monitored'
    ))
  ),

  page as materialized (
    select l.wa_group_id, l.name, l.monitor
    from listed as l
    order by l.name, l.wa_group_id
    limit p_limit offset p_offset
  )

  select jsonb_build_object(
    'group_count', (select count(*) from listed),
    'groups', coalesce(
      jsonb_agg(
        jsonb_build_object('wa_group_id', p.wa_group_id, 'name', p.name, 'monitor', p.monitor)
        || public.coverage(p_session, p.wa_group_id, p_from, null, 20)
        order by p.name, p.wa_group_id
      ), '[]'
    )
  )
  from page as p
$$;

revoke execute on function
public.wa_activity,
public.wa_coverage,
public.wa_event_counts,
public.wa_poll_results
from public, anon, authenticated;

grant execute on function
public.wa_activity,
public.wa_coverage,
public.wa_event_counts,
public.wa_poll_results
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127063200')
$$;

notify pgrst, 'reload schema';
