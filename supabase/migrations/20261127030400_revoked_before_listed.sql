-- Revoked before it was listed: a message is emptied then as well, and when the admins are told only later.

set check_function_bodies = off;

create or replace function wa.note_kept(p_id bigint) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_refused_stanzas;
  v_item jsonb;
begin
  select * into v_row from public.wa_refused_stanzas where id = p_id;
  if v_row.item <> 'message' or num_nulls(v_row.sender, v_row.wa_msg_id) > 0 then
    return;
  end if;
  if exists (
    select 1
    from public.wa_held_changes as h
    where h.session_id = v_row.session_id and h.chat_id = v_row.chat_id and h.target_sender = v_row.sender
      and h.target_id = v_row.wa_msg_id and h.kind = 'revoke' and (h.payload -> 'blank') = 'true'
      and wa.may_revoke(h) = 'allowed'
  ) then
    perform wa.empty_kept(v_row.session_id, v_row.chat_id, v_row.sender, v_row.wa_msg_id);
    return;
  end if;
  if v_row.state = 'undecrypted' then
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

create or replace function wa.apply_change(p_change public.wa_held_changes) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_target public.messages;
  v_id bigint;
  v_kind text;
begin
  if p_change.kind = 'revoke' and coalesce((p_change.payload -> 'blank') = 'true', false)
    and wa.may_revoke(p_change) = 'allowed' then
    perform wa.empty_kept(
      p_change.session_id, p_change.chat_id, p_change.target_sender, p_change.target_id
    );
  end if;
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
      -- The row may be an older message under this id, which said nothing of a rendition, or have some itself.
      update public.messages as m set rendition_of = v_id
      where m.id = p_change.message_id and m.rendition is not null and m.id <> v_id
        and not exists (select 1 from public.messages as r where r.rendition_of = m.id)
        and (
          select count(*) from (select 1 from public.messages as r where r.rendition_of = v_id limit 10) as found
        ) < 10;
      if not found then
        return 'refused';
      end if;
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

select wa.empty_kept(h.session_id, h.chat_id, h.target_sender, h.target_id)
from public.wa_held_changes as h
where h.kind = 'revoke' and (h.payload -> 'blank') = 'true' and wa.may_revoke(h) = 'allowed';

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127030400')
$$;

notify pgrst, 'reload schema';
