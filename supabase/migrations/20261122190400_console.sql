-- What an operator sees and asks for from the command line, from any machine: groups, the QR, live messages, failed
-- files, export; and the figures of /metrics.

-- Files that were given up, with what another attempt needs. Without it a retry would have nothing to start from.
create table public.wa_media_abandoned (
  message_id bigint primary key references public.messages (id) on delete cascade,
  session_id text not null references public.wa_sessions (id),
  descriptor jsonb not null,
  status text not null,
  code text not null,
  error text,
  attempts integer not null,
  at timestamptz not null default now()
);

create index wa_media_abandoned_session_id on public.wa_media_abandoned (session_id, at);

alter table public.wa_media_abandoned enable row level security;

revoke all on public.wa_media_abandoned from anon, authenticated;
grant select, insert, update, delete on public.wa_media_abandoned to service_role;

-- Never, unless a person asks for it: the message says so (`p_status`), the audit log says why, the job ends. What it
-- would need again is kept for 60 days; WhatsApp keeps files for less.
create or replace function public.wa_media_abandon(
  p_job bigint, p_owner text, p_status text, p_code text, p_error text
) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_job public.media_jobs := public.wa_lock_job(p_job, p_owner);
  v_msg_id text;
begin
  if v_job.id is not null then
    update public.messages set media_status = p_status where id = v_job.message_id returning wa_msg_id into v_msg_id;
    delete from public.media_jobs where id = v_job.id;
    insert into public.wa_media_abandoned (message_id, session_id, descriptor, status, code, error, attempts)
    values (
      v_job.message_id, v_job.session_id, v_job.descriptor, p_status, p_code, left(p_error, 1000), v_job.attempts
    )
    on conflict (message_id) do update
    set
      descriptor = excluded.descriptor, status = excluded.status, code = excluded.code, error = excluded.error,
      attempts = excluded.attempts, at = now();
    delete from public.wa_media_abandoned
    where session_id = v_job.session_id and at < now() - interval '60 days';
    perform public.wa_audit(v_job.session_id, 'error', jsonb_build_object(
      'code', p_code, 'msg', left(p_error, 1000), 'wa_msg_id', v_msg_id,
      'ctx', jsonb_build_object('wa_msg_id', v_msg_id, 'attempts', v_job.attempts)
    ));
  end if;
  return jsonb_build_object('gone', v_job.id is null);
end
$$;

-- Removes what a message said: text, payload, former texts, file, secret and media key. Its row stays.
create or replace function public.wa_blank_message(p_message bigint) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.message_edits where message_id = p_message;
  delete from public.message_secrets where message_id = p_message;
  delete from public.media_jobs where message_id = p_message;
  delete from public.wa_media_abandoned where message_id = p_message;
  update public.messages
  set
    blanked = true, text = null, raw = '{}', file_name = null, mentions = null, mention_count = 0, media_id = null,
    media_status = case when media_status is not null then 'revoked' end, edited_at = null, edit_msg_id = null
  where id = p_message;
end
$$;

-- Who asks, and what time it is here: for a check of the key's role and of the asking machine's clock.
create function public.wa_whoami() returns jsonb
language sql volatile security invoker set search_path = '' as $$
  select jsonb_build_object(
    'role', current_user, 'now', clock_timestamp(), 'version', public.wa_schema_version() ->> 'version'
  )
$$;

-- All groups with their last message (by `ts`) and how many came in the last 24 hours.
create function public.wa_list_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_object(
        'id', g.id::text, 'wa_group_id', g.wa_group_id, 'name', g.name, 'monitor', g.monitor, 'left_at', g.left_at,
        'today', (
          select count(*) from public.messages as m where m.group_id = g.id and m.ts > now() - interval '24 hours'
        ),
        'last', last.message
      ) order by g.monitor desc, g.left_at is not null, g.name nulls last, g.id
    ),
    '[]'
  )
  from public.groups as g
  left join lateral (
    select jsonb_build_object(
      'id', m.id::text, 'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
      'from_me', m.from_me, 'kind', m.kind, 'text', left(m.text, 200), 'media_status', m.media_status,
      'revoked_at', m.revoked_at
    ) as message
    from public.messages as m
    where m.group_id = g.id
    order by m.ts desc, m.id desc
    limit 1
  ) as last on true
  where g.session_id = p_session
