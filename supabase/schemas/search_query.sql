-- The search of messages: see search.sql for what it looks into.

-- A word as a query, with all words that begin with it if `p_prefix`.
create function wa.word_query(p_word text, p_prefix boolean) returns tsquery
language sql immutable security invoker set search_path = '' as $$
  select (
    '''' || replace(replace(p_word, '\', '\\'), '''', '''''') || '''' || case when p_prefix then ':*' else '' end
  )::tsquery
$$;

-- Typed text, for websearch_to_tsquery: folded words, quotes, minus signs in front of words. A phone number is one
-- word, as wa.plain_words has it.
create function wa.typed_words(p_typed text) returns text
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

-- The query for typed text: `query`, in which the last word matches all that start with it, unless a space or a quote
-- follows, and a word in somebody's name or number (at most 50 people) also matches all that they wrote; `words`, the
-- same without people, for the rank; `hits`, what is highlighted.
create function wa.search_query(
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
-- [{text, hit}]. Looks for the hit in the first 10,000 characters, in parts of 500 that end at a space if they have
-- one, and splits only what is around that part into pieces: pieces cost ten times as much.
create function wa.search_excerpt(p_language regconfig, p_hits tsquery, p_text text) returns jsonb
language plpgsql stable security invoker set search_path = '' as $$
declare
  v_text text := left(p_text, 10000);
  v_before integer := 0;
  v_start integer := 0;
  v_part text;
begin
  while p_hits is not null loop
    v_part := substr(v_text, v_start + 1, 500);
    v_part := coalesce(substring(v_part from '^.*\s'), v_part);
    exit when to_tsvector(p_language, wa.plain_words(v_part)) @@ p_hits;
    v_before := v_start;
    v_start := v_start + length(v_part);
    if v_part = '' then
      v_before := 0;
      v_start := 0;
      exit;
    end if;
  end loop;
  v_text := substr(v_text, v_before + 1, v_start - v_before + 800);
  return (
    with tokens as materialized (
      select
        t.place, t.parts[1] is not null as is_word, coalesce(t.parts[1], t.parts[2]) as text,
        count(t.parts[1]) over (order by t.place) as word_place
      from regexp_matches(
        v_text,
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
        case when v_before + min(s.start) > 0 and min(s.place) = (select min(x.place) from shown as x) then '…' else '' end
        || string_agg(s.text, '' order by s.place)
        || case
          when max(s.place) = (select max(x.place) from shown as x) and max(s.place) < (select count(*) from tokens)
            then '…'
          else ''
        end as text
      from shown as s
      group by s.run, s.hit
    ) as r
  );
end
$$;

-- The newest messages below `p_before` that the index has for a query. The planner must not check each message instead,
-- whatever its estimate.
create function wa.search_index(
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

-- The same. A frequent word is found by reading the newest messages: the index would have to return all of its
-- messages.
create function wa.search_newest(
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
-- nearly all messages are left out, because the index would read all of them: of the only session, of many months.
-- Months are used only if 190 days hold them all: a series to or from 'infinity' has no end.
create function wa.search_marks(p_session text, p_filter jsonb) returns tsquery
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
    from (
      select
        (p_filter ->> 'since')::timestamptz at time zone 'utc' as since,
        coalesce((p_filter ->> 'until')::timestamptz, now()) at time zone 'utc' as until
    ) as r
    cross join lateral generate_series(
      case
        when isfinite(r.since) and isfinite(r.until)
          and extract(epoch from r.until) - extract(epoch from r.since) < 190 * 86400
          then date_trunc('month', r.since)
      end,
      r.until, interval '1 month'
    ) as d (month)
    having count(*) between 1 and 6
  ) as m (any_of)
$$;

-- Messages of a session by their content, the newest first or the best first. `p_query` is what a person typed: words
-- ("all of them"), "a phrase" in quotes, -without, one or other; the last word may be unfinished; null or '' is every
-- message. Case and accents do not count. Names and numbers of senders are found too.
--
-- `p_filter` {groups: [id], people: [sender], kinds: [kind], since, until, has_file}, each optional; `until` is
-- exclusive. `p_sort` is 'newest', or 'best' of the 200 newest hits. `p_limit` is at most 100; `p_cursor` is the `next`
-- of the page before, and belongs to the same query.
--
-- {results: [{message_id, group_id, sender, name, from_me, at, kind, media_status, revoked_at, excerpt}], next}; `next`
-- is null on the last page. `excerpt` [{text, hit}] is plain text in pieces; a hit is what to highlight.
create function public.search_messages(
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
