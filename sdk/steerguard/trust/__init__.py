"""Who may publish, vet and revoke what, and the judgement of artifacts by it."""
