"""Value functions of answers: cost models, critics, and what reads them from states or texts."""
