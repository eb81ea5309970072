-- The people whose addresses appear in messages: kept by triggers, so that no writer can forget to.

-- Everybody who wrote or whose two addresses are known: `sender` is canonical, as in messages, reactions and mentions.
-- `named_at`: when the message with this name was sent. No foreign key: it is written with each batch.
create table public.people (
  session_id text not null,
  sender text not null,
  number text,
  push_name text,
  named_at timestamptz,
  primary key (session_id, sender)
);

-- Records who wrote the new messages, and the newest name of each. Skips system rows without a sender.
create function wa.note_authors() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  insert into public.people as p (session_id, sender, number, push_name, named_at)
  select distinct on (a.session_id, a.sender)
    a.session_id, a.sender,
    case when a.sender like '%@s.whatsapp.net' then a.sender else a.sender_alt end,
    a.push_name, case when a.push_name is not null then a.ts end
  from added as a
  where a.sender like '%@lid' or a.sender like '%@s.whatsapp.net'
  order by a.session_id, a.sender, a.push_name is null, a.ts desc, a.id desc
  on conflict (session_id, sender) do update
  set
    push_name = excluded.push_name, named_at = excluded.named_at, number = coalesce(p.number, excluded.number)
  where excluded.named_at > coalesce(p.named_at, '-infinity');
  return null;
end
$$;

-- A LID's number is known: the person under the number is the same, unless the number has moved.
create function wa.note_identity() returns trigger
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

create trigger note_authors after insert on public.messages
referencing new table as added for each statement execute function wa.note_authors();

create trigger note_identity after insert or update on public.wa_identities
for each row execute function wa.note_identity();
