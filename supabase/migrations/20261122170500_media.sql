-- Media jobs: claimed with a lease by any number of processes, and ended in one of three ways: done, retry, abandon.

-- Locks a job that `p_owner` holds; null if it is gone (ended before: the answer was lost). Held by another: stale_job.
create function public.wa_lock_job(p_job bigint, p_owner text) returns public.media_jobs
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs;
begin
  select * into v_job from public.media_jobs where id = p_job for update;
  if v_job.id is not null and v_job.lease_owner is distinct from p_owner then
    raise exception 'stale_job' using errcode = 'PT409';
  end if;
  return v_job;
end
$$;

-- Claims up to `p_limit` due jobs, of one session or (null) of all, and counts the attempt.
-- `next_in_s`: when the next of the others is due, null if there is none.
create function public.wa_media_claim(
  p_owner text, p_limit integer, p_lease_seconds double precision, p_session text default null
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
      and (p_session is null or j.session_id = p_session)
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
  where j.id <> all(v_ids) and (p_session is null or j.session_id = p_session);
  return jsonb_build_object(
    'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'id', j.id, 'session_id', j.session_id, 'message_id', j.message_id, 'attempts', j.attempts,
        'descriptor', j.descriptor, 'last_error', j.last_error, 'created_at', j.created_at,
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

-- Keeps a claimed job: a long transfer, or a wait for the phone's re-upload.
create function public.wa_media_renew(p_job bigint, p_owner text, p_lease_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
begin
  update public.media_jobs set lease_expires_at = now() + make_interval(secs => p_lease_seconds) where id = v_job.id;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- What is known of a ciphertext that was verified before under the same media key; null if it never was.
create function public.wa_media_known(p_file_enc_sha256 text, p_media_key_sha256 text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select to_jsonb(m) || jsonb_build_object('bytes', m.bytes::text)
  from public.media_verified as v
  inner join public.media as m on v.media_id = m.id
  where v.file_enc_sha256 = p_file_enc_sha256 and v.media_key_sha256 = p_media_key_sha256
$$;

-- The object is in the bucket: {sha256, mime, bytes, width, height, duration_s, storage_path, file_enc_sha256?,
-- media_key_sha256?} becomes, or finds, its media row; the message is linked and the job ends.
create function public.wa_media_done(p_job bigint, p_owner text, p_media jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
  v_media_id bigint;
  v_reused boolean := false;
begin
  if v_job.id is not null then
    insert into public.media (sha256, mime, bytes, width, height, duration_s, storage_path)
    values (
      p_media ->> 'sha256', p_media ->> 'mime', (p_media ->> 'bytes')::bigint, (p_media ->> 'width')::integer,
      (p_media ->> 'height')::integer, (p_media ->> 'duration_s')::double precision, p_media ->> 'storage_path'
    )
    on conflict (sha256) do nothing
    returning id into v_media_id;
    v_reused := v_media_id is null;
  end if;
  if v_media_id is null then
    select m.id into v_media_id from public.media as m where m.sha256 = p_media ->> 'sha256';
  end if;
  if v_job.id is not null then
    update public.messages set media_id = v_media_id, media_status = 'stored' where id = v_job.message_id;
    delete from public.media_jobs where id = v_job.id;
    if p_media ->> 'file_enc_sha256' is not null and p_media ->> 'media_key_sha256' is not null then
      insert into public.media_verified (file_enc_sha256, media_key_sha256, media_id)
      values (p_media ->> 'file_enc_sha256', p_media ->> 'media_key_sha256', v_media_id)
      on conflict (file_enc_sha256, media_key_sha256) do nothing;
    end if;
  end if;
  return jsonb_build_object('media_id', v_media_id, 'reused', v_reused, 'gone', v_job.id is null);
end
$$;

-- Not yet: another attempt in `p_delay_seconds`, with a new descriptor if the phone has uploaded the file again.
create function public.wa_media_retry(
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
    descriptor = coalesce(nullif(p_descriptor, 'null'), descriptor)
  where id = v_job.id;
  return jsonb_build_object('attempts', v_job.attempts, 'gone', v_job.id is null);
end
$$;

-- Never: the message says so (`p_status`), the audit log says why, the job ends.
create function public.wa_media_abandon(p_job bigint, p_owner text, p_status text, p_code text, p_error text)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
  v_msg_id text;
begin
  if v_job.id is not null then
    update public.messages set media_status = p_status where id = v_job.message_id returning wa_msg_id into v_msg_id;
    delete from public.media_jobs where id = v_job.id;
    perform public.wa_audit(v_job.session_id, 'error', jsonb_build_object(
      'code', p_code, 'msg', left(p_error, 1000), 'wa_msg_id', v_msg_id,
      'ctx', jsonb_build_object('wa_msg_id', v_msg_id, 'attempts', v_job.attempts)
    ));
  end if;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

revoke execute on function
public.wa_lock_job, public.wa_media_claim, public.wa_media_renew, public.wa_media_known, public.wa_media_done,
public.wa_media_retry, public.wa_media_abandon
from public, anon, authenticated;

grant execute on function
public.wa_lock_job, public.wa_media_claim, public.wa_media_renew, public.wa_media_known, public.wa_media_done,
public.wa_media_retry, public.wa_media_abandon
to service_role;
