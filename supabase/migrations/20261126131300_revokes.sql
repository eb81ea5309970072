-- A revoke is applied if it comes from the message's own sender, or from an admin by the group's metadata; while that
-- is not known, the message is only marked. New: groups.admins, messages.revoke_claimed_at and revoke_claimed_by.

set check_function_bodies = off;

alter table public.groups add column admins text[];
alter table public.messages add column revoke_claimed_at timestamptz, add column revoke_claimed_by text;

-- Whether two different addresses are certainly of two people: both of one kind, or one's other address is known.
create or replace function wa.are_two_people(p_session text, p_one text, p_other text) returns boolean
language sql stable security invoker set search_path = '' as $$
  select
    split_part(p_one, '@', 2) = split_part(p_other, '@', 2)
    or exists (
      select 1 from public.wa_identities as i
      where i.session_id = p_session
        and ((i.lid = p_one and i.pn <> p_other) or (i.lid = p_other and i.pn <> p_one))
    )
$$;

-- Whether somebody may revoke this message: 'allowed', 'refused' or 'unknown'. WhatsApp's server forwards a revoke by
-- anybody, and `by_admin` is what the revoking client claims, so it counts only for an admin of the group.
create or replace function wa.may_revoke(p_change public.wa_held_changes) returns text
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_admins text [];
  v_forms text [];
begin
  if p_change.author = p_change.target_sender then
    return 'allowed';
  end if;
  if coalesce((p_change.payload -> 'by_admin') = 'true', false) then
    select g.admins into v_admins
    from public.groups as g
    where g.session_id = p_change.session_id and g.wa_group_id = p_change.chat_id;
    if v_admins is null then
      return 'unknown';
    end if;
    v_forms := array(
      select p_change.author
      union
      select i.pn from public.wa_identities as i
      where i.session_id = p_change.session_id and i.lid = p_change.author
      union
      select i.lid from public.wa_identities as i
      where i.session_id = p_change.session_id and i.pn = p_change.author
    );
    if v_admins && v_forms then
      return 'allowed';
    end if;
    -- The admins may be named by the other kind of address.
    if cardinality(v_forms) = 1 and v_admins <> '{}' and not exists (
      select 1 from unnest(v_admins) as a (jid)
      where split_part(a.jid, '@', 2) = split_part(p_change.author, '@', 2)
    ) then
      return 'unknown';
    end if;
  end if;
  return case
    when wa.are_two_people(p_change.session_id, p_change.author, p_change.target_sender) then 'refused'
    else 'unknown'
  end;
end
$$;

-- Marks a message that somebody revoked who perhaps may not. Of several the earliest counts.
create or replace function wa.claim_revoke(p_message bigint, p_by text, p_at timestamptz) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages
  set revoke_claimed_at = p_at, revoke_claimed_by = p_by
  where id = p_message and revoked_at is null
    and (revoke_claimed_at is null or (p_at, p_by collate "C") < (revoke_claimed_at, revoke_claimed_by collate "C"))
$$;

-- Applies one revoke that is allowed; of several the earliest counts. Locks the message before its file's rows, as
-- deletions do.
create or replace function wa.apply_revoke(p_message bigint, p_by text, p_at timestamptz, p_blank boolean)
returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1 from public.messages where id = p_message for no key update;
  update public.messages
  set revoked_at = p_at, revoked_by = p_by, revoke_claimed_at = null, revoke_claimed_by = null
  where id = p_message
    and (revoked_at is null or (p_at, p_by collate "C") < (revoked_at, revoked_by collate "C"));
  if p_blank then
    perform wa.blank_message(p_message);
  end if;
end
$$;

-- Applies one change if its target is there: 'done', 'waiting' or 'refused'. An edit, and a child of an album, must
-- come from the target's own sender, a revoke also from an admin. A number and a LID with an unknown number may be one
-- person, so those wait.
create or replace function wa.apply_change(p_change public.wa_held_changes) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_id bigint;
  v_kind text;
begin
  select m.id, m.kind into v_id, v_kind
  from public.messages as m
  where m.session_id = p_change.session_id and m.chat_id = p_change.chat_id and m.sender = p_change.target_sender
    and m.wa_msg_id = p_change.target_id;
  if v_id is null or p_change.kind = 'sealed_edit' then
    return 'waiting';
  end if;
  if p_change.kind in ('edit', 'album') then
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
    else
      raise exception 'no such change' using errcode = 'invalid_parameter_value';
  end case;
  return 'done';
