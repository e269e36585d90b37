"""log p(x) itself, where the latents are few or finitely many."""
