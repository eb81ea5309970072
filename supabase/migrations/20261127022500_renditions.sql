-- Renditions: a better copy of a photo or film, or the film of a motion photo, belongs to the message it is of.

set check_function_bodies = off;

alter table public.messages
add column rendition text check (rendition in ('hd', 'hevc', 'motion')),
add column rendition_of bigint references public.messages (id) on delete set null;

create index messages_rendition_of on public.messages (rendition_of) where rendition_of is not null;

drop index public.messages_linkable;

create index messages_linkable on public.messages (session_id, chat_id, sender, ts, id)
where (kind = 'text' or media_status is not null) and rendition is null;

alter table public.wa_held_changes
drop constraint wa_held_changes_kind_check,
add constraint wa_held_changes_kind_check
check (kind in ('edit', 'sealed_edit', 'revoke', 'reaction', 'quote', 'album', 'rendition'));

create or replace function wa.apply_revoke(p_message bigint, p_by text, p_at timestamptz, p_blank boolean)
returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1 from public.messages where id = p_message or rendition_of = p_message order by id for no key update;
  update public.messages
  set revoked_at = p_at, revoked_by = p_by, revoke_claimed_at = null, revoke_claimed_by = null
  where id = p_message
    and (revoked_at is null or (p_at, p_by collate "C") < (revoked_at, revoked_by collate "C"));
  if p_blank then
    perform wa.blank_message(p_message);
  end if;
  perform wa.apply_revoke(m.id, p_by, p_at, p_blank) from public.messages as m where m.rendition_of = p_message;
end
$$;

create or replace function wa.use_best_file(p_message bigint) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages as m
  set media_id = best.media_id, media_status = 'stored'
  from (
    select r.media_id, f.bytes, r.kind
    from public.messages as r
    inner join public.media as f on r.media_id = f.id
    where r.rendition_of = p_message and r.rendition = 'hd' and not r.blanked
    order by f.bytes desc, r.id
    limit 1
  ) as best
  where m.id = p_message and not m.blanked and m.kind = best.kind
    and (m.media_id, m.media_status) is distinct from (best.media_id, 'stored')
    and not exists (
      select 1 from public.media as f where f.id = m.media_id and m.media_status = 'stored' and f.bytes >= best.bytes
    )
$$;

create or replace function wa.apply_change(p_change public.wa_held_changes) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_target public.messages;
  v_id bigint;
  v_kind text;
begin
  select * into v_target
  from public.messages as m
  where m.session_id = p_change.session_id and m.chat_id = p_change.chat_id and m.sender = p_change.target_sender
    and m.wa_msg_id = p_change.target_id;
  v_id := v_target.id;
  v_kind := v_target.kind;
  if v_id is null or p_change.kind = 'sealed_edit'
    or (p_change.kind in ('quote', 'album', 'rendition') and p_change.message_id is null) then
    return 'waiting';
  end if;
  if p_change.kind in ('edit', 'album', 'rendition') then
    if p_change.author <> p_change.target_sender then
      return case
        when wa.are_two_people(p_change.session_id, p_change.author, p_change.target_sender) then 'refused'
        else 'waiting'
      end;
    end if;
    if v_kind = 'undecryptable' then
      return 'waiting';
    end if;
  end if;
  case p_change.kind
    when 'edit' then
      perform wa.apply_edit(v_id, p_change.change_id, p_change.payload ->> 'text', p_change.at);
    when 'revoke' then
      case wa.may_revoke(p_change)
        when 'refused' then
          update public.messages set revoke_claimed_at = null, revoke_claimed_by = null
          where id = v_id and revoke_claimed_at is not null;
          return 'refused';
        when 'unknown' then
          perform wa.claim_revoke(v_id, p_change.author, p_change.at);
          return 'waiting';
        else
          null;
      end case;
      perform wa.apply_revoke(
        v_id, p_change.author, p_change.at, coalesce((p_change.payload -> 'blank') = 'true', false)
      );
    when 'reaction' then
      perform wa.apply_reaction(
        p_change.session_id, v_id, p_change.author, p_change.payload ->> 'emoji', p_change.at, p_change.change_id
      );
    when 'quote' then
      update public.messages set quoted_id = v_id where id = p_change.message_id and id <> v_id;
    when 'album' then
      if v_kind <> 'album' then
        return 'refused';
      end if;
      update public.messages set album_id = v_id where id = p_change.message_id and id <> v_id;
    when 'rendition' then
      if v_target.media_status is null or v_target.rendition is not null then
        return 'refused';
      end if;
      perform 1 from public.messages where id in (v_id, p_change.message_id) order by id for no key update;
      update public.messages set rendition_of = v_id where id = p_change.message_id and id <> v_id;
      if v_target.revoked_at is not null then
        perform wa.apply_revoke(p_change.message_id, v_target.revoked_by, v_target.revoked_at, v_target.blanked);
      end if;
      perform wa.use_best_file(v_id);
    else
      raise exception 'no such change' using errcode = 'invalid_parameter_value';
  end case;
  return 'done';
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
  if v_change.kind in ('quote', 'album', 'rendition') then
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
      and h.change_id = p_row.wa_msg_id and h.kind in ('quote', 'album', 'rendition') and h.message_id is null
      and m.session_id = p_row.session_id and m.chat_id = h.chat_id and m.sender = h.author
      and m.wa_msg_id = h.change_id;
    perform wa.retry_changes(p_row.session_id, array(
      select h.id from public.wa_held_changes as h
      where h.session_id = p_row.session_id and h.chat_id = p_row.chat_id and h.author = p_row.sender
        and h.change_id = p_row.wa_msg_id and h.kind in ('quote', 'album', 'rendition')
    ));
  end if;
  if coalesce((v_counts ->> 'refused')::integer, 0) > 0 then
    raise exception 'refused_again' using errcode = 'WA001';
  end if;
