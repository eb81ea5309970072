-- What is said about messages: edits, revokes, reactions, quotes, albums; and a person's two addresses becoming one.
--
-- A change names its target by (chat, canonical sender, id). It is applied when the target is there and held until
-- then; every rule below picks a winner by what the changes say themselves, never by when they came, so that any order
-- and any split into batches end in the same rows.

alter table public.messages
add column edit_msg_id text,
add column revoked_by text,
add column blanked boolean not null default false,
add column quoted_msg_id text,
add column quoted_sender text,
add column quoted_id bigint references public.messages (id) on delete set null,
add column album_id bigint references public.messages (id) on delete set null,
add column mentions text[],
add column mention_count integer not null default 0,
add column forwarded boolean not null default false,
add column forward_score integer not null default 0;

alter type public.wa_message_in add attribute quoted_msg_id text;
alter type public.wa_message_in add attribute quoted_sender text;
alter type public.wa_message_in add attribute mentions text[];
alter type public.wa_message_in add attribute mention_count integer;
alter type public.wa_message_in add attribute forwarded boolean;
alter type public.wa_message_in add attribute forward_score integer;
alter type public.wa_message_in add attribute secret text;

create index messages_quoted_id on public.messages (quoted_id) where quoted_id is not null;

create index messages_album_id on public.messages (album_id) where album_id is not null;

-- Where a person still goes by the number: what public.wa_merge_identity looks for.
create index messages_number on public.messages (session_id, sender) where sender like '%@s.whatsapp.net';

create index messages_quoted_number on public.messages (session_id, quoted_sender)
where quoted_sender like '%@s.whatsapp.net';

create index messages_revoked_number on public.messages (session_id, revoked_by)
where revoked_by like '%@s.whatsapp.net';

create index messages_mentions on public.messages using gin (mentions) where mentions is not null;

-- Every text that a message had and has no more. `edit_msg_id` is the edit that wrote it, '' for the original.
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

-- The last word of each person on each message. `emoji` null: taken back, kept so that an older one cannot return.
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

-- What an encrypted edit is opened with. Not in `raw`: whoever reads messages need not read keys. Written with nearly
-- every message, so there is no foreign key and one index only; what is left behind is pruned with the rest.
create table public.message_secrets (
  message_id bigint primary key,
  session_id text not null,
  secret text not null check (length(secret) between 1 and 64),
  at timestamptz not null default now()
);

-- Changes whose target has not come. `author` and `change_id` name the message that brought the change; `message_id` is
-- that message's row where it has one (a quote, a child of an album).
create table public.wa_held_changes (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  chat_id text not null check (length(chat_id) between 1 and 256),
  kind text not null check (kind in ('edit', 'sealed_edit', 'revoke', 'reaction', 'quote', 'album')),
  target_sender text not null check (length(target_sender) between 1 and 256),
  target_id text not null check (length(target_id) between 1 and 256),
  author text not null check (length(author) between 1 and 256),
  change_id text not null check (length(change_id) between 1 and 256),
  at timestamptz not null check (at >= '1970-01-01 00:00:00+00' and at < '2200-01-01 00:00:00+00'),
  payload jsonb not null default '{}',
  message_id bigint references public.messages (id) on delete cascade,
  unreadable boolean not null default false,
  held_at timestamptz not null default now(),
  unique (session_id, chat_id, author, change_id, kind)
);

create index wa_held_changes_target on public.wa_held_changes (session_id, chat_id, target_sender, target_id);

create index wa_held_changes_held_at on public.wa_held_changes (session_id, held_at);

create index wa_held_changes_target_sender on public.wa_held_changes (session_id, target_sender);

create index wa_held_changes_author on public.wa_held_changes (session_id, author);

create index wa_held_changes_message_id on public.wa_held_changes (message_id) where message_id is not null;

create index wa_held_changes_sealed on public.wa_held_changes (session_id, id)
where kind = 'sealed_edit' and not unreadable;

alter table public.message_edits enable row level security;
alter table public.message_reactions enable row level security;
alter table public.message_secrets enable row level security;
alter table public.wa_held_changes enable row level security;

revoke all on public.message_edits, public.message_reactions, public.message_secrets, public.wa_held_changes
from anon, authenticated;

grant select, insert, update, delete on
public.message_edits, public.message_reactions, public.message_secrets, public.wa_held_changes
to service_role;

