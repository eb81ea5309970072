-- Indexes for what apps ask for (docs/app-queries.md): pages of a group, of the session, of a person; pictures.

drop index public.messages_group_ts;

create index messages_group_ts on public.messages (group_id, ts, id);

create index messages_session_ts on public.messages (session_id, ts, id);

create index messages_sender_ts on public.messages (session_id, sender, ts, id);

create index messages_gallery on public.messages (group_id, kind, ts, id) where media_id is not null;

create or replace function public.wa_schema_version() returns jsonb
language sql immutable security invoker set search_path = '' as $$
  select jsonb_build_object('version', '20261126213400')
$$;

notify pgrst, 'reload schema';
