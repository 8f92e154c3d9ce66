"""What a guidance method declares: one torch-free spec per method, and the catalog that lists them."""
