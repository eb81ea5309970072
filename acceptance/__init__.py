"""`python -m acceptance`: the contract's acceptance list with a real phone, step by step, a verdict for each line."""
