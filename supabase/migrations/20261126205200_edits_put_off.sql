-- Opened edits are taken one by one, and one that cannot be handed back is put off.

set check_function_bodies = off;

alter table public.wa_held_changes add column tries integer not null default 0;
alter table public.wa_held_changes add column next_at timestamptz;

-- What can be decrypted now, because its target and the target's secret are stored, and it is due: ids, oldest first.
create or replace function wa.openable_edits(p_session text, p_limit integer) returns bigint[]
language sql stable security invoker set search_path = '' as $$
  select array(
    select h.id
    from public.wa_held_changes as h
    inner join public.messages as m
      on
        m.session_id = p_session and m.chat_id = h.chat_id and m.sender = h.target_sender
        and m.wa_msg_id = h.target_id
    inner join public.message_secrets as s on m.id = s.message_id
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
      and coalesce(h.next_at <= now(), true)
    order by h.id
    limit p_limit
  )
$$;

-- Edits that can be decrypted now, and votes and the like, whose payload has `use`. With both addresses of the target's
-- sender and, for a poll, its options. Counts this try and sets the next, later each time, up to a day: one that ends
-- the call that hands it back must not be tried for ever.
create or replace function public.wa_sealed_edits(p_session text, p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_ids bigint [];
begin
  perform 1 from public.wa_sessions where id = p_session for no key update;
  v_ids := wa.openable_edits(p_session, p_limit);
  update public.wa_held_changes
  set tries = tries + 1, next_at = now() + least(interval '1 minute' * 2 ^ least(tries, 11), interval '1 day')
  where id = any(v_ids);
  return jsonb_build_object('edits', coalesce((
    select jsonb_agg(jsonb_build_object(
      'id', h.id::text, 'target_id', h.target_id, 'payload', h.payload, 'secret', s.secret, 'sender', m.sender,
      'sender_alt', m.sender_alt, 'options', coalesce(m.content -> 'options', '[]')
    ) order by h.id)
    from public.wa_held_changes as h
    inner join public.messages as m
      on
        m.session_id = p_session and m.chat_id = h.chat_id and m.sender = h.target_sender
        and m.wa_msg_id = h.target_id
    inner join public.message_secrets as s on m.id = s.message_id
    where h.id = any(v_ids)
  ), '[]'));
end
$$;

-- Takes one decrypted edit, as public.wa_open_edits does; how many messages it changed. A plain edit that is held under
-- the same name gives way.
create or replace function wa.open_edit(p_session text, p_id bigint, p_text text, p_content jsonb, p_at timestamptz)
returns integer
language plpgsql security invoker set search_path = '' as $$
begin
  if jsonb_typeof(p_content) = 'object' then
    perform wa.complete_content(p_session, p_id, p_text, p_content);
    return 1;
  end if;
  delete from public.wa_held_changes as other
  using public.wa_held_changes as h
  where h.session_id = p_session and h.id = p_id and h.kind = 'sealed_edit'
    and other.session_id = p_session and other.chat_id = h.chat_id and other.author = h.author
    and other.change_id = h.change_id and other.kind = 'edit';
  update public.wa_held_changes
  set kind = 'edit', payload = jsonb_build_object('text', p_text), at = coalesce(p_at, at)
  where session_id = p_session and id = p_id and kind = 'sealed_edit';
  return case when found then wa.retry_changes(p_session, array[p_id]) else 0 end;
end
$$;

-- Takes decrypted edits: [{id, text, at}], `at` null to keep the envelope's; or [{id, unreadable: true}], which stays
-- held and is not tried again. A decrypted edit is applied like any other. What a vote or the like says comes as
-- `content`, which its row gains, with the row of its target as `about`. One that Postgres refuses is unreadable, and
-- counted; the others are taken.
create or replace function public.wa_open_edits(p_session text, p_fence bigint, p_opened jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_opened record;
  v_unreadable boolean;
  v_changed integer := 0;
begin
  perform wa.lock_session(p_session, p_fence);
  for v_opened in
    select * from jsonb_to_recordset(p_opened) as o (
      id bigint, text text, content jsonb, at timestamptz, unreadable boolean
    )
  loop
    v_unreadable := coalesce(v_opened.unreadable, false);
    if not v_unreadable then
      begin
        v_changed := v_changed
          + wa.open_edit(p_session, v_opened.id, v_opened.text, v_opened.content, v_opened.at);
      exception
        when foreign_key_violation then
          null; -- its target is being deleted; it is tried again
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          v_unreadable := true;
          perform wa.count_discard(p_session, 'sealed_edit_refused', 1);
      end;
    end if;
    if v_unreadable then
      update public.wa_held_changes set unreadable = true
      where session_id = p_session and id = v_opened.id and kind = 'sealed_edit';
    end if;
  end loop;
  return jsonb_build_object('changed', v_changed);
end
$$;

-- One batch, or what its parts have left of it: {fence, epoch, seq, digest?, creds?, keys, messages, changes, hashes,
-- audits, identities, groups, refused, discards}. Only the next batch is applied; one that was applied before is
-- answered as durable, and nothing is written. Errors (PT409): stale_fence, stale_epoch, sequence_gap, other_items.
create or replace function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_counts jsonb;
  v_sealed integer := 0;
begin
  if wa.begin_batch(p_session, p_batch) then
    return jsonb_build_object('seq', v_seq::text, 'duplicate', true);
  end if;

  perform wa.write_keys(p_session, p_batch -> 'keys');
  update public.wa_sessions
  set
    seq = v_seq, batch = concat_ws(' ', v_seq, p_batch ->> 'digest'),
    creds_json = coalesce(p_batch ->> 'creds', creds_json)
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(p_session, p_batch -> 'hashes', p_batch -> 'discards');
  if p_batch ? 'groups' then
    perform wa.write_groups(p_session, p_batch -> 'groups');
  end if;

  perform wa.write_refused(p_session, p_batch -> 'refused');
  v_counts := wa.take_items(
    p_session, coalesce(nullif(p_batch -> 'messages', 'null'), '[]'),
    coalesce(nullif(p_batch -> 'changes', 'null'), '[]')
  );
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
  ) then
    v_sealed := cardinality(wa.openable_edits(p_session, 1));
  end if;
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

revoke execute on function wa.openable_edits, wa.open_edit from public, anon, authenticated;
grant execute on function wa.openable_edits, wa.open_edit to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126205200')
$$;

notify pgrst, 'reload schema';
