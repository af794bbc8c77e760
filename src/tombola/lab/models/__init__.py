"""Backbones of the experiments: plain ``nn.Module`` classes that know nothing of tickets."""
