-- A chart and a group's number of messages are counted by indexes alone.

-- How many messages there were in each of the last `p_steps` steps of `p_step` seconds, by `ts`: of one group, or of
-- the session (`p_group` null). {now, since, step, steps, total, counted_from, counts: [{group_id, at, count}]}: `at`
-- is the number of the step, from 0 at `since`; `group_id` is one of the six busiest groups, null all the others.
-- Counts about the newest `p_limit` messages of this time; if there are more, `counted_from` is where the count begins.
-- Reads nothing but indexes.
create or replace function public.wa_activity(
  p_session text, p_group bigint, p_step integer, p_steps integer, p_limit integer default 200000
) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with span as materialized (
    select
      date_bin(make_interval(secs => p_step), now(), '2000-01-01 00:00:00+00')
      - make_interval(secs => p_step) * (p_steps - 1) as since
  ),

  edge as materialized (
    select
      (
        select m.ts
        from public.messages as m
        where p_group is null and m.session_id = p_session and m.ts >= (select s.since from span as s)
          and m.ts <= now()
        order by m.ts desc, m.id desc
        limit 1
        offset p_limit
      ) as of_session,
      (
        select m.ts
        from public.messages as m
        where m.group_id = p_group and m.ts >= (select s.since from span as s) and m.ts <= now()
        order by m.ts desc, m.id desc
        limit 1
        offset p_limit
      ) as of_group
  ),

  counted as materialized (
    select g.id as group_id, c.begins, c.count
    from public.groups as g
    cross join lateral (
      select
        date_bin(make_interval(secs => p_step), m.ts, '2000-01-01 00:00:00+00') as begins, count(*) as count
      from public.messages as m
      where m.group_id = g.id and m.ts <= now()
        and m.ts >= (select coalesce(e.of_session, e.of_group, s.since) from span as s cross join edge as e)
      group by 1
    ) as c
    where g.session_id = p_session and (p_group is null or g.id = p_group)
  ),

  ranked as (
    select c.group_id, row_number() over (order by sum(c.count) desc, c.group_id) as place
    from counted as c
    group by c.group_id
  ),

  shown as (
    select
      case when r.place <= 6 then r.group_id end as group_id,
      (extract(epoch from c.begins - (select s.since from span as s)) / p_step)::integer as at, sum(c.count) as count
    from counted as c
    inner join ranked as r on c.group_id = r.group_id
    group by 1, 2
  )

  select jsonb_build_object(
    'now', now(), 'since', (select s.since from span as s), 'step', p_step, 'steps', p_steps,
    'total', (select coalesce(sum(c.count), 0) from counted as c),
    'counted_from', (select coalesce(e.of_session, e.of_group) from edge as e),
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

-- How much there is to export: all messages of a group, and those after `p_after`. Reads an index alone.
create or replace function public.wa_export_size(p_session text, p_group bigint, p_after bigint) returns jsonb
language sql stable security invoker set search_path = '' set enable_seqscan = off as $$
  select jsonb_build_object('all', count(*), 'left', count(*) filter (where m.id > p_after))
  from public.messages as m
  where m.group_id = (select g.id from public.groups as g where g.id = p_group and g.session_id = p_session)
$$;

-- How many messages a group has: exactly up to 10,000, above that the planner's estimate.
create function public.wa_count_messages(p_session text, p_group bigint) returns jsonb
language plpgsql volatile security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_group bigint := (select g.id from public.groups as g where g.id = p_group and g.session_id = p_session);
  v_count bigint;
  v_plan json;
begin
  select count(*) into v_count
  from (select 1 from public.messages as m where m.group_id = v_group limit 10001) as some_of_them;
  if v_count <= 10000 then
    return jsonb_build_object('count', v_count, 'exact', true);
  end if;
  execute format('explain (format json) select 1 from public.messages where group_id = %L', v_group) into v_plan;
  return jsonb_build_object(
    'count', greatest(v_count, (v_plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint), 'exact', false
  );
end
$$;

revoke execute on function public.wa_count_messages from public, anon, authenticated;

grant execute on function public.wa_count_messages to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127124800')
$$;

notify pgrst, 'reload schema';
