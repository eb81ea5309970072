-- A removal takes no rows of an app's own tables, unless these would keep the session's row from being deleted.
-- What was asked of a session long before it is started again is turned down.

set check_function_bodies = off;

-- What was asked of a session long before it is started again is turned down, whoever starts it: a logout that somebody
-- wanted weeks ago is not to be the first that it does.
create function wa.note_wanted_again() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_requests
  set handled_at = clock_timestamp(), result = 'turned down: asked too long ago', args = '{}'
  where session_id = new.id and handled_at is null and created_at < clock_timestamp() - interval '10 minutes';
  return null;
end
$$;

create trigger wanted_again after update of wanted on public.wa_sessions
for each row when (new.wanted and not old.wanted) execute function wa.note_wanted_again();

revoke execute on function wa.note_wanted_again from public, anon, authenticated;

grant execute on function wa.note_wanted_again to service_role;

create or replace function public.wa_remove_session(p_session text, p_data boolean, p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.wa_sessions;
  v_tables text[];
  v_table text;
  v_left integer := p_limit;
  v_count integer;
begin
  select * into v_row from public.wa_sessions where id = p_session for no key update;
  if v_row.id is null then
    return '{"more": false, "gone": true}'::jsonb;
  end if;
  if v_row.wanted then
    raise exception 'session_wanted' using errcode = 'PT409';
  end if;
  if v_row.lease_expires_at > clock_timestamp() then
    raise exception 'session_held' using errcode = 'PT409';
  end if;
  -- Whoever held it is refused from here on.
  update public.wa_sessions set fence = fence + 1, lease_owner = null, lease_expires_at = null where id = p_session;
  perform public.wa_wipe_credentials(p_session, v_row.fence + 1);
  update public.wa_sessions
  set
    settings = '{}', owner_id = null, status = 'disconnected', start_failures = 0, failed_owner = null,
    not_before = null, detail = '{"state": "removed", "say": "This session was removed; what it stored is kept."}'
  where id = p_session;
  if p_data then
    -- Deleting a message notes that, deleting a group too; so what notes comes first, and its notes later.
    v_tables := array[
      'group_members', 'messages', 'wa_refused_stanzas', 'media_jobs', 'wa_media_abandoned', 'wa_held_changes', 'message_reactions',
      'message_edits', 'message_secrets', 'message_search', 'decrypted_stanzas', 'wa_suspects', 'wa_discards',
      'wa_commit_pieces', 'wa_merges_due', 'wa_numbers_moved', 'wa_identities', 'people', 'groups',
      'wa_monitored_versions', 'coverage_gaps', 'message_changes', 'runtime_flags', 'wa_requests', 'audit_log'
    ];
    -- And whatever else would keep its row from being deleted.
    v_tables := array(
      select c.relname::text
      from pg_catalog.pg_constraint as f
      inner join pg_catalog.pg_class as c on f.conrelid = c.oid
      inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid and f.conkey = array[a.attnum]
      where f.contype = 'f' and f.confrelid = 'public.wa_sessions'::regclass and f.confdeltype in ('a', 'r')
        and c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attname = 'session_id'
        and c.relname <> all(v_tables) and c.relname <> 'wa_session_keys'
    ) || v_tables;
  else
    v_tables := array['decrypted_stanzas', 'wa_suspects', 'wa_commit_pieces', 'runtime_flags', 'wa_requests'];
  end if;
  foreach v_table in array v_tables loop
    execute format(
      'delete from public.%1$I where ctid = any(array(select ctid from public.%1$I where session_id = $1 limit $2))',
      v_table
    ) using p_session, v_left;
    get diagnostics v_count = row_count;
    v_left := v_left - v_count;
    if v_left <= 0 or (v_count > 0 and v_table in ('messages', 'groups')) then
      return '{"more": true, "gone": false}'::jsonb;
    end if;
  end loop;
  if p_data then
    delete from public.wa_sessions where id = p_session;
  end if;
  return jsonb_build_object('more', false, 'gone', p_data);
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127073600')
$$;

notify pgrst, 'reload schema';
