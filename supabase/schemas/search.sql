-- The index of full-text search: texts and captions, file names, contacts and other facts of `content`, names and
-- numbers of senders. public.search_messages queries it (search_query.sql).
--
-- No extension: the embedded Supabase has none. Accents are folded by Unicode's own decomposition. An entry's session,
-- group, sender, kind and month are next to its words, as marks, so that one GIN index answers a word and a filter
-- together. public.wa_host_poll writes the entries; triggers renew and remove them, so that no writer can forget.

-- One entry for each message, except those whose content was removed. `at` is the message's time. Small rows, separate
-- from `messages`: there, each later update (parent links, files) would write the words again.
create table public.message_search (
  session_id text not null,
  message_id bigint not null,
  at timestamptz not null,
  words tsvector not null,
  primary key (session_id, message_id)
);

-- New entries wait in a list and are merged per quarter megabyte: half the cost for commits, and each search reads that
-- list.
create index message_search_words on public.message_search using gin (words) with (gin_pending_list_limit = 256);

-- One spelling for words that differ in case, accents or width only. Chinese and Japanese, which are written without
-- spaces, become a word for each character. These functions run for each message: PL/pgSQL keeps their plans.
--
-- normalize() takes the square of the length of a run of combining marks, and no timeout stops it: 13 s for 65,535. So
-- the text gets a space after each 64 characters that are not ASCII; ASCII ends a run. What has grown past 30,000
-- characters is cut: a sign can stand for eighteen.
create function wa.fold(p_text text) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
declare
  v_text text := p_text;
