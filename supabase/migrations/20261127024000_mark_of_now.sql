-- Coverage: a clock that is wrong claims nothing of the future.

set check_function_bodies = off;

create or replace function wa.move_mark(p_session text, p_epoch bigint, p_to timestamptz) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.coverage_gaps (session_id, reason, from_at, to_at)
  select s.id, 'away', s.complete_to, p_to - interval '14 days'
  from public.wa_sessions as s
  where s.id = p_session and s.complete_epoch is distinct from p_epoch
    and s.complete_to < p_to - interval '14 days'
    and not exists (
      select 1
      from public.coverage_gaps as c
      where c.session_id = p_session and c.chat_id is null and c.reason = 'unlinked' and c.from_at >= s.complete_to
    );

  update public.wa_sessions
  set complete_to = greatest(complete_to, least(p_to, now())), complete_epoch = p_epoch
  where id = p_session and epoch = p_epoch;
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127024000')
$$;

notify pgrst, 'reload schema';
