-- A phone number that passes to somebody else takes nobody's rows along (public.wa_numbers_moved).

set check_function_bodies = off;

create table public.wa_numbers_moved (
  session_id text not null references public.wa_sessions (id),
  pn text not null check (length(pn) between 1 and 256),
  at timestamptz not null default now(),
  primary key (session_id, pn)
);

alter table public.wa_numbers_moved enable row level security;
revoke all on public.wa_numbers_moved from anon, authenticated;
grant select, insert, update, delete on public.wa_numbers_moved to service_role;

-- Notes the numbers of these identities that have moved: told by a notice (no LID), a number with another LID than
-- before, a LID with another number than before.
create or replace function wa.note_moved_numbers(p_session text, p_identities jsonb) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
begin
  with told as (
    select i ->> 'lid' as lid, i ->> 'pn' as pn from jsonb_array_elements(p_identities) as i
  )

  insert into public.wa_numbers_moved (session_id, pn)
  select p_session, moved.pn
  from (
    select t.pn from told as t where t.lid = ''
    union
    select t.pn from told as t where t.lid <> '' group by t.pn having count(distinct t.lid) > 1
    union
    select t.pn
    from told as t
    inner join public.wa_identities as i on i.session_id = p_session and i.pn = t.pn and i.lid <> t.lid
    union
    select unnest(array[i.pn, t.pn])
    from told as t
    inner join public.wa_identities as i on i.session_id = p_session and i.lid = t.lid and i.pn <> t.pn
  ) as moved
  where length(moved.pn) between 1 and 256
  on conflict (session_id, pn) do nothing;
  if found then
    delete from public.wa_merges_due as d
    using public.wa_numbers_moved as n
    where d.session_id = p_session and n.session_id = p_session and n.pn = d.pn;
  end if;
end
$$;

-- The other form of each given person: {id: other}, by LID or by number; '' for a number that has moved.
create or replace function public.wa_get_identities(p_session text, p_ids jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with wanted as materialized (select array(select jsonb_array_elements_text(p_ids)) as ids)
  select coalesce(jsonb_object_agg(pairs.id, pairs.other), '{}')
  from (
    select i.lid as id, i.pn as other
    from public.wa_identities as i
    where i.session_id = p_session and i.lid = any((select wanted.ids from wanted)::text [])
    union all
    (
      select distinct on (i.pn) i.pn, i.lid
      from public.wa_identities as i
      where i.session_id = p_session and i.pn = any((select wanted.ids from wanted)::text []) and not exists (
        select 1 from public.wa_numbers_moved as n where n.session_id = p_session and n.pn = i.pn
      )
      order by i.pn, i.updated_at desc
    )
    union all
    select n.pn, ''
    from public.wa_numbers_moved as n
    where n.session_id = p_session and n.pn = any((select wanted.ids from wanted)::text [])
  ) as pairs
$$;

-- Identities: [{lid, pn}], `lid` '' for a number that its owner gave up; the last entry for a LID wins. Only new pairs
-- can need a merge, and of those only pairs whose number is stored somewhere and has not moved. Rewrites at most 2,000
-- rows here, which takes a third of a second, and leaves the other pairs to public.wa_prune. `enable_seqscan`: for a
-- number that is stored nowhere the planner would read the whole table, once per pair.
create or replace function wa.write_identities(p_session text, p_identities jsonb) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_pair record;
  v_new jsonb;
  v_cost integer;
  v_left integer := 2000;
begin
  if p_identities = '[]' then
    return;
  end if;
  perform wa.note_moved_numbers(p_session, p_identities);
  with written as (
    insert into public.wa_identities (session_id, lid, pn)
    select distinct on (i ->> 'lid') p_session, i ->> 'lid', i ->> 'pn'
    from jsonb_array_elements(p_identities) with ordinality as t (i, ord)
    where length(i ->> 'lid') between 1 and 256 and length(i ->> 'pn') between 1 and 256
    order by i ->> 'lid', t.ord desc
    on conflict (session_id, lid) do update set pn = excluded.pn, updated_at = now()
    where public.wa_identities.pn <> excluded.pn
    returning lid, pn
  )

  select jsonb_agg(to_jsonb(w)) into v_new from written as w;
  for v_pair in
    select p.lid, p.pn
    from jsonb_to_recordset(v_new) as p (lid text, pn text)
    where not exists (
      select 1 from public.wa_numbers_moved as n where n.session_id = p_session and n.pn = p.pn
    ) and (exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.sender = p.pn and m.sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.message_reactions as r
      where r.session_id = p_session and r.sender = p.pn and r.sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.quoted_sender = p.pn and m.quoted_sender like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.messages as m
      where m.session_id = p_session and m.revoked_by = p.pn and m.revoked_by like '%@s.whatsapp.net'
    ) or exists (
      select 1 from public.wa_held_changes as h where h.session_id = p_session and h.author in (p.pn, p.lid)
    ) or exists (
      select 1 from public.wa_held_changes as h where h.session_id = p_session and h.target_sender in (p.pn, p.lid)
    ) or exists (
      select 1 from public.messages as m
      where m.mentions is not null and m.mentions @> array[p.pn] and m.session_id = p_session
    ))
    order by p.lid
  loop
    v_cost := wa.merge_cost(p_session, v_pair.lid, v_pair.pn, v_left);
    if v_cost <= v_left and not exists (
      select 1 from public.wa_merges_due as d where d.session_id = p_session and d.pn = v_pair.pn
    ) then
      v_left := v_left - v_cost;
      perform wa.merge_identity_with_retries(p_session, v_pair.lid, v_pair.pn);
    else
      insert into public.wa_merges_due (session_id, lid, pn) values (p_session, v_pair.lid, v_pair.pn)
      on conflict (session_id, pn, lid) do nothing;
    end if;
  end loop;
end
$$;

-- Whether somebody may revoke this message: 'allowed', 'refused' or 'unknown'. WhatsApp's server forwards a revoke by
-- anybody, and `by_admin` is what the revoking client claims, so it counts only for an admin of the group.
create or replace function wa.may_revoke(p_change public.wa_held_changes) returns text
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_admins text [];
  v_forms text [];
begin
  if p_change.author = p_change.target_sender then
    return 'allowed';
  end if;
  if coalesce((p_change.payload -> 'by_admin') = 'true', false) then
    select g.admins into v_admins
    from public.groups as g
    where g.session_id = p_change.session_id and g.wa_group_id = p_change.chat_id;
    if v_admins is null then
      return 'unknown';
    end if;
    v_forms := array(
      select p_change.author
      union
      select unnest(array[i.lid, i.pn])
      from public.wa_identities as i
      where i.session_id = p_change.session_id and p_change.author in (i.lid, i.pn) and not exists (
        select 1 from public.wa_numbers_moved as n where n.session_id = i.session_id and n.pn = i.pn
      )
    );
    if v_admins && v_forms then
      return 'allowed';
    end if;
    -- The admins may be named by the other kind of address.
    if cardinality(v_forms) = 1 and v_admins <> '{}' and not exists (
      select 1 from unnest(v_admins) as a (jid)
      where split_part(a.jid, '@', 2) = split_part(p_change.author, '@', 2)
    ) then
      return 'unknown';
    end if;
  end if;
  return case
    when wa.are_two_people(p_change.session_id, p_change.author, p_change.target_sender) then 'refused'
    else 'unknown'
  end;
end
$$;

revoke execute on function
wa.note_moved_numbers
from public, anon, authenticated;

grant execute on function
wa.note_moved_numbers
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126133000')
$$;

notify pgrst, 'reload schema';
