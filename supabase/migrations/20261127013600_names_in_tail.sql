-- The tail names people whose row has no name: system rows, and whoever wrote under a name before.

set check_function_bodies = off;

create or replace function public.wa_tail(p_session text, p_group bigint, p_after bigint, p_limit integer) returns jsonb
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
            'ts', m.ts, 'received_at', m.received_at, 'sender', m.sender,
            'push_name', coalesce(m.push_name, p.push_name),
            'from_me', m.from_me, 'kind', m.kind, 'text', m.text, 'file_name', m.file_name,
            'media_status', m.media_status, 'mime', f.mime, 'bytes', f.bytes::text, 'edited_at', m.edited_at,
            'revoked_at', m.revoked_at, 'revoke_claimed_at', m.revoke_claimed_at
          ) order by case when p_after is null then m.ts end, m.id
        ),
        '[]'
      )
      from public.messages as m
      inner join public.groups as g on m.group_id = g.id
      left join public.media as f on m.media_id = f.id
      left join public.people as p on m.session_id = p.session_id and m.sender = p.sender
      where m.id = any(v_ids)
    )
  );
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127013600')
$$;

notify pgrst, 'reload schema';
