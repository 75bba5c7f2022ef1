"""Use cases. Each takes one command and opens the transactions that it needs. Every wait here has a deadline."""
