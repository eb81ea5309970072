-- A group's last message is no notice.

set check_function_bodies = off;

-- All groups with their last message (by `ts`) and the number of messages in the last 24 hours.
create or replace function public.wa_list_groups(p_session text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select jsonb_build_object(
    'groups', coalesce(
      jsonb_agg(
        jsonb_build_object(
          'id', g.id::text, 'wa_group_id', g.wa_group_id, 'name', g.name, 'monitor', g.monitor,
          'left_at', g.left_at,
          'today', (
            select count(*)
            from public.messages as m
            where m.group_id = g.id and m.ts > now() - interval '24 hours'
          ),
          'last', last.message
        ) order by g.monitor desc, g.left_at is not null, g.name nulls last, g.id
      ),
      '[]'
    )
  )
  from public.groups as g
  left join lateral (
    select jsonb_build_object(
      'id', m.id::text, 'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender, 'push_name', m.push_name,
      'from_me', m.from_me, 'kind', m.kind, 'text', left(m.text, 200), 'media_status', m.media_status,
      'revoked_at', m.revoked_at, 'revoke_claimed_at', m.revoke_claimed_at
    ) as message
    from public.messages as m
    where m.group_id = g.id and m.kind <> 'system'
    order by m.ts desc, m.id desc
    limit 1
  ) as last on true
  where g.session_id = p_session
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126204854')
$$;

notify pgrst, 'reload schema';
