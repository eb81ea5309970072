-- The search's entries of all sessions of a poll have one time together: their rows stay locked until it ends.

set check_function_bodies = off;

create or replace function public.wa_host_poll(
  p_owner text, p_capacity integer, p_held jsonb, p_lease_seconds double precision default null
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_until timestamptz;
  v_due boolean;
  v_moves boolean;
  v_news jsonb;
  v_alive integer := 0;
  v_claimed text[] := '{}';
  v_steady integer := 0;
  v_answer jsonb := '{}';
  v_fill_until timestamptz;
begin
  for v_held in
    select h.session, h.fence, h.monitored, h.media, h.epoch, h.complete_to, h.claimed, h.settings
    from jsonb_to_recordset(p_held) as h (
      session text, fence bigint, monitored bigint, media integer, epoch bigint, complete_to timestamptz,
      claimed boolean, settings text
    )
    order by h.session
  loop
    select
      s.fence, s.lease_owner, s.lease_expires_at, make_interval(secs => s.lease_seconds) as lease, s.epoch,
      s.complete_epoch, s.complete_to, s.wanted, s.settings,
      s.host_since <= clock_timestamp() - make_interval(secs => s.lease_seconds) as is_steady
    into v_row
    from public.wa_sessions as s where s.id = v_held.session;
    if v_row.fence is distinct from v_held.fence or v_row.lease_owner is distinct from p_owner then
      v_answer := jsonb_set(v_answer, '{lost}', coalesce(v_answer -> 'lost', '[]') || to_jsonb(v_held.session));
      continue;
    end if;
    v_alive := v_alive + 1;
    v_due := v_row.lease_expires_at <= clock_timestamp() + v_row.lease * 2 / 3;
    v_moves := v_held.epoch = v_row.epoch and v_held.complete_to is not null and (
      v_row.complete_epoch is distinct from v_row.epoch
      or v_held.complete_to > coalesce(v_row.complete_to, '-infinity') + v_row.lease / 3
    );
    if v_due or v_moves then
      update public.wa_sessions as s
      set lease_expires_at = clock_timestamp() + v_row.lease, start_failures = 0
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
        v_answer := jsonb_set(
          v_answer, '{renewed}',
          coalesce(v_answer -> 'renewed', '{}') || jsonb_build_object(v_held.session, v_until)
        );
      elsif v_due then
        v_answer := jsonb_set(v_answer, '{busy}', coalesce(v_answer -> 'busy', '[]') || to_jsonb(v_held.session));
      end if;
    end if;
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
  if p_capacity > 0 or cardinality(v_claimed) > 0 then
    v_answer := v_answer || wa.share_sessions(
      p_owner, v_claimed, v_steady, greatest(p_capacity, 0), coalesce(p_lease_seconds, 60)
    );
  end if;
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
  return v_answer || jsonb_build_object('alive', v_alive);
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127070800')
$$;

notify pgrst, 'reload schema';
