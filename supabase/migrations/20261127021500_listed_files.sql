-- The file of a message that could not be stored is fetched when it is listed, not when it is taken back: jobs of
-- listed messages (media_jobs.refused_id), their files (wa_refused_stanzas.media_id), and when they disappear.

set check_function_bodies = off;

alter table public.wa_refused_stanzas
add column media_id bigint references public.media (id),
add column expires_at timestamptz;

create index wa_refused_stanzas_media_id on public.wa_refused_stanzas (media_id) where media_id is not null;

create index wa_refused_stanzas_expires_at on public.wa_refused_stanzas (session_id, expires_at)
where expires_at is not null and body is not null;

alter table public.media_jobs
alter column message_id drop not null,
add column refused_id bigint unique references public.wa_refused_stanzas (id) on delete cascade,
add constraint media_jobs_of_one check (num_nonnulls(message_id, refused_id) = 1);

create or replace function wa.kept_item(p_body text, p_encoding text) returns jsonb
language plpgsql immutable security invoker set search_path = '' as $$
begin
  return case when p_encoding = 'json' then p_body else convert_from(decode(p_body, 'base64'), 'UTF8') end::jsonb;
exception
  when data_exception or program_limit_exceeded then
    return null;
end
$$;

create or replace function wa.note_kept(p_id bigint) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_refused_stanzas;
  v_item jsonb;
begin
  select * into v_row from public.wa_refused_stanzas where id = p_id;
  if v_row.item <> 'message' or v_row.state = 'undecrypted' or num_nulls(v_row.sender, v_row.wa_msg_id) > 0 then
    return;
  end if;
  v_item := wa.kept_item(v_row.body, v_row.encoding);
  if v_item ->> 'expires_at' is not null then
    update public.wa_refused_stanzas set expires_at = (v_item ->> 'expires_at')::timestamptz where id = p_id;
  end if;
  if jsonb_typeof(v_item -> 'media') = 'object' and coalesce(v_item ->> 'media_status', 'pending') = 'pending' then
    insert into public.media_jobs (session_id, refused_id, descriptor)
    values (v_row.session_id, p_id, coalesce(nullif(v_item -> 'media' -> 'descriptor', 'null'), '{}'))
    on conflict (refused_id) do nothing;
  end if;
exception
  when data_exception or integrity_constraint_violation or program_limit_exceeded then
    null;
end
$$;

create or replace function wa.empty_kept(p_session text, p_chat text, p_sender text, p_wa_msg_id text) returns void
language sql volatile security invoker set search_path = '' as $$
  with emptied as (
    update public.wa_refused_stanzas
    set body = null, media_id = null, state = case state when 'waiting' then 'refused' else state end
    where session_id = p_session and chat_id = p_chat and sender = p_sender and wa_msg_id = p_wa_msg_id
    returning id
  )

  delete from public.media_jobs where refused_id in (select e.id from emptied as e)
$$;

create or replace function wa.is_kept(p_session text, p_chat text, p_sender text, p_sender_alt text, p_wa_msg_id text)
returns boolean
language sql stable security invoker set search_path = '' as $$
  select exists (
    select 1
    from public.messages as k
    where k.session_id = p_session and k.chat_id = p_chat and k.kind = 'keep'
      and k.content -> 'target' ->> 'wa_msg_id' = p_wa_msg_id
      and k.content -> 'target' ->> 'sender' in (p_sender, p_sender_alt)
      and k.content ->> 'type' = 'keep_for_all'
      and not exists (
        select 1
        from public.messages as u
        where u.session_id = p_session and u.chat_id = p_chat and u.kind = 'keep'
          and u.content -> 'target' ->> 'wa_msg_id' = p_wa_msg_id
          and u.content -> 'target' ->> 'sender' in (p_sender, p_sender_alt)
          and u.content ->> 'type' = 'undo_keep_for_all'
          and u.sender in (k.sender, p_sender) and (u.ts, u.id) > (k.ts, k.id)
      )
  )
$$;

create or replace function wa.write_refused(p_session text, p_refused jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_id bigint;
begin
  if coalesce(p_refused in ('[]', 'null'), true) then
    return;
  end if;
  for v_id in
    insert into public.wa_refused_stanzas (
      session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding, item, state, next_at, sent_at
    )
    select
      p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
      left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
      kept.body, 'base64', coalesce(r ->> 'item', 'message'), coalesce(r ->> 'state', 'refused'),
      case when r ->> 'state' = 'waiting' then now() + interval '1 minute' end, wa.parse_time(r ->> 'sent_at')
    from jsonb_array_elements(p_refused) with ordinality as t (r, ord)
    left join public.groups as g on g.session_id = p_session and g.wa_group_id = r ->> 'chat_id'
    cross join lateral (
      select case
        when not coalesce(g.monitor, false) then null
        when r ->> 'encoding' = 'base64' then r ->> 'body'
        else replace(encode(convert_to(r ->> 'body', 'UTF8'), 'base64'), e'\n', '')
      end as body
    ) as kept
    where not exists (
      select 1 from public.wa_refused_stanzas as s
      where s.session_id = p_session and s.wa_msg_id = left(r ->> 'wa_msg_id', 256)
        and s.chat_id is not distinct from left(r ->> 'chat_id', 256)
        and s.sender is not distinct from left(r ->> 'sender', 256)
        and s.item = coalesce(r ->> 'item', 'message')
        and (s.state = 'undecrypted') = (coalesce(r ->> 'state', 'refused') = 'undecrypted')
        and not (coalesce(wa.holds_stub(s.body), false) and not coalesce(wa.holds_stub(kept.body), true))
    )
    and not (r ->> 'state' is not distinct from 'undecrypted' and (kept.body is null or exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.chat_id = r ->> 'chat_id' and m.sender = r ->> 'sender'
        and m.wa_msg_id = r ->> 'wa_msg_id' and m.kind <> 'undecryptable'
    )))
    order by t.ord
    returning id
  loop
    perform wa.note_kept(v_id);
  end loop;
