"""The paper's head, which gives every pair an increment by psi."""
