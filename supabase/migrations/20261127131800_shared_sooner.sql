-- Hosts share their sessions sooner: 40 accounts on three hosts took 66 s after a restart, and a minute is the bound.
set check_function_bodies = off;

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

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127131800')
$$;

notify pgrst, 'reload schema';
