"""From a policy, a model's facts and manifests to a plan: what will happen, checked before the first token."""
