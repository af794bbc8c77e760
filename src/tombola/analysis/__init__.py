"""What can be known before tickets are searched: whether contexts agree, and what is worth to be trained."""
