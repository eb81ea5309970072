-- A batch may be committed in parts under its one number; what cannot be stored is listed in two states, as base64.

set check_function_bodies = off;

alter table public.wa_sessions add column batch text;

alter table public.wa_refused_stanzas
add column item text not null default 'message' check (item in ('message', 'change')),
add column state text not null default 'refused' check (state in ('refused', 'waiting')),
add column tries integer not null default 0,
add column next_at timestamptz;

create index wa_refused_stanzas_name on public.wa_refused_stanzas (session_id, wa_msg_id, chat_id, sender);

create index wa_refused_stanzas_next_at on public.wa_refused_stanzas (session_id, next_at) where state = 'waiting';

create table public.wa_commit_pieces (
  session_id text not null references public.wa_sessions (id),
  document text not null,
  piece integer not null,
  body text not null,
  at timestamptz not null default now(),
  primary key (session_id, document, piece)
);

alter table public.wa_commit_pieces enable row level security;
revoke all on public.wa_commit_pieces from anon, authenticated;
grant select, insert, update, delete on public.wa_commit_pieces to service_role;

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
  if v_id is null or p_change.kind = 'sealed_edit'
    or (p_change.kind in ('quote', 'album') and p_change.message_id is null) then
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
    if v_change.message_id is null
      and not wa.is_listed(p_session, v_change.chat_id, v_change.author, v_change.change_id) then
      return 'dropped';
    end if;
  else
    -- The message that brings the change may have left a stub before it became readable.
    delete from public.messages as m
    where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
      and m.wa_msg_id = v_change.change_id and m.kind = 'undecryptable';
  end if;
  if v_change.kind = 'revoke' and coalesce((v_change.payload -> 'blank') = 'true', false)
    and wa.may_revoke(v_change) = 'allowed' then
    update public.wa_refused_stanzas as r
    set body = null, state = 'refused'
    where r.session_id = p_session and r.chat_id = v_change.chat_id and r.sender = v_change.target_sender
      and r.wa_msg_id = v_change.target_id;
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

