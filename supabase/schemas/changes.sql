-- Changes to messages: edits, revokes, reactions, quotes, albums, renditions.
--
-- A change names its target by (chat, canonical sender, id). It is applied when the target is there, and held until
-- then. Where changes compete, their own content picks the winner, never their order of arrival: any order and any
-- split into batches end in the same rows.

-- Earlier texts of edited messages. `edit_msg_id` is the edit that wrote the text, '' for the original.
create table public.message_edits (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  message_id bigint not null references public.messages (id) on delete cascade,
  edit_msg_id text not null check (length(edit_msg_id) <= 256),
  text text,
  at timestamptz not null,
  unique (message_id, edit_msg_id)
);

create index message_edits_session_id on public.message_edits (session_id);

-- Each person's newest reaction to each message. `emoji` null: removed; the row stays, so that an older reaction cannot
-- return.
create table public.message_reactions (
  message_id bigint not null references public.messages (id) on delete cascade,
  sender text not null check (length(sender) between 1 and 256),
  session_id text not null references public.wa_sessions (id),
  emoji text check (length(emoji) between 1 and 64),
  at timestamptz not null,
  wa_msg_id text not null check (length(wa_msg_id) between 1 and 256),
  primary key (message_id, sender)
);

create index message_reactions_session_id on public.message_reactions (session_id);

create index message_reactions_number on public.message_reactions (session_id, sender)
where sender like '%@s.whatsapp.net';

-- Changes whose target has not arrived. `author` and `change_id` name the message that brought the change; `message_id`
-- is that message's row, where it has one (a quote, a child of an album, a rendition).
create table public.wa_held_changes (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  chat_id text not null check (length(chat_id) between 1 and 256),
  kind text not null check (kind in ('edit', 'sealed_edit', 'revoke', 'reaction', 'quote', 'album', 'rendition')),
  target_sender text not null check (length(target_sender) between 1 and 256),
  target_id text not null check (length(target_id) between 1 and 256),
  author text not null check (length(author) between 1 and 256),
  change_id text not null check (length(change_id) between 1 and 256),
  at timestamptz not null check (at >= '1970-01-01 00:00:00+00' and at < '2200-01-01 00:00:00+00'),
  payload jsonb not null default '{}',
  message_id bigint references public.messages (id) on delete cascade,
  unreadable boolean not null default false,
  held_at timestamptz not null default now(),
  tries integer not null default 0,
  next_at timestamptz,
  unique (session_id, chat_id, author, change_id, kind)
);

create index wa_held_changes_target on public.wa_held_changes (session_id, chat_id, target_sender, target_id);

create index wa_held_changes_held_at on public.wa_held_changes (session_id, held_at);

create index wa_held_changes_target_sender on public.wa_held_changes (session_id, target_sender);

create index wa_held_changes_author on public.wa_held_changes (session_id, author);

create index wa_held_changes_message_id on public.wa_held_changes (message_id) where message_id is not null;

create index wa_held_changes_sealed on public.wa_held_changes (session_id, id)
where kind = 'sealed_edit' and not unreadable;

-- Applies one edit: the greatest (at, id) is the message's text, all others are earlier texts, whatever their order of
-- arrival. An empty edit removes a caption. Keeps the original and the newest 100.
create function wa.apply_edit(p_message bigint, p_edit_msg_id text, p_text text, p_at timestamptz)
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
create function wa.blank_message(p_message bigint) returns void
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

-- Whether two different addresses are certainly of two people: both of one kind, or one's other address is known.
create function wa.are_two_people(p_session text, p_one text, p_other text) returns boolean
language sql stable security invoker set search_path = '' as $$
  select
    split_part(p_one, '@', 2) = split_part(p_other, '@', 2)
    or exists (
      select 1 from public.wa_identities as i
      where i.session_id = p_session
        and ((i.lid = p_one and i.pn <> p_other) or (i.lid = p_other and i.pn <> p_one))
    )
$$;

-- Whether somebody may revoke this message: 'allowed', 'refused' or 'unknown'. WhatsApp's server forwards a revoke by
-- anybody, and `by_admin` is the revoking client's claim, so it counts only for an admin of the group.
create function wa.may_revoke(p_change public.wa_held_changes) returns text
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_admins text [];
  v_forms text [];
begin
  if p_change.author = p_change.target_sender then
    return 'allowed';
  end if;
  if coalesce((p_change.payload -> 'by_admin') = 'true', false) then
    select g.admins into v_admins
    from public.groups as g
    where g.session_id = p_change.session_id and g.wa_group_id = p_change.chat_id;
    if v_admins is null then
      return 'unknown';
    end if;
    v_forms := array(
      select p_change.author
      union
      select unnest(array[i.lid, i.pn])
      from public.wa_identities as i
      where i.session_id = p_change.session_id and p_change.author in (i.lid, i.pn) and not exists (
        select 1 from public.wa_numbers_moved as n where n.session_id = i.session_id and n.pn = i.pn
      )
    );
    if v_admins && v_forms then
      return 'allowed';
    end if;
    -- The admins may be named by the other kind of address.
    if cardinality(v_forms) = 1 and v_admins <> '{}' and not exists (
      select 1 from unnest(v_admins) as a (jid)
      where split_part(a.jid, '@', 2) = split_part(p_change.author, '@', 2)
    ) then
      return 'unknown';
    end if;
  end if;
  return case
    when wa.are_two_people(p_change.session_id, p_change.author, p_change.target_sender) then 'refused'
    else 'unknown'
  end;
