"""Vetting: static checks, the fingerprint and an evaluation suite with bars, as a statement that the vetter signs."""
