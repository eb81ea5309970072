-- What was discarded undecrypted is counted once, though it comes again after a kill.

set check_function_bodies = off;

create or replace function wa.new_discards(p_session text, p_discards jsonb, p_unread jsonb) returns jsonb
language sql volatile security invoker set search_path = '' as $$
  with named as (
    select u.key as reason, decode(h, 'hex') as hash
    from jsonb_each(coalesce(nullif(p_unread, 'null'), '{}')) as u
    cross join jsonb_array_elements_text(u.value) as h
    where h ~ '^[0-9a-f]{64}$'
  ),

  fresh as (
    insert into public.decrypted_stanzas (session_id, hash)
    select distinct p_session, n.hash from named as n
    on conflict do nothing
    returning hash
  ),

  repeated as (
    select n.reason, count(*) - count(distinct f.hash) as count
    from named as n
    left join fresh as f on n.hash = f.hash
    group by n.reason
  )

  select coalesce(jsonb_object_agg(d.key, d.value::bigint - coalesce(r.count, 0)), '{}')
  from jsonb_each_text(coalesce(nullif(p_discards, 'null'), '{}')) as d
  left join repeated as r on d.key = r.reason
  where d.value ~ '^[0-9]{1,18}$'
$$;

create or replace function wa.write_hashes_and_discards(p_session text, p_hashes jsonb, p_discards jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_hashes bytea [];
begin
  if p_hashes not in ('[]', 'null') then
    v_hashes := array(select decode(h, 'hex') from jsonb_array_elements_text(p_hashes) as h where h ~ '^[0-9a-f]{64}$');
    insert into public.decrypted_stanzas (session_id, hash)
    select p_session, h from unnest(v_hashes) as h
    on conflict do nothing;
    delete from public.wa_suspects where session_id = p_session and hash = any(v_hashes);
  end if;
  if p_discards not in ('{}', 'null') then
    insert into public.wa_discards (session_id, reason, count)
    select p_session, left(d.key, 64), sum(d.value::bigint)
    from jsonb_each_text(p_discards) as d
    where d.value ~ '^[0-9]{1,18}$' and d.value::bigint > 0
    group by left(d.key, 64)
    on conflict (session_id, reason) do update
    set count = public.wa_discards.count + excluded.count, last_at = now();
  end if;
end
$$;

create or replace function public.wa_commit(p_session text, p_batch jsonb) returns jsonb
language plpgsql security invoker set search_path = '' set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_seq bigint := (p_batch ->> 'seq')::bigint;
  v_counts jsonb;
  v_sealed integer := 0;
begin
  if wa.begin_batch(p_session, p_batch) then
    return jsonb_build_object('seq', v_seq::text, 'duplicate', true);
  end if;

  perform wa.write_keys(p_session, p_batch -> 'keys');
  update public.wa_sessions
  set
    seq = v_seq, batch = concat_ws(' ', v_seq, p_batch ->> 'digest'),
    creds_json = coalesce(p_batch ->> 'creds', creds_json),
    lease_expires_at = wa.renewed_lease(lease_owner, lease_expires_at, lease_seconds)
  where id = p_session;
  perform wa.write_identities(p_session, coalesce(nullif(p_batch -> 'identities', 'null'), '[]'));
  perform wa.write_hashes_and_discards(
    p_session, p_batch -> 'hashes',
    case
      when p_batch -> 'unread' <> '{}' then wa.new_discards(p_session, p_batch -> 'discards', p_batch -> 'unread')
      else p_batch -> 'discards'
    end
  );
  if p_batch -> 'groups' not in ('[]', 'null') then
    perform wa.write_groups(p_session, p_batch -> 'groups');
  end if;

  perform wa.write_refused(p_session, p_batch -> 'refused');
  v_counts := wa.take_items(
    p_session, coalesce(nullif(p_batch -> 'messages', 'null'), '[]'),
    coalesce(nullif(p_batch -> 'changes', 'null'), '[]')
  );
  if exists (
    select 1 from public.wa_held_changes as h
    where h.session_id = p_session and h.kind = 'sealed_edit' and not h.unreadable
  ) then
    v_sealed := cardinality(wa.openable_edits(p_session, 1));
  end if;
  perform wa.write_dropped(p_session, p_batch -> 'dropped');
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

revoke execute on function wa.new_discards from public, anon, authenticated;

grant execute on function wa.new_discards to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127020500')
$$;

notify pgrst, 'reload schema';
