"""SQL, as functions on an open transaction: they never begin one and never commit."""
