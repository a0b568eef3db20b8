"""The head of the paper: psi gives every pair an increment."""
