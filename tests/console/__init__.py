"""The web console over HTTP, on the embedded Supabase."""
