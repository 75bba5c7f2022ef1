"""gRPC: everything that crosses the wire, on the director's side and on the callers'."""
