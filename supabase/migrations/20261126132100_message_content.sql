-- What a message says beyond its text, typed, in messages.content. An edit that takes a caption away leaves no text.

set check_function_bodies = off;

alter table public.messages add column content jsonb check (jsonb_typeof(content) = 'object');

-- Gives a stored message the content of another row: every column that a sender fills, but not who sent it, where and
-- when. Names that the other row lacks stay.
create or replace function wa.replace_content(p_message bigint, p_from public.messages) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages as m
  set
    kind = p_from.kind, text = p_from.text, raw = p_from.raw, content = p_from.content,
    file_name = p_from.file_name, media_id = p_from.media_id, media_status = p_from.media_status,
    sender_alt = coalesce(p_from.sender_alt, m.sender_alt), push_name = coalesce(p_from.push_name, m.push_name),
    quoted_msg_id = p_from.quoted_msg_id, quoted_sender = p_from.quoted_sender, mentions = p_from.mentions,
    mention_count = p_from.mention_count, forwarded = p_from.forwarded, forward_score = p_from.forward_score,
    pending = p_from.pending, lost_at = p_from.lost_at, content_order = p_from.content_order
  where m.id = p_message;
$$;

-- Applies one edit: the greatest (at, id) is the message's text, all others are earlier texts, in whatever order they
-- arrive. An empty one took a caption away. Of more than 100, keeps the newest and the original.
create or replace function wa.apply_edit(p_message bigint, p_edit_msg_id text, p_text text, p_at timestamptz)
returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_old public.messages;
begin
  select * into v_old from public.messages where id = p_message;
  if v_old.blanked or coalesce(v_old.edit_msg_id = p_edit_msg_id, false) then
    return;
  end if;
  if v_old.edited_at is null
    or (p_at, p_edit_msg_id collate "C") > (v_old.edited_at, v_old.edit_msg_id collate "C") then
    insert into public.message_edits (session_id, message_id, edit_msg_id, text, at)
    values (
      v_old.session_id, p_message, coalesce(v_old.edit_msg_id, ''), v_old.text, coalesce(v_old.edited_at, v_old.ts)
    )
    on conflict (message_id, edit_msg_id) do nothing;
    update public.messages set text = nullif(p_text, ''), edited_at = p_at, edit_msg_id = p_edit_msg_id
    where id = p_message;
  else
    insert into public.message_edits (session_id, message_id, edit_msg_id, text, at)
    values (v_old.session_id, p_message, p_edit_msg_id, nullif(p_text, ''), p_at)
    on conflict (message_id, edit_msg_id) do nothing;
  end if;
  delete from public.message_edits
  where id in (
    select e.id
    from public.message_edits as e
    where e.message_id = p_message and e.edit_msg_id <> ''
    order by e.at desc, e.edit_msg_id collate "C" desc
    offset 100
  );
end
$$;

-- Removes the content of a message: text, payload, facts, earlier texts, file, secret and media key. Its row stays.
create or replace function wa.blank_message(p_message bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.message_edits where message_id = p_message;
  delete from public.message_secrets where message_id = p_message;
  delete from public.media_jobs where message_id = p_message;
  delete from public.wa_media_abandoned where message_id = p_message;
  update public.messages
  set
    blanked = true, text = null, raw = '{}', content = null, file_name = null, mentions = null, mention_count = 0,
    media_id = null,
    media_status = case when media_status is not null then 'revoked' end, edited_at = null, edit_msg_id = null
  where id = p_message;
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126132100')
$$;

notify pgrst, 'reload schema';
