-- Coverage: the time in which the account was not in a group stays a gap when it is in the group again. So does the
-- time before the first phone was linked, if a group was switched on already. The 14 days are counted from the latest
-- link. Gaps that are dated later than now, because clocks differ, are listed. The audit log is read by event and by
-- person through indexes. One file can be fetched again.

set check_function_bodies = off;

alter table public.coverage_gaps drop constraint coverage_gaps_reason_check;

alter table public.coverage_gaps add constraint coverage_gaps_reason_check check (
  reason in ('not_monitored', 'unlinked', 'away', 'too_old', 'waited_too_long', 'deleted', 'not_recorded', 'left')
);

create or replace function wa.note_left() returns trigger
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

insert into public.coverage_gaps (session_id, chat_id, reason, from_at)
select
  g.session_id,
  g.wa_group_id,
  'left' as reason,
  g.left_at
from public.groups as g
where g.left_at is not null
on conflict (session_id, coalesce(chat_id, ''), reason) where to_at is null do nothing;

create or replace function wa.note_linked(p_session text) returns void
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

create or replace function public.wa_set_session(
  p_session text, p_fence bigint, p_patch jsonb, p_audits jsonb default '[]'
)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.lock_session(p_session, p_fence);
  if p_patch ->> 'status' = 'connected' then
    perform wa.note_linked(p_session);
  end if;
  update public.wa_sessions
  set
    status = coalesce(p_patch ->> 'status', status),
    detail = case when p_patch ? 'detail' then coalesce(nullif(p_patch -> 'detail', 'null'), '{}') else detail end,
    wa_name = case when p_patch ? 'wa_name' then p_patch ->> 'wa_name' else wa_name end,
    wa_number = case when p_patch ? 'wa_number' then p_patch ->> 'wa_number' else wa_number end,
    start_failures = case when p_patch ->> 'status' = 'connected' then 0 else start_failures end,
    updated_at = now()
  where id = p_session;
  perform wa.write_audits(p_session, p_audits);
  return '{"done": true}'::jsonb;
end
$$;

create or replace function wa.move_mark(p_session text, p_epoch bigint, p_to timestamptz) returns void
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

create or replace function wa.gaps_of(p_session text, p_group text, p_from timestamptz, p_to timestamptz)
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

create or replace function public.coverage(
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

drop index public.audit_log_error;

create index audit_log_event on public.audit_log (session_id, event, at);

create index audit_log_who on public.audit_log (session_id, (payload ->> 'who'), at) where event = 'console';

drop function public.wa_media_requeue(text, jsonb);

create function public.wa_media_requeue(p_session text, p_statuses jsonb, p_message bigint default null) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_statuses text [] := array(select jsonb_array_elements_text(p_statuses));
  v_without integer;
  v_requeued integer;
begin
  select count(*) into v_without
  from public.groups as g
  inner join public.messages as m on g.id = m.group_id
  left join public.wa_media_abandoned as a on m.id = a.message_id
  where g.session_id = p_session and m.media_status = any(v_statuses) and a.message_id is null
    and (p_message is null or m.id = p_message);
  perform 1
  from public.messages as m
  where m.id = any(array(
    select a.message_id
    from public.wa_media_abandoned as a
    where a.session_id = p_session and a.status = any(v_statuses) and (p_message is null or a.message_id = p_message)
  ))
  order by m.id
  for no key update;
  with back as (
    delete from public.wa_media_abandoned
    where session_id = p_session and status = any(v_statuses) and (p_message is null or message_id = p_message)
    returning message_id, descriptor
  ),

  marked as (
    update public.messages
    set media_status = 'pending'
    where id in (select b.message_id from back as b) and not blanked
    returning id
  )

  insert into public.media_jobs (session_id, message_id, descriptor)
  select p_session, b.message_id, b.descriptor
  from back as b
  inner join marked as k on b.message_id = k.id
  on conflict (message_id) do nothing;
  get diagnostics v_requeued = row_count;
  return jsonb_build_object('requeued', v_requeued, 'without', v_without);
end
$$;

revoke execute on function wa.note_left, wa.note_linked, public.wa_media_requeue from public, anon, authenticated;

grant execute on function wa.note_left, wa.note_linked, public.wa_media_requeue to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127193000')
$$;

notify pgrst, 'reload schema';
