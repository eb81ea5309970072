-- A cursor of a session that was deleted starts again, though a session of the same name has changes of its own.

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

revoke execute on function wa.start_cursor from public, anon, authenticated;

grant execute on function wa.start_cursor to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127132500')
$$;

notify pgrst, 'reload schema';
