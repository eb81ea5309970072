-- One poll renews the leases and tells what is new. A version says whether the set of monitored groups has changed,
-- and a commit renews the lease of its session.

set check_function_bodies = off;

alter table public.wa_sessions add column lease_seconds double precision;

alter table public.runtime_flags add column session_id text generated always as (
  case when strpos(key, ':') = 0 then 'default' else nullif(split_part(key, ':', 1), 'default') end
) stored;

-- Requests that may be pending, by session: a poll reads no others.
create index runtime_flags_pending on public.runtime_flags (session_id)
where value is distinct from handled_value;

drop index public.media_jobs_session_id;

create index media_jobs_session_id on public.media_jobs (session_id, next_attempt_at);

-- How often the set of monitored groups has changed: a worker that has this version need not read them. In a table of
-- its own, because a commit holds the session's row, and a user who switches a group must not wait for it.
create table public.wa_monitored_versions (
  session_id text primary key references public.wa_sessions (id) on delete cascade,
  version bigint not null
);

-- Raises the version, whoever writes: with the rights of the owner, because the writer may have none on that table.
create or replace function wa.raise_monitored_version() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.wa_monitored_versions as v (session_id, version)
  select distinct s.id, 1
  from unnest(array[old.session_id, new.session_id]) as s (id)
  where s.id is not null
  on conflict (session_id) do update set version = v.version + 1;
  return null;
end
$$;

create trigger groups_monitored_inserted after insert on public.groups
for each row when (new.monitor) execute function wa.raise_monitored_version();

create trigger groups_monitored_deleted after delete on public.groups
for each row when (old.monitor) execute function wa.raise_monitored_version();

create trigger groups_monitored_updated after update on public.groups
for each row when (
  old.monitor <> new.monitor
  or (new.monitor and (old.session_id, old.wa_group_id) is distinct from (new.session_id, new.wa_group_id))
) execute function wa.raise_monitored_version();

-- Takes or renews the lease. The same owner renews it and keeps its fence; a free or expired lease is taken with fence
-- + 1. The clock is read after the row is locked, so that the wait for the lock does not lengthen an expired lease.
-- Rows that refer to the session in somebody's open transaction do not hold the lease up.
create or replace function public.wa_lease_acquire(p_session text, p_owner text, p_seconds double precision)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
  v_now timestamptz;
  v_acquired boolean := true;
begin
  insert into public.wa_sessions (id, status) values (p_session, 'disconnected') on conflict (id) do nothing;
  select * into v_row from public.wa_sessions where id = p_session for no key update;
  v_now := clock_timestamp();
  if v_row.lease_owner is distinct from p_owner then
    v_acquired := v_row.lease_owner is null or v_row.lease_expires_at <= v_now;
    v_row.fence := v_row.fence + v_acquired::integer;
  end if;
  if v_acquired then
    v_row.lease_owner := p_owner;
    v_row.lease_expires_at := v_now + make_interval(secs => p_seconds);
    update public.wa_sessions
    set
      lease_owner = v_row.lease_owner, lease_expires_at = v_row.lease_expires_at, lease_seconds = p_seconds,
      fence = v_row.fence
    where id = p_session;
  end if;
  return jsonb_build_object(
    'acquired', v_acquired, 'fence', v_row.fence::text, 'epoch', v_row.epoch::text,
    'holder', v_row.lease_owner, 'expires_at', v_row.lease_expires_at, 'now', v_now
  );
end
$$;

-- Flags of the web app that are newer than the last one handled. A request from a clock that runs ahead is remembered
-- by its value, so that it neither repeats nor hides later ones. `at` is null if `value` holds no time: such a flag is
-- reported until it is marked as handled. `given` is all that came beside the time.
create or replace function public.wa_pending_flags(p_session text) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select jsonb_build_object(
    'flags', coalesce(
      jsonb_agg(
        jsonb_build_object(
          'key', case when p_session = 'default' then f.key else substr(f.key, length(p_session) + 2) end,
          'at', f.at, 'at_text', f.value ->> 'at', 'malformed', f.at is null, 'phone', f.value ->> 'phone',
          'given', case when jsonb_typeof(f.value) = 'object' then f.value - 'at' else '{}' end,
          'age_s', extract(epoch from (now() - f.at))
        ) order by f.at, f.key
      ),
      '[]'
    )
  )
  from (
    select r.key, r.value, r.handled_at, wa.parse_time(r.value ->> 'at') as at
    from public.runtime_flags as r
    where r.session_id = p_session and r.value is distinct from r.handled_value
  ) as f
  where f.at is null or f.handled_at is null or f.at > f.handled_at
$$;

-- One batch, or what its parts have left of it: {fence, epoch, seq, digest?, creds?, keys, messages, changes, hashes,
-- audits, identities, groups, refused, discards}. Only the next batch is applied; one that was applied before is
-- answered as durable, and nothing is written. Errors (PT409): stale_fence, stale_epoch, sequence_gap, other_items.
-- Renews the lease as well: the row is written anyway, and while commits keep it locked the poll passes it over.
create or replace function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_counts jsonb;
  v_sealed integer := 0;
