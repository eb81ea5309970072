-- A stanza in whose decryption the sidecar ends again and again is decrypted alone, and then not at all.

set check_function_bodies = off;

-- Stanzas (sha256 of the first ciphertext) in whose decryption sidecars ended: `deaths` by themselves, `kills` by a
-- signal from outside. docs/architecture.md, "A stanza that kills".
create table public.wa_suspects (
  session_id text not null references public.wa_sessions (id),
  hash bytea not null check (length(hash) = 32),
  deaths integer not null default 0,
  kills integer not null default 0,
  last_death text not null,
  at timestamptz not null default now(),
  primary key (session_id, hash)
);

alter table public.wa_refused_stanzas drop constraint wa_refused_stanzas_state_check;
alter table public.wa_refused_stanzas add constraint wa_refused_stanzas_state_check
check (state in ('refused', 'waiting', 'undecrypted'));

-- Notes that a sidecar ended while it decrypted this stanza (hex). `p_death` names the end: one is counted once. What
-- was committed meanwhile is no suspect. The newest 1,000 of the last 14 days are kept.
create or replace function public.wa_note_death(
  p_session text, p_fence bigint, p_hash text, p_death text, p_killed boolean
)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_hash bytea := decode(p_hash, 'hex');
begin
  perform wa.lock_session(p_session, p_fence);
  insert into public.wa_suspects as s (session_id, hash, deaths, kills, last_death)
  select p_session, v_hash, (not p_killed)::integer, p_killed::integer, p_death
  where not exists (
    select 1 from public.decrypted_stanzas as d where d.session_id = p_session and d.hash = v_hash
  )
  on conflict (session_id, hash) do update
  set
    deaths = s.deaths + excluded.deaths, kills = s.kills + excluded.kills, last_death = excluded.last_death, at = now()
  where s.last_death <> excluded.last_death;
  delete from public.wa_suspects as s
  where s.session_id = p_session and (
    s.at < now() - interval '14 days'
    or s.hash not in (
      select n.hash from public.wa_suspects as n where n.session_id = p_session order by n.at desc, n.hash limit 1000
    )
  );
  return '{"done": true}'::jsonb;
end
$$;