create or replace function wa.take_changes(p_session text, p_changes jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_in jsonb;
  v_result text;
  v_done integer := 0;
  v_held integer := 0;
  v_refused integer := 0;
  v_code text;
  v_reason text;
begin
  for v_in in
    select c.change
    from jsonb_array_elements(p_changes) with ordinality as c (change, ord)
    inner join public.groups as g on g.session_id = p_session and g.wa_group_id = c.change ->> 'chat_id' and g.monitor
    order by c.ord
  loop
    v_result := null;
    for v_attempt in 1..3 loop
      begin
        v_result := wa.take_change(p_session, v_in);
      exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      end;
      exit when v_result is not null or v_code <> '23503';
    end loop;
    if v_result is null then
      perform wa.write_refused(p_session, jsonb_build_array(jsonb_build_object(
        'item', 'change', 'chat_id', v_in ->> 'chat_id', 'sender', v_in ->> 'author',
        'wa_msg_id', v_in ->> 'change_id', 'code', v_code, 'reason', v_reason, 'body', v_in::text
      )));
      v_refused := v_refused + 1;
    end if;
    v_done := v_done + coalesce(v_result = 'done', false)::integer;
    v_held := v_held + coalesce(v_result = 'held', false)::integer;
  end loop;
  return jsonb_build_object('changed', v_done, 'held', v_held, 'refused', v_refused);
end
$$;

create or replace function wa.begin_batch(p_session text, p_batch jsonb) returns boolean
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

create or replace function wa.begin_part(p_session text, p_batch jsonb) returns boolean
language plpgsql security invoker set search_path = '' as $$
begin
  if wa.begin_batch(p_session, p_batch) then
    return true;
  end if;
  update public.wa_sessions as s
  set batch = concat_ws(' ', p_batch ->> 'seq', p_batch ->> 'digest')
  where s.id = p_session and s.batch is distinct from concat_ws(' ', p_batch ->> 'seq', p_batch ->> 'digest');
  return false;
end
$$;

create or replace function wa.add_counts(p_one jsonb, p_other jsonb) returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select coalesce(jsonb_object_agg(s.key, s.count), '{}')
  from (
    select c.key, sum(c.value::bigint) as count
    from (select * from jsonb_each_text(p_one) union all select * from jsonb_each_text(p_other)) as c
    group by c.key
  ) as s
$$;

create or replace function wa.take_items(p_session text, p_messages jsonb, p_changes jsonb) returns jsonb
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

create or replace function wa.take_opaque(p_session text, p_item jsonb) returns jsonb
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

create or replace function public.wa_commit_part(p_session text, p_batch jsonb) returns jsonb
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

create or replace function public.wa_put_piece(p_session text, p_batch jsonb) returns jsonb
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

create or replace function public.wa_commit_pieces(p_session text, p_batch jsonb) returns jsonb
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
    v_sealed := jsonb_array_length(public.wa_sealed_edits(p_session, 1));
  end if;
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
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
    raise exception 'refused_again';
  end if;
end
$$;

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
    when raise_exception then
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

create or replace function public.wa_due_refused(p_session text, p_limit integer) returns jsonb
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

  select coalesce(jsonb_agg(due.id::text order by due.id), '[]') from due
$$;

create or replace function public.wa_figures(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'now', now(),
    'epoch', (select s.epoch::text from public.wa_sessions as s where s.id = p_session),
    'seq', (select s.seq::text from public.wa_sessions as s where s.id = p_session),
    'jobs', (
      select jsonb_build_object(
        'running', count(*) filter (where j.lease_expires_at > now()),
        'due', count(*) filter (
          where j.next_attempt_at <= now() and coalesce(j.lease_expires_at <= now(), true)
        ),
        'waiting', count(*) filter (
          where j.next_attempt_at > now() and coalesce(j.lease_expires_at <= now(), true)
        ),
        'oldest_s', extract(epoch from (now() - min(j.created_at)))
      )
      from public.media_jobs as j where j.session_id = p_session
    ),
    'abandoned', (
      select coalesce(jsonb_object_agg(a.status, a.count), '{}')
      from (
        select w.status, count(*) as count
        from public.wa_media_abandoned as w where w.session_id = p_session group by w.status
      ) as a
    ),
    'pending_stubs', (select count(*) from public.messages as m where m.session_id = p_session and m.pending),
    'refused', (select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session),
    'refused_waiting', (
      select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session and r.state = 'waiting'
    ),
    'held_changes', (select count(*) from public.wa_held_changes as h where h.session_id = p_session)
  )
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
      select g.kind, count(*) as count from gone as g where g.kind not in ('quote', 'album') group by g.kind
    ) as k
  )

  select count(*) into v_changes from gone as g cross join counted;
  delete from public.message_secrets
  where message_id = any(array(
    select s.message_id
    from public.message_secrets as s
    where s.session_id = p_session and s.at < now() - interval '7 days'
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

create or replace function wa.store_messages_or_refuse(p_session text, p_messages jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_code text;
  v_reason text;
  v_half integer := jsonb_array_length(p_messages) / 2;
  v_first jsonb;
  v_second jsonb;
begin
  if jsonb_array_length(p_messages) = 0 then
    return '{"stored": 0, "upgraded": 0, "duplicates": 0, "skipped": 0, "jobs": 0, "refused": 0}'::jsonb;
  end if;
  for v_attempt in 1..3 loop
    begin
      return wa.store_messages(p_session, p_messages);
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded then
        get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
    end;
    exit when v_code <> '23503';
  end loop;

  if v_half = 0 then
    perform wa.write_refused(p_session, jsonb_build_array(jsonb_build_object(
      'chat_id', p_messages -> 0 ->> 'chat_id', 'sender', p_messages -> 0 ->> 'sender',
      'wa_msg_id', p_messages -> 0 ->> 'wa_msg_id', 'code', v_code, 'reason', v_reason, 'body', p_messages ->> 0
    )));
    return '{"stored": 0, "upgraded": 0, "duplicates": 0, "skipped": 0, "jobs": 0, "refused": 1}'::jsonb;
  end if;

  select jsonb_agg(m order by ord) filter (where ord <= v_half), jsonb_agg(m order by ord) filter (where ord > v_half)
  into v_first, v_second
  from jsonb_array_elements(p_messages) with ordinality as t (m, ord);
  v_first := wa.store_messages_or_refuse(p_session, v_first);
  v_second := wa.store_messages_or_refuse(p_session, v_second);
  return wa.add_counts(v_first, v_second);
end
$$;

create or replace function public.wa_begin_epoch(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, p_fence);
begin
  update public.wa_sessions set epoch = v_row.epoch + 1, seq = 0, batch = null where id = p_session;
  return jsonb_build_object('epoch', (v_row.epoch + 1)::text);
end
$$;

create or replace function public.wa_wipe_credentials(p_session text, p_fence bigint) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions := wa.lock_session(p_session, p_fence);
begin
  delete from public.wa_session_keys where session_id = p_session;
  update public.wa_sessions
  set
    creds_json = null, wa_name = null, wa_number = null, epoch = v_row.epoch + 1, seq = 0, batch = null,
    updated_at = now()
  where id = p_session;
  return jsonb_build_object('epoch', (v_row.epoch + 1)::text);
end
$$;

create or replace function wa.write_refused(p_session text, p_refused jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_refused_stanzas (
    session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding, item, state, next_at
  )
  select
    p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
    left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
    case
      when not coalesce(g.monitor, false) then null
      when r ->> 'encoding' = 'base64' then r ->> 'body'
      else replace(encode(convert_to(r ->> 'body', 'UTF8'), 'base64'), e'\n', '')
    end,
    'base64', coalesce(r ->> 'item', 'message'), coalesce(r ->> 'state', 'refused'),
    case when r ->> 'state' = 'waiting' then now() + interval '1 minute' end
  from jsonb_array_elements(coalesce(nullif(p_refused, 'null'), '[]')) with ordinality as t (r, ord)
  left join public.groups as g on g.session_id = p_session and g.wa_group_id = r ->> 'chat_id'
  where not exists (
    select 1 from public.wa_refused_stanzas as s
    where s.session_id = p_session and s.wa_msg_id = left(r ->> 'wa_msg_id', 256)
      and s.chat_id is not distinct from left(r ->> 'chat_id', 256)
      and s.sender is not distinct from left(r ->> 'sender', 256)
      and s.item = coalesce(r ->> 'item', 'message')
  )
  order by t.ord
$$;

create or replace function wa.is_listed(p_session text, p_chat text, p_sender text, p_wa_msg_id text) returns boolean
language sql stable security invoker set search_path = '' as $$
  select exists (
    select 1 from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.chat_id = p_chat and r.sender = p_sender and r.wa_msg_id = p_wa_msg_id
      and r.item = 'message'
  )
$$;

revoke execute on function
public.wa_commit_part, public.wa_commit_pieces, public.wa_due_refused, public.wa_put_piece, public.wa_retry_refused,
wa.add_counts, wa.begin_batch, wa.begin_part, wa.is_listed, wa.take_back, wa.take_items, wa.take_opaque
from public, anon, authenticated;

grant execute on function
public.wa_commit_part, public.wa_commit_pieces, public.wa_due_refused, public.wa_put_piece, public.wa_retry_refused,
wa.add_counts, wa.begin_batch, wa.begin_part, wa.is_listed, wa.take_back, wa.take_items, wa.take_opaque
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126132500')
$$;

notify pgrst, 'reload schema';
