"""Use cases: each takes one command and opens the transactions it needs. Whoever waits here waits with an end."""
