-- All rights: row level security on every table and no policies, so that only the service role reads and writes; only
-- the service role executes functions and draws numbers from sequences.

revoke all on schema wa from public, anon, authenticated;
grant usage on schema wa to service_role;

alter table public.wa_sessions enable row level security;
alter table public.wa_session_keys enable row level security;
alter table public.audit_log enable row level security;
alter table public.runtime_flags enable row level security;
alter table public.groups enable row level security;
alter table public.media enable row level security;
alter table public.media_verified enable row level security;
alter table public.wa_media_doomed enable row level security;
alter table public.messages enable row level security;
alter table public.message_secrets enable row level security;
alter table public.media_jobs enable row level security;
alter table public.wa_media_abandoned enable row level security;
alter table public.message_edits enable row level security;
alter table public.message_reactions enable row level security;
alter table public.wa_held_changes enable row level security;
alter table public.wa_identities enable row level security;
alter table public.wa_numbers_moved enable row level security;
alter table public.wa_merges_due enable row level security;
alter table public.decrypted_stanzas enable row level security;
alter table public.wa_refused_stanzas enable row level security;
alter table public.wa_discards enable row level security;
alter table public.wa_commit_pieces enable row level security;

revoke all on
public.wa_sessions, public.wa_session_keys, public.audit_log, public.runtime_flags, public.groups, public.media,
public.media_verified, public.wa_media_doomed, public.messages, public.message_secrets, public.media_jobs,
public.wa_media_abandoned, public.message_edits, public.message_reactions, public.wa_held_changes,
public.wa_identities, public.wa_numbers_moved, public.wa_merges_due, public.decrypted_stanzas,
public.wa_refused_stanzas, public.wa_discards, public.wa_commit_pieces
from anon, authenticated;

grant select, insert, update, delete on
public.wa_sessions, public.wa_session_keys, public.audit_log, public.runtime_flags, public.groups, public.media,
public.media_verified, public.wa_media_doomed, public.messages, public.message_secrets, public.media_jobs,
public.wa_media_abandoned, public.message_edits, public.message_reactions, public.wa_held_changes,
public.wa_identities, public.wa_numbers_moved, public.wa_merges_due, public.decrypted_stanzas,
public.wa_refused_stanzas, public.wa_discards, public.wa_commit_pieces
to service_role;

revoke all on public.poll_votes from anon, authenticated;
grant select on public.poll_votes to service_role;

revoke all on sequence
public.audit_log_id_seq, public.groups_id_seq, public.media_id_seq, public.media_jobs_id_seq,
public.message_edits_id_seq, public.messages_content_order, public.messages_id_seq, public.wa_held_changes_id_seq,
public.wa_merges_due_id_seq, public.wa_refused_stanzas_id_seq
from anon, authenticated;
grant usage on sequence public.messages_content_order to service_role;

revoke execute on function
public.keys_json, public.wa_analyze, public.wa_audit, public.wa_begin_epoch, public.wa_commit,
public.wa_commit_part, public.wa_commit_pieces, public.wa_delete_messages, public.wa_due_refused,
public.wa_export_messages, public.wa_export_size, public.wa_figures, public.wa_flag_handled, public.wa_flag_state,
public.wa_get_identities, public.wa_get_keys, public.wa_known_stanzas, public.wa_lease_acquire,
public.wa_lease_release, public.wa_list_groups, public.wa_list_media_to_delete, public.wa_list_refused,
public.wa_load_state, public.wa_mark_lost, public.wa_mark_media_deleted, public.wa_media_abandon,
public.wa_media_ask_phone, public.wa_media_claim, public.wa_media_done, public.wa_media_known,
public.wa_media_renew, public.wa_media_requeue, public.wa_media_retry, public.wa_monitored_groups,
public.wa_open_edits, public.wa_pairing_view, public.wa_pending_flags, public.wa_prune, public.wa_put_piece,
public.wa_raise_flag, public.wa_refused_body, public.wa_retention, public.wa_retry_refused,
public.wa_schema_version, public.wa_sealed_edits, public.wa_set_monitor, public.wa_set_session, public.wa_status,
public.wa_tail, public.wa_upsert_groups, public.wa_whoami, public.wa_wipe_credentials, wa.add_counts,
wa.apply_change, wa.apply_edit, wa.apply_reaction, wa.apply_revoke, wa.are_two_people, wa.begin_batch,
wa.begin_part, wa.blank_message, wa.claim_revoke, wa.count_discard, wa.count_messages, wa.holds_stub, wa.is_late,
wa.is_listed,
wa.link_parents, wa.lock_job, wa.lock_message_of_job, wa.lock_session, wa.may_revoke, wa.merge_cost,
wa.merge_identity, wa.merge_identity_with_retries, wa.merge_messages, wa.merge_step, wa.message_row,
wa.note_moved_numbers, wa.note_refusal, wa.parse_time, wa.replace_content, wa.retry_changes, wa.store_messages,
wa.store_messages_or_refuse, wa.take_back, wa.take_change, wa.take_changes, wa.take_items, wa.take_opaque,
wa.write_admins, wa.write_audits, wa.write_groups, wa.write_hashes_and_discards, wa.write_identities, wa.write_keys,
wa.write_refused, wa.complete_content
from public, anon, authenticated;

grant execute on function
public.keys_json, public.wa_analyze, public.wa_audit, public.wa_begin_epoch, public.wa_commit,
public.wa_commit_part, public.wa_commit_pieces, public.wa_delete_messages, public.wa_due_refused,
public.wa_export_messages, public.wa_export_size, public.wa_figures, public.wa_flag_handled, public.wa_flag_state,
public.wa_get_identities, public.wa_get_keys, public.wa_known_stanzas, public.wa_lease_acquire,
public.wa_lease_release, public.wa_list_groups, public.wa_list_media_to_delete, public.wa_list_refused,
public.wa_load_state, public.wa_mark_lost, public.wa_mark_media_deleted, public.wa_media_abandon,
public.wa_media_ask_phone, public.wa_media_claim, public.wa_media_done, public.wa_media_known,
public.wa_media_renew, public.wa_media_requeue, public.wa_media_retry, public.wa_monitored_groups,
public.wa_open_edits, public.wa_pairing_view, public.wa_pending_flags, public.wa_prune, public.wa_put_piece,
public.wa_raise_flag, public.wa_refused_body, public.wa_retention, public.wa_retry_refused,
public.wa_schema_version, public.wa_sealed_edits, public.wa_set_monitor, public.wa_set_session, public.wa_status,
public.wa_tail, public.wa_upsert_groups, public.wa_whoami, public.wa_wipe_credentials, wa.add_counts,
wa.apply_change, wa.apply_edit, wa.apply_reaction, wa.apply_revoke, wa.are_two_people, wa.begin_batch,
wa.begin_part, wa.blank_message, wa.claim_revoke, wa.count_discard, wa.count_messages, wa.holds_stub, wa.is_late,
wa.is_listed,
wa.link_parents, wa.lock_job, wa.lock_message_of_job, wa.lock_session, wa.may_revoke, wa.merge_cost,
wa.merge_identity, wa.merge_identity_with_retries, wa.merge_messages, wa.merge_step, wa.message_row,
wa.note_moved_numbers, wa.note_refusal, wa.parse_time, wa.replace_content, wa.retry_changes, wa.store_messages,
wa.store_messages_or_refuse, wa.take_back, wa.take_change, wa.take_changes, wa.take_items, wa.take_opaque,
wa.write_admins, wa.write_audits, wa.write_groups, wa.write_hashes_and_discards, wa.write_identities, wa.write_keys,
wa.write_refused, wa.complete_content
to service_role;
