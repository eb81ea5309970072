-- Files still to be fetched.
--
-- Any number of processes claim jobs with a lease. A job ends as done or abandoned, or is tried again. `wants_phone_at`
-- says since when a job waits for the phone. The process that has the phone claims it, has the file uploaded again, and
-- returns the job with its new location (or ends it).
--
-- A job belongs to a message or, if that could not be stored, to the listed item (`refused_id`).

-- `descriptor` holds the media key.
create table public.media_jobs (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  message_id bigint unique references public.messages (id) on delete cascade,
  descriptor jsonb not null,
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default now(),
  lease_owner text,
  lease_expires_at timestamptz,
  last_error text,
  created_at timestamptz not null default now(),
  wants_phone_at timestamptz,
  refused_id bigint unique references public.wa_refused_stanzas (id) on delete cascade,
  constraint media_jobs_of_one check (num_nonnulls(message_id, refused_id) = 1)
);

create index media_jobs_next_attempt_at on public.media_jobs (next_attempt_at);

create index media_jobs_session_id on public.media_jobs (session_id, next_attempt_at);

-- Abandoned files, with what another attempt needs.
create table public.wa_media_abandoned (
  message_id bigint primary key references public.messages (id) on delete cascade,
  session_id text not null references public.wa_sessions (id),
  descriptor jsonb not null,
  status text not null,
  code text not null,
  error text,
  attempts integer not null,
  at timestamptz not null default now()
);

create index wa_media_abandoned_session_id on public.wa_media_abandoned (session_id, at);

-- Locks a job that `p_owner` holds; null if the job has ended (an earlier answer was lost). Raises stale_job if another
-- process holds it.
create function wa.lock_job(p_job bigint, p_owner text) returns public.media_jobs
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

-- Locks the message of a job with the one that it is a rendition of, or the listed item, before the job itself:
-- deletions lock in this order, so it prevents deadlocks.
create function wa.lock_message_of_job(p_job bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1
  from public.messages as m
  where m.id in (
    select unnest(array[j.message_id, r.rendition_of])
    from public.media_jobs as j
    inner join public.messages as r on j.message_id = r.id
    where j.id = p_job
  )
  order by m.id
  for no key update;
  perform 1
  from public.wa_refused_stanzas as r
  where r.id = (select j.refused_id from public.media_jobs as j where j.id = p_job)
  for no key update;
end
$$;

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
        'wa_msg_id', coalesce(m.wa_msg_id, r.wa_msg_id), 'chat_id', coalesce(m.chat_id, r.chat_id),
        'sender', coalesce(m.sender, r.sender), 'sender_alt', coalesce(m.sender_alt, k.item ->> 'sender_alt'),
        'from_me', coalesce(m.from_me, coalesce(k.item -> 'from_me', 'false') = 'true'),
        'kind', coalesce(m.kind, k.item ->> 'kind'),
        'file_name', coalesce(m.file_name, k.item -> 'media' ->> 'file_name')
      ) order by j.id), '[]')
      from public.media_jobs as j
      left join public.messages as m on j.message_id = m.id
      left join public.wa_refused_stanzas as r on j.refused_id = r.id
      left join lateral (select wa.kept_item(r.body, r.encoding) as item where r.id is not null) as k on true
      where j.id = any(v_ids)
    ),
    'next_in_s', extract(epoch from (v_next - now()))
  );
end
$$;

