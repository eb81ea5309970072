-- Optional: users of your own (Supabase Auth) read what their sessions stored, from a browser, with their own token.
--
-- Apply it after the migrations, and again after each update: you may apply it any number of times. To undo it, apply
-- remove_users.sql. docs/users.md explains it. public.session_members says who belongs to a session; only the service
-- role writes it. Policies select rows, grants select columns; what is not granted stays closed. No policy opens a
-- table that holds credentials or keys.

-- What policies call. The Data API does not expose this schema.
create schema if not exists wa_users;
revoke all on schema wa_users from public, anon;
grant usage on schema wa_users to authenticated, service_role;

-- Who may see what. `groups` null: all groups of the session, also future ones; else ids of public.groups. An owner
-- also sees the QR code, switches `monitor` and sends requests to the worker.
create table if not exists public.session_members (
  session_id text not null references public.wa_sessions (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  role text not null default 'member' check (role in ('owner', 'member')),
  groups bigint[],
  created_at timestamptz not null default now(),
  primary key (session_id, user_id),
  check (role <> 'owner' or groups is null)
);

create index if not exists session_members_user_id on public.session_members (user_id);

alter table public.session_members enable row level security;

-- Does the user see this file? Without the groups in it, a sticker that went round would be looked up in all groups.
create index if not exists messages_media_group on public.messages (media_id, group_id) where media_id is not null;

-- The answers depend only on the user, so a query asks once: policies write `(select wa_users.group_ids())`. They run
-- with the rights of the owner: the policies of the tables they read would otherwise call them again.
create or replace function wa_users.group_ids() returns bigint[]
language sql stable security definer set search_path = '' as $$
  select coalesce(array_agg(g.id), '{}')
  from public.session_members as m
  inner join public.groups as g on m.session_id = g.session_id and (m.groups is null or g.id = any(m.groups))
  where m.user_id = (select auth.uid())
$$;

-- Sessions of which the user sees all groups.
create or replace function wa_users.whole_sessions() returns text[]
language sql stable security definer set search_path = '' as $$
  select coalesce(array_agg(m.session_id), '{}')
  from public.session_members as m
  where m.user_id = (select auth.uid()) and m.groups is null
$$;

create or replace function wa_users.sessions() returns text[]
language sql stable security definer set search_path = '' as $$
  select coalesce(array_agg(m.session_id), '{}') from public.session_members as m where m.user_id = (select auth.uid())
$$;

create or replace function wa_users.owned_sessions() returns text[]
language sql stable security definer set search_path = '' as $$
  select coalesce(array_agg(m.session_id), '{}')
  from public.session_members as m
  where m.user_id = (select auth.uid()) and m.role = 'owner'
$$;

-- The user's sessions and their state. wa_sessions itself stays closed: the account's credentials are in it.
create or replace function wa_users.list_sessions() returns jsonb
language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(
    jsonb_build_object(
      'id', s.id, 'role', m.role, 'groups', m.groups, 'status', s.status, 'state', s.detail -> 'state',
      'say', s.detail -> 'say', 'worker_runs', coalesce(s.lease_expires_at > now(), false), 'updated_at', s.updated_at
    ) || case
      when m.role = 'owner'
        then jsonb_build_object('wa_name', s.wa_name, 'wa_number', s.wa_number, 'detail', s.detail)
      else '{}'
    end
    order by s.id
  ), '[]')
  from public.session_members as m
  inner join public.wa_sessions as s on m.session_id = s.id
  where m.user_id = (select auth.uid())
$$;

create or replace function public.my_sessions() returns jsonb
language sql stable security invoker set search_path = '' as $$
  select wa_users.list_sessions()
$$;

-- Search and coverage. Their tables stay closed, because under a policy PostgreSQL would not use the search index. So
-- these run with the rights of the owner, and first check which groups are the user's.

-- As public.search_messages, in the user's groups. A filter of more than 20,000 bytes is refused (54000).
create or replace function wa_users.search(
  p_session text, p_query text, p_filter jsonb, p_sort text, p_cursor text, p_limit integer
) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_filter jsonb := coalesce(nullif(p_filter, 'null'), '{}');
  v_asked boolean := coalesce(jsonb_typeof(v_filter -> 'groups') = 'array' and v_filter -> 'groups' <> '[]', false);
  v_whole boolean := p_session = any(wa_users.whole_sessions());
  v_mine bigint [];
  v_found jsonb;
