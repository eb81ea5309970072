-- Who is in the groups that are on. Filled only with WORKER_GROUP_MEMBERS=true, from what comes anyway: the lists of a
-- discovery and the groups' notices. docs/schema.md, "group_members", says how a list is judged.

-- `member` is canonical, as messages.sender; names and numbers are in public.people. `joined_at` null: not reported;
-- `left_at` null: a member. `as_of`: WhatsApp's time of the newest report, so that reports may come in any order.
create table public.group_members (
  group_id bigint not null references public.groups (id) on delete cascade,
  member text not null check (length(member) between 1 and 256),
  session_id text not null,
  role text not null default 'member' check (role in ('member', 'admin', 'superadmin')),
  joined_at timestamptz,
  left_at timestamptz,
  as_of timestamptz not null,
  primary key (group_id, member)
);

create index group_members_member on public.group_members (session_id, member);

-- Reports on members: [{wa_group_id, at, what, members: [{member, role?}], complete?}], `what` one of joined, left,
-- role and list. A newer report wins; an older one only fills in when somebody joined. A `complete` list closes the
-- members missing from it, unless there is a newer report on them. One statement for each entry, whatever its length.
-- Groups that are off are skipped.
create function wa.write_members(p_session text, p_entries jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_entry record;
  v_written integer := 0;
  v_closed integer := 0;
  v_count record;
begin
  for v_entry in
    select g.id as group_id, (t.e ->> 'at')::timestamptz as at, t.e ->> 'what' as what, t.e -> 'members' as members,
      coalesce(t.e -> 'complete' = 'true', false) as complete
    from jsonb_array_elements(coalesce(nullif(p_entries, 'null'), '[]')) with ordinality as t (e, ord)
    inner join public.groups as g
      on g.session_id = p_session and g.wa_group_id = t.e ->> 'wa_group_id' and g.monitor
    order by t.ord
  loop
    with told as materialized (
      select
        coalesce((
          select i.lid from public.wa_identities as i
          where i.session_id = p_session and i.pn = m.member and not exists (
            select 1 from public.wa_numbers_moved as n where n.session_id = p_session and n.pn = m.member
          )
          order by i.updated_at desc
          limit 1
        ), m.member) as member,
        case
          when bool_or(m.role = 'superadmin') then 'superadmin' when bool_or(m.role = 'admin') then 'admin'
          else 'member'
        end as role
      from jsonb_to_recordset(v_entry.members) as m (member text, role text)
      where length(m.member) between 1 and 256
      group by 1
    ), written as (
      insert into public.group_members as k (group_id, member, session_id, role, joined_at, left_at, as_of)
      select
        v_entry.group_id, t.member, p_session, t.role, case when v_entry.what = 'joined' then v_entry.at end,
        case when v_entry.what = 'left' then v_entry.at end, v_entry.at
      from told as t
      on conflict (group_id, member) do update
      set
        role = case when v_entry.what = 'left' or excluded.as_of < k.as_of then k.role else excluded.role end,
        joined_at = case
          when excluded.as_of < k.as_of then coalesce(k.joined_at, excluded.joined_at)
          else coalesce(excluded.joined_at, k.joined_at)
        end,
        left_at = case when excluded.as_of < k.as_of then k.left_at else excluded.left_at end,
        as_of = greatest(k.as_of, excluded.as_of)
      returning 1
    ), closed as (
      update public.group_members as k
      set left_at = v_entry.at, as_of = v_entry.at
      where v_entry.complete and k.group_id = v_entry.group_id and k.left_at is null and k.as_of < v_entry.at
        and not exists (select 1 from told as t where t.member = k.member)
      returning 1
    )

    select (select count(*) from written) as written, (select count(*) from closed) as closed into v_count;
    v_written := v_written + v_count.written;
    v_closed := v_closed + v_count.closed;
  end loop;
  return jsonb_build_object('written', v_written, 'closed', v_closed);
end
$$;

-- The lists of a discovery: entries as for wa.write_members.
create function public.wa_write_members(p_session text, p_fence bigint, p_entries jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.lock_session(p_session, p_fence);
  return wa.write_members(p_session, p_entries);
end
$$;

-- A number belongs to a LID: the member under the number is the same person. Of two rows the newer report wins.
create function wa.merge_members(p_session text, p_lid text, p_pn text) returns void
language sql volatile security invoker set search_path = '' as $$
  with gone as (
    delete from public.group_members as k where k.session_id = p_session and k.member = p_pn returning k.*
  )

  insert into public.group_members as k (group_id, member, session_id, role, joined_at, left_at, as_of)
  select g.group_id, p_lid, g.session_id, g.role, g.joined_at, g.left_at, g.as_of
  from gone as g
  on conflict (group_id, member) do update
  set
    role = case when excluded.as_of > k.as_of then excluded.role else k.role end,
    joined_at = case
      when excluded.as_of > k.as_of then coalesce(excluded.joined_at, k.joined_at)
      else coalesce(k.joined_at, excluded.joined_at)
    end,
    left_at = case when excluded.as_of > k.as_of then excluded.left_at else k.left_at end,
    as_of = greatest(k.as_of, excluded.as_of)
$$;

-- Present and former members of a group, `p_limit` people after the first `p_offset`: present ones first, of these the
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
