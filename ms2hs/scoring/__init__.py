"""How good methods are: what is compared, sums over pixels, where each stands, what is shown of it."""