-- Adds to a count of public.wa_discards.
create function public.wa_count_discard(p_session text, p_reason text, p_count bigint) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.wa_discards (session_id, reason, count)
  select p_session, p_reason, p_count
  where p_count > 0
  on conflict (session_id, reason) do update
  set count = public.wa_discards.count + excluded.count, last_at = now();
$$;

-- One edit: the greatest (at, id) is the message's text, all others are former texts, whatever the order they came in.
-- Of more than 100 the newest are kept, and the original.
create function public.wa_apply_edit(p_message bigint, p_edit_msg_id text, p_text text, p_at timestamptz) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_old public.messages;
begin
  select * into v_old from public.messages where id = p_message;
  if v_old.blanked or coalesce(v_old.edit_msg_id = p_edit_msg_id, false) then
    return;
  end if;
  if v_old.edited_at is null or (p_at, p_edit_msg_id collate "C") > (v_old.edited_at, v_old.edit_msg_id collate "C") then
    insert into public.message_edits (session_id, message_id, edit_msg_id, text, at)
    values (
      v_old.session_id, p_message, coalesce(v_old.edit_msg_id, ''), v_old.text, coalesce(v_old.edited_at, v_old.ts)
    )
    on conflict (message_id, edit_msg_id) do nothing;
    update public.messages set text = p_text, edited_at = p_at, edit_msg_id = p_edit_msg_id where id = p_message;
  else
    insert into public.message_edits (session_id, message_id, edit_msg_id, text, at)
    values (v_old.session_id, p_message, p_edit_msg_id, p_text, p_at)
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

