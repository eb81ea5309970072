-- Coverage: a mark that does not move for two minutes and a lease is an open gap.

set check_function_bodies = off;

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
    select 'left', g.left_at, null, null
    from public.groups as g
    where g.session_id = p_session and g.wa_group_id = p_group and g.left_at is not null
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

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127022200')
$$;

notify pgrst, 'reload schema';
