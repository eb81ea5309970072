-- Encrypted edits of events: opened like those of messages, and what the event is now becomes its content.

set check_function_bodies = off;

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
      if p_change.payload ? 'content' then
        update public.messages as m set content = p_change.payload -> 'content'
        where m.id = v_id and m.kind = 'event' and m.edit_msg_id = p_change.change_id;
      end if;
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

create or replace function wa.open_edit(p_session text, p_id bigint, p_text text, p_content jsonb, p_at timestamptz)
returns integer
language plpgsql security invoker set search_path = '' as $$
begin
  if jsonb_typeof(p_content) = 'object' and exists (
    select 1 from public.wa_held_changes as h where h.session_id = p_session and h.id = p_id and h.payload ? 'use'
  ) then
    perform wa.complete_content(p_session, p_id, p_text, p_content);
    return 1;
  end if;
  delete from public.wa_held_changes as other
  using public.wa_held_changes as h
  where h.session_id = p_session and h.id = p_id and h.kind = 'sealed_edit'
    and other.session_id = p_session and other.chat_id = h.chat_id and other.author = h.author
    and other.change_id = h.change_id and other.kind = 'edit';
  update public.wa_held_changes
  set
    kind = 'edit', at = coalesce(p_at, at),
    payload = jsonb_build_object('text', p_text)
    || case when jsonb_typeof(p_content) = 'object' then jsonb_build_object('content', p_content) else '{}' end
  where session_id = p_session and id = p_id and kind = 'sealed_edit';
  return case when found then wa.retry_changes(p_session, array[p_id]) else 0 end;
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127072600')
$$;

notify pgrst, 'reload schema';
