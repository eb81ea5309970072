-- What is left behind when somebody deletes: objects without a row, deadlocks, merges that are given up.
--
-- A message that went while its file was being stored left an object in the bucket that retention could not find. A
-- deletion locks message, then media job; the media functions did it the other way round. And a merge, or the opening
-- of an edit, failed as a whole because a user deleted a message at that moment.

-- The object was stored again after retention had listed it, for a message that is gone: removed once more.
alter table public.wa_media_doomed add column stored_again boolean not null default false;

-- Locks the message of a job, which comes before the job: the order in which a deletion locks them.
create function public.wa_lock_message_of(p_job bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1
  from public.messages as m
  where m.id = (select j.message_id from public.media_jobs as j where j.id = p_job)
  for no key update;
end
$$;

-- The object is in the bucket: {sha256, mime, bytes, width, height, duration_s, storage_path, file_enc_sha256?,
-- media_key_sha256?} becomes, or finds, its media row; the message is linked and the job ends. Refused with
-- object_doomed (PT409) while retention is removing that very object: the attempt is repeated as a whole, later.
-- A job that is gone, or (`stale`) another's, links nothing. Its object has a row all the same, or retention would
-- never find it; if it is being removed, it will be once more, unless a row names it again. `reused`: there was a row
-- or, once the job is gone, there is another object of this content.
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
  perform public.wa_lock_message_of(p_job);
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
    -- Locked, so that retention leaves it alone; none if it has just gone.
    select f.id, f.storage_path into v_media_id, v_path
    from public.media as f where f.sha256 = p_media ->> 'sha256'
    for key share;
  end if;
  -- After the insert: it has waited for a deletion that was under way, and now sees what that left.
  select d.storage_path into v_doomed
  from public.wa_media_doomed as d
  where d.sha256 = p_media ->> 'sha256' and coalesce(d.deleted_at > now() - interval '2 minutes', true);

  if v_ours then
    if v_doomed is not null or v_media_id is null then
      raise exception 'object_doomed' using errcode = 'PT409';
    end if;
    update public.messages set media_id = v_media_id, media_status = 'stored' where id = v_job.message_id;
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

-- Never, unless a person asks for it: the message says so (`p_status`), the audit log says why, the job ends. What it
-- would need again is kept for 60 days; WhatsApp keeps files for less.
create or replace function public.wa_media_abandon(
  p_job bigint, p_owner text, p_status text, p_code text, p_error text
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs;
  v_msg_id text;
begin
  perform public.wa_lock_message_of(p_job);
  v_job := public.wa_lock_job(p_job, p_owner);
  if v_job.id is not null then
    update public.messages set media_status = p_status where id = v_job.message_id returning wa_msg_id into v_msg_id;
    delete from public.media_jobs where id = v_job.id;
    insert into public.wa_media_abandoned (message_id, session_id, descriptor, status, code, error, attempts)
    values (
      v_job.message_id, v_job.session_id, v_job.descriptor, p_status, p_code, left(p_error, 1000), v_job.attempts
    )
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

-- One revoke; of several the earliest counts. Who may revoke is WhatsApp's to enforce. The message is locked before its
-- file's rows, as by a deletion.
create or replace function public.wa_apply_revoke(p_message bigint, p_by text, p_at timestamptz, p_blank boolean)
returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1 from public.messages where id = p_message for no key update;
  update public.messages
  set revoked_at = p_at, revoked_by = p_by
  where id = p_message
    and (revoked_at is null or (p_at, p_by collate "C") < (revoked_at, revoked_by collate "C"));
  if p_blank then
    perform public.wa_blank_message(p_message);
  end if;
end
$$;

-- Files that were given up, of these statuses (JSON array), become jobs again. `without`: those for which nothing was
-- kept to start from. Messages are locked before their files' rows, as by a deletion.
create or replace function public.wa_media_requeue(p_session text, p_statuses jsonb) returns jsonb
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
  where g.session_id = p_session and m.media_status = any(v_statuses) and a.message_id is null;
  perform 1
  from public.messages as m
  where m.id = any(array(
    select a.message_id
    from public.wa_media_abandoned as a
    where a.session_id = p_session and a.status = any(v_statuses)
  ))
  order by m.id
  for no key update;
  with back as (
    delete from public.wa_media_abandoned
    where session_id = p_session and status = any(v_statuses)
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

-- Retention, second step: contents that no message of any session refers to lose their row. The answer lists up to
-- `p_limit` objects that are to be deleted from the bucket, those of an interrupted run among them. A content whose
-- other object (another extension) is still on its way out has its turn after that.
create or replace function public.wa_doom_media(p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_ids bigint [];
  v_objects jsonb;
begin
  v_ids := array(
    select f.id
    from public.media as f
    where not exists (select 1 from public.messages as m where m.media_id = f.id)
      and not exists (
        select 1 from public.wa_media_doomed as d where d.sha256 = f.sha256 and d.deleted_at is null
      )
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

-- Retention, third step: these objects (JSON array of sha256) are gone from the bucket. Those that were stored again
-- after they had been listed may be there still: the next second step lists them once more.
create or replace function public.wa_objects_deleted(p_sha256 jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_media_doomed
  set deleted_at = now()
  where sha256 = any(array(select jsonb_array_elements_text(p_sha256))) and not stored_again;
  delete from public.wa_media_doomed where deleted_at < now() - interval '1 day';
  return '{}'::jsonb;
end
$$;

-- Tries held changes again, and lets go of those that are done or refused; how many were applied. A target that
-- somebody deletes at this moment is one that is not there: the next attempt does not see it.
create or replace function public.wa_retry_changes(p_session text, p_ids bigint[]) returns integer
language plpgsql security invoker set search_path = '' as $$
declare
  v_held public.wa_held_changes;
  v_result text;
  v_done integer := 0;
begin
  for v_held in
    select * from public.wa_held_changes as h where h.session_id = p_session and h.id = any(p_ids) order by h.id
  loop
    v_result := null;
    for v_attempt in 1..3 loop
      begin
        v_result := public.wa_apply_change(v_held);
      exception
        when foreign_key_violation then
          if v_attempt = 3 then
            raise;
          end if;
      end;
      exit when v_result is not null;
    end loop;
    continue when v_result = 'waiting';
    delete from public.wa_held_changes where id = v_held.id;
    if v_result = 'refused' then
      perform public.wa_count_discard(p_session, v_held.kind || '_by_other', 1);
    else
      v_done := v_done + 1;
    end if;
  end loop;
  return v_done;
end
$$;

-- Merges one person's two addresses. A message that somebody deletes at this moment is no reason to fail: the next
-- attempt does not see it.
create function public.wa_merge_or_again(p_session text, p_lid text, p_pn text) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  for v_attempt in 1..3 loop
    begin
      perform public.wa_merge_identity(p_session, p_lid, p_pn);
      return;
    exception
      when foreign_key_violation then
        if v_attempt = 3 then
          raise;
        end if;
    end;
  end loop;
end
$$;

-- Identities: [{lid, pn}]; the last word on a LID wins. Only a pair that is new has anything to merge, and of those
-- only the ones whose number is seen anywhere. At most 2,000 rows are rewritten here, a third of a second; pairs
-- beyond that are written down for public.wa_prune. `enable_seqscan`: for a number that is not known to be anywhere the
-- planner would read the whole table, for each pair.
create or replace function public.wa_write_identities(p_session text, p_identities jsonb) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_pair record;
  v_new jsonb;
  v_cost integer;
  v_left integer := 2000;
begin
  with written as (
    insert into public.wa_identities (session_id, lid, pn)
    select distinct on (i ->> 'lid') p_session, i ->> 'lid', i ->> 'pn'
    from jsonb_array_elements(p_identities) with ordinality as t (i, ord)
    where length(i ->> 'lid') between 1 and 256 and length(i ->> 'pn') between 1 and 256
    order by i ->> 'lid', t.ord desc
    on conflict (session_id, lid) do update set pn = excluded.pn, updated_at = now()
    where public.wa_identities.pn <> excluded.pn
    returning lid, pn
  )

  select jsonb_agg(to_jsonb(w)) into v_new from written as w;
  for v_pair in
    select p.lid, p.pn
    from jsonb_to_recordset(v_new) as p (lid text, pn text)
    where exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.sender = p.pn and m.sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.message_reactions as r
      where r.session_id = p_session and r.sender = p.pn and r.sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.quoted_sender = p.pn and m.quoted_sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.revoked_by = p.pn and m.revoked_by like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.wa_held_changes as h where h.session_id = p_session and h.author in (p.pn, p.lid)
    ) or exists (
      select 1 from public.wa_held_changes as h where h.session_id = p_session and h.target_sender in (p.pn, p.lid)
    ) or exists (
      select 1 from public.messages as m
      where m.mentions is not null and m.mentions @> array[p.pn] and m.session_id = p_session
    )
    order by p.lid
  loop
    v_cost := public.wa_merge_cost(p_session, v_pair.lid, v_pair.pn, v_left);
    if v_cost <= v_left and not exists (
      select 1 from public.wa_merges_due as d where d.session_id = p_session and d.pn = v_pair.pn
    ) then
      v_left := v_left - v_cost;
      perform public.wa_merge_or_again(p_session, v_pair.lid, v_pair.pn);
    else
      insert into public.wa_merges_due (session_id, lid, pn) values (p_session, v_pair.lid, v_pair.pn)
      on conflict (session_id, pn, lid) do nothing;
    end if;
  end loop;
end
$$;

-- Deletes ciphertext hashes, and if asked audit entries, past their age; the newest error stays, because the status
-- shows it; after a week held changes, which are counted as `edit_unmatched` and so on, and secrets (WhatsApp takes
-- edits for a quarter of an hour). At most 10,000 of each a call; `more` says that there are others. And one step of a
-- merge that was too large for its commit.
create or replace function public.wa_prune(
  p_session text, p_stanza_seconds double precision, p_audit_seconds double precision
)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_stanzas integer;
  v_audits integer := 0;
  v_changes integer;
  v_secrets integer;
  v_error bigint;
  v_code text;
  v_reason text;
begin
  if exists (select 1 from public.wa_merges_due as d where d.session_id = p_session) then
    perform 1 from public.wa_sessions where id = p_session for no key update;
    for v_attempt in 1..3 loop
      begin
        perform public.wa_merge_step(p_session, 2000);
        v_code := null;
      exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      end;
      exit when v_code is distinct from '23503';
    end loop;
    if v_code is not null then
      perform public.wa_audit(p_session, 'error', jsonb_build_object(
        'code', 'MERGE_REFUSED', 'msg', left(v_reason, 1000), 'ctx', jsonb_build_object('sqlstate', v_code)
      ));
      delete from public.wa_merges_due
      where id = (select min(d.id) from public.wa_merges_due as d where d.session_id = p_session);
    end if;
  end if;
  delete from public.decrypted_stanzas
  where session_id = p_session and hash = any(array(
    select d.hash
    from public.decrypted_stanzas as d
    where d.session_id = p_session and d.at < now() - make_interval(secs => p_stanza_seconds)
    order by d.at
    limit 10000
  ));
  get diagnostics v_stanzas = row_count;
  if p_audit_seconds is not null then
    select a.id into v_error
    from public.audit_log as a
    where a.session_id = p_session and a.event = 'error'
    order by a.at desc
    limit 1;
    delete from public.audit_log
    where id = any(array(
      select a.id
      from public.audit_log as a
      where a.session_id = p_session and a.at < now() - make_interval(secs => p_audit_seconds)
        and a.id is distinct from v_error
      order by a.at
      limit 10000
    ));
    get diagnostics v_audits = row_count;
  end if;
  with gone as (
    delete from public.wa_held_changes
    where id = any(array(
      select h.id
      from public.wa_held_changes as h
      where h.session_id = p_session and h.held_at < now() - interval '7 days'
      order by h.held_at
      limit 10000
    ))
    returning kind
  ),

  counted as (
    select count(public.wa_count_discard(p_session, k.kind || '_unmatched', k.count))
    from (
      select g.kind, count(*) as count from gone as g where g.kind not in ('quote', 'album') group by g.kind
    ) as k
  )

  select count(*) into v_changes from gone as g cross join counted;
  delete from public.message_secrets
  where message_id = any(array(
    select s.message_id
    from public.message_secrets as s
    where s.session_id = p_session and s.at < now() - interval '7 days'
    order by s.message_id
    limit 10000
  ));
  get diagnostics v_secrets = row_count;
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'changes', v_changes, 'secrets', v_secrets,
    'more', 10000 in (v_stanzas, v_audits, v_changes, v_secrets)
    or exists (select 1 from public.wa_merges_due as d where d.session_id = p_session)
  );
end
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261123000200')
$$;

revoke execute on function
public.wa_lock_message_of, public.wa_media_done, public.wa_media_abandon, public.wa_apply_revoke,
public.wa_media_requeue, public.wa_doom_media, public.wa_objects_deleted, public.wa_retry_changes,
public.wa_merge_or_again, public.wa_write_identities, public.wa_prune, public.wa_schema_version
from public, anon, authenticated;

grant execute on function
public.wa_lock_message_of, public.wa_media_done, public.wa_media_abandon, public.wa_apply_revoke,
public.wa_media_requeue, public.wa_doom_media, public.wa_objects_deleted, public.wa_retry_changes,
public.wa_merge_or_again, public.wa_write_identities, public.wa_prune, public.wa_schema_version
to service_role;
