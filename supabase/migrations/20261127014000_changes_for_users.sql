-- changes() may be called under policies: it names its columns, and asks wa.cursor_range() how far it goes.

set check_function_bodies = off;

create function wa.cursor_range(p_session text, out oldest bigint, out newest bigint)
language sql stable security definer set search_path = '' as $$
  select
    coalesce((select s.oldest_cursor from public.wa_sessions as s where s.id = p_session), 0),
    coalesce((select max(c.change_id) from public.message_changes as c where c.session_id = p_session), 0)
$$;

create or replace function public.changes(p_session text, p_since text, p_limit integer default 500) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_since bigint := split_part(p_since, '.', 1)::bigint;
  v_forgotten bigint := coalesce(nullif(split_part(p_since, '.', 2), ''), '0')::bigint;
  v_oldest bigint := 0;
  v_newest bigint := 0;
  v_changes jsonb;
  v_next bigint;
begin
  if exists (select 1 from public.groups as g where g.session_id = p_session) then
    select r.oldest, greatest(r.newest, r.oldest) into v_oldest, v_newest from wa.cursor_range(p_session) as r;
  end if;
  if v_since = 0 then
    v_forgotten := v_oldest;
  end if;
  if v_since is null or greatest(v_since, v_forgotten) < v_oldest or v_since > v_newest then
    return jsonb_build_object('changes', '[]'::jsonb, 'next', v_newest::text, 'start_again', p_since is not null);
  end if;
  -- Fewer than the limit: no more are visible up to the newest.
  select
    coalesce(jsonb_agg(to_jsonb(p) - 'number' order by p.number), '[]'),
    case when count(*) < least(p_limit, 1000) then v_newest else coalesce(max(p.number), v_since) end
  into v_changes, v_next
  from (
    select
      c.change_id as number, c.change_id::text as change_id, c.message_id, c.deleted,
      (
        select to_jsonb(shown)
        from (
          select
            m.id, m.session_id, m.group_id, m.wa_msg_id, m.chat_id, m.sender, m.sender_alt, m.push_name, m.from_me,
            m.ts, m.received_at, m.kind, m.text, m.file_name, m.media_id, m.media_status, m.parent_id, m.pending,
            m.lost_at, m.edited_at, m.revoked_at, m.edit_msg_id, m.revoked_by, m.blanked, m.quoted_msg_id,
            m.quoted_sender, m.quoted_id, m.album_id, m.mentions, m.mention_count, m.forwarded, m.forward_score,
            m.content, m.expires_at,
            (
              select jsonb_build_object(
                'sha256', f.sha256, 'mime', f.mime, 'bytes', f.bytes, 'width', f.width, 'height', f.height,
                'duration_s', f.duration_s, 'storage_path', f.storage_path
              )
              from public.media as f
              where f.id = m.media_id
            ) as media,
            (
              select coalesce(jsonb_agg(to_jsonb(r) order by r.at, r.sender), '[]')
              from (
                select e.sender, e.emoji, e.at
                from public.message_reactions as e
                where e.message_id = m.id and e.emoji is not null
              ) as r
            ) as reactions
          from public.messages as m
          where m.id = c.message_id
        ) as shown
      ) as message
    from public.message_changes as c
    where c.session_id = p_session and c.change_id > v_since
    order by c.change_id
    limit least(p_limit, 1000)
  ) as p;
  return jsonb_build_object(
    'changes', v_changes, 'start_again', false,
    'next', v_next::text || case when v_next < v_forgotten then '.' || v_forgotten else '' end
  );
end
$$;

revoke execute on function wa.cursor_range from public, anon, authenticated;
grant execute on function wa.cursor_range to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127014000')
$$;

notify pgrst, 'reload schema';
