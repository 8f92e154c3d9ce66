"""Policy documents: the model, the strict loader, the rules, and what is generated from them."""
