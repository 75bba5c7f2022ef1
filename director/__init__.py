"""The director: the durable control plane of federated learning."""
