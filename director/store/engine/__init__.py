"""What a store stands on: connections, transactions and what differs between SQLite and PostgreSQL."""
