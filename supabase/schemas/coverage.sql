-- Coverage: from when to when the archive of each group is complete, and why not elsewhere. docs/coverage.md says what
-- "complete" claims.
--
-- `wa_sessions.complete_to` is the high-water mark: everything that WhatsApp had for us until then is durable. Time
-- away is not a gap by itself: WhatsApp keeps its messages, and when they have come the mark passes over it. Times are
-- WhatsApp's, as in messages.ts; gaps that start or end with something we do use the database's clock.

-- Times for which something is permanently missing, and why. `chat_id` null: all groups. `from_at` '-infinity': since
-- ever; `to_at` null: still open. `count`: how many messages, if known. What is still in other tables (refused items,
-- stubs) is not repeated here.
create table public.coverage_gaps (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id) on delete cascade,
  chat_id text,
  reason text not null check (
    reason in ('not_monitored', 'unlinked', 'away', 'too_old', 'waited_too_long', 'deleted', 'not_recorded', 'left')
  ),
  from_at timestamptz not null,
  to_at timestamptz,
  count bigint,
  check (to_at >= from_at)
);

create index coverage_gaps_chat on public.coverage_gaps (session_id, chat_id, reason, to_at);

create unique index coverage_gaps_open on public.coverage_gaps (session_id, coalesce(chat_id, ''), reason)
where to_at is null;

-- The stubs of a group: messages that could not be read, yet or ever.
create index messages_unreadable on public.messages (session_id, chat_id, ts) where kind = 'undecryptable';

create index wa_refused_stanzas_sent_at on public.wa_refused_stanzas (session_id, chat_id, coalesce(sent_at, at));

-- Notes that a group was switched on or off, whoever did it: with the rights of the owner, because the writer may have
-- none on the ledger. A deleted row counts as switched off: the group may be found again, and switched on again.
--
-- Off: what has not arrived is lost, so the gap starts at the mark. On: a worker that holds the lease learns of it at
-- its next poll, which ends the gap (wa.monitored_taken); any other worker reads it before it connects.
create function wa.note_monitored() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_group public.groups := case when tg_op = 'DELETE' then old else new end;
  v_on boolean := tg_op <> 'DELETE' and v_group.monitor;
  v_mark timestamptz;
  v_lease_ends timestamptz;
  v_last timestamptz;
begin
  select s.complete_to, s.lease_expires_at into v_mark, v_lease_ends
  from public.wa_sessions as s where s.id = v_group.session_id;
  select coalesce(max(c.to_at), '-infinity') into v_last
  from public.coverage_gaps as c
  where c.session_id = v_group.session_id and c.chat_id = v_group.wa_group_id and c.reason = 'not_monitored';
  if not v_on or v_last = '-infinity' then
    insert into public.coverage_gaps (session_id, chat_id, reason, from_at)
    values (
      v_group.session_id, v_group.wa_group_id, 'not_monitored',
      case when v_on then '-infinity' else greatest(v_last, least(coalesce(v_mark, '-infinity'), now())) end
    )
    on conflict (session_id, coalesce(chat_id, ''), reason) where to_at is null do nothing;
  end if;
  if v_on and coalesce(v_lease_ends <= now(), true) then
    update public.coverage_gaps
    set to_at = greatest(from_at, now())
    where session_id = v_group.session_id and chat_id = v_group.wa_group_id and reason = 'not_monitored'
      and to_at is null;
  end if;
  return null;
end
$$;

create trigger groups_coverage_inserted after insert on public.groups
for each row when (new.monitor) execute function wa.note_monitored();

create trigger groups_coverage_updated after update on public.groups
for each row when (old.monitor <> new.monitor) execute function wa.note_monitored();

create trigger groups_coverage_deleted after delete on public.groups
for each row when (old.monitor) execute function wa.note_monitored();

-- Notes that the account left a group, or is in it again. It was in it up to the mark, and what WhatsApp sent to the
-- group later may not have been for us. A deleted row says nothing of it: the gap ends.
create function wa.note_left() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_group public.groups := case when tg_op = 'DELETE' then old else new end;
  v_mark timestamptz;
