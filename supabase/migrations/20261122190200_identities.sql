-- One person, two addresses: what happens when a LID turns out to belong to a number under which rows are stored.

-- Two rows of one message become one, as if the person had been known from the start: the older row stays, with the
-- content of the first that has any, and everything that hangs on the other one moves over.
create function public.wa_collapse_messages(p_kept bigint, p_gone bigint, p_sender text, p_alt text) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_kept public.messages;
  v_gone public.messages;
  v_first_text text;
  v_edits jsonb;
  v_row record;
begin
  select * into v_kept from public.messages where id = p_kept;
  select * into v_gone from public.messages where id = p_gone;
  v_first_text := v_gone.text;
  if v_gone.edited_at is not null then
    select e.text into v_first_text from public.message_edits as e where e.message_id = p_gone and e.edit_msg_id = '';
  end if;
  select jsonb_agg(to_jsonb(e)) into v_edits
  from (
    select f.edit_msg_id, f.text, f.at
    from public.message_edits as f
    where f.message_id = p_gone and f.edit_msg_id <> ''
    union all
    select v_gone.edit_msg_id, v_gone.text, v_gone.edited_at
    where v_gone.edited_at is not null
  ) as e;

  update public.messages set quoted_id = p_kept where quoted_id = p_gone;
  update public.messages set album_id = p_kept where album_id = p_gone;
  update public.wa_held_changes set message_id = p_kept where message_id = p_gone;
  insert into public.message_secrets (message_id, session_id, secret, at)
  select p_kept, s.session_id, s.secret, s.at from public.message_secrets as s where s.message_id = p_gone
  on conflict (message_id) do nothing;
  for v_row in select * from public.message_reactions as r where r.message_id = p_gone loop
    perform public.wa_apply_reaction(v_row.session_id, p_kept, v_row.sender, v_row.emoji, v_row.at, v_row.wa_msg_id);
  end loop;

  if v_kept.kind = 'undecryptable' and v_gone.kind <> 'undecryptable' then
    update public.media_jobs set message_id = p_kept where message_id = p_gone;
    update public.messages
    set
      kind = v_gone.kind, text = v_first_text, raw = v_gone.raw, file_name = v_gone.file_name,
      media_id = v_gone.media_id, media_status = v_gone.media_status,
      push_name = coalesce(v_gone.push_name, push_name), quoted_msg_id = v_gone.quoted_msg_id,
      quoted_sender = v_gone.quoted_sender, quoted_id = nullif(v_gone.quoted_id, p_kept),
      album_id = nullif(v_gone.album_id, p_kept), mentions = v_gone.mentions, mention_count = v_gone.mention_count,
      forwarded = v_gone.forwarded, forward_score = v_gone.forward_score, pending = false, lost_at = null
    where id = p_kept;
  elsif v_gone.media_id is not null and v_kept.media_id is null and v_kept.media_status is not null then
    delete from public.media_jobs where message_id = p_kept;
    update public.messages set media_id = v_gone.media_id, media_status = v_gone.media_status where id = p_kept;
  end if;
  delete from public.message_secrets where message_id = p_gone;
  delete from public.messages where id = p_gone;
  update public.messages set sender = p_sender, sender_alt = p_alt where id = p_kept;

  if v_gone.revoked_at is not null then
    perform public.wa_apply_revoke(p_kept, v_gone.revoked_by, v_gone.revoked_at, false);
  end if;
  if v_kept.blanked or v_gone.blanked then
    perform public.wa_blank_message(p_kept);
  end if;
  for v_row in select * from jsonb_to_recordset(v_edits) as e (edit_msg_id text, text text, at timestamptz) loop
    perform public.wa_apply_edit(p_kept, v_row.edit_msg_id, v_row.text, v_row.at);
  end loop;
end
$$;

-- A person who wrote under a number turns out to have this LID: whatever is stored under the number goes under the LID,
-- as if both had been known from the start.
create function public.wa_merge_identity(p_session text, p_lid text, p_pn text) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_row public.messages;
  v_twin public.messages;
  v_reaction public.message_reactions;
  v_chats text [] := '{}';
  v_times timestamptz [] := '{}';
  v_ids bigint [] := '{}';
  v_range record;
begin
  for v_row in
    select * from public.messages as m
    where m.session_id = p_session and m.sender = p_pn and m.sender like '%@s.whatsapp.net'
    order by m.id
  loop
    v_chats := v_chats || v_row.chat_id;
    v_times := v_times || v_row.ts;
    v_ids := v_ids || v_row.id;
    select * into v_twin
    from public.messages as m
    where m.session_id = p_session and m.chat_id = v_row.chat_id and m.sender = p_lid
      and m.wa_msg_id = v_row.wa_msg_id;
    if v_twin.id is null then
      update public.messages set sender = p_lid, sender_alt = p_pn where id = v_row.id;
    else
      v_chats := v_chats || v_twin.chat_id;
      v_times := v_times || v_twin.ts;
      v_ids := v_ids || v_twin.id;
      perform public.wa_collapse_messages(
        least(v_row.id, v_twin.id), greatest(v_row.id, v_twin.id), p_lid, p_pn
      );
    end if;
  end loop;

  for v_reaction in
    delete from public.message_reactions as r
    where r.session_id = p_session and r.sender = p_pn and r.sender like '%@s.whatsapp.net'
    returning r.*
  loop
    perform public.wa_apply_reaction(
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
  perform public.wa_retry_changes(p_session, array(
    select h.id from public.wa_held_changes as h
    where h.session_id = p_session and (h.target_sender = p_lid or h.author = p_lid)
  ));

  for v_range in
    select
      n.chat_id,
      min(n.ts) as first_ts, (array_agg(n.id order by n.ts, n.id))[1] as first_id,
      max(n.ts) as last_ts, (array_agg(n.id order by n.ts desc, n.id desc))[1] as last_id
    from unnest(v_chats, v_times, v_ids) as n (chat_id, ts, id)
    group by n.chat_id
  loop
    perform public.wa_link_parents(
      p_session, v_range.chat_id, p_lid, v_range.first_ts, v_range.first_id, v_range.last_ts, v_range.last_id
    );
  end loop;
end
$$;

-- Identities: [{lid, pn}]; the last word on a LID wins. Only a pair that is new has anything to merge, and of those
-- only the ones whose number is seen anywhere.
create function public.wa_write_identities(p_session text, p_identities jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_pair record;
  v_new jsonb;
begin
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
    where exists (
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
    )
    order by p.lid
  loop
    perform public.wa_merge_identity(p_session, v_pair.lid, v_pair.pn);
  end loop;
end
$$;

revoke execute on function
public.wa_collapse_messages, public.wa_merge_identity, public.wa_write_identities
from public, anon, authenticated;

grant execute on function
public.wa_collapse_messages, public.wa_merge_identity, public.wa_write_identities
to service_role;