end
$$;

-- Notes that a change was refused, because it is not its author's to make: a count, and for revokes an audit, one an
-- hour for each author.
create or replace function wa.note_refusal(p_change public.wa_held_changes) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.count_discard(p_change.session_id, p_change.kind || '_by_other', 1);
  if p_change.kind = 'revoke' and not exists (
    select 1 from public.audit_log as a
    where a.session_id = p_change.session_id and a.at > now() - interval '1 hour' and a.event = 'revoke_by_other'
      and a.payload ->> 'by' = p_change.author
  ) then
    perform public.wa_audit(p_change.session_id, 'revoke_by_other', jsonb_build_object(
      'chat_id', p_change.chat_id, 'wa_msg_id', p_change.target_id, 'sender', p_change.target_sender,
      'by', p_change.author
    ));
  end if;
end
$$;

-- One change of a batch: 'done', 'held' or 'dropped' (wa.take_changes).
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
    if v_change.message_id is null then
      return 'dropped';
    end if;
  else
    -- The message that brings the change may have left a stub before it became readable.
    delete from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id and m.kind = 'undecryptable';
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

-- Tries held changes again and deletes those that are done or refused; returns how many were applied. If somebody
-- deletes a target meanwhile, tries again, up to three times: the next attempt does not see the target.
create or replace function wa.retry_changes(p_session text, p_ids bigint[]) returns integer
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
        v_result := wa.apply_change(v_held);
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
      perform wa.note_refusal(v_held);
    else
      v_done := v_done + 1;
    end if;
  end loop;
  return v_done;
end
$$;

-- Who the admins are: [{wa_group_id, admins?, promoted?, demoted?}]. A list replaces the former one; then some are
-- added and some taken away, which says nothing while the list is unknown. Revokes that waited are tried again.
create or replace function wa.write_admins(p_session text, p_groups jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_new record;
begin
  for v_new in
    select
      g ->> 'wa_group_id' as wa_group_id, coalesce(nullif(g -> 'admins', 'null'), '[]') as admins,
      coalesce(nullif(g -> 'promoted', 'null'), '[]') as promoted,
      coalesce(nullif(g -> 'demoted', 'null'), '[]') as demoted,
      coalesce(jsonb_typeof(g -> 'admins') = 'array', false) as complete
    from jsonb_array_elements(coalesce(nullif(p_groups, 'null'), '[]')) with ordinality as t (g, ord)
    order by t.ord
  loop
    continue when not v_new.complete and v_new.promoted = '[]' and v_new.demoted = '[]';
    update public.groups as g
    set admins = array(
      select a.jid
      from (
        select unnest(case when v_new.complete then array[]::text [] else g.admins end) as jid
        union
        select jsonb_array_elements_text(v_new.admins || v_new.promoted)
        except
        select jsonb_array_elements_text(v_new.demoted)
      ) as a
      where length(a.jid) between 1 and 256
      order by a.jid
      limit 10000
    )
    where g.session_id = p_session and g.wa_group_id = v_new.wa_group_id and (v_new.complete or g.admins is not null);
    perform wa.retry_changes(p_session, array(
      select h.id from public.wa_held_changes as h
      where h.session_id = p_session and h.chat_id = v_new.wa_group_id and h.kind = 'revoke'
    ));
  end loop;
end
$$;

-- Inserts or renames groups: a JSON array of {wa_group_id, name or null, left or absent}, and their admins as for
-- wa.write_admins; the last entry for a group wins. Takes no lock and checks no fence: for callers that hold the
-- session row.
create or replace function wa.write_groups(p_session text, p_groups jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_new record;
  v_old public.groups;
  v_added integer := 0;
  v_renamed integer := 0;
begin
  for v_new in
    select distinct on (g ->> 'wa_group_id')
      g ->> 'wa_group_id' as wa_group_id,
      left(g ->> 'name', 1000) as name,
      coalesce((g -> 'left') = 'true', false) as has_left
    from jsonb_array_elements(coalesce(nullif(p_groups, 'null'), '[]')) with ordinality as t (g, ord)
    where length(g ->> 'wa_group_id') between 1 and 256
    order by g ->> 'wa_group_id', t.ord desc
  loop
    insert into public.groups (session_id, wa_group_id, name, left_at)
    values (p_session, v_new.wa_group_id, v_new.name, case when v_new.has_left then now() end)
    on conflict (session_id, wa_group_id) do nothing;
    if found then
      v_added := v_added + 1;
      continue;
    end if;
    select * into v_old from public.groups
    where session_id = p_session and wa_group_id = v_new.wa_group_id for update;
    if v_new.name is distinct from v_old.name and v_new.name is not null then
      v_renamed := v_renamed + 1;
      if v_old.name is not null then
        perform public.wa_audit(p_session, 'group_rename', jsonb_build_object(
          'from', v_old.name, 'to', v_new.name, 'wa_group_id', v_new.wa_group_id
        ));
      end if;
    end if;
    if v_new.name is distinct from v_old.name or v_new.has_left <> (v_old.left_at is not null) then
      update public.groups
      set
        name = coalesce(v_new.name, name),
        left_at = case when v_new.has_left then coalesce(left_at, now()) end,
        updated_at = now()
      where id = v_old.id;
    end if;
  end loop;
  perform wa.write_admins(p_session, p_groups);
  return jsonb_build_object('added', v_added, 'renamed', v_renamed);
end
$$;

-- All groups with their last message (by `ts`) and the number of messages in the last 24 hours.
create or replace function public.wa_list_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'id', g.id::text, 'wa_group_id', g.wa_group_id, 'name', g.name, 'monitor', g.monitor, 'left_at', g.left_at,
        'today', (
          select count(*) from public.messages as m where m.group_id = g.id and m.ts > now() - interval '24 hours'
        ),
        'last', last.message
      ) order by g.monitor desc, g.left_at is not null, g.name nulls last, g.id
    ),
    '[]'
  )
  from public.groups as g
  left join lateral (
    select jsonb_build_object(
      'id', m.id::text, 'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
      'from_me', m.from_me, 'kind', m.kind, 'text', left(m.text, 200), 'media_status', m.media_status,
      'revoked_at', m.revoked_at, 'revoke_claimed_at', m.revoke_claimed_at
    ) as message
    from public.messages as m
    where m.group_id = g.id
    order by m.ts desc, m.id desc
    limit 1
  ) as last on true
  where g.session_id = p_session
