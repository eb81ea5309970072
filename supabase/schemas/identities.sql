-- The two addresses of one person (docs/whatsapp.md, "Who sent it"): LID and phone number, without a device; and what
-- happens when a LID turns out to belong to a number under which rows are stored.

create table public.wa_identities (
  session_id text not null references public.wa_sessions (id),
  lid text not null,
  pn text not null,
  updated_at timestamptz not null default now(),
  primary key (session_id, lid)
);

create index wa_identities_pn on public.wa_identities (session_id, pn);

-- Numbers that passed from one person to another, or may have. Nothing under such a number is moved: who held it when a
-- message was written is unknown.
create table public.wa_numbers_moved (
  session_id text not null references public.wa_sessions (id),
  pn text not null check (length(pn) between 1 and 256),
  at timestamptz not null default now(),
  primary key (session_id, pn)
);

-- Pairs whose merge takes too long for one commit; public.wa_prune does it in steps. `chats`: where to rebuild parent
-- links at the end.
create table public.wa_merges_due (
  id bigint generated always as identity primary key,
  session_id text not null references public.wa_sessions (id),
  lid text not null,
  pn text not null,
  chats text[] not null default '{}',
  at timestamptz not null default now(),
  unique (session_id, pn, lid)
);

-- The other form of each given person: {id: other}, by LID or by number; '' for a number that has moved.
create function public.wa_get_identities(p_session text, p_ids jsonb) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with wanted as materialized (select array(select jsonb_array_elements_text(p_ids)) as ids)
  select jsonb_build_object('identities', coalesce(jsonb_object_agg(pairs.id, pairs.other), '{}'))
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

-- Notes the numbers of these identities that have moved: reported by a notice (no LID), a number with another LID than
-- before, a LID with another number than before.
create function wa.note_moved_numbers(p_session text, p_identities jsonb) returns void
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

-- Identities: [{lid, pn}], `lid` '' for a number that its owner gave up; the last entry for a LID wins. Only new pairs
-- can need a merge, and of those only pairs whose number is stored somewhere and has not moved. Rewrites at most 2,000
-- rows here, which takes a third of a second, and leaves the other pairs to public.wa_prune. `enable_seqscan`: for a
-- number that is stored nowhere the planner would read the whole table, once per pair.
create function wa.write_identities(p_session text, p_identities jsonb) returns void
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

-- The cost of merging this pair, in rows to rewrite; a row that is only read counts as a tenth. Stops counting a little
-- above `p_most`: callers only ask whether the cost exceeds it.
create function wa.merge_cost(p_session text, p_lid text, p_pn text, p_most integer) returns integer
language sql volatile security invoker set search_path = '' set enable_seqscan = off as $$
  select (
    (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.sender = p_pn and m.sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as written
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.quoted_sender = p_pn and m.quoted_sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as quoted
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.session_id = p_session and m.revoked_by = p_pn and m.revoked_by like '%@s.whatsapp.net'
        limit p_most + 1
      ) as revoked
    ) + (
      select count(*) from (
        select 1 from public.messages as m
        where m.mentions is not null and m.mentions @> array[p_pn] and m.session_id = p_session
        limit p_most + 1
      ) as mentioned
    ) + (
      select count(*) from (
        select 1 from public.message_reactions as r
        where r.session_id = p_session and r.sender = p_pn and r.sender like '%@s.whatsapp.net'
        limit p_most + 1
      ) as reacted
    ) + (
      select count(*) / 10 from (
        select 1
        from public.groups as g
        cross join lateral (
          select 1 as one from public.messages as m
          where m.session_id = p_session and m.chat_id = g.wa_group_id and m.sender = p_lid
          limit p_most * 10 + 10
        ) as own
        where g.session_id = p_session and exists (
          select 1 from public.messages as n
          where n.session_id = p_session and n.chat_id = g.wa_group_id and n.sender = p_pn
        )
        limit p_most * 10 + 10
      ) as walked
    )
  )::integer
$$;

-- Merges one person's two addresses. If somebody deletes a message meanwhile, tries again, up to three times: the next
-- attempt does not see the message.
create function wa.merge_identity_with_retries(p_session text, p_lid text, p_pn text) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  for v_attempt in 1..3 loop
    begin
      perform wa.merge_identity(p_session, p_lid, p_pn);
      return;
    exception
      when foreign_key_violation then
        if v_attempt = 3 then
          raise;
        end if;
    end;
  end loop;
