"""Tools of every floor: errors, devices, random generators, files, and the C kernels."""
