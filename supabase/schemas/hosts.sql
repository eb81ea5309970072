-- The poll: one call for all that a process must do for its sessions while nothing happens.

-- What is new for a session that is held: {flags?, monitored?, media?, refused?}, as public.wa_host_poll answers it.
create function wa.news_of(p_session text, p_monitored bigint, p_media integer) returns jsonb
language plpgsql volatile security invoker set search_path = '' as $$
declare
  v_news jsonb := '{}';
  v_flags jsonb;
  v_version bigint;
  v_taken bigint;
begin
  if exists (
    select 1 from public.runtime_flags as r
    where r.session_id = p_session and r.value is distinct from r.handled_value
  ) then
    v_flags := public.wa_pending_flags(p_session) -> 'flags';
    if v_flags <> '[]' then
      v_news := v_news || jsonb_build_object('flags', v_flags);
    end if;
  end if;
  -- Before the groups, which may then be newer than the version: they are only read once more.
  select m.version, m.taken into v_version, v_taken
  from public.wa_monitored_versions as m where m.session_id = p_session;
  v_version := coalesce(v_version, 0);
  if v_version = p_monitored and v_taken is distinct from v_version and v_version > 0 then
    perform wa.monitored_taken(p_session, v_version);
  end if;
  if v_version is distinct from p_monitored then
    v_news := v_news || jsonb_build_object(
      'monitored', public.wa_monitored_groups(p_session) || jsonb_build_object('version', v_version::text)
    );
  end if;
  if p_media > 0 and exists (
    select 1 from public.media_jobs as j
    where j.session_id = p_session and j.next_attempt_at <= now()
      and (j.lease_expires_at is null or j.lease_expires_at <= now()) and (p_media > 1 or j.wants_phone_at is null)
  ) then
    v_news := v_news || '{"media": true}';
  end if;
  if exists (
    select 1 from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.state = 'waiting' and r.next_at <= now()
  ) then
    v_news := v_news || '{"refused": true}';
  end if;
  return v_news;
end
$$;

-- Renews the leases that `p_owner` holds, and tells what is new. `p_held`: [{session, fence, monitored, media, epoch?,
-- complete_to?}]; `monitored` is the version of the monitored groups that the process has, null if it has none; `media`
-- says which jobs it could take now: 0 none, 1 files, 2 also those that wait for the phone; what came until
-- `complete_to` on the connection `epoch` is durable (wa.move_mark). `p_capacity`: how many more sessions it could
-- serve; none are handed out yet.
--
-- Also makes the next 500 entries of the search, or as many as 200 ms are enough for (wa.search_fill).
--
-- Waits for nobody. A lease is written after a third of its time. If the session's row is locked then, because its
-- holder commits, the session is `busy`: its lease stays as it is, and the commit renews it.
--
-- Answer: {alive: how many sessions are still held, lost?: [session], busy?: [session], renewed?: {session: until},
-- news?: {session: wa.news_of}}. In the news `flags` are those of public.wa_pending_flags, `monitored` is {version,
-- groups}; `media` and `refused` say that public.wa_media_claim or public.wa_due_refused would find something.
create function public.wa_host_poll(p_owner text, p_capacity integer, p_held jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_until timestamptz;
  v_due boolean;
  v_moves boolean;
  v_news jsonb;
  v_alive integer := 0;
  v_answer jsonb := '{}';
begin
  for v_held in
    select h.session, h.fence, h.monitored, h.media, h.epoch, h.complete_to
    from jsonb_to_recordset(p_held) as h (
      session text, fence bigint, monitored bigint, media integer, epoch bigint, complete_to timestamptz
    )
    order by h.session
  loop
    select
      s.fence, s.lease_owner, s.lease_expires_at, make_interval(secs => s.lease_seconds) as lease, s.epoch,
      s.complete_epoch, s.complete_to
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
      set lease_expires_at = clock_timestamp() + v_row.lease
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
    perform wa.search_fill(v_held.session, 500);
    v_news := wa.news_of(v_held.session, v_held.monitored, v_held.media);
    if v_news <> '{}' then
      v_answer := jsonb_set(
        v_answer, '{news}', coalesce(v_answer -> 'news', '{}') || jsonb_build_object(v_held.session, v_news)
      );
    end if;
  end loop;
  return v_answer || jsonb_build_object('alive', v_alive);
end
$$;
