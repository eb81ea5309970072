-- The commit: everything that one batch of the sidecar makes durable, in one transaction. The functions that it calls
-- take no lock and check no fence, because it holds the session row.

-- One batch: {fence, epoch, seq, creds?, keys, messages, changes, hashes, audits, identities, groups, refused,
-- discards}. Only the next batch is applied; one that was applied before is answered as durable, and nothing is
-- written. Messages are stored before changes, whatever their order on the wire: the result is the same. Errors
-- (PT409): stale_fence, stale_epoch, sequence_gap.
create function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, (p_batch ->> 'fence')::bigint);
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_messages jsonb := coalesce(nullif(p_batch -> 'messages', 'null'), '[]');
  v_changes jsonb := coalesce(nullif(p_batch -> 'changes', 'null'), '[]');
  v_counts jsonb;
  v_told jsonb := '{"changed": 0, "held": 0}';
  v_arrived integer := 0;
  v_sealed integer := 0;
begin
  if v_row.epoch is distinct from (p_batch ->> 'epoch')::bigint then
    raise exception 'stale_epoch' using errcode = 'PT409';
  end if;
  if v_seq <= v_row.seq then
    return jsonb_build_object('seq', v_seq::text, 'duplicate', true);
  end if;
  if v_seq is distinct from v_row.seq + 1 then
    raise exception 'sequence_gap' using errcode = 'PT409';
  end if;

  perform wa.write_keys(p_session, p_batch -> 'keys');
  update public.wa_sessions
  set seq = v_seq, creds_json = coalesce(p_batch ->> 'creds', creds_json)
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(p_session, p_batch -> 'hashes', p_batch -> 'discards');
  if p_batch ? 'groups' then
    perform wa.write_groups(p_session, p_batch -> 'groups');
  end if;

  v_counts := wa.store_messages_or_refuse(p_session, v_messages);
  -- Retry the changes that waited for these messages. Most of the time none do.
  if v_messages <> '[]' and exists (select 1 from public.wa_held_changes as h where h.session_id = p_session) then
    v_arrived := wa.retry_changes(p_session, array(
      select h.id
      from jsonb_to_recordset(v_messages) as m (chat_id text, sender text, wa_msg_id text)
      inner join public.wa_held_changes as h
        on
          h.session_id = p_session and h.chat_id = m.chat_id and h.target_sender = m.sender
          and h.target_id = m.wa_msg_id
    ));
  end if;
  if v_changes <> '[]' then
    v_told := wa.take_changes(p_session, v_changes);
  end if;
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
  ) then
    v_sealed := jsonb_array_length(public.wa_sealed_edits(p_session, 1));
  end if;
  perform wa.write_refused(p_session, p_batch -> 'refused');
  perform wa.write_audits(p_session, p_batch -> 'audits');
  return v_counts || jsonb_build_object(
    'seq', v_seq::text, 'duplicate', false, 'changed', (v_told ->> 'changed')::integer + v_arrived,
    'held', v_told -> 'held', 'sealed', v_sealed
  );
end
$$;