begin
  -- Nothing else gains the mark of the groups below, and without it the search is that of the whole session.
  if jsonb_typeof(v_filter) <> 'object' then
    raise exception 'the filter is no object' using errcode = '22023';
  end if;
  if octet_length(v_filter::text) > 20000 then
    raise exception 'the filter is too long' using errcode = '54000';
  end if;
  v_mine := array(
    select g.id
    from public.groups as g
    where g.session_id = p_session and g.id = any((select wa_users.group_ids())::bigint [])
      and (not v_asked or v_filter -> 'groups' @> to_jsonb(g.id) or v_filter -> 'groups' @> to_jsonb(g.id::text))
  );
  if v_mine = '{}' then
    return '{"results": [], "next": null}'::jsonb;
  end if;
  if v_asked or not v_whole then
    v_filter := v_filter || jsonb_build_object('groups', to_jsonb(v_mine));
  end if;
  v_found := public.search_messages(p_session, p_query, v_filter, p_sort, p_cursor, p_limit);
  -- The index decides by a mark of the group. Here the group itself does.
  return jsonb_set(v_found, '{results}', (
    select coalesce(jsonb_agg(r.one order by r.place), '[]')
    from jsonb_array_elements(v_found -> 'results') with ordinality as r (one, place)
    where (r.one ->> 'group_id')::bigint = any(v_mine)
  ));
end
$$;

-- As public.coverage. 42501 for a group that is not the user's, or does not exist.
create or replace function wa_users.coverage(
  p_session text, p_group text, p_from timestamptz, p_to timestamptz, p_limit integer
) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
  if not exists (
    select 1
    from public.groups as g
    where g.session_id = p_session and g.wa_group_id = p_group and g.id = any((select wa_users.group_ids())::bigint [])
  ) then
    raise exception 'this group is not yours' using errcode = '42501';
  end if;
  return public.coverage(p_session, p_group, p_from, p_to, least(p_limit, 1000));
end
$$;

create or replace function public.my_search(
  p_session text, p_query text, p_filter jsonb default '{}', p_sort text default 'newest',
  p_cursor text default null, p_limit integer default 20
) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select wa_users.search(p_session, p_query, p_filter, p_sort, p_cursor, p_limit)
$$;

create or replace function public.my_coverage(
  p_session text, p_group text, p_from timestamptz default null, p_to timestamptz default null,
  p_limit integer default 1000
) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select wa_users.coverage(p_session, p_group, p_from, p_to, p_limit)
$$;

-- Policies. A scalar subquery finds the message of a row, not `exists`: the planner may answer that one by reading all
-- messages into a hash table first.

drop policy if exists members_read_own on public.session_members;
create policy members_read_own on public.session_members for select to authenticated
using (user_id = (select auth.uid()));

drop policy if exists members_read on public.groups;
create policy members_read on public.groups for select to authenticated
using (id = any((select wa_users.group_ids())::bigint[]));

drop policy if exists owners_switch on public.groups;
create policy owners_switch on public.groups for update to authenticated
using (session_id = any((select wa_users.owned_sessions())::text[]))
with check (session_id = any((select wa_users.owned_sessions())::text[]));

drop policy if exists members_read on public.messages;
create policy members_read on public.messages for select to authenticated
using (group_id = any((select wa_users.group_ids())::bigint[]));

drop policy if exists members_read on public.message_reactions;
create policy members_read on public.message_reactions for select to authenticated
using (
  session_id = any((select wa_users.whole_sessions())::text[])
  or (
    select true from public.messages as m
    where m.id = message_reactions.message_id
  )
);

drop policy if exists members_read on public.message_edits;
create policy members_read on public.message_edits for select to authenticated
using (
  session_id = any((select wa_users.whole_sessions())::text[])
  or (
    select true from public.messages as m
    where m.id = message_edits.message_id
  )
);

-- The group of a deleted message is no longer known: its number is visible to all members of the session.
drop policy if exists members_read on public.message_changes;
create policy members_read on public.message_changes for select to authenticated
using (
  session_id = any((select wa_users.whole_sessions())::text[])
  or (deleted and session_id = any((select wa_users.sessions())::text[]))
  or (
    select true from public.messages as m
    where m.id = message_changes.message_id
  )
);

-- A file is one row, whoever sent it: visible to those who see a message with it.
drop policy if exists members_read on public.media;
create policy members_read on public.media for select to authenticated
using (
  (
    select true from public.messages as m
    where m.media_id = media.id
    limit 1 -- noqa: AM09
  )
);

drop policy if exists members_read on public.group_members;
create policy members_read on public.group_members for select to authenticated
using (group_id = any((select wa_users.group_ids())::bigint[]));

