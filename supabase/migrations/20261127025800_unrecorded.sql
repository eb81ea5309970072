-- Coverage: what a worker from before the ledger commits is not recorded, during an update or when one goes back to
-- it.

set check_function_bodies = off;

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
  if p_batch ? 'dropped' then
    perform wa.write_dropped(p_session, p_batch -> 'dropped');
  else
    perform wa.note_unrecorded(p_session);
  end if;
  perform wa.write_audits(p_session, p_batch -> 'audits');
  delete from public.wa_commit_pieces where session_id = p_session;
  return '{"changed": 0, "held": 0}'::jsonb || v_counts
    || jsonb_build_object('seq', v_seq::text, 'duplicate', false, 'sealed', v_sealed);
end
$$;

create function wa.note_unrecorded(p_session text) returns void
language plpgsql security invoker set search_path = '' as $$
declare
  v_mark timestamptz;
begin
  select coalesce(s.complete_to, '-infinity') into v_mark from public.wa_sessions as s where s.id = p_session;
  update public.coverage_gaps
  set to_at = greatest(to_at, now())
  where session_id = p_session and chat_id is null and reason = 'not_recorded' and to_at >= v_mark;
  if not found then
    insert into public.coverage_gaps (session_id, reason, from_at, to_at)
    values (p_session, 'not_recorded', v_mark, greatest(v_mark, now()));
  end if;
end
$$;

revoke execute on function wa.note_unrecorded from public, anon, authenticated;

grant execute on function wa.note_unrecorded to service_role;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261127025800')
$$;

notify pgrst, 'reload schema';
