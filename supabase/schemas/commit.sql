-- The commit: everything that one batch of the sidecar makes durable. The functions it calls take no lock and check no
-- fence, because it holds the session row.
--
-- A batch is one call of wa_commit. One that does not succeed as a whole is sent in parts under its one number: first
-- its messages and changes (wa_commit_part), then the rest with the number (wa_commit). A part that is still too large
-- is sent in pieces (wa_put_piece, wa_commit_pieces). Rows before keys is safe: if the worker dies in between, the
-- stanza comes again, the old keys decrypt it again, and its row already exists. The other order would lose it.

-- Pieces of a part, base64. They stay until the next one begins, or until the number is done.
create table public.wa_commit_pieces (
  session_id text not null references public.wa_sessions (id),
  document text not null,
  piece integer not null,
  body text not null,
  at timestamptz not null default now(),
  primary key (session_id, document, piece)
);

-- Locks the session row and checks that `p_batch` {fence, epoch, seq, digest?} is the next batch. A number may be sent
-- again, but only with the same items. True: it is done. Errors (PT409): stale_fence, stale_epoch, sequence_gap,
-- other_items.
create function wa.begin_batch(p_session text, p_batch jsonb) returns boolean
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, (p_batch ->> 'fence')::bigint);
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_name text := concat_ws(' ', v_seq, p_batch ->> 'digest');
begin
  if v_row.epoch is distinct from (p_batch ->> 'epoch')::bigint then
    raise exception 'stale_epoch' using errcode = 'PT409';
  end if;
  if coalesce(v_seq > v_row.seq + 1, true) then
    raise exception 'sequence_gap' using errcode = 'PT409';
  end if;
  if split_part(v_row.batch, ' ', 1) = v_seq::text and v_row.batch <> v_name then
    raise exception 'other_items' using errcode = 'PT409';
  end if;
  return v_seq <= v_row.seq;
end
$$;

-- As wa.begin_batch, for a call that does not end the batch. Renews the lease, as public.wa_commit does.
create function wa.begin_part(p_session text, p_batch jsonb) returns boolean
language plpgsql security invoker set search_path = '' as $$
begin
  if wa.begin_batch(p_session, p_batch) then
    return true;
  end if;
  update public.wa_sessions as s
  set
    batch = concat_ws(' ', p_batch ->> 'seq', p_batch ->> 'digest'),
    lease_expires_at = wa.renewed_lease(s.lease_owner, s.lease_expires_at, s.lease_seconds)
  where s.id = p_session;
  return false;
end
$$;

-- The sum of two objects of counts.
create function wa.add_counts(p_one jsonb, p_other jsonb) returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select coalesce(jsonb_object_agg(s.key, s.count), '{}')
  from (
    select c.key, sum(c.value::bigint) as count
    from (select * from jsonb_each_text(p_one) union all select * from jsonb_each_text(p_other)) as c
    group by c.key
  ) as s
$$;

