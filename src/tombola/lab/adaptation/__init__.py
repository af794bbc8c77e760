"""One pretrained network for K tasks: tickets of its change beside adapters, fine-tunes and merging."""
