-- What a message is refused for when it is taken back has an SQLSTATE of its own: an app's trigger may raise P0001.

set check_function_bodies = off;

-- Takes a listed item back: stores it with its own time and arrival, applies what was held for it, and removes it from
-- the list. Errors: whatever Postgres says, or refused_again, whose SQLSTATE (WA001) no trigger of the app raises; then
-- nothing has changed.
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
    update public.wa_held_changes as h
    set message_id = m.id
    from public.messages as m
    where h.session_id = p_row.session_id and h.chat_id = p_row.chat_id and h.author = p_row.sender
      and h.change_id = p_row.wa_msg_id and h.kind in ('quote', 'album') and h.message_id is null
      and m.session_id = p_row.session_id and m.chat_id = h.chat_id and m.sender = h.author
      and m.wa_msg_id = h.change_id;
    perform wa.retry_changes(p_row.session_id, array(
      select h.id from public.wa_held_changes as h
      where h.session_id = p_row.session_id and h.chat_id = p_row.chat_id and h.author = p_row.sender
        and h.change_id = p_row.wa_msg_id and h.kind in ('quote', 'album')
    ));
  end if;
  if coalesce((v_counts ->> 'refused')::integer, 0) > 0 then
    raise exception 'refused_again' using errcode = 'WA001';
  end if;
end
$$;

-- Tries a listed item again: {taken: true}, or {taken: false, code}. Code: an SQLSTATE; `gone`, `empty` (its bytes are
-- not kept), `unmonitored`, or `undecrypted` (only a good copy helps).
create or replace function public.wa_retry_refused(p_session text, p_id bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_refused_stanzas;
  v_code text;
  v_reason text;
  v_state text := 'waiting';
begin
  perform 1 from public.wa_sessions where id = p_session for no key update;
  select * into v_row from public.wa_refused_stanzas as r where r.session_id = p_session and r.id = p_id for update;
  v_code := case
    when v_row.id is null then 'gone'
    when v_row.state = 'undecrypted' then 'undecrypted'
    when v_row.body is null then 'empty'
    when not exists (
      select 1 from public.groups as g
      where g.session_id = p_session and g.wa_group_id = v_row.chat_id and g.monitor
    ) then 'unmonitored'
  end;
  if v_code is not null then
    return jsonb_build_object('taken', false, 'code', v_code);
  end if;
  begin
    perform wa.take_back(v_row);
    return jsonb_build_object('taken', true);
  exception
    when data_exception or integrity_constraint_violation or program_limit_exceeded then
      get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      v_state := 'refused';
    when sqlstate 'WA001' then
      v_code := v_row.code;
      v_reason := v_row.reason;
      v_state := 'refused';
    when others then
      get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
  end;
  update public.wa_refused_stanzas
  set code = v_code, reason = left(v_reason, 1000), state = v_state
  where id = p_id;
  return jsonb_build_object('taken', false, 'code', v_code);
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126215000')
$$;

notify pgrst, 'reload schema';
