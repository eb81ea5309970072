-- Votes, answers to events, and sealed reactions and comments are opened: content says what was chosen, a view who
-- chose what now. Secrets of polls and events live as long as their message.

set check_function_bodies = off;

-- Who chose what in a poll, now: each person's newest vote that was opened. No choices: taken back.
create view public.poll_votes with (security_invoker = true) as
select distinct on (v.content -> 'about', v.sender)
  v.session_id,
  v.sender,
  v.push_name,
  v.ts as at,
  (v.content ->> 'about')::bigint as poll_id,
  v.content -> 'choices' as choices
from public.messages as v
where v.kind = 'poll_vote' and v.content ? 'choices' and v.content ? 'about' and v.revoked_at is null
order by v.content -> 'about' asc, v.sender asc, v.ts desc, v.id desc;

create index messages_poll_votes on public.messages ((content -> 'about'), sender, ts desc, id desc)
where kind = 'poll_vote' and content ? 'choices' and content ? 'about' and revoked_at is null;

-- Gives the row that a held vote or the like came with what was in it, and drops the held change.
create function wa.complete_content(p_session text, p_held bigint, p_text text, p_content jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_held public.wa_held_changes;
begin
  delete from public.wa_held_changes
  where session_id = p_session and id = p_held and kind = 'sealed_edit'
  returning * into v_held;
  update public.messages as m
  set
    text = coalesce(p_text, m.text),
    content = coalesce(m.content, '{}') || p_content || coalesce((
      select jsonb_build_object('about', target.id)
      from public.messages as target
      where target.session_id = p_session and target.chat_id = v_held.chat_id
        and target.sender = v_held.target_sender and target.wa_msg_id = v_held.target_id
    ), '{}')
  where m.session_id = p_session and m.chat_id = v_held.chat_id and m.sender = v_held.author
    and m.wa_msg_id = v_held.change_id and not m.blanked;
end
$$;

-- What can be decrypted now, because its target and the target's secret are stored: edits, and votes and the like,
-- whose payload has `use`. With both addresses of the target's sender and, for a poll, its options.
create or replace function public.wa_sealed_edits(p_session text, p_limit integer) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(sealed) order by sealed.id), '[]')
  from (
    select
      h.id::text, h.target_id, h.payload, s.secret, m.sender, m.sender_alt,
      coalesce(m.content -> 'options', '[]') as options
    from public.wa_held_changes as h
    inner join public.messages as m
      on
        m.session_id = p_session and m.chat_id = h.chat_id and m.sender = h.target_sender
        and m.wa_msg_id = h.target_id
    inner join public.message_secrets as s on m.id = s.message_id
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
    order by h.id
    limit p_limit
  ) as sealed
$$;

-- Takes decrypted edits: [{id, text, at}], `at` null to keep the envelope's; or [{id, unreadable: true}], which stays
-- held and is not tried again. A decrypted edit is applied like any other. What a vote or the like says comes as
-- `content`, which its row gains, with the row of its target as `about`.
create or replace function public.wa_open_edits(p_session text, p_fence bigint, p_opened jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_opened record;
  v_ids bigint [] := '{}';
  v_completed integer := 0;
begin
  perform wa.lock_session(p_session, p_fence);
  for v_opened in
    select * from jsonb_to_recordset(p_opened) as o (
      id bigint, text text, content jsonb, at timestamptz, unreadable boolean
    )
  loop
    if v_opened.unreadable then
      update public.wa_held_changes set unreadable = true
      where session_id = p_session and id = v_opened.id and kind = 'sealed_edit';
    elsif jsonb_typeof(v_opened.content) = 'object' then
      perform wa.complete_content(p_session, v_opened.id, v_opened.text, v_opened.content);
      v_completed := v_completed + 1;
    else
      update public.wa_held_changes
      set kind = 'edit', payload = jsonb_build_object('text', v_opened.text), at = coalesce(v_opened.at, at)
      where session_id = p_session and id = v_opened.id and kind = 'sealed_edit';
      v_ids := v_ids || v_opened.id;
    end if;
  end loop;
  return jsonb_build_object('changed', v_completed + wa.retry_changes(p_session, v_ids));
end
$$;

-- Deletes ciphertext hashes and, if asked, audit entries past their age; the newest error stays, because the status
-- shows it. After a week deletes held changes, unless they belong to a message that is listed as refused; they are
-- counted as `edit_unmatched` and so on. And secrets (WhatsApp accepts edits for a quarter of an hour), but those of
-- polls and events live as long as their message. At most 10,000 of each a call; `more` says that there are others.
-- Also takes one step of a merge that was too large for its commit.
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
      select g.kind, count(*) as count from gone as g where g.kind not in ('quote', 'album') group by g.kind
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
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'changes', v_changes, 'secrets', v_secrets,
    'more', 10000 in (v_stanzas, v_audits, v_changes, v_secrets)
    or exists (select 1 from public.wa_merges_due as d where d.session_id = p_session)
  );
end
$$;

revoke execute on function wa.complete_content from public, anon, authenticated;
grant execute on function wa.complete_content to service_role;

revoke all on public.poll_votes from anon, authenticated;
grant select on public.poll_votes to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126135900')
$$;

notify pgrst, 'reload schema';