begin
  if tg_op <> 'DELETE' and v_group.left_at is not null then
    select s.complete_to into v_mark from public.wa_sessions as s where s.id = v_group.session_id;
    insert into public.coverage_gaps (session_id, chat_id, reason, from_at)
    values (
      v_group.session_id, v_group.wa_group_id, 'left', least(coalesce(v_mark, '-infinity'), v_group.left_at)
    )
    on conflict (session_id, coalesce(chat_id, ''), reason) where to_at is null do nothing;
    return null;
  end if;
  update public.coverage_gaps
  set to_at = greatest(from_at, now())
  where session_id = v_group.session_id and chat_id = v_group.wa_group_id and reason = 'left' and to_at is null;
  return null;
end
$$;

create trigger groups_left_inserted after insert on public.groups
for each row when (new.left_at is not null) execute function wa.note_left();

create trigger groups_left_updated after update on public.groups
for each row when ((old.left_at is null) <> (new.left_at is null)) execute function wa.note_left();

create trigger groups_left_deleted after delete on public.groups
for each row when (old.left_at is not null) execute function wa.note_left();

-- A phone is linked: from now on WhatsApp keeps messages for us. For a caller that has locked the session's row, before
-- it writes the new number. Before the first phone there is no gap that could end; one is needed only if a group was
-- switched on already, because its own gap has ended.
create function wa.note_linked(p_session text) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  update public.coverage_gaps
  set to_at = greatest(from_at, now())
  where session_id = p_session and chat_id is null and reason = 'unlinked' and to_at is null;
  insert into public.coverage_gaps (session_id, reason, from_at, to_at)
  select s.id, 'unlinked', '-infinity', now()
  from public.wa_sessions as s
  where s.id = p_session and s.wa_number is null and s.complete_to is null
    and exists (
      select 1
      from public.coverage_gaps as c
      where c.session_id = p_session and c.chat_id is not null and c.reason = 'not_monitored' and c.to_at is not null
    )
    and not exists (
      select 1
      from public.coverage_gaps as c
      where c.session_id = p_session and c.chat_id is null and c.reason = 'unlinked'
    );
end
$$;

-- The worker has this version of the monitored groups: what comes from now on is stored. Waits for no lock; what is
-- locked is left to the next poll.
create function wa.monitored_taken(p_session text, p_version bigint) returns void
language plpgsql volatile security invoker set search_path = '' as $$
begin
  perform 1 from public.wa_monitored_versions as m
  where m.session_id = p_session and m.version = p_version
  for update skip locked;
  if not found then
    return;
  end if;
  update public.coverage_gaps
  set to_at = greatest(from_at, now())
  where id = any(array(
    select c.id
    from public.coverage_gaps as c
    inner join public.groups as g on c.session_id = g.session_id and c.chat_id = g.wa_group_id
    where c.session_id = p_session and c.reason = 'not_monitored' and c.to_at is null and g.monitor
    for update of c skip locked
  ));
  update public.wa_monitored_versions
  set taken = p_version
  where session_id = p_session and not exists (
    select 1
    from public.coverage_gaps as c
    inner join public.groups as g on c.session_id = g.session_id and c.chat_id = g.wa_group_id
    where c.session_id = p_session and c.reason = 'not_monitored' and c.to_at is null and g.monitor
  );
end
$$;

-- Moves the mark: everything that came until `p_to` on the connection `p_epoch` is durable, and so is everything that
-- had waited. For a caller that has locked the session's row. A wrong clock claims nothing about the future. WhatsApp
-- promises to keep nothing longer than 14 days.
create function wa.move_mark(p_session text, p_epoch bigint, p_to timestamptz) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.coverage_gaps (session_id, reason, from_at, to_at)
  select s.id, 'away', began.at, p_to - interval '14 days'
  from public.wa_sessions as s
  cross join lateral (
    select greatest(s.complete_to, max(c.to_at)) as at
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id is null and c.reason = 'unlinked'
  ) as began
  where s.id = p_session and s.complete_epoch is distinct from p_epoch and s.complete_to is not null
    and began.at < p_to - interval '14 days';

  update public.wa_sessions
  set complete_to = greatest(complete_to, least(p_to, now())), complete_epoch = p_epoch
  where id = p_session and epoch = p_epoch;
