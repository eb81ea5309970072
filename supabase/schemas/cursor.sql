-- The change cursor: an app that follows it learns of every change of what it shows, and misses none.
--
-- Triggers note each change of a message, of its reactions and of its earlier texts, so that no writer can forget to.
-- They run at the end of the transaction and draw the numbers under one lock for each session, which is held until the
-- commit is visible: a reader who sees a number sees all lower ones of that session. Nothing is locked after it but the
-- rows of this table, so it takes part in no deadlock between writers of one session.

-- The number of each message's newest change. Rows of messages that are gone say so, and are kept for a while
-- (public.wa_prune_changes). No foreign keys: a row outlives its message, and one is written with each message.
create table public.message_changes (
  message_id bigint primary key,
  session_id text not null,
  change_id bigint not null,
  deleted boolean not null default false,
  at timestamptz not null default clock_timestamp()
);

create sequence public.message_changes_number;

create unique index message_changes_cursor on public.message_changes (session_id, change_id);

create index message_changes_deleted on public.message_changes (session_id, at) where deleted;

-- Notes a change under the next number. A message that is gone does not come back.
create function wa.note_change(p_session text, p_message bigint, p_deleted boolean) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('message_changes ' || p_session, 0));
  insert into public.message_changes as c (message_id, session_id, change_id, deleted)
  values (p_message, p_session, nextval('public.message_changes_number'), p_deleted)
  on conflict (message_id) do update
  set change_id = excluded.change_id, deleted = excluded.deleted, at = excluded.at
  where not c.deleted;
end
$$;

create function wa.note_message_change() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  if tg_op = 'DELETE' then
    perform wa.note_change(old.session_id, old.id, true);
  else
    perform wa.note_change(new.session_id, new.id, false);
  end if;
  return null;
end
$$;

-- For tables whose rows belong to a message: reactions, earlier texts. They go with it, which its own trigger notes.
create function wa.note_part_change() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  if tg_op <> 'INSERT' then
    perform wa.note_change(old.session_id, old.message_id, false)
    where exists (select 1 from public.messages as m where m.id = old.message_id);
  end if;
  if tg_op <> 'DELETE' then
    perform wa.note_change(new.session_id, new.message_id, false)
    where exists (select 1 from public.messages as m where m.id = new.message_id);
  end if;
  return null;
end
$$;

create constraint trigger note_new after insert or delete on public.messages
deferrable initially deferred for each row execute function wa.note_message_change();

create constraint trigger note_change after update on public.messages
deferrable initially deferred for each row when (old.* is distinct from new.*)
execute function wa.note_message_change();

create constraint trigger note_change after insert or update or delete on public.message_reactions
deferrable initially deferred for each row execute function wa.note_part_change();

create constraint trigger note_change after insert or update or delete on public.message_edits
deferrable initially deferred for each row execute function wa.note_part_change();

-- A session begins behind every number so far. Who followed a former session of the same name, and slept while it was
-- deleted with its changes, would else not be told that its messages are gone.
create function wa.start_cursor() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  new.oldest_cursor := greatest(new.oldest_cursor, nextval('public.message_changes_number'));
  return new;
end
$$;

create trigger start_cursor before insert on public.wa_sessions
for each row execute function wa.start_cursor();

-- How far deletions were forgotten, and the newest number. With the rights of the owner: a caller of changes() under
-- policies sees neither wa_sessions nor the changes of other groups, and would scan those again at each call.
create function wa.cursor_range(p_session text, out oldest bigint, out newest bigint)
language sql stable security definer set search_path = '' as $$
  select
    coalesce((select s.oldest_cursor from public.wa_sessions as s where s.id = p_session), 0),
    coalesce((select max(c.change_id) from public.message_changes as c where c.session_id = p_session), 0)
$$;

