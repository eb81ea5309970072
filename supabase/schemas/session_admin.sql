-- Administration of sessions: create, list, set wanted or not, set settings, remove. None of these holds a lease; a
-- host learns of them at its poll.

-- Creates a session; `added` is false, and nothing changes, if it exists.
create function public.wa_add_session(
  p_session text, p_wanted boolean, p_settings jsonb default '{}', p_owner_id uuid default null
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  insert into public.wa_sessions (id, wanted, settings, owner_id)
  values (p_session, p_wanted, p_settings, p_owner_id)
  on conflict (id) do nothing;
  return jsonb_build_object('added', found);
end
$$;

-- Sets whether hosts should serve it. A session that failed before is retried at once.
create function public.wa_want_session(p_session text, p_wanted boolean) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_before boolean;
begin
  select s.wanted into v_before from public.wa_sessions as s where s.id = p_session for no key update;
  update public.wa_sessions as s
  set
    wanted = p_wanted, start_failures = 0, failed_owner = null, not_before = null,
    host_since = case when s.lease_owner is null then clock_timestamp() else s.host_since end
  where s.id = p_session and s.wanted <> p_wanted;
  return jsonb_build_object('found', v_before is not null, 'changed', found);
end
$$;

-- Rejects requests that were made long before a worker takes the session: a logout that somebody wanted weeks ago must
-- not be its first action.
create function wa.reject_old_requests() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_requests
  set handled_at = clock_timestamp(), result = 'turned down: asked too long ago', args = '{}'
  where id in (
    select r.id
    from public.wa_requests as r
    where r.session_id = new.id and r.handled_at is null
      and r.created_at < clock_timestamp() - interval '10 minutes'
    for no key update skip locked
  );
  return null;
end
$$;

create trigger reject_old_requests after update of lease_owner on public.wa_sessions
for each row when (new.lease_owner is not null and new.lease_owner is distinct from old.lease_owner)
execute function wa.reject_old_requests();

-- Its settings: {found, version, values}.
create function public.wa_session_settings(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    (select wa.told_settings(s.settings) || '{"found": true}' from public.wa_sessions as s where s.id = p_session),
    '{"found": false}'
  )
$$;

-- Replaces its settings, if they are still those of `p_version`.
create function public.wa_set_settings(p_session text, p_settings jsonb, p_version text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  update public.wa_sessions
  set settings = p_settings
  where id = p_session and wa.settings_version(settings) = p_version;
  return jsonb_build_object('changed', found);
end
$$;

-- Up to `p_limit` sessions after `p_after`, by name, or only `p_only`; and the live hosts. Without credentials, codes
-- and settings.
create function public.wa_list_sessions(p_after text, p_limit integer, p_only text default null) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'now', now(),
    'sessions', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'id', s.id, 'wanted', s.wanted, 'status', s.status, 'state', s.detail -> 'state', 'say', s.detail -> 'say',
            'has_qr', s.detail ? 'qr', 'has_creds', s.creds_json is not null, 'wa_name', s.wa_name,
            'wa_number', s.wa_number, 'owner_id', s.owner_id, 'created_at', s.created_at, 'updated_at', s.updated_at,
            'holder', case when s.lease_expires_at > now() then s.lease_owner end, 'since', s.host_since,
            'by_host', exists (select 1 from public.wa_hosts as h where h.owner = s.lease_owner),
            'start_failures', s.start_failures, 'not_before', s.not_before,
            'has_settings', s.settings <> '{}'
          ) order by s.id
        ),
        '[]'
      )
      from (
        select *
        from public.wa_sessions as w
        where w.id > p_after and (p_only is null or w.id = p_only)
        order by w.id
        limit p_limit
      ) as s
    ),
    'hosts', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object('owner', h.owner, 'held', h.held, 'room', h.room, 'seen_at', h.seen_at) order by h.owner
        ),
        '[]'
      )
      from wa.live_hosts() as h
    )
  )
$$;

-- Removes a session, in steps of about `p_limit` rows: call it until `more` is false. Refused with `session_wanted` or
-- `session_held`. Without `p_data` its messages, groups and people stay, and the row that they belong to: credentials,
-- keys, settings and requests are deleted; waiting files are still fetched by any worker that can. With it nothing
-- stays, except its name with the last fence for 90 days (public.wa_removed_sessions), and contents of public.media,
-- which other sessions may share: public.wa_list_media_to_delete finds those without a reference.
-- Tables that are not wa-worker's keep their rows, unless these reference the session and so would hold it.
create function public.wa_remove_session(p_session text, p_data boolean, p_limit integer) returns jsonb
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
