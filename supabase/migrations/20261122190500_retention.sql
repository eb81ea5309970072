-- Retention: messages older than some days, and the files that then nobody refers to.
--
-- Three steps, each small and repeatable: messages; rows of public.media; objects of the bucket. A worker may store
-- the same content at that moment, so an object on its way out is written down, and public.wa_media_done looks there.

-- Contents that retention removes: the row of public.media is gone, the object is about to go (`deleted_at` null) or
-- has just gone. Until two minutes later nobody may make a new row for it: the object might be the old one.
create table public.wa_media_doomed (
  sha256 text primary key,
  storage_path text not null,
  at timestamptz not null default now(),
  deleted_at timestamptz
);

alter table public.wa_media_doomed enable row level security;

revoke all on public.wa_media_doomed from anon, authenticated;
grant select, insert, update, delete on public.wa_media_doomed to service_role;

-- The object is in the bucket: {sha256, mime, bytes, width, height, duration_s, storage_path, file_enc_sha256?,
-- media_key_sha256?} becomes, or finds, its media row; the message is linked and the job ends. Refused with
-- object_doomed (PT409) while retention is removing that very object: the attempt is repeated as a whole, later.
create or replace function public.wa_media_done(p_job bigint, p_owner text, p_media jsonb) returns jsonb
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
    -- After the insert: it has waited for a deletion that was under way, and now sees what that left.
    if exists (
      select 1 from public.wa_media_doomed as d
      where d.sha256 = p_media ->> 'sha256' and coalesce(d.deleted_at > now() - interval '2 minutes', true)
    ) then
      raise exception 'object_doomed' using errcode = 'PT409';
    end if;
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

-- What retention would remove: messages sent before, refused stanzas, and the contents that then nobody refers to.
create function public.wa_retention(p_session text, p_before timestamptz) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with unneeded as (
    select f.bytes
    from public.media as f
    where not exists (
      select 1 from public.messages as m
      where m.media_id = f.id and (m.ts >= p_before or m.session_id <> p_session)
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

-- Retention, first step: at most `p_limit` messages, and refused stanzas, that are older.
create function public.wa_delete_messages(p_session text, p_before timestamptz, p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_messages integer;
  v_refused integer;
begin
  delete from public.messages
  where id = any(array(
    select m.id
    from public.groups as g
    inner join public.messages as m on g.id = m.group_id
    where g.session_id = p_session and m.ts < p_before
    limit p_limit
  ));
  get diagnostics v_messages = row_count;
  delete from public.wa_refused_stanzas
  where id = any(array(
    select r.id from public.wa_refused_stanzas as r where r.session_id = p_session and r.at < p_before limit p_limit
  ));
  get diagnostics v_refused = row_count;
  return jsonb_build_object(
    'messages', v_messages, 'refused', v_refused, 'more', p_limit in (v_messages, v_refused)
  );
end
$$;

-- Retention, second step: contents that no message of any session refers to lose their row. The answer lists up to
-- `p_limit` objects that are to be deleted from the bucket, those of an interrupted run among them.
create function public.wa_doom_media(p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_ids bigint [];
begin
  v_ids := array(
    select f.id
    from public.media as f
    where not exists (select 1 from public.messages as m where m.media_id = f.id)
    limit p_limit
    for update skip locked
  );
  -- Looked at again under the lock: a message may have been linked meanwhile.
  with gone as (
    delete from public.media as f
    where f.id = any(v_ids) and not exists (select 1 from public.messages as m where m.media_id = f.id)
    returning f.sha256, f.storage_path
  )

  insert into public.wa_media_doomed (sha256, storage_path)
  select g.sha256, g.storage_path from gone as g
  on conflict (sha256) do update set storage_path = excluded.storage_path, at = now(), deleted_at = null;
  return jsonb_build_object('objects', (
    select coalesce(jsonb_agg(jsonb_build_object('sha256', o.sha256, 'storage_path', o.storage_path)), '[]')
    from (
      select d.sha256, d.storage_path from public.wa_media_doomed as d where d.deleted_at is null limit p_limit
    ) as o
  ));
end
$$;

-- Retention, third step: these objects (JSON array of sha256) are gone from the bucket.
create function public.wa_objects_deleted(p_sha256 jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_media_doomed
  set deleted_at = now()
  where sha256 = any(array(select jsonb_array_elements_text(p_sha256)));
  delete from public.wa_media_doomed where deleted_at < now() - interval '1 day';
  return '{}'::jsonb;
end
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261122190500')
$$;

revoke execute on function
public.wa_media_done, public.wa_retention, public.wa_delete_messages, public.wa_doom_media, public.wa_objects_deleted,
public.wa_schema_version
from public, anon, authenticated;

grant execute on function
public.wa_media_done, public.wa_retention, public.wa_delete_messages, public.wa_doom_media, public.wa_objects_deleted,
public.wa_schema_version
to service_role;
