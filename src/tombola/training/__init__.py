"""Algorithm 1 (`search`) and Algorithm 2 (`joint`) of RTL, and the trainer under both."""