end
$$;

-- Marks a message revoked by somebody who may not be allowed to. Of several, the earliest counts.
create function wa.claim_revoke(p_message bigint, p_by text, p_at timestamptz) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages
  set revoke_claimed_at = p_at, revoke_claimed_by = p_by
  where id = p_message and revoked_at is null
    and (revoke_claimed_at is null or (p_at, p_by collate "C") < (revoke_claimed_at, revoke_claimed_by collate "C"))
$$;

-- Applies one allowed revoke; of several, the earliest counts. Locks the message before its file's rows, as deletions
-- do.
create function wa.apply_revoke(p_message bigint, p_by text, p_at timestamptz, p_blank boolean)
returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform 1 from public.messages where id = p_message or rendition_of = p_message order by id for no key update;
  update public.messages
  set revoked_at = p_at, revoked_by = p_by, revoke_claimed_at = null, revoke_claimed_by = null
  where id = p_message
    and (revoked_at is null or (p_at, p_by collate "C") < (revoked_at, revoked_by collate "C"));
  if p_blank then
    perform wa.blank_message(p_message);
  end if;
  -- A rendition has none itself.
  perform wa.apply_revoke(m.id, p_by, p_at, p_blank)
  from public.messages as m
  where m.rendition_of = p_message and not exists (
    select 1 from public.messages as r where r.id = p_message and r.rendition_of is not null
  );
end
$$;

-- Gives a message the best stored file of its renditions: the largest, if it is larger than its own. The sender's claim
-- that it is better is not trusted beyond that.
create function wa.use_best_file(p_message bigint) returns void
language sql volatile security invoker set search_path = '' as $$
  update public.messages as m
  set media_id = best.media_id, media_status = 'stored'
  from (
    select r.media_id, f.bytes, r.kind
    from public.messages as r
    inner join public.media as f on r.media_id = f.id
    where r.rendition_of = p_message and r.rendition = 'hd' and not r.blanked
    order by f.bytes desc, r.id
    limit 1
  ) as best
  where m.id = p_message and not m.blanked and m.kind = best.kind
    and (m.media_id, m.media_status) is distinct from (best.media_id, 'stored')
    and not exists (
      select 1 from public.media as f where f.id = m.media_id and m.media_status = 'stored' and f.bytes >= best.bytes
    )
$$;

-- Applies one reaction: each person's greatest (at, id) counts. An empty emoji removes it.
create function wa.apply_reaction(
  p_session text, p_message bigint, p_sender text, p_emoji text, p_at timestamptz, p_wa_msg_id text
) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.message_reactions (message_id, sender, session_id, emoji, at, wa_msg_id)
  values (p_message, p_sender, p_session, nullif(p_emoji, ''), p_at, p_wa_msg_id)
  on conflict (message_id, sender) do update
  set emoji = excluded.emoji, at = excluded.at, wa_msg_id = excluded.wa_msg_id
  where (excluded.at, excluded.wa_msg_id collate "C")
    > (public.message_reactions.at, public.message_reactions.wa_msg_id collate "C");
$$;

-- Applies one change if its target is there: 'done', 'waiting' or 'refused'. An edit, a child of an album and a
-- rendition must come from the target's own sender, a revoke also from an admin. A number, and a LID whose number is
-- unknown, may be one person, so those wait. A blanking revoke whose target is listed as refused empties the kept item,
-- and waits.
create function wa.apply_change(p_change public.wa_held_changes) returns text
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

-- Notes that a change was refused, because its author may not make it: a count, and for revokes an audit entry, one an
-- hour for each author.
create function wa.note_refusal(p_change public.wa_held_changes) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.count_discard(p_change.session_id, p_change.kind || '_by_other', 1);
  if p_change.kind = 'revoke' and not exists (
    select 1 from public.audit_log as a
    where a.session_id = p_change.session_id and a.at > now() - interval '1 hour' and a.event = 'revoke_by_other'
      and a.payload ->> 'by' = p_change.author
  ) then
    perform public.wa_audit(p_change.session_id, 'revoke_by_other', jsonb_build_object(
      'chat_id', p_change.chat_id, 'wa_msg_id', p_change.target_id, 'sender', p_change.target_sender,
      'by', p_change.author
    ));
  end if;
end
$$;

