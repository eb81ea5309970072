-- Coverage: a group whose row is deleted was switched off.

set check_function_bodies = off;

create or replace function wa.note_monitored() returns trigger
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

create trigger groups_coverage_deleted after delete on public.groups
for each row when (old.monitor) execute function wa.note_monitored();

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127030000')
$$;

notify pgrst, 'reload schema';
