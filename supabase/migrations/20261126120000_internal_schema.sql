-- Functions that only other functions call move to a schema that the Data API does not expose; some get plainer names.
--
-- Bodies are text, so each call in them is renamed too. Rights and settings (enable_seqscan) stay with their functions.

set check_function_bodies = off;

create schema wa;
revoke all on schema wa from public, anon, authenticated;
grant usage on schema wa to service_role;

-- Its identities had become an argument that is always null.
drop function public.wa_write_extras;

-- Ciphertext hashes ([hex]) and discards ({reason: count}) of a batch.
create function public.wa_write_extras(p_session text, p_hashes jsonb, p_discards jsonb) returns void
language sql volatile security invoker set search_path = '' as $$
  insert into public.decrypted_stanzas (session_id, hash)
  select p_session, decode(h, 'hex')
  from jsonb_array_elements_text(coalesce(nullif(p_hashes, 'null'), '[]')) as h
  where h ~ '^[0-9a-f]{64}$'
  on conflict do nothing;

  insert into public.wa_discards (session_id, reason, count)
  select p_session, left(d.key, 64), sum(d.value::bigint)
  from jsonb_each_text(coalesce(nullif(p_discards, 'null'), '{}')) as d
  where d.value ~ '^[0-9]{1,18}$'
  group by left(d.key, 64)
  on conflict (session_id, reason) do update
  set count = public.wa_discards.count + excluded.count, last_at = now();
$$;

revoke execute on function public.wa_write_extras from public, anon, authenticated;
grant execute on function public.wa_write_extras to service_role;

do $move$
declare
  v_moved constant jsonb := '{
    "wa_lock_session": "lock_session",
    "wa_write_keys": "write_keys",
    "wa_write_audits": "write_audits",
    "wa_parse_time": "parse_time",
    "wa_write_groups": "write_groups",
    "wa_link_parents": "link_parents",
    "wa_store_messages": "store_messages",
    "wa_store_messages_or_refuse": "store_messages_or_refuse",
    "wa_write_refused": "write_refused",
    "wa_write_extras": "write_hashes_and_discards",
    "wa_count_discard": "count_discard",
    "wa_lock_job": "lock_job",
    "wa_lock_message_of": "lock_message_of_job",
    "wa_apply_edit": "apply_edit",
    "wa_blank_message": "blank_message",
    "wa_apply_revoke": "apply_revoke",
    "wa_apply_reaction": "apply_reaction",
    "wa_apply_change": "apply_change",
    "wa_take_change": "take_change",
    "wa_take_changes": "take_changes",
    "wa_retry_changes": "retry_changes",
    "wa_collapse_messages": "merge_messages",
    "wa_merge_identity": "merge_identity",
    "wa_merge_or_again": "merge_identity_with_retries",
    "wa_merge_cost": "merge_cost",
    "wa_merge_step": "merge_step",
    "wa_write_identities": "write_identities",
    "wa_count_messages": "count_messages"
  }';
  v_renamed constant jsonb := '{
    "wa_doom_media": "wa_list_media_to_delete",
    "wa_objects_deleted": "wa_mark_media_deleted"
  }';
  v_function record;
  v_name record;
  v_body text;
begin
  for v_function in
    select pg_get_functiondef(p.oid) as definition
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'public'::regnamespace and p.proname like 'wa\_%'
  loop
    v_body := substr(v_function.definition, strpos(v_function.definition, 'AS $function$'));
    v_body := replace(v_body, 'public.wa_write_extras(p_session, null, ', 'public.wa_write_extras(p_session, ');
    for v_name in
      select old.key, 'wa.' || old.value as called from jsonb_each_text(v_moved) as old
      union all
      select old.key, 'public.' || old.value from jsonb_each_text(v_renamed) as old
    loop
      v_body := regexp_replace(v_body, 'public\.' || v_name.key || '\M', v_name.called, 'g');
    end loop;
    execute left(v_function.definition, strpos(v_function.definition, 'AS $function$') - 1) || v_body;
  end loop;

  for v_name in select old.key, old.value from jsonb_each_text(v_moved) as old loop
    execute format('alter function public.%I set schema wa', v_name.key);
    execute format('alter function wa.%I rename to %I', v_name.key, v_name.value);
  end loop;
  for v_name in select old.key, old.value from jsonb_each_text(v_renamed) as old loop
    execute format('alter function public.%I rename to %I', v_name.key, v_name.value);
  end loop;
end
$move$;

-- The newest migration that this worker needs. Each later migration replaces it.
create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126120000')
$$;

notify pgrst, 'reload schema';