-- One change of a batch: 'done', 'held' or 'dropped' (wa.take_changes). Links of a message that is listed as refused
-- are held until it is accepted.
create function wa.take_change(p_session text, p_change jsonb) returns text
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

-- The changes of a batch: [{kind, chat_id, target_sender, target_id, author, change_id, at, payload}]. Drops those of
-- chats that are not monitored. Of a sender with 1,000 held changes, drops and counts any more that would wait. If
-- somebody deletes a target meanwhile, tries again, up to three times: the next attempt does not see the target.
create function wa.take_changes(p_session text, p_changes jsonb) returns jsonb
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
        'wa_msg_id', v_in ->> 'change_id', 'code', v_code, 'reason', v_reason, 'body', v_in::text,
        'sent_at', v_in ->> 'at'
      )));
      v_refused := v_refused + 1;
    end if;
    v_done := v_done + coalesce(v_result = 'done', false)::integer;
    v_held := v_held + coalesce(v_result = 'held', false)::integer;
  end loop;
  return jsonb_build_object('changed', v_done, 'held', v_held, 'refused', v_refused);
end
$$;

-- Tries held changes again and deletes those that are done or refused; returns how many were applied. If somebody
-- deletes a target meanwhile, tries again, up to three times: the next attempt does not see the target.
create function wa.retry_changes(p_session text, p_ids bigint[]) returns integer
language plpgsql security invoker set search_path = '' as $$
declare
  v_held public.wa_held_changes;
  v_result text;
  v_done integer := 0;
begin
  for v_held in
    select * from public.wa_held_changes as h where h.session_id = p_session and h.id = any(p_ids) order by h.id
  loop
    v_result := null;
    for v_attempt in 1..3 loop
      begin
        v_result := wa.apply_change(v_held);
      exception
        when foreign_key_violation then
          if v_attempt = 3 then
            raise;
          end if;
      end;
      exit when v_result is not null;
    end loop;
    continue when v_result = 'waiting';
    delete from public.wa_held_changes where id = v_held.id;
    if v_result = 'refused' then
      perform wa.note_refusal(v_held);
    else
      v_done := v_done + 1;
    end if;
  end loop;
  return v_done;
end
$$;

-- What can be decrypted now (its target and the target's secret are stored) and is due: ids, oldest first.
create function wa.openable_edits(p_session text, p_limit integer) returns bigint[]
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
-- sender and, for a poll, its options. Counts this try and sets the next, later each time, up to a day: one that breaks
-- the call that returns it must not be retried for ever.
create function public.wa_sealed_edits(p_session text, p_limit integer) returns jsonb
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

-- Adds the content of a held vote or the like to the row it came with, and drops the held change.
create function wa.complete_content(p_session text, p_held bigint, p_text text, p_content jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_held public.wa_held_changes;
begin
  delete from public.wa_held_changes
  where session_id = p_session and id = p_held and kind = 'sealed_edit'
  returning * into v_held;
  update public.messages as m
  set
    text = coalesce(p_text, m.text),
    content = coalesce(m.content, '{}') || p_content || coalesce((
      select jsonb_build_object('about', target.id)
      from public.messages as target
      where target.session_id = p_session and target.chat_id = v_held.chat_id
        and target.sender = v_held.target_sender and target.wa_msg_id = v_held.target_id
    ), '{}')
  where m.session_id = p_session and m.chat_id = v_held.chat_id and m.sender = v_held.author
    and m.wa_msg_id = v_held.change_id and not m.blanked;
end
$$;

-- The current choices in a poll: each person's newest vote that was opened. No choices: withdrawn.
create view public.poll_votes with (security_invoker = true) as
select distinct on (v.content -> 'about', v.sender)
  v.session_id,
  v.sender,
  v.push_name,
  v.ts as at,
  (v.content ->> 'about')::bigint as poll_id,
  v.content -> 'choices' as choices
from public.messages as v
where v.kind = 'poll_vote' and v.content ? 'choices' and v.content ? 'about' and v.revoked_at is null
order by v.content -> 'about' asc, v.sender asc, v.ts desc, v.id desc;

create index messages_poll_votes on public.messages ((content -> 'about'), sender, ts desc, id desc)
where kind = 'poll_vote' and content ? 'choices' and content ? 'about' and revoked_at is null;

-- Takes one decrypted edit, as public.wa_open_edits does; returns how many messages it changed. A plain edit that is
-- held under the same name is replaced.
create function wa.open_edit(p_session text, p_id bigint, p_text text, p_content jsonb, p_at timestamptz)
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

-- Takes decrypted edits: [{id, text, at}], `at` null to keep the envelope's; or [{id, unreadable: true}], which stays
-- held and is not tried again. A decrypted edit is applied like any other. A vote or the like comes as `content`, which
-- is added to its row, with the row of its target as `about`; for an event's edit, it becomes the event's. One that
-- Postgres refuses is marked unreadable and counted; the others are applied.
create function public.wa_open_edits(p_session text, p_fence bigint, p_opened jsonb) returns jsonb
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