begin
  if wa.begin_batch(p_session, p_batch) then
    return jsonb_build_object('seq', v_seq::text, 'duplicate', true);
  end if;

  perform wa.write_keys(p_session, p_batch -> 'keys');
  update public.wa_sessions
  set
    seq = v_seq, batch = concat_ws(' ', v_seq, p_batch ->> 'digest'),
    creds_json = coalesce(p_batch ->> 'creds', creds_json),
    lease_expires_at = case
      when lease_owner is not null
        then greatest(lease_expires_at, clock_timestamp() + make_interval(secs => lease_seconds))
    end
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(p_session, p_batch -> 'hashes', p_batch -> 'discards');
  if p_batch ? 'groups' then
    perform wa.write_groups(p_session, p_batch -> 'groups');
  end if;

  perform wa.write_refused(p_session, p_batch -> 'refused');
  v_counts := wa.take_items(
    p_session, coalesce(nullif(p_batch -> 'messages', 'null'), '[]'),
    coalesce(nullif(p_batch -> 'changes', 'null'), '[]')
  );
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
  ) then
    v_sealed := cardinality(wa.openable_edits(p_session, 1));
  end if;
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

-- What is new for a session that is held: {flags?, monitored?, media?, refused?}, as public.wa_host_poll answers it.
create or replace function wa.news_of(p_session text, p_monitored bigint, p_media integer) returns jsonb
language plpgsql volatile security invoker set search_path = '' as $$
declare
  v_news jsonb := '{}';
  v_flags jsonb;
  v_version bigint;
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
  v_version := coalesce((select m.version from public.wa_monitored_versions as m where m.session_id = p_session), 0);
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

-- Renews the leases that `p_owner` holds, and tells what is new. `p_held`: [{session, fence, monitored, media}];
-- `monitored` is the version of the monitored groups that the process has, null if it has none; `media` says which jobs
-- it could take now: 0 none, 1 files, 2 also those that wait for the phone. `p_capacity`: how many more sessions it
-- could serve; none are handed out yet.
--
-- Waits for nobody. A lease is written after a third of its time. If the session's row is locked then, because its
-- holder commits, the session is `busy`: its lease stays as it is, and nobody else can take it either.
--
-- Answer: {alive: how many sessions are still held, lost?: [session], busy?: [session], renewed?: {session: until},
-- news?: {session: wa.news_of}}. In the news `flags` are those of public.wa_pending_flags, `monitored` is {version,
-- groups}; `media` and `refused` say that public.wa_media_claim or public.wa_due_refused would find something.
create or replace function public.wa_host_poll(p_owner text, p_capacity integer, p_held jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_until timestamptz;
  v_news jsonb;
  v_alive integer := 0;
  v_answer jsonb := '{}';
begin
  for v_held in
    select h.session, h.fence, h.monitored, h.media
    from jsonb_to_recordset(p_held) as h (session text, fence bigint, monitored bigint, media integer)
    order by h.session
  loop
    select s.fence, s.lease_owner, s.lease_expires_at, make_interval(secs => s.lease_seconds) as lease into v_row
    from public.wa_sessions as s where s.id = v_held.session;
    if v_row.fence is distinct from v_held.fence or v_row.lease_owner is distinct from p_owner then
      v_answer := jsonb_set(v_answer, '{lost}', coalesce(v_answer -> 'lost', '[]') || to_jsonb(v_held.session));
      continue;
    end if;
    v_alive := v_alive + 1;
    if v_row.lease_expires_at <= clock_timestamp() + v_row.lease * 2 / 3 then
      update public.wa_sessions as s
      set lease_expires_at = clock_timestamp() + v_row.lease
      where s.id = (
        select f.id
        from public.wa_sessions as f
        where f.id = v_held.session and f.fence = v_held.fence and f.lease_owner = p_owner
        for no key update skip locked
      )
      returning s.lease_expires_at into v_until;
      if found then
        v_answer := jsonb_set(
          v_answer, '{renewed}',
          coalesce(v_answer -> 'renewed', '{}') || jsonb_build_object(v_held.session, v_until)
        );
      else
        v_answer := jsonb_set(v_answer, '{busy}', coalesce(v_answer -> 'busy', '[]') || to_jsonb(v_held.session));
      end if;
    end if;
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

alter table public.wa_monitored_versions enable row level security;
revoke all on public.wa_monitored_versions from anon, authenticated;
grant select, insert, update, delete on public.wa_monitored_versions to service_role;

revoke execute on function
public.wa_host_poll, wa.news_of, wa.raise_monitored_version
from public, anon, authenticated;

grant execute on function
public.wa_host_poll, wa.news_of, wa.raise_monitored_version
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126215600')
$$;

notify pgrst, 'reload schema';