$$;

-- What a batch dropped for its age: [{chat_id, reason, from, to, count}], in order of time. Called after the batch's
-- messages are stored. Extends a gap of the current absence, unless something stored lies in between.
create function wa.write_dropped(p_session text, p_dropped jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_new record;
  v_old public.coverage_gaps;
  v_mark timestamptz;
begin
  if coalesce(p_dropped in ('[]', 'null'), true) then
    return;
  end if;
  for v_new in
    select d ->> 'chat_id' as chat_id, d ->> 'reason' as reason, wa.parse_time(d ->> 'from_at') as from_at,
      wa.parse_time(d ->> 'to_at') as to_at, (d ->> 'count')::bigint as count
    from jsonb_array_elements(p_dropped) with ordinality as t (d, ord)
    order by t.ord
  loop
    continue when v_new.from_at is null or v_new.to_at is null;
    select s.complete_to into v_mark from public.wa_sessions as s where s.id = p_session;
    select * into v_old
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id = v_new.chat_id and c.reason = v_new.reason
      and c.to_at >= coalesce(v_mark, '-infinity')
    order by c.to_at desc
    limit 1;
    if found and not exists (
      select 1
      from public.groups as g
      inner join public.messages as m on g.id = m.group_id
      where g.session_id = p_session and g.wa_group_id = v_new.chat_id
        and m.ts > least(v_old.to_at, v_new.to_at) and m.ts < greatest(v_old.from_at, v_new.from_at)
    ) then
      update public.coverage_gaps
      set
        from_at = least(from_at, v_new.from_at), to_at = greatest(to_at, v_new.to_at),
        count = count + v_new.count
      where id = v_old.id;
    else
      insert into public.coverage_gaps (session_id, chat_id, reason, from_at, to_at, count)
      values (p_session, v_new.chat_id, v_new.reason, v_new.from_at, v_new.to_at, v_new.count);
    end if;
  end loop;
end
$$;

-- Notes a commit of a worker from before this ledger: it does not report what it dropped. So what is missing since the
-- mark, which such a worker never moves, is unknown.
create function wa.note_unrecorded(p_session text) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_mark timestamptz;
begin
  select coalesce(s.complete_to, '-infinity') into v_mark from public.wa_sessions as s where s.id = p_session;
  update public.coverage_gaps
  set to_at = greatest(to_at, now())
  where session_id = p_session and chat_id is null and reason = 'not_recorded' and to_at >= v_mark;
  if not found then
    insert into public.coverage_gaps (session_id, reason, from_at, to_at)
    values (p_session, 'not_recorded', v_mark, greatest(v_mark, now()));
  end if;
end
$$;

-- Notes that messages sent before `p_before` were deleted.
create function wa.note_deleted(p_session text, p_before timestamptz) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  update public.coverage_gaps
  set to_at = greatest(to_at, p_before)
  where session_id = p_session and chat_id is null and reason = 'deleted';
  if not found then
    insert into public.coverage_gaps (session_id, reason, from_at, to_at)
    values (p_session, 'deleted', '-infinity', p_before);
  end if;
end
$$;

-- Every gap of a group between two times: those of the ledger, and those from other tables. Current ones have the
-- reasons `away` (no worker runs), `not_connected` and `backlog` (connected, but the mark does not move: WhatsApp has
-- not said that it sent everything that waited, or what came cannot be stored).
create function wa.gaps_of(p_session text, p_group text, p_from timestamptz, p_to timestamptz)
returns table (reason text, from_at timestamptz, to_at timestamptz, count bigint)
language sql stable security invoker set search_path = '' as $$
  with present as (
    select
      s.complete_to, s.status = 'connected' as connected, coalesce(s.lease_expires_at > now(), false) as held,
      s.complete_epoch is not distinct from s.epoch
      and s.complete_to > now() - make_interval(secs => 120 + coalesce(s.lease_seconds, 0)) as delivered
    from public.wa_sessions as s
    where s.id = p_session
  ),

  ledger as (
    select c.chat_id, c.reason, c.from_at, c.to_at, c.count
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id = p_group
    union all
    select c.chat_id, c.reason, c.from_at, c.to_at, c.count
    from public.coverage_gaps as c
    where c.session_id = p_session and c.chat_id is null
  ),

  every as (
    select l.reason, l.from_at, l.to_at, l.count from ledger as l
    union all
    select 'not_monitored', '-infinity'::timestamptz, null, null
    where not exists (
      select 1
      from public.groups as g
      where g.session_id = p_session and g.wa_group_id = p_group and g.monitor
    )
    and not exists (select 1 from ledger as l where l.reason = 'not_monitored' and l.to_at is null)
    union all
    select
      case when not p.held then 'away' when p.connected then 'backlog' else 'not_connected' end,
      greatest(
        coalesce(p.complete_to, '-infinity'),
        (select max(l.to_at) from ledger as l where l.reason = 'unlinked')
      ),
      null, null
    from present as p
    where not (p.held and p.connected and p.delivered)
      and not exists (select 1 from ledger as l where l.reason = 'unlinked' and l.to_at is null)
    union all
    select r.state, coalesce(r.sent_at, r.at), coalesce(r.sent_at, r.at), 1
    from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.chat_id = p_group and r.state <> 'undecrypted'
      and coalesce(r.sent_at, r.at) > p_from and coalesce(r.sent_at, r.at) <= p_to
    union all
    select case when m.pending then 'undecryptable' else 'lost' end, m.ts, m.ts, 1
    from public.messages as m
    where m.session_id = p_session and m.chat_id = p_group and m.kind = 'undecryptable'
      and m.ts > p_from and m.ts <= p_to
  )

  select e.reason, e.from_at, e.to_at, e.count
  from every as e
  where e.from_at <= p_to and coalesce(e.to_at, 'infinity') > p_from
$$;

-- Whether the archive of a group (its WhatsApp id) is complete after `p_from` (null: since ever) and up to `p_to`
-- (null, or later than now: now, with whatever is dated later, because clocks differ): {complete, since, complete_to,
-- gaps: [{reason, from, to, count}], gap_count}. `since`: where the last gap ends, null if one is open. `from` null:
-- since ever; `to` null: still open; `count` null: unknown. At most `p_limit` gaps, the newest, in order of time.
-- `complete_to`: what has come until then is durable; later than that, the answer is what the worker believes.
create function public.coverage(
  p_session text, p_group text, p_from timestamptz default null, p_to timestamptz default null,
  p_limit integer default 1000
) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with gaps as materialized (
    select g.reason, g.from_at, g.to_at, g.count
    from wa.gaps_of(
      p_session, p_group, coalesce(p_from, '-infinity'), case when p_to < now() then p_to else 'infinity' end
    ) as g
  ),

  newest as (
    select g.reason, g.from_at, g.to_at, g.count
    from gaps as g
    order by g.to_at desc nulls first, g.from_at desc, g.reason
    limit p_limit
  )

  select jsonb_build_object(
    'complete', not exists (select 1 from gaps),
    'since', (select case when count(*) = count(g.to_at) then max(g.to_at) end from gaps as g),
    'complete_to', (select s.complete_to from public.wa_sessions as s where s.id = p_session),
    'gap_count', (select count(*) from gaps),
    'gaps', (
      select coalesce(jsonb_agg(
        jsonb_build_object(
          'reason', n.reason, 'from', nullif(n.from_at, '-infinity'), 'to', n.to_at, 'count', n.count
        ) order by n.from_at, n.to_at nulls last, n.reason
      ), '[]')
      from newest as n
    )
  )
$$;

-- The coverage of every group that is or was switched on, with its 20 newest gaps: {groups: [{wa_group_id, name,
-- monitor, …public.coverage}], group_count}. After `p_from` (null: since ever). Groups by name, `p_limit` after the
-- first `p_offset`; null: all.
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
