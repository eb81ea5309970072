-- Stored files: one row per content, whoever sent it; and their removal by retention.
--
-- Retention takes three small, repeatable steps: messages; rows of public.media; objects of the bucket. A worker may
-- store the same content meanwhile, so each object that is about to go has a row in public.wa_media_doomed, which
-- public.wa_media_done reads.

create table public.media (
  id bigint generated always as identity primary key,
  sha256 text not null unique check (sha256 ~ '^[0-9a-f]{64}$'),
  mime text not null,
  bytes bigint not null check (bytes >= 0),
  width integer,
  height integer,
  duration_s double precision,
  storage_path text not null,
  created_at timestamptz not null default now()
);

-- Ciphertexts that were downloaded and verified before: forwarding one needs no second download.
create table public.media_verified (
  file_enc_sha256 text not null,
  media_key_sha256 text not null,
  media_id bigint not null references public.media (id) on delete cascade,
  primary key (file_enc_sha256, media_key_sha256)
);

create index media_verified_media_id on public.media_verified (media_id);

-- Contents that retention removes: the row of public.media is gone; the object is about to go (`deleted_at` null) or
-- has just gone. For two minutes after that nobody may insert a new row for the content: the object might be the old
-- one.
create table public.wa_media_doomed (
  sha256 text primary key,
  storage_path text not null,
  at timestamptz not null default now(),
  deleted_at timestamptz,
  -- Stored again after retention had listed it, for a message that is gone: it must be removed once more.
  stored_again boolean not null default false
);

-- The media row of a ciphertext that was verified before under the same media key; null if there is none.
create function public.wa_media_known(p_file_enc_sha256 text, p_media_key_sha256 text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select to_jsonb(m) || jsonb_build_object('bytes', m.bytes::text)
  from public.media_verified as v
  inner join public.media as m on v.media_id = m.id
  where v.file_enc_sha256 = p_file_enc_sha256 and v.media_key_sha256 = p_media_key_sha256
$$;

-- What retention would remove: messages sent before `p_before`, refused stanzas, and contents that nothing refers to
-- then.
create function public.wa_retention(p_session text, p_before timestamptz) returns jsonb
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

-- Retention, first step: deletes up to `p_limit` messages, and as many refused stanzas, older than `p_before`.
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
  if v_messages + v_refused > 0 then
    perform wa.note_deleted(p_session, p_before);
  end if;
  return jsonb_build_object(
    'messages', v_messages, 'refused', v_refused, 'more', p_limit in (v_messages, v_refused)
  );
end
$$;

-- Retention, second step: deletes the rows of contents that no message of any session refers to, stored or listed as
-- refused. Lists up to `p_limit` objects to delete from the bucket, including those of an interrupted run. A content
-- whose other object (another extension) is still being removed waits until that is done.
create function public.wa_list_media_to_delete(p_limit integer) returns jsonb
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

-- Retention, third step: these objects (JSON array of sha256) are deleted from the bucket. An object that was stored
-- again after it was listed may still be there: the next second step lists it once more.
create function public.wa_mark_media_deleted(p_sha256 jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_media_doomed
  set deleted_at = now()
  where sha256 = any(array(select jsonb_array_elements_text(p_sha256))) and not stored_again;
  delete from public.wa_media_doomed where deleted_at < now() - interval '1 day';
  return '{"done": true}'::jsonb;
end
$$;