end
$$;

create or replace function public.wa_export_messages(p_session text, p_group bigint, p_after bigint, p_limit integer)
returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('messages', coalesce(jsonb_agg(e.document order by e.id), '[]'))
  from (
    select
      m.id,
      to_jsonb(m) || jsonb_build_object(
        'id', m.id::text, 'group_id', m.group_id::text, 'media_id', m.media_id::text,
        'parent_id', m.parent_id::text, 'quoted_id', m.quoted_id::text, 'album_id', m.album_id::text,
        'rendition_of', m.rendition_of::text,
        'media', (
          select to_jsonb(f) || jsonb_build_object('id', f.id::text, 'bytes', f.bytes::text)
          from public.media as f where f.id = m.media_id
        ),
        'edits', (
          select coalesce(jsonb_agg(jsonb_build_object('text', d.text, 'at', d.at) order by d.at, d.id), '[]')
          from public.message_edits as d where d.message_id = m.id
        ),
        'reactions', (
          select coalesce(
            jsonb_agg(jsonb_build_object('sender', r.sender, 'emoji', r.emoji, 'at', r.at) order by r.at, r.sender),
            '[]'
          )
          from public.message_reactions as r where r.message_id = m.id and r.emoji is not null
        )
      ) as document
    from public.messages as m
    where m.session_id = p_session and m.group_id = p_group and m.id > p_after
    order by m.id
    limit p_limit
  ) as e
$$;

create or replace function public.changes(p_session text, p_since text, p_limit integer default 500) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_since bigint := split_part(p_since, '.', 1)::bigint;
  v_forgotten bigint := coalesce(nullif(split_part(p_since, '.', 2), ''), '0')::bigint;
  v_oldest bigint := 0;
  v_newest bigint := 0;
  v_changes jsonb;
  v_next bigint;