$$;

-- Switches groups (JSON array of ids) on or off, for a person: the worker itself never does.
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

-- The session as its QR is drawn from: the only function that hands the code out.
create function public.wa_pairing_view(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'now', now(), 'status', s.status, 'detail', s.detail, 'wa_name', s.wa_name, 'wa_number', s.wa_number,
    'lease_held', coalesce(s.lease_expires_at > now(), false)
  )
  from public.wa_sessions as s
  where s.id = p_session
$$;

-- Raises a flag as the web app does, with the database's own clock. `at` goes to wa_flag_state.
create function public.wa_raise_flag(p_session text, p_flag text, p_value jsonb default '{}') returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_at jsonb := to_jsonb(clock_timestamp());
begin
  insert into public.runtime_flags (key, value)
  values (
    case when p_session = 'default' then p_flag else p_session || ':' || p_flag end,
    p_value || jsonb_build_object('at', v_at)
  )
  on conflict (key) do update set value = excluded.value;
  return jsonb_build_object('at', v_at);
end
$$;

-- Whether the request that carried `p_at` was handled; one that a newer request replaced counts as soon as that one is.
create function public.wa_flag_state(p_session text, p_flag text, p_at text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'handled', coalesce(
      (
        select r.handled_value is not distinct from r.value or r.handled_at >= public.wa_parse_time(p_at)
        from public.runtime_flags as r
        where r.key = case when p_session = 'default' then p_flag else p_session || ':' || p_flag end
      ),
      true
    )
  )
$$;

-- Messages behind `p_after` (an id) in the order of arrival; the newest `p_limit` if it is null. `cursor` is what to
-- ask with next. One session's commits are serial, so no id appears behind a cursor that has passed it.
create function public.wa_tail(p_session text, p_group bigint, p_after bigint, p_limit integer) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_ids bigint [];
begin
  if p_after is null then
    v_ids := array(
      select newest.id
      from public.groups as g
      cross join lateral (
        select m.id, m.ts from public.messages as m where m.group_id = g.id order by m.ts desc, m.id desc limit p_limit
      ) as newest
      where g.session_id = p_session and (p_group is null or g.id = p_group)
      order by newest.ts desc, newest.id desc
      limit p_limit
    );
  else
    v_ids := array(
      select m.id
      from public.messages as m
      where m.session_id = p_session and m.id > p_after and (p_group is null or m.group_id = p_group)
      order by m.id
      limit p_limit
    );
  end if;
  return jsonb_build_object(
    'cursor', case
      when p_after is null
        then (select coalesce(max(m.id), 0)::text from public.messages as m where m.session_id = p_session)
      else greatest(p_after, (select max(i) from unnest(v_ids) as i))::text
    end,
    'messages', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'id', m.id::text, 'group_id', m.group_id::text, 'group_name', g.name, 'wa_msg_id', m.wa_msg_id,
            'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
            'from_me', m.from_me, 'kind', m.kind, 'text', m.text, 'file_name', m.file_name,
            'media_status', m.media_status, 'mime', f.mime, 'bytes', f.bytes::text, 'edited_at', m.edited_at,
            'revoked_at', m.revoked_at
          ) order by case when p_after is null then m.ts end, m.id
        ),
        '[]'
      )
      from public.messages as m
      inner join public.groups as g on m.group_id = g.id
      left join public.media as f on m.media_id = f.id
      where m.id = any(v_ids)
    )
  );
end
$$;

