-- Who is in a group, as the console and the export read it; and one group as the list of all has it.

-- Who is and was in a group, of `p_limit` people behind the first `p_offset`: those who are in it first, of these the
-- admins, then by name. {present, left, as_of, members: [{member, number, push_name, role, joined_at, left_at}]}.
create function public.wa_list_members(p_session text, p_group bigint, p_limit integer, p_offset integer)
returns jsonb
language sql stable security invoker set search_path = '' as $$
  with own as materialized (
    select k.member, k.role, k.joined_at, k.left_at, k.as_of, p.number, p.push_name
    from public.group_members as k
    left join public.people as p on k.session_id = p.session_id and k.member = p.sender
    where k.group_id = p_group and k.session_id = p_session
  ),

  page as (
    select
      o.*, row_number() over (
        order by o.left_at is not null, o.role = 'member', o.push_name is null, lower(o.push_name), o.member
      ) as place
    from own as o
    order by place
    limit p_limit
    offset p_offset
  )

  select jsonb_build_object(
    'present', (select count(*) from own as o where o.left_at is null),
    'left', (select count(*) from own as o where o.left_at is not null),
    'as_of', (select max(o.as_of) from own as o),
    'members', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'member', g.member, 'number', g.number, 'push_name', g.push_name, 'role', g.role,
            'joined_at', g.joined_at, 'left_at', g.left_at
          ) order by g.place
        ), '[]'
      )
      from page as g
    )
  )
$$;

drop function public.wa_list_groups(text);

create function public.wa_list_groups(p_session text, p_group bigint default null) returns jsonb
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
  where g.session_id = p_session and (p_group is null or g.id = p_group)
$$;

revoke execute on function
public.wa_list_groups,
public.wa_list_members
from public, anon, authenticated;

grant execute on function
public.wa_list_groups,
public.wa_list_members
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127121500')
$$;

notify pgrst, 'reload schema';