-- Stores messages, then applies changes: those that waited for these messages, and the given ones. Messages go before
-- changes, whatever their order on the wire: the result is the same.
create function wa.take_items(p_session text, p_messages jsonb, p_changes jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_counts jsonb := wa.store_messages_or_refuse(p_session, p_messages);
begin
  -- Most of the time none waits.
  if p_messages <> '[]' and exists (select 1 from public.wa_held_changes as h where h.session_id = p_session) then
    v_counts := v_counts || jsonb_build_object('changed', wa.retry_changes(p_session, array(
      select h.id
      from jsonb_to_recordset(p_messages) as m (chat_id text, sender text, wa_msg_id text)
      inner join public.wa_held_changes as h
        on
          h.session_id = p_session and h.chat_id = m.chat_id and h.target_sender = m.sender
          and h.target_id = m.wa_msg_id
    )));
  end if;
  if p_changes <> '[]' then
    v_counts := wa.add_counts(v_counts, wa.take_changes(p_session, p_changes));
  end if;
  return v_counts;
end
$$;

-- Takes one item that came as base64: {item, chat_id, sender, wa_msg_id, body}. No gateway can read it. If Postgres
-- cannot read it either, it becomes a refused row. Any other error goes to the caller.
create function wa.take_opaque(p_session text, p_item jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_items jsonb;
  v_code text;
  v_reason text;
begin
  v_items := jsonb_build_array(convert_from(decode(p_item ->> 'body', 'base64'), 'UTF8')::jsonb);
  if p_item ->> 'item' = 'change' then
    return wa.take_items(p_session, '[]', v_items);
  end if;
  return wa.take_items(p_session, v_items, '[]');
exception
  when data_exception or integrity_constraint_violation or program_limit_exceeded then
    get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
    perform wa.write_refused(p_session, jsonb_build_array(
      p_item || jsonb_build_object('state', 'refused', 'code', v_code, 'reason', v_reason, 'encoding', 'base64')
    ));
    return '{"refused": 1}'::jsonb;
end
$$;

-- A part of a batch: {fence, epoch, seq, digest, messages, changes, opaque, refused}, each list optional. Writes the
-- items and does not advance the number, so the batch is not done. May be sent again. Errors: as wa_commit.
create function public.wa_commit_part(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_item jsonb;
  v_counts jsonb;
begin
  if wa.begin_part(p_session, p_batch) then
    return jsonb_build_object('seq', p_batch ->> 'seq', 'duplicate', true);
  end if;
  v_counts := wa.take_items(
    p_session, coalesce(nullif(p_batch -> 'messages', 'null'), '[]'),
    coalesce(nullif(p_batch -> 'changes', 'null'), '[]')
  );
  for v_item in select * from jsonb_array_elements(coalesce(nullif(p_batch -> 'opaque', 'null'), '[]')) loop
    v_counts := wa.add_counts(v_counts, wa.take_opaque(p_session, v_item));
  end loop;
  perform wa.write_refused(p_session, p_batch -> 'refused');
  return v_counts || jsonb_build_object('seq', p_batch ->> 'seq', 'duplicate', false);
end
$$;

-- One piece of a part or of a last part: {fence, epoch, seq, digest, document, piece, body}. Errors: as wa_commit.
create function public.wa_put_piece(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_document text := p_batch ->> 'document';
begin
  if wa.begin_part(p_session, p_batch) then
    return jsonb_build_object('seq', p_batch ->> 'seq', 'duplicate', true);
  end if;
  delete from public.wa_commit_pieces where session_id = p_session and document <> v_document;
  insert into public.wa_commit_pieces (session_id, document, piece, body)
  values (p_session, v_document, (p_batch ->> 'piece')::integer, p_batch ->> 'body')
  on conflict (session_id, document, piece) do update set body = excluded.body;
  return jsonb_build_object('seq', p_batch ->> 'seq', 'duplicate', false);
end
$$;

-- Joins `pieces` pieces and takes them as a part, or as the last part: {fence, epoch, seq, digest, document, pieces,
-- last}. Errors (PT409): pieces_missing, and as wa_commit.
create function public.wa_commit_pieces(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_pieces integer;
  v_body text;
  v_part jsonb;
begin
  if wa.begin_part(p_session, p_batch) then
    return jsonb_build_object('seq', p_batch ->> 'seq', 'duplicate', true);
  end if;
  select count(*), string_agg(p.body, '' order by p.piece) into v_pieces, v_body
  from public.wa_commit_pieces as p
  where p.session_id = p_session and p.document = p_batch ->> 'document';
  if v_pieces is distinct from (p_batch ->> 'pieces')::integer then
    raise exception 'pieces_missing' using errcode = 'PT409';
  end if;
  v_part := convert_from(decode(v_body, 'base64'), 'UTF8')::jsonb;
  if (p_batch -> 'last') = 'true' then
    return public.wa_commit(p_session, v_part);
  end if;
  return public.wa_commit_part(p_session, v_part);
end
$$;

-- One batch, or what its parts have left of it: {fence, epoch, seq, digest?, creds?, keys, messages, changes, hashes,
-- audits, identities, groups, members, refused, discards, dropped, unread}. Only the next batch is applied; one that
-- was applied before is answered as durable, and nothing is written. `dropped` may be empty; if it is missing, what was
-- dropped is unknown (wa.note_unrecorded). Errors (PT409): stale_fence, stale_epoch, sequence_gap, other_items.
-- Also renews the lease: the row is written anyway, and while commits keep it locked the poll skips it.
-- Plans are made once per connection, not per batch, and perhaps while the tables are still empty: hence no sequential
-- scans.
create function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
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
    creds_json = coalesce(p_batch ->> 'creds', creds_json),
    lease_expires_at = wa.renewed_lease(lease_owner, lease_expires_at, lease_seconds)
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(
    p_session, p_batch -> 'hashes',
    case
      when p_batch -> 'unread' <> '{}' then wa.new_discards(p_session, p_batch -> 'discards', p_batch -> 'unread')
      else p_batch -> 'discards'
    end
  );
  if p_batch -> 'groups' not in ('[]', 'null') then
    perform wa.write_groups(p_session, p_batch -> 'groups');
  end if;
  if p_batch -> 'members' not in ('[]', 'null') then
    perform wa.write_members(p_session, p_batch -> 'members');
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
  if p_batch ? 'dropped' then
    perform wa.write_dropped(p_session, p_batch -> 'dropped');
  else
    perform wa.note_unrecorded(p_session);
  end if;
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

-- Accepts a listed item: stores it with its own time and arrival, gives it its file, applies what was held for it, and
-- removes it from the list. Errors: whatever Postgres says, or refused_again, whose SQLSTATE (WA001) no trigger of the
-- app raises; then nothing has changed.
create function wa.take_back(p_row public.wa_refused_stanzas) returns void
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

-- Tries a listed item again: {taken: true}, or {taken: false, code}. Code: an SQLSTATE; `gone`, `empty` (its bytes are
-- not kept), `unmonitored`, or `undecrypted` (only a good copy helps).
create function public.wa_retry_refused(p_session text, p_id bigint) returns jsonb
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

-- The waiting items that are due: [id]. Counts this try and sets the next, later each time, up to a day: an item that
-- breaks the call that tries it must not be retried for ever.
create function public.wa_due_refused(p_session text, p_limit integer) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  with due as (
    update public.wa_refused_stanzas
    set tries = tries + 1, next_at = now() + least(interval '1 minute' * 2 ^ least(tries, 11), interval '1 day')
    where id = any(array(
      select r.id
      from public.wa_refused_stanzas as r
      where r.session_id = p_session and r.state = 'waiting' and r.next_at <= now()
      order by r.next_at
      limit p_limit
      for update skip locked
    ))
    returning id
  )

  select jsonb_build_object('items', coalesce(jsonb_agg(due.id::text order by due.id), '[]')) from due
$$;
