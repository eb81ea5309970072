-- What could not be stored is listed for people, and its bytes are handed out one by one.

create or replace function public.wa_list_refused(p_session text, p_after bigint, p_limit integer) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(listed) order by listed.id), '[]')
  from (
    select
      r.id, r.at, r.item, r.state, r.chat_id, r.sender, r.wa_msg_id, r.code, r.reason, r.tries, r.next_at,
      r.body is not null as has_body
    from public.wa_refused_stanzas as r
    where r.session_id = p_session and r.id > p_after
    order by r.id
    limit p_limit
  ) as listed
$$;

create or replace function public.wa_refused_body(p_session text, p_id bigint) returns jsonb
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    (
      select jsonb_build_object('body', r.body, 'encoding', r.encoding)
      from public.wa_refused_stanzas as r
      where r.session_id = p_session and r.id = p_id
    ),
    '{"body": null, "encoding": "base64"}'
  )
$$;

revoke execute on function
public.wa_list_refused, public.wa_refused_body
from public, anon, authenticated;

grant execute on function
public.wa_list_refused, public.wa_refused_body
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126135500')
$$;

notify pgrst, 'reload schema';