-- Removes what a message said: text, payload, former texts, file and secret. Its row stays.
create function public.wa_blank_message(p_message bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.message_edits where message_id = p_message;
  delete from public.message_secrets where message_id = p_message;
  delete from public.media_jobs where message_id = p_message;
  update public.messages
  set
    blanked = true, text = null, raw = '{}', file_name = null, mentions = null, mention_count = 0, media_id = null,
    media_status = case when media_status is not null then 'revoked' end, edited_at = null, edit_msg_id = null
  where id = p_message;
end
$$;

-- One revoke; of several the earliest counts. Who may revoke is WhatsApp's to enforce.
create function public.wa_apply_revoke(p_message bigint, p_by text, p_at timestamptz, p_blank boolean) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  update public.messages
  set revoked_at = p_at, revoked_by = p_by
  where id = p_message
    and (revoked_at is null or (p_at, p_by collate "C") < (revoked_at, revoked_by collate "C"));
  if p_blank then
    perform public.wa_blank_message(p_message);
  end if;
end
$$;

-- One reaction: the greatest (at, id) of a person is the person's word. An empty emoji takes it back.
create function public.wa_apply_reaction(
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

-- Applies one change if its target is there: 'done', 'waiting' or 'refused'. An edit, and a child of an album, must
-- come from the target's own sender; a number and a LID whose number we do not know yet may be one person, so those
-- wait.
create function public.wa_apply_change(p_change public.wa_held_changes) returns text
language plpgsql security invoker set search_path = '' as $$
declare
  v_id bigint;
  v_kind text;
begin
  select m.id, m.kind into v_id, v_kind
  from public.messages as m
  where m.session_id = p_change.session_id and m.chat_id = p_change.chat_id and m.sender = p_change.target_sender
    and m.wa_msg_id = p_change.target_id;
  if v_id is null or p_change.kind = 'sealed_edit' then
    return 'waiting';
  end if;
  if p_change.kind in ('edit', 'album') then
    if p_change.author <> p_change.target_sender then
      return case
        when split_part(p_change.author, '@', 2) = split_part(p_change.target_sender, '@', 2) then 'refused'
        when exists (
          select 1 from public.wa_identities as i
          where i.session_id = p_change.session_id
            and (
              (i.lid = p_change.author and i.pn <> p_change.target_sender)
              or (i.lid = p_change.target_sender and i.pn <> p_change.author)
            )
        ) then 'refused'
        else 'waiting'
      end;
    end if;
    if v_kind = 'undecryptable' then
      return 'waiting';
    end if;
  end if;
  case p_change.kind
    when 'edit' then
      perform public.wa_apply_edit(v_id, p_change.change_id, p_change.payload ->> 'text', p_change.at);
    when 'revoke' then
      perform public.wa_apply_revoke(
        v_id, p_change.author, p_change.at, coalesce((p_change.payload -> 'blank') = 'true', false)
      );
    when 'reaction' then
      perform public.wa_apply_reaction(
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

-- The changes of a batch: [{kind, chat_id, target_sender, target_id, author, change_id, at, payload}]. Those of chats
-- that are not monitored are dropped. Who sends more than 1,000 changes about nothing has the rest dropped and counted.
create function public.wa_take_changes(p_session text, p_changes jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_in jsonb;
  v_change public.wa_held_changes;
  v_result text;
  v_done integer := 0;
  v_held integer := 0;
  v_code text;
  v_reason text;
begin
  for v_in in
    select c.change
    from jsonb_array_elements(p_changes) with ordinality as c (change, ord)
    inner join public.groups as g on g.session_id = p_session and g.wa_group_id = c.change ->> 'chat_id' and g.monitor
    order by c.ord
  loop
    begin
      v_change := jsonb_populate_record(null::public.wa_held_changes, v_in - 'id' - 'message_id' - 'held_at');
      v_change.session_id := p_session;
      v_change.payload := coalesce(nullif(v_change.payload, 'null'), '{}');
      if v_change.kind in ('quote', 'album') then
        select m.id into v_change.message_id
        from public.messages as m
        where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
          and m.wa_msg_id = v_change.change_id;
        continue when v_change.message_id is null;
      else
        -- Before it could be read, the message that brings the change may have left a stub.
        delete from public.messages as m
        where m.session_id = p_session and m.chat_id = v_change.chat_id and m.sender = v_change.author
          and m.wa_msg_id = v_change.change_id and m.kind = 'undecryptable';
      end if;
      v_result := public.wa_apply_change(v_change);
      if v_result = 'waiting' then
        if exists (
          select 1 from public.wa_held_changes as h
          where h.session_id = p_session and h.author = v_change.author
          offset 999
        ) then
          perform public.wa_count_discard(p_session, 'change_flood', 1);
          continue;
        end if;
        insert into public.wa_held_changes (
          session_id, chat_id, kind, target_sender, target_id, author, change_id, at, payload, message_id
        )
        values (
          p_session, v_change.chat_id, v_change.kind, v_change.target_sender, v_change.target_id, v_change.author,
          v_change.change_id, v_change.at, v_change.payload, v_change.message_id
        )
        on conflict (session_id, chat_id, author, change_id, kind) do nothing;
        v_held := v_held + 1;
      elsif v_result = 'refused' then
        perform public.wa_count_discard(p_session, v_change.kind || '_by_other', 1);
      else
        v_done := v_done + 1;
      end if;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded then
        get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
        perform public.wa_write_refused(p_session, jsonb_build_array(jsonb_build_object(
          'chat_id', v_in ->> 'chat_id', 'sender', v_in ->> 'author', 'wa_msg_id', v_in ->> 'change_id',
          'code', v_code, 'reason', v_reason, 'body', v_in::text
        )));
    end;
  end loop;
  return jsonb_build_object('changed', v_done, 'held', v_held);
end
$$;

-- Tries held changes again, and lets go of those that are done or refused; how many were applied.
create function public.wa_retry_changes(p_session text, p_ids bigint[]) returns integer
language plpgsql security invoker set search_path = '' as $$
declare
  v_held public.wa_held_changes;
  v_result text;
  v_done integer := 0;
begin
  for v_held in
    select * from public.wa_held_changes as h where h.session_id = p_session and h.id = any(p_ids) order by h.id
  loop
    v_result := public.wa_apply_change(v_held);
    continue when v_result = 'waiting';
    delete from public.wa_held_changes where id = v_held.id;
    if v_result = 'refused' then
      perform public.wa_count_discard(p_session, v_held.kind || '_by_other', 1);
    else
      v_done := v_done + 1;
    end if;
  end loop;
  return v_done;
end
$$;

revoke execute on function
public.wa_count_discard, public.wa_apply_edit, public.wa_blank_message, public.wa_apply_revoke,
public.wa_apply_reaction, public.wa_apply_change, public.wa_take_changes, public.wa_retry_changes
from public, anon, authenticated;

grant execute on function
public.wa_count_discard, public.wa_apply_edit, public.wa_blank_message, public.wa_apply_revoke,
public.wa_apply_reaction, public.wa_apply_change, public.wa_take_changes, public.wa_retry_changes
to service_role;
