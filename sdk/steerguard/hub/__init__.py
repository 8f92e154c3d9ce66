"""Registries on the Hugging Face Hub: read, pull, publish, revoke, synchronise.

`client` alone talks to the Hub, and it alone imports `huggingface_hub`: import it where a client is made. What comes from
there is untrusted bytes: digests and signatures decide, never a tag, a branch or a size.
"""
