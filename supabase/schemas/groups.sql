-- Groups of the account. `monitor` belongs to the user; the worker never writes it. `admins` holds every known address
-- of each admin, null until WhatsApp reports them.

create table public.groups (
  id bigint generated always as identity primary key,
  session_id text not null default 'default' references public.wa_sessions (id),
  wa_group_id text not null check (length(wa_group_id) between 1 and 256),
  name text,
  monitor boolean not null default false,
  left_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  admins text[],
  unique (session_id, wa_group_id)
);

-- How often the set of monitored groups has changed: a worker with this version need not read them; `taken`: the
-- version that a worker last reported. It has its own table, because a commit holds the session's row, and a user who
-- switches a group must not wait for it.
create table public.wa_monitored_versions (
  session_id text primary key references public.wa_sessions (id) on delete cascade,
  version bigint not null,
  taken bigint
);

-- Raises the version, whoever writes: with the rights of the owner, because the writer may have none on that table.
create function wa.raise_monitored_version() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.wa_monitored_versions as v (session_id, version)
  select distinct s.id, 1
  from unnest(array[old.session_id, new.session_id]) as s (id)
  where s.id is not null
  on conflict (session_id) do update set version = v.version + 1;
  return null;
end
$$;

create trigger groups_monitored_inserted after insert on public.groups
for each row when (new.monitor) execute function wa.raise_monitored_version();

create trigger groups_monitored_deleted after delete on public.groups
for each row when (old.monitor) execute function wa.raise_monitored_version();

create trigger groups_monitored_updated after update on public.groups
for each row when (
  old.monitor <> new.monitor
  or (new.monitor and (old.session_id, old.wa_group_id) is distinct from (new.session_id, new.wa_group_id))
) execute function wa.raise_monitored_version();

-- Who the admins are: [{wa_group_id, admins?, promoted?, demoted?}]. A list replaces the former one; then members are
-- promoted and demoted, which has no effect while the list is unknown. Revokes that waited are tried again.
create function wa.write_admins(p_session text, p_groups jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_new record;
begin
  for v_new in
    select
      g ->> 'wa_group_id' as wa_group_id, coalesce(nullif(g -> 'admins', 'null'), '[]') as admins,
      coalesce(nullif(g -> 'promoted', 'null'), '[]') as promoted,
      coalesce(nullif(g -> 'demoted', 'null'), '[]') as demoted,
      coalesce(jsonb_typeof(g -> 'admins') = 'array', false) as complete
    from jsonb_array_elements(coalesce(nullif(p_groups, 'null'), '[]')) with ordinality as t (g, ord)
    order by t.ord
  loop
    continue when not v_new.complete and v_new.promoted = '[]' and v_new.demoted = '[]';
    update public.groups as g
    set admins = array(
      select a.jid
      from (
        select unnest(case when v_new.complete then array[]::text [] else g.admins end) as jid
        union
        select jsonb_array_elements_text(v_new.admins || v_new.promoted)
        except
        select jsonb_array_elements_text(v_new.demoted)
      ) as a
      where length(a.jid) between 1 and 256
      order by a.jid
      limit 10000
    )
    where g.session_id = p_session and g.wa_group_id = v_new.wa_group_id and (v_new.complete or g.admins is not null);
    perform wa.retry_changes(p_session, array(
      select h.id from public.wa_held_changes as h
      where h.session_id = p_session and h.chat_id = v_new.wa_group_id and h.kind = 'revoke'
    ));
  end loop;
end
$$;

-- Inserts or renames groups: a JSON array of {wa_group_id, name or null, left or absent}, and their admins as for
-- wa.write_admins; the last entry for a group wins. Takes no lock and checks no fence: for callers that hold the
-- session row.
create function wa.write_groups(p_session text, p_groups jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_new record;
  v_old public.groups;
  v_added integer := 0;
  v_renamed integer := 0;
begin
  for v_new in
    select distinct on (g ->> 'wa_group_id')
      g ->> 'wa_group_id' as wa_group_id,
      left(g ->> 'name', 1000) as name,
      coalesce((g -> 'left') = 'true', false) as has_left
    from jsonb_array_elements(coalesce(nullif(p_groups, 'null'), '[]')) with ordinality as t (g, ord)
    where length(g ->> 'wa_group_id') between 1 and 256
    order by g ->> 'wa_group_id', t.ord desc
  loop
    insert into public.groups (session_id, wa_group_id, name, left_at)
    values (p_session, v_new.wa_group_id, v_new.name, case when v_new.has_left then now() end)
    on conflict (session_id, wa_group_id) do nothing;
    if found then
      v_added := v_added + 1;
      continue;
    end if;
    select * into v_old from public.groups
    where session_id = p_session and wa_group_id = v_new.wa_group_id for update;
    if v_new.name is distinct from v_old.name and v_new.name is not null then
      v_renamed := v_renamed + 1;
      if v_old.name is not null then
        perform public.wa_audit(p_session, 'group_rename', jsonb_build_object(
          'from', v_old.name, 'to', v_new.name, 'wa_group_id', v_new.wa_group_id
        ));
      end if;
    end if;
    if v_new.name is distinct from v_old.name or v_new.has_left <> (v_old.left_at is not null) then
      update public.groups
      set
        name = coalesce(v_new.name, name),
        left_at = case when v_new.has_left then coalesce(left_at, now()) end,
        updated_at = now()
      where id = v_old.id;
    end if;
  end loop;
  perform wa.write_admins(p_session, p_groups);
  return jsonb_build_object('added', v_added, 'renamed', v_renamed);
end
$$;

-- Discovery. With `p_complete` the list holds all groups of the account: missing ones were left, and it is audited.
create function public.wa_upsert_groups(p_session text, p_fence bigint, p_groups jsonb, p_complete boolean)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_result jsonb;
  v_left integer := 0;
begin
  perform wa.lock_session(p_session, p_fence);
  v_result := wa.write_groups(p_session, p_groups);
  if p_complete then
    update public.groups
    set left_at = now(), updated_at = now()
    where session_id = p_session and left_at is null
      and wa_group_id <> all(array(select g ->> 'wa_group_id' from jsonb_array_elements(p_groups) as g));
    get diagnostics v_left = row_count;
    perform public.wa_audit(p_session, 'discovery', jsonb_build_object('count', jsonb_array_length(p_groups)));
  end if;
  return v_result || jsonb_build_object('count', jsonb_array_length(p_groups), 'left', v_left);
end
$$;

-- The ids of all groups that are on, as a JSON array.
create function public.wa_monitored_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('groups', coalesce(jsonb_agg(g.wa_group_id order by g.wa_group_id), '[]'))
  from public.groups as g
  where g.session_id = p_session and g.monitor
$$;

-- Switches groups (JSON array of ids) on or off for the user: the worker itself never does.
create function public.wa_set_monitor(p_session text, p_groups jsonb, p_monitor boolean) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_changed integer;
begin
  update public.groups
  set monitor = p_monitor, updated_at = now()
  where session_id = p_session and monitor is distinct from p_monitor
    and id = any(array(select g::bigint from jsonb_array_elements_text(p_groups) as g));
  get diagnostics v_changed = row_count;
  return jsonb_build_object('changed', v_changed);
end
$$;
