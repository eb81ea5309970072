-- Found by a review: a time far away, who may take a keep back, parts renew the lease, people that were split when
-- their table was made.

set check_function_bodies = off;

-- A text as a time of the years 1970 to 2199; null if it is none. Postgres reads a number as a date of a far century.
create or replace function wa.parse_time(p_text text) returns timestamptz
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_time timestamptz;
begin
  v_time := p_text::timestamptz;
  return case when v_time >= '1970-01-01 00:00:00+00' and v_time < '2200-01-01 00:00:00+00' then v_time end;
exception
  when data_exception then
    return null;
end
$$;

-- As wa.begin_batch, for a call that does not end the batch. Renews the lease, as public.wa_commit does.
create or replace function wa.begin_part(p_session text, p_batch jsonb) returns boolean
language plpgsql security invoker set search_path = '' as $$
begin
  if wa.begin_batch(p_session, p_batch) then
    return true;
  end if;
  update public.wa_sessions as s
  set
    batch = concat_ws(' ', p_batch ->> 'seq', p_batch ->> 'digest'),
    lease_expires_at = case
      when s.lease_owner is not null
        then greatest(s.lease_expires_at, clock_timestamp() + make_interval(secs => s.lease_seconds))
    end
  where s.id = p_session;
  return false;
end
$$;

-- Removes messages whose time has come to disappear: their content (`p_mode` 'blank') or all of them ('delete'), with
-- earlier texts, secrets, changes that wait for them, and the kept bytes of refused copies. A message that somebody has
-- kept in the chat stays, until they or its sender take that back. Commits wait for this call, so `p_limit` is small;
-- `more` says that there may be others.
create or replace function public.wa_expire(p_session text, p_mode text, p_limit integer) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_due public.messages;
  v_count integer := 0;
begin
  perform 1 from public.wa_sessions where id = p_session for no key update;
  for v_due in
    select m.*
    from public.messages as m
    where m.session_id = p_session and m.expires_at <= now() and not m.blanked
      and not exists (
        select 1
        from public.messages as k
        where k.session_id = p_session and k.chat_id = m.chat_id and k.kind = 'keep'
          and k.content -> 'target' ->> 'wa_msg_id' = m.wa_msg_id
          and k.content -> 'target' ->> 'sender' in (m.sender, m.sender_alt)
          and k.content ->> 'type' = 'keep_for_all'
          and not exists (
            select 1
            from public.messages as u
            where u.session_id = p_session and u.chat_id = m.chat_id and u.kind = 'keep'
              and u.content -> 'target' ->> 'wa_msg_id' = m.wa_msg_id
              and u.content -> 'target' ->> 'sender' in (m.sender, m.sender_alt)
              and u.content ->> 'type' = 'undo_keep_for_all'
              and u.sender in (k.sender, m.sender) and (u.ts, u.id) > (k.ts, k.id)
          )
      )
    order by m.expires_at
    limit p_limit
    for no key update of m skip locked
  loop
    v_count := v_count + 1;
    delete from public.wa_held_changes
    where session_id = p_session and chat_id = v_due.chat_id and target_id = v_due.wa_msg_id
      and target_sender = v_due.sender;
    update public.wa_refused_stanzas
    set body = null
    where session_id = p_session and chat_id = v_due.chat_id and sender = v_due.sender
      and wa_msg_id = v_due.wa_msg_id;
    perform wa.blank_message(v_due.id);
    if p_mode = 'delete' then
      delete from public.messages where id = v_due.id;
    else
      update public.messages set media_status = 'disappeared' where id = v_due.id and media_status is not null;
    end if;
  end loop;
  return jsonb_build_object('expired', v_count, 'more', v_count = p_limit);
end
$$;

-- Whoever stood under the number while their merge was due: one person, under the LID.
update public.people as p
set push_name = former.push_name, named_at = former.named_at
from (
  select
    i.session_id,
    i.lid,
    n.push_name,
    n.named_at
  from public.wa_identities as i
  inner join public.people as n on i.session_id = n.session_id and i.pn = n.sender
  left join public.wa_numbers_moved as m on i.session_id = m.session_id and i.pn = m.pn
  where m.pn is null
) as former
where
  p.session_id = former.session_id and p.sender = former.lid
  and former.named_at > coalesce(p.named_at, '-infinity');

delete from public.people
where (session_id, sender) in (
  select
    i.session_id,
    i.pn
  from public.wa_identities as i
  inner join public.people as o on i.session_id = o.session_id and i.lid = o.sender
  left join public.wa_numbers_moved as m on i.session_id = m.session_id and i.pn = m.pn
  where m.pn is null
);

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126222924')
$$;

notify pgrst, 'reload schema';
