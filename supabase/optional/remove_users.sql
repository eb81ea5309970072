-- Undoes users.sql. What the worker stored stays; the memberships of sessions are deleted.

do $$
begin
  if exists (
    select 1 from pg_catalog.pg_publication_tables
    where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'message_changes'
  ) and exists (select 1 from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables)
  then
    alter publication supabase_realtime drop table public.message_changes;
  end if;
end
$$;

drop policy if exists wa_members_read on storage.objects;
drop policy if exists owners_ask_again on public.runtime_flags;
drop policy if exists owners_ask on public.runtime_flags;
drop policy if exists owners_read on public.runtime_flags;
drop policy if exists members_read on public.group_members;
drop policy if exists members_read on public.people;
drop policy if exists members_read on public.media;
drop policy if exists members_read on public.message_changes;
drop policy if exists members_read on public.message_edits;
drop policy if exists members_read on public.message_reactions;
drop policy if exists members_read on public.messages;
drop policy if exists owners_switch on public.groups;
drop policy if exists members_read on public.groups;

drop function if exists public.my_sessions();
drop function if exists public.my_search(text, text, jsonb, text, text, integer);
drop function if exists public.my_coverage(text, text, timestamptz, timestamptz, integer);
drop table if exists public.session_members;
drop index if exists public.messages_media_group;
drop schema if exists wa_users cascade;

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
public.runtime_flags
from authenticated;
revoke execute on function public.changes, wa.cursor_range from authenticated;
revoke usage on schema wa from authenticated;

notify pgrst, 'reload schema';
