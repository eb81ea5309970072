-- The tables of bench/naive: what the benchmark compares with, no part of the product.

create table public.naive_messages (
  id text primary key,
  chat text not null,
  sender text,
  push_name text,
  ts timestamptz not null,
  text text,
  raw jsonb not null
);

create table public.naive_keys (
  name text primary key,
  value jsonb not null
);

alter table public.naive_messages enable row level security;
alter table public.naive_keys enable row level security;

grant select, insert, update, delete on public.naive_messages, public.naive_keys to service_role;