begin
  if exists (select 1 from public.groups as g where g.session_id = p_session) then
    select r.oldest, greatest(r.newest, r.oldest) into v_oldest, v_newest from wa.cursor_range(p_session) as r;
  end if;
  if v_since = 0 then
    v_forgotten := v_oldest;
  end if;
  if v_since is null or greatest(v_since, v_forgotten) < v_oldest or v_since > v_newest then
    return jsonb_build_object('changes', '[]'::jsonb, 'next', v_newest::text, 'start_again', p_since is not null);
  end if;
  -- Fewer than the limit: no more are visible up to the newest.
  select
    coalesce(jsonb_agg(to_jsonb(p) - 'number' order by p.number), '[]'),
    case when count(*) < least(p_limit, 1000) then v_newest else coalesce(max(p.number), v_since) end
  into v_changes, v_next
  from (
    select
      c.change_id as number, c.change_id::text as change_id, c.message_id, c.deleted,
      (
        select to_jsonb(shown)
        from (
          select
            m.id, m.session_id, m.group_id, m.wa_msg_id, m.chat_id, m.sender, m.sender_alt, m.push_name, m.from_me,
            m.ts, m.received_at, m.kind, m.text, m.file_name, m.media_id, m.media_status, m.parent_id, m.pending,
            m.lost_at, m.edited_at, m.revoked_at, m.edit_msg_id, m.revoked_by, m.blanked, m.quoted_msg_id,
            m.quoted_sender, m.quoted_id, m.album_id, m.mentions, m.mention_count, m.forwarded, m.forward_score,
            m.content, m.expires_at, m.rendition, m.rendition_of,
            (
              select jsonb_build_object(
                'sha256', f.sha256, 'mime', f.mime, 'bytes', f.bytes, 'width', f.width, 'height', f.height,
                'duration_s', f.duration_s, 'storage_path', f.storage_path
              )
              from public.media as f
              where f.id = m.media_id
            ) as media,
            (
              select coalesce(jsonb_agg(to_jsonb(r) order by r.at, r.sender), '[]')
              from (
                select e.sender, e.emoji, e.at
                from public.message_reactions as e
                where e.message_id = m.id and e.emoji is not null
              ) as r
            ) as reactions
          from public.messages as m
          where m.id = c.message_id
        ) as shown
      ) as message
    from public.message_changes as c
    where c.session_id = p_session and c.change_id > v_since
    order by c.change_id
    limit least(p_limit, 1000)
  ) as p;
  return jsonb_build_object(
    'changes', v_changes, 'start_again', false,
    'next', v_next::text || case when v_next < v_forgotten then '.' || v_forgotten else '' end
  );
end
$$;

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
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'changes', v_changes, 'secrets', v_secrets,
    'more', 10000 in (v_stanzas, v_audits, v_changes, v_secrets)
    or exists (select 1 from public.wa_merges_due as d where d.session_id = p_session)
  );
end
$$;

create or replace function wa.merge_messages(p_kept bigint, p_gone bigint, p_sender text, p_alt text)
returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_kept public.messages;
  v_gone public.messages;
  v_source public.messages;
  v_other public.messages;
  v_edits jsonb;
  v_job bigint;
  v_row record;
