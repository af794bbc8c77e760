"""What every floor uses: errors, devices, random generators, files, and the C kernels."""
