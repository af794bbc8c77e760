"""Callbacks: they look on while tickets are searched for, and may end a training or move a mask."""
