-- Re-uploads asked for through the database: a process that fetches files without a phone hands an expired one on.
--
-- `wants_phone_at` says since when a job waits for the phone. Whoever has the phone claims it, has the file uploaded
-- again, and gives the job back with its new place (or ends it).

alter table public.media_jobs add column wants_phone_at timestamptz;

drop function public.wa_media_claim(text, integer, double precision, text);

-- Claims up to `p_limit` due jobs, of one session or (null) of all, and counts the attempt. `p_phone` false: leaves out
-- those that wait for the phone. `next_in_s`: when the next of the others is due, null if there is none.
create function public.wa_media_claim(
  p_owner text, p_limit integer, p_lease_seconds double precision, p_session text default null,
  p_phone boolean default true
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_ids bigint [];
  v_next timestamptz;
begin
  v_ids := array(
    select j.id
    from public.media_jobs as j
    where j.next_attempt_at <= now() and (j.lease_expires_at is null or j.lease_expires_at <= now())
      and (p_session is null or j.session_id = p_session) and (p_phone or j.wants_phone_at is null)
    order by j.next_attempt_at, j.id
    limit p_limit
    for update skip locked
  );
  update public.media_jobs
  set
    lease_owner = p_owner, lease_expires_at = now() + make_interval(secs => p_lease_seconds), attempts = attempts + 1
  where id = any(v_ids);
  select min(greatest(j.next_attempt_at, coalesce(j.lease_expires_at, j.next_attempt_at))) into v_next
  from public.media_jobs as j
  where j.id <> all(v_ids) and (p_session is null or j.session_id = p_session)
    and (p_phone or j.wants_phone_at is null);
  return jsonb_build_object(
    'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', j.id, 'session_id', j.session_id, 'message_id', j.message_id, 'attempts', j.attempts,
        'descriptor', j.descriptor, 'last_error', j.last_error, 'created_at', j.created_at,
        'wants_phone', j.wants_phone_at is not null,
        'wa_msg_id', m.wa_msg_id, 'chat_id', m.chat_id, 'sender', m.sender, 'sender_alt', m.sender_alt,
        'from_me', m.from_me, 'kind', m.kind, 'file_name', m.file_name
      ) order by j.id), '[]')
      from public.media_jobs as j
      inner join public.messages as m on j.message_id = m.id
      where j.id = any(v_ids)
    ),
    'next_in_s', extract(epoch from (v_next - now()))
  );
end
$$;

-- Gives a claimed job to whoever has the phone, at once.
create function public.wa_media_ask_phone(p_job bigint, p_owner text, p_error text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
begin
  update public.media_jobs
  set
    lease_owner = null, lease_expires_at = null, last_error = left(p_error, 1000), next_attempt_at = now(),
    wants_phone_at = coalesce(wants_phone_at, now())
  where id = v_job.id;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- Not yet: another attempt in `p_delay_seconds`. With a new descriptor the phone has uploaded the file again, so the
-- job no longer waits for it and is anybody's.
create or replace function public.wa_media_retry(
  p_job bigint, p_owner text, p_error text, p_delay_seconds double precision, p_descriptor jsonb default null
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
begin
  update public.media_jobs
  set
    lease_owner = null, lease_expires_at = null, last_error = left(p_error, 1000),
    next_attempt_at = now() + make_interval(secs => p_delay_seconds),
    descriptor = coalesce(nullif(p_descriptor, 'null'), descriptor),
    wants_phone_at = case when nullif(p_descriptor, 'null') is null then wants_phone_at end
  where id = v_job.id;
  return jsonb_build_object('attempts', v_job.attempts, 'gone', v_job.id is null);
end
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261122190600')
$$;

revoke execute on function
public.wa_media_claim, public.wa_media_ask_phone, public.wa_media_retry, public.wa_schema_version
from public, anon, authenticated;

grant execute on function
public.wa_media_claim, public.wa_media_ask_phone, public.wa_media_retry, public.wa_schema_version
to service_role;
