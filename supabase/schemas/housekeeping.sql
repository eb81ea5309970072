-- What expires, and what keeps the database fast.

-- Deletes ciphertext hashes and, if asked, audit entries past their age; the newest error stays, because the status
-- shows it. After a week deletes held changes, unless they belong to a message that is listed as refused; they are
-- counted as `edit_unmatched` and so on. Also deletes secrets (WhatsApp accepts edits for a quarter of an hour), except
-- that those of polls and events live as long as their message, and handled requests. At most 10,000 of each a call;
-- `more` says that there are others.
-- Also takes one step of a merge that was too large for its commit, and writes the next search entries.
create function public.wa_prune(
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
  v_unsearched boolean := wa.search_fill(p_session, 2000);
begin
  if exists (select 1 from public.wa_merges_due as d where d.session_id = p_session) then
    perform 1 from public.wa_sessions where id = p_session for no key update;
    for v_attempt in 1..3 loop
      begin
        perform wa.merge_step(p_session, 2000);
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
        and not wa.is_listed(p_session, h.chat_id, h.target_sender, h.target_id)
        and not wa.is_listed(p_session, h.chat_id, h.author, h.change_id)
      order by h.held_at
      limit 10000
    ))
    returning kind
  ),

  counted as (
    select count(wa.count_discard(p_session, k.kind || '_unmatched', k.count))
    from (
      select g.kind, count(*) as count from gone as g where g.kind not in ('quote', 'album', 'rendition') group by g.kind
    ) as k
  )

  select count(*) into v_changes from gone as g cross join counted;
  delete from public.message_secrets
  where message_id = any(array(
    select s.message_id
    from public.message_secrets as s
    where s.session_id = p_session and s.at < now() - interval '7 days'
      and not exists (
        select 1 from public.messages as m where m.id = s.message_id and m.kind in ('poll', 'event')
      )
    order by s.message_id
    limit 10000
  ));
  get diagnostics v_secrets = row_count;
  delete from public.wa_requests where session_id = p_session and handled_at < now() - interval '7 days';
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'changes', v_changes, 'secrets', v_secrets,
    'more', v_unsearched or 10000 in (v_stanzas, v_audits, v_changes, v_secrets)
    or exists (select 1 from public.wa_merges_due as d where d.session_id = p_session)
  );
end
$$;

-- Whether somebody has kept this message in the chat, so that it does not disappear, and neither they nor its sender
-- have undone that.
create function wa.is_kept(p_session text, p_chat text, p_sender text, p_sender_alt text, p_wa_msg_id text)
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

-- Removes messages that are due to disappear: their content (`p_mode` 'blank') or the whole message ('delete'), with
-- earlier texts, secrets and changes that wait for them; and the kept bytes of listed ones, with their files. A message
-- that somebody has kept in the chat stays. Commits wait for this call, so `p_limit` is small; `more` says that there
-- may be others.
create function public.wa_expire(p_session text, p_mode text, p_limit integer) returns jsonb
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

-- Refreshes the planner's statistics of tables of which a fifth has changed since, because the embedded Supabase has no
-- autovacuum. Returns their names. Only the tables' owner may analyse them, hence `security definer`; it takes no
-- argument.
create function public.wa_analyze() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_table record;
  v_analyzed text[] := '{}';
begin
  for v_table in
    select
      c.oid,
      c.relname
    from pg_catalog.pg_stat_user_tables as s
    join pg_catalog.pg_class as c on c.oid = s.relid
    where s.schemaname in ('public', 'wa')
      and (
        s.n_mod_since_analyze > 50 + 0.2 * greatest(c.reltuples, 0)
        -- A restart forgets the count of changes; the size remains.
        or pg_catalog.pg_relation_size(c.oid) > 65536 + 1.2 * 8192 * c.relpages
      )
    order by c.relname
  loop
    execute format('analyze %s', v_table.oid::pg_catalog.regclass);
    v_analyzed := v_analyzed || v_table.relname::text;
  end loop;
  return jsonb_build_object('done', true, 'analyzed', v_analyzed);
end
$$;

-- The number of the newest migration. Each migration replaces this function with its own number; this file need not
-- follow.
create function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', 'number of the newest migration')
$$;