end
$$;

create or replace function wa.take_change(p_session text, p_change jsonb) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_change public.wa_held_changes;
  v_result text;
begin
  v_change := jsonb_populate_record(null::public.wa_held_changes, p_change - 'id' - 'message_id' - 'held_at');
  v_change.session_id := p_session;
  v_change.payload := coalesce(nullif(v_change.payload, 'null'), '{}');
  if v_change.kind in ('quote', 'album') then
    select m.id into v_change.message_id
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id;
    if v_change.message_id is null
      and not wa.is_listed(p_session, v_change.chat_id, v_change.author, v_change.change_id) then
      return 'dropped';
    end if;
  else
    -- The message that brings the change may have left a stub before it became readable.
    delete from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id and m.kind = 'undecryptable';
    if found then
      perform wa.unlist_undecrypted(
        p_session, v_change.chat_id, array[v_change.author], v_change.change_id
      );
    elsif wa.is_late(p_change) then
      perform wa.count_discard(p_session, 'too_old', 1);
      return 'dropped';
    end if;
  end if;
  if v_change.kind = 'revoke' and coalesce((v_change.payload -> 'blank') = 'true', false)
    and wa.may_revoke(v_change) = 'allowed' then
    perform wa.empty_kept(p_session, v_change.chat_id, v_change.target_sender, v_change.target_id);
  end if;
  v_result := wa.apply_change(v_change);
  if v_result = 'done' then
    return 'done';
  elsif v_result = 'refused' then
    perform wa.note_refusal(v_change);
    return 'dropped';
  end if;
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.author = v_change.author
    offset 999
  ) then
    perform wa.count_discard(p_session, 'change_flood', 1);
    return 'dropped';
  end if;
  insert into public.wa_held_changes (
    session_id, chat_id, kind, target_sender, target_id, author, change_id, at, payload, message_id
  )
  values (
    p_session, v_change.chat_id, v_change.kind, v_change.target_sender, v_change.target_id, v_change.author,
    v_change.change_id, v_change.at, v_change.payload, v_change.message_id
  )
  on conflict (session_id, chat_id, author, change_id, kind) do nothing;
  return 'held';
end
$$;

create or replace function wa.take_back(p_row public.wa_refused_stanzas) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_items jsonb := jsonb_build_array(case
    when p_row.encoding = 'json' then p_row.body
    else convert_from(decode(p_row.body, 'base64'), 'UTF8')
  end::jsonb);
  v_counts jsonb;
begin
  delete from public.wa_refused_stanzas where id = p_row.id;
  if p_row.item = 'change' then
    v_counts := wa.take_items(p_row.session_id, '[]', v_items);
  else
    v_counts := wa.take_items(p_row.session_id, v_items, '[]');
    if p_row.media_id is not null then
      with linked as (
        update public.messages
        set media_id = p_row.media_id, media_status = 'stored'
        where session_id = p_row.session_id and chat_id = p_row.chat_id and sender = p_row.sender
          and wa_msg_id = p_row.wa_msg_id and media_status = 'pending'
        returning id
      )

      delete from public.media_jobs where message_id in (select l.id from linked as l);
    end if;
    update public.wa_held_changes as h
    set message_id = m.id
    from public.messages as m
    where h.session_id = p_row.session_id and h.chat_id = p_row.chat_id and h.author = p_row.sender
      and h.change_id = p_row.wa_msg_id and h.kind in ('quote', 'album') and h.message_id is null
      and m.session_id = p_row.session_id and m.chat_id = h.chat_id and m.sender = h.author
      and m.wa_msg_id = h.change_id;
    perform wa.retry_changes(p_row.session_id, array(
      select h.id from public.wa_held_changes as h
      where h.session_id = p_row.session_id and h.chat_id = p_row.chat_id and h.author = p_row.sender
        and h.change_id = p_row.wa_msg_id and h.kind in ('quote', 'album')
    ));
  end if;
  if coalesce((v_counts ->> 'refused')::integer, 0) > 0 then
    raise exception 'refused_again' using errcode = 'WA001';
  end if;
end
$$;