-- The changes after the cursor `p_since`, oldest first, at most `p_limit` (1,000 at most): {changes: [{change_id,
-- message_id, deleted, message}], next, start_again}. `next` is the `p_since` of the next call; it is opaque. `message`
-- is the current row, without `raw` and our bookkeeping columns, with its file as `media` and its `reactions`; null if
-- it is gone. `p_since` null: no changes, and `next` is the current end; '0': from the first message on. `start_again`:
-- the cursor is older than the kept record of deletions, or from another database. A subquery finds the message, not a
-- join: for a join the planner, which does not know the limit, reads all messages.
--
-- Users may call it (supabase/optional/users.sql): it reads what they see, and they may not read every column, so the
-- columns are named. A user who sees no group of the session learns nothing about it.
--
-- A reader who starts at '0' holds nothing that a forgotten deletion could affect. The cursor carries how far deletions
-- were forgotten then (`number.forgotten`), until it has passed that.
create function public.changes(p_session text, p_since text, p_limit integer default 500) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_since bigint := split_part(p_since, '.', 1)::bigint;
  v_forgotten bigint := coalesce(nullif(split_part(p_since, '.', 2), ''), '0')::bigint;
  v_oldest bigint := 0;
  v_newest bigint := 0;
  v_changes jsonb;
  v_next bigint;
begin
  if exists (select 1 from public.groups as g where g.session_id = p_session) then
    select r.oldest, greatest(r.newest, r.oldest) into v_oldest, v_newest from wa.cursor_range(p_session) as r;
  end if;
  if v_since = 0 then
    v_forgotten := v_oldest;
  end if;
  if v_since is null or greatest(v_since, v_forgotten) < v_oldest or v_since > v_newest then
    return jsonb_build_object('changes', '[]'::jsonb, 'next', v_newest::text, 'start_again', p_since is not null);
  end if;
  -- Fewer than the limit: no more are visible up to the newest.
  select
    coalesce(jsonb_agg(to_jsonb(p) - 'number' order by p.number), '[]'),
    case when count(*) < least(p_limit, 1000) then v_newest else coalesce(max(p.number), v_since) end
  into v_changes, v_next
  from (
    select
      c.change_id as number, c.change_id::text as change_id, c.message_id, c.deleted,
      (
        select to_jsonb(shown)
        from (
          select
            m.id, m.session_id, m.group_id, m.wa_msg_id, m.chat_id, m.sender, m.sender_alt, m.push_name, m.from_me,
            m.ts, m.received_at, m.kind, m.text, m.file_name, m.media_id, m.media_status, m.parent_id, m.pending,
            m.lost_at, m.edited_at, m.revoked_at, m.edit_msg_id, m.revoked_by, m.blanked, m.quoted_msg_id,
            m.quoted_sender, m.quoted_id, m.album_id, m.mentions, m.mention_count, m.forwarded, m.forward_score,
            m.content, m.expires_at, m.rendition, m.rendition_of,
            (
              select jsonb_build_object(
                'sha256', f.sha256, 'mime', f.mime, 'bytes', f.bytes, 'width', f.width, 'height', f.height,
                'duration_s', f.duration_s, 'storage_path', f.storage_path
              )
              from public.media as f
              where f.id = m.media_id
            ) as media,
            (
              select coalesce(jsonb_agg(to_jsonb(r) order by r.at, r.sender), '[]')
              from (
                select e.sender, e.emoji, e.at
                from public.message_reactions as e
                where e.message_id = m.id and e.emoji is not null
              ) as r
            ) as reactions
          from public.messages as m
          where m.id = c.message_id
        ) as shown
      ) as message
    from public.message_changes as c
    where c.session_id = p_session and c.change_id > v_since
    order by c.change_id
    limit least(p_limit, 1000)
  ) as p;
  return jsonb_build_object(
    'changes', v_changes, 'start_again', false,
    'next', v_next::text || case when v_next < v_forgotten then '.' || v_forgotten else '' end
  );
end
$$;

-- Forgets deletions older than this, at most 10,000 a call. From then on a cursor that has not seen them is told to
-- start again.
create function public.wa_prune_changes(p_session text, p_older_than_seconds double precision) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_count integer;
  v_last bigint;
begin
  with gone as (
    delete from public.message_changes
    where message_id = any(array(
      select c.message_id
      from public.message_changes as c
      where c.session_id = p_session and c.deleted and c.at < now() - make_interval(secs => p_older_than_seconds)
      order by c.at
      limit 10000
    ))
    returning change_id
  )

  select count(*), max(g.change_id) into v_count, v_last from gone as g;
  update public.wa_sessions set oldest_cursor = v_last where id = p_session and v_last > oldest_cursor;
  return jsonb_build_object('pruned', v_count, 'more', v_count = 10000);
end
$$;
