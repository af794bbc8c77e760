"""What looks on while tickets are trained."""
