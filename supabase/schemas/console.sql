-- What an operator reads and requests from the command line, and the figures of /metrics.

-- The caller's role and the database's clock: for checks of the key and of the calling machine's clock.
create function public.wa_whoami() returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select jsonb_build_object(
    'role', current_user, 'now', clock_timestamp(), 'version', public.wa_schema_version() ->> 'version'
  )
$$;

-- How many messages a session has: exactly up to 10,000, above that the planner's estimate.
create function wa.count_messages(p_session text) returns jsonb
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

-- What a status command shows. Without the QR itself, which gives access to the account, and without the settings,
-- which may hold a proxy's password. Its cost does not grow with the tables: above 10,000, `messages` and `media` are
-- estimates (`messages_exact`); `last_message_at` reads each group's newest message.
create function public.wa_status(p_session text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  with counted as materialized (select wa.count_messages(p_session) as messages)

  select jsonb_build_object(
    'schema_version', public.wa_schema_version() ->> 'version',
    'now', now(),
    'session', (
      select to_jsonb(s) - 'creds_json' - 'detail' - 'settings' || jsonb_build_object(
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
    'refused_waiting', (
      select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session and r.state = 'waiting'
    ),
    'undecrypted', (
      select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session and r.state = 'undecrypted'
    ),
    'held_changes', (select count(*) from public.wa_held_changes as h where h.session_id = p_session)
  )
$$;

-- All groups, or one, with their last message (by `ts`) and the number of messages in the last 24 hours.
create function public.wa_list_groups(p_session text, p_group bigint default null) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'groups', coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', g.id::text, 'wa_group_id', g.wa_group_id, 'name', g.name, 'monitor', g.monitor,
          'left_at', g.left_at,
          'today', (
            select count(*)
            from public.messages as m
            where m.group_id = g.id and m.ts > now() - interval '24 hours'
          ),
          'last', last.message
        ) order by g.monitor desc, g.left_at is not null, g.name nulls last, g.id
      ),
      '[]'
    )
  )
  from public.groups as g
  left join lateral (
    select jsonb_build_object(
      'id', m.id::text, 'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
      'from_me', m.from_me, 'kind', m.kind, 'text', left(m.text, 200), 'media_status', m.media_status,
      'revoked_at', m.revoked_at, 'revoke_claimed_at', m.revoke_claimed_at
    ) as message
    from public.messages as m
    where m.group_id = g.id and m.kind <> 'system'
    order by m.ts desc, m.id desc
    limit 1
  ) as last on true
  where g.session_id = p_session and (p_group is null or g.id = p_group)
$$;

-- How many messages there were in each of the last `p_steps` steps of `p_step` seconds, by `ts`: of one group, or of
-- the session (`p_group` null). {now, since, step, steps, total, counted_from, counts: [{group_id, at, count}]}: `at`
-- is the number of the step, from 0 at `since`; `group_id` is one of the six busiest groups, null all the others.
-- Counts about the newest `p_limit` messages of this time; if there are more, `counted_from` is where the count begins.
-- Reads nothing but indexes.
create function public.wa_activity(
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

-- The same for the audit log: how often an account was connected, disconnected, reconnecting, or had an error. {now,
-- since, step, steps, counted_from, counts: [{event, at, count}]}. Reads the newest `p_limit` entries.
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

-- Results of polls (a JSON array of message ids): {polls: [{poll_id, voters, options: [{option, votes}]}]}, the most
-- votes first. As the view public.poll_votes, and by its index: each person's newest vote. At most 2,000 people a poll,
-- 100 options.
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
            'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender,
            'push_name', coalesce(m.push_name, p.push_name),
            'from_me', m.from_me, 'kind', m.kind, 'text', m.text, 'file_name', m.file_name,
            'media_status', m.media_status, 'mime', f.mime, 'bytes', f.bytes::text, 'edited_at', m.edited_at,
            'revoked_at', m.revoked_at, 'revoke_claimed_at', m.revoke_claimed_at
          ) order by case when p_after is null then m.ts end, m.id
        ),
        '[]'
      )
      from public.messages as m
      inner join public.groups as g on m.group_id = g.id
      left join public.media as f on m.media_id = f.id
      left join public.people as p on m.session_id = p.session_id and m.sender = p.sender
      where m.id = any(v_ids)
    )
  );
end
$$;

-- Up to `p_limit` messages of a group after `p_after`, by id, with file, earlier texts and reactions.
create function public.wa_export_messages(p_session text, p_group bigint, p_after bigint, p_limit integer)
returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('messages', coalesce(jsonb_agg(e.document order by e.id), '[]'))
  from (
    select
      m.id,
      to_jsonb(m) || jsonb_build_object(
        'id', m.id::text, 'group_id', m.group_id::text, 'media_id', m.media_id::text,
        'parent_id', m.parent_id::text, 'quoted_id', m.quoted_id::text, 'album_id', m.album_id::text,
        'rendition_of', m.rendition_of::text,
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

-- How much there is to export: all messages of a group, and those after `p_after`. Reads an index alone.
create function public.wa_export_size(p_session text, p_group bigint, p_after bigint) returns jsonb
language sql stable security invoker set search_path = '' set enable_seqscan = off as $$
  select jsonb_build_object('all', count(*), 'left', count(*) filter (where m.id > p_after))
  from public.messages as m
  where m.group_id = (select g.id from public.groups as g where g.id = p_group and g.session_id = p_session)
$$;

-- What is listed as refused, waiting or undecrypted, by id, after `p_after`; without its content.
create function public.wa_list_refused(p_session text, p_after bigint, p_limit integer) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('items', coalesce(jsonb_agg(to_jsonb(listed) order by listed.id), '[]'))
  from (
    select
      r.id, r.at, r.item, r.state, r.chat_id, r.sender, r.wa_msg_id, r.code, r.reason, r.tries, r.next_at,
      r.body is not null as has_body
    from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.id > p_after
    order by r.id
    limit p_limit
  ) as listed
$$;

-- The kept bytes of a listed item; nulls if it is no longer listed.
create function public.wa_refused_body(p_session text, p_id bigint) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    (
      select jsonb_build_object('body', r.body, 'encoding', r.encoding)
      from public.wa_refused_stanzas as r
      where r.session_id = p_session and r.id = p_id
    ),
    '{"body": null, "encoding": "base64"}'
  )
$$;
