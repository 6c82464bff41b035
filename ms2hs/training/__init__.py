"""Training of the prior and the networks."""
