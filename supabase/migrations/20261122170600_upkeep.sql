-- Upkeep: what expires, what an operator asks.

-- Stubs whose good copy did not come in time are lost: said in the row and in the audit log. At most 500 a call.
create function public.wa_mark_lost(p_session text, p_older_than_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_lost integer;
begin
  with lost as (
    update public.messages
    set pending = false, lost_at = now()
    where id = any(array(
      select m.id
      from public.messages as m
      where m.session_id = p_session and m.pending
        and m.received_at <= now() - make_interval(secs => p_older_than_seconds)
      order by m.received_at
      limit 500
      for update skip locked
    ))
    returning wa_msg_id, chat_id
  ),

  audited as (
    insert into public.audit_log (session_id, event, payload)
    select p_session, 'error', jsonb_build_object(
      'code', 'MESSAGE_LOST', 'msg', 'never became readable', 'wa_msg_id', l.wa_msg_id,
      'ctx', jsonb_build_object('wa_msg_id', l.wa_msg_id, 'chat_id', l.chat_id)
    )
    from lost as l
  )

  select count(*) into v_lost from lost;
  return jsonb_build_object('lost', v_lost);
end
$$;

-- Deletes ciphertext hashes, and if asked audit entries, past their age. At most 10,000 of each a call; `more` says
-- that there are others.
create function public.wa_prune(p_session text, p_stanza_seconds double precision, p_audit_seconds double precision)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_stanzas integer;
  v_audits integer := 0;
begin
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
    delete from public.audit_log
    where id = any(array(
      select a.id
      from public.audit_log as a
      where a.session_id = p_session and a.at < now() - make_interval(secs => p_audit_seconds)
      order by a.at
      limit 10000
    ));
    get diagnostics v_audits = row_count;
  end if;
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'more', v_stanzas = 10000 or v_audits = 10000
  );
end
$$;

-- Refreshes the planner's statistics: the embedded Supabase has nobody else to do it. Analysing takes the tables'
-- owner, hence `security definer`; it takes no argument and returns nothing.
create function public.wa_analyze() returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  analyze public.wa_session_keys, public.messages, public.media_jobs, public.media, public.decrypted_stanzas,
    public.audit_log;
  return '{}'::jsonb;
end
$$;

-- The newest migration that this worker needs. Each later migration replaces it.
create function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261122170600')
$$;

-- What a status command shows. Without the QR itself: it is a way into the account.
create function public.wa_status(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'schema_version', public.wa_schema_version() ->> 'version',
    'now', now(),
    'session', (
      select to_jsonb(s) - 'creds_json' - 'detail' || jsonb_build_object(
        'fence', s.fence::text, 'epoch', s.epoch::text, 'seq', s.seq::text,
        'detail', s.detail - 'qr', 'has_qr', s.detail ? 'qr', 'has_creds', s.creds_json is not null,
        'lease_held', coalesce(s.lease_expires_at > now(), false)
      )
      from public.wa_sessions as s where s.id = p_session
    ),
    'groups', (select count(*) from public.groups as g where g.session_id = p_session and g.left_at is null),
    'monitored', (select count(*) from public.groups as g where g.session_id = p_session and g.monitor),
    'messages', (select count(*) from public.messages as m where m.session_id = p_session),
    'last_message_at', (select max(m.received_at) from public.messages as m where m.session_id = p_session),
    'pending_stubs', (select count(*) from public.messages as m where m.session_id = p_session and m.pending),
    'media', (select count(*) from public.media),
    'media_jobs', (select count(*) from public.media_jobs as j where j.session_id = p_session),
    'media_jobs_due', (
      select count(*) from public.media_jobs as j where j.session_id = p_session and j.next_attempt_at <= now()
    ),
    'refused', (select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session),
    'discards', (
      select coalesce(jsonb_object_agg(d.reason, d.count::text), '{}')
      from public.wa_discards as d where d.session_id = p_session
    ),
    'last_error', (
      select jsonb_build_object('at', a.at, 'payload', a.payload)
      from public.audit_log as a where a.session_id = p_session and a.event = 'error' order by a.at desc limit 1
    )
  )
$$;

revoke execute on function
public.wa_mark_lost, public.wa_prune, public.wa_analyze, public.wa_schema_version, public.wa_status
from public, anon, authenticated;

grant execute on function
public.wa_mark_lost, public.wa_prune, public.wa_analyze, public.wa_schema_version, public.wa_status
to service_role;