begin
  select * into v_kept from public.messages where id = p_kept;
  select * into v_gone from public.messages where id = p_gone;
  v_source := v_kept;
  v_other := v_gone;
  if v_gone.kind <> 'undecryptable' and (
    v_kept.kind = 'undecryptable'
    or (coalesce(v_gone.content_order, 0), p_gone) < (coalesce(v_kept.content_order, 0), p_kept)
  ) then
    v_source := v_gone;
    v_other := v_kept;
  end if;
  v_source.push_name := coalesce(v_source.push_name, v_other.push_name);
  if v_source.edited_at is not null then
    select e.text into v_source.text
    from public.message_edits as e
    where e.message_id = v_source.id and e.edit_msg_id = '';
  end if;
  select jsonb_agg(to_jsonb(e)) into v_edits
  from (
    select f.edit_msg_id, f.text, f.at
    from public.message_edits as f
    where f.message_id in (p_kept, p_gone) and f.edit_msg_id <> ''
    union all
    select m.edit_msg_id, m.text, m.edited_at
    from public.messages as m
    where m.id in (p_kept, p_gone) and m.edited_at is not null
  ) as e;

  update public.messages set quoted_id = p_kept where quoted_id = p_gone;
  update public.messages set album_id = p_kept where album_id = p_gone;
  update public.messages set rendition_of = p_kept where rendition_of = p_gone;
  delete from public.wa_held_changes where message_id = v_other.id and kind in ('quote', 'album', 'rendition');
  update public.wa_held_changes set message_id = p_kept where message_id = p_gone;
  for v_row in select * from public.message_reactions as r where r.message_id = p_gone loop
    perform wa.apply_reaction(v_row.session_id, p_kept, v_row.sender, v_row.emoji, v_row.at, v_row.wa_msg_id);
  end loop;
  -- Keep the secret of the content that stays, or else the other one.
  delete from public.message_secrets
  where message_id = p_kept and v_source.id = p_gone
    and exists (select 1 from public.message_secrets as s where s.message_id = p_gone);
  insert into public.message_secrets (message_id, session_id, secret, at)
  select p_kept, s.session_id, s.secret, s.at from public.message_secrets as s where s.message_id = p_gone
  on conflict (message_id) do nothing;
  -- Keep the better state of the file: stored before pending, pending before given up.
  if v_source.media_status is not null and v_source.media_id is null then
    if v_other.media_id is not null then
      v_source.media_id := v_other.media_id;
      v_source.media_status := v_other.media_status;
    else
      select j.id into v_job
      from public.media_jobs as j
      where j.message_id in (p_kept, p_gone)
      order by j.message_id = v_source.id desc
      limit 1;
      if v_job is not null then
        v_source.media_status := 'pending';
      end if;
    end if;
  end if;
  delete from public.media_jobs where message_id in (p_kept, p_gone) and id is distinct from v_job;
  update public.media_jobs set message_id = p_kept where id = v_job;
  delete from public.wa_media_abandoned
  where message_id in (p_kept, p_gone)
    and (message_id <> v_source.id or v_source.media_id is not null or v_job is not null);
  update public.wa_media_abandoned set message_id = p_kept where message_id = v_source.id;
  delete from public.message_edits where message_id = p_kept;
  delete from public.message_secrets where message_id = p_gone;
  delete from public.messages where id = p_gone;
  perform wa.replace_content(p_kept, v_source);
  update public.messages
  set
    sender = p_sender, sender_alt = p_alt, edited_at = null, edit_msg_id = null,
    quoted_id = case when v_source.quoted_id not in (p_kept, p_gone) then v_source.quoted_id end,
    album_id = case when v_source.album_id not in (p_kept, p_gone) then v_source.album_id end,
    rendition_of = case when v_source.rendition_of not in (p_kept, p_gone) then v_source.rendition_of end
  where id = p_kept;

  if v_gone.revoked_at is not null then
    perform wa.apply_revoke(p_kept, v_gone.revoked_by, v_gone.revoked_at, false);
  end if;
  if v_kept.blanked or v_gone.blanked then
    perform wa.blank_message(p_kept);
  end if;
  for v_row in select * from jsonb_to_recordset(v_edits) as e (edit_msg_id text, text text, at timestamptz) loop
    perform wa.apply_edit(p_kept, v_row.edit_msg_id, v_row.text, v_row.at);
  end loop;
end
$$;

create or replace function wa.merge_step(p_session text, p_limit integer) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_due public.wa_merges_due;
  v_ids bigint [];
  v_twin record;
  v_reaction public.message_reactions;
  v_first record;
  v_last record;
