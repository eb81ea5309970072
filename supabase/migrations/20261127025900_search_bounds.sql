-- What a text costs the search has a bound; a fill of the search keeps what 200 ms were enough for, and passes others'
-- messages by; times without an end are filters like others; a merge of people folds no text again.

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
    normalize(v_text, nfkd),
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
  return left(regexp_replace(v_text, '[!-/:-@[-`{-~]+', ' ', 'g') || v_numbers, 50000);
end
$$;

create or replace function wa.entry_marks(p_message public.messages) returns text[]
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

create or replace function wa.search_entry(p_language regconfig, p_message public.messages) returns tsvector
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

create or replace function wa.note_search_change() returns trigger
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

create or replace function wa.search_fill(p_session text, p_limit integer) returns boolean
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

revoke all on function wa.entry_marks from public, anon, authenticated;
grant execute on function wa.entry_marks to service_role;

-- Its words are those of wa.fold.
reindex index public.people_words;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127025900')
$$;

notify pgrst, 'reload schema';
