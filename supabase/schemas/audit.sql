-- The audit log.

create table public.audit_log (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  session_id text not null default 'default',
  event text not null,
  payload jsonb not null default '{}'
);

create index audit_log_session_at on public.audit_log (session_id, at);

-- The newest entries of one event, however long ago.
create index audit_log_event on public.audit_log (session_id, event, at);

-- What one person did in the console.
create index audit_log_who on public.audit_log (session_id, (payload ->> 'who'), at) where event = 'console';

-- Appends audit entries: a JSON array of {event, payload}.
create function wa.write_audits(p_session text, p_audits jsonb) returns void
language plpgsql security invoker set search_path = '' as $$
begin
  if coalesce(p_audits in ('[]', 'null'), true) then
    return;
  end if;
  insert into public.audit_log (session_id, event, payload)
  select p_session, left(coalesce(a ->> 'event', 'error'), 64), coalesce(nullif(a -> 'payload', 'null'), '{}')
  from jsonb_array_elements(p_audits) with ordinality as t (a, ord)
  order by t.ord;
end
$$;

create function public.wa_audit(p_session text, p_event text, p_payload jsonb) returns jsonb
language plpgsql security invoker set search_path = '' as $$
begin
  perform wa.write_audits(
    p_session, jsonb_build_array(jsonb_build_object('event', p_event, 'payload', p_payload))
  );
  return '{"done": true}'::jsonb;
end
$$;