-- Extends the lease of a claimed job, during a long transfer or a wait for the phone's re-upload.
create function public.wa_media_renew(p_job bigint, p_owner text, p_lease_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := wa.lock_job(p_job, p_owner);
begin
  update public.media_jobs set lease_expires_at = now() + make_interval(secs => p_lease_seconds) where id = v_job.id;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- The object is in the bucket: {sha256, mime, bytes, width, height, duration_s, storage_path, file_enc_sha256?,
-- media_key_sha256?} becomes, or finds, its media row; the message is linked and the job ends. Raises object_doomed
-- (PT409) while retention is removing that very object: the whole attempt is repeated later.
--
-- A job that has ended, or that another process holds (`stale`), links nothing. Its object still gets a row, or
-- retention would never find it; if retention is removing the object, it will remove it once more, unless a row names
-- it again. `reused`: there was a row already or, if the job is not ours, another object has this content.
create function public.wa_media_done(p_job bigint, p_owner text, p_media jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs;
  v_ours boolean;
  v_media_id bigint;
  v_path text;
  v_reused boolean;
  v_doomed text;
begin
  perform wa.lock_message_of_job(p_job);
  select * into v_job from public.media_jobs where id = p_job for update;
  v_ours := v_job.id is not null and v_job.lease_owner is not distinct from p_owner;

  insert into public.media (sha256, mime, bytes, width, height, duration_s, storage_path)
  values (
    p_media ->> 'sha256', p_media ->> 'mime', (p_media ->> 'bytes')::bigint, (p_media ->> 'width')::integer,
    (p_media ->> 'height')::integer, (p_media ->> 'duration_s')::double precision, p_media ->> 'storage_path'
  )
  on conflict (sha256) do nothing
  returning id, storage_path into v_media_id, v_path;
  v_reused := v_media_id is null;
  if v_reused then
    -- Lock the row, so that retention leaves it alone; there is none if it was just deleted.
    select f.id, f.storage_path into v_media_id, v_path
    from public.media as f where f.sha256 = p_media ->> 'sha256'
    for key share;
  end if;
  -- Read after the insert, which waits for a concurrent deletion: now its result is visible.
  select d.storage_path into v_doomed
  from public.wa_media_doomed as d
  where d.sha256 = p_media ->> 'sha256' and coalesce(d.deleted_at > now() - interval '2 minutes', true);

  if v_ours then
    if v_doomed is not null or v_media_id is null then
      raise exception 'object_doomed' using errcode = 'PT409';
    end if;
    update public.messages set media_id = v_media_id, media_status = 'stored' where id = v_job.message_id;
    update public.wa_refused_stanzas set media_id = v_media_id where id = v_job.refused_id;
    perform wa.use_best_file(coalesce(m.rendition_of, m.id)) from public.messages as m where m.id = v_job.message_id;
    delete from public.media_jobs where id = v_job.id;
  elsif v_doomed = p_media ->> 'storage_path' and (not v_reused or v_path is distinct from v_doomed) then
    if not v_reused then
      delete from public.media where id = v_media_id;
      v_media_id := null;
    end if;
    update public.wa_media_doomed set deleted_at = null, stored_again = true where sha256 = p_media ->> 'sha256';
  end if;
  if v_media_id is not null and p_media ->> 'file_enc_sha256' is not null
    and p_media ->> 'media_key_sha256' is not null then
    insert into public.media_verified (file_enc_sha256, media_key_sha256, media_id)
    values (p_media ->> 'file_enc_sha256', p_media ->> 'media_key_sha256', v_media_id)
    on conflict (file_enc_sha256, media_key_sha256) do nothing;
  end if;
  return jsonb_build_object(
    'media_id', v_media_id, 'gone', v_job.id is null, 'stale', v_job.id is not null and not v_ours,
    'reused', case when v_ours then v_reused else v_path is distinct from p_media ->> 'storage_path' end
  );
end
$$;

-- Schedules another attempt in `p_delay_seconds`. A new descriptor means that the phone has uploaded the file again:
-- the job no longer waits for the phone, and any process may claim it.
create function public.wa_media_retry(
  p_job bigint, p_owner text, p_error text, p_delay_seconds double precision, p_descriptor jsonb default null
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := wa.lock_job(p_job, p_owner);
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

-- Gives a claimed job at once to the process that has the phone.
create function public.wa_media_ask_phone(p_job bigint, p_owner text, p_error text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := wa.lock_job(p_job, p_owner);
begin
  update public.media_jobs
  set
    lease_owner = null, lease_expires_at = null, last_error = left(p_error, 1000), next_attempt_at = now(),
    wants_phone_at = coalesce(wants_phone_at, now())
  where id = v_job.id;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- Abandons a file until a person requests it again: sets the message's `media_status` to `p_status`, audits the reason,
-- ends the job. What another attempt needs is kept for 60 days; WhatsApp keeps files for less. A listed message gets
-- another job when it is accepted.
create function public.wa_media_abandon(
  p_job bigint, p_owner text, p_status text, p_code text, p_error text
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs;
  v_msg_id text;
begin
  perform wa.lock_message_of_job(p_job);
  v_job := wa.lock_job(p_job, p_owner);
  if v_job.id is not null then
    update public.messages set media_status = p_status where id = v_job.message_id returning wa_msg_id into v_msg_id;
    v_msg_id := coalesce(
      v_msg_id, (select r.wa_msg_id from public.wa_refused_stanzas as r where r.id = v_job.refused_id)
    );
    perform wa.use_best_file(v_job.message_id);
    delete from public.media_jobs where id = v_job.id;
    insert into public.wa_media_abandoned (message_id, session_id, descriptor, status, code, error, attempts)
    select
      v_job.message_id, v_job.session_id, v_job.descriptor, p_status, p_code, left(p_error, 1000), v_job.attempts
    where v_job.message_id is not null
    on conflict (message_id) do update
    set
      descriptor = excluded.descriptor, status = excluded.status, code = excluded.code, error = excluded.error,
      attempts = excluded.attempts, at = now();
    delete from public.wa_media_abandoned
    where session_id = v_job.session_id and at < now() - interval '60 days';
    perform public.wa_audit(v_job.session_id, 'error', jsonb_build_object(
      'code', p_code, 'msg', left(p_error, 1000), 'wa_msg_id', v_msg_id,
      'ctx', jsonb_build_object('wa_msg_id', v_msg_id, 'attempts', v_job.attempts)
    ));
  end if;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- Turns abandoned files with these statuses (JSON array) into jobs again: all, or that of one message. `without`: how
-- many have nothing to start from. Locks messages before their files' rows, as deletions do.
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

-- Empties the kept content of a listed message, with its file: its sender revoked it, or it has disappeared.
create function wa.empty_kept(p_session text, p_chat text, p_sender text, p_wa_msg_id text) returns void
language sql volatile security invoker set search_path = '' as $$
  with emptied as (
    update public.wa_refused_stanzas
    set body = null, media_id = null, state = case state when 'waiting' then 'refused' else state end
    where session_id = p_session and chat_id = p_chat and sender = p_sender and wa_msg_id = p_wa_msg_id
    returning id
  )

  delete from public.media_jobs where refused_id in (select e.id from emptied as e)
$$;
