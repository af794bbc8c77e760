"""Tasks that arrive one by one: rivals as compositions, and what each of them keeps and forgets."""