create or replace function wa.lock_message_of_job(p_job bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1
  from public.messages as m
  where m.id = (select j.message_id from public.media_jobs as j where j.id = p_job)
  for no key update;
  perform 1
  from public.wa_refused_stanzas as r
  where r.id = (select j.refused_id from public.media_jobs as j where j.id = p_job)
  for no key update;
end
$$;

create or replace function public.wa_media_claim(
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

create or replace function public.wa_media_done(p_job bigint, p_owner text, p_media jsonb) returns jsonb
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

create or replace function public.wa_media_abandon(
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

create or replace function public.wa_retention(p_session text, p_before timestamptz) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with unneeded as (
    select f.bytes
    from public.media as f
    where not exists (
      select 1 from public.messages as m
      where m.media_id = f.id and (m.ts >= p_before or m.session_id <> p_session)
    ) and not exists (
      select 1 from public.wa_refused_stanzas as r
      where r.media_id = f.id and (r.at >= p_before or r.session_id <> p_session)
    )
  )

  select jsonb_build_object(
    'messages', (
      select count(*)
      from public.groups as g
      inner join public.messages as m on g.id = m.group_id
      where g.session_id = p_session and m.ts < p_before
    ),
    'refused', (
      select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session and r.at < p_before
    ),
    'media', (select count(*) from unneeded),
    'bytes', (select coalesce(sum(u.bytes), 0)::text from unneeded as u),
    'objects', (select count(*) from public.wa_media_doomed as d where d.deleted_at is null)
  )
$$;

create or replace function public.wa_list_media_to_delete(p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_ids bigint [];
  v_objects jsonb;
begin
  v_ids := array(
    select f.id
    from public.media as f
    where not exists (select 1 from public.messages as m where m.media_id = f.id)
      and not exists (select 1 from public.wa_refused_stanzas as r where r.media_id = f.id)
      and not exists (
        select 1 from public.wa_media_doomed as d where d.sha256 = f.sha256 and d.deleted_at is null
      )
    limit p_limit
    for update skip locked
  );
  -- Check again under the lock: a message may have been linked meanwhile.
  with gone as (
    delete from public.media as f
    where f.id = any(v_ids) and not exists (select 1 from public.messages as m where m.media_id = f.id)
      and not exists (select 1 from public.wa_refused_stanzas as r where r.media_id = f.id)
    returning f.sha256, f.storage_path
  )

  insert into public.wa_media_doomed (sha256, storage_path)
  select g.sha256, g.storage_path from gone as g
  on conflict (sha256) do update
  set storage_path = excluded.storage_path, at = now(), deleted_at = null, stored_again = false;
  with listed as (
    update public.wa_media_doomed
    set stored_again = false
    where sha256 = any(array(
      select d.sha256 from public.wa_media_doomed as d where d.deleted_at is null limit p_limit
    ))
    returning sha256, storage_path
  )

  select coalesce(jsonb_agg(jsonb_build_object('sha256', o.sha256, 'storage_path', o.storage_path)), '[]')
  into v_objects
  from listed as o;
  return jsonb_build_object('objects', v_objects);
end
$$;

create or replace function public.wa_expire(p_session text, p_mode text, p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_due public.messages;
  v_listed public.wa_refused_stanzas;
  v_count integer := 0;
  v_emptied integer := 0;
begin
  perform 1 from public.wa_sessions where id = p_session for no key update;
  for v_due in
    select m.*
    from public.messages as m
    where m.session_id = p_session and m.expires_at <= now() and not m.blanked
      and not wa.is_kept(p_session, m.chat_id, m.sender, m.sender_alt, m.wa_msg_id)
    order by m.expires_at
    limit p_limit
    for no key update of m skip locked
  loop
    v_count := v_count + 1;
    delete from public.wa_held_changes
    where session_id = p_session and chat_id = v_due.chat_id and target_id = v_due.wa_msg_id
      and target_sender = v_due.sender;
    perform wa.empty_kept(p_session, v_due.chat_id, v_due.sender, v_due.wa_msg_id);
    perform wa.blank_message(v_due.id);
    if p_mode = 'delete' then
      delete from public.messages where id = v_due.id;
    else
      update public.messages set media_status = 'disappeared' where id = v_due.id and media_status is not null;
    end if;
  end loop;
  for v_listed in
    select r.*
    from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.expires_at <= now() and r.body is not null
      and not wa.is_kept(p_session, r.chat_id, r.sender, null, r.wa_msg_id)
    order by r.expires_at
    limit p_limit
  loop
    v_emptied := v_emptied + 1;
    perform wa.empty_kept(p_session, v_listed.chat_id, v_listed.sender, v_listed.wa_msg_id);
  end loop;
  return jsonb_build_object('expired', v_count + v_emptied, 'more', p_limit in (v_count, v_emptied));
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127021500')
$$;

revoke all on function wa.kept_item, wa.note_kept, wa.empty_kept, wa.is_kept from public, anon, authenticated;
grant execute on function wa.kept_item, wa.note_kept, wa.empty_kept, wa.is_kept to service_role;

-- What is listed already.
do $$
begin
  perform wa.note_kept(r.id) from public.wa_refused_stanzas as r where r.body is not null order by r.id;
end
$$;

notify pgrst, 'reload schema';
