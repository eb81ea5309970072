-- Who is in the groups that are switched on: group_members, filled with WORKER_GROUP_MEMBERS=true.

set check_function_bodies = off;

-- `member` is canonical, as messages.sender; names and numbers are in public.people. `joined_at` null: not told;
-- `left_at` null: a member. `as_of`: WhatsApp's time of the newest word, so that words may come in any order.
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

-- What was told of members: [{wa_group_id, at, what, members: [{member, role?}], complete?}], `what` one of joined,
-- left, role and list. A newer word wins; an older one only fills in when somebody joined. A list that is `complete`
-- closes the members whom it lacks, unless there is a newer word of them. One statement for each entry, whatever its
-- length. Groups that are not switched on are passed over.
create or replace function wa.write_members(p_session text, p_entries jsonb) returns jsonb
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
create or replace function public.wa_write_members(p_session text, p_fence bigint, p_entries jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.lock_session(p_session, p_fence);
  return wa.write_members(p_session, p_entries);
end
$$;

-- A number belongs to a LID: the member under the number is the same person. Of two rows the newer word holds.
create or replace function wa.merge_members(p_session text, p_lid text, p_pn text) returns void
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

create or replace function wa.note_identity() returns trigger
language plpgsql security invoker set search_path = '' as $$
declare
  v_name text;
  v_at timestamptz;
begin
  if not exists (
    select 1 from public.wa_numbers_moved as n where n.session_id = new.session_id and n.pn = new.pn
  ) then
    delete from public.people as p
    where p.session_id = new.session_id and p.sender = new.pn
    returning p.push_name, p.named_at into v_name, v_at;
    perform wa.merge_members(new.session_id, new.lid, new.pn);
  end if;
  insert into public.people as p (session_id, sender, number, push_name, named_at)
  values (new.session_id, new.lid, new.pn, v_name, v_at)
  on conflict (session_id, sender) do update
  set
    number = excluded.number,
    push_name = case
      when excluded.named_at > coalesce(p.named_at, '-infinity') then excluded.push_name else p.push_name
    end,
    named_at = greatest(p.named_at, excluded.named_at);
  return null;
end
$$;

create or replace function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_counts jsonb;
  v_sealed integer := 0;
begin
  if wa.begin_batch(p_session, p_batch) then
    return jsonb_build_object('seq', v_seq::text, 'duplicate', true);
  end if;

  perform wa.write_keys(p_session, p_batch -> 'keys');
  update public.wa_sessions
  set
    seq = v_seq, batch = concat_ws(' ', v_seq, p_batch ->> 'digest'),
    creds_json = coalesce(p_batch ->> 'creds', creds_json),
    lease_expires_at = wa.renewed_lease(lease_owner, lease_expires_at, lease_seconds)
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(
    p_session, p_batch -> 'hashes',
    case
      when p_batch -> 'unread' <> '{}' then wa.new_discards(p_session, p_batch -> 'discards', p_batch -> 'unread')
      else p_batch -> 'discards'
    end
  );
  if p_batch -> 'groups' not in ('[]', 'null') then
    perform wa.write_groups(p_session, p_batch -> 'groups');
  end if;
  if p_batch -> 'members' not in ('[]', 'null') then
    perform wa.write_members(p_session, p_batch -> 'members');
  end if;

  perform wa.write_refused(p_session, p_batch -> 'refused');
  v_counts := wa.take_items(
    p_session, coalesce(nullif(p_batch -> 'messages', 'null'), '[]'),
    coalesce(nullif(p_batch -> 'changes', 'null'), '[]')
  );
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
  ) then
    v_sealed := cardinality(wa.openable_edits(p_session, 1));
  end if;
  if p_batch ? 'dropped' then
    perform wa.write_dropped(p_session, p_batch -> 'dropped');
  else
    perform wa.note_unrecorded(p_session);
  end if;
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

alter table public.group_members enable row level security;

revoke all on public.group_members from anon, authenticated;

grant select, insert, update, delete on public.group_members to service_role;

revoke execute on function
public.wa_write_members,
wa.merge_members,
wa.write_members
from public, anon, authenticated;

grant execute on function
public.wa_write_members,
wa.merge_members,
wa.write_members
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127070900')
$$;

notify pgrst, 'reload schema';