begin
  if v_text !~ '[^\x01-\x7f]' then
    return lower(v_text);
  end if;
  v_text := regexp_replace(v_text, '([^\x01-\x7f]{64})', '\1 ', 'g');
  v_text := lower(regexp_replace(
    left(normalize(v_text, nfkd), 30000),
    '[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u200b-\u200f'
    '\u2060\u3099\u309a\ufe00-\ufe0f\ufeff]', '', 'g'
  ));
  v_text := replace(replace(replace(replace(v_text, 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th');
  v_text := normalize(translate(v_text, 'øđðłħŧıς', 'oddlhtiσ'), nfc);
  return regexp_replace(v_text, '([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])', ' \1 ', 'g');
end
$$;

-- A text as words with spaces between them, folded. A phone number is also one word: "+49 170/123" is 49, 170, 123 and
-- 49170123. Of the first 10,000 characters, whose words cost some milliseconds; folded they may be 30,000.
create function wa.plain_words(p_text text) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
declare
  v_text text := wa.fold(left(p_text, 10000));
  v_numbers text := '';
begin
  if v_text ~ '(\+\d|\m0\d)' then
    v_numbers := coalesce((
      select string_agg(' ' || regexp_replace(n[1], '\D', '', 'g'), '')
      from regexp_matches(v_text, '(\+\d[\d ()./-]*\d|\m0\d[\d ()./-]{4,20}\d)', 'g') as n
    ), '');
  end if;
  return left(regexp_replace(v_text, '[!-/:-@[-`{-~]+', ' ', 'g') || v_numbers, 30000);
end
$$;

-- The mark for one property of an entry: 's'ession, 'g'roup, sender ('p'), 'k'ind, 'm'onth. No word starts with its
-- first character. ('f'ile is followed by true or false.)
create function wa.search_mark(p_property text, p_value text) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
begin
  return E'\x01' || p_property || left(md5(p_value), 12);
end
$$;

create function wa.search_month(p_at timestamptz) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
begin
  return wa.search_mark('m', to_char(p_at at time zone 'utc', 'YYYY-MM'));
end
$$;

-- The language whose word endings a session's search ignores; 'simple', the default, ignores none.
create function wa.search_language(p_session text) returns regconfig
language sql stable security invoker set search_path = '' as $$
  select coalesce(
    (
      select c.oid::regconfig
      from public.wa_sessions as s
      inner join pg_catalog.pg_ts_config as c on s.search_language = c.cfgname
      where s.id = p_session
      order by c.oid
      limit 1
    ),
    'pg_catalog.simple'::regconfig
  )
$$;

-- The searchable text of a message: its text, its file's name, and facts that its text may lack, one per line.
create function wa.search_text(p_text text, p_file_name text, p_content jsonb) returns text
language plpgsql immutable security invoker set search_path = '' as $$
begin
  if p_content is null then
    return concat_ws(E'\n', p_text, p_file_name);
  end if;
  return concat_ws(E'\n', p_text, p_file_name, (
    select string_agg(f.fact #>> '{}', E'\n')
    from unnest(
      array[
        '$.title', '$.label', '$.link.title', '$.link.description', '$.location.name', '$.contacts[*].organisation',
        '$.buttons[*].text', '$.sections[*].rows[*].title', '$.cards[*].title'
      ]::jsonpath []
    ) as p (path)
    cross join lateral jsonb_path_query(p_content, p.path) as f (fact)
    where jsonb_typeof(f.fact) = 'string'
  ));
end
$$;

-- The marks of a message, as wa.search_mark makes them.
create function wa.entry_marks(p_message public.messages) returns text[]
language plpgsql immutable security invoker set search_path = '' as $$
begin
  return array[
    E'\x01s' || left(md5(p_message.session_id), 12), E'\x01g' || left(md5(p_message.group_id::text), 12),
    E'\x01p' || left(md5(p_message.sender), 12), E'\x01k' || left(md5(p_message.kind), 12),
    E'\x01m' || left(md5(to_char(p_message.ts at time zone 'utc', 'YYYY-MM')), 12),
    E'\x01f' || (p_message.media_status is not null)
  ];
end
$$;

-- The words of a message and its marks. Only the marks if its words raise an error: no text may stop a poll or a
-- commit.
create function wa.search_entry(p_language regconfig, p_message public.messages) returns tsvector
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_words tsvector := '';
begin
  begin
    v_words := to_tsvector(
      p_language, wa.plain_words(wa.search_text(p_message.text, p_message.file_name, p_message.content))
    );
  exception
    when others then
      v_words := '';
  end;
  return array_to_tsvector(wa.entry_marks(p_message)) || v_words;
end
$$;

-- Renews the entry of a changed message; a message whose content was removed loses it. Words cost most: they stay if
-- only the sender, the group, the kind, the time or the file changed, as a merge of people does to many.
create function wa.note_search_change() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  if new.blanked then
    delete from public.message_search where session_id = new.session_id and message_id = new.id;
    return null;
  end if;
  if (old.text, old.file_name, old.content, old.blanked) is not distinct from
    (new.text, new.file_name, new.content, new.blanked)
  then
    update public.message_search as s
    set at = new.ts, words = ts_delete(s.words, wa.entry_marks(old)) || array_to_tsvector(wa.entry_marks(new))
    where s.session_id = new.session_id and s.message_id = new.id;
    if found then
      return null;
    end if;
  end if;
  insert into public.message_search (session_id, message_id, at, words)
  values (new.session_id, new.id, new.ts, wa.search_entry(wa.search_language(new.session_id), new))
  on conflict (session_id, message_id) do update set at = excluded.at, words = excluded.words;
  return null;
end
$$;

-- Deleted messages cannot be found. No foreign key: it would be checked for each new message.
create function wa.note_search_end() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  delete from public.message_search as s using gone as g where s.session_id = g.session_id and s.message_id = g.id;
  return null;
end
$$;

create trigger note_search_change after update on public.messages
for each row when (
  (old.text, old.file_name, old.content, old.group_id, old.sender, old.ts, old.kind, old.blanked)
  is distinct from (new.text, new.file_name, new.content, new.group_id, new.sender, new.ts, new.kind, new.blanked)
  or (old.media_status is null) <> (new.media_status is null)
)
execute function wa.note_search_change();

create trigger note_search_end after delete on public.messages
referencing old table as gone for each statement execute function wa.note_search_end();

-- A name and a number as words.
create function wa.name_words(p_name text, p_number text) returns tsvector
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
begin
  return to_tsvector(
    'pg_catalog.simple'::regconfig, wa.plain_words(concat_ws(' ', p_name, split_part(p_number, '@', 1)))
  );
end
$$;

create index people_words on public.people using gin (wa.name_words(push_name, number)) with (fastupdate = false);

-- Writes the entries of the next messages, in their order: for `p_limit`, or for as many as fit into 200 ms. It runs
-- beside the commits, not in them: entries cost as much as everything else of a message. Returns whether there are
-- more. Waits for no lock: while a commit or anybody else works on the session or on one of the messages, it does
-- nothing. A session's messages are committed in the order of their numbers, so none appears behind
-- `wa_sessions.search_done`.
--
-- Numbers are shared by all sessions: a quiet session skips those of the others, a thousand at a time, so that none is
-- read twice; otherwise it writes nothing.
create function wa.search_fill(p_session text, p_limit integer) returns boolean
language plpgsql security invoker set search_path = '' as $$
declare
  v_end timestamptz := clock_timestamp() + interval '200 ms';
  v_done bigint;
  v_top bigint;
  v_language regconfig;
  v_ids bigint [];
  v_free integer;
  v_message public.messages;
begin
  v_done := (select s.search_done from public.wa_sessions as s where s.id = p_session);
  v_top := (select max(m.id) from public.messages as m);
  -- In order, so that the planner reads what is new and not all that the session has.
  if coalesce(v_top, 0) <= v_done + 1000
    and (select m.id from public.messages as m where m.id > v_done and m.session_id = p_session order by m.id limit 1)
      is null
  then
    return false;
  end if;
  select s.search_done into v_done
  from public.wa_sessions as s
  where s.id = p_session
  for no key update skip locked;
  if v_done is null then
    return false;
  end if;
  -- Before the session's own, none of which can come while its row is held.
  v_top := (select max(m.id) from public.messages as m);
  v_ids := array(
    select m.id from public.messages as m where m.id > v_done and m.session_id = p_session order by m.id limit p_limit
  );
  if v_ids = '{}' then
    update public.wa_sessions set search_done = v_top where id = p_session and v_top > v_done + 1000;
    return false;
  end if;
  select count(*) into v_free
  from (select 1 from public.messages as m where m.id = any(v_ids) order by m.id for share of m skip locked) as f;
  if v_free < cardinality(v_ids) then
    return false;
  end if;
  v_language := wa.search_language(p_session);
  for v_message in select m.* from public.messages as m where m.id = any(v_ids) order by m.id loop
    if not v_message.blanked then
      insert into public.message_search (session_id, message_id, at, words)
      values (p_session, v_message.id, v_message.ts, wa.search_entry(v_language, v_message))
      on conflict (session_id, message_id) do update set at = excluded.at, words = excluded.words;
    end if;
    v_done := v_message.id;
    exit when clock_timestamp() >= v_end;
  end loop;
  update public.wa_sessions set search_done = v_done where id = p_session;
  return v_done < v_ids[cardinality(v_ids)] or cardinality(v_ids) = p_limit;
end
$$;

-- Sets the language of a session's search: the name of a text search configuration ('german'), or 'simple'. Rebuilds
-- the entries, the oldest first. Error: undefined_object, if there is none of that name.
create function public.wa_set_search_language(p_session text, p_language text) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  if not exists (select 1 from pg_catalog.pg_ts_config as c where c.cfgname = p_language) then
    raise exception 'no such language' using errcode = 'undefined_object';
  end if;
  update public.wa_sessions
  set search_language = p_language, search_done = 0
  where id = p_session and search_language <> p_language;
  return jsonb_build_object('changed', found);
end
$$;