end
$$;

-- Moves everything that is stored under a person's number to the LID, as if both had been known from the start.
-- Set-based: a person may have written a hundred thousand messages. `enable_seqscan`: for a number that is stored
-- nowhere the planner would read the whole table.
create function wa.merge_identity(p_session text, p_lid text, p_pn text) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_pair record;
  v_twin text;
  v_reaction public.message_reactions;
  v_ranges jsonb;
  v_range record;
begin
  -- Links change only in chats where both addresses wrote. There, rebuild them over all rows of both: deleting a row
  -- also clears its child's link, and a shorter walk would stop at that child.
  select jsonb_agg(to_jsonb(r)) into v_ranges
  from (
    select
      m.chat_id,
      min(m.ts) as first_ts, (array_agg(m.id order by m.ts, m.id))[1] as first_id,
      max(m.ts) as last_ts, (array_agg(m.id order by m.ts desc, m.id desc))[1] as last_id
    from public.messages as m
    where m.session_id = p_session and m.chat_id = any(array(
      select distinct n.chat_id
      from public.messages as n
      where n.session_id = p_session and n.sender = p_pn and n.sender like '%@s.whatsapp.net'
    )) and m.sender in (p_pn, p_lid)
    group by m.chat_id
    having count(*) filter (where m.sender = p_lid) > 0
  ) as r;

  for v_range in select * from jsonb_to_recordset(v_ranges) as r (chat_id text) loop
    -- An intersection, not a join: its cost does not depend on the planner's statistics.
    for v_twin in
      select m.wa_msg_id
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_range.chat_id and m.sender = p_pn
      intersect
      select m.wa_msg_id
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_range.chat_id and m.sender = p_lid
    loop
      select min(m.id) as kept, max(m.id) as gone into v_pair
      from public.messages as m
      where m.session_id = p_session and m.chat_id = v_range.chat_id and m.sender in (p_pn, p_lid)
        and m.wa_msg_id = v_twin;
      perform wa.merge_messages(v_pair.kept, v_pair.gone, p_lid, p_pn);
    end loop;
  end loop;
  update public.messages set sender = p_lid, sender_alt = p_pn
  where session_id = p_session and sender = p_pn and sender like '%@s.whatsapp.net';

  for v_reaction in
    delete from public.message_reactions as r
    where r.session_id = p_session and r.sender = p_pn and r.sender like '%@s.whatsapp.net'
    returning r.*
  loop
    perform wa.apply_reaction(
      p_session, v_reaction.message_id, p_lid, v_reaction.emoji, v_reaction.at, v_reaction.wa_msg_id
    );
  end loop;
  update public.messages
  set quoted_sender = p_lid
  where session_id = p_session and quoted_sender = p_pn and quoted_sender like '%@s.whatsapp.net';
  update public.messages
  set revoked_by = p_lid
  where session_id = p_session and revoked_by = p_pn and revoked_by like '%@s.whatsapp.net';
  update public.messages as m
  set
    mentions = array(
      select who.jid
      from unnest(array_replace(m.mentions, p_pn, p_lid)) with ordinality as who (jid, ord)
      group by who.jid
      order by min(who.ord)
    )
  where m.mentions is not null and m.mentions @> array[p_pn] and m.session_id = p_session;

  update public.wa_held_changes set target_sender = p_lid where session_id = p_session and target_sender = p_pn;
  delete from public.wa_held_changes as h
  using public.wa_held_changes as twin
  where h.session_id = p_session and h.author = p_pn and twin.session_id = p_session and twin.author = p_lid
    and twin.chat_id = h.chat_id and twin.change_id = h.change_id and twin.kind = h.kind;
  update public.wa_held_changes set author = p_lid where session_id = p_session and author = p_pn;
  perform wa.retry_changes(p_session, array(
    select h.id from public.wa_held_changes as h
    where h.session_id = p_session and (h.target_sender = p_lid or h.author = p_lid)
  ));

  for v_range in
    select *
    from jsonb_to_recordset(v_ranges) as r (
      chat_id text, first_ts timestamptz, first_id bigint, last_ts timestamptz, last_id bigint
    )
  loop
    perform wa.link_parents(
      p_session, v_range.chat_id, p_lid, v_range.first_ts, v_range.first_id, v_range.last_ts, v_range.last_id
    );
  end loop;
end
$$;