-- Files that were given up, of these statuses (JSON array), become jobs again. `without`: those for which nothing was
-- kept to start from.
create function public.wa_media_requeue(p_session text, p_statuses jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_statuses text [] := array(select jsonb_array_elements_text(p_statuses));
  v_without integer;
  v_requeued integer;
begin
  select count(*) into v_without
  from public.groups as g
  inner join public.messages as m on g.id = m.group_id
  left join public.wa_media_abandoned as a on m.id = a.message_id
  where g.session_id = p_session and m.media_status = any(v_statuses) and a.message_id is null;
  with back as (
    delete from public.wa_media_abandoned
    where session_id = p_session and status = any(v_statuses)
    returning message_id, descriptor
  ),

  marked as (
    update public.messages
    set media_status = 'pending'
    where id in (select b.message_id from back as b) and not blanked
    returning id
  )

  insert into public.media_jobs (session_id, message_id, descriptor)
  select p_session, b.message_id, b.descriptor
  from back as b
  inner join marked as k on b.message_id = k.id
  on conflict (message_id) do nothing;
  get diagnostics v_requeued = row_count;
  return jsonb_build_object('requeued', v_requeued, 'without', v_without);
end
$$;

-- Up to `p_limit` messages of a group behind `p_after`, by id, with file, former texts and reactions.
create function public.wa_export_messages(p_session text, p_group bigint, p_after bigint, p_limit integer)
returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_agg(e.document order by e.id), '[]')
  from (
    select
      m.id,
      to_jsonb(m) || jsonb_build_object(
        'id', m.id::text, 'group_id', m.group_id::text, 'media_id', m.media_id::text,
        'parent_id', m.parent_id::text, 'quoted_id', m.quoted_id::text, 'album_id', m.album_id::text,
        'media', (
          select to_jsonb(f) || jsonb_build_object('id', f.id::text, 'bytes', f.bytes::text)
          from public.media as f where f.id = m.media_id
        ),
        'edits', (
          select coalesce(jsonb_agg(jsonb_build_object('text', d.text, 'at', d.at) order by d.at, d.id), '[]')
          from public.message_edits as d where d.message_id = m.id
        ),
        'reactions', (
          select coalesce(
            jsonb_agg(jsonb_build_object('sender', r.sender, 'emoji', r.emoji, 'at', r.at) order by r.at, r.sender),
            '[]'
          )
          from public.message_reactions as r where r.message_id = m.id and r.emoji is not null
        )
      ) as document
    from public.messages as m
    where m.session_id = p_session and m.group_id = p_group and m.id > p_after
    order by m.id
    limit p_limit
  ) as e
$$;

-- How much there is to export: all messages of a group, and those behind `p_after`.
create function public.wa_export_size(p_session text, p_group bigint, p_after bigint) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object('all', count(*), 'left', count(*) filter (where m.id > p_after))
  from public.messages as m
  where m.session_id = p_session and m.group_id = p_group
$$;

-- What /metrics and the status command say of the database. Without ids and without content.
create function public.wa_figures(p_session text) returns jsonb
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
    'held_changes', (select count(*) from public.wa_held_changes as h where h.session_id = p_session)
  )
$$;

revoke execute on function
public.wa_media_abandon, public.wa_blank_message, public.wa_whoami, public.wa_list_groups, public.wa_set_monitor,
public.wa_pairing_view, public.wa_raise_flag, public.wa_flag_state, public.wa_tail, public.wa_media_requeue,
public.wa_export_messages, public.wa_export_size, public.wa_figures
from public, anon, authenticated;

grant execute on function
public.wa_media_abandon, public.wa_blank_message, public.wa_whoami, public.wa_list_groups, public.wa_set_monitor,
public.wa_pairing_view, public.wa_raise_flag, public.wa_flag_state, public.wa_tail, public.wa_media_requeue,
public.wa_export_messages, public.wa_export_size, public.wa_figures
to service_role;