$$;

-- Messages after `p_after` (an id) in order of arrival; the newest `p_limit` if it is null. Pass `cursor` to the next
-- call. One session's commits are serial, so no id appears behind a cursor that has passed it.
create or replace function public.wa_tail(p_session text, p_group bigint, p_after bigint, p_limit integer) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_ids bigint [];
begin
  if p_after is null then
    v_ids := array(
      select newest.id
      from public.groups as g
      cross join lateral (
        select m.id, m.ts from public.messages as m where m.group_id = g.id order by m.ts desc, m.id desc limit p_limit
      ) as newest
      where g.session_id = p_session and (p_group is null or g.id = p_group)
      order by newest.ts desc, newest.id desc
      limit p_limit
    );
  else
    v_ids := array(
      select m.id
      from public.messages as m
      where m.session_id = p_session and m.id > p_after and (p_group is null or m.group_id = p_group)
      order by m.id
      limit p_limit
    );
  end if;
  return jsonb_build_object(
    'cursor', case
      when p_after is null
        then (select coalesce(max(m.id), 0)::text from public.messages as m where m.session_id = p_session)
      else greatest(p_after, (select max(i) from unnest(v_ids) as i))::text
    end,
    'messages', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'id', m.id::text, 'group_id', m.group_id::text, 'group_name', g.name, 'wa_msg_id', m.wa_msg_id,
            'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
            'from_me', m.from_me, 'kind', m.kind, 'text', m.text, 'file_name', m.file_name,
            'media_status', m.media_status, 'mime', f.mime, 'bytes', f.bytes::text, 'edited_at', m.edited_at,
            'revoked_at', m.revoked_at, 'revoke_claimed_at', m.revoke_claimed_at
          ) order by case when p_after is null then m.ts end, m.id
        ),
        '[]'
      )
      from public.messages as m
      inner join public.groups as g on m.group_id = g.id
      left join public.media as f on m.media_id = f.id
      where m.id = any(v_ids)
    )
  );
end
$$;

revoke execute on function
wa.are_two_people,
wa.may_revoke,
wa.claim_revoke,
wa.note_refusal,
wa.write_admins
from public, anon, authenticated;

grant execute on function
wa.are_two_people,
wa.may_revoke,
wa.claim_revoke,
wa.note_refusal,
wa.write_admins
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126131300')
$$;

notify pgrst, 'reload schema';
