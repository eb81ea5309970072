-- Disappearing messages: when they disappear, and removing them.

set check_function_bodies = off;

alter table public.messages add column expires_at timestamptz;

-- What disappears: public.wa_expire.
create index messages_expires_at on public.messages (session_id, expires_at)
where expires_at is not null and not blanked;

create index messages_keeps on public.messages (session_id, chat_id, (content -> 'target' ->> 'wa_msg_id'), ts)
where kind = 'keep';

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
    pending = p_from.pending, lost_at = p_from.lost_at, content_order = p_from.content_order,
    expires_at = p_from.expires_at
  where m.id = p_message;
$$;

-- Removes messages whose time has come to disappear: their content (`p_mode` 'blank') or all of them ('delete'), with
-- earlier texts, secrets, changes that wait for them, and the kept bytes of refused copies. A message that somebody has
-- kept in the chat stays. Commits wait for this call, so `p_limit` is small; `more` says that there may be others.
create or replace function public.wa_expire(p_session text, p_mode text, p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_due public.messages;
  v_count integer := 0;
begin
  perform 1 from public.wa_sessions where id = p_session for no key update;
  for v_due in
    select m.*
    from public.messages as m
    where m.session_id = p_session and m.expires_at <= now() and not m.blanked
      and 'keep_for_all' is distinct from (
        select k.content ->> 'type'
        from public.messages as k
        where k.session_id = p_session and k.chat_id = m.chat_id and k.kind = 'keep'
          and k.content -> 'target' ->> 'wa_msg_id' = m.wa_msg_id
        order by k.ts desc, k.id desc
        limit 1
      )
    order by m.expires_at
    limit p_limit
    for no key update of m skip locked
  loop
    v_count := v_count + 1;
    delete from public.wa_held_changes
    where session_id = p_session and chat_id = v_due.chat_id and target_id = v_due.wa_msg_id
      and target_sender = v_due.sender;
    update public.wa_refused_stanzas
    set body = null
    where session_id = p_session and chat_id = v_due.chat_id and sender = v_due.sender
      and wa_msg_id = v_due.wa_msg_id;
    perform wa.blank_message(v_due.id);
    if p_mode = 'delete' then
      delete from public.messages where id = v_due.id;
    else
      update public.messages set media_status = 'disappeared' where id = v_due.id and media_status is not null;
    end if;
  end loop;
  return jsonb_build_object('expired', v_count, 'more', v_count = p_limit);
end
$$;

revoke execute on function public.wa_expire from public, anon, authenticated;
grant execute on function public.wa_expire to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126205726')
$$;

notify pgrst, 'reload schema';