begin
  select * into v_due from public.wa_merges_due where session_id = p_session order by id limit 1;
  if v_due.id is null then
    return;
  end if;

  v_ids := array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.sender = v_due.pn and m.sender like '%@s.whatsapp.net'
    limit p_limit
  );
  if v_ids <> '{}' then
    update public.wa_merges_due
    set chats = array(
      select c.chat from unnest(v_due.chats) as c (chat)
      union
      select m.chat_id from public.messages as m where m.id = any(v_ids)
    )
    where id = v_due.id;
    for v_twin in
      select m.id as written, twin.id as known
      from public.messages as m
      cross join lateral (
        select n.id from public.messages as n
        where n.session_id = p_session and n.chat_id = m.chat_id and n.sender = v_due.lid
          and n.wa_msg_id = m.wa_msg_id
      ) as twin
      where m.id = any(v_ids)
    loop
      perform wa.merge_messages(
        least(v_twin.written, v_twin.known), greatest(v_twin.written, v_twin.known), v_due.lid, v_due.pn
      );
    end loop;
    update public.messages set sender = v_due.lid, sender_alt = v_due.pn where id = any(v_ids) and sender = v_due.pn;
    return;
  end if;

  update public.messages set quoted_sender = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.quoted_sender = v_due.pn and m.quoted_sender like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages set revoked_by = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.revoked_by = v_due.pn and m.revoked_by like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages as m
  set
    mentions = array(
      select who.jid
      from unnest(array_replace(m.mentions, v_due.pn, v_due.lid)) with ordinality as who (jid, ord)
      group by who.jid
      order by min(who.ord)
    )
  where m.id = any(array(
    select n.id from public.messages as n
    where n.mentions is not null and n.mentions @> array[v_due.pn] and n.session_id = p_session
    limit p_limit
  ));
  if found then
    return;
  end if;
  for v_reaction in
    delete from public.message_reactions as r
    where r.sender = v_due.pn and r.message_id = any(array(
      select n.message_id from public.message_reactions as n
      where n.session_id = p_session and n.sender = v_due.pn and n.sender like '%@s.whatsapp.net'
      limit p_limit
    ))
    returning r.*
  loop
    perform wa.apply_reaction(
      p_session, v_reaction.message_id, v_due.lid, v_reaction.emoji, v_reaction.at, v_reaction.wa_msg_id
    );
  end loop;
  if found then
    return;
  end if;

  if v_due.chats <> '{}' then
    select m.ts, m.id into v_first
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
    order by m.ts, m.id
    limit 1;
    select m.ts, m.id into v_last
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
    order by m.ts desc, m.id desc
    limit 1;
    if v_first.id is not null then
      perform wa.link_parents(
        p_session, v_due.chats[1], v_due.lid, v_first.ts, v_first.id, v_last.ts, v_last.id
      );
    end if;
    update public.wa_merges_due set chats = v_due.chats[2:] where id = v_due.id;
    return;
  end if;

  -- Little is left: held changes, and rows that arrived meanwhile.
  perform wa.merge_identity(p_session, v_due.lid, v_due.pn);
  delete from public.wa_merges_due where id = v_due.id;
end
$$;

create or replace function wa.lock_message_of_job(p_job bigint) returns void
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

create or replace function wa.link_parents(
  p_session text, p_chat text, p_sender text,
  p_first_ts timestamptz, p_first_id bigint, p_last_ts timestamptz, p_last_id bigint
) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_row record;
  v_prev_id bigint;
  v_prev_ts timestamptz;
  v_prev_is_text boolean;
  v_prev_is_free boolean;
  v_parent bigint;
  v_changed bigint [] := '{}';
  v_parents bigint [] := '{}';
begin
  select m.id, m.ts, m.kind = 'text', m.parent_id is null
  into v_prev_id, v_prev_ts, v_prev_is_text, v_prev_is_free
  from public.messages as m
  where m.session_id = p_session and m.chat_id = p_chat and m.sender = p_sender
    and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
    and (m.ts, m.id) < (p_first_ts, p_first_id)
  order by m.ts desc, m.id desc
  limit 1;

  for v_row in
    select m.id, m.ts, m.kind = 'text' as is_text, m.parent_id
    from public.messages as m
    where m.session_id = p_session and m.chat_id = p_chat and m.sender = p_sender
      and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
      and (m.ts, m.id) >= (p_first_ts, p_first_id)
    order by m.ts, m.id
  loop
    v_parent := null;
    if v_prev_is_free and v_prev_is_text <> v_row.is_text and v_row.ts - v_prev_ts <= interval '90 seconds' then
      v_parent := v_prev_id;
    end if;
    if v_parent is distinct from v_row.parent_id then
      v_changed := v_changed || v_row.id;
      v_parents := v_parents || v_parent;
    elsif (v_row.ts, v_row.id) > (p_last_ts, p_last_id) then
      exit;
    end if;
    v_prev_id := v_row.id;
    v_prev_ts := v_row.ts;
    v_prev_is_text := v_row.is_text;
    v_prev_is_free := v_parent is null;
  end loop;

  -- Clear all links before setting any: the unique index on parent_id is checked row by row.
  update public.messages set parent_id = null where id = any(v_changed) and parent_id is not null;
  update public.messages as m
  set parent_id = c.parent_id
  from unnest(v_changed, v_parents) as c (id, parent_id)
  where m.id = c.id and c.parent_id is not null;
end
$$;