-- Two rows of one message become one, as if the person had been known from the start: the older row stays, with the
-- content that came first, and everything that refers to the other row moves to it.
create function wa.merge_messages(p_kept bigint, p_gone bigint, p_sender text, p_alt text)
returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_kept public.messages;
  v_gone public.messages;
  v_source public.messages;
  v_other public.messages;
  v_edits jsonb;
  v_job bigint;
  v_row record;
begin
  select * into v_kept from public.messages where id = p_kept;
  select * into v_gone from public.messages where id = p_gone;
  v_source := v_kept;
  v_other := v_gone;
  if v_gone.kind <> 'undecryptable' and (
    v_kept.kind = 'undecryptable'
    or (coalesce(v_gone.content_order, 0), p_gone) < (coalesce(v_kept.content_order, 0), p_kept)
  ) then
    v_source := v_gone;
    v_other := v_kept;
  end if;
  v_source.push_name := coalesce(v_source.push_name, v_other.push_name);
  if v_source.edited_at is not null then
    select e.text into v_source.text
    from public.message_edits as e
    where e.message_id = v_source.id and e.edit_msg_id = '';
  end if;
  select jsonb_agg(to_jsonb(e)) into v_edits
  from (
    select f.edit_msg_id, f.text, f.at
    from public.message_edits as f
    where f.message_id in (p_kept, p_gone) and f.edit_msg_id <> ''
    union all
    select m.edit_msg_id, m.text, m.edited_at
    from public.messages as m
    where m.id in (p_kept, p_gone) and m.edited_at is not null
  ) as e;

  update public.messages set quoted_id = p_kept where quoted_id = p_gone;
  update public.messages set album_id = p_kept where album_id = p_gone;
  update public.messages set rendition_of = p_kept where rendition_of = p_gone;
  delete from public.wa_held_changes where message_id = v_other.id and kind in ('quote', 'album', 'rendition');
  update public.wa_held_changes set message_id = p_kept where message_id = p_gone;
  for v_row in select * from public.message_reactions as r where r.message_id = p_gone loop
    perform wa.apply_reaction(v_row.session_id, p_kept, v_row.sender, v_row.emoji, v_row.at, v_row.wa_msg_id);
  end loop;
  -- Keep the secret of the content that stays, or else the other one.
  delete from public.message_secrets
  where message_id = p_kept and v_source.id = p_gone
    and exists (select 1 from public.message_secrets as s where s.message_id = p_gone);
  insert into public.message_secrets (message_id, session_id, secret, at)
  select p_kept, s.session_id, s.secret, s.at from public.message_secrets as s where s.message_id = p_gone
  on conflict (message_id) do nothing;
  -- Keep the better state of the file: stored before pending, pending before given up.
  if v_source.media_status is not null and v_source.media_id is null then
    if v_other.media_id is not null then
      v_source.media_id := v_other.media_id;
      v_source.media_status := v_other.media_status;
    else
      select j.id into v_job
      from public.media_jobs as j
      where j.message_id in (p_kept, p_gone)
      order by j.message_id = v_source.id desc
      limit 1;
      if v_job is not null then
        v_source.media_status := 'pending';
      end if;
    end if;
  end if;
  delete from public.media_jobs where message_id in (p_kept, p_gone) and id is distinct from v_job;
  update public.media_jobs set message_id = p_kept where id = v_job;
  delete from public.wa_media_abandoned
  where message_id in (p_kept, p_gone)
    and (message_id <> v_source.id or v_source.media_id is not null or v_job is not null);
  update public.wa_media_abandoned set message_id = p_kept where message_id = v_source.id;
  delete from public.message_edits where message_id = p_kept;
  delete from public.message_secrets where message_id = p_gone;
  delete from public.messages where id = p_gone;
  perform wa.replace_content(p_kept, v_source);
  update public.messages
  set
    sender = p_sender, sender_alt = p_alt, edited_at = null, edit_msg_id = null,
    quoted_id = case when v_source.quoted_id not in (p_kept, p_gone) then v_source.quoted_id end,
    album_id = case when v_source.album_id not in (p_kept, p_gone) then v_source.album_id end,
    rendition_of = case when v_source.rendition_of not in (p_kept, p_gone) then v_source.rendition_of end
  where id = p_kept;

  if v_gone.revoked_at is not null then
    perform wa.apply_revoke(p_kept, v_gone.revoked_by, v_gone.revoked_at, false);
  end if;
  if v_kept.blanked or v_gone.blanked then
    perform wa.blank_message(p_kept);
  end if;
  for v_row in select * from jsonb_to_recordset(v_edits) as e (edit_msg_id text, text text, at timestamptz) loop
    perform wa.apply_edit(p_kept, v_row.edit_msg_id, v_row.text, v_row.at);
  end loop;
