-- An excerpt takes only what is around its hit to pieces; what grows when it is folded has a bound.

set check_function_bodies = off;

create or replace function wa.fold(p_text text) returns text
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

create or replace function wa.plain_words(p_text text) returns text
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

create or replace function wa.search_excerpt(p_language regconfig, p_hits tsquery, p_text text) returns jsonb
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

-- Its words are those of wa.fold.
reindex index public.people_words;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127030600')
$$;

notify pgrst, 'reload schema';