create or replace function wa.replace_content(p_message bigint, p_from public.messages) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages as m
  set
    kind = p_from.kind, text = p_from.text, raw = p_from.raw, content = p_from.content,
    file_name = p_from.file_name, media_id = p_from.media_id, media_status = p_from.media_status,
    sender_alt = coalesce(p_from.sender_alt, m.sender_alt), push_name = coalesce(p_from.push_name, m.push_name),
    quoted_msg_id = p_from.quoted_msg_id, quoted_sender = p_from.quoted_sender, mentions = p_from.mentions,
    mention_count = p_from.mention_count, forwarded = p_from.forwarded, forward_score = p_from.forward_score,
    pending = p_from.pending, lost_at = p_from.lost_at, content_order = p_from.content_order,
    expires_at = p_from.expires_at, rendition = p_from.rendition
  where m.id = p_message;

  select wa.unlist_undecrypted(m.session_id, m.chat_id, array[m.sender, m.sender_alt], m.wa_msg_id)
  from public.messages as m
  where m.id = p_message and m.kind <> 'undecryptable';
$$;

create or replace function wa.store_messages(p_session text, p_messages jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row record;
  v_new public.messages;
  v_stub public.messages;
  v_monitored bigint;
  v_stored bigint;
  v_upgraded bigint := 0;
  v_jobs bigint;
  v_order bigint := nextval('public.messages_content_order');
  v_ids bigint [];
  v_chats text [];
  v_senders text [];
  v_times timestamptz [];
begin
  with arrived as materialized (
    select e.body, e.place, wa.message_row(p_session, g.id, e.body, v_order + e.place) as new
    from jsonb_array_elements(p_messages) with ordinality as e (body, place)
    inner join public.groups as g
      on g.session_id = p_session and g.wa_group_id = e.body ->> 'chat_id' and g.monitor
  ),

  stored as (
    insert into public.messages overriding user value
    select (a.new).* from arrived as a where not wa.is_late(a.body) order by a.place
    on conflict (session_id, chat_id, sender, wa_msg_id) do nothing
    returning id, chat_id, sender, wa_msg_id, ts, kind, media_status, rendition
  ),

  jobs as (
    insert into public.media_jobs (session_id, message_id, descriptor)
    select p_session, s.id, coalesce(nullif(a.media -> 'descriptor', 'null'), '{}')
    from stored as s
    inner join (
      select distinct on (chat_id, sender, wa_msg_id)
        (b.new).chat_id as chat_id, (b.new).sender as sender, (b.new).wa_msg_id as wa_msg_id, b.body -> 'media' as media
      from arrived as b
      order by chat_id, sender, wa_msg_id, b.place
    ) as a on s.chat_id = a.chat_id and s.sender = a.sender and s.wa_msg_id = a.wa_msg_id
    where s.media_status = 'pending' and jsonb_typeof(a.media) = 'object'
    returning 1
  ),

  -- One JSON document with a lookup by name: joining nearly all rows with nearly all rows would be a nested loop.
  sent as materialized (
    select
      jsonb_object_agg(
        concat_ws(' ', (b.new).chat_id, (b.new).sender, (b.new).wa_msg_id), b.body -> 'secret' order by b.place desc
      ) as by_name
    from arrived as b
    where b.body ->> 'secret' is not null
  ),

  secrets as (
    insert into public.message_secrets (message_id, session_id, secret)
    select s.id, p_session, sent.by_name ->> concat_ws(' ', s.chat_id, s.sender, s.wa_msg_id)
    from stored as s
    cross join sent
    where sent.by_name ? concat_ws(' ', s.chat_id, s.sender, s.wa_msg_id)
  ),

  linkable as (
    select s.id, s.chat_id, s.sender, s.ts
    from stored as s
    where (s.kind = 'text' or s.media_status is not null) and s.rendition is null
  )

  select
    (select count(*) from arrived), (select count(*) from stored), (select count(*) from jobs),
    (select array_agg(l.id order by l.id) from linkable as l),
    (select array_agg(l.chat_id order by l.id) from linkable as l),
    (select array_agg(l.sender order by l.id) from linkable as l),
    (select array_agg(l.ts order by l.id) from linkable as l)
  into v_monitored, v_stored, v_jobs, v_ids, v_chats, v_senders, v_times;

  -- Rare: some messages were stored before. Content replaces the stubs among them.
  if v_stored < v_monitored then
    for v_row in
      select e.body, e.place
      from jsonb_array_elements(p_messages) with ordinality as e (body, place)
      inner join public.groups as g
        on g.session_id = p_session and g.wa_group_id = e.body ->> 'chat_id' and g.monitor
      where e.body ->> 'kind' <> 'undecryptable'
      order by e.place
    loop
      v_new := wa.message_row(p_session, null, v_row.body, v_order + v_row.place);
      select * into v_stub
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_new.chat_id and m.sender = v_new.sender
        and m.wa_msg_id = v_new.wa_msg_id and m.kind = 'undecryptable'
      for no key update;
      if not found then
        -- A late copy that is neither a stub's nor stored already is the message that is too old.
        perform wa.count_discard(p_session, 'too_old', 1)
        where wa.is_late(v_row.body) and not exists (
          select 1 from public.messages as m
          where m.session_id = p_session and m.chat_id = v_new.chat_id and m.sender = v_new.sender
            and m.wa_msg_id = v_new.wa_msg_id
        );
        continue;
      end if;
      v_upgraded := v_upgraded + 1;
      perform wa.replace_content(v_stub.id, v_new);
      if v_stub.blanked then
        perform wa.blank_message(v_stub.id);
      else
        if v_new.media_status = 'pending' and jsonb_typeof(v_row.body -> 'media') = 'object' then
          insert into public.media_jobs (session_id, message_id, descriptor)
          values (p_session, v_stub.id, coalesce(nullif(v_row.body -> 'media' -> 'descriptor', 'null'), '{}'));
          v_jobs := v_jobs + 1;
        end if;
        insert into public.message_secrets (message_id, session_id, secret)
        select v_stub.id, p_session, v_row.body ->> 'secret' where v_row.body ->> 'secret' is not null
        on conflict (message_id) do nothing;
      end if;
      if (v_new.kind = 'text' or v_new.media_status is not null) and v_new.rendition is null then
        v_ids := v_ids || v_stub.id;
        v_chats := v_chats || v_stub.chat_id;
        v_senders := v_senders || v_stub.sender;
        v_times := v_times || v_stub.ts;
      end if;
    end loop;
  end if;

  -- Most senders need no walk: all their messages there, the neighbours on both sides too, are texts, or none is.
  for v_row in
    select r.*
    from (
      select
        n.chat_id, n.sender,
        min(n.ts) as first_ts, (array_agg(n.id order by n.ts, n.id))[1] as first_id,
        max(n.ts) as last_ts, (array_agg(n.id order by n.ts desc, n.id desc))[1] as last_id
      from unnest(v_ids, v_chats, v_senders, v_times) as n (id, chat_id, sender, ts)
      group by n.chat_id, n.sender
    ) as r
    cross join lateral (
      (
        select m.kind = 'text' as is_text
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
          and (m.ts, m.id) < (r.first_ts, r.first_id)
        order by m.ts desc, m.id desc
        limit 1
      )
      union all
      (
        select m.kind = 'text'
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
          and (m.ts, m.id) >= (r.first_ts, r.first_id) and (m.ts, m.id) <= (r.last_ts, r.last_id)
      )
      union all
      (
        select m.kind = 'text'
        from public.messages as m
        where m.session_id = p_session and m.chat_id = r.chat_id and m.sender = r.sender
          and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
          and (m.ts, m.id) > (r.last_ts, r.last_id)
        order by m.ts, m.id
        limit 1
      )
    ) as near
    group by r.chat_id, r.sender, r.first_ts, r.first_id, r.last_ts, r.last_id
    having count(distinct near.is_text) > 1
  loop
    perform wa.link_parents(
      p_session, v_row.chat_id, v_row.sender, v_row.first_ts, v_row.first_id, v_row.last_ts, v_row.last_id
    );
  end loop;

  return jsonb_build_object(
    'stored', v_stored, 'upgraded', v_upgraded, 'duplicates', v_monitored - v_stored - v_upgraded,
    'skipped', jsonb_array_length(p_messages) - v_monitored, 'jobs', v_jobs, 'refused', 0
  );
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127022500')
$$;

revoke all on function wa.use_best_file from public, anon, authenticated;

grant execute on function wa.use_best_file to service_role;

notify pgrst, 'reload schema';