end
$$;

-- One step of the oldest merge that is due: rewrites at most `p_limit` rows, or rebuilds the links of one chat. The
-- final result is that of wa.merge_identity. For callers that hold the session row.
create function wa.merge_step(p_session text, p_limit integer) returns void
language plpgsql security invoker set search_path = '' set enable_seqscan = off as $$
declare
  v_due public.wa_merges_due;
  v_ids bigint [];
  v_twin record;
  v_reaction public.message_reactions;
  v_first record;
  v_last record;
begin
  select * into v_due from public.wa_merges_due where session_id = p_session order by id limit 1;
  if v_due.id is null then
    return;
  end if;

  v_ids := array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.sender = v_due.pn and m.sender like '%@s.whatsapp.net'
    limit p_limit
  );
  if v_ids <> '{}' then
    update public.wa_merges_due
    set chats = array(
      select c.chat from unnest(v_due.chats) as c (chat)
      union
      select m.chat_id from public.messages as m where m.id = any(v_ids)
    )
    where id = v_due.id;
    for v_twin in
      select m.id as written, twin.id as known
      from public.messages as m
      cross join lateral (
        select n.id from public.messages as n
        where n.session_id = p_session and n.chat_id = m.chat_id and n.sender = v_due.lid
          and n.wa_msg_id = m.wa_msg_id
      ) as twin
      where m.id = any(v_ids)
    loop
      perform wa.merge_messages(
        least(v_twin.written, v_twin.known), greatest(v_twin.written, v_twin.known), v_due.lid, v_due.pn
      );
    end loop;
    update public.messages set sender = v_due.lid, sender_alt = v_due.pn where id = any(v_ids) and sender = v_due.pn;
    return;
  end if;

  update public.messages set quoted_sender = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.quoted_sender = v_due.pn and m.quoted_sender like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages set revoked_by = v_due.lid
  where id = any(array(
    select m.id from public.messages as m
    where m.session_id = p_session and m.revoked_by = v_due.pn and m.revoked_by like '%@s.whatsapp.net'
    limit p_limit
  ));
  if found then
    return;
  end if;
  update public.messages as m
  set
    mentions = array(
      select who.jid
      from unnest(array_replace(m.mentions, v_due.pn, v_due.lid)) with ordinality as who (jid, ord)
      group by who.jid
      order by min(who.ord)
    )
  where m.id = any(array(
    select n.id from public.messages as n
    where n.mentions is not null and n.mentions @> array[v_due.pn] and n.session_id = p_session
    limit p_limit
  ));
  if found then
    return;
  end if;
  for v_reaction in
    delete from public.message_reactions as r
    where r.sender = v_due.pn and r.message_id = any(array(
      select n.message_id from public.message_reactions as n
      where n.session_id = p_session and n.sender = v_due.pn and n.sender like '%@s.whatsapp.net'
      limit p_limit
    ))
    returning r.*
  loop
    perform wa.apply_reaction(
      p_session, v_reaction.message_id, v_due.lid, v_reaction.emoji, v_reaction.at, v_reaction.wa_msg_id
    );
  end loop;
  if found then
    return;
  end if;

  if v_due.chats <> '{}' then
    select m.ts, m.id into v_first
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
    order by m.ts, m.id
    limit 1;
    select m.ts, m.id into v_last
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_due.chats[1] and m.sender = v_due.lid
      and (m.kind = 'text' or m.media_status is not null) and m.rendition is null
    order by m.ts desc, m.id desc
    limit 1;
    if v_first.id is not null then
      perform wa.link_parents(
        p_session, v_due.chats[1], v_due.lid, v_first.ts, v_first.id, v_last.ts, v_last.id
      );
    end if;
    update public.wa_merges_due set chats = v_due.chats[2:] where id = v_due.id;
    return;
  end if;

  -- Little is left: held changes, and rows that arrived meanwhile.
  perform wa.merge_identity(p_session, v_due.lid, v_due.pn);
  delete from public.wa_merges_due where id = v_due.id;
end
$$;