-- Members of some groups see who wrote in them, and who is in them. The join takes one index lookup per group.
drop policy if exists members_read on public.people;
create policy members_read on public.people for select to authenticated
using (
  session_id = any((select wa_users.whole_sessions())::text[])
  or (
    select true
    from public.groups as g
    inner join public.messages as m
      on g.session_id = m.session_id and g.wa_group_id = m.chat_id and m.sender = people.sender
    where g.session_id = people.session_id
    limit 1 -- noqa: AM09
  )
  or (
    select true
    from public.group_members as k
    where k.session_id = people.session_id and k.member = people.sender
    limit 1 -- noqa: AM09
  )
);

drop policy if exists owners_read on public.runtime_flags;
create policy owners_read on public.runtime_flags for select to authenticated
using (session_id = any((select wa_users.owned_sessions())::text[]));

drop policy if exists owners_ask on public.runtime_flags;
create policy owners_ask on public.runtime_flags for insert to authenticated
with check (session_id = any((select wa_users.owned_sessions())::text[]));

drop policy if exists owners_ask_again on public.runtime_flags;
create policy owners_ask_again on public.runtime_flags for update to authenticated
using (session_id = any((select wa_users.owned_sessions())::text[]))
with check (session_id = any((select wa_users.owned_sessions())::text[]));

-- The object's name begins with the hash of its content. The policy of public.media decides.
drop policy if exists wa_members_read on storage.objects;
create policy wa_members_read on storage.objects for select to authenticated
using (
  bucket_id = 'wa-media'
  and (
    select true from public.media as f
    where f.sha256 = split_part(objects.name, '/', 1) and f.storage_path = objects.name
  )
);

-- Rights: only those listed here, also where a project grants everything new.
-- `make types` after a change: a column that is closed here may be missing in a row (supabase/types/models.py).

revoke all on
public.group_members,
public.groups,
public.media,
public.message_changes,
public.message_edits,
public.message_reactions,
public.messages,
public.people,
public.poll_votes,
public.runtime_flags,
public.session_members
from anon, authenticated;

grant select, insert, update, delete on public.session_members to service_role;
grant select on public.session_members to authenticated;
grant select (id, session_id, wa_group_id, name, monitor, left_at, created_at, updated_at),
update (monitor) on public.groups to authenticated;
grant select (
  id, session_id, group_id, wa_msg_id, chat_id, sender, sender_alt, push_name, from_me, ts, received_at, kind, text,
  file_name, media_id, media_status, parent_id, pending, lost_at, edited_at, revoked_at, edit_msg_id, revoked_by,
  blanked, quoted_msg_id, quoted_sender, quoted_id, album_id, mentions, mention_count, forwarded, forward_score,
  content, expires_at, revoke_claimed_at, rendition, rendition_of
) on public.messages to authenticated;
grant select (message_id, sender, session_id, emoji, at) on public.message_reactions to authenticated;
grant select (id, session_id, message_id, edit_msg_id, text, at) on public.message_edits to authenticated;
grant select on public.message_changes to authenticated;
grant select (id, sha256, mime, bytes, width, height, duration_s, storage_path) on public.media to authenticated;
grant select on public.people to authenticated;
grant select on public.group_members to authenticated;
grant select on public.poll_votes to authenticated;
grant select (key, value, handled_at, handled_value, session_id), insert (key, value), update (key, value)
on public.runtime_flags to authenticated;

revoke execute on function
public.my_coverage,
public.my_search,
public.my_sessions,
wa_users.coverage,
wa_users.group_ids,
wa_users.list_sessions,
wa_users.owned_sessions,
wa_users.search,
wa_users.sessions,
wa_users.whole_sessions
from public, anon, authenticated;

grant execute on function
public.my_coverage,
public.my_search,
public.my_sessions,
wa_users.coverage,
wa_users.group_ids,
wa_users.list_sessions,
wa_users.owned_sessions,
wa_users.search,
wa_users.sessions,
wa_users.whole_sessions
to authenticated, service_role;

-- The worker's only function that users may call: their policies apply in it.
grant usage on schema wa to authenticated;
grant execute on function public.changes, wa.cursor_range to authenticated;

-- Realtime tells users that something changed; changes() tells them what. So it needs only one small table.
do $$
begin
  if exists (select 1 from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables)
    and not exists (
      select 1 from pg_catalog.pg_publication_tables
      where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'message_changes'
    )
  then
    alter publication supabase_realtime add table public.message_changes;
  end if;
end
$$;

notify pgrst, 'reload schema';
