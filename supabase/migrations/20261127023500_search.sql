-- Full-text search: entries with the words of each message, made by the poll, and search_messages.

set check_function_bodies = off;

alter table public.wa_sessions
add column search_language text not null default 'simple',
add column search_done bigint not null default 0;

-- An entry for each message but those whose content was removed. `at` is the message's time. Small rows, and apart from
-- `messages`: there each later update (parent links, files) would write the words anew.
create table public.message_search (
  session_id text not null,
  message_id bigint not null,
  at timestamptz not null,
  words tsvector not null,
  primary key (session_id, message_id)
);

-- What is new waits in a list and is sorted in by the quarter megabyte: half the cost for commits, and each search
-- reads that list.
create index message_search_words on public.message_search using gin (words) with (gin_pending_list_limit = 256);

-- One spelling for words that differ in case, accents or width only. Chinese and Japanese, which are written without
-- spaces, become a word for each character. These functions run for each message: PL/pgSQL keeps their plans.
create or replace function wa.fold(p_text text) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
declare
  v_text text := p_text;
begin
  if v_text !~ '[^\x01-\x7f]' then
    return lower(v_text);
  end if;
  v_text := lower(regexp_replace(
    normalize(v_text, nfkd),
    '[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u200b-\u200f'
    '\u2060\u3099\u309a\ufe00-\ufe0f\ufeff]', '', 'g'
  ));
  v_text := replace(replace(replace(replace(v_text, 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th');
  v_text := normalize(translate(v_text, 'øđðłħŧıς', 'oddlhtiσ'), nfc);
  return regexp_replace(v_text, '([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])', ' \1 ', 'g');
end
$$;

-- A text as words with spaces between them, folded. A phone number is also one word: "+49 170/123" is 49, 170, 123 and
-- 49170123. At most 50,000 characters: an index entry has a limit.
create or replace function wa.plain_words(p_text text) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
declare
  v_text text := wa.fold(left(p_text, 50000));
  v_numbers text := '';
begin
  if v_text ~ '(\+\d|\m0\d)' then
    v_numbers := coalesce((
      select string_agg(' ' || regexp_replace(n[1], '\D', '', 'g'), '')
      from regexp_matches(v_text, '(\+\d[\d ()./-]*\d|\m0\d[\d ()./-]{4,20}\d)', 'g') as n
    ), '');
  end if;
  return left(regexp_replace(v_text, '[!-/:-@[-`{-~]+', ' ', 'g') || v_numbers, 50000);
end
$$;

-- What stands beside the words of an entry for one of its properties: 's'ession, 'g'roup, sender ('p'), 'k'ind,
-- 'm'onth. No word begins with its first character. ('f'ile is followed by true or false.)
create or replace function wa.search_mark(p_property text, p_value text) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
begin
  return E'\x01' || p_property || left(md5(p_value), 12);
end
$$;

create or replace function wa.search_month(p_at timestamptz) returns text
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
begin
  return wa.search_mark('m', to_char(p_at at time zone 'utc', 'YYYY-MM'));
end
$$;

-- The language whose word endings a session's search ignores; 'simple', the default, ignores none.
create or replace function wa.search_language(p_session text) returns regconfig
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

-- What can be found of a message: its text, its file's name, and facts that its text may lack, a line each.
create or replace function wa.search_text(p_text text, p_file_name text, p_content jsonb) returns text
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

-- The words of a message, and its marks, as wa.search_mark makes them.
create or replace function wa.search_entry(p_language regconfig, p_message public.messages) returns tsvector
language plpgsql stable security invoker set search_path = '' as $$
begin
  return array_to_tsvector(array[
    E'\x01s' || left(md5(p_message.session_id), 12), E'\x01g' || left(md5(p_message.group_id::text), 12),
    E'\x01p' || left(md5(p_message.sender), 12), E'\x01k' || left(md5(p_message.kind), 12),
    E'\x01m' || left(md5(to_char(p_message.ts at time zone 'utc', 'YYYY-MM')), 12),
    E'\x01f' || (p_message.media_status is not null)
  ]) || to_tsvector(
    p_language, wa.plain_words(wa.search_text(p_message.text, p_message.file_name, p_message.content))
  );
end
$$;

-- Renews the entry of a message that says something else now; one whose content was removed loses it.
create or replace function wa.note_search_change() returns trigger
language plpgsql security invoker set search_path = '' as $$
begin
  if new.blanked then
    delete from public.message_search where session_id = new.session_id and message_id = new.id;
    return null;
  end if;
  insert into public.message_search (session_id, message_id, at, words)
  values (new.session_id, new.id, new.ts, wa.search_entry(wa.search_language(new.session_id), new))
  on conflict (session_id, message_id) do update set at = excluded.at, words = excluded.words;
  return null;
end
$$;

-- What is gone cannot be found. No foreign key: it would be checked for each new message.
create or replace function wa.note_search_end() returns trigger
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
create or replace function wa.name_words(p_name text, p_number text) returns tsvector
language plpgsql immutable parallel safe security invoker set search_path = '' as $$
begin
  return to_tsvector(
    'pg_catalog.simple'::regconfig, wa.plain_words(concat_ws(' ', p_name, split_part(p_number, '@', 1)))
  );
end
$$;

create index people_words on public.people using gin (wa.name_words(push_name, number)) with (fastupdate = false);

-- Makes the entries of the next `p_limit` messages, in their order. Beside the commits and not in them: entries cost as
-- much as all else of a message. Says whether there are more. Waits for nobody: while a commit or anybody else works on
-- the session or on one of the messages, it does nothing. A session's messages are committed in the order of their
-- numbers, so none appears behind `wa_sessions.search_done`.
create or replace function wa.search_fill(p_session text, p_limit integer) returns boolean
language plpgsql security invoker set search_path = '' as $$
declare
  v_done bigint;
  v_language regconfig := wa.search_language(p_session);
  v_ids bigint [];
  v_free integer;
begin
  select s.search_done into v_done
  from public.wa_sessions as s
  where s.id = p_session
  for no key update skip locked;
  if v_done is null then
    return false;
  end if;
  v_ids := array(
    select m.id from public.messages as m where m.id > v_done and m.session_id = p_session order by m.id limit p_limit
  );
  if v_ids = '{}' then
    return false;
  end if;
  select count(*) into v_free
  from (select 1 from public.messages as m where m.id = any(v_ids) order by m.id for share of m skip locked) as f;
  if v_free < cardinality(v_ids) then
    return false;
  end if;
  insert into public.message_search (session_id, message_id, at, words)
  select m.session_id, m.id, m.ts, wa.search_entry(v_language, m)
  from public.messages as m
  where m.id = any(v_ids) and not m.blanked
  on conflict (session_id, message_id) do update set at = excluded.at, words = excluded.words;
  update public.wa_sessions set search_done = v_ids[cardinality(v_ids)] where id = p_session;
  return cardinality(v_ids) = p_limit;
end
$$;

-- Sets the language of a session's search: the name of a text search configuration ('german'), or 'simple'. Entries are
-- made anew in it, the oldest first. Error: undefined_object, if there is none of that name.
create or replace function public.wa_set_search_language(p_session text, p_language text) returns jsonb
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

-- A word as a query, with all words that begin with it if `p_prefix`.
create or replace function wa.word_query(p_word text, p_prefix boolean) returns tsquery
language sql immutable security invoker set search_path = '' as $$
  select (
    '''' || replace(replace(p_word, '\', '\\'), '''', '''''') || '''' || case when p_prefix then ':*' else '' end
  )::tsquery
$$;

-- What was typed, for websearch_to_tsquery: folded words, quotes, minus signs in front of words. A phone number is one
-- word, as wa.plain_words has it.
create or replace function wa.typed_words(p_typed text) returns text
language plpgsql immutable security invoker set search_path = '' as $$
declare
  v_typed text := wa.fold(left(p_typed, 500));
  v_number text;
begin
  for v_number in
    select n[1] from regexp_matches(v_typed, '(\+\d[\d ()./-]*\d|\m0\d[\d ()./-]{4,20}\d)', 'g') as n
  loop
    v_typed := replace(v_typed, v_number, ' ' || regexp_replace(v_number, '\D', '', 'g'));
  end loop;
  v_typed := regexp_replace(v_typed, '(^|\s)-(?=[^\s-])', E'\\1\x01', 'g');
  v_typed := translate(v_typed, '"“”„«»', repeat(E'\x02', 6));
  v_typed := translate(v_typed, '!#$%&''()*+,-./:;<=>?@[\]^_`{|}~', repeat(' ', 31));
  return translate(v_typed, E'\x01\x02', '-"');
end
$$;

-- The query of what was typed: `query`, in which the last word stands for all that begin with it, unless a space or a
-- quote follows, and a word in somebody's name or number (50 people at most) also for all that they wrote; `words`, the
-- same without people, for the rank; `hits`, what is highlighted.
create or replace function wa.search_query(
  p_session text, p_language regconfig, p_typed text, out query tsquery, out words tsquery, out hits tsquery
)
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_typed text := wa.typed_words(p_typed);
  v_last text := substring(v_typed from '([^\s"-]+)$');
  v_row record;
  v_people tsquery;
begin
  words := websearch_to_tsquery(p_language, v_typed);
  query := words;
  for v_row in
    select
      l.lexeme, t.word, bool_and(t.unwanted) as unwanted, bool_or(t.word = v_last) as is_last
    from (
      select ltrim(w.word, '-') as word, w.word like '-%' as unwanted
      from string_to_table(regexp_replace(v_typed, '["\s]+', ' ', 'g'), ' ') as w (word)
      limit 16
    ) as t
    cross join lateral unnest(tsvector_to_array(to_tsvector(p_language, t.word))) as l (lexeme)
    group by l.lexeme, t.word
  loop
    v_people := (
      select string_agg('''' || wa.search_mark('p', p.sender) || '''', '|')
      from (
        select a.sender
        from public.people as a
        where a.session_id = p_session
          and wa.name_words(a.push_name, a.number) @@ wa.word_query(v_row.word, v_row.is_last)
        limit 50
      ) as p
    );
    words := ts_rewrite(
      words, wa.word_query(v_row.lexeme, false), wa.word_query(v_row.lexeme, v_row.is_last)
    );
    query := ts_rewrite(
      query, wa.word_query(v_row.lexeme, false),
      coalesce(wa.word_query(v_row.lexeme, v_row.is_last) || v_people, wa.word_query(v_row.lexeme, v_row.is_last))
    );
    if not v_row.unwanted then
      hits := coalesce(hits || wa.word_query(v_row.lexeme, v_row.is_last), wa.word_query(v_row.lexeme, v_row.is_last));
    end if;
  end loop;
end
$$;

-- A part of a text with its first hit, as plain text in pieces, so that nobody needs to escape or to count characters:
-- [{text, hit}]. Looks at the first 10,000 characters.
create or replace function wa.search_excerpt(p_language regconfig, p_hits tsquery, p_text text) returns jsonb
language sql stable security invoker set search_path = '' as $$
  with tokens as materialized (
    select
      t.place, t.parts[1] is not null as is_word, coalesce(t.parts[1], t.parts[2]) as text,
      count(t.parts[1]) over (order by t.place) as word_place
    from regexp_matches(
      left(p_text, 10000),
      '([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\s!-/:-@[-`{-~\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+)'
      '|([\s!-/:-@[-`{-~]+)', 'g'
    ) with ordinality as t (parts, place)
  ),

  folded as materialized (
    select f.place, to_tsvector(p_language, f.word) @@ p_hits as hit
    from string_to_table(
      wa.plain_words((select string_agg(t.text, E'\n' order by t.place) from tokens as t where t.is_word)), E'\n'
    ) with ordinality as f (word, place)
  ),

  judged as (
    select
      t.place, left(t.text, 240) as text, t.is_word and coalesce(f.hit, false) as hit,
      sum(length(t.text)) over (order by t.place) - length(t.text) as start
    from tokens as t
    left join folded as f on t.word_place = f.place
  ),

  shown as (
    select j.*, j.place - row_number() over (partition by j.hit order by j.place) as run
    from judged as j
    cross join (select coalesce(min(h.start) filter (where h.hit), 0) as first from judged as h) as b
    where j.start between b.first - 60 and b.first + 180
  )

  select coalesce(jsonb_agg(jsonb_build_object('text', r.text, 'hit', r.hit) order by r.place), '[]')
  from (
    select
      min(s.place) as place, s.hit,
      case when min(s.start) > 0 and min(s.place) = (select min(x.place) from shown as x) then '…' else '' end
      || string_agg(s.text, '' order by s.place)
      || case
        when max(s.place) = (select max(x.place) from shown as x) and max(s.place) < (select count(*) from tokens)
          then '…'
        else ''
      end as text
    from shown as s
    group by s.run, s.hit
  ) as r
$$;

-- The newest messages below `p_before` that the index has for a query. The planner must not look at each message
-- instead, whatever it thinks of the query.
create or replace function wa.search_index(
  p_session text, p_query tsquery, p_since timestamptz, p_until timestamptz, p_before bigint, p_limit integer
) returns bigint[]
language sql stable security invoker set search_path = '' set enable_seqscan = off as $$
  with found as materialized (
    select s.message_id, s.session_id, s.at from public.message_search as s where s.words @@ p_query
  )

  select array(
    select f.message_id
    from found as f
    where f.session_id = p_session and f.at >= p_since and f.at < p_until and f.message_id < p_before
    order by f.message_id desc
    limit p_limit
  )
$$;

-- The same. What is frequent stands among the newest messages and is found by looking at them: the index would have to
-- bring all of it.
create or replace function wa.search_newest(
  p_session text, p_query tsquery, p_since timestamptz, p_until timestamptz, p_before bigint, p_limit integer
) returns bigint[]
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_ids bigint [] := array(
    select n.message_id
    from (
      select s.message_id, s.at, s.words
      from public.message_search as s
      where s.session_id = p_session and s.message_id < p_before
      order by s.message_id desc
      limit 2000
    ) as n
    where n.words @@ p_query and n.at >= p_since and n.at < p_until
    order by n.message_id desc
    limit p_limit
  );
begin
  if cardinality(v_ids) < p_limit then
    return wa.search_index(p_session, p_query, p_since, p_until, p_before, p_limit);
  end if;
  return v_ids;
end
$$;

-- The marks that a message must have, null if there are none: `p_filter` is that of public.search_messages. Marks of
-- nearly all messages are left out, because the index reads all of them: of the only session, of many months.
create or replace function wa.search_marks(p_session text, p_filter jsonb) returns tsquery
language sql stable security invoker set search_path = '' as $$
  select string_agg('(' || m.any_of || ')', '&')::tsquery
  from (
    select '''' || wa.search_mark('s', p_session) || ''''
    where exists (select 1 from public.wa_sessions as o where o.id <> p_session)
    union all
    select E'''\x01f' || (p_filter ->> 'has_file') || '''' where jsonb_typeof(p_filter -> 'has_file') = 'boolean'
    union all
    select (
      select string_agg('''' || wa.search_mark(left(k.key, 1), v.value) || '''', '|')
      from jsonb_array_elements_text(p_filter -> k.key) as v (value)
    )
    from unnest(array['groups', 'people', 'kinds']) as k (key)
    where jsonb_typeof(p_filter -> k.key) = 'array' and p_filter -> k.key <> '[]'
    union all
    select string_agg('''' || wa.search_month(d.month at time zone 'utc') || '''', '|')
    from generate_series(
      date_trunc('month', (p_filter ->> 'since')::timestamptz at time zone 'utc'),
      coalesce((p_filter ->> 'until')::timestamptz, now()) at time zone 'utc', interval '1 month'
    ) as d (month)
    having count(*) between 1 and 6
  ) as m (any_of)
$$;

-- Messages of a session by what they say, the newest first or the best first. `p_query` is what a person typed: words
-- ("all of them"), "a phrase" in quotes, -without, one or other; the last word may be unfinished; null or '' is every
-- message. Case and accents do not count. Names and numbers of senders are found too.
--
-- `p_filter` {groups: [id], people: [sender], kinds: [kind], since, until, has_file}, each optional; `until` is not
-- included. `p_sort` is 'newest', or 'best' of the 200 newest hits. `p_limit` is 100 at most; `p_cursor` is the `next`
-- of the page before, and belongs to the same question.
--
-- {results: [{message_id, group_id, sender, name, from_me, at, kind, media_status, revoked_at, excerpt}], next}; `next`
-- is null on the last page. `excerpt` [{text, hit}] is plain text in pieces; a hit is what to highlight.
create or replace function public.search_messages(
  p_session text, p_query text, p_filter jsonb default '{}', p_sort text default 'newest',
  p_cursor text default null, p_limit integer default 20
) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_language regconfig := wa.search_language(p_session);
  v_since timestamptz := coalesce((p_filter ->> 'since')::timestamptz, '-infinity');
  v_until timestamptz := coalesce((p_filter ->> 'until')::timestamptz, 'infinity');
  v_limit integer := greatest(1, least(p_limit, 100));
  v_asked record;
  v_query tsquery;
  v_top bigint := 9223372036854775807;
  v_ids bigint [];
  v_ranks real [];
  v_next text;
begin
  select q.* into v_asked from wa.search_query(p_session, v_language, coalesce(p_query, '')) as q;
  if numnode(v_asked.query) = 0 and p_query ~ '\S' then
    return '{"results": [], "next": null}'::jsonb;
  end if;
  v_query := coalesce(v_asked.query && wa.search_marks(p_session, p_filter), v_asked.query);
  if numnode(v_query) = 0 then
    v_query := wa.word_query(wa.search_mark('s', p_session), false);
  end if;
  if p_sort = 'best' then
    v_top := coalesce(split_part(p_cursor, ' ', 3)::bigint, v_top);
    v_ids := wa.search_newest(p_session, v_query, v_since, v_until, v_top, 200);
    v_top := case when p_cursor is null then v_ids[1] + 1 else v_top end;
    select array_agg(r.message_id), array_agg(r.rank) into v_ids, v_ranks
    from (
      select k.message_id, k.rank
      from (
        select s.message_id, ts_rank(s.words, v_asked.words) as rank
        from public.message_search as s
        where s.session_id = p_session and s.message_id = any(v_ids)
      ) as k
      where p_cursor is null
        or (k.rank, k.message_id) < (split_part(p_cursor, ' ', 1)::real, split_part(p_cursor, ' ', 2)::bigint)
      order by k.rank desc, k.message_id desc
      limit v_limit + 1
    ) as r;
    v_next := concat_ws(' ', v_ranks[v_limit], v_ids[v_limit], v_top);
  else
    v_ids := wa.search_newest(p_session, v_query, v_since, v_until, coalesce(p_cursor::bigint, v_top), v_limit + 1);
    v_next := v_ids[v_limit]::text;
  end if;
  return jsonb_build_object(
    'results', (
      select coalesce(jsonb_agg(
        jsonb_build_object(
          'message_id', m.id, 'group_id', m.group_id, 'sender', m.sender, 'name', coalesce(p.push_name, m.push_name),
          'from_me', m.from_me, 'at', m.ts, 'kind', m.kind, 'media_status', m.media_status, 'revoked_at', m.revoked_at,
          'excerpt', wa.search_excerpt(v_language, v_asked.hits, wa.search_text(m.text, m.file_name, m.content))
        ) order by f.place
      ), '[]')
      from unnest(v_ids[:v_limit]) with ordinality as f (id, place)
      inner join public.messages as m on f.id = m.id and m.session_id = p_session
      left join public.people as p on m.session_id = p.session_id and m.sender = p.sender
    ),
    'next', case when cardinality(v_ids) > v_limit then v_next end
  );
end
$$;

create or replace function public.wa_prune(
  p_session text, p_stanza_seconds double precision, p_audit_seconds double precision
)
returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_stanzas integer;
  v_audits integer := 0;
  v_changes integer;
  v_secrets integer;
  v_error bigint;
  v_code text;
  v_reason text;
  v_unsearched boolean := wa.search_fill(p_session, 2000);
begin
  if exists (select 1 from public.wa_merges_due as d where d.session_id = p_session) then
    perform 1 from public.wa_sessions where id = p_session for no key update;
    for v_attempt in 1..3 loop
      begin
        perform wa.merge_step(p_session, 2000);
        v_code := null;
      exception
        when data_exception or integrity_constraint_violation or program_limit_exceeded then
          get stacked diagnostics v_code = returned_sqlstate, v_reason = message_text;
      end;
      exit when v_code is distinct from '23503';
    end loop;
    if v_code is not null then
      perform public.wa_audit(p_session, 'error', jsonb_build_object(
        'code', 'MERGE_REFUSED', 'msg', left(v_reason, 1000), 'ctx', jsonb_build_object('sqlstate', v_code)
      ));
      delete from public.wa_merges_due
      where id = (select min(d.id) from public.wa_merges_due as d where d.session_id = p_session);
    end if;
  end if;
  delete from public.decrypted_stanzas
  where session_id = p_session and hash = any(array(
    select d.hash
    from public.decrypted_stanzas as d
    where d.session_id = p_session and d.at < now() - make_interval(secs => p_stanza_seconds)
    order by d.at
    limit 10000
  ));
  get diagnostics v_stanzas = row_count;
  if p_audit_seconds is not null then
    select a.id into v_error
    from public.audit_log as a
    where a.session_id = p_session and a.event = 'error'
    order by a.at desc
    limit 1;
    delete from public.audit_log
    where id = any(array(
      select a.id
      from public.audit_log as a
      where a.session_id = p_session and a.at < now() - make_interval(secs => p_audit_seconds)
        and a.id is distinct from v_error
      order by a.at
      limit 10000
    ));
    get diagnostics v_audits = row_count;
  end if;
  with gone as (
    delete from public.wa_held_changes
    where id = any(array(
      select h.id
      from public.wa_held_changes as h
      where h.session_id = p_session and h.held_at < now() - interval '7 days'
        and not wa.is_listed(p_session, h.chat_id, h.target_sender, h.target_id)
        and not wa.is_listed(p_session, h.chat_id, h.author, h.change_id)
      order by h.held_at
      limit 10000
    ))
    returning kind
  ),

  counted as (
    select count(wa.count_discard(p_session, k.kind || '_unmatched', k.count))
    from (
      select g.kind, count(*) as count from gone as g where g.kind not in ('quote', 'album', 'rendition') group by g.kind
    ) as k
  )

  select count(*) into v_changes from gone as g cross join counted;
  delete from public.message_secrets
  where message_id = any(array(
    select s.message_id
    from public.message_secrets as s
    where s.session_id = p_session and s.at < now() - interval '7 days'
      and not exists (
        select 1 from public.messages as m where m.id = s.message_id and m.kind in ('poll', 'event')
      )
    order by s.message_id
    limit 10000
  ));
  get diagnostics v_secrets = row_count;
  return jsonb_build_object(
    'stanzas', v_stanzas, 'audits', v_audits, 'changes', v_changes, 'secrets', v_secrets,
    'more', v_unsearched or 10000 in (v_stanzas, v_audits, v_changes, v_secrets)
    or exists (select 1 from public.wa_merges_due as d where d.session_id = p_session)
  );
end
$$;

create or replace function public.wa_analyze() returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  analyze public.wa_session_keys, public.messages, public.media_jobs, public.media, public.decrypted_stanzas,
    public.audit_log, public.message_edits, public.message_reactions, public.message_search, public.message_secrets,
    public.wa_held_changes;
  return '{"done": true}'::jsonb;
end
$$;

create or replace function public.wa_host_poll(p_owner text, p_capacity integer, p_held jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
declare
  v_held record;
  v_row record;
  v_until timestamptz;
  v_due boolean;
  v_moves boolean;
  v_news jsonb;
  v_alive integer := 0;
  v_answer jsonb := '{}';
begin
  for v_held in
    select h.session, h.fence, h.monitored, h.media, h.epoch, h.complete_to
    from jsonb_to_recordset(p_held) as h (
      session text, fence bigint, monitored bigint, media integer, epoch bigint, complete_to timestamptz
    )
    order by h.session
  loop
    select
      s.fence, s.lease_owner, s.lease_expires_at, make_interval(secs => s.lease_seconds) as lease, s.epoch,
      s.complete_epoch, s.complete_to
    into v_row
    from public.wa_sessions as s where s.id = v_held.session;
    if v_row.fence is distinct from v_held.fence or v_row.lease_owner is distinct from p_owner then
      v_answer := jsonb_set(v_answer, '{lost}', coalesce(v_answer -> 'lost', '[]') || to_jsonb(v_held.session));
      continue;
    end if;
    v_alive := v_alive + 1;
    v_due := v_row.lease_expires_at <= clock_timestamp() + v_row.lease * 2 / 3;
    v_moves := v_held.epoch = v_row.epoch and v_held.complete_to is not null and (
      v_row.complete_epoch is distinct from v_row.epoch
      or v_held.complete_to > coalesce(v_row.complete_to, '-infinity') + v_row.lease / 3
    );
    if v_due or v_moves then
      update public.wa_sessions as s
      set lease_expires_at = clock_timestamp() + v_row.lease
      where s.id = (
        select f.id
        from public.wa_sessions as f
        where f.id = v_held.session and f.fence = v_held.fence and f.lease_owner = p_owner
        for no key update skip locked
      )
      returning s.lease_expires_at into v_until;
      if found and v_moves then
        perform wa.move_mark(v_held.session, v_held.epoch, v_held.complete_to);
      end if;
      if v_until is not null then
        v_answer := jsonb_set(
          v_answer, '{renewed}',
          coalesce(v_answer -> 'renewed', '{}') || jsonb_build_object(v_held.session, v_until)
        );
      elsif v_due then
        v_answer := jsonb_set(v_answer, '{busy}', coalesce(v_answer -> 'busy', '[]') || to_jsonb(v_held.session));
      end if;
    end if;
    perform wa.search_fill(v_held.session, 500);
    v_news := wa.news_of(v_held.session, v_held.monitored, v_held.media);
    if v_news <> '{}' then
      v_answer := jsonb_set(
        v_answer, '{news}', coalesce(v_answer -> 'news', '{}') || jsonb_build_object(v_held.session, v_news)
      );
    end if;
  end loop;
  return v_answer || jsonb_build_object('alive', v_alive);
end
$$;

alter table public.message_search enable row level security;
revoke all on public.message_search from anon, authenticated;
grant select, insert, update, delete on public.message_search to service_role;

revoke execute on function
wa.fold,
wa.plain_words,
wa.search_mark,
wa.search_month,
wa.search_language,
wa.search_text,
wa.search_entry,
wa.note_search_change,
wa.note_search_end,
wa.name_words,
wa.search_fill,
public.wa_set_search_language,
wa.word_query,
wa.typed_words,
wa.search_query,
wa.search_excerpt,
wa.search_index,
wa.search_newest,
wa.search_marks,
public.search_messages
from public, anon, authenticated;

grant execute on function
wa.fold,
wa.plain_words,
wa.search_mark,
wa.search_month,
wa.search_language,
wa.search_text,
wa.search_entry,
wa.note_search_change,
wa.note_search_end,
wa.name_words,
wa.search_fill,
public.wa_set_search_language,
wa.word_query,
wa.typed_words,
wa.search_query,
wa.search_excerpt,
wa.search_index,
wa.search_newest,
wa.search_marks,
public.search_messages
to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127023500')
$$;

notify pgrst, 'reload schema';
