-- The newest messages of all groups of a session are read in order of arrival. Without this index, the planner walks
-- the primary key, past all messages of busier sessions. Statistics follow the tables now: an embedded database that
-- had grown within hours was read with plans for an empty one.

create index messages_session_id on public.messages (session_id, id);

create or replace function public.wa_analyze() returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_table record;
  v_analyzed text[] := '{}';
begin
  for v_table in
    select
      c.oid,
      c.relname
    from pg_catalog.pg_stat_user_tables as s
    join pg_catalog.pg_class as c on c.oid = s.relid
    where s.schemaname in ('public', 'wa')
      and (
        s.n_mod_since_analyze > 50 + 0.2 * greatest(c.reltuples, 0)
        -- A restart forgets the count of changes; the size remains.
        or pg_catalog.pg_relation_size(c.oid) > 65536 + 1.2 * 8192 * c.relpages
      )
    order by c.relname
  loop
    execute format('analyze %s', v_table.oid::pg_catalog.regclass);
    v_analyzed := v_analyzed || v_table.relname::text;
  end loop;
  return jsonb_build_object('done', true, 'analyzed', v_analyzed);
end
$$;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127190000')
$$;

notify pgrst, 'reload schema';