-- The suspects: {suspects: [{hash, deaths, kills}]}.
create or replace function public.wa_list_suspects(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('suspects', coalesce(
    jsonb_agg(jsonb_build_object('hash', encode(s.hash, 'hex'), 'deaths', s.deaths, 'kills', s.kills)), '[]'
  ))
  from public.wa_suspects as s
  where s.session_id = p_session
$$;

-- Refused items: [{item, state, chat_id, sender, wa_msg_id, code, reason, body, encoding}]. Bodies are kept as base64,
-- and only if the chat is monitored: content of other chats reaches no table. One that is listed already stays as it
-- is; but the good copy of a listed stub is listed beside it. An `undecrypted` one stands beside the others, and is not
-- listed if the chat is not monitored, or the message is stored with its content.
create or replace function wa.write_refused(p_session text, p_refused jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_refused_stanzas (
    session_id, chat_id, sender, wa_msg_id, code, reason, body, encoding, item, state, next_at
  )
  select
    p_session, left(r ->> 'chat_id', 256), left(r ->> 'sender', 256), left(r ->> 'wa_msg_id', 256),
    left(coalesce(r ->> 'code', 'unknown'), 64), left(coalesce(r ->> 'reason', ''), 1000),
    kept.body, 'base64', coalesce(r ->> 'item', 'message'), coalesce(r ->> 'state', 'refused'),
    case when r ->> 'state' = 'waiting' then now() + interval '1 minute' end
  from jsonb_array_elements(coalesce(nullif(p_refused, 'null'), '[]')) with ordinality as t (r, ord)
  left join public.groups as g on g.session_id = p_session and g.wa_group_id = r ->> 'chat_id'
  cross join lateral (
    select case
      when not coalesce(g.monitor, false) then null
      when r ->> 'encoding' = 'base64' then r ->> 'body'
      else replace(encode(convert_to(r ->> 'body', 'UTF8'), 'base64'), e'\n', '')
    end as body
  ) as kept
  where not exists (
    select 1 from public.wa_refused_stanzas as s
    where s.session_id = p_session and s.wa_msg_id = left(r ->> 'wa_msg_id', 256)
      and s.chat_id is not distinct from left(r ->> 'chat_id', 256)
      and s.sender is not distinct from left(r ->> 'sender', 256)
      and s.item = coalesce(r ->> 'item', 'message')
      and (s.state = 'undecrypted') = (coalesce(r ->> 'state', 'refused') = 'undecrypted')
      and not (coalesce(wa.holds_stub(s.body), false) and not coalesce(wa.holds_stub(kept.body), true))
  )
  and not (r ->> 'state' is not distinct from 'undecrypted' and (kept.body is null or exists (
    select 1 from public.messages as m
    where m.session_id = p_session and m.chat_id = r ->> 'chat_id' and m.sender = r ->> 'sender'
      and m.wa_msg_id = r ->> 'wa_msg_id' and m.kind <> 'undecryptable'
  )))
  order by t.ord
$$;

-- The message has its content, or was none: its stanza need not be kept any more. `p_senders`: forms of one person.
create or replace function wa.unlist_undecrypted(
  p_session text, p_chat text, p_senders text[], p_wa_msg_id text
) returns void
language sql volatile security invoker set search_path = '' as $$
  delete from public.wa_refused_stanzas
  where session_id = p_session and wa_msg_id = p_wa_msg_id and chat_id = p_chat and sender = any(p_senders)
    and state = 'undecrypted'
$$;

-- Ciphertext hashes ([hex]) and discards ({reason: count}) of a batch. What was decrypted is no suspect any more.
create or replace function wa.write_hashes_and_discards(p_session text, p_hashes jsonb, p_discards jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.decrypted_stanzas (session_id, hash)
  select p_session, decode(h, 'hex')
  from jsonb_array_elements_text(coalesce(nullif(p_hashes, 'null'), '[]')) as h
  where h ~ '^[0-9a-f]{64}$'
  on conflict do nothing;

  delete from public.wa_suspects
  where session_id = p_session and hash = any(array(
    select decode(h, 'hex')
    from jsonb_array_elements_text(coalesce(nullif(p_hashes, 'null'), '[]')) as h
    where h ~ '^[0-9a-f]{64}$'
  ));

  insert into public.wa_discards (session_id, reason, count)
  select p_session, left(d.key, 64), sum(d.value::bigint)
  from jsonb_each_text(coalesce(nullif(p_discards, 'null'), '{}')) as d
  where d.value ~ '^[0-9]{1,18}$'
  group by left(d.key, 64)
  on conflict (session_id, reason) do update
  set count = public.wa_discards.count + excluded.count, last_at = now();
$$;

-- Gives a stored message the content of another row: every column that a sender fills, but not who sent it, where and
-- when. Names that the other row lacks stay. The stanza of a stub that gets its content is kept no longer.
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

  select wa.unlist_undecrypted(m.session_id, m.chat_id, array[m.sender, m.sender_alt], m.wa_msg_id)
  from public.messages as m
  where m.id = p_message and m.kind <> 'undecryptable';
$$;

-- One change of a batch: 'done', 'held' or 'dropped' (wa.take_changes). The links of a message that is listed as
-- refused are held until it is taken back.
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
    if found then
      perform wa.unlist_undecrypted(
        p_session, v_change.chat_id, array[v_change.author], v_change.change_id
      );
    elsif wa.is_late(p_change) then
      perform wa.count_discard(p_session, 'too_old', 1);
      return 'dropped';
    end if;
  end if;
  if v_change.kind = 'revoke' and coalesce((v_change.payload -> 'blank') = 'true', false)
    and wa.may_revoke(v_change) = 'allowed' then
    update public.wa_refused_stanzas as r
    set body = null, state = case r.state when 'waiting' then 'refused' else r.state end
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

-- The database's figures for /metrics and the status command. Without ids and without content.
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
    'undecrypted', (
      select count(*) from public.wa_refused_stanzas as r where r.session_id = p_session and r.state = 'undecrypted'
    ),
    'held_changes', (select count(*) from public.wa_held_changes as h where h.session_id = p_session)
  )
$$;

alter table public.wa_suspects enable row level security;
revoke all on public.wa_suspects from anon, authenticated;
grant select, insert, update, delete on public.wa_suspects to service_role;
revoke execute on function public.wa_list_suspects, public.wa_note_death, wa.unlist_undecrypted
from public, anon, authenticated;
grant execute on function public.wa_list_suspects, public.wa_note_death, wa.unlist_undecrypted to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126211400')
$$;

notify pgrst, 'reload schema';
