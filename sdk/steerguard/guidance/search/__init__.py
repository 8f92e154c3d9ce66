"""Search guidance: loops over a proposer that choose among candidate continuations by what they cost."""
